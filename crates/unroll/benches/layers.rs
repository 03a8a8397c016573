//! Layers alone: forward, and forward with backward, for every architecture over lengths and sizes.
//!
//!     cargo bench -p unroll --bench layers                             # minutes
//!     UNROLL_BENCH=full cargo bench -p unroll --bench layers           # more lengths and sizes
//!     cargo bench -p unroll --bench layers -- 'train/lstm' --save-baseline main
//!     cargo bench -p unroll --bench layers -- 'train/lstm' --baseline main
//!
//! Ids are `mode/architecture/T=length,H=size`; throughput is in tokens. Criterion keeps baselines under
//! `target/criterion`. It cannot fail a build: `unroll bench ab` can.

use candle_core::{DType, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use unroll_core::{BuildContext, ForwardArgs, SequenceModel, Stream};

const BATCH: usize = 16;

/// Lengths and sizes.
fn grid() -> Vec<(usize, usize)> {
    if std::env::var("UNROLL_BENCH").is_ok_and(|profile| profile == "full") {
        let sizes = [32, 128, 256];
        [64, 256, 1024].into_iter().flat_map(|steps| sizes.map(|size| (steps, size))).collect()
    } else {
        vec![(64, 128), (256, 128)]
    }
}

fn model(name: &str, size: usize) -> Option<Box<dyn SequenceModel>> {
    let architecture = unroll::registry::find(name)?;
    let mut options = json!({"input_size": size, "hidden_size": size}).as_object()?.clone();
    if architecture.options().iter().any(|(doc, _)| doc.name == "num_heads") {
        options.insert("num_heads".into(), 4.into());
    }
    architecture.build(&options, &BuildContext::cpu(DType::F32, 0)).ok()
}

fn input(steps: usize, size: usize) -> Tensor {
    let device = candle_core::Device::Cpu;
    let stream = Stream::new(0, "bench");
    stream.normal((BATCH, steps, size), 1.0, DType::F32, &device).expect("a CPU tensor")
}

fn layers(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    for mode in ["forward", "train"] {
        let mut group = criterion.benchmark_group(mode);
        group.sample_size(10);
        for name in unroll::registry::names() {
            for (steps, size) in grid() {
                let Some(model) = model(name, size) else { continue };
                let x = Var::from_tensor(&input(steps, size)).expect("a variable");
                group.throughput(Throughput::Elements((BATCH * steps) as u64));
                let id = BenchmarkId::new(name, format!("T={steps},H={size}"));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let args = ForwardArgs::new(x.as_tensor());
                        let output = model.forward(&args).expect("a forward pass").output;
                        if mode == "train" {
                            output
                                .sum_all()
                                .and_then(|sum| sum.backward())
                                .expect("a backward pass");
                        }
                    });
                });
            }
        }
    }
}

criterion_group!(benches, layers);
criterion_main!(benches);
