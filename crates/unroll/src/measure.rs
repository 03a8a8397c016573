//! From the probes' results to the records' wire types.

use serde::{Deserialize, Serialize};
use unroll_core::Form;
use unroll_probe::{
    Derivative, GradientLoss, JacobianMethod, JacobianOptions, Stop, TimingOptions,
};
use unroll_results::TrialRecord;
use unroll_results::record::{
    AttentionHead, DistanceWeight, Estimate, GateStatistics, GradientOf, GradientPoint,
    JacobianPoint, MemoryTimes, Phase, StateJacobian, Throughput, VisibleEntropy,
};
use unroll_tasks::{Batch, Split, Task};
use unroll_train::{TaskModel, TrainConfig};

use crate::experiment::{GradientSettings, JacobianSettings, ThroughputSettings};
use crate::memory::Gauge;

/// What was measured of a model at some moments of its training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Gradient norms.
    pub gradient: Vec<GradientPoint>,
    /// Jacobians of the recurrent state.
    pub jacobians: Vec<StateJacobian>,
    /// Gates.
    pub gates: Vec<GateStatistics>,
    /// Attention weights.
    pub attention: Vec<AttentionHead>,
}

/// The first examples of a task's test split, which measurements look at. Drawing the whole split
/// for each would cost more than the measurement.
#[derive(Debug)]
pub struct Examples<'a> {
    settings: &'a GradientSettings,
    gradient: Option<Batch>,
    attention: Option<Batch>,
    jacobian: Option<Batch>,
}

impl<'a> Examples<'a> {
    /// As many as the settings ask for.
    pub fn of(task: &dyn Task, settings: &'a GradientSettings) -> Self {
        let first = |count: usize| task.first_of(Split::Test, count);
        Self {
            settings,
            gradient: first(settings.examples),
            attention: first(settings.attention_examples),
            jacobian: first(settings.jacobian.as_ref().map_or(0, |jacobian| jacobian.examples)),
        }
    }
}

impl Measured {
    /// Whether gradients after `step` training steps are here.
    pub fn has(&self, step: u64) -> bool {
        self.gradient.iter().any(|point| point.step == step)
    }

    /// Measures a float64 model after `step` training steps. `thorough`: also what takes longer. Adds all of it
    /// or nothing.
    ///
    /// # Errors
    /// When the model cannot run, or `stop` says so.
    pub fn add(
        &mut self,
        model: &TaskModel,
        examples: &Examples<'_>,
        step: u64,
        thorough: bool,
        stop: Stop<'_>,
    ) -> unroll_probe::Result<()> {
        let settings = examples.settings;
        let mut found = Self::default();
        if let Some(batch) = &examples.gradient {
            found.gradient = gradient(model, batch, step, stop)?;
            if thorough && settings.gates {
                stop.check()?;
                found.gates = gates(model, batch, step)?;
            }
        }
        if let Some(batch) = examples.attention.as_ref().filter(|_| thorough) {
            stop.check()?;
            found.attention = attention(model, batch, step)?;
        }
        if let (Some(batch), Some(settings)) = (&examples.jacobian, &settings.jacobian)
            && thorough
        {
            found.jacobians = jacobians(model, batch, settings, step, stop)?;
        }
        self.gradient.append(&mut found.gradient);
        self.gates.append(&mut found.gates);
        self.attention.append(&mut found.attention);
        self.jacobians.append(&mut found.jacobians);
        Ok(())
    }

    /// Puts everything into a record.
    pub fn copy_to(&self, record: &mut TrialRecord) {
        record.gradient.clone_from(&self.gradient);
        record.jacobians.clone_from(&self.jacobians);
        record.gates.clone_from(&self.gates);
        record.attention.clone_from(&self.attention);
    }
}

fn gradient(
    model: &TaskModel,
    batch: &Batch,
    step: u64,
    stop: Stop<'_>,
) -> unroll_probe::Result<Vec<GradientPoint>> {
    // The norm of a layer-normalised output is constant: its square would have no gradient.
    let loss = GradientLoss::RandomProjection { seed: model.seed() };
    let decay = unroll_probe::gradient_decay_of_task(model, batch, loss, Form::Auto, stop)?;
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

/// Nothing for models without gates.
fn gates(model: &TaskModel, batch: &Batch, step: u64) -> unroll_probe::Result<Vec<GateStatistics>> {
    let measured = unroll_probe::gate_statistics_of_task(model, batch)?;
    let gates = measured.into_iter().map(|gate| GateStatistics {
        step,
        layer: gate.layer,
        direction: gate.direction.name().to_owned(),
        gate: gate.gate.name().to_owned(),
        mean: gate.mean,
        standard_deviation: gate.standard_deviation,
        quantiles: gate.quantiles,
        closed: gate.closed,
        open: gate.open,
        saturated: gate.saturated,
        memory: gate.memory.map(|memory| MemoryTimes {
            forget: memory.forget_quantiles(),
            decay: memory.decay_quantiles(),
        }),
    });
    Ok(gates.collect())
}

/// Nothing for models without attention.
fn attention(
    model: &TaskModel,
    batch: &Batch,
    step: u64,
) -> unroll_probe::Result<Vec<AttentionHead>> {
    let measured = unroll_probe::attention_profile_of_task(model, batch)?;
    let body = model.body()?;
    let heads = measured.into_iter().map(|profile| AttentionHead {
        step,
        layer: profile.layer,
        head: profile.head,
        entropy: profile.entropy,
        normalised_entropy: profile.normalised_entropy,
        mean_distance: profile.mean_distance,
        uniform_distance: profile.uniform_distance,
        by_distance: profile
            .by_distance
            .iter()
            .map(|weight| DistanceWeight {
                first: weight.first,
                last: weight.last,
                weight: weight.mean_weight,
                path_length: body.path_length(weight.first),
            })
            .collect(),
        by_visible: profile
            .by_visible
            .iter()
            .map(|entropy| VisibleEntropy {
                first: entropy.first,
                last: entropy.last,
                entropy: entropy.entropy,
                normalised_entropy: entropy.normalised_entropy,
            })
            .collect(),
    });
    Ok(heads.collect())
}

/// Nothing for models that have no state of fixed size.
fn jacobians(
    model: &TaskModel,
    batch: &Batch,
    settings: &JacobianSettings,
    step: u64,
    stop: Stop<'_>,
) -> unroll_probe::Result<Vec<StateJacobian>> {
    let longest = batch.seq_len;
    let powers = std::iter::successors(Some(1usize), |distance| distance.checked_mul(2));
    let mut distances: Vec<usize> = powers.take_while(|&distance| distance < longest).collect();
    distances.push(longest);
    let options = JacobianOptions {
        distances,
        exact_up_to: settings.exact_up_to,
        probes: settings.probes,
        seed: model.seed(),
        ..JacobianOptions::default()
    };
    let measured = match unroll_probe::jacobian_of_task(model, batch, &options, Form::Auto, stop) {
        Err(unroll_probe::Error::Unsupported(_)) => return Ok(Vec::new()),
        other => other?,
    };
    let estimate = |estimate: unroll_probe::Estimate| Estimate {
        value: estimate.value,
        standard_error: estimate.standard_error,
    };
    let points = |points: Vec<unroll_probe::JacobianPoint>| {
        let point = |point: unroll_probe::JacobianPoint| JacobianPoint {
            distance: point.distance,
            ln_largest: point.ln_largest.lower,
            ln_largest_below: point.ln_largest.upper,
            probability: point.ln_largest.probability,
            ln_largest_hidden: point.ln_largest_hidden,
            ln_largest_cell: point.ln_largest_cell,
            ln_smallest: point.ln_smallest,
            log_det_rate: estimate(point.log_det_rate),
        };
        points.into_iter().map(point).collect()
    };
    let examples = measured.into_iter().enumerate().map(|(example, jacobian)| StateJacobian {
        step,
        example,
        probes: match jacobian.method {
            JacobianMethod::Exact => None,
            JacobianMethod::RandomProbes { probes } => Some(probes),
        },
        state_size: jacobian.state_size,
        steps: jacobian.steps,
        lyapunov: jacobian.lyapunov.into_iter().map(estimate).collect(),
        points: points(jacobian.points),
    });
    Ok(examples.collect())
}

/// Times of all phases.
///
/// # Errors
/// When the model cannot run or gives numbers that are not finite, or `stop` says so.
pub fn throughput(
    model: &TaskModel,
    task: &dyn Task,
    settings: &ThroughputSettings,
    train: &TrainConfig,
    stop: Stop<'_>,
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
    let gauge = Gauge::of(model.device());
    let timings =
        unroll_probe::measure(model, task, batch_size, &phases, train, &options, &gauge, stop)?;
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
