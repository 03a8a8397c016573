//! Whatever bytes are found on disk: an error that names the place, or what was written. Never a panic,
//! and never a number that was not there.
//!
//! Each property takes a sound file and damages it: bits flipped, bytes replaced, pieces cut, doubled,
//! moved. `PROPTEST_CASES=100000 cargo test --release -p unroll --test fuzz` tries longer.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use common::vectors;
use proptest::prelude::*;
use unroll::eval::{self, EvalRequest};
use unroll::experiment::Plan;
use unroll::progress::Silent;
use unroll::trial::{self, Outcome, Surroundings};
use unroll_core::weights::TensorFile;
use unroll_core::{BuildContext, Form};
use unroll_results::record::SCHEMA;
use unroll_results::{TrialRecord, sealed};
use unroll_tasks::TaskRequest;
use unroll_train::{Progress, TaskModel, TrainConfig, Trainer};

/// One piece of damage; positions are fractions of the length.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: f64, bit: u8 },
    Put { at: f64, bytes: Vec<u8> },
    Cut { at: f64, length: usize },
    Double { at: f64, length: usize },
    Truncate { at: f64 },
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = 0.0..1.0f64;
    // What parsers stumble over, besides noise.
    let tokens: &[&[u8]] = &[
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b"=",
        b".",
        b",",
        b"\n",
        b"\0",
        b"-",
        b"nan",
        b"inf",
        b"1e999",
        b"18446744073709551616",
        b"-1",
        b"0",
        b"[[",
        b"'''",
        b"\\u",
        b"\xff\xfe",
        b"true",
    ];
    let token = prop::sample::select(tokens.to_vec()).prop_map(<[u8]>::to_vec);
    let noise = prop::collection::vec(any::<u8>(), 1..6);
    prop_oneof![
        (at.clone(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        (at.clone(), prop_oneof![token, noise]).prop_map(|(at, bytes)| Damage::Put { at, bytes }),
        (at.clone(), 1..40usize).prop_map(|(at, length)| Damage::Cut { at, length }),
        (at.clone(), 1..40usize).prop_map(|(at, length)| Damage::Double { at, length }),
        at.prop_map(|at| Damage::Truncate { at }),
    ]
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec(damage(), 1..5)
}

fn apply(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for damage in damages {
        let place = |at: f64| ((bytes.len() as f64 * at) as usize).min(bytes.len());
        match damage {
            Damage::Flip { at, bit } => {
                let at = place(*at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Damage::Put { at, bytes: put } => {
                let at = place(*at);
                bytes.splice(at..at, put.iter().copied());
            }
            Damage::Cut { at, length } => {
                let at = place(*at);
                bytes.drain(at..bytes.len().min(at + length));
            }
            Damage::Double { at, length } => {
                let at = place(*at);
                let piece = bytes[at..bytes.len().min(at + length)].to_vec();
                bytes.splice(at..at, piece);
            }
            Damage::Truncate { at } => bytes.truncate(place(*at)),
        }
    }
    bytes
}

const EXPERIMENT: &str = r#"
name = "fuzz"
question = "Is every wrong file refused?"
analysis = "No panic."
measure = ["quality", "gradient", "throughput"]
dtype = "f32"

[axes]
task = ["adding", "copy"]
length = [8, 9]
arch = ["gru", "lstm", "transformer"]
seed = [0, 1]
"train.learning_rate" = [0.1, 0.01]
"arch.lstm.forget_bias" = [0.0, 1.0]

[model]
hidden_size = 8
num_heads = 2

[arch.gru]
reset = "before"

[task.adding]
eval_examples = 20

[init]
weight = "orthogonal"

[match]
by = "parameters"
reference = "lstm"

[train]
optimizer = "adamw"
steps = 4
eval_every = 2
batch_size = 4
clip_norm = 1.0
betas = [0.9, 0.99]

[evaluate]
lengths = [12]

[gradient]
examples = 2

[throughput]
batch_size = 2
decode = false

[[override]]
when = { arch = "transformer" }
set = { "train.learning_rate" = 0.001 }
"#;

/// A record with every kind of number in it.
static RECORD: LazyLock<TrialRecord> = LazyLock::new(|| {
    let plan = plan(EXPERIMENT.as_bytes()).unwrap();
    let surroundings = Surroundings {
        progress: &Silent,
        interrupt: &AtomicBool::new(false),
        checkpoints: None,
        keep_weights: None,
        environment: "none",
    };
    match trial::run(&plan.trials[0], &candle_core::Device::Cpu, surroundings) {
        Outcome::Ended(record) => *record,
        Outcome::Paused(step) => panic!("paused at step {step}"),
    }
});

/// A checkpoint of a run that has begun.
static CHECKPOINT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let options = serde_json::Map::new();
    let entry = unroll_tasks::find("adding").unwrap();
    let task = (entry.build)(&TaskRequest { length: 5, seed: 1, options: &options }).unwrap();
    let context = BuildContext::cpu(candle_core::DType::F32, 1);
    let mut size = options.clone();
    size.insert("hidden_size".into(), 3.into());
    let architecture = unroll::registry::find("gru").unwrap();
    let model = TaskModel::build(task.as_ref(), architecture, &size, None, &context).unwrap();
    let config = TrainConfig { steps: 9, eval_every: 2, batch_size: 2, ..TrainConfig::default() };
    let mut trainer = Trainer::new(&model, task.as_ref(), &config).unwrap();
    trainer.run_to(5, &mut |_: &Progress<'_>| ControlFlow::Continue(())).unwrap();
    trainer.checkpoint().unwrap().to_bytes().unwrap()
});

/// A record as text: NaN is not equal to itself.
fn text(record: &TrialRecord) -> String {
    serde_json::to_string(record).unwrap()
}

fn plan(text: &[u8]) -> Result<Plan, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("experiment.toml");
    std::fs::write(&path, text).unwrap();
    Plan::read(&path, &[], None).map_err(|error| format!("{:?}", miette::Report::new(error)))
}

fn evaluate(bytes: &[u8], name: &Path) -> Result<(), String> {
    let file = TensorFile::from_bytes(bytes, name).map_err(|error| error.to_string())?;
    let request = EvalRequest {
        arch: Some("lstm".into()),
        prefix: None,
        config: None,
        dtype: candle_core::DType::F32,
        device: candle_core::Device::Cpu,
        form: Form::Auto,
        grad: false,
        probe_last: false,
    };
    eval::run(&request, &file, &file).map(drop).map_err(|error| error.to_string())
}

#[test]
fn what_is_damaged_here_is_sound_before() {
    plan(EXPERIMENT.as_bytes()).unwrap();
    let path = Path::new("record.json");
    let bytes = sealed::to_bytes(path, &*RECORD).unwrap();
    let read: TrialRecord = sealed::from_bytes(path, &bytes, SCHEMA).unwrap();
    assert_eq!(text(&read), text(&RECORD));
    let vector = std::fs::read(vectors().join("lstm.safetensors")).unwrap();
    evaluate(&vector, Path::new("lstm.safetensors")).unwrap();
    unroll_train::Checkpoint::from_bytes(&CHECKPOINT).unwrap();
}

proptest! {
    #[test]
    fn experiment_files_are_planned_or_refused(damages in damages()) {
        let text = apply(EXPERIMENT.as_bytes(), &damages);
        if let Ok(plan) = plan(&text) {
            // What is planned can be frozen, and read from there.
            let manifest = plan.manifest();
            for trial in &manifest.trials {
                unroll::experiment::Trial::from_manifest(trial).unwrap();
            }
        }
    }

    #[test]
    fn damaged_records_are_refused_or_the_same(damages in damages()) {
        let path = Path::new("record.json");
        let bytes = sealed::to_bytes(path, &*RECORD).unwrap();
        let damaged = apply(&bytes, &damages);
        if let Ok(read) = sealed::from_bytes::<TrialRecord>(path, &damaged, SCHEMA) {
            prop_assert_eq!(text(&read), text(&RECORD));
        }
    }

    #[test]
    fn records_with_a_right_checksum_and_wrong_content_do_not_panic(damages in damages()) {
        // As another program might write them: the content is damaged before it is sealed.
        let content = serde_json::to_vec(&*RECORD).unwrap();
        let damaged = apply(&content, &damages);
        let hash = unroll_results::canonical::hash_bytes(&damaged);
        let mut bytes = format!("{{\"blake3\":\"{hash}\",\"content\":").into_bytes();
        bytes.extend_from_slice(&damaged);
        bytes.extend_from_slice(b"}\n");
        let read = sealed::from_bytes::<TrialRecord>(Path::new("r.json"), &bytes, SCHEMA);
        if let Ok(record) = read {
            let records = [record];
            let summary = unroll_results::Summary::from_records(&records);
            drop(unroll_report::terminal::summary_table(&summary));
            drop(unroll_results::Tables::from_records(&records));
        }
    }

    #[test]
    fn weights_are_read_or_refused(damages in damages()) {
        let vector = vectors().join("lstm.safetensors");
        let bytes = apply(&std::fs::read(&vector).unwrap(), &damages);
        if let Err(message) = evaluate(&bytes, &vector) {
            prop_assert!(!message.is_empty());
        }
    }

    #[test]
    fn checkpoints_are_read_or_refused(damages in damages()) {
        let bytes = apply(&CHECKPOINT, &damages);
        if let Ok(checkpoint) = unroll_train::Checkpoint::from_bytes(&bytes) {
            checkpoint.to_bytes().unwrap();
        }
    }
}
