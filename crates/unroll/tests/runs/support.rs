//! What the tests of runs share.

#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use serde_json::Value;
use unroll_results::columns::{CLOCK_TABLES, TABLES};
use unroll_results::events::{self, Event};
use unroll_results::{Manifest, TrialRecord, files, layout, store};

/// Twelve trials that take about a second together.
pub const SWEEP: &str = r#"
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
every = 90
at_steps = [100]
jacobian = {}
"#;

/// One trial that takes a while.
pub const LONG: &str = r#"
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

pub fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.env("NO_COLOR", "1");
    command
}

pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, text: &str) -> PathBuf {
        let path = self.path("experiment.toml");
        // Never again while a program that was started before reads it.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text) {
            std::fs::write(&path, text).unwrap();
        }
        path
    }

    /// `unroll run` of an experiment into `out`.
    pub fn run(&self, text: &str, out: &str, options: &[&str]) -> assert_cmd::assert::Assert {
        let file = self.file(text);
        unroll().arg("run").arg(file).args(options).arg("--out").arg(self.path(out)).assert()
    }

    /// The same in the background.
    pub fn spawn(&self, text: &str, out: &str, options: &[&str]) -> Child {
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
pub fn tables(out: &Path) -> BTreeMap<String, Vec<u8>> {
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

pub fn same_tables(a: &Path, b: &Path) {
    for ((name, a), (_, b)) in tables(a).iter().zip(&tables(b)) {
        assert!(a == b, "{name} differs");
    }
}

/// Records of a folder, in the order of the manifest.
pub fn records(out: &Path) -> Vec<TrialRecord> {
    let manifest = Manifest::read(out).unwrap();
    manifest.trials.iter().filter_map(|trial| store::find(out, &trial.id).unwrap()).collect()
}

pub fn all_events(out: &Path) -> Vec<Event> {
    let logs = events::read_all(out).unwrap();
    assert!(logs.iter().all(|log| log.damaged.is_empty()));
    logs.into_iter().flat_map(|log| log.events).map(|(_, event)| event).collect()
}

/// Nothing of an unfinished run is left.
pub fn is_tidy(out: &Path) {
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

pub fn signal(child: &Child, name: &str) {
    let status = Process::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// Waits until something holds.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(120), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn status(out: &Path) -> Option<Value> {
    let output = unroll().arg("status").arg(out).arg("--json").output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

pub fn all_events_if_any(out: &Path) -> Vec<Event> {
    events::read_all(out)
        .unwrap_or_default()
        .into_iter()
        .flat_map(|log| log.events)
        .map(|(_, event)| event)
        .collect()
}

/// Replaces a record by one that says something else, sealed as it should be.
pub fn change(out: &Path, index: usize, change: impl FnOnce(&mut TrialRecord)) -> String {
    let mut record = records(out).remove(index);
    change(&mut record);
    store::write(out, &record).unwrap();
    record.id
}
