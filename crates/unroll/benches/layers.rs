//! Layers alone: forward, and forward with backward, over lengths.
//!
//!     cargo bench -p unroll --bench layers -- 'train/lstm'
//!
//! Ids are `mode/architecture/T=length`; throughput is in tokens.

use candle_core::{DType, Tensor, Var};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use unroll_core::{BuildContext, ForwardArgs, SequenceModel, Stream};

const BATCH: usize = 16;
const SIZE: usize = 128;

fn model(name: &str) -> Option<Box<dyn SequenceModel>> {
    let architecture = unroll::registry::find(name)?;
    let mut options = json!({"input_size": SIZE, "hidden_size": SIZE}).as_object()?.clone();
    if architecture.options().iter().any(|(doc, _)| doc.name == "num_heads") {
        options.insert("num_heads".into(), 4.into());
    }
    architecture.build(&options, &BuildContext::cpu(DType::F32, 0)).ok()
}

fn input(steps: usize) -> Tensor {
    let device = candle_core::Device::Cpu;
    let stream = Stream::new(0, "bench");
    stream.normal((BATCH, steps, SIZE), 1.0, DType::F32, &device).expect("a CPU tensor")
}

fn layers(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    for mode in ["forward", "train"] {
        let mut group = criterion.benchmark_group(mode);
        group.sample_size(10);
        for name in ["rnn", "gru", "lstm", "mha", "local", "linear", "additive"] {
            let Some(model) = model(name) else { continue };
            for steps in [64, 256] {
                let x = Var::from_tensor(&input(steps)).expect("a variable");
                group.throughput(Throughput::Elements((BATCH * steps) as u64));
                group.bench_function(BenchmarkId::new(name, format!("T={steps}")), |bencher| {
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
