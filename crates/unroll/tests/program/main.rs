//! The program from outside: what users type, what they get, and what is left on disk.

#[path = "../common/mod.rs"]
mod common;
mod eval;
mod plans;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::vectors;
use predicates::prelude::*;
use serde_json::Value;
use unroll_core::weights::TensorFile;

fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).env("NO_COLOR", "1");
    command
}

/// A sweep that takes a second: every kind of trial, two architectures, two tasks.
const SMALL: &str = r#"
name = "small"
question = "Does it run?"
measure = ["quality", "gradient", "throughput"]

[axes]
task = ["adding", "japanese_vowels"]
length = [8]
arch = ["gru", "transformer"]
seed = [0, 1]

[model]
hidden_size = 8
num_heads = 2

[train]
steps = 4
eval_every = 2
batch_size = 4

[task.adding]
eval_examples = 20

[evaluate]
lengths = [12]

[gradient]
examples = 2

[throughput]
min_seconds = 0.0
min_iterations = 2
batch_size = 2
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("experiment.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn run(&self, text: &str) -> assert_cmd::assert::Assert {
        let file = self.file(text);
        unroll().arg("run").arg(file).arg("--out").arg(self.out()).assert()
    }
}

#[test]
fn a_run_leaves_records_tables_plots_and_a_report() {
    let folder = Folder::new();
    folder
        .run(SMALL)
        .success()
        .stdout(predicate::str::contains("adding").and(predicate::str::contains("transformer")))
        .stderr(predicate::str::contains("[1/").or(predicate::str::contains("[ 1/")));
    let out = folder.out();
    for file in [
        "experiment.toml",
        "manifest.json",
        "REPORT.md",
        "REPORT.html",
        "tables/trials.csv",
        "tables/trials.parquet",
        "tables/curves.csv",
        "tables/gradients.csv",
        "tables/throughput.csv",
        "tables/lengths.csv",
    ] {
        assert!(out.join(file).metadata().is_ok_and(|m| m.len() > 0), "{file} is missing");
    }
    assert_eq!(std::fs::read_dir(out.join("environments")).unwrap().count(), 1);
    let plots: Vec<_> = std::fs::read_dir(out.join("plots")).unwrap().collect();
    assert!(plots.len() >= 8, "{plots:?}");
    let report = std::fs::read_to_string(out.join("REPORT.md")).unwrap();
    assert!(report.contains("Does it run?") && report.contains("unroll run"), "{report}");

    // The same command reuses everything and derives the same tables.
    let before = std::fs::read(out.join("tables/trials.csv")).unwrap();
    folder.run(SMALL).success().stdout(predicate::str::contains("from before"));
    assert_eq!(before, std::fs::read(out.join("tables/trials.csv")).unwrap());
    // So does `report`, from the records alone.
    std::fs::remove_dir_all(out.join("tables")).unwrap();
    unroll().arg("report").arg(&out).assert().success();
    assert_eq!(before, std::fs::read(out.join("tables/trials.csv")).unwrap());
}

#[test]
fn json_output_is_one_object() {
    let folder = Folder::new();
    let file = folder.file(&SMALL.replace(r#""gradient", "throughput""#, r#""gradient""#));
    let output =
        unroll().arg("run").arg(file).arg("--json").arg("--out").arg(folder.out()).output();
    let value: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(value["planned"], value["ran"]);
    assert!(value["planned"].as_u64() >= Some(8));
}

#[test]
fn a_diverged_trial_is_a_result() {
    let folder = Folder::new();
    let text = SMALL
        .replace("eval_every = 2", "eval_every = 2\nlearning_rate = 1e30\noptimizer = \"sgd\"")
        .replace("steps = 4", "steps = 40")
        .replace(r#"["quality", "gradient", "throughput"]"#, r#"["quality"]"#);
    folder.run(&text).success().stdout(predicate::str::contains("diverged"));
    let trials = std::fs::read_to_string(folder.out().join("tables/trials.csv")).unwrap();
    assert!(trials.contains("diverged"), "{trials}");
}

#[test]
fn bench_layer_prints_one_json_object() {
    for (arch, extra) in [
        ("lstm", &["--layers", "2"][..]),
        ("mha", &["--heads", "2", "--causal"]),
        ("sdpa", &["--heads", "2"]),
        ("additive", &[]),
        ("encdec", &[]),
        ("encdec_mha", &["--heads", "2"]),
        ("late_fusion", &[]),
    ] {
        for mode in ["train", "infer"] {
            let output = unroll()
                .args(["bench", "layer", "--arch", arch, "--batch", "2", "--seq-len", "5"])
                .args(["--input", "8", "--hidden", "8", "--mode", mode, "--threads", "2"])
                .args(["--min-seconds", "0", "--json"])
                .args(extra)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            let value: Value = serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| panic!("{arch}: {stderr}"));
            for key in ["median_s", "min_s", "iterations", "flops", "gflops_per_s", "tokens_per_s"]
            {
                assert!(value[key].as_f64() > Some(0.0), "{arch} {mode} {key}: {value}");
            }
            assert!(value["peak_bytes"].as_u64() > Some(0), "{arch} {mode}: {value}");
            let layers = if arch == "lstm" { 2 } else { 1 };
            let sizes =
                [("batch", 2), ("seq_len", 5), ("input", 8), ("hidden", 8), ("layers", layers)];
            for (key, size) in sizes {
                assert_eq!(value[key], size, "{arch} {mode} {key}: {value}");
            }
        }
    }
    unroll().args(["bench", "layer", "--arch", "nothing"]).assert().code(2);
    let wrong = |extra: &[&str], expected: &str| {
        let mut command = unroll();
        command.args(["bench", "layer", "--batch", "2", "--seq-len", "5"]).args(extra);
        command.assert().code(2).stderr(predicate::str::contains(expected));
    };
    wrong(&["--arch", "lstm", "--hidden", "0"], "option `hidden`: must be at least 1");
    wrong(&["--arch", "encdec", "--hidden", "8", "--heads", "2"], "`encdec` has none");
}

#[test]
fn list_names_everything() {
    let mut assert = unroll().arg("list").assert().success();
    for name in unroll::registry::all_names() {
        assert = assert.stdout(predicate::str::contains(name));
    }
    unroll().args(["list", "lstm"]).assert().success().stdout(
        predicate::str::contains("forget_bias").and(predicate::str::contains("parameters")),
    );
    let stdout = |arguments: &[&str]| {
        String::from_utf8(unroll().args(arguments).output().unwrap().stdout).unwrap()
    };
    let all = stdout(&["list"]);
    let begins: Vec<usize> = all
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .map(|line| line.len() - line.split_once(' ').unwrap().1.trim_start().len())
        .collect();
    assert!(begins.iter().all(|column| *column == begins[0]), "{all}");
    assert!(stdout(&["list", "adding"]).starts_with("adding problem: "));
    assert!(stdout(&["list", "lstm"]).starts_with("lstm: long short-term memory"));
    unroll().args(["list", "lstmm"]).assert().code(2).stderr(predicate::str::contains("`lstm`"));
}

/// Each key of an experiment file can be looked up, with its default.
#[test]
fn settings_are_listed() {
    let all = unroll().args(["list", "settings"]).assert().success();
    let all = String::from_utf8(all.get_output().stdout.clone()).unwrap();
    for key in
        ["clip_value", "eval_batch_size", "min_learning_rate", "warmup_steps", "[[override]]"]
    {
        assert!(all.contains(key), "{key}: {all}");
    }
    let train = unroll().args(["list", "train"]).assert().success();
    let train = String::from_utf8(train.get_output().stdout.clone()).unwrap();
    let line = train.lines().find(|line| line.trim_start().starts_with("eval_batch_size")).unwrap();
    assert!(line.contains("256") && !train.contains("[throughput]"), "{train}");
    let json = unroll().args(["list", "override", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!(json["settings"][0]["settings"][1]["key"], "set", "{json}");
    let wrong = unroll().args(["list", "setings"]).assert().code(2);
    wrong.stderr(predicate::str::contains("mean `settings`?"));
}

/// A number below zero is refused by the option that it is for.
#[test]
fn negative_numbers_reach_their_option() {
    for (arguments, expected) in [
        (&["bench", "ab", "a", "b", "--alpha", "-1"][..], "a probability lies between 0 and 1"),
        (&["run", "x.toml", "--jobs", "-2"], "--jobs"),
        (&["replay", "x", "--threads", "-2"], "--threads"),
    ] {
        let text = predicate::str::contains("unexpected argument").not();
        unroll()
            .args(arguments)
            .assert()
            .code(2)
            .stderr(text.and(predicate::str::contains(expected)));
    }
}

#[test]
fn bundled_experiments_can_be_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments");
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect()
    };
    let (own, papers) = (files(&folder), files(&folder.join("paper")));
    assert!(own.len() >= 18 && papers.len() >= 5);
    for path in own.iter().chain(&papers) {
        // Data that are fetched when asked for may not be there.
        let planned = unroll().arg("plan").arg(path).assert();
        let output = planned.get_output();
        let said = String::from_utf8_lossy(&output.stderr);
        let absent = output.status.code() == Some(7) && said.contains("unroll data fetch");
        assert!(output.status.success() || absent, "{}: {said}", path.display());
    }
    for path in papers {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# Expected time: "), "{}", path.display());
    }
}

/// The parameters that the papers give: exact counts, or rounded to a thousand.
#[test]
fn published_models_have_their_published_size() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/paper");
    for (file, arch, expected, tolerance) in [
        ("time_capsule_adding", "lstm", 4641, 0),
        ("time_capsule_adding", "gru", 4357, 0),
        ("time_capsule_adding", "rnn", 4825, 0),
        ("bai2018_adding", "lstm", 70_000, 600),
        ("bai2018_adding", "gru", 70_000, 600),
        ("bai2018_copy", "rnn", 16_000, 500),
        ("bai2018_sequential_mnist", "gru", 70_000, 600),
    ] {
        let mut command = unroll();
        command.args(["plan", "--json"]).arg(folder.join(format!("{file}.toml")));
        let out = command.assert().success().get_output().stdout.clone();
        let plan: Value = serde_json::from_slice(&out).unwrap();
        let trials = plan["trials"].as_array().unwrap();
        let own: Vec<_> = trials.iter().filter(|trial| trial["spec"]["arch"] == arch).collect();
        assert!(!own.is_empty(), "{file} has no {arch}");
        for trial in own {
            let parameters = trial["parameters"].as_u64().unwrap();
            assert!(parameters.abs_diff(expected) <= tolerance, "{file}, {arch}: {parameters}");
        }
    }
}

#[test]
fn a_device_is_held_to_the_processor() {
    let folder = Folder::new();
    let table = folder.0.path().join("parity.csv");
    let archs = "lstm,transformer,encdec_mha,late_fusion";
    let parity =
        unroll().args(["parity", "--quick", "--arch", archs, "--csv"]).arg(&table).assert();
    parity.success().stdout(predicate::str::contains(", 0 failed"));
    let table = std::fs::read_to_string(table).unwrap();
    for expected in
        ["PyTorch lstm_h64", "PyTorch hidden_grad_lstm", "bf16,unrolled", "late_fusion,"]
    {
        assert!(table.contains(expected), "{expected}");
    }
    assert!(table.lines().skip(1).all(|line| line.contains(",true,")), "{table}");
    let refused = |args: &[&str], says: &str| {
        let parity = unroll().arg("parity").args(args).assert();
        parity.code(2).stderr(predicate::str::contains(says.to_owned()));
    };
    refused(&["--arch", "lstn"], "lstn");
    refused(&["--rounding", "tf32"], "tf32");
    refused(&["--device", "gpu"], "gpu");
}

#[test]
fn layers_are_timed_line_by_line() {
    let lines = "--arch gru --hidden 8 --seq-len 4 --min-seconds 0 --dtype f64\n\
                 --arch gruu --hidden 8\n--hidden\n--arch sdpa --hidden 8 --min-seconds 0\n";
    let run = unroll().args(["bench", "layers"]).write_stdin(lines).assert().success();
    let text = String::from_utf8(run.get_output().stdout.clone()).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4);
    for (answer, form) in [(&answers[0], "fused"), (&answers[3], "fused")] {
        assert!(answer["median_s"].as_f64().unwrap() > 0.0);
        assert_eq!(answer["form"], form);
        assert_eq!(answer["precision"], "fp32");
    }
    assert_eq!(answers[0]["dtype"], "f64");
    for wrong in &answers[1..3] {
        assert!(!wrong["error"].as_str().unwrap().is_empty());
    }
}
