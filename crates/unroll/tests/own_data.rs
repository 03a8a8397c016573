//! A user's own files, from outside: a series and a text in a folder, an experiment beside them.

use std::fmt::Write;
use std::path::PathBuf;

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::Value;

const EXPERIMENT: &str = r#"
name = "own"
question = "Does it read my files?"
keep_weights = true

[axes]
task = ["forecast", "text"]
length = [8]
arch = ["gru"]
"task.forecast.target" = ["sales", ["sales", "price"]]

[task.forecast]
file = "own.csv"
time = "day"
group = "shop"

[task.text]
file = "own.txt"

[model]
hidden_size = 8

[train]
steps = 3
eval_every = 3
batch_size = 4
"#;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let mut csv = String::from("day,shop,sales,price\n");
        let mut text = String::new();
        for day in 0..100 {
            for shop in ["north", "south"] {
                let price = if day % 9 == 2 { String::new() } else { (day % 4).to_string() };
                writeln!(csv, "{day},{shop},{},{price}", day * day % 13).unwrap();
                writeln!(text, "Day {day} in the {shop}: {} sold.", day * day % 13).unwrap();
            }
        }
        folder.write("own.csv", &csv);
        folder.write("own.txt", &text);
        folder.write("own.toml", EXPERIMENT);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(name, &text.replacen(from, to, 1));
    }

    /// The program, in the folder.
    fn unroll(&self, args: &[&str]) -> assert_cmd::assert::Assert {
        let mut command = Command::cargo_bin("unroll").unwrap();
        command.current_dir(self.0.path()).env("NO_COLOR", "1").args(args).assert()
    }

    fn run(&self, more: &[&str]) -> assert_cmd::assert::Assert {
        self.unroll(&[&["run", "own.toml", "--out", "out"], more].concat())
    }
}

#[test]
fn own_files_are_read_from_where_the_program_runs() {
    let folder = Folder::new();
    folder.run(&[]).success();
    let table = |name: &str| {
        let path = folder.path("out/tables").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let trials = table("trials.csv");
    assert_eq!(trials.matches("finished").count(), 3, "{trials}");
    // Targets are tasks of their own, and not series beside each other.
    assert!(trials.contains("forecast sales,"), "{trials}");
    assert!(!trials.contains("target="), "{trials}");
    let metrics = table("metrics.csv");
    for metric in ["MAE,", "MASE", "RMSE of sales", "RMSE of price", "MAE (standard deviations)"] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    let manifest = std::fs::read_to_string(folder.path("out/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let specs = manifest["content"]["trials"].as_array().unwrap();
    for spec in specs.iter().map(|trial| &trial["spec"]) {
        // The hash of the file is part of it, and no other data are.
        assert_eq!(spec["data"], serde_json::json!({}));
        assert_eq!(spec["task_options"]["data_hash"].as_str().map(str::len), Some(32), "{spec}");
        if spec["task"] == "forecast" {
            assert_eq!(spec["task_options"]["inputs"], serde_json::json!(["sales", "price"]));
        }
    }
    folder.unroll(&["verify", "out"]).success();
    folder.unroll(&["replay", "out"]).success();
    folder
        .unroll(&["sample", "out", "--prompt", "Day 7", "--length", "20"])
        .success()
        .stdout(predicate::str::starts_with("Day 7"));

    // Files that have changed are other trials; the old ones cannot be had of them.
    folder.change("own.csv", "99,south,12", "99,south,11");
    folder.unroll(&["replay", "out"]).failure();
    folder.run(&[]).success();
    let trials = table("trials.csv");
    assert_eq!(trials.matches("finished").count(), 3, "{trials}");
}

#[test]
fn what_is_wrong_in_own_files_is_said_with_line_and_column() {
    let folder = Folder::new();
    let wrong = |sets: &[&str], what: &str| {
        // Lines are wrapped for the terminal.
        let found = folder.run(sets).code(2).get_output().stderr.clone();
        let found = String::from_utf8(found).unwrap();
        assert!(found.split_whitespace().collect::<Vec<_>>().join(" ").contains(what), "{found}");
        found
    };
    folder.change("own.csv", "7,south,10,3", "7,south,ten,3");
    let found = wrong(&[], "own.csv, line 17, column 3 (`sales`): `ten` is not a finite number");
    assert!(found.contains("task.forecast.file"), "{found}");
    folder.change("own.csv", "7,south,ten,3", "6,south,10,3");
    wrong(&[], "line 17, column 1 (`day`): `6` does not come after `6` of line 15");
    wrong(&["--set", "task.forecast.time=date"], "no column `date`");
    wrong(&["--set", "task.forecast.file=other.csv"], "other.csv");
    wrong(&["--set", "task.forecast.horizn=2"], "horizon");
    let only_text = ["--set", "axes.task=[\"text\"]"];
    std::fs::write(folder.path("own.txt"), b"plain\nM\xfcller\n").unwrap();
    wrong(&only_text, "own.txt, line 2: byte 8 of the file, which is byte 2 of the line (0xfc)");
    assert!(!folder.path("out").exists());
}

/// The example of the README, with fewer steps.
#[test]
fn the_example_runs() {
    let folder = Folder::new();
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../experiments/own_data.toml");
    folder
        .unroll(&[
            "run",
            example.to_str().unwrap(),
            "--out",
            "out",
            "--set",
            "train.steps=2",
            "--set",
            "train.warmup_steps=0",
            "--set",
            "axes.seed=[0]",
        ])
        .success()
        .stdout(predicate::str::contains("RMSE (kW)"));
    let report = std::fs::read_to_string(folder.path("out/REPORT.md")).unwrap();
    assert!(report.contains("ridge regression on the window"), "{report}");
}
