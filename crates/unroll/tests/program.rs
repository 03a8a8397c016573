//! The program from outside: what users type, what they get, and what is left on disk.

mod common;

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

/// Runs a wrong file: exit code 2, the message on standard error, and nothing written.
fn refused(text: &str, expected: &[&str]) {
    let folder = Folder::new();
    let mut assert = folder.run(text).code(2);
    for part in expected {
        // Long lines are wrapped on output.
        let part: String = part.split_whitespace().collect();
        assert = assert.stderr(predicate::function(move |stderr: &str| {
            let plain: String =
                stderr.chars().filter(|c| !c.is_whitespace() && *c != '│').collect();
            plain.contains(&part)
        }));
    }
    assert!(!folder.out().exists(), "something was written for:\n{text}");
}

#[test]
fn wrong_experiment_files_are_refused_with_place_and_advice() {
    refused("name = = 1", &["experiment.toml:1:8", "not valid TOML"]);
    refused(
        &SMALL.replace("steps = 4", "stepz = 4"),
        &["experiment.toml:17:1", "train.stepz", "did you mean `steps`?"],
    );
    refused(
        &SMALL.replace("steps = 4", "steps = \"four\""),
        &["experiment.toml:17:9", "train.steps"],
    );
    refused(
        &SMALL.replace(r#""gru""#, r#""gruu""#),
        &["no architecture called `gruu`", "did you mean `gru`?"],
    );
    refused(
        &SMALL.replace(r#""adding", "japanese"#, r#""addding", "japanese"#),
        &["no task called `addding`", "did you mean `adding`?"],
    );
    refused(&SMALL.replace("length = [8]", "length = [0]"), &["length 0", "at least one step"]);
    refused(&SMALL.replace("hidden_size = 8", "hidden_size = 0"), &["hidden_size", "at least 1"]);
    refused(
        &SMALL.replace("hidden_size = 8", "hiden_size = 8"),
        &["hiden_size", "did you mean `hidden_size`?"],
    );
    refused(&SMALL.replace("seed = [0, 1]", "seed = []"), &["the sweep is empty", "`seed`"]);
    refused(&SMALL.replace("hidden_size = 8", "hidden_size = 9"), &["num_heads"]);
    refused(
        &SMALL.replace("[train]", "[init]\nweigth = \"xavier\"\n[train]"),
        &["init.weigth", "did you mean `weight`?"],
    );
    refused(
        &SMALL.replace("[train]", "[arch.gru]\nforget_bias = 1.0\n[train]"),
        &["no option `forget_bias`", "update_gate"],
    );
    refused(
        &SMALL.replace("seed = [0, 1]", "seed = [0]\n\"train.learning_rat\" = [0.1]"),
        &["learning_rat", "did you mean `learning_rate`?"],
    );
    refused(&SMALL.replace("eval_every = 2", "learning_rate = -1.0"), &["train.learning_rate"]);
    refused(&SMALL.replace("seed = [0, 1]", "device = [\"gpu\"]"), &["no device `gpu`", "cpu"]);
    refused(&SMALL.replace("name = \"small\"", "name = \"../x\""), &["names a folder"]);
    refused(&SMALL.replace("eval_examples", "evl_examples"), &["did you mean `eval_examples`?"]);
    let with = |text: &str| format!("{SMALL}\n{text}\n");
    refused(
        &with("[[exclude]]\narhc = \"gru\""),
        &["`arhc` is not swept here", "did you mean `arch`?"],
    );
    for (text, expected) in [
        ("[[exclude]]\narch = \"transfomer\"", "did you mean `transformer`?"),
        ("[[exclude]]\ntask = [\"adding\", \"ading\"]", "no task called `ading`"),
        ("[[exclude]]\nmeasure = \"qualty\"", "did you mean `quality`?"),
        ("[[exclude]]\nlength = \"8\"", "takes whole numbers"),
        ("[[exclude]]\narch = []", "finds no cell"),
        ("[exclude]\narch = \"gru\"", "[[exclude]]"),
        ("[[override]]\nwhen = { arch = \"grv\" }\nset = {}", "did you mean `gru`?"),
        ("[[override]]\narch = \"gru\"", "when = { arch = \"lstm\" }"),
        ("[[override]]\nwhen = { arch = \"gru\" }", "set = { \"train.learning_rate\" = 0.001 }"),
        (
            "[[override]]\nwhen = {}\nset = { \"arch.gru.rest\" = \"after\" }",
            "did you mean `reset`?",
        ),
        ("[[override]]\nwhen = {}\nset = { \"axes.seed\" = [7] }", "of the whole sweep"),
    ] {
        refused(&with(text), &["experiment.toml:3", expected]);
    }
    for (axis, expected) in [
        ("\"arch.lstn.bias\" = [true]", "did you mean `lstm`?"),
        ("\"arch.lstm.bais\" = [true]", "did you mean `bias`?"),
        ("\"task.adding.evl_examples\" = [9]", "did you mean `eval_examples`?"),
    ] {
        let text = SMALL.replace("seed = [0, 1]", &format!("seed = [0, 1]\n{axis}"));
        refused(&text, &["experiment.toml:11:", expected]);
    }
    refused(
        &with("[[exclude]]\nmeasure = [\"quality\", \"gradient\", \"throughput\"]"),
        &["all of it"],
    );
    refused(
        &SMALL.replace("[train]", "[gradient.jacobian]\nprobes = 0\n[train]"),
        &["`probes` must be at least 1"],
    );
}

#[test]
fn a_plan_says_what_is_otherwise_than_asked() {
    let folder = Folder::new();
    let matched = format!("{SMALL}\n[match]\nby = \"parameters\"\nreference = \"gru\"\n");
    let plan = |text: &str| {
        let mut command = unroll();
        command.arg("plan").arg(folder.file(text)).arg("--out").arg(folder.out());
        command
    };
    let notes = predicate::str::contains(
        "note: japanese_vowels has one length alone: it runs at 29 steps, not at 8.",
    )
    .and(predicate::str::contains("note: transformer is not of gru's size: "));
    plan(&matched).assert().success().stderr(notes);
    let json = plan(&matched).arg("--json").output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["notes"].as_array().map(Vec::len), Some(2), "{json}");

    let one = SMALL
        .replace(r#"["adding", "japanese_vowels"]"#, r#"["adding"]"#)
        .replace(r#"["gru", "transformer"]"#, r#"["gru"]"#)
        .replace("seed = [0, 1]", "seed = [0]")
        .replace(r#"["quality", "gradient", "throughput"]"#, r#"["quality"]"#);
    let assert = plan(&one).assert().success().stderr("");
    assert.stdout(predicate::str::contains("1 trial: 1 missing"));
}

/// What names something that exists and finds nothing is said with its place, before anything is trained.
#[test]
fn what_finds_nothing_is_said_before_training() {
    let folder = Folder::new();
    let notes = |text: &str| -> Vec<String> {
        let file = folder.file(&format!("{SMALL}\n{text}\n"));
        let output = unroll().arg("plan").arg(file).arg("--json").assert().success();
        let json: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        let notes = json["notes"].as_array().unwrap().iter();
        let notes = notes.map(|note| note.as_str().unwrap().to_owned());
        notes.filter(|note| note.contains("experiment.toml:")).collect()
    };
    for (text, expected) in [
        ("[[exclude]]\narch = \"lstm\"", "no cell has arch = \"lstm\""),
        (
            "[[exclude]]\narch = \"gru\"\nlength = [8, 999]",
            "no cell has length = 999 (swept: 8): this [[exclude]] does not",
        ),
        ("[[exclude]]\nseed = 7", "leaves nothing out"),
        (
            "[[override]]\nwhen = { arch = \"rnn\" }\nset = { \"train.steps\" = 3 }",
            "changes nothing",
        ),
        ("[[override]]\nwhen = {}\nset = { \"arch.lstm.bias\" = false }", "`lstm` is not swept"),
        (
            "[[expect]]\nmeasure = \"solved\"\narch = \"rnn\"\nat_least = 1",
            "no trial is of architecture `rnn`",
        ),
        ("[[expect]]\nmeasure = \"test\"\nlength = 9\nat_most = 1", "no trial is of length `9`"),
        ("[[expect]]\nmeasure = \"test\"\nseries = \"gru, x=1\"\nat_most = 1", "gru, transformer"),
    ] {
        let notes = notes(text);
        assert_eq!(notes.len(), 1, "{text}: {notes:?}");
        assert!(notes[0].contains(expected), "{notes:?}");
    }
    for fine in [
        "[[exclude]]\narch = \"gru\"\n[[exclude]]\narch = \"gru\"\nseed = 0",
        "[[exclude]]\narch = \"gru\"\nseed = 1",
        "[[override]]\nwhen = { seed = 1 }\nset = { \"train.steps\" = 3 }",
        "[[expect]]\nmeasure = \"half_life\"\narch = \"gru\"\nat_least = 0",
        "[[expect]]\nmeasure = \"solved\"\ntask = \"japanese_vowels\"\nlength = 29\nat_least = 0",
    ] {
        assert_eq!(notes(fine), Vec::<String>::new(), "{fine}");
    }
    let file = folder.file(&format!(
        "{}\n[[expect]]\nmeasure = \"half_life\"\nat_least = 0\n",
        SMALL.replace(r#"["quality", "gradient", "throughput"]"#, r#"["quality"]"#)
    ));
    let text = predicate::str::contains("will have no data: `half_life` comes from trials of");
    unroll().arg("plan").arg(&file).assert().success().stderr(text);
}

/// Architectures of far different sizes are no fair comparison: the setting that helps is named.
#[test]
fn unequal_sizes_are_said_where_nothing_matches_them() {
    let folder = Folder::new();
    let plan = |text: &str| unroll().arg("plan").arg(folder.file(text)).assert().success();
    let words = predicate::str::contains("sizes are as given and not alike");
    plan(SMALL).stderr(words.clone().and(predicate::str::contains("by = \"parameters\"")));
    plan(&format!("{SMALL}\n[match]\nby = \"hidden_size\"\n")).stderr(words.clone().not());
    plan(&format!("{SMALL}\n[match]\nby = \"parameters\"\nreference = \"gru\"\n"))
        .stderr(words.not());
}

/// Hidden sizes follow a reference as far as it takes.
#[test]
fn a_large_reference_is_matched() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["gru", "transformer"]"#, r#"["rnn", "lstm"]"#)
        .replace("hidden_size = 8", "hidden_size = 3000")
        .replace("num_heads = 2\n", "")
        .replace("[train]", "[match]\nby = \"parameters\"\nreference = \"lstm\"\n[train]");
    let output = unroll().arg("plan").arg(folder.file(&text)).arg("--json").assert().success();
    let json: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let sizes = json["trials"].as_array().unwrap().iter().filter(|t| t["spec"]["arch"] == "rnn");
    let sizes: Vec<u64> =
        sizes.map(|t| t["spec"]["options"]["hidden_size"].as_u64().unwrap()).collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|&size| size > 5900), "{sizes:?}");
    let notes = json["notes"].to_string();
    assert!(!notes.contains("is not of lstm's size"), "{notes}");
}

/// What this machine would refuse when it runs is told when it is planned.
#[test]
fn a_plan_names_trials_that_the_machine_is_too_small_for() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["gru", "transformer"]"#, r#"["gru"]"#)
        .replace("hidden_size = 8", "hidden_size = 1000000");
    let output = unroll().arg("plan").arg(folder.file(&text)).assert().success();
    let output = output.get_output();
    let (table, notes) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("too large"), "{table}");
    assert!(notes.contains("has too little memory for 10 of 10 trials"), "{notes}");
}

/// The list of right names is in the message or in the help, not in both.
#[test]
fn names_are_listed_once() {
    for (right, wrong) in [
        ("eval_examples = 20", "evl_examples = 20"),
        ("[train]\nsteps", "[train]\nstepz"),
        ("[throughput]", "[arch.gru]\nrest = \"before\"\n\n[throughput]"),
    ] {
        let folder = Folder::new();
        let assert = folder.run(&SMALL.replace(right, wrong)).code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for name in ["eval_examples", "weight_decay", "bidirectional"] {
            // `eval_examples` is the nearest name too.
            let most = if name == "eval_examples" { 2 } else { 1 };
            assert!(text.matches(name).count() <= most, "{text}");
        }
        assert!(text.contains("did you mean"), "{text}");
    }
    refused(&SMALL.replace("length = [8]", "length = 8"), &["expected a list"]);
}

#[test]
fn excluded_cells_are_not_run() {
    let folder = Folder::new();
    let planned = |text: &str| {
        let output = unroll().arg("plan").arg(folder.file(text)).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let all = planned(SMALL);
    let fewer = planned(&format!("{SMALL}\n[[exclude]]\narch = [\"gru\", \"lstm\"]\nseed = 1\n"));
    let lines = |text: &str, arch: &str, seed: &str| {
        // id, what, series, task, length, seed, ...
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let rows = text.lines().map(words).filter(|words| words.len() > 5);
        rows.filter(|words| words[2] == arch && words[5] == seed).count()
    };
    assert!(lines(&all, "gru", "1") > 0, "{all}");
    assert_eq!(lines(&fewer, "gru", "1"), 0, "{fewer}");
    assert_eq!(lines(&fewer, "gru", "0"), lines(&all, "gru", "0"));
    assert_eq!(lines(&fewer, "transformer", "1"), lines(&all, "transformer", "1"));
}

#[test]
fn wrong_settings_on_the_command_line_are_refused() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    for (set, expected) in [
        ("train.stepz=3", "did you mean `steps`?"),
        ("train.steps", "key=value"),
        ("axes.arch=[]", "empty"),
        ("train.steps=-3", "train.steps"),
    ] {
        unroll()
            .arg("run")
            .arg(&file)
            .args(["--set", set, "--out"])
            .arg(folder.out())
            .assert()
            .code(2)
            .stderr(predicate::str::contains(expected));
        assert!(!folder.out().exists(), "{set}");
    }
    for device in ["gpu", "cuda:x"] {
        let run = unroll().arg("run").arg(&file).args(["--device", device]).assert();
        run.code(2).stderr(predicate::str::contains(device));
    }
    // Built without CUDA, the program says how to get it.
    if cfg!(not(feature = "cuda")) {
        for device in ["cuda", "cuda:1"] {
            let run = unroll().arg("run").arg(&file).args(["--device", device]).assert();
            run.code(2).stderr(predicate::str::contains("scripts/build_cuda.sh"));
        }
    } else if !Path::new("/proc/driver/nvidia").exists() {
        // Built with it, the program says why there is no device, and nothing else.
        let run = unroll().arg("run").arg(&file).args(["--device", "cuda"]).assert();
        let text = predicate::str::contains("no NVIDIA driver");
        run.code(2).stderr(text.and(predicate::str::contains("candle_core").not()));
    }
    unroll().args(["run", "does-not-exist.toml"]).assert().code(2);
}

#[test]
fn an_unwritable_output_folder_is_an_error() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    // A file where the folder should be: no one can write below it, not even root.
    let blocked = folder.0.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    unroll()
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(blocked.join("out"))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("blocked"));
}

#[test]
fn a_missing_data_file_is_named() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    unroll()
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(folder.out())
        .env("UNROLL_DATA", folder.0.path())
        .assert()
        .code(2)
        .stderr(
            predicate::str::contains("japanese_vowels")
                .and(predicate::str::contains("UNROLL_DATA")),
        );
    assert!(!folder.out().exists());
}

/// A file of one's own is looked for in several places: all are named, and the setting that names the file.
#[test]
fn a_missing_or_wrong_file_of_ones_own_is_shown_where_it_is_named() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["adding", "japanese_vowels"]"#, r#"["timeseries"]"#)
        .replace("[task.adding]\neval_examples = 20", "[task.timeseries]\ntrain = \"nofile.ts\"");
    let plan = |text: &str, set: &[&str]| {
        let file = folder.file(text);
        let mut command = unroll();
        command
            .current_dir(folder.0.path())
            .env_remove("UNROLL_DATA")
            .arg("plan")
            .arg(file)
            .args(set);
        let output = command.assert().code(2);
        let lines = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        lines.chars().filter(|c| !c.is_whitespace() && *c != '│').collect::<String>()
    };
    let here = folder.0.path().join("nofile.ts").display().to_string();
    let beside = folder.0.path().join("data/nofile.ts").display().to_string();
    let shown = plan(&text, &[]);
    assert!(shown.contains("experiment.toml:22:9:`task.timeseries.train`iswrong"), "{shown}");
    assert!(shown.contains(&here) && shown.contains(&beside), "{shown}");
    let set = ["--set", "task.timeseries.train=nofile.ts"];
    let shown = plan(&text.replace("nofile.ts", "other.ts"), &set);
    assert!(shown.contains("--set:1:23:`task.timeseries.train`iswrong"), "{shown}");
    std::fs::write(folder.0.path().join("nofile.ts"), "").unwrap();
    let shown = plan(&text, &[]);
    assert!(
        shown.contains("experiment.toml:22:9:") && shown.contains("therearenocases"),
        "{shown}"
    );
    assert!(!shown.contains("line0"), "{shown}");
    std::fs::write(folder.0.path().join("nofile.ts"), "@nonsense\n").unwrap();
    let shown = plan(&text, &[]);
    assert!(
        shown.contains("experiment.toml:22:9:") && shown.contains("nofile.ts,line1:"),
        "{shown}"
    );
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

fn eval(weights: &Path, out: &Path, extra: &[&str]) -> assert_cmd::assert::Assert {
    unroll()
        .args(["eval", "--arch", "lstm", "--weights"])
        .arg(weights)
        .arg("--input")
        .arg(weights)
        .arg("--output")
        .arg(out)
        .args(extra)
        .assert()
}

#[test]
fn eval_writes_what_the_contract_says() {
    let folder = Folder::new();
    let (file, out) = (vectors().join("lstm.safetensors"), folder.0.path().join("y.safetensors"));
    eval(&file, &out, &["--grad", "--dtype", "f64"]).success();
    let y = TensorFile::read(&out).unwrap();
    let expected = TensorFile::read(&file).unwrap();
    for name in ["output", "h_n", "c_n", "grad.x", "grad.h0", "grad.c0", "grad.bias_hh_l0"] {
        assert!(common::relative_error(y.get(name).unwrap(), expected.get(name).unwrap()) < 1e-10);
    }
    eval(&file, &out, &["--probe", "last", "--reference"]).success();
    assert_eq!(TensorFile::read(&out).unwrap().get("grad_h").unwrap().dims(), [3, 7, 6]);
}

#[test]
fn eval_refuses_bad_files() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.path().join(name);
    let good = std::fs::read(vectors().join("lstm.safetensors")).unwrap();
    let out = path("y.safetensors");

    let truncated = path("truncated.safetensors");
    std::fs::write(&truncated, &good[..good.len() / 2]).unwrap();
    eval(&truncated, &out, &[]).code(2).stderr(predicate::str::contains("truncated.safetensors"));

    let mut file = TensorFile::read(&vectors().join("lstm.safetensors")).unwrap();
    let bias = file.tensors["bias_ih_l0"].clone();
    file.tensors.insert("bias_ih_l0".into(), (&bias * f64::NAN).unwrap());
    let nan = path("nan.safetensors");
    std::fs::write(&nan, file.to_bytes().unwrap()).unwrap();
    eval(&nan, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    file.tensors.insert("bias_ih_l0".into(), bias.narrow(0, 0, 5).unwrap());
    let shape = path("shape.safetensors");
    std::fs::write(&shape, file.to_bytes().unwrap()).unwrap();
    eval(&shape, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    file.tensors.remove("bias_ih_l0");
    let missing = path("missing.safetensors");
    std::fs::write(&missing, file.to_bytes().unwrap()).unwrap();
    eval(&missing, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    let good = vectors().join("lstm.safetensors");
    eval(&good, &out, &["--config", "{\"hidden_size\": 7}"]).code(2);
    // Long lines are wrapped on output.
    let wrong = eval(&good, &out, &["--config", "{\"hidden_sise\": 7}"]).code(2);
    wrong
        .stderr(predicate::str::contains("no option `hidden_sise`: did you mean"))
        .stderr(predicate::str::contains("`hidden_size`? The names are: "));
    let parity = ["parity", "--quick", "--arch", "lstn"];
    unroll().args(parity).assert().code(2).stderr(predicate::str::contains("did you mean `lstm`?"));
    eval(&good, &out, &["--config", "nonsense"]).code(2).stderr(predicate::str::contains("JSON"));
    eval(&good, &out, &["--device", "tpu"]).code(2).stderr(predicate::str::contains("tpu"));
    eval(&path("none.safetensors"), &out, &[]).code(2);
    eval(&vectors().join("gru.safetensors"), &out, &[])
        .code(2)
        .stderr(predicate::str::contains("`gru`"));
    assert!(!out.exists());
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
