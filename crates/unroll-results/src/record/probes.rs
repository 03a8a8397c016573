//! What probes measure of a model: gradient norms, Jacobians, gates, attention.

use serde::{Deserialize, Serialize};

/// Which derivative a gradient norm belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientOf {
    /// dL/dh_t, total derivative at the hidden state.
    Hidden,
    /// dL/dc_t, total derivative at the cell state.
    Cell,
    /// dL/dx_t.
    Input,
}

impl GradientOf {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Cell => "cell",
            Self::Input => "input",
        }
    }
}

/// Norm of a derivative at one distance from the loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradientPoint {
    /// Which derivative.
    pub of: GradientOf,
    /// Layer of the hidden or cell state (0 is the lowest); 0 for the input.
    pub layer: usize,
    /// Training steps done before measuring: 0 is at initialisation.
    pub step: u64,
    /// Steps between the loss and the state: `T - t`.
    pub distance: usize,
    /// Natural logarithm of the Euclidean norm's mean over examples; minus infinity when all are 0.
    #[serde(with = "crate::number")]
    pub ln_mean_norm: f64,
    /// Natural logarithm of the norm, averaged over examples; `None` when a norm is exactly 0.
    #[serde(with = "crate::number::option")]
    pub mean_log_norm: Option<f64>,
    /// Quantiles of the natural logarithm over examples: 0.1, 0.5, 0.9.
    #[serde(with = "crate::number::array")]
    pub ln_quantiles: [f64; 3],
}

/// A closed form of gradient decay before training: `norm(distance) = norm(0) rate^distance`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Theory {
    /// Which derivative.
    pub of: GradientOf,
    /// Natural logarithm of the rate, per step.
    #[serde(with = "crate::number")]
    pub ln_rate: f64,
    /// The formula, for plots (`0.9^k`).
    pub formula: String,
    /// How it holds.
    pub kind: TheoryKind,
}

/// How a closed form holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TheoryKind {
    /// Equal, to rounding.
    Exact,
    /// Never above.
    UpperBound,
    /// Equal if the weights were 0: the gate as its bias alone sets it.
    GateAtBias,
}

/// Whether a norm of 0 that follows one with this natural logarithm, next nearer to the loss, has fallen
/// through the end of f64 (2.2e-308, logarithm -708.4) and is not 0 in truth.
///
/// One backward pass over a whole sequence ends there; gradients followed in segments do not, and are then
/// far below. From 1e-260 no real gradient gets to the end in a single step; means over examples of which
/// some are 0 already lie a little below it.
pub fn falls_through_f64(last: f64) -> bool {
    (-720.0..-600.0).contains(&last)
}

/// What f32 makes of each point's mean norm. Points of one derivative, layer and training step are in order
/// of distance, as they are in a record.
pub fn in_f32(points: &[GradientPoint]) -> Vec<Precision> {
    let mut last = std::collections::BTreeMap::new();
    points
        .iter()
        .map(|point| {
            let last = last.entry((point.of, point.layer, point.step)).or_insert(0.0);
            if point.ln_mean_norm != f64::NEG_INFINITY {
                *last = point.ln_mean_norm;
                return Precision::of_ln(point.ln_mean_norm);
            }
            if falls_through_f64(*last) { Precision::Underflow } else { Precision::Zero }
        })
        .collect()
}

/// What a number is in f32. Training in f32 loses what is denormal or below, so that a gradient can
/// be there and yet teach nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// At least 1.2e-38 (the "f32 floor"): all digits.
    Normal,
    /// Below that and at least 1.4e-45: fewer digits, and 0 where denormals are flushed.
    Denormal,
    /// Below that, but not 0: f32 has 0. Also what f64 has lost in one backward pass.
    Underflow,
    /// Exactly 0: no dependence.
    Zero,
    /// Above 3.4e38, or not a number.
    Overflow,
}

impl Precision {
    /// Of a number given by its natural logarithm.
    pub fn of_ln(ln: f64) -> Self {
        if ln == f64::NEG_INFINITY {
            Self::Zero
        } else if ln < f64::from(f32::from_bits(1)).ln() {
            Self::Underflow
        } else if ln < f64::from(f32::MIN_POSITIVE).ln() {
            Self::Denormal
        } else if ln <= f64::from(f32::MAX).ln() {
            Self::Normal
        } else {
            Self::Overflow
        }
    }

    /// Name in tables: `normal`, `denormal`, `underflow`, `zero`, `overflow`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Denormal => "denormal",
            Self::Underflow => "underflow",
            Self::Zero => "zero",
            Self::Overflow => "overflow",
        }
    }
}

/// A number with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value; minus infinity where a Jacobian is singular.
    #[serde(with = "crate::number")]
    pub value: f64,
    /// 0 when exact; infinite when there was too little data to tell.
    #[serde(with = "crate::number")]
    pub standard_error: f64,
}

/// The Jacobians `ds_T/ds_(T-k)` of the recurrent state along one example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateJacobian {
    /// Training steps done before measuring: 0 is at initialisation.
    pub step: u64,
    /// Which example.
    pub example: usize,
    /// Random vectors that it was estimated with; `None` when it is exact.
    pub probes: Option<usize>,
    /// Elements of the state.
    pub state_size: usize,
    /// Steps that the exponents are means over.
    pub steps: usize,
    /// Lyapunov exponents in nats per step, the largest first: all of them when exact, else as many as
    /// there are probes.
    pub lyapunov: Vec<Estimate>,
    /// By distance, ascending.
    pub points: Vec<JacobianPoint>,
}

/// The Jacobian at one distance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JacobianPoint {
    /// `k`, steps.
    pub distance: usize,
    /// `ln sigma_max` is at least this.
    #[serde(with = "crate::number")]
    pub ln_largest: f64,
    /// `ln sigma_max` is at most this, with [`probability`](Self::probability).
    #[serde(with = "crate::number")]
    pub ln_largest_below: f64,
    /// Probability of the upper bound, over the choice of the random vectors; 1 when exact.
    pub probability: f64,
    /// `ln sigma_max` of the block `dh_T/dh_(T-k)` of the top layer; exact only.
    #[serde(with = "crate::number::option")]
    pub ln_largest_hidden: Option<f64>,
    /// `ln sigma_max` of the block `dc_T/dc_(T-k)` of the top layer; exact only.
    #[serde(with = "crate::number::option")]
    pub ln_largest_cell: Option<f64>,
    /// `ln sigma_min`; exact only.
    #[serde(with = "crate::number::option")]
    pub ln_smallest: Option<f64>,
    /// `ln |det| / k`, nats per step.
    pub log_det_rate: Estimate,
}

/// One gate of one layer over examples, steps and units.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateStatistics {
    /// Training steps done before measuring: 0 is at initialisation.
    pub step: u64,
    /// Layer, 0 is the lowest.
    pub layer: usize,
    /// `forward` or `reverse`.
    pub direction: String,
    /// `forget`, `update`, ...
    pub gate: String,
    /// Mean value.
    pub mean: f64,
    /// Standard deviation of the values.
    pub standard_deviation: f64,
    /// Quantiles of the values: 0.1, 0.5, 0.9.
    pub quantiles: [f64; 3],
    /// Fraction of a sigmoid gate's values below 0.1.
    pub closed: Option<f64>,
    /// Fraction of a sigmoid gate's values above 0.9.
    pub open: Option<f64>,
    /// Fraction of a tanh candidate's values larger than 0.9 in size.
    pub saturated: Option<f64>,
    /// How long units remember, for the gate that keeps their state.
    pub memory: Option<MemoryTimes>,
}

/// How long units remember, in steps: quantiles 0.1, 0.5, 0.9 over units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MemoryTimes {
    /// `1 / (1 - E f)`.
    #[serde(with = "crate::number::array")]
    pub forget: [f64; 3],
    /// `-1 / E ln f`.
    #[serde(with = "crate::number::array")]
    pub decay: [f64; 3],
}

/// What one attention head looks at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionHead {
    /// Training steps done before measuring: 0 is at initialisation.
    pub step: u64,
    /// Layer among those with attention, 0 is the lowest.
    pub layer: usize,
    /// Head of the layer.
    pub head: usize,
    /// Mean entropy of the weights, nats; `None` where weights are no distribution.
    pub entropy: Option<f64>,
    /// Mean of the entropy over `ln n` of `n` visible keys, from 0 to 1.
    pub normalised_entropy: Option<f64>,
    /// Mean attended distance, steps.
    pub mean_distance: Option<f64>,
    /// What that would be if all keys weighed alike.
    pub uniform_distance: Option<f64>,
    /// Weight by distance, the nearest first.
    pub by_distance: Vec<DistanceWeight>,
    /// Entropy by number of visible keys.
    pub by_visible: Vec<VisibleEntropy>,
}

/// The mean weight of keys at `first..=last` steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DistanceWeight {
    /// Smallest distance, steps.
    pub first: usize,
    /// Largest distance.
    pub last: usize,
    /// Mean weight.
    pub weight: f64,
    /// Fewest edges along time between input and output at the smallest distance, over the whole
    /// model; `None` when there is no way.
    pub path_length: Option<usize>,
}

/// The mean entropy of queries that see `first..=last` keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VisibleEntropy {
    /// Smallest number of visible keys.
    pub first: usize,
    /// Largest.
    pub last: usize,
    /// Mean entropy, nats.
    pub entropy: f64,
    /// Mean entropy over `ln n`.
    pub normalised_entropy: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(distance: usize, ln: f64) -> GradientPoint {
        GradientPoint {
            of: GradientOf::Input,
            layer: 0,
            step: 0,
            distance,
            ln_mean_norm: ln,
            mean_log_norm: ln.is_finite().then_some(ln),
            ln_quantiles: [ln; 3],
        }
    }

    #[test]
    fn what_f64_has_lost_is_not_taken_for_nothing() {
        let of = |lns: &[f64]| -> Vec<&str> {
            let points: Vec<_> = lns.iter().enumerate().map(|(d, &ln)| point(d, ln)).collect();
            in_f32(&points).into_iter().map(Precision::name).collect()
        };
        let zero = f64::NEG_INFINITY;
        // One backward pass through a recurrence.
        let ends = [0.0, -90.0, -707.9, zero, zero];
        assert_eq!(of(&ends), ["normal", "denormal", "underflow", "underflow", "underflow"]);
        // A window of attention; a recurrence in segments that is cut off.
        assert_eq!(of(&[0.0, -3.0, zero]), ["normal", "normal", "zero"]);
        assert_eq!(of(&[0.0, -7000.0, zero]), ["normal", "underflow", "zero"]);
        assert_eq!(of(&[zero, zero]), ["zero", "zero"]);
        // Each curve for itself.
        let mut two = vec![point(0, -708.0), point(1, zero), point(0, -1.0), point(1, zero)];
        two[2].layer = 1;
        two[3].layer = 1;
        assert_eq!(in_f32(&two)[1..], [Precision::Underflow, Precision::Normal, Precision::Zero]);
    }
}
