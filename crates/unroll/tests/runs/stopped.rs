//! Measurements that are interrupted, and what is said about a folder's state.

use std::time::{Duration, Instant};

use predicates::prelude::*;
use serde_json::Value;
use unroll_results::record::TrialKind;
use unroll_results::{files, layout};

use crate::support::*;

/// A sweep that begins with one quick trial, then measures for minutes.
const MEASURED: &str = r#"
name = "measured"
question = "Can a measurement be put down?"
measure = ["gradient"]

[axes]
task = ["adding"]
length = [6]
arch = ["lstm"]

[model]
hidden_size = 8
num_heads = 2

[throughput]
min_seconds = 600.0
"#;

/// Interrupts a run after a second: how it ended, and how long that took.
fn interrupted(folder: &Folder, text: &str) -> Duration {
    let mut child = folder.spawn(text, "out", &["--threads", "2"]);
    let begun = || {
        let events = all_events_if_any(&folder.path("out"));
        events
            .iter()
            .any(|event| matches!(event, unroll_results::events::Event::TrialStarted { .. }))
    };
    wait_for("a trial", begun);
    std::thread::sleep(Duration::from_secs(1));
    signal(&child, "INT");
    let asked = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    asked.elapsed()
}

#[test]
fn measurements_stop_when_they_are_asked_to() {
    let throughput = MEASURED.replace("\"gradient\"", "\"throughput\"");
    let recurrent = MEASURED.replace("length = [6]", "length = [200000]");
    let attention = MEASURED
        .replace("length = [6]", "length = [4000]")
        .replace("\"lstm\"", "\"transformer\"")
        .replace("[throughput]", "[gradient]\nexamples = 500\n[throughput]");
    let jacobian = MEASURED
        .replace("length = [6]", "length = [20000]")
        .replace("[throughput]", "[gradient]\nexamples = 1\n[gradient.jacobian]\n[throughput]")
        .replace("hidden_size = 8", "hidden_size = 64");
    for text in [throughput, recurrent, attention, jacobian] {
        let folder = Folder::new();
        let took = interrupted(&folder, &text);
        assert!(took < Duration::from_secs(20), "{took:?} for {text}");
    }
}

/// A measurement in training that is interrupted is made when the training goes on, of the same weights.
#[test]
fn measurements_in_training_are_made_in_the_end() {
    let text = MEASURED
        .replace("[\"gradient\"]", "[\"quality\", \"gradient\"]")
        .replace("length = [6]", "length = [600]")
        .replace(
            "[throughput]",
            "[train]\nsteps = 3\neval_every = 3\nbatch_size = 2\n[task.adding]\neval_examples = 2\n\
             [gradient]\nexamples = 100\nevery = 1\n[throughput]",
        );
    let folder = Folder::new();
    folder.run(&text, "whole", &[]).success();
    let steps = |name: &str| {
        let records = records(&folder.path(name));
        let trained = records.into_iter().find(|record| record.kind == TrialKind::Quality).unwrap();
        let mut steps: Vec<u64> = trained.gradient.iter().map(|point| point.step).collect();
        steps.dedup();
        steps
    };
    assert_eq!(steps("whole"), [0, 1, 2, 3]);
    for wait in (60..).step_by(150) {
        let mut child = folder.spawn(&text, "out", &[]);
        std::thread::sleep(Duration::from_millis(wait));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        signal(&child, "INT");
        child.wait().unwrap();
    }
    folder.run(&text, "out", &[]).success();
    assert_eq!(steps("out"), [0, 1, 2, 3]);
    same_tables(&folder.path("whole"), &folder.path("out"));
}

#[test]
fn times_with_other_numbers_of_threads_are_told_apart() {
    let text = MEASURED
        .replace("\"gradient\"", "\"throughput\"")
        .replace("600.0", "0.0\nmin_iterations = 1\nbatch_size = 2");
    let folder = Folder::new();
    folder.run(&text, "out", &["--threads", "2"]).success();
    let same = folder.run(&text, "out", &["--threads", "2"]).success();
    same.stderr(predicate::str::contains("do not compare").not());
    let more = text.replace(r#"["lstm"]"#, r#"["lstm", "gru"]"#);
    folder
        .run(&more, "out", &["--threads", "1"])
        .success()
        .stderr(predicate::str::contains("1 throughput trial of this folder had 2 threads"));
    for table in ["throughput", "timings"] {
        let path = folder.path("out").join(format!("tables/{table}.csv"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut last: Vec<&str> =
            text.lines().map(|line| line.rsplit(',').next().unwrap()).collect();
        last.dedup();
        assert_eq!(last, ["threads", "2", "1"], "{table}");
    }
}

#[test]
fn a_report_tidies_up_after_a_run_that_was_killed() {
    let folder = Folder::new();
    let text = SWEEP.replace("seed = [0, 1]", "seed = [0]").replace("steps = 300", "steps = 3");
    folder.run(&text, "out", &[]).success();
    let out = folder.path("out");
    let left = ["tables/.trials.csv.Ab12Cd", ".REPORT.md.Ab12Cd", ".reserve-host-1-0"];
    let leave = || left.iter().for_each(|name| std::fs::write(out.join(name), "x").unwrap());
    leave();
    unroll().arg("verify").arg(&out).assert().success().stdout(
        predicate::str::contains("left by an interrupted write")
            .count(2)
            .and(predicate::str::contains(".reserve-host-1-0: room set aside")),
    );
    unroll().arg("report").arg(&out).assert().success();
    is_tidy(&out);
    leave();
    unroll().arg("merge").arg(&out).arg("--out").arg(&out).assert().success();
    is_tidy(&out);
}

#[test]
fn a_changed_experiment_does_not_verify() {
    let folder = Folder::new();
    let text = SWEEP.replace("seed = [0, 1]", "seed = [0]").replace("steps = 300", "steps = 3");
    // Settings over the file are no change of the file.
    folder.run(&text, "out", &["--set", "axes.arch=[\"gru\"]"]).success();
    let out = folder.path("out");
    unroll().arg("verify").arg(&out).assert().success();
    std::fs::write(out.join(layout::EXPERIMENT), text.replace("steps = 3", "steps = 30")).unwrap();
    let verified = unroll().arg("verify").arg(&out).assert().code(1);
    verified.stdout(predicate::str::contains("experiment.toml: not the experiment"));
}

/// What a folder calls its experiment is what its results come from, `--set` included.
#[test]
fn the_experiment_of_a_folder_is_what_ran() {
    let folder = Folder::new();
    let text = SWEEP.replace("seed = [0, 1]", "seed = [0]").replace("steps = 300", "steps = 3");
    let out = folder.path("out");
    let kept = || std::fs::read_to_string(out.join(layout::EXPERIMENT)).unwrap();
    folder.run(&text, "out", &["--set", "axes.arch=[\"gru\"]"]).success();
    folder.run(&text, "out", &["--set", "axes.arch=[\"gru\"]", "--set", "train.steps=4"]).success();
    assert!(kept().contains("\nsteps = 4\n") && kept().contains("# --set \"train.steps=4\""));
    unroll().arg("verify").arg(&out).assert().success();
    // Run from there, it is the same experiment.
    let plan = unroll().arg("plan").arg(out.join(layout::EXPERIMENT)).arg("--json").assert();
    let plan: Value = serde_json::from_slice(&plan.get_output().stdout).unwrap();
    assert_eq!(plan["manifest"], unroll_results::Manifest::read(&out).unwrap().id);
}

#[test]
fn a_folder_without_results_says_so() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    let out = folder.path("empty");
    files::create_dir(&out.join(layout::TRIALS)).unwrap();
    std::fs::copy(folder.path("whole").join(layout::MANIFEST), out.join(layout::MANIFEST)).unwrap();
    let report = unroll().arg("report").arg(&out).assert().code(7);
    report.stdout(predicate::str::contains("no results yet: 12 trials are planned"));
    let status = unroll().arg("status").arg(&out).assert().code(7);
    status.stdout(predicate::str::contains("; 0 % of the counted work done"));
    let json: Value = super::support::status(&out).unwrap();
    assert!(json["work_done"].as_f64().unwrap().is_sign_positive(), "{json}");
}

#[test]
fn weights_and_checkpoints_of_earlier_runs_are_spoken_of() {
    let folder = Folder::new();
    let text = SWEEP.replace("[\"quality\", \"gradient\"]", "[\"quality\"]");
    let text = text.replace("seed = [0, 1]", "seed = [0]").replace("steps = 300", "steps = 3");
    folder.run(&text, "out", &[]).success();
    let checkpoints = folder.path("out").join(layout::CHECKPOINTS);
    files::create_dir(&checkpoints).unwrap();
    std::fs::write(checkpoints.join("0123456789abcdef.checkpoint"), vec![0; 2000]).unwrap();
    let run = folder.run(&text, "out", &["--keep-weights"]).success();
    run.stderr(
        predicate::str::contains("3 trials had finished before without keeping weights")
            .and(predicate::str::contains("holds 1 checkpoint (2.00 kB)")),
    );
    let run = folder.run(&text, "new", &["--keep-weights"]).success();
    run.stderr(predicate::str::contains("weights").not());
}
