//! Whole training steps: batch, forward, loss, backward, optimiser.
//!
//!     cargo bench -p unroll --bench training -- 'adding/lstm'
//!
//! Ids are `task/architecture/T=length`; throughput is in tokens.

use std::ops::ControlFlow;

use candle_core::DType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, json};
use unroll_core::BuildContext;
use unroll_tasks::{Task, TaskRequest};
use unroll_train::{OptimizerKind, Progress, TaskModel, TrainConfig, Trainer};

const STEPS: u64 = 8;

fn task(name: &str, length: usize) -> Option<Box<dyn Task>> {
    let options = json!({"eval_examples": 4});
    let options = options.as_object().filter(|_| name == "adding").cloned().unwrap_or_default();
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

fn steps(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    for (task_name, length) in [("adding", 100), ("digits", 64)] {
        let Some(task) = task(task_name, length) else { continue };
        let mut group = criterion.benchmark_group(task_name);
        group.sample_size(10);
        for name in ["rnn", "gru", "lstm", "luong_dot", "transformer"] {
            let Some(model) = model(name, task.as_ref()) else { continue };
            let config = TrainConfig {
                optimizer: OptimizerKind::AdamW,
                steps: STEPS,
                eval_every: STEPS,
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

criterion_group!(benches, steps);
criterion_main!(benches);
