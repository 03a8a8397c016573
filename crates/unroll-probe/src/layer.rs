//! Speed of a sequence model alone: the micro-benchmark of layers.

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use unroll_core::weights::check_finite;
use unroll_core::{Form, ForwardArgs, SequenceModel};

use crate::gradient::gaussian_input;
use crate::timing::{MemoryGauge, TimingOptions, time};
use crate::{Error, Result, Stop};

/// What one iteration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerMode {
    /// Forward, sum of the outputs, backward to parameters and input.
    Train,
    /// Forward.
    Infer,
}

/// Result of a layer benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerTiming {
    /// Median seconds per iteration.
    pub median_s: f64,
    /// Fastest iteration, seconds.
    pub min_s: f64,
    /// Iterations timed.
    pub iterations: usize,
    /// Counted FLOPs of an iteration.
    pub flops: u64,
    /// Counted FLOPs per second at the median, in 1e9.
    pub gflops_per_s: f64,
    /// Tokens (batch times length) per second at the median.
    pub tokens_per_s: f64,
    /// Largest memory in use during an iteration, above what was in use before it, bytes; `None` when it
    /// was not measured.
    pub peak_bytes: Option<u64>,
    /// The implementation that ran: `fused`, `reference`, `unrolled`.
    pub form: String,
}

/// Times a sequence model on standard normal input of `batch` sequences of `seq_len` steps, without
/// dropout.
///
/// # Errors
/// When the model cannot run, or its output or a gradient is missing or not finite: a wrong result
/// is not timed.
pub fn bench_layer(
    body: &dyn SequenceModel,
    (batch, seq_len): (usize, usize),
    mode: LayerMode,
    form: Form,
    seed: u64,
    options: &TimingOptions,
    gauge: &dyn MemoryGauge,
) -> Result<LayerTiming> {
    let device = body.device();
    let shape = (batch, seq_len, body.input_size());
    let input = gaussian_input(shape, seed, body.dtype(), device)?;
    let variable = Var::from_tensor(&input)?;
    let forward =
        |input: &Tensor| Ok(body.forward(&ForwardArgs { form, ..ForwardArgs::new(input) })?.output);
    let cost = body.cost(batch, seq_len);
    let first = body.forward(&ForwardArgs { form, ..ForwardArgs::new(&input) })?;
    check_finite("output", &first.output)?;
    let ran = first.form.to_owned();
    drop(first);
    let (timed, flops) = match mode {
        LayerMode::Train => {
            let train = |(): &()| -> Result<_> { Ok(forward(&variable)?.sum_all()?.backward()?) };
            let gradients = train(&())?;
            let parameters = body.parameters().iter().map(|p| (p.name.as_str(), p.var.as_tensor()));
            for (name, tensor) in parameters.chain([("x", variable.as_tensor())]) {
                let gradient = gradients.get(tensor).ok_or_else(|| {
                    Error::Unsupported(format!("`{name}` gets no gradient from the output"))
                })?;
                check_finite(&format!("grad.{name}"), gradient)?;
            }
            drop(gradients);
            (time(options, device, gauge, Stop::NEVER, || Ok(()), train)?, cost.training_flops())
        }
        LayerMode::Infer => {
            let infer = |(): &()| forward(&input);
            (time(options, device, gauge, Stop::NEVER, || Ok(()), infer)?, cost.forward_flops)
        }
    };
    Ok(LayerTiming {
        median_s: timed.median_s,
        min_s: timed.min_s,
        iterations: timed.iterations,
        flops,
        gflops_per_s: flops as f64 / timed.median_s / 1e9,
        tokens_per_s: (batch * seq_len) as f64 / timed.median_s,
        peak_bytes: timed.peak_bytes,
        form: ran,
    })
}
