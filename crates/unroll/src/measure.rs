//! From the probes' results to the records' wire types.

use unroll_core::Form;
use unroll_probe::{Derivative, GradientLoss, TimingOptions};
use unroll_results::record::{GradientOf, GradientPoint, Phase, Throughput};
use unroll_tasks::{Split, Task};
use unroll_train::{TaskModel, TrainConfig};

use crate::experiment::{GradientSettings, ThroughputSettings};
use crate::memory::Gauge;

/// Gradient norms of a float64 model on the first test examples, after `step` training steps.
///
/// # Errors
/// When the model cannot run.
pub fn gradient(
    model: &TaskModel,
    task: &dyn Task,
    settings: &GradientSettings,
    step: u64,
) -> unroll_probe::Result<Vec<GradientPoint>> {
    let Some(batch) = task.evaluation(Split::Test, settings.examples).into_iter().next() else {
        return Ok(Vec::new());
    };
    // The norm of a layer-normalised output is constant: its square would have no gradient.
    let loss = GradientLoss::RandomProjection { seed: model.seed() };
    let decay = unroll_probe::gradient_decay_of_task(model, &batch, loss, Form::Auto)?;
    let points = decay.points().into_iter().map(|point| GradientPoint {
        of: match point.of {
            Derivative::Hidden => GradientOf::Hidden,
            Derivative::Cell => GradientOf::Cell,
            Derivative::Input => GradientOf::Input,
        },
        layer: point.layer,
        step,
        distance: point.distance,
        ln_mean_norm: point.ln_mean_norm,
        mean_log_norm: point.mean_ln_norm,
        ln_quantiles: point.ln_quantiles,
    });
    Ok(points.collect())
}

/// Times of all phases.
///
/// # Errors
/// When the model cannot run or gives numbers that are not finite.
pub fn throughput(
    model: &TaskModel,
    task: &dyn Task,
    settings: &ThroughputSettings,
    train: &TrainConfig,
) -> unroll_probe::Result<Vec<Throughput>> {
    use unroll_probe::Phase as Timed;
    let mut phases = vec![Timed::Forward, Timed::Backward, Timed::TrainStep];
    if settings.decode {
        phases.push(Timed::Decode);
    }
    let options = TimingOptions {
        warm_up_seconds: settings.min_seconds / 4.0,
        min_seconds: settings.min_seconds,
        min_iterations: settings.min_iterations,
    };
    let batch_size = settings.batch_size;
    let gauge = Gauge::default();
    let timings = unroll_probe::measure(model, task, batch_size, &phases, train, &options, &gauge)?;
    let rows = timings.into_iter().map(|timing| Throughput {
        phase: match timing.phase {
            Timed::Forward => Phase::Forward,
            Timed::Backward => Phase::Backward,
            Timed::TrainStep => Phase::TrainStep,
            Timed::Decode => Phase::Decode,
        },
        median_s: timing.timed.median_s,
        min_s: timing.timed.min_s,
        quantiles_s: timing.timed.quantiles_s,
        iterations: timing.timed.iterations,
        tokens_per_s: timing.tokens_per_s,
        gflops_per_s: timing.gflops_per_s,
        peak_bytes: timing.timed.peak_bytes,
    });
    Ok(rows.collect())
}
