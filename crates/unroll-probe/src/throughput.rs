//! Speed of a whole model on a task's batches.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::weights::check_finite;
use unroll_core::{Mode, Stream};
use unroll_tasks::Task;
use unroll_train::loss::mean_loss;
use unroll_train::{Optimizer, TaskModel, TrainConfig, global_norm};

use crate::timing::{MemoryGauge, Timed, TimingOptions, time};
use crate::{Error, Result, Stop};

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Input layer, sequence model and head, without dropout.
    Forward,
    /// Backward pass of the loss to all parameters; the forward pass before it is not timed.
    Backward,
    /// Forward pass with dropout, loss, backward pass, gradient norm, clipping and optimiser.
    TrainStep,
    /// The sequence model alone, one step at a time over the whole length with carried state.
    Decode,
}

/// Times of one phase over a batch `(B, T)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseTiming {
    /// What was timed.
    pub phase: Phase,
    /// Times and memory of one iteration: the whole batch over the whole length.
    pub timed: Timed,
    /// Steps of all sequences, padding left out, per second at the median.
    pub tokens_per_s: f64,
    /// Counted FLOPs of an iteration.
    pub flops: u64,
    /// Counted FLOPs per second at the median, in 1e9.
    pub gflops_per_s: f64,
}

impl PhaseTiming {
    fn new(phase: Phase, timed: Timed, tokens: u64, flops: u64) -> Self {
        Self {
            phase,
            timed,
            tokens_per_s: tokens as f64 / timed.median_s,
            flops,
            gflops_per_s: flops as f64 / timed.median_s / 1e9,
        }
    }
}

/// Times the given phases on the task's first training batch of `batch_size` sequences. Decoding is
/// left out for models that are not causal. Weights are the same afterwards: the optimiser runs
/// with learning rate 0, which costs the same.
///
/// # Errors
/// When the model cannot run, or its answers are not finite: a wrong result is not timed.
/// [`Error::Interrupted`] when `stop` says so between two iterations.
pub fn measure(
    model: &TaskModel,
    task: &dyn Task,
    batch_size: usize,
    phases: &[Phase],
    train: &TrainConfig,
    options: &TimingOptions,
    gauge: &dyn MemoryGauge,
    stop: Stop<'_>,
) -> Result<Vec<PhaseTiming>> {
    let batch = model.tensors(&task.train_batch(0, batch_size))?;
    check_finite("answers", &model.forward(&batch, Mode::Eval)?)?;
    let (batch_size, seq_len) = (batch.input.dim(0)?, batch.input.dim(1)?);
    let cost = model.cost(batch_size, seq_len);
    let device = model.device();
    let mut timings = Vec::with_capacity(phases.len());
    for &phase in phases {
        let (timed, flops) = match phase {
            Phase::Forward => {
                let model = model.for_inference();
                let forward = |(): &()| Ok(model.forward(&batch, Mode::Eval)?);
                (time(options, device, gauge, stop, || Ok(()), forward)?, cost.forward_flops)
            }
            Phase::Backward => {
                let prepare = || Ok(mean_loss(&model.forward(&batch, Mode::Eval)?, &batch)?);
                let backward = |loss: &Tensor| Ok(loss.backward()?);
                (time(options, device, gauge, stop, prepare, backward)?, cost.backward_flops)
            }
            Phase::TrainStep => {
                let mut optimizer = Optimizer::new(train, model.parameters())?;
                let dropout = Stream::new(model.seed(), "train/dropout");
                let step = |(): &()| {
                    let answers = model.forward(&batch, Mode::Train(&dropout))?;
                    let gradients = mean_loss(&answers, &batch)?.backward()?;
                    let norm = global_norm(model.parameters(), &gradients)?;
                    Ok(optimizer.step(&gradients, 0.0, train.clip().bounds(norm))?)
                };
                (time(options, device, gauge, stop, || Ok(()), step)?, cost.training_flops())
            }
            Phase::Decode if !model.body()?.is_causal() => continue,
            Phase::Decode => {
                let model = model.for_inference();
                let inputs = steps(&model.features(&batch)?)?;
                let decode = |(): &()| decode(model, &inputs, batch_size);
                stop.check()?;
                check_finite("decoded output", &decode(&())?)?;
                let flops = model.body()?.cost(batch_size, seq_len).forward_flops;
                (time(options, device, gauge, stop, || Ok(()), decode)?, flops)
            }
        };
        timings.push(PhaseTiming::new(phase, timed, batch.tokens, flops));
    }
    Ok(timings)
}

/// `(B, T, I)` cut into `T` inputs `(B, I)`.
fn steps(input: &Tensor) -> Result<Vec<Tensor>> {
    let input = input.detach();
    let step = |t| Ok(input.narrow(1, t, 1)?.squeeze(1)?.contiguous()?);
    (0..input.dim(1)?).map(step).collect()
}

/// All steps one by one; the last output.
fn decode(model: &TaskModel, inputs: &[Tensor], batch_size: usize) -> Result<Tensor> {
    let body = model.body()?;
    let mut state = body.zero_state(batch_size)?;
    let mut last = None;
    for input in inputs {
        let (output, next) = body.step(input, &state)?;
        // A stream has no end: it must not keep the graph of all its past.
        state = next.detach();
        last = Some(output);
    }
    last.ok_or_else(|| Error::Unsupported("a sequence has at least one step".into()))
}
