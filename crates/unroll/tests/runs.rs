//! Runs that are killed, interrupted, split, merged, shared, damaged, replayed: the program from
//! outside. The same bits must come out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use predicates::prelude::*;
use serde_json::{Value, json};
use unroll::experiment::Plan;
use unroll::progress::Silent;
use unroll::run::RunOptions;
use unroll_results::columns::{CLOCK_TABLES, TABLES};
use unroll_results::events::{self, Event};
use unroll_results::record::Status;
use unroll_results::{Environment, Manifest, TrialRecord, files, layout, sealed, store};

/// Twelve trials that take about a second together.
const SWEEP: &str = r#"
name = "sweep"
question = "Does it survive?"
measure = ["quality", "gradient"]

[axes]
task = ["adding"]
length = [6]
arch = ["gru", "rnn", "transformer"]
seed = [0, 1]

[model]
hidden_size = 4
num_heads = 2

[train]
steps = 300
eval_every = 100
batch_size = 4

[task.adding]
eval_examples = 20

[evaluate]
lengths = [9]

[gradient]
examples = 2
"#;

/// One trial that takes a while.
const LONG: &str = r#"
name = "long"
question = "Can it be put down?"

[axes]
task = ["adding"]
length = [20]
arch = ["lstm"]

[train]
steps = 3000
eval_every = 500
"#;

fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.env("NO_COLOR", "1");
    command
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.path("experiment.toml");
        // Never again while a program that was started before reads it.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
            std::fs::write(&path, text).unwrap();
        }
        path
    }

    /// `unroll run` of an experiment into `out`.
    fn run(&self, text: &str, out: &str, options: &[&str]) -> assert_cmd::assert::Assert {
        let file = self.file(text);
        unroll().arg("run").arg(file).args(options).arg("--out").arg(self.path(out)).assert()
    }

    /// The same in the background.
    fn spawn(&self, text: &str, out: &str, options: &[&str]) -> Child {
        let file = self.file(text);
        Process::new(cargo_bin("unroll"))
            .arg("run")
            .arg(file)
            .args(options)
            .arg("--out")
            .arg(self.path(out))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// The tables that do not depend on the clock, in both formats.
fn tables(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for table in TABLES.iter().filter(|table| !CLOCK_TABLES.contains(table)) {
        for extension in ["csv", "parquet"] {
            let name = format!("{table}.{extension}");
            let bytes = std::fs::read(out.join("tables").join(&name)).unwrap();
            all.insert(name, bytes);
        }
    }
    all
}

fn same_tables(a: &Path, b: &Path) {
    for ((name, a), (_, b)) in tables(a).iter().zip(&tables(b)) {
        assert!(a == b, "{name} differs");
    }
}

/// Records of a folder, in the order of the manifest.
fn records(out: &Path) -> Vec<TrialRecord> {
    let manifest = Manifest::read(out).unwrap();
    manifest.trials.iter().filter_map(|trial| store::find(out, &trial.id).unwrap()).collect()
}

fn all_events(out: &Path) -> Vec<Event> {
    let logs = events::read_all(out).unwrap();
    assert!(logs.iter().all(|log| log.damaged.is_empty()));
    logs.into_iter().flat_map(|log| log.events).map(|(_, event)| event).collect()
}

/// Nothing of an unfinished run is left.
fn is_tidy(out: &Path) {
    assert!(files::temporaries(out).unwrap().is_empty());
    for folder in [layout::CLAIMS, layout::CHECKPOINTS] {
        assert!(!out.join(folder).exists(), "{folder} is left");
    }
    let hidden: Vec<_> = std::fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

fn signal(child: &Child, name: &str) {
    let status = Process::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits until something holds.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(out: &Path) -> Option<Value> {
    let output = unroll().arg("status").arg(out).arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

#[test]
fn ids_of_trials_stay_what_they_are() {
    let folder = Folder::new();
    let text = SWEEP.replace(r#"["adding"]"#, r#"["adding", "japanese_vowels"]"#);
    let file = folder.file(&text);
    let output = unroll().arg("plan").arg(file).arg("--json").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<String> = plan["trials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| {
            let spec = &trial["spec"];
            format!(
                "{} {} {} {} {}",
                trial["id"].as_str().unwrap(),
                spec["kind"].as_str().unwrap(),
                spec["arch"].as_str().unwrap(),
                spec["task"].as_str().unwrap(),
                spec["seed"]
            )
        })
        .collect();
    // A change here means that finished trials of users run again: raise ALGORITHM if results change,
    // and give new settings a default that is left out of the meaning if they do not.
    insta::assert_snapshot!(lines.join("\n"));
}

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

fn all_events_if_any(out: &Path) -> Vec<Event> {
    events::read_all(out)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|log| log.events)
        .map(|(_, event)| event)
        .collect()
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

/// Replaces a record by one that says something else, sealed as it should be.
fn change(out: &Path, index: usize, change: impl FnOnce(&mut TrialRecord)) -> String {
    let mut record = records(out).remove(index);
    change(&mut record);
    store::write(out, &record).unwrap();
    record.id
}

#[test]
fn replaying_finds_the_step_where_results_part() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let replay = |id: &str| unroll().arg("replay").arg(&out).arg(id).assert();
    unroll()
        .arg("replay")
        .arg(&out)
        .args(["--threads", "1"])
        .assert()
        .success()
        .stdout(predicate::str::contains("12 the same to the bit"));

    let id = change(&out, 0, |record| {
        let trace = record.trace.as_mut().unwrap();
        assert_eq!(trace.every, 2);
        trace.weights[7..].fill("0000000000000000".into());
        record.curve[2].validation += 1e-12;
    });
    replay(&id[..8])
        .code(5)
        .stdout(
            predicate::str::contains("training step 16").and(predicate::str::contains("14 steps")),
        )
        .stdout(predicate::str::contains("curve.2.validation"));

    // A record of another machine need not be the same, but must be close.
    let mut there = Environment::read(&out, &records(&out)[0].timing.environment).unwrap();
    there.cpu = Some("another processor".into());
    let there = there.write(&out).unwrap();
    let id = change(&out, 0, |record| record.timing.environment.clone_from(&there));
    replay(&id).success().stdout(
        predicate::str::contains("another processor").and(predicate::str::contains("tolerance")),
    );
    let id = change(&out, 0, |record| record.curve[0].validation *= 1.1);
    replay(&id).code(5).stdout(predicate::str::contains("beyond the tolerance"));

    replay("zzz").code(2).stderr(predicate::str::contains("zzz"));
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
fn a_second_signal_ends_the_program_at_once() {
    let folder = Folder::new();
    // Speed is measured for a while that no signal cuts short.
    let text = SWEEP.replace(r#""gradient"]"#, r#""throughput"]"#)
        + "\n[throughput]\nmin_seconds = 30.0\n";
    let mut child = folder.spawn(&text, "out", &[]);
    let out = folder.path("out");
    wait_for("the first measurement", || {
        let started = |event: &&Event| matches!(event, Event::TrialStarted { .. });
        all_events_if_any(&out).iter().filter(started).count() > 6
    });
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the first signal lets the measurement end");
    let begin = Instant::now();
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(begin.elapsed() < Duration::from_secs(10));
    let states = status(&out).unwrap();
    assert_eq!(states["counts"]["finished"], json!(6), "{states}");
    // What it held is free again.
    let short = text.replace("30.0", "0.0");
    folder.run(&short, "out", &[]).success().stdout(predicate::str::contains("6 from before"));
}

#[test]
fn damaged_records_are_set_aside_and_run_again() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let ids: Vec<String> = records(&out).into_iter().map(|record| record.id).collect();
    let path = |index: usize| store::path(&out, &ids[index]).unwrap();
    let whole = std::fs::read(path(0)).unwrap();
    std::fs::write(path(0), &whole[..whole.len() / 3]).unwrap();
    let mut flipped = std::fs::read(path(5)).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    std::fs::write(path(5), flipped).unwrap();
    std::fs::write(path(7), "").unwrap();

    unroll().arg("verify").arg(&out).assert().code(1).stdout(
        predicate::str::contains(&ids[0])
            .and(predicate::str::contains(&ids[5]))
            .and(predicate::str::contains(&ids[7])),
    );
    unroll().arg("report").arg(&out).assert().code(2).stderr(predicate::str::contains("damaged"));
    folder
        .run(SWEEP, "out", &[])
        .success()
        .stderr(predicate::str::contains("the trial runs again").count(3));
    same_tables(&folder.path("whole"), &out);
    assert_eq!(files::stems(&out.join(layout::DAMAGED), "json").unwrap().len(), 3);
    unroll().arg("verify").arg(&out).assert().success();
}

#[test]
fn a_damaged_manifest_is_made_again() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let path = out.join(layout::MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("300", "301", 1)).unwrap();
    for command in ["status", "verify"] {
        unroll()
            .arg(command)
            .arg(&out)
            .assert()
            .code(1)
            .stderr(predicate::str::contains("checksum"));
    }
    folder.run(SWEEP, "out", &[]).success().stdout(predicate::str::contains("12 from before"));
    unroll().arg("verify").arg(&out).assert().success();
}

#[test]
fn a_folder_of_a_newer_version_is_left_alone() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let newer = |path: &Path, bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).unwrap();
        let mut content = value["content"].clone();
        content["schema"] = json!(99);
        sealed::to_bytes(path, &content).unwrap()
    };
    let record = store::path(&out, &records(&out)[4].id).unwrap();
    for path in [record, out.join(layout::MANIFEST)] {
        let before = std::fs::read(&path).unwrap();
        let changed = newer(&path, &before);
        std::fs::write(&path, &changed).unwrap();
        let message = predicate::str::contains("newer version").and(predicate::str::contains("99"));
        folder.run(SWEEP, "out", &[]).code(6).stderr(message);
        assert_eq!(std::fs::read(&path).unwrap(), changed, "nothing is overwritten");
        std::fs::write(&path, before).unwrap();
    }
    folder.run(SWEEP, "out", &[]).success();
}

#[test]
fn a_changed_experiment_keeps_what_means_the_same() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let first = Manifest::read(&out).unwrap();
    let more = SWEEP.replace("seed = [0, 1]", "seed = [0, 1, 2]");
    folder
        .run(&more, "out", &[])
        .success()
        .stdout(predicate::str::contains("18 of 18 trials, 12 from before"))
        .stderr(predicate::str::contains("has changed"));
    let kept = files::stems(&out.join(layout::MANIFESTS), "json").unwrap();
    assert_eq!(kept, [first.id]);
    folder.run(&more, "fresh", &[]).success();
    same_tables(&folder.path("fresh"), &out);
    // A question is no meaning: nothing runs again.
    let asked = more.replace("Does it survive?", "Does it really?");
    folder.run(&asked, "out", &[]).success().stdout(predicate::str::contains("18 from before"));
}

#[test]
fn results_of_another_build_are_kept_with_a_warning() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success().stderr(predicate::str::contains("build").not());
    let out = folder.path("out");
    let mut other = Environment::read(&out, &records(&out)[0].timing.environment).unwrap();
    other.sources = "another".into();
    let other = other.write(&out).unwrap();
    change(&out, 0, |record| record.timing.environment.clone_from(&other));
    folder
        .run(SWEEP, "out", &[])
        .success()
        .stdout(predicate::str::contains("12 from before"))
        .stderr(
            predicate::str::contains("1 trials of this folder")
                .and(predicate::str::contains("replay")),
        );
}

#[test]
fn a_second_finisher_with_other_bits_is_reported() {
    // What a process finds that was thought dead and finishes late.
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let mut late = records(&out).remove(0);
    late.curve[1].train_loss *= 1.0 + 1e-9;
    assert!(matches!(store::keep(&out, &late).unwrap(), store::Kept::Conflict(_)));
    unroll()
        .arg("verify")
        .arg(&out)
        .assert()
        .code(1)
        .stdout(predicate::str::contains("gave other bits"));
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
