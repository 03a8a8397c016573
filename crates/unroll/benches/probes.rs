//! A whole gradient profile: dL/dh_t (and dL/dc_t) and dL/dx_t at every step of a float64 model.
//!
//!     cargo bench -p unroll --bench probes
//!
//! Ids are `gradient_decay/architecture/T=length`; throughput is in tokens.

use candle_core::{DType, Device};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use unroll_core::{BuildContext, Form, SequenceModel};
use unroll_probe::{GradientLoss, gaussian_input, gradient_decay};

const BATCH: usize = 32;
const INPUT: usize = 16;
const HIDDEN: usize = 128;

fn model(name: &str) -> Option<Box<dyn SequenceModel>> {
    let options = json!({"input_size": INPUT, "hidden_size": HIDDEN}).as_object()?.clone();
    unroll::registry::find(name)?.build(&options, &BuildContext::cpu(DType::F64, 0)).ok()
}

fn probes(criterion: &mut Criterion) {
    unroll_kernels::threads::keep_candle_to_one_thread();
    let mut group = criterion.benchmark_group("gradient_decay");
    group.sample_size(10);
    for name in ["rnn", "gru", "lstm"] {
        let Some(model) = model(name) else { continue };
        for steps in [128, 512] {
            let x = gaussian_input((BATCH, steps, INPUT), 0, DType::F64, &Device::Cpu)
                .expect("a CPU tensor");
            group.throughput(Throughput::Elements((BATCH * steps) as u64));
            group.bench_function(BenchmarkId::new(name, format!("T={steps}")), |bencher| {
                bencher.iter(|| {
                    let loss = GradientLoss::HalfSquaredNorm;
                    gradient_decay(model.as_ref(), &x, None, loss, Form::Auto)
                        .expect("a finite gradient")
                });
            });
        }
    }
}

criterion_group!(benches, probes);
criterion_main!(benches);
