//! Gradient decay: how much of a loss at the last step reaches earlier steps.
//!
//! The loss reads the last step's output alone, so that every bit of gradient at an earlier step
//! has travelled through the recurrence (or the attention) in between. Nothing is clipped. The
//! examples of a batch are independent: one backward pass of the summed loss gives each example's
//! own gradients, whose norms are taken per example and summarised afterwards.
//!
//! | measure | formula | unit | source |
//! |---|---|---|---|
//! | [`Derivative::Hidden`] | `||dL/dh_t||_2` against `T - t` | of `L` per unit of `h` | Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013 |
//! | [`Derivative::Cell`] | `||dL/dc_t||_2` | of `L` per unit of `c` | Hochreiter & Schmidhuber 1997 |
//! | [`Derivative::Input`] | `||dL/dx_t||_2` | of `L` per unit of `x` | Arjovsky, Shah & Bengio 2016 compare models by such norms |
//!
//! All are total derivatives, through every later step. Norms are kept as natural logarithms: those of
//! recurrent models are followed segment by segment (`gradient/segments.rs`), so that norms of 1e-3000 over
//! 10,000 steps come out right. Attention over all the past and bidirectional models have one backward
//! pass over the whole sequence, which loses what falls below 2.2e-308 (its logarithm is minus infinity):
//! attention's gradients do not compound over distance, a bidirectional recurrence's do.

mod segments;

use candle_core::{DType, Device, Tensor, Var};
use serde::{Deserialize, Serialize};
use unroll_core::model::last_step;
use unroll_core::{Form, ForwardArgs, Lengths, Probe, SequenceModel, Stream};
use unroll_tasks::Batch;
use unroll_train::TaskModel;

use self::segments::Parts;
use crate::statistics::{mean, quantile, sorted};
use crate::{Error, Result, Stop};

/// The loss at the last step's output `h_T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientLoss {
    /// `0.5 ||h_T||^2`: the gradient at the last step is `h_T` itself.
    #[default]
    HalfSquaredNorm,
    /// `u . h_T` with one random unit vector `u` for all examples: the gradient at the last step has
    /// norm 1 whatever `h_T` is, so that models can be compared without their output scales.
    RandomProjection {
        /// Seed of `u`.
        seed: u64,
    },
}

/// What the loss is differentiated by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Derivative {
    /// `dL/dh_t`, total derivative at the hidden state.
    Hidden,
    /// `dL/dc_t`, total derivative at the cell state.
    Cell,
    /// `dL/dx_t` at the input of the sequence model: what all architectures have.
    Input,
}

/// Norms of one derivative in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientNorms {
    /// What the loss is differentiated by.
    pub of: Derivative,
    /// Layer, the lowest first (bidirectional models: twice the layer, plus 1 for the reverse
    /// direction); 0 for the input.
    pub layer: usize,
    /// Natural logarithm of each example's Euclidean norm at each distance `T - t` from its last real
    /// step: entry `d` has the examples that have a step at distance `d`. Minus infinity is a norm of
    /// exactly 0, or (where there are no segments) below 2.2e-308.
    pub ln_by_distance: Vec<Vec<f64>>,
}

/// Summary of the norms at one distance. Logarithms are natural; minus infinity is that of 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradientPoint {
    /// What the loss is differentiated by.
    pub of: Derivative,
    /// As in [`GradientNorms::layer`].
    pub layer: usize,
    /// Steps between the loss and the state, `T - t`.
    pub distance: usize,
    /// Examples that have a step at this distance.
    pub examples: usize,
    /// Examples whose norm is exactly 0: cut off, or (where there are no segments) below 2.2e-308.
    pub zeros: usize,
    /// Logarithm of the mean norm over examples.
    pub ln_mean_norm: f64,
    /// Mean of the logarithm over examples; `None` when a norm is 0.
    pub mean_ln_norm: Option<f64>,
    /// Quantiles of the logarithm over examples: 0.1, 0.5, 0.9.
    pub ln_quantiles: [f64; 3],
}

/// All norms of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientDecay {
    /// Hidden states layer by layer, then cell states, then the input.
    pub norms: Vec<GradientNorms>,
    /// The implementation that ran: `fused`, `reference`, `unrolled`.
    pub form: &'static str,
}

impl GradientDecay {
    /// Summaries in order of derivative, layer and distance.
    pub fn points(&self) -> Vec<GradientPoint> {
        self.norms.iter().flat_map(GradientNorms::points).collect()
    }

    /// Takes over further examples of the same model.
    fn append(&mut self, more: Self) {
        for (own, more) in self.norms.iter_mut().zip(more.norms) {
            let distances = own.ln_by_distance.len().max(more.ln_by_distance.len());
            own.ln_by_distance.resize_with(distances, Vec::new);
            for (own, more) in own.ln_by_distance.iter_mut().zip(more.ln_by_distance) {
                own.extend(more);
            }
        }
    }

    /// The norms of one derivative in one layer.
    pub fn get(&self, of: Derivative, layer: usize) -> Option<&GradientNorms> {
        self.norms.iter().find(|norms| norms.of == of && norms.layer == layer)
    }
}

impl GradientNorms {
    /// Summaries in order of distance.
    pub fn points(&self) -> Vec<GradientPoint> {
        let summary = |(distance, lns): (usize, &Vec<f64>)| {
            let zeros = lns.iter().filter(|&&ln| ln == f64::NEG_INFINITY).count();
            let ordered = sorted(lns);
            GradientPoint {
                of: self.of,
                layer: self.layer,
                distance,
                examples: lns.len(),
                zeros,
                ln_mean_norm: ln_of_mean(lns),
                mean_ln_norm: (zeros == 0).then(|| mean(lns)),
                ln_quantiles: [0.1, 0.5, 0.9].map(|q| quantile(&ordered, q)),
            }
        };
        self.ln_by_distance.iter().enumerate().map(summary).collect()
    }
}

/// Standard normal inputs `(B, T, I)`.
///
/// # Errors
/// When they cannot be allocated on the device.
pub fn gaussian_input(
    shape: (usize, usize, usize),
    seed: u64,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Ok(Stream::new(seed, "probe/input").normal(shape, 1.0, dtype, device)?)
}

/// Measures a sequence model on inputs `(B, T, I)`. The model should be in f64 (see
/// [`f64_body`](crate::f64_body)): f32 turns small gradients into 0.
///
/// # Errors
/// When the model cannot run on the input.
pub fn gradient_decay(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    loss: GradientLoss,
    form: Form,
) -> Result<GradientDecay> {
    gradient_decay_until(body, input, lengths, loss, form, Stop::NEVER)
}

/// [`gradient_decay`] that can be stopped: between segments, or between some examples and the next.
///
/// # Errors
/// As [`gradient_decay`]; [`Error::Interrupted`].
pub fn gradient_decay_until(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    loss: GradientLoss,
    form: Form,
    stop: Stop<'_>,
) -> Result<GradientDecay> {
    let (batch, seq_len, _) =
        ForwardArgs { lengths, ..ForwardArgs::new(input) }.dims(body.input_size())?;
    if let Some(parts) = segments::parts_of(body, input)? {
        return by_segments(body, input, lengths, loss, form, parts, stop);
    }
    let at_once = (AT_ONCE / seq_len.saturating_mul(seq_len).max(1)).max(1);
    let mut all: Option<GradientDecay> = None;
    for first in (0..batch).step_by(at_once) {
        stop.check()?;
        let count = at_once.min(batch - first);
        let own = lengths.map(|lengths| lengths.as_slice()[first..first + count].to_vec());
        let own = own.map(|own| Lengths::new(own, count, seq_len)).transpose()?;
        let input = input.narrow(0, first, count)?.contiguous()?;
        let found = whole(body, &input, own.as_ref(), loss, form, stop)?;
        match &mut all {
            None => all = Some(found),
            Some(all) => all.append(found),
        }
    }
    all.ok_or_else(|| Error::Unsupported("there are no examples".into()))
}

/// Steps of all pairs of positions that are differentiated at once where there are no segments: beyond it, some
/// examples follow others, which bounds both the memory and the time until somebody's request to stop is heard.
const AT_ONCE: usize = 1 << 26;

/// One backward pass over the whole length.
fn whole(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    loss: GradientLoss,
    form: Form,
    stop: Stop<'_>,
) -> Result<GradientDecay> {
    let (batch, seq_len, _) = input.dims3()?;
    // A variable of its own: the input's values may have come from an embedding.
    let input = Var::from_tensor(&input.detach())?;
    let layout = body.probe_layout();
    let probe = match layout.hidden + layout.cell {
        0 => None,
        _ => Some(layout.zeros(batch, seq_len, body.dtype(), body.device())?),
    };
    let args = ForwardArgs { lengths, probe: probe.as_ref(), form, ..ForwardArgs::new(&input) };
    let output = body.forward(&args)?;
    let last = last_step(&output.output, lengths)?;
    stop.check()?;
    let gradients = loss.of(&last)?.backward()?;

    let probe = probe.unwrap_or_default();
    let layers = |of, vars: &[Var]| -> Vec<(Derivative, usize, Var)> {
        vars.iter().enumerate().map(|(layer, var)| (of, layer, var.clone())).collect()
    };
    let Probe { hidden, cell } = &probe;
    let mut measured = layers(Derivative::Hidden, hidden);
    measured.extend(layers(Derivative::Cell, cell));
    measured.push((Derivative::Input, 0, input));
    let norms = measured
        .into_iter()
        .map(|(of, layer, var)| {
            let Some(gradient) = gradients.get(&var) else {
                return Err(Error::Unsupported(format!(
                    "the output does not depend on the {of:?} variable of layer {layer}"
                )));
            };
            Ok(GradientNorms { of, layer, ln_by_distance: norms_by_distance(gradient, lengths)? })
        })
        .collect::<Result<_>>()?;
    Ok(GradientDecay { norms, form: output.form })
}

/// Sequences of one length at a time: the loss belongs to each one's own last step.
fn by_segments(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    loss: GradientLoss,
    form: Form,
    parts: Parts,
    stop: Stop<'_>,
) -> Result<GradientDecay> {
    let Some(lengths) = lengths else {
        let (norms, form) = segments::norms(body, input, loss, form, parts, stop)?;
        return Ok(GradientDecay { norms, form });
    };
    let lengths = lengths.as_slice();
    let mut groups = std::collections::BTreeMap::<usize, Vec<u32>>::new();
    for (example, &length) in (0..).zip(lengths) {
        groups.entry(length).or_default().push(example);
    }
    let mut found: Vec<Option<(Vec<GradientNorms>, usize)>> = vec![None; lengths.len()];
    let mut ran = "";
    for (length, examples) in groups {
        let count = examples.len();
        let index = Tensor::from_vec(examples.clone(), count, input.device())?;
        let x = input.detach().narrow(1, 0, length)?.contiguous()?.index_select(&index, 0)?;
        let norms;
        (norms, ran) = segments::norms(body, &x, loss, form, parts, stop)?;
        for (place, example) in examples.into_iter().enumerate() {
            found[example as usize] = Some((norms.clone(), place));
        }
    }
    // Examples in their own order, whatever their lengths.
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut norms: Vec<GradientNorms> = Vec::new();
    for (own, place) in found.into_iter().flatten() {
        if norms.is_empty() {
            let empty = |one: &GradientNorms| GradientNorms {
                of: one.of,
                layer: one.layer,
                ln_by_distance: vec![Vec::new(); longest],
            };
            norms = own.iter().map(empty).collect();
        }
        for (all, own) in norms.iter_mut().zip(&own) {
            for (all, own) in all.ln_by_distance.iter_mut().zip(&own.ln_by_distance) {
                all.push(own[place]);
            }
        }
    }
    Ok(GradientDecay { norms, form: ran })
}

/// [`gradient_decay`] of the sequence model within a whole model, on the inputs of a task's batch
/// as its input layer gives them.
///
/// # Errors
/// When the batch does not fit the model; [`Error::Interrupted`] when `stop` says so.
pub fn gradient_decay_of_task(
    model: &TaskModel,
    batch: &Batch,
    loss: GradientLoss,
    form: Form,
    stop: Stop<'_>,
) -> Result<GradientDecay> {
    let batch = model.tensors(batch)?;
    let input = model.features(&batch)?;
    gradient_decay_until(model.body()?, &input, batch.lengths.as_ref(), loss, form, stop)
}

impl GradientLoss {
    /// The loss summed over examples, from their last outputs `(B, H)`.
    fn of(self, last: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::HalfSquaredNorm => last.sqr()?.sum_all()?.affine(0.5, 0.0)?,
            Self::RandomProjection { seed } => {
                let stream = Stream::new(seed, "probe/projection");
                let direction = stream.normal((1, last.dim(1)?), 1.0, DType::F64, &Device::Cpu)?;
                let norm = direction.sqr()?.sum_all()?.sqrt()?;
                let unit = direction.broadcast_div(&norm)?;
                let unit = unit.to_dtype(last.dtype())?.to_device(last.device())?;
                last.broadcast_mul(&unit)?.sum_all()?
            }
        })
    }
}

/// Logarithms of norms over the last axis of `(B, T, F)`, by distance from each sequence's last real step.
fn norms_by_distance(gradient: &Tensor, lengths: Option<&Lengths>) -> Result<Vec<Vec<f64>>> {
    let (batch, seq_len, _) = gradient.dims3()?;
    let gradient: Vec<Vec<Vec<f64>>> = gradient.to_dtype(DType::F64)?.to_vec3()?;
    let mut by_distance = vec![Vec::with_capacity(batch); seq_len];
    for (example, steps) in gradient.iter().enumerate() {
        let length = lengths.map_or(seq_len, |lengths| lengths.as_slice()[example]);
        for (t, values) in steps.iter().take(length).enumerate() {
            // Denormal numbers have lost digits, and would end in a plateau.
            let norm = norm(values);
            let ln = if norm < f64::MIN_POSITIVE { f64::NEG_INFINITY } else { norm.ln() };
            by_distance[length - 1 - t].push(ln);
        }
    }
    // Distances that no example is long enough for.
    by_distance.retain(|norms| !norms.is_empty());
    Ok(by_distance)
}

/// Logarithm of the mean of numbers given by their logarithms.
fn ln_of_mean(lns: &[f64]) -> f64 {
    let largest = lns.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // NaN is smaller than nothing for `max`, but not to be lost.
    if lns.iter().any(|ln| ln.is_nan()) {
        return f64::NAN;
    }
    if largest.is_infinite() {
        return largest;
    }
    largest + (lns.iter().map(|ln| (ln - largest).exp()).sum::<f64>() / lns.len() as f64).ln()
}

/// Euclidean norm, scaled so that squares neither underflow nor overflow: gradients below 1e-154 are
/// numbers, though their squares are not.
fn norm(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    if largest == 0.0 || largest.is_infinite() {
        return largest;
    }
    largest * values.iter().map(|value| (value / largest).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_keep_the_whole_range() {
        assert_eq!(norm(&[3.0, -4.0]), 5.0);
        assert!((norm(&[3e-200, -4e-200]) / 5e-200 - 1.0).abs() < 1e-15);
        assert!((norm(&[3e200, -4e200]) / 5e200 - 1.0).abs() < 1e-15);
        assert_eq!(norm(&[f64::from_bits(1), 0.0]), f64::from_bits(1));
        assert_eq!(norm(&[0.0; 4]), 0.0);
        assert!(norm(&[1.0, f64::NAN]).is_nan());
        assert_eq!(norm(&[1.0, f64::NEG_INFINITY]), f64::INFINITY);
    }

    #[test]
    fn summaries() {
        let lns = |norms: &[f64]| norms.iter().map(|norm| norm.ln()).collect();
        let norms = GradientNorms {
            of: Derivative::Cell,
            layer: 1,
            ln_by_distance: vec![lns(&[1.0, 4.0, 16.0]), lns(&[2.0, 0.0]), vec![-7000.0, -7000.0]],
        };
        let points = norms.points();
        assert!((points[0].ln_mean_norm - 7f64.ln()).abs() < 1e-15);
        assert!((points[0].mean_ln_norm.unwrap() - 4f64.ln()).abs() < 1e-15);
        assert!((points[0].ln_quantiles[1] - 4f64.ln()).abs() < 1e-15);
        assert_eq!((points[0].examples, points[0].zeros), (3, 0));
        assert_eq!((points[1].distance, points[1].zeros), (1, 1));
        assert_eq!(points[1].mean_ln_norm, None);
        assert_eq!(points[1].ln_mean_norm, 0.0);
        assert_eq!(points[1].ln_quantiles, [f64::NEG_INFINITY; 3]);
        assert_eq!((points[2].ln_mean_norm, points[2].mean_ln_norm), (-7000.0, Some(-7000.0)));
    }

    #[test]
    fn random_projections_have_unit_gradient() {
        let last = Var::ones((3, 5), DType::F64, &Device::Cpu).unwrap();
        let loss = GradientLoss::RandomProjection { seed: 4 }.of(&last).unwrap();
        let gradients = loss.backward().unwrap();
        let rows: Vec<Vec<f64>> = gradients.get(&last).unwrap().to_vec2().unwrap();
        assert_eq!(rows[0], rows[2]);
        assert!((norm(&rows[0]) - 1.0).abs() < 1e-15);
    }
}
