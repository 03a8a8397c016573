//! Comparisons, counts and gates from outside.

#![allow(missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use predicates::prelude::*;
use serde_json::Value;

const CASES: &str = r#"
[[case]]
arch = "gru"
batch = 1
seq_len = 4
hidden = 8

[[case]]
arch = "mha"
mode = "infer"
batch = 1
seq_len = 4
hidden = 8
heads = 2
"#;

fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.env("NO_COLOR", "1");
    command
}

/// A program that answers every benchmark with this text.
fn program(dir: &Path, name: &str, answer: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{answer}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn cases(dir: &Path) -> PathBuf {
    let path = dir.join("cases.toml");
    std::fs::write(&path, CASES).unwrap();
    path
}

fn schema() -> jsonschema::Validator {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas/bench-ab.schema.json");
    let text = std::fs::read_to_string(path).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

#[test]
fn a_program_is_not_slower_than_itself() {
    let dir = tempfile::tempdir().unwrap();
    let this = cargo_bin("unroll");
    let file = |name: &str| dir.path().join(name);
    let output = unroll()
        .args(["bench", "ab"])
        .args([&this, &this])
        .args(["--blocks", "3", "--rounds", "1", "--seconds", "0.001", "--json", "--cases"])
        .arg(cases(dir.path()))
        .arg("--markdown")
        .arg(file("comment.md"))
        .arg("--bmf")
        .arg(file("bmf.json"))
        .arg("--github-benchmark")
        .arg(file("benchmark.json"))
        .arg("--out")
        .arg(file("verdict.json"))
        .assert()
        .code(predicate::in_iter([0, 4]));
    let verdict: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let errors: Vec<String> = schema().iter_errors(&verdict).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("verdict.json")).unwrap(), verdict);
    assert_eq!(verdict["cases"][0]["times"].as_array().unwrap().len(), 3);
    for id in ["train/gru/B1-T4-H8", "infer/mha/B1-T4-H8"] {
        assert!(read("comment.md").contains(id));
        let bmf: Value = serde_json::from_str(&read("bmf.json")).unwrap();
        assert!(bmf[id]["latency"]["value"].as_f64().unwrap() > 0.0);
        let benchmark: Value = serde_json::from_str(&read("benchmark.json")).unwrap();
        let entries = benchmark.as_array().unwrap();
        assert!(entries.iter().any(|e| e["name"] == id && e["unit"] == "ms"));
    }
}

/// Programs that say what they took: verdict and exit code follow from the numbers.
#[test]
fn verdicts_become_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let base = program(dir.path(), "base", r#"echo '{"min_s": 0.001, "median_s": 0.002}'"#);
    for (name, seconds, median, options, code, word) in [
        ("same", "0.001", "0.002", &[][..], 0, "same"),
        ("slower", "0.0011", "0.002", &[], 3, "slower"),
        ("faster", "0.0009", "0.002", &[], 0, "faster"),
        // The fastest iteration is as fast, the median is not.
        ("median", "0.001", "0.003", &["--median"], 3, "slower"),
        // 10 % is no news when 20 % is asked for.
        (
            "tolerated",
            "0.0011",
            "0.002",
            &["--least-effect", "20", "--same-within", "20"],
            0,
            "same",
        ),
    ] {
        let answer = format!(r#"echo '{{"min_s": {seconds}, "median_s": {median}}}'"#);
        let candidate = program(dir.path(), name, &answer);
        unroll()
            .args(["bench", "ab"])
            .args([&base, &candidate])
            .args(["--blocks", "3", "--filter", "train/gru", "--cases"])
            .arg(cases(dir.path()))
            .args(options)
            .assert()
            .code(code)
            .stdout(predicate::str::contains(word));
    }
}

#[test]
fn noise_is_inconclusive_and_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    // Takes 1, 2, 3, 1, 2, 3, ... ms.
    let count = dir.path().join("count");
    let answer = format!(
        "n=$(cat {0} 2>/dev/null || echo 0); echo $((n + 1)) > {0}; \
         echo \"{{\\\"min_s\\\": 0.00$((n % 3 + 1))}}\"",
        count.display()
    );
    let noisy = program(dir.path(), "noisy", &answer);
    let compare = |options: &[&str]| {
        unroll()
            .args(["bench", "ab"])
            .args([&noisy, &noisy])
            .args(["--blocks", "3", "--filter", "train/gru", "--cases"])
            .arg(cases(dir.path()))
            .args(options)
            .assert()
            .code(4)
    };
    compare(&[]).stdout(predicate::str::contains("Inconclusive"));
    // Two rounds are tried, and count together.
    let verdict = compare(&["--rounds", "2", "--json"]).get_output().stdout.clone();
    let verdict: Value = serde_json::from_slice(&verdict).unwrap();
    assert_eq!(verdict["cases"][0]["first"]["blocks"], 6);
    assert_eq!(verdict["cases"][0]["times"].as_array().unwrap().len(), 6);
}

#[test]
fn programs_that_cannot_be_compared_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let this = cargo_bin("unroll");
    let compare = |candidate: &Path| {
        let mut command = unroll();
        command.args(["bench", "ab"]).arg(&this).arg(candidate).args(["--blocks", "3"]);
        command.args(["--seconds", "0.001", "--filter", "rnn"]).assert()
    };
    compare(Path::new("nowhere/unroll"))
        .code(2)
        .stderr(predicate::str::contains("nowhere/unroll").and(predicate::str::contains("git:")));
    compare(&program(dir.path(), "broken", "echo out of order >&2; exit 9"))
        .code(1)
        .stderr(predicate::str::contains("out of order"));
    compare(&program(dir.path(), "silent", "echo '{}'"))
        .code(1)
        .stderr(predicate::str::contains("min_s"));
    unroll()
        .args(["bench", "ab", "git:no-such-revision", "git:no-such-revision"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("no-such-revision"));
    unroll()
        .args(["bench", "ab", "a", "b", "--filter", "no such case"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("no case"));
}

/// A pull request that adds an architecture: the base does not know its cases.
#[test]
fn cases_that_the_base_does_not_know_are_new() {
    let dir = tempfile::tempdir().unwrap();
    let time = r#"echo '{"min_s": 0.001, "median_s": 0.002}'"#;
    let knows_gru = format!(
        "case \"$*\" in *gru*) {time};; *) echo no architecture called mha >&2; exit 2;; esac"
    );
    let old = program(dir.path(), "old", &knows_gru);
    let new = program(dir.path(), "new", time);
    let markdown = dir.path().join("comment.md");
    let compare = |base: &Path, candidate: &Path, filter: &str| {
        unroll()
            .args(["bench", "ab"])
            .args([base, candidate])
            .args(["--blocks", "3", "--json", "--filter", filter, "--cases"])
            .arg(cases(dir.path()))
            .arg("--markdown")
            .arg(&markdown)
            .assert()
    };
    let output = compare(&old, &new, "").code(0).get_output().stdout.clone();
    let verdict: Value = serde_json::from_slice(&output).unwrap();
    let errors: Vec<String> = schema().iter_errors(&verdict).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(verdict["cases"][0]["verdict"], "same");
    assert_eq!(verdict["new"][0]["id"], "infer/mha/B1-T4-H8");
    let text = std::fs::read_to_string(&markdown).unwrap();
    assert!(text.contains("new: no architecture called mha"), "{text}");
    // Nothing is compared.
    compare(&old, &new, "mha").code(4);
    // What the candidate no longer runs is an error, and so is a base that breaks.
    compare(&new, &old, "").code(1).stderr(predicate::str::contains("no architecture called mha"));
    let broken = program(dir.path(), "broken", "echo out of order >&2; exit 9");
    compare(&broken, &new, "").code(1).stderr(predicate::str::contains("out of order"));
}

#[test]
fn numbers_that_are_none_are_refused() {
    for options in [
        &["ab", "a", "b", "--least-effect", "nan"][..],
        &["ab", "a", "b", "--same-within", "inf"],
        &["ab", "a", "b", "--least-effect=-1"],
        &["counts", "a", "--tolerance", "inf"],
    ] {
        unroll()
            .arg("bench")
            .args(options)
            .assert()
            .code(2)
            .stderr(predicate::str::contains("a percentage is a number"));
    }
}

/// Runs git in a folder, as somebody.
fn git(dir: &Path, arguments: &[&str]) {
    let status = std::process::Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=somebody", "-c", "user.email=somebody@localhost"])
        .args(arguments)
        .status()
        .unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// A cache that was brought back from elsewhere holds sources that git does not know.
#[test]
fn revisions_are_built_in_a_cache_that_was_moved() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let kept = repository.join("kept.txt");
    std::fs::write(&kept, "first").unwrap();
    git(&repository, &["init", "--quiet"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "first"]);
    // In place of a compiler: it gives a program that answers.
    let time = r#"echo "{\"min_s\": 0.001}""#;
    let build = format!(
        "mkdir -p $CARGO_TARGET_DIR/release; printf '#!/bin/sh\n%s\n' '{time}' \
         > $CARGO_TARGET_DIR/release/unroll; chmod +x $CARGO_TARGET_DIR/release/unroll"
    );
    let cargo = program(dir.path(), "cargo", &build);
    let compare = |cargo: &Path| {
        unroll()
            .current_dir(&repository)
            .env("CARGO", cargo)
            .args(["bench", "ab", "git:HEAD", "git:HEAD", "--blocks", "3", "--cases"])
            .arg(cases(dir.path()))
            .assert()
    };
    let cache = repository.join("target/ab");
    let forget = || std::fs::remove_dir_all(cache.join("bin")).unwrap();
    compare(&cargo).code(0);
    forget();
    // As a fresh clone with a cached `target` has it.
    std::fs::remove_dir_all(repository.join(".git/worktrees")).unwrap();
    compare(&cargo).code(0);
    forget();
    // A plain folder within the repository is not taken for a worktree: that would overwrite changes.
    std::fs::remove_file(cache.join("source/.git")).unwrap();
    std::fs::write(&kept, "second").unwrap();
    compare(&cargo).code(0).stderr(predicate::str::contains("not committed are left out"));
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "second");
    forget();
    // What does not compile is no wrong command.
    let broken = program(dir.path(), "broken", "echo no such type >&2; exit 101");
    compare(&broken).code(1).stderr(predicate::str::contains("no such type"));
}

#[test]
fn instructions_are_held_to_limits() {
    if std::process::Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: there is no Valgrind");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("counts.toml");
    std::fs::write(&file, CASES.split("[[case]]").take(2).collect::<Vec<_>>().join("[[case]]"))
        .unwrap();
    let count =
        |options: &[&str]| unroll().args(["bench", "counts"]).arg(&file).args(options).assert();
    // A case without a limit is held to nothing.
    count(&[]).code(4).stdout(predicate::str::contains("no limit"));
    // A program that does nothing is not below the limits.
    count(&["--program", "/bin/true"]).code(1).stderr(predicate::str::contains("bench layer"));
    count(&["--update"]).success();
    let text = std::fs::read_to_string(&file).unwrap();
    let limit: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("instructions = "))
        .and_then(|number| number.parse().ok())
        .unwrap();
    assert!(limit > 1000, "{text}");
    let output = count(&["--json"]).success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let again = report["cases"][0]["instructions"].as_f64().unwrap();
    // So small a case varies by a percent or two with the seeds of the hash maps around it.
    assert!((again / limit as f64 - 1.0).abs() < 0.05, "{again} after {limit}");
    // A limit that is too low by 10 %.
    let lower = text.replace(&limit.to_string(), &(limit * 9 / 10).to_string());
    std::fs::write(&file, lower).unwrap();
    let markdown = dir.path().join("counts.md");
    count(&["--markdown", markdown.to_str().unwrap()])
        .code(3)
        .stdout(predicate::str::contains("over the limit"));
    let markdown = std::fs::read_to_string(markdown).unwrap();
    assert!(markdown.contains("1 of 1 cases over the limit"), "{markdown}");
}

const GATE: &str = r#"
name = "gate"
question = "Does it still learn?"
measure = ["quality", "gradient"]

[axes]
task = ["adding"]
length = [6]
arch = ["gru"]
seed = [0, 1]

[model]
hidden_size = 8

[train]
steps = 20
eval_every = 10
batch_size = 4

[task.adding]
eval_examples = 20
"#;

#[test]
fn gates_hold_results_to_what_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let gate = |expectations: &str| {
        let file = dir.path().join("gate.toml");
        std::fs::write(&file, format!("{GATE}\n{expectations}")).unwrap();
        let out = dir.path().join("out");
        unroll().arg("gate").arg(file).arg("--out").arg(out).assert()
    };
    let expect = |text: &str| format!("[[expect]]\n{text}\n");
    gate(&expect("measure = 'half_life'\nat_least = 0.5\nat_most = 5"))
        .code(0)
        .stdout(predicate::str::contains("met"));
    gate(&expect("measure = 'test'\nat_most = 0.000001"))
        .code(3)
        .stdout(predicate::str::contains("MISSED"));
    // One that is missed counts more than one that was not measured.
    let absent = expect("measure = 'test'\nlength = 7\nat_most = 1");
    gate(&absent).code(4).stdout(predicate::str::contains("no data"));
    gate(&(absent + &expect("measure = 'solved'\nat_least = 1"))).code(3);
    // Bits of another machine are not checked here: alone they are no pass.
    let elsewhere = expect("measure = 'test'\nexactly = 1.5\non = 'another machine'");
    gate(&elsewhere)
        .code(4)
        .stdout(predicate::str::contains("other machine"))
        .stdout(predicate::str::contains("Here it would be `on = \""));
    gate(&(elsewhere + &expect("measure = 'test'\nat_least = 0")))
        .code(0)
        .stdout(predicate::str::contains("other machine"));
    for (text, message) in [
        ("measure = 'test'", "expects nothing"),
        ("measure = 'test'\nexactly = 1.0", "belong together"),
        ("measure = 'tset'\nat_most = 1", "tset"),
        ("measure = 'test'\narch = 'gruu'\nat_most = 1", "did you mean `gru`?"),
    ] {
        gate(&expect(text)).code(2).stderr(predicate::str::contains(message));
    }
    gate("").code(2).stderr(predicate::str::contains("[[expect]]"));
}

#[test]
fn a_gate_of_which_cells_were_skipped_is_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gate.toml");
    let text = GATE
        .replace("[\"adding\"]", "[\"adding\", \"text_classification\"]")
        .replace(", \"gradient\"", "");
    std::fs::write(&file, format!("{text}\n[[expect]]\nmeasure = 'test'\nat_least = 0\n")).unwrap();
    let markdown = dir.path().join("gate.md");
    // A folder without fetched data.
    unroll()
        .env("UNROLL_DATA", dir.path())
        .arg("gate")
        .arg(&file)
        .arg("--markdown")
        .arg(&markdown)
        .assert()
        .code(4)
        .stdout(predicate::str::contains("skipped").and(predicate::str::contains("data fetch")));
    let markdown = std::fs::read_to_string(markdown).unwrap();
    assert!(markdown.starts_with("### \u{2754} gate: 0 of 1 expectations missed"), "{markdown}");
    assert!(markdown.contains("skipped"), "{markdown}");
}

#[test]
fn seeds_that_diverge_meet_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gate.toml");
    let text = GATE
        .replace(", \"gradient\"", "")
        .replace("[\"gru\"]", "[\"rnn\"]")
        .replace("[train]", "[arch.rnn]\nnonlinearity = \"relu\"\n\n[train]\noptimizer = \"sgd\"\nlearning_rate = 1e18\nthreshold = 1e300")
        .replace("eval_every = 10", "eval_every = 1");
    let expected = "[[expect]]\nmeasure = 'steps_to_threshold'\nat_most = 100\nover = 'every'\n";
    std::fs::write(&file, format!("{text}\n{expected}")).unwrap();
    unroll().arg("gate").arg(&file).assert().code(3).stdout(predicate::str::contains("MISSED"));
}
