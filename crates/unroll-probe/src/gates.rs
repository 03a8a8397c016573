//! How open the gates of recurrent layers stand, and how long units remember by them.
//!
//! A unit that keeps the fraction `f_t` of its state at step `t` has kept `f_1 f_2 ... f_n` after `n` steps
//! along the linear path (LSTM: `dc_n/dc_0` through the forget gates alone; GRU: `dh_n/dh_0` through the
//! update gates alone; what goes around through gates and candidates is left out, see
//! [`mod@crate::jacobian`] for the whole). Two times say how fast that falls, both in steps, per unit,
//! with means `E` over all examples and their real steps:
//!
//! | time | formula | what it is |
//! |---|---|---|
//! | [`MemoryTimes::forget`] | `1 / (1 - E f)` | the mean life of a memory that each step deletes with probability `1 - f` (Tallec & Ollivier 2018, section 2: "forgetting time") |
//! | [`MemoryTimes::decay`] | `-1 / E ln f` | the steps in which the product of the `f_t` falls to `1/e`: exact for the linear path |
//!
//! By Jensen's inequality `decay <= -1 / ln E f <= forget`; equal gates `f` give `1 / (1 - f)` and
//! `-1 / ln f`, which differ by about half a step. A wide gap between the two means a gate that is open at
//! most steps and wipes its unit at a few.
//!
//! Both are computed from pre-activations: `1 - sigma(x)` is `sigma(-x)` and `-ln sigma(x)` is
//! `ln(1 + exp(-x))`, without cancellation, so that a bias of 100 gives 2.7e43 steps and not infinity. A
//! unit whose gate is 1 even so (beyond `x` of about 709, the range of f64) has infinite times; one whose
//! gate is 0 at every step forgets in one step, and decays in 0 steps.

use candle_core::{DType, Tensor};
use unroll_core::{
    Direction, ForwardArgs, Gate, GateName, Keeps, Lengths, SequenceModel, Squash,
    weights::check_finite,
};
use unroll_tasks::Batch;
use unroll_train::TaskModel;

use crate::Result;
use crate::statistics::{Sum, quantile, select_quantiles, sorted};

/// A sigmoid gate below this counts as closed.
pub const CLOSED: f64 = 0.1;

/// A sigmoid gate above this counts as open, a candidate beyond it in size as saturated.
pub const OPEN: f64 = 0.9;

const QUANTILES: [f64; 3] = [0.1, 0.5, 0.9];

/// One gate of one layer in one direction, over all examples, real steps and units.
#[derive(Debug, Clone, PartialEq)]
pub struct GateStatistics {
    /// Layer, the lowest first.
    pub layer: usize,
    /// Direction of the layer.
    pub direction: Direction,
    /// Which gate.
    pub gate: GateName,
    /// Real steps of all examples together; each has one value per unit.
    pub steps: usize,
    /// Units (`H`).
    pub units: usize,
    /// Mean value.
    pub mean: f64,
    /// Standard deviation of the values (of the population: divided by their number).
    pub standard_deviation: f64,
    /// Quantiles of the values: 0.1, 0.5, 0.9.
    pub quantiles: [f64; 3],
    /// Fraction of the values of a sigmoid gate below [`CLOSED`].
    pub closed: Option<f64>,
    /// Fraction of the values of a sigmoid gate above [`OPEN`].
    pub open: Option<f64>,
    /// Fraction of the values of a tanh candidate that are larger than [`OPEN`] in size.
    pub saturated: Option<f64>,
    /// How long units remember, for the gate that keeps their state.
    pub memory: Option<MemoryTimes>,
}

/// How long each unit remembers, in steps.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryTimes {
    /// Whether the open or the closed gate keeps the state: `f` is its value, or 1 minus that.
    pub keeps: Keeps,
    /// `1 / (1 - E f)` for each unit, at least 1.
    pub forget: Vec<f64>,
    /// `-1 / E ln f` for each unit, at least 0.
    pub decay: Vec<f64>,
}

impl MemoryTimes {
    /// Quantiles of [`forget`](Self::forget) over units: 0.1, 0.5, 0.9.
    pub fn forget_quantiles(&self) -> [f64; 3] {
        over_units(&self.forget)
    }

    /// Quantiles of [`decay`](Self::decay) over units: 0.1, 0.5, 0.9.
    pub fn decay_quantiles(&self) -> [f64; 3] {
        over_units(&self.decay)
    }
}

fn over_units(times: &[f64]) -> [f64; 3] {
    let times = sorted(times);
    QUANTILES.map(|q| quantile(&times, q))
}

/// Measures the gates of a model on inputs `(B, T, I)` from the zero state, without dropout; the gates of a
/// forward pass in their order, nothing for a model without gates. f32 is enough: sums are taken in f64.
///
/// # Errors
/// When the model cannot run on the input, or a gate is NaN.
pub fn gate_statistics(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
) -> Result<Vec<GateStatistics>> {
    let input = input.detach();
    let args = ForwardArgs { lengths, gates: true, ..ForwardArgs::new(&input) };
    let gates = body.forward(&args)?.gates;
    gates.iter().map(|gate| statistics(gate, lengths)).collect()
}

/// [`gate_statistics`] of the sequence model within a whole model, on the inputs of a task's batch as its
/// input layer gives them.
///
/// # Errors
/// As [`gate_statistics`]; when the batch does not fit the model.
pub fn gate_statistics_of_task(model: &TaskModel, batch: &Batch) -> Result<Vec<GateStatistics>> {
    let batch = model.tensors(batch)?;
    let input = model.features(&batch)?;
    gate_statistics(model.body()?, &input, batch.lengths.as_ref())
}

/// `sigma(x)` and `sigma(-x)`, both to full relative precision.
fn sigmoids(x: f64) -> (f64, f64) {
    let small = (-x.abs()).exp();
    let (large, small) = (1.0 / (1.0 + small), small / (1.0 + small));
    if x < 0.0 { (small, large) } else { (large, small) }
}

/// `ln(1 + exp(x))`, which is `-ln sigma(-x)`, to full relative precision.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Steps that are added up plainly before their sum is added with its rounding error.
const BLOCK: usize = 64;

/// Sums over the steps of one unit: of the values, of `1 - f`, of `-ln f`.
#[derive(Clone, Copy, Default)]
struct UnitSums {
    value: Sum,
    lost: Sum,
    rate: Sum,
}

impl UnitSums {
    /// Adds a block to the sums, and empties it.
    fn flush(units: &mut [Self], block: &mut [[f64; 3]]) {
        for (sums, block) in units.iter_mut().zip(block) {
            let [value, lost, rate] = std::mem::take(block);
            sums.value.add(value);
            sums.lost.add(lost);
            sums.rate.add(rate);
        }
    }
}

fn statistics(gate: &Gate, lengths: Option<&Lengths>) -> Result<GateStatistics> {
    let (_, seq_len, units) = gate.preactivation.dims3()?;
    let raw: Vec<f64> = gate.preactivation.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    if raw.iter().any(|x| x.is_nan()) {
        let name = format!("{} gate of layer {}", gate.name.name(), gate.layer);
        check_finite(&name, &gate.preactivation)?;
    }
    let real = |example: usize| lengths.map_or(seq_len, |l| l.as_slice()[example]);
    let rows = raw.chunks_exact(units.max(1)).enumerate();
    let rows = rows.filter(|(row, _)| row % seq_len < real(row / seq_len)).map(|(_, row)| row);
    let squash = gate.name.squash();

    let mut values = Vec::with_capacity(raw.len());
    let mut of_units = vec![UnitSums::default(); units];
    let mut block = vec![[0.0; 3]; units];
    for (index, row) in rows.enumerate() {
        if index % BLOCK == 0 {
            UnitSums::flush(&mut of_units, &mut block);
        }
        for (sums, &x) in block.iter_mut().zip(row) {
            let (value, rest) = match squash {
                Squash::Sigmoid => sigmoids(x),
                Squash::Tanh => (x.tanh(), 0.0),
            };
            values.push(value);
            sums[0] += value;
            if let Some(keeps) = gate.keeps {
                let (lost, toward) = match keeps {
                    Keeps::WhenOpen => (rest, -x),
                    Keeps::WhenClosed => (value, x),
                };
                sums[1] += lost;
                sums[2] += softplus(toward);
            }
        }
    }
    UnitSums::flush(&mut of_units, &mut block);
    let (count, steps) = (values.len() as f64, values.len() / units.max(1));
    let mut total = Sum::default();
    of_units.iter().for_each(|sums| total.add(sums.value.value()));
    let mean = total.value() / count;
    let mut squares = Sum::default();
    for values in values.chunks(BLOCK) {
        squares.add(values.iter().map(|value| (value - mean).powi(2)).sum());
    }
    let fraction = |holds: fn(f64) -> bool| {
        values.iter().filter(|&&value| holds(value)).count() as f64 / count
    };
    let is = |kind: Squash, holds: fn(f64) -> bool| (squash == kind).then(|| fraction(holds));
    let closed = is(Squash::Sigmoid, |value| value < CLOSED);
    let open = is(Squash::Sigmoid, |value| value > OPEN);
    let saturated = is(Squash::Tanh, |value| value.abs() > OPEN);
    // Sums of numbers that are not negative: where they are 0 the time is infinite, of the right sign.
    let times = |of: fn(&UnitSums) -> Sum| {
        of_units.iter().map(|sums| steps as f64 / of(sums).value()).collect()
    };
    let memory = gate.keeps.map(|keeps| MemoryTimes {
        keeps,
        forget: times(|sums| sums.lost),
        decay: times(|sums| sums.rate),
    });
    Ok(GateStatistics {
        layer: gate.layer,
        direction: gate.direction,
        gate: gate.name,
        steps,
        units,
        mean,
        standard_deviation: (squares.value() / count).sqrt(),
        quantiles: select_quantiles(&mut values, QUANTILES),
        closed,
        open,
        saturated,
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_cancels() {
        for x in [0.0f64, 1e-9, 0.5, 3.0, 40.0, 300.0, 700.0] {
            let (large, small) = sigmoids(x);
            assert_eq!((small, large), sigmoids(-x));
            assert!((small * (1.0 + x.exp()) - 1.0).abs() < 1e-14, "{x}");
            assert!((softplus(-x) / (-x).exp().ln_1p() - 1.0).abs() < 1e-14, "{x}");
            assert!((softplus(x) - x - softplus(-x)).abs() < 1e-14 * (1.0 + x), "{x}");
        }
        assert_eq!(sigmoids(f64::INFINITY), (1.0, 0.0));
        assert_eq!(sigmoids(f64::NEG_INFINITY), (0.0, 1.0));
        assert_eq!(softplus(f64::NEG_INFINITY), 0.0);
        assert_eq!(softplus(f64::INFINITY), f64::INFINITY);
        assert!(sigmoids(f64::NAN).0.is_nan());
    }
}
