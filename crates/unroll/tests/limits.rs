//! What no machine can do is refused before it begins: sizes, threads, times; and what is no number.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::Value;

/// A command that is not stopped by itself within half a minute has failed.
fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).env("NO_COLOR", "1");
    command.timeout(Duration::from_secs(30));
    command
}

const TWO: &str = r#"
name = "two"
question = "Does the second run?"

[axes]
task = ["adding"]
length = [6]
arch = ["rnn", "lstm"]

[model]
hidden_size = 4

[train]
steps = 2
eval_every = 2
batch_size = 4

[task.adding]
eval_examples = 4
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("e.toml"), text).unwrap();
        Self(folder)
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn run(&self, options: &[&str]) -> assert_cmd::assert::Assert {
        let file = self.0.path().join("e.toml");
        unroll().arg("run").arg(file).args(options).arg("--out").arg(self.out()).assert()
    }
}

/// Words of an error in any wrapping of its lines.
fn says(expected: &str) -> impl Predicate<[u8]> {
    let expected: String = expected.split_whitespace().collect();
    predicate::function(move |bytes: &[u8]| {
        let plain = |c: &char| !c.is_whitespace() && *c != '│';
        String::from_utf8_lossy(bytes).chars().filter(plain).collect::<String>().contains(&expected)
    })
}

#[test]
fn sizes_that_no_machine_can_hold_are_refused_in_the_plan() {
    for (set, expected) in [
        ("arch.rnn.hidden_size=100000000", "40.0 PB of memory or more"),
        ("model.hidden_size=9223372036854775807", "must be at most 2147483647"),
        ("model.num_layers=1000000000", "must be at most 10000"),
        ("train.batch_size=100000000000", "`batch_size` must be at most 2147483647"),
        ("axes.length=[1000000000000]", "at most 2147483647 steps"),
        ("evaluate.lengths=[1000000000000]", "at most 2147483647 steps"),
    ] {
        let folder = Folder::new(TWO);
        folder.run(&["--set", set]).code(2).stderr(says(expected));
        assert!(!folder.out().exists(), "{set}");
    }
    let folder = Folder::new(TWO);
    let sets = ["--set", "axes.length=[16000000]", "--set", "train.batch_size=2000000000"];
    folder.run(&sets).code(2).stderr(says("take a smaller batch or shorter sequences"));
}

/// What another machine may be able to run is no error of the plan, and does not end the run.
#[test]
fn a_trial_that_is_too_large_for_this_machine_fails_alone() {
    let folder = Folder::new(&format!("{TWO}\n[arch.rnn]\nhidden_size = 2000000\n"));
    folder.run(&[]).code(1).stdout(predicate::str::contains("1 of 2 trials, 1 failed"));
    let status = unroll().arg("status").arg(folder.out()).arg("--json").output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let failed = status["trials"].as_array().unwrap().iter().find(|t| t["state"] == "failed");
    let message = failed.unwrap()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("needs 64.0 TB of memory, and this machine has"), "{message}");
}

#[test]
fn layers_that_are_too_large_are_refused() {
    for (arch, flag, value) in [
        ("lstm", "--batch", "100000000000"),
        ("lstm", "--batch", "2000000000"),
        ("lstm", "--hidden", "18446744073709551615"),
        ("lstm", "--hidden", "4611686018427387904"),
        ("lstm", "--hidden", "2000000"),
        ("mha", "--hidden", "2000000"),
        ("candle_lstm", "--hidden", "2000000"),
        ("sdpa", "--hidden", "2000000000"),
    ] {
        let bench = ["bench", "layer", "--arch", arch, flag, value];
        let expected = says("of memory, and this machine has").or(says("must be at most"));
        unroll().args(bench).assert().code(2).stderr(expected);
    }
    let endless = ["bench", "layer", "--arch", "rnn", "--min-seconds", "inf"];
    unroll().args(endless).assert().code(2).stderr(says("must lie in 0 to 3600"));
}

#[test]
fn evaluation_refuses_models_that_are_too_large() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/lstm.safetensors");
    if !vectors.exists() {
        return;
    }
    for (size, expected) in
        [("99999999999", "must be at most"), ("2000000", "of memory, and this machine has")]
    {
        let config = format!("{{\"hidden_size\": {size}, \"input_size\": 3}}");
        let out = tempfile::tempdir().unwrap();
        unroll()
            .args(["eval", "--arch", "lstm", "--config", &config, "--weights"])
            .arg(&vectors)
            .arg("--input")
            .arg(&vectors)
            .arg("--output")
            .arg(out.path().join("y.safetensors"))
            .assert()
            .failure()
            .stderr(says(expected));
    }
}

#[test]
fn options_that_the_attention_core_lacks_are_refused() {
    let sdpa = ["bench", "layer", "--arch", "sdpa", "--hidden", "8", "--batch", "1"];
    for (flag, value) in [("--layers", "5"), ("--input", "3")] {
        let bench = unroll().args(sdpa).args([flag, value]).assert();
        bench.code(2).stderr(says(&format!("option `{flag}`: `sdpa` has none")));
    }
    let candle = ["bench", "layer", "--arch", "candle_gru", "--heads", "2"];
    unroll().args(candle).assert().code(2).stderr(says("`candle_gru` has none"));
}

#[test]
fn threads_and_jobs_have_a_limit() {
    for option in ["--threads", "--jobs"] {
        let folder = Folder::new(TWO);
        folder.run(&[option, "100000"]).code(2).stderr(says("is not in 1..=1024"));
    }
    let folder = Folder::new(TWO);
    folder.run(&["--threads", "500", "--jobs", "3"]).code(2).stderr(says("are 1500 threads"));
    assert!(!folder.out().exists());
    let bench = ["bench", "layer", "--arch", "rnn", "--threads", "100000"];
    unroll().args(bench).assert().code(2).stderr(says("1024"));
}

#[test]
fn times_and_numbers_are_finite() {
    for (set, expected) in [
        ("train.learning_rate=nan", "a number must be finite"),
        ("throughput.min_seconds=inf", "a number must be finite"),
        ("throughput.min_seconds=1e9", "`min_seconds` must lie in 0 to 3600 seconds"),
    ] {
        Folder::new(TWO).run(&["--set", set]).code(2).stderr(says(expected));
    }
}

/// The path of a folder is bytes, and the command is kept for the report.
#[test]
fn a_folder_whose_name_is_not_utf8_is_one_like_any_other() {
    let folder = Folder::new(TWO);
    let out = folder.0.path().join(OsStr::from_bytes(b"p\xff"));
    let file = folder.0.path().join("e.toml");
    unroll().arg("run").arg(file).arg("--out").arg(&out).assert().success();
    let page = std::fs::read_to_string(out.join("REPORT.md")).unwrap();
    assert!(page.contains("p\u{fffd}"), "{page}");
}
