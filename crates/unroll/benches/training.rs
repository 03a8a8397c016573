//! Whole training steps: batch, forward, loss, backward, optimiser; and of architectures that read two sequences, which
//! `layers` cannot hold, forward passes too.
//!
//!     cargo bench -p unroll --bench training -- 'adding/lstm'
//!     cargo bench -p unroll --bench training -- 'g2p'
//!
//! Ids are `task/architecture/T=length` and `task forward/architecture/T=length`; throughput is in tokens.

use std::ops::ControlFlow;

use candle_core::DType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, json};
use unroll_core::{BuildContext, Mode};
use unroll_tasks::{Split, Task, TaskRequest};
use unroll_train::{OptimizerKind, Progress, TaskModel, TrainConfig, Trainer};

const STEPS: u64 = 8;
const BATCH: usize = 32;

fn task(name: &str, length: usize) -> Option<Box<dyn Task>> {
    // A batch: what is evaluated after the steps is not timed, and is to be short.
    let options = json!({"eval_examples": BATCH});
    let few = ["adding", "g2p"].contains(&name);
    let options = options.as_object().filter(|_| few).cloned().unwrap_or_default();
    let entry = unroll_tasks::find(name)?;
    (entry.build)(&TaskRequest { length, seed: 0, options: &options }).ok()
}

fn model(name: &str, task: &dyn Task) -> Option<TaskModel> {
    let architecture = unroll::registry::find(name)?;
    let mut options: Map<_, _> = json!({"hidden_size": 64}).as_object()?.clone();
    if architecture.options().iter().any(|(doc, _)| doc.name == "num_heads") {
        options.insert("num_heads".into(), 4.into());
    }
    TaskModel::build(task, architecture, &options, None, &BuildContext::cpu(DType::F32, 0)).ok()
}

/// A task with the models that are timed on it.
struct Case {
    task: Box<dyn Task>,
    length: usize,
    models: Vec<(&'static str, TaskModel)>,
}

/// Tasks, and the architectures that are timed on them: of one sequence a few, of two all that a task
/// can be learned by.
fn cases() -> Vec<Case> {
    let few = vec!["rnn", "gru", "lstm", "luong_dot", "transformer"];
    let one = unroll::registry::names();
    let mut two = unroll::registry::all_names();
    two.retain(|name| !one.contains(name));
    let all = [
        ("adding", 100, few.clone()),
        ("digits", 64, few),
        ("g2p", 12, two.clone()),
        ("digits_seen_and_heard", 92, two.clone()),
    ];
    let mut found = Vec::new();
    for (task_name, length, names) in all {
        let Some(task) = task(task_name, length) else { continue };
        let built = |name: &str| model(name, task.as_ref());
        let models: Vec<_> =
            names.into_iter().filter_map(|name| Some((name, built(name)?))).collect();
        two.retain(|name| !models.iter().any(|(other, _)| name == other));
        found.push(Case { task, length, models });
    }
    assert!(two.is_empty(), "no task here has a model of {}", two.join(", "));
    found
}

fn forward(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    for Case { task, length, models } in cases() {
        let batches = task.evaluation(Split::Test, BATCH);
        let mut group = criterion.benchmark_group(format!("{} forward", task.name()));
        group.sample_size(10);
        for (name, model) in models {
            let batch = model.tensors(&batches[0]).expect("a batch of the task");
            group.throughput(Throughput::Elements(batch.tokens));
            group.bench_function(BenchmarkId::new(name, format!("T={length}")), |bencher| {
                bencher.iter(|| model.forward(&batch, Mode::Eval).expect("a forward pass"));
            });
        }
        group.finish();
    }
}

fn steps(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    for Case { task, length, models } in cases() {
        let mut group = criterion.benchmark_group(task.name());
        group.sample_size(10);
        for (name, model) in models {
            let config = TrainConfig {
                optimizer: OptimizerKind::AdamW,
                steps: STEPS,
                eval_every: STEPS,
                batch_size: BATCH,
                clip_norm: Some(1.0),
                ..TrainConfig::default()
            };
            group.throughput(Throughput::Elements(STEPS * (config.batch_size * length) as u64));
            group.bench_function(BenchmarkId::new(name, format!("T={length}")), |bencher| {
                bencher.iter_custom(|iterations| {
                    let mut total = std::time::Duration::ZERO;
                    for _ in 0..iterations {
                        let mut trainer =
                            Trainer::new(&model, task.as_ref(), &config).expect("a sound setting");
                        let mut go_on = |_: &Progress<'_>| ControlFlow::Continue(());
                        let outcome = trainer.run(&mut go_on).expect("a training run");
                        // Evaluation is left out.
                        total += std::time::Duration::from_secs_f64(outcome.seconds);
                    }
                    total
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, forward, steps);
criterion_main!(benches);
