//! Runs that are shared by threads, processes and machines.

use predicates::prelude::*;
use serde_json::json;
use unroll_results::events::Event;
use unroll_results::{Manifest, store};

use crate::support::*;

#[test]
fn results_depend_on_neither_threads_nor_jobs() {
    let folder = Folder::new();
    // Large enough that kernels and products do split their work, by sequences and by units.
    let large = SWEEP
        .replace("[6]", "[30]")
        .replace(r#""gru", "rnn", "transformer"]"#, r#""gru", "lstm", "transformer", "additive"]"#)
        .replace("seed = [0, 1]", "\"train.batch_size\" = [1, 33]")
        .replace("hidden_size = 4", "hidden_size = 96\nnum_layers = 2")
        .replace("steps = 300", "steps = 3")
        .replace("eval_every = 100", "eval_every = 3");
    for (name, text) in [("small", SWEEP), ("large", &large)] {
        let out = |kind: &str| format!("{name}-{kind}");
        folder.run(text, &out("one"), &["--threads", "1", "--jobs", "1"]).success();
        for (kind, threads, jobs) in [("two", "2", "2"), ("three", "3", "1")] {
            folder.run(text, &out(kind), &["--threads", threads, "--jobs", jobs]).success();
            same_tables(&folder.path(&out("one")), &folder.path(&out(kind)));
        }
    }
}

#[test]
fn shards_merge_to_the_bytes_of_one_run() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    for count in 1..=7 {
        let mut dirs = Vec::new();
        for index in 1..=count {
            let out = format!("shard-{index}-of-{count}");
            let shard = format!("{index}/{count}");
            folder.run(SWEEP, &out, &["--shard", &shard]).success();
            dirs.push(folder.path(&out));
        }
        let held: usize = dirs.iter().map(|dir| store::ids(dir).unwrap().len()).sum();
        assert_eq!(held, 12, "every trial is in one shard");
        for turn in 0..3 {
            let out = folder.path(&format!("merged-{turn}-of-{count}"));
            unroll().arg("merge").args(&dirs).arg("--out").arg(&out).assert().success();
            same_tables(&folder.path("whole"), &out);
            unroll().arg("verify").arg(&out).assert().success();
            if turn == 0 {
                dirs.reverse();
            } else {
                dirs.rotate_left(count / 2);
            }
        }
    }
    // The shards in one folder are a whole run too.
    for shard in ["2/2", "1/2"] {
        folder.run(SWEEP, "together", &["--shard", shard]).success();
    }
    same_tables(&folder.path("whole"), &folder.path("together"));
    for shard in ["0/2", "3/2", "1", "a/b"] {
        folder.run(SWEEP, "none", &["--shard", shard]).code(2);
    }
}

#[test]
fn merging_says_what_is_missing_and_refuses_other_experiments() {
    let folder = Folder::new();
    folder.run(SWEEP, "half", &["--shard", "1/2"]).success();
    let merge = |dirs: &[&str]| {
        let dirs = dirs.iter().map(|dir| folder.path(dir));
        unroll().arg("merge").args(dirs).arg("--out").arg(folder.path("merged")).assert()
    };
    merge(&["half"]).code(7).stderr(predicate::str::contains("missing: ").count(6));
    let other = SWEEP.replace("steps = 300", "steps = 301");
    folder.run(&other, "other", &["--shard", "2/2"]).success();
    merge(&["half", "other"]).code(6).stderr(predicate::str::contains("train.steps"));
    merge(&["nothing"]).code(2).stderr(predicate::str::contains("not a result folder"));
}

#[test]
fn two_processes_share_a_folder() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    let mut both = [(); 2].map(|()| folder.spawn(SWEEP, "shared", &["--threads", "1"]));
    for child in &mut both {
        assert!(child.wait().unwrap().success());
    }
    let out = folder.path("shared");
    same_tables(&folder.path("whole"), &out);
    is_tidy(&out);
    let events = all_events(&out);
    let ended = |event: &&Event| matches!(event, Event::TrialEnded { .. });
    assert_eq!(events.iter().filter(ended).count(), 12, "no trial ran twice");
}

#[test]
fn a_second_experiment_does_not_disturb_one_that_runs() {
    let folder = Folder::new();
    let mut child = folder.spawn(LONG, "out", &[]);
    let out = folder.path("out");
    wait_for("the first run", || {
        all_events_if_any(&out).iter().any(|event| matches!(event, Event::TrialStarted { .. }))
    });
    folder.run(SWEEP, "out", &[]).code(6).stderr(predicate::str::contains("--out"));
    assert!(child.wait().unwrap().success());
    assert_eq!(Manifest::read(&out).unwrap().experiment, "long");
}

#[test]
fn status_works_while_another_process_runs() {
    let folder = Folder::new();
    let long = LONG.replace("steps = 3000", "steps = 1000000");
    let mut child = folder.spawn(&long, "out", &[]);
    let out = folder.path("out");
    wait_for("a running trial", || {
        status(&out).is_some_and(|status| status["counts"]["running"] == json!(1))
    });
    // The first heartbeat tells how far it is.
    wait_for("a heartbeat", || {
        status(&out)
            .is_some_and(|status| status["trials"][0]["progress"]["done"].as_u64() > Some(0))
    });
    unroll()
        .arg("status")
        .arg(&out)
        .assert()
        .code(7)
        .stdout(predicate::str::contains("running on").and(predicate::str::contains("of 1000000")));
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    unroll().arg("status").arg(folder.path("nothing")).assert().code(2);
}

#[test]
fn slurm_scripts_can_be_looked_at_before() {
    let folder = Folder::new();
    let file = folder.file(SWEEP);
    let submit = || {
        let mut command = unroll();
        command.args(["submit", "slurm"]).arg(&file).arg("--out").arg(folder.path("out"));
        command
    };
    submit()
        .args(["--tasks", "4", "--time", "00:10:00", "--sbatch=--partition=cpu", "--print"])
        .assert()
        .success()
        .stdout(
            predicate::str::contains("#SBATCH --array=1-4")
                .and(predicate::str::contains("#SBATCH --partition=cpu"))
                .and(predicate::str::contains("merge")),
        );
    assert!(!folder.path("out").exists(), "--print writes nothing");
    submit().env("PATH", "").assert().code(1).stderr(predicate::str::contains("sbatch"));
    let wrong = folder.file(&SWEEP.replace("steps = 300", "steps = 0"));
    unroll().args(["submit", "slurm"]).arg(wrong).arg("--print").assert().code(2);
}
