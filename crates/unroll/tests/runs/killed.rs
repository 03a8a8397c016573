//! Runs that are killed, interrupted, or meet a trial that fails.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use predicates::prelude::*;
use serde_json::json;
use unroll::experiment::Plan;
use unroll::progress::Silent;
use unroll::run::RunOptions;
use unroll_results::events::Event;
use unroll_results::record::{Status, TrialKind};
use unroll_results::{files, layout};

use crate::support::*;

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    let out = folder.path("killed");
    let mut kills = 0;
    // Later and later, so that it dies in different places; checkpoints all the time.
    for wait in (20..).step_by(60) {
        let mut child = folder.spawn(SWEEP, "killed", &["--checkpoint-every", "0.01"]);
        std::thread::sleep(Duration::from_millis(wait));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills >= 3, "{kills} kills are no test");
    folder.run(SWEEP, "killed", &[]).success();
    same_tables(&folder.path("whole"), &out);
    is_tidy(&out);
    unroll().arg("verify").arg(&out).assert().success();
    // What was measured before it was killed is there too, once and in order.
    for record in records(&out) {
        let mut gradients: Vec<u64> = record.gradient.iter().map(|point| point.step).collect();
        gradients.dedup();
        let jacobians: Vec<u64> = record.jacobians.iter().map(|jacobian| jacobian.step).collect();
        let trained = record.kind == TrialKind::Quality;
        assert_eq!(gradients, if trained { &[0, 90, 100, 180, 270, 300][..] } else { &[0] });
        let fixed_state = record.cell.architecture != "transformer";
        let thorough: &[u64] = if trained { &[0, 100, 300] } else { &[0] };
        assert_eq!(jacobians, if fixed_state { thorough } else { &[] });
    }
}

/// Weights, moments and gradients of 16 bits survive as well, and learn.
#[test]
fn bf16_learns_and_goes_on_to_the_same_bits() {
    let text = LONG
        .replace(r#"arch = ["lstm"]"#, "arch = [\"gru\", \"mha\"]\ndtype = [\"f32\", \"bf16\"]")
        .replace("length = [20]", "length = [8]")
        .replace("steps = 3000", "steps = 500\nlearning_rate = 0.01");
    let folder = Folder::new();
    folder.run(&text, "whole", &[]).success();
    let (whole, out) = (folder.path("whole"), folder.path("killed"));
    let mut child = folder.spawn(&text, "killed", &["--checkpoint-every", "0.01"]);
    wait_for("a checkpoint", || {
        let mut checkpoints = std::fs::read_dir(out.join("checkpoints")).into_iter().flatten();
        checkpoints.next().is_some()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    folder.run(&text, "killed", &[]).success();
    same_tables(&whole, &out);
    let records = records(&whole);
    assert_eq!(records.len(), 4);
    for record in records {
        let (first, last) = (record.curve.first().unwrap(), record.curve.last().unwrap());
        assert!(last.validation < 0.5 * first.validation, "{:?}: {last:?}", record.cell);
    }
    let table = std::fs::read_to_string(whole.join("tables/trials.csv")).unwrap();
    assert!(table.contains("dtype=bf16") && table.contains("dtype=f32"), "{table}");
}

#[test]
fn an_interrupted_trial_goes_on_from_its_checkpoint() {
    let folder = Folder::new();
    folder.run(LONG, "whole", &[]).success();
    let out = folder.path("out");
    for name in ["INT", "TERM", "USR1"] {
        let mut child = folder.spawn(LONG, "out", &[]);
        wait_for("progress", || {
            let begun = all_events_if_any(&out);
            begun.iter().filter(|event| matches!(event, Event::TrialStarted { .. })).count()
                > begun.iter().filter(|event| matches!(event, Event::TrialPaused { .. })).count()
        });
        std::thread::sleep(Duration::from_millis(150));
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(75), "{name}");
        let states = status(&out).unwrap();
        assert_eq!(states["counts"]["paused"], json!(1), "{states}");
    }
    unroll().arg("status").arg(&out).assert().code(7).stdout(predicate::str::contains("paused"));
    folder.run(LONG, "out", &[]).success();
    let resumed_at: Vec<u64> = all_events(&out)
        .iter()
        .filter_map(|event| match event {
            Event::TrialStarted { step, .. } => Some(*step),
            _ => None,
        })
        .collect();
    assert!(resumed_at.iter().any(|&step| step > 0), "{resumed_at:?}");
    same_tables(&folder.path("whole"), &out);
    assert_eq!(
        records(&out)[0].fingerprint(),
        records(&folder.path("whole"))[0].fingerprint(),
        "every hash of the weights is the same"
    );
    is_tidy(&out);
}

#[test]
fn a_damaged_checkpoint_is_not_believed() {
    let folder = Folder::new();
    folder.run(LONG, "whole", &[]).success();
    let out = folder.path("out");
    let mut child = folder.spawn(LONG, "out", &["--checkpoint-every", "0.02"]);
    let checkpoint = |extension: &str| {
        files::stems(&out.join(layout::CHECKPOINTS), extension).unwrap_or_default().pop()
    };
    wait_for("a checkpoint", || checkpoint("checkpoint").is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    let name = checkpoint("checkpoint").unwrap();
    let path = layout::file_of(&out, layout::CHECKPOINTS, &name, "checkpoint").unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 9;
    bytes[end] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    folder.run(LONG, "out", &[]).success();
    same_tables(&folder.path("whole"), &out);
    let set_aside = |event: &Event| matches!(event, Event::SetAside { message, .. } if message.contains("checksum"));
    assert!(all_events(&out).iter().any(set_aside));
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let folder = Folder::new();
    // One pass over such a batch takes seconds, and no signal cuts it short.
    let text = SWEEP
        .replace(r#""quality", "gradient"]"#, r#""throughput"]"#)
        .replace(r#"["gru", "rnn", "transformer"]"#, r#"["lstm"]"#)
        .replace("length = [6]", "length = [200]")
        .replace("hidden_size = 4", "hidden_size = 1024")
        + "\n[throughput]\nbatch_size = 256\n";
    let mut child = folder.spawn(&text, "out", &[]);
    let out = folder.path("out");
    wait_for("the first measurement", || {
        let started = |event: &&Event| matches!(event, Event::TrialStarted { .. });
        all_events_if_any(&out).iter().any(|event| started(&event))
    });
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the first signal lets the measurement end");
    let begin = Instant::now();
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(begin.elapsed() < Duration::from_secs(10));
    let states = status(&out).unwrap();
    // What it held is free again.
    assert_eq!(states["counts"]["missing"], json!(1), "{states}");
}

#[test]
fn failing_fast_and_going_on_both_leave_a_run_that_can_be_resumed() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    let out = folder.path("out");
    let mut plan = Plan::read(&folder.file(SWEEP), &[], None).unwrap();
    // A trial that cannot run, under the name of one that can.
    plan.trials[2].spec.arch = "gone".into();
    let run = |fail_fast: bool| {
        let options = RunOptions {
            out: out.clone(),
            jobs: 1,
            threads: 1,
            shard: None,
            retry_failed: false,
            fail_fast,
            keep_weights: false,
            checkpoint_every: Duration::from_secs(60),
            command: "a test".into(),
        };
        let outcome = unroll::run::run(&plan, &options, &Silent, &AtomicBool::new(false)).unwrap();
        (outcome.ran, outcome.reused, outcome.failed, outcome.missing())
    };
    assert_eq!(run(true), (2, 0, 1, 9), "the first failure ends the run");
    assert_eq!(run(true), (9, 2, 1, 0), "a failure of before does not");
    std::fs::remove_dir_all(&out).unwrap();
    assert_eq!(run(false), (11, 0, 1, 0));
    // Mended, the failed one alone is left to run.
    folder
        .run(SWEEP, "out", &["--retry", "failed"])
        .success()
        .stdout(predicate::str::contains("12 of 12 trials, 11 from before"));
    same_tables(&folder.path("whole"), &out);
}

#[test]
fn failed_trials_run_again_only_when_asked() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let id = change(&out, 3, |record| {
        record.status = Status::Failed { message: "the machine was on fire".into() };
        record.quality = None;
    });
    let ended = || {
        let ended =
            |event: &Event| matches!(event, Event::TrialEnded { trial, .. } if *trial == id);
        all_events(&out).iter().filter(|event| ended(event)).count()
    };
    folder.run(SWEEP, "out", &[]).code(1).stderr(predicate::str::contains("--retry failed"));
    assert_eq!(ended(), 1, "it did not run again");
    unroll().arg("status").arg(&out).assert().code(1).stdout(predicate::str::contains("on fire"));
    folder.run(SWEEP, "out", &["--retry", "failed"]).success();
    assert_eq!(ended(), 2);
    same_tables(&folder.path("whole"), &out);
    let total = all_events(&out).iter().filter(|e| matches!(e, Event::TrialEnded { .. })).count();
    assert_eq!(total, 13, "only the failed one ran again");
}
