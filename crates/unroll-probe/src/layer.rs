//! Speed of a model alone: the micro-benchmark of layers.

use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use unroll_core::fusion::{FusionArgs, Modality};
use unroll_core::pair::PairArgs;
use unroll_core::weights::check_finite;
use unroll_core::{
    Cost, Form, ForwardArgs, FusionModel, Mode, PairModel, ParameterSet, SequenceModel,
};

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
    /// Tokens (batch times length, of one of the sequences where there are two) per second at the median.
    pub tokens_per_s: f64,
    /// Largest memory in use during an iteration, above what was in use before it, bytes; `None` when it
    /// was not measured.
    pub peak_bytes: Option<u64>,
    /// The implementation that ran: `fused`, `fused attention` (a Transformer on a GPU), `reference`,
    /// `unrolled`.
    pub form: String,
}

/// A model with the size of what it reads.
#[derive(Clone, Copy)]
pub struct TimedModel<'a> {
    model: Model<'a>,
    batch: usize,
    seq_len: usize,
}

#[derive(Clone, Copy)]
enum Model<'a> {
    Sequence(&'a dyn SequenceModel),
    Pair(&'a dyn PairModel),
    Fusion(&'a dyn FusionModel),
}

impl<'a> TimedModel<'a> {
    /// A model of `batch` sequences of `seq_len` steps.
    pub fn sequence(model: &'a dyn SequenceModel, (batch, seq_len): (usize, usize)) -> Self {
        Self { model: Model::Sequence(model), batch, seq_len }
    }

    /// A model from sequences of `seq_len` steps to others of as many.
    pub fn pair(model: &'a dyn PairModel, (batch, seq_len): (usize, usize)) -> Self {
        Self { model: Model::Pair(model), batch, seq_len }
    }

    /// A model of two sequences of `seq_len` steps each.
    pub fn fusion(model: &'a dyn FusionModel, (batch, seq_len): (usize, usize)) -> Self {
        Self { model: Model::Fusion(model), batch, seq_len }
    }

    fn parameters(&self) -> &'a ParameterSet {
        match self.model {
            Model::Sequence(model) => model.parameters(),
            Model::Pair(model) => model.parameters(),
            Model::Fusion(model) => model.parameters(),
        }
    }

    fn cost(&self) -> Cost {
        let (batch, steps) = (self.batch, self.seq_len);
        match self.model {
            Model::Sequence(model) => model.cost(batch, steps),
            Model::Pair(model) => model.cost(batch, steps, steps),
            Model::Fusion(model) => model.cost(batch, [steps; 2]),
        }
    }

    /// Standard normal input, with the names under which it is told of.
    fn inputs(&self, seed: u64) -> Result<Vec<(&'static str, Var)>> {
        let sizes = match self.model {
            Model::Sequence(model) => vec![("x", model.input_size())],
            Model::Pair(model) => {
                vec![("source", model.input_size()), ("target", model.input_size())]
            }
            Model::Fusion(model) => {
                ["first", "second"].into_iter().zip(model.input_sizes()).collect()
            }
        };
        let (dtype, device) = (self.parameters().dtype(), self.parameters().device());
        let draw = |(number, (name, size)): (usize, (&'static str, usize))| -> Result<_> {
            let shape = (self.batch, self.seq_len, size);
            let values = gaussian_input(shape, seed.wrapping_add(number as u64), dtype, device)?;
            Ok((name, Var::from_tensor(&values)?))
        };
        sizes.into_iter().enumerate().map(draw).collect()
    }

    /// The output, and the form that ran.
    fn forward(&self, inputs: &[&Tensor], form: Form) -> Result<(Tensor, &'static str)> {
        let missing = || Error::Unsupported("an input is missing".into());
        let input = |index: usize| inputs.get(index).copied().ok_or_else(missing);
        Ok(match self.model {
            Model::Sequence(model) => {
                let found = model.forward(&ForwardArgs { form, ..ForwardArgs::new(input(0)?) })?;
                (found.output, found.form)
            }
            Model::Pair(model) => {
                let found = model.forward(&PairArgs {
                    source: input(0)?,
                    source_lengths: None,
                    target: input(1)?,
                    target_lengths: None,
                    mode: Mode::Eval,
                    form,
                    attention: false,
                })?;
                (found.output, found.form)
            }
            Model::Fusion(model) => {
                let modality = |input| Modality { input, lengths: None };
                let modalities = [modality(input(0)?), modality(input(1)?)];
                let found = model.forward(&FusionArgs { form, ..FusionArgs::new(modalities) })?;
                (found.output, found.form)
            }
        })
    }
}

/// Times a model on standard normal input, without dropout.
///
/// # Errors
/// When the model cannot run, or its output or a gradient is missing or not finite: a wrong result
/// is not timed.
pub fn bench_layer(
    timed: TimedModel<'_>,
    mode: LayerMode,
    form: Form,
    seed: u64,
    options: &TimingOptions,
    gauge: &dyn MemoryGauge,
) -> Result<LayerTiming> {
    let (parameters, cost) = (timed.parameters(), timed.cost());
    let device = parameters.device();
    let inputs = timed.inputs(seed)?;
    let variables: Vec<&Tensor> = inputs.iter().map(|(_, var)| var.as_tensor()).collect();
    let detached: Vec<Tensor> = inputs.iter().map(|(_, var)| var.as_detached_tensor()).collect();
    let detached: Vec<&Tensor> = detached.iter().collect();
    let (output, ran) = timed.forward(&detached, form)?;
    check_finite("output", &output)?;
    drop(output);
    let (times, flops) = match mode {
        LayerMode::Train => {
            let train = |(): &()| -> Result<_> {
                Ok(timed.forward(&variables, form)?.0.sum_all()?.backward()?)
            };
            let gradients = train(&())?;
            let parameters = parameters.iter().map(|p| (p.name.as_str(), p.var.as_tensor()));
            let of_inputs = inputs.iter().map(|(name, var)| (*name, var.as_tensor()));
            for (name, tensor) in parameters.chain(of_inputs) {
                let gradient = gradients.get(tensor).ok_or_else(|| {
                    Error::Unsupported(format!("`{name}` gets no gradient from the output"))
                })?;
                check_finite(&format!("grad.{name}"), gradient)?;
            }
            drop(gradients);
            (time(options, device, gauge, Stop::NEVER, || Ok(()), train)?, cost.training_flops())
        }
        LayerMode::Infer => {
            let infer = |(): &()| timed.forward(&detached, form);
            (time(options, device, gauge, Stop::NEVER, || Ok(()), infer)?, cost.forward_flops)
        }
    };
    Ok(LayerTiming {
        median_s: times.median_s,
        min_s: times.min_s,
        iterations: times.iterations,
        flops,
        gflops_per_s: flops as f64 / times.median_s / 1e9,
        tokens_per_s: (timed.batch * timed.seq_len) as f64 / times.median_s,
        peak_bytes: times.peak_bytes,
        form: ran.to_owned(),
    })
}
