//! How a recurrent state depends on an earlier one: the Jacobian `ds_T/ds_(T-k)` and Lyapunov
//! exponents.
//!
//! The state `s_t` is everything that the model carries from one step to the next, flattened: the
//! hidden states of all layers, an LSTM's cell states too. Along one sequence the Jacobian is the
//! product of the Jacobians of its steps, `J_T ... J_(T-k+1)` with `J_t = ds_t/ds_(t-1)` (Pascanu,
//! Mikolov & Bengio 2013, eq. 5), and its singular values are what back-propagation can do to a
//! gradient over `k` steps. [`gradient_decay`](crate::gradient_decay) follows one gradient on that
//! way; here the best, the worst and the mean of all directions are measured.
//!
//! The product itself leaves the range of f64 after some hundred steps, and its smaller singular
//! values are lost in the rounding errors of the larger ones long before. Both are avoided by QR
//! iteration (Benettin, Galgani, Giorgilli & Strelcyn 1980; Geist, Parlitz & Lauterborn 1990): an
//! orthonormal frame is pulled back step by step,
//!
//! ```text
//! J_(T-k+1)^T Q_(k-1) = Q_k R_k,   Q_0 = 1,   so that   (ds_T/ds_(T-k))^T = Q_k R_k ... R_1,
//! ```
//!
//! and only the well-behaved triangular factors are multiplied, or their inverses, with powers of
//! two set apart. The logarithms of the diagonals add up to `ln |det|`, and their means over time are
//! the Lyapunov exponents (of recurrent networks: Engelken, Wolf & Abbott 2020; Vogt, Puelma Touzel,
//! Shlizerman & Lajoie 2022). All logarithms are natural ones.

mod exact;
mod frame;
mod probes;
mod scaled;
mod trajectory;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::{Form, ForwardArgs, Lengths, SequenceModel};
use unroll_tasks::Batch;
use unroll_train::TaskModel;

use crate::{Result, Stop};
use trajectory::{Layout, Trajectory};

/// What is measured, and how much work may go into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JacobianOptions {
    /// The distances `k` of `ds_T/ds_(T-k)`, at least 1, in any order. Lyapunov exponents are means
    /// over the largest of them.
    pub distances: Vec<usize>,
    /// States of up to this many elements are measured exactly, larger ones with random probes: the
    /// exact method takes time `O(n^3)` per step.
    pub exact_up_to: usize,
    /// Random vectors of the probe method.
    pub probes: usize,
    /// Most steps between two neighbouring distances whose determinant the probe method takes, at
    /// least 2.
    pub log_det_samples: usize,
    /// Seed of the random vectors.
    pub seed: u64,
}

impl Default for JacobianOptions {
    fn default() -> Self {
        Self {
            distances: vec![1, 2, 4, 8, 16, 32, 64],
            exact_up_to: 128,
            probes: 16,
            log_det_samples: 8,
            seed: 0,
        }
    }
}

/// How a Jacobian was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JacobianMethod {
    /// The full Jacobian of every step.
    Exact,
    /// Products with random vectors.
    RandomProbes {
        /// How many.
        probes: usize,
    },
}

/// A number with its standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The value; -infinity where a Jacobian is singular.
    pub value: f64,
    /// 0 when the value is exact or -infinity; infinite when there was too little data to tell.
    pub standard_error: f64,
}

impl Estimate {
    /// A value without error.
    pub fn exact(value: f64) -> Self {
        Self { value, standard_error: 0.0 }
    }
}

/// An interval that holds a number with some probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The number is at least this, with certainty.
    pub lower: f64,
    /// The number is at most this; equal to `lower` when exact.
    pub upper: f64,
    /// Probability of `upper`, over the choice of the random vectors; 1 when exact.
    pub probability: f64,
}

impl Bounds {
    /// A number that is known.
    pub fn exact(value: f64) -> Self {
        Self { lower: value, upper: value, probability: 1.0 }
    }
}

/// The Jacobian `M = ds_T/ds_(T-k)` at one distance `k`.
#[derive(Debug, Clone, PartialEq)]
pub struct JacobianPoint {
    /// `k`.
    pub distance: usize,
    /// `ln sigma_max(M)`: the most that a gradient can grow, or the least that it must shrink.
    ///
    /// From random probes: at least `ln ||M^T Q||` for the orthonormal basis `Q` of the Gaussian
    /// vectors `w_1 ... w_p`; at most `ln(10 sqrt(2/pi) max_i ||M^T w_i||)`, but for a probability of
    /// `10^-p` (Halko, Martinsson & Tropp 2011, lemma 4.1).
    pub ln_largest: Bounds,
    /// `ln sigma_max` of the block `dh_T/dh_(T-k)` of the top layer. Exact method only, for models
    /// with a state `h`.
    pub ln_largest_hidden: Option<f64>,
    /// `ln sigma_max` of the block `dc_T/dc_(T-k)` of the top layer. Exact method only, for models
    /// with a state `c`.
    pub ln_largest_cell: Option<f64>,
    /// `ln sigma_min(M)`: the least that is left of any gradient; -infinity when `M` is singular.
    /// Exact method only.
    pub ln_smallest: Option<f64>,
    /// `ln |det M| / k`: the change of volume per step, in nats; the sum of all Lyapunov exponents
    /// over these `k` steps.
    ///
    /// From random probes: the mean of `ln |det J_t|` over a sample of steps, stratified by the
    /// distances that were asked for; its standard error is that of independent samples.
    pub log_det_rate: Estimate,
}

/// The Jacobians of one example.
///
/// A direction counts as lost, and the Jacobian as singular, when a step's Jacobian leaves less of it
/// than rounding errors, about `n eps` of what the step does to the others. A ReLU unit that is off
/// does that, and a tanh unit whose state rounds to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Jacobian {
    /// How it was measured.
    pub method: JacobianMethod,
    /// The implementation that ran: `fused`, `reference`, `unrolled`.
    pub form: &'static str,
    /// Elements of the state, `n`.
    pub state_size: usize,
    /// Steps that the exponents are means over: the largest distance.
    pub steps: usize,
    /// Lyapunov exponents in nats per step, the largest first: `lambda_i = 1/k sum_j ln |(R_j)_ii|`
    /// (Geist, Parlitz & Lauterborn 1990). All `n` of them in the exact method, where they are those
    /// of these steps and add up to the last point's `log_det_rate`; -infinity for as many as
    /// directions were lost.
    ///
    /// With `p` random probes the `p` largest, with standard errors from the means over 16 blocks of
    /// time. Both start from a frame that first has to turn into the directions that grow the most,
    /// which biases each exponent by `O(1/steps)`.
    pub lyapunov: Vec<Estimate>,
    /// One point for each distance, in ascending order.
    pub points: Vec<JacobianPoint>,
}

/// Measures the Jacobians of a model's state along each of the inputs `(B, T, I)`, from the zero
/// state, to the last real step of each example. Gives one result per example; distances that a
/// padded example is too short for are left out of its own, which has no exponents if none is left.
///
/// The work is one forward and one backward pass per step over `n` copies of the example, and some
/// products of `n x n` matrices. Memory holds `n` numbers per step of the largest distance.
///
/// # Errors
/// When the model is not causal, its state grows or is not in f64 (see
/// [`f64_body`](crate::f64_body)), an option or the input does not fit, or a state is not finite.
pub fn jacobian(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    options: &JacobianOptions,
    form: Form,
) -> Result<Vec<Jacobian>> {
    jacobian_until(body, input, lengths, options, form, Stop::NEVER)
}

/// [`jacobian`] that can be stopped, between steps.
fn jacobian_until(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    options: &JacobianOptions,
    form: Form,
    stop: Stop<'_>,
) -> Result<Vec<Jacobian>> {
    let (batch, seq_len, _) =
        ForwardArgs { lengths, ..ForwardArgs::new(input) }.dims(body.input_size())?;
    let layout = Layout::of(body)?;
    let distances = options.sorted_distances(seq_len)?;
    let input = input.detach();
    let mut measured = Vec::with_capacity(batch);
    for example in 0..batch {
        let length = lengths.map_or(seq_len, |lengths| lengths.as_slice()[example]);
        let distances: Vec<usize> =
            distances.iter().copied().take_while(|&distance| distance <= length).collect();
        let input = input.narrow(0, example, 1)?.narrow(1, 0, length)?.contiguous()?;
        let window = distances.last().copied().unwrap_or(0);
        let trajectory = Trajectory::record(body, &layout, input, window, form, stop)?;
        measured.push(if layout.size() <= options.exact_up_to {
            exact::measure(&trajectory, &distances)?
        } else {
            probes::measure(&trajectory, &distances, options, example)?
        });
    }
    Ok(measured)
}

/// [`jacobian`] of the sequence model within a whole model, along the inputs of a task's batch as its
/// input layer gives them.
///
/// # Errors
/// As [`jacobian`]; when the batch does not fit the model; [`Interrupted`](crate::Error::Interrupted) when
/// `stop` says so.
pub fn jacobian_of_task(
    model: &TaskModel,
    batch: &Batch,
    options: &JacobianOptions,
    form: Form,
    stop: Stop<'_>,
) -> Result<Vec<Jacobian>> {
    let batch = model.tensors(batch)?;
    let input = model.features(&batch)?;
    jacobian_until(model.body()?, &input, batch.lengths.as_ref(), options, form, stop)
}

impl JacobianOptions {
    /// The distances in ascending order, each once.
    fn sorted_distances(&self, seq_len: usize) -> Result<Vec<usize>> {
        let wrong = |option, message| Err(unroll_core::Error::option(option, message).into());
        if self.probes == 0 {
            return wrong("probes", "must be at least 1, not 0".to_owned());
        }
        if self.log_det_samples < 2 {
            let given = self.log_det_samples;
            return wrong("log_det_samples", format!("an error needs at least 2, not {given}"));
        }
        let mut distances = self.distances.clone();
        distances.sort_unstable();
        distances.dedup();
        match (distances.first(), distances.last()) {
            (Some(1..), Some(&last)) if last <= seq_len => Ok(distances),
            (None, _) => wrong("distances", "must name at least one distance".to_owned()),
            _ => wrong(
                "distances",
                format!("must lie in 1..={seq_len}, the steps of the input, not {distances:?}"),
            ),
        }
    }
}
