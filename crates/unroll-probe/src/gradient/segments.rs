//! Gradient decay segment by segment, with the size of the gradient kept apart from its direction.
//!
//! Back-propagation through a whole sequence multiplies one Jacobian per step; over thousands of steps the
//! product leaves the range of any floating-point number. A recurrent model can be differentiated a
//! few steps at a time instead: each segment takes the gradient with respect to the state after it, as a
//! unit vector, and gives the one with respect to the state before it, whose size goes into an
//! exponent. The products are those of one backward pass; only their exponents are kept elsewhere.
//!
//! In a stack the gradient of an upper layer's state can vanish faster than a lower layer's by more than
//! the range of f64. Back-propagation is linear in the gradient that it begins with, so that the layers'
//! parts travel separately, as copies of the batch, each with its own exponent.

use candle_core::{DType, Device, Tensor, Var};
use unroll_core::model::last_step;
use unroll_core::{Form, ForwardArgs, Probe, SequenceModel, State, StateTensor};

use super::{Derivative, GradientLoss, GradientNorms, norm};
use crate::{Error, Result, Stop};

/// Steps differentiated at once. A gradient may shrink or grow by 1e19 at each of them before it
/// leaves the range of f64 within a segment.
const SEGMENT: usize = 16;

/// How a state is cut into parts whose gradients travel separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// One for each of so many layers: the first axis of all tensors, `(L, B, H)`.
    Layers(usize),
    /// One for the whole state.
    One,
}

impl Parts {
    fn count(self) -> usize {
        match self {
            Self::Layers(layers) => layers,
            Self::One => 1,
        }
    }

    /// For each part, the rows of a state tensor, one for each sequence of the batch.
    fn rows(self, tensor: &Tensor, batch_axis: usize) -> Result<Vec<Vec<Vec<f64>>>> {
        let tensor = tensor.to_dtype(DType::F64)?;
        Ok(match self {
            Self::Layers(_) => tensor.to_vec3()?,
            Self::One => vec![tensor.transpose(0, batch_axis)?.flatten_from(1)?.to_vec2()?],
        })
    }
}

/// How gradients can be followed segment by segment: the model's past must be in a state that does not
/// grow with the sequence. `None` for models that read ahead and for caches of all the past, in which every
/// step is one hop away.
pub(super) fn parts_of(body: &dyn SequenceModel, input: &Tensor) -> Result<Option<Parts>> {
    let layers = body.probe_layout().hidden;
    if !body.is_causal() || layers == 0 {
        return Ok(None);
    }
    let state = body.zero_state(1)?;
    let per_layer = |part: &StateTensor| {
        part.time_axis.is_none()
            && part.batch_axis == 1
            && part.tensor.rank() == 3
            && part.tensor.dims()[0] == layers
    };
    if !state.tensors().is_empty() && state.tensors().iter().all(per_layer) {
        return Ok(Some(Parts::Layers(layers)));
    }
    // Whether a cache has a window is seen where the sequence is longer.
    let seq_len = input.dim(1)?;
    let one = input.narrow(0, 0, 1)?.detach();
    let state = body.forward(&ForwardArgs::new(&one))?.state;
    let bounded = |part: &StateTensor| {
        part.time_axis.is_none_or(|axis| part.tensor.dims().get(axis).is_some_and(|&n| n < seq_len))
    };
    Ok((!state.tensors().is_empty() && state.tensors().iter().all(bounded)).then_some(Parts::One))
}

/// `2^exponent * values` for each (copy, example).
type Exponents = Vec<Vec<i64>>;

/// A gradient with respect to a state.
struct Adjoint {
    /// For each state tensor, part, example: the values, next to 1.
    values: Vec<Vec<Vec<Vec<f64>>>>,
    /// For each part and example.
    exponents: Exponents,
}

/// The natural logarithms of all norms, hidden states layer by layer, then cell states, then the input;
/// and the implementation that ran. `input` is `(B, T, I)` without padding.
pub(super) fn norms(
    body: &dyn SequenceModel,
    input: &Tensor,
    loss: GradientLoss,
    form: Form,
    parts: Parts,
    stop: Stop<'_>,
) -> Result<(Vec<GradientNorms>, &'static str)> {
    let (batch, seq_len, _) = ForwardArgs::new(input).dims(body.input_size())?;
    let layout = body.probe_layout();
    let (ends, states) = states_between(body, input, form, stop)?;

    let mut norms: Vec<GradientNorms> = (0..layout.hidden)
        .map(|layer| (Derivative::Hidden, layer))
        .chain((0..layout.cell).map(|layer| (Derivative::Cell, layer)))
        .chain([(Derivative::Input, 0)])
        .map(|(of, layer)| GradientNorms {
            of,
            layer,
            ln_by_distance: vec![Vec::with_capacity(batch); seq_len],
        })
        .collect();
    let mut adjoint: Option<Adjoint> = None;
    let mut ran = "";
    for (index, before) in states.iter().enumerate().rev() {
        stop.check()?;
        let (from, to) = (ends[index], ends[index + 1]);
        let copies = if adjoint.is_some() { parts.count() } else { 1 };
        let repeated = |tensor: &Tensor, axis: usize| -> Result<Tensor> {
            Ok(if copies == 1 { tensor.clone() } else { Tensor::cat(&vec![tensor; copies], axis)? })
        };
        // Variables of their own: nothing is to be followed beyond the segment.
        let x = Var::from_tensor(&repeated(&input.narrow(1, from, to - from)?.detach(), 0)?)?;
        let mut variables = Vec::new();
        let mut tensors = Vec::new();
        for part in before.tensors() {
            // A cache is empty at first.
            let variable = match part.tensor.elem_count() {
                0 => None,
                _ => Some(Var::from_tensor(&repeated(&part.tensor, part.batch_axis)?)?),
            };
            let tensor = variable.as_ref().map_or(&part.tensor, Var::as_tensor).clone();
            tensors.push(StateTensor { tensor, ..part.clone() });
            variables.push(variable);
        }
        let state = State::new(tensors, before.steps());
        let probe = layout.zeros(copies * batch, to - from, body.dtype(), body.device())?;
        let args =
            ForwardArgs { state: Some(&state), probe: Some(&probe), form, ..ForwardArgs::new(&x) };
        let output = body.forward(&args)?;
        ran = output.form;
        let (scalar, exponents) = match &adjoint {
            None => (loss.of(&last_step(&output.output, None)?)?, vec![vec![0; batch]]),
            Some(adjoint) => {
                let mut sum: Option<Tensor> = None;
                for (part, values) in output.state.tensors().iter().zip(&adjoint.values) {
                    if part.tensor.elem_count() == 0 {
                        continue;
                    }
                    let seed = seed(values, parts, batch, part)?;
                    let product = (&part.tensor * seed)?.sum_all()?;
                    sum = Some(match sum {
                        Some(sum) => (sum + product)?,
                        None => product,
                    });
                }
                (
                    sum.ok_or_else(|| Error::Unsupported("the model has no state".into()))?,
                    adjoint.exponents.clone(),
                )
            }
        };
        let gradients = scalar.backward()?;
        let Probe { hidden, cell } = &probe;
        for (measured, variable) in norms.iter_mut().zip(hidden.iter().chain(cell).chain([&x])) {
            let Some(gradient) = gradients.get(variable) else {
                return Err(Error::Unsupported(format!(
                    "the output does not depend on the {:?} variable of layer {}",
                    measured.of, measured.layer
                )));
            };
            let values: Vec<Vec<Vec<f64>>> = gradient.to_dtype(DType::F64)?.to_vec3()?;
            for example in 0..batch {
                for t in from..to {
                    let parts = (0..copies).map(|copy| {
                        (
                            values[copy * batch + example][t - from].as_slice(),
                            exponents[copy][example],
                        )
                    });
                    let (sum, exponent) = sum_of(parts);
                    let ln = norm(&sum).ln() + exponent as f64 * std::f64::consts::LN_2;
                    measured.ln_by_distance[seq_len - 1 - t].push(ln);
                }
            }
        }
        if index > 0 {
            let mut found = Vec::with_capacity(variables.len());
            for (variable, part) in variables.iter().zip(before.tensors()) {
                let rows = match variable {
                    None => vec![vec![Vec::new(); copies * batch]; parts.count()],
                    Some(variable) => match gradients.get(variable) {
                        Some(gradient) => parts.rows(gradient, part.batch_axis)?,
                        // A state that the segment does not read.
                        None => parts.rows(&variable.zeros_like()?, part.batch_axis)?,
                    },
                };
                found.push(rows);
            }
            adjoint = Some(Adjoint::from_copies(&found, &exponents, parts.count(), batch));
        }
    }
    Ok((norms, ran))
}

/// Where segments begin and end (the first entry is 0, the last one the length), and the state before
/// each.
fn states_between(
    body: &dyn SequenceModel,
    input: &Tensor,
    form: Form,
    stop: Stop<'_>,
) -> Result<(Vec<usize>, Vec<State>)> {
    let (batch, seq_len, _) = input.dims3()?;
    // Full segments at the end, where gradients are largest.
    let first = (seq_len - 1) % SEGMENT + 1;
    let mut ends = vec![0];
    ends.extend((first..=seq_len).step_by(SEGMENT));
    let mut states = vec![body.zero_state(batch)?];
    for pair in ends.windows(2).take(ends.len() - 2) {
        stop.check()?;
        let x = input.narrow(1, pair[0], pair[1] - pair[0])?.detach();
        let state = states.last();
        let output = body.forward(&ForwardArgs { state, form, ..ForwardArgs::new(&x) })?;
        states.push(output.state.detach());
    }
    Ok((ends, states))
}

/// The adjoint of one state tensor as the copies of the batch begin with it: copy `p` has part `p` and zeros
/// elsewhere.
fn seed(
    values: &[Vec<Vec<f64>>],
    parts: Parts,
    batch: usize,
    like: &StateTensor,
) -> Result<Tensor> {
    let seed = match parts {
        Parts::Layers(layers) => {
            let width = like.tensor.dim(2)?;
            let mut all = vec![0.0; layers * layers * batch * width];
            for (layer, examples) in values.iter().enumerate() {
                for (example, values) in examples.iter().enumerate() {
                    let row = (layer * layers + layer) * batch + example;
                    all[row * width..][..width].copy_from_slice(values);
                }
            }
            Tensor::from_vec(all, (layers, layers * batch, width), &Device::Cpu)?
        }
        Parts::One => {
            let all: Vec<f64> = values.iter().flatten().flatten().copied().collect();
            let shape = like.tensor.transpose(0, like.batch_axis)?.shape().clone();
            Tensor::from_vec(all, shape, &Device::Cpu)?.transpose(0, like.batch_axis)?
        }
    };
    Ok(seed.to_dtype(like.tensor.dtype())?.to_device(like.tensor.device())?)
}

impl Adjoint {
    /// From the gradients of state tensors, for each part and (copy, example), whose copies have these
    /// exponents.
    fn from_copies(
        tensors: &[Vec<Vec<Vec<f64>>>],
        exponents: &Exponents,
        parts: usize,
        batch: usize,
    ) -> Self {
        let mut values = vec![vec![Vec::with_capacity(batch); parts]; tensors.len()];
        let mut new_exponents = vec![vec![0; batch]; parts];
        for part in 0..parts {
            for example in 0..batch {
                // The tensors of one part belong together: h and c of an LSTM's layer.
                let joined: Vec<Vec<f64>> = (0..exponents.len())
                    .map(|copy| {
                        let row = copy * batch + example;
                        tensors.iter().flat_map(|rows| rows[part][row].iter().copied()).collect()
                    })
                    .collect();
                let all = joined.iter().zip(exponents);
                let (sum, exponent) =
                    sum_of(all.map(|(values, exponents)| (values.as_slice(), exponents[example])));
                let (sum, more) = normalised(sum);
                new_exponents[part][example] = exponent + more;
                let mut rest = sum.as_slice();
                for (rows, values) in tensors.iter().zip(&mut values) {
                    let (own, after) = rest.split_at(rows[part][example].len());
                    values[part].push(own.to_vec());
                    rest = after;
                }
            }
        }
        Self { values, exponents: new_exponents }
    }
}

/// The sum of vectors `2^exponent * values`, and its exponent.
fn sum_of<'a>(parts: impl Iterator<Item = (&'a [f64], i64)>) -> (Vec<f64>, i64) {
    let parts: Vec<(&[f64], i64)> = parts.collect();
    if let [(only, exponent)] = parts[..] {
        return (only.to_vec(), exponent);
    }
    let parts: Vec<(Vec<f64>, i64)> = parts
        .into_iter()
        .map(|(values, exponent)| {
            let (values, more) = normalised(values.to_vec());
            (values, exponent + more)
        })
        .collect();
    let real = parts.iter().filter(|(values, _)| values.iter().any(|&value| value != 0.0));
    let top = real.map(|&(_, exponent)| exponent).max().unwrap_or(0);
    let mut sum = vec![0.0; parts.first().map_or(0, |(values, _)| values.len())];
    for (values, exponent) in parts {
        // A part of zeros may have a larger exponent: 0 times infinity would be NaN.
        let factor = power_of_two((exponent - top).min(0));
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
    }
    (sum, top)
}

/// Values whose largest magnitude lies in [1, 2), and the exponent that was taken out: exact, but for
/// values more than 1e308 below the largest.
fn normalised(mut values: Vec<f64>) -> (Vec<f64>, i64) {
    let largest = values.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 || !largest.is_finite() {
        return (values, 0);
    }
    let exponent = largest.log2().floor() as i64;
    // In two steps: the factor for a denormal number is beyond the largest one.
    let half = -exponent / 2;
    let factors = [power_of_two(half), power_of_two(-exponent - half)];
    values.iter_mut().for_each(|value| *value = *value * factors[0] * factors[1]);
    (values, exponent)
}

/// `2^exponent`; 0 below 1e-308, infinite above 1e308.
fn power_of_two(exponent: i64) -> f64 {
    2f64.powi(exponent.clamp(-2000, 2000) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_keeps_all_digits() {
        for value in [3.0, -1e-300, 1.7e308, f64::from_bits(5), f64::MIN_POSITIVE] {
            let (values, exponent) = normalised(vec![value, value / 3.0]);
            assert!((1.0..2.0).contains(&values[0].abs()), "{value}: {values:?}");
            let back = values[0].abs().ln() + exponent as f64 * std::f64::consts::LN_2;
            assert!((back - value.abs().ln()).abs() < 1e-12 * back.abs().max(1.0), "{value}");
        }
        assert_eq!(normalised(vec![0.0, -0.0]), (vec![0.0, -0.0], 0));
        assert!(normalised(vec![f64::NAN, f64::INFINITY]).0[0].is_nan());
    }

    #[test]
    fn sums_of_very_different_sizes() {
        let (one, two) = ([1.0, 0.0], [3.0, 4.0]);
        let of = |parts: &[(&[f64], i64)]| sum_of(parts.iter().copied());
        // (1, 0) + (3, 4) / 2 = (1.25, 1) * 2, since (3, 4) = (0.75, 1) * 4.
        assert_eq!(of(&[(&one, -5000), (&two, -5001)]), (vec![1.25, 1.0], -4999));
        assert_eq!(of(&[(&one, -5000), (&two, 0)]), (vec![0.75, 1.0], 2));
        // A part that is 0 has no say in the exponent.
        assert_eq!(of(&[(&[0.0, 0.0], 0), (&two, -9000)]), (vec![0.75, 1.0], -8998));
        assert_eq!(of(&[(&[0.0], 3), (&[0.0], -7)]).0, [0.0]);
    }
}
