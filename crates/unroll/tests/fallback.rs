//! Everything without the kernels: what runs on a device that has none of them.
//!
//! `UNROLL_KERNELS=none` takes all operations of `unroll-kernels`, and the CPU's own loss and optimiser
//! passes, away from a process. Every architecture then trains, is measured and timed on candle's
//! operations alone, and comes to the same results.

use std::path::Path;

use assert_cmd::Command;
use unroll::experiment::Plan;
use unroll_results::record::{Status, TrialRecord};
use unroll_results::store;

/// One step of every kind over every architecture; `{archs}`, `{tasks}` and `{measure}` are filled in.
const EXPERIMENT: &str = r#"
name = "fallback"
question = "Do the kernels change anything but the time?"
measure = [{measure}]
dtype = "{dtype}"

[axes]
task = [{tasks}]
length = [7]
arch = [{archs}]

[model]
hidden_size = 8
num_heads = 2
num_layers = 2

[train]
steps = 3
eval_every = 3
batch_size = 4
eval_batch_size = 8
clip_norm = 0.5

[task.adding]
eval_examples = 16

[task.parity]
eval_examples = 16

[task.g2p]
eval_examples = 16

[gradient]
examples = 2
attention_examples = 2
jacobian = { examples = 1 }

[throughput]
min_seconds = 0.0
min_iterations = 1
batch_size = 2
"#;

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The records of an experiment that another process runs, in the plan's order.
fn run(folder: &Path, name: &str, kernels: &str, plan: &Plan) -> Vec<TrialRecord> {
    let out = folder.join(name);
    Command::cargo_bin("unroll")
        .unwrap()
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("NO_COLOR", "1")
        .env("UNROLL_KERNELS", kernels)
        .arg("run")
        .arg(folder.join("experiment.toml"))
        .arg("--out")
        .arg(&out)
        .assert()
        .success();
    let find = |id: &str| store::find(&out, id).unwrap().unwrap();
    plan.trials.iter().map(|trial| find(&trial.id)).collect()
}

/// Runs an experiment with and without kernels and compares all that is measured.
fn compare(archs: &[&str], tasks: &[&str], measure: &[&str], dtype: &str, tolerance: f64) {
    let folder = tempfile::tempdir().unwrap();
    let text = EXPERIMENT
        .replace("{archs}", &quoted(archs))
        .replace("{tasks}", &quoted(tasks))
        .replace("{measure}", &quoted(measure))
        .replace("{dtype}", dtype);
    let file = folder.path().join("experiment.toml");
    std::fs::write(&file, text).unwrap();
    let plan = Plan::read(&file, &[], None).unwrap();
    let with = run(folder.path(), "with", "auto", &plan);
    let without = run(folder.path(), "without", "none", &plan);
    let mut fused = 0;
    for (with, without) in with.iter().zip(&without) {
        let name = &with.id;
        let what = format!("{:?} {} {}", with.kind, with.cell.series, with.cell.task);
        assert_eq!(without.status, Status::Finished {}, "{name} {what}");
        assert_eq!(with.status, Status::Finished {}, "{name} {what}");
        assert_ne!(without.cell.form, "fused", "{what}");
        fused += usize::from(with.cell.form == "fused");
        let close = |key: &str, a: f64, b: f64| {
            let close = (a - b).abs() <= tolerance * (1.0 + a.abs());
            assert!(close || a == b, "{what}, {key}: {a} with kernels, {b} without");
        };
        assert_eq!(with.curve.len(), without.curve.len(), "{what}");
        for (a, b) in with.curve.iter().zip(&without.curve) {
            close("validation loss", a.validation_loss, b.validation_loss);
            if a.step > 0 {
                close("training loss", a.train_loss, b.train_loss);
                close("gradient norm", a.gradient_norm, b.gradient_norm);
            }
        }
        if let (Some(a), Some(b)) = (&with.quality, &without.quality) {
            close("test loss", a.test_loss, b.test_loss);
        }
        assert_eq!(with.gradient.len(), without.gradient.len(), "{what}");
        for (a, b) in with.gradient.iter().zip(&without.gradient) {
            close("gradient", a.ln_mean_norm, b.ln_mean_norm);
        }
        assert_eq!(with.jacobians.len(), without.jacobians.len(), "{what}");
        for (a, b) in with.jacobians.iter().zip(&without.jacobians) {
            for (a, b) in a.lyapunov.iter().zip(&b.lyapunov) {
                close("exponent", a.value, b.value);
            }
        }
        assert_eq!(with.gates.len(), without.gates.len(), "{what}");
        for (a, b) in with.gates.iter().zip(&without.gates) {
            close("gate", a.mean, b.mean);
        }
        assert_eq!(with.attention.len(), without.attention.len(), "{what}");
        for (a, b) in with.attention.iter().zip(&without.attention) {
            if let (Some(a), Some(b)) = (a.mean_distance, b.mean_distance) {
                close("distance", a, b);
            }
        }
        assert_eq!(with.throughput.len(), without.throughput.len(), "{what}");
    }
    // Only where kernels ran on the other side does this test compare anything.
    assert!(fused * 2 > with.len(), "{fused} of {} trials were fused", with.len());
}

const KINDS: [&str; 3] = ["quality", "gradient", "throughput"];

#[test]
fn every_architecture_of_one_sequence_trains_and_is_measured_without_kernels() {
    let archs = unroll::registry::names();
    compare(&archs, &["adding", "parity"], &KINDS, "f32", 2e-4);
}

#[test]
fn the_same_in_f64() {
    let archs = unroll::registry::names();
    compare(&archs, &["parity"], &["quality"], "f64", 1e-9);
}

#[test]
fn every_encoder_and_decoder_trains_without_kernels() {
    let pairs: Vec<&str> = unroll::registry::all_names()
        .into_iter()
        .filter(|name| name.starts_with("encdec"))
        .collect();
    assert!(pairs.len() >= 7);
    compare(&pairs, &["g2p"], &["quality"], "f32", 2e-4);
}

#[test]
fn every_fusion_trains_without_kernels() {
    let fusions: Vec<&str> =
        unroll::registry::all_names().into_iter().filter(|name| name.ends_with("fusion")).collect();
    assert!(fusions.len() >= 2);
    compare(&fusions, &["digits_seen_and_heard"], &["quality"], "f32", 2e-4);
}
