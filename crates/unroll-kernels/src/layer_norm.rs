//! Layer normalisation as one operation.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::float::{Float, LANES, sum_of};
use crate::isa::multiversion;
use crate::storage::{elements, host};

/// Elements per task, about. Gradients of scale and shift are summed task by task, in order.
const CHUNK: usize = 1 << 14;

/// Normalises the last axis of `x` `(..., H)` to mean 0 and variance 1 (`epsilon` is added to the
/// variance), then multiplies by `scale` `(H,)` and adds `shift` `(H,)` (Ba et al. 2016). Runs on `f32`
/// and `f64` on the CPU ([`supports`](crate::supports)).
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64) -> Result<Tensor> {
    let features = x.dims().last().copied().unwrap_or(0);
    if features == 0 || scale.dims() != [features] || shift.dims() != [features] {
        bail!(
            "scale {:?} and shift {:?} do not fit the last axis of {:?}",
            scale.dims(),
            shift.dims(),
            x.dims()
        );
    }
    let op = LayerNorm { features, epsilon };
    x.contiguous()?.apply_op3(&scale.contiguous()?, &shift.contiguous()?, op)
}

struct LayerNorm {
    features: usize,
    epsilon: f64,
}

/// Sum of `term` over a row.
#[inline(always)]
fn sum<F: Float>(count: usize, term: impl Fn(usize) -> F) -> F {
    let mut lanes = [F::ZERO; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for index in whole..count {
        lanes[index - whole] += term(index);
    }
    sum_of(lanes)
}

/// Mean of a row and `1 / sqrt(variance + epsilon)`.
#[inline(always)]
fn moments<F: Float>(row: &[F], epsilon: F) -> (F, F) {
    let inverse = F::ONE / F::from_double(row.len() as f64);
    let mean = sum(row.len(), |index| row[index]) * inverse;
    let variance = sum(row.len(), |index| {
        let centred = row[index] - mean;
        centred * centred
    });
    (mean, F::ONE / (variance * inverse + epsilon).sqrt())
}

multiversion! {
    fn normalise<F: Float>(out: &mut [F], input: &[F], scale: &[F], shift: &[F], epsilon: F) {
        let features = scale.len();
        for (out, row) in out.chunks_exact_mut(features).zip(input.chunks_exact(features)) {
            let (mean, inverse) = moments(row, epsilon);
            for (((out, &x), &scale), &shift) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                *out = (x - mean) * inverse * scale + shift;
            }
        }
    }
}

/// Gradients that one task writes: those of its rows, and its part of the sums over all rows.
pub(crate) struct Part<'a, F> {
    input: &'a mut [F],
    scale: &'a mut [F],
    shift: &'a mut [F],
}

multiversion! {
    /// With `n` the normalised row and `h = gradient * scale`: `(h - mean(h) - n mean(h n)) / std`.
    fn gradients<F: Float>(
        part: &mut Part<'_, F>,
        input: &[F],
        scale: &[F],
        gradient: &[F],
        epsilon: F,
    ) {
        let features = scale.len();
        let inverse_count = F::ONE / F::from_double(features as f64);
        let (scale_sums, shift_sums) = (&mut part.scale[..features], &mut part.shift[..features]);
        let rows = input.chunks_exact(features).zip(gradient.chunks_exact(features));
        for (out, (row, gradient)) in part.input.chunks_exact_mut(features).zip(rows) {
            let (mean, inverse) = moments(row, epsilon);
            for index in 0..features {
                // The normalised row waits in the output.
                out[index] = (row[index] - mean) * inverse;
                scale_sums[index] += gradient[index] * out[index];
                shift_sums[index] += gradient[index];
            }
            let mean_h = sum(features, |index| gradient[index] * scale[index]) * inverse_count;
            let mean_hn =
                sum(features, |index| gradient[index] * scale[index] * out[index]) * inverse_count;
            for index in 0..features {
                let h = gradient[index] * scale[index];
                out[index] = (h - mean_h - out[index] * mean_hn) * inverse;
            }
        }
    }
}

impl LayerNorm {
    /// Elements per task: whole rows.
    fn chunk(&self) -> usize {
        (CHUNK / self.features).max(1) * self.features
    }

    fn forward<F: Float>(&self, input: &[F], scale: &[F], shift: &[F]) -> Vec<F> {
        let (chunk, epsilon) = (self.chunk(), F::from_double(self.epsilon));
        let mut out = vec![F::ZERO; input.len()];
        let chunks = out.par_chunks_mut(chunk).zip(input.par_chunks(chunk));
        chunks.for_each(|(out, input)| normalise(out, input, scale, shift, epsilon));
        out
    }

    fn backward<F: Float>(
        &self,
        x: &Tensor,
        scale: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let guards = [x, scale, &gradient].map(Tensor::storage_and_layout);
        let at = |index: usize| elements::<F>(host(&guards[index].0)?, guards[index].1);
        let (input, scales, incoming) = (at(0)?, at(1)?, at(2)?);
        let (chunk, features) = (self.chunk(), self.features);
        let epsilon = F::from_double(self.epsilon);
        let tasks = input.len().div_ceil(chunk);
        let mut for_input = vec![F::ZERO; input.len()];
        let (mut for_scale, mut for_shift) =
            (vec![F::ZERO; tasks * features], vec![F::ZERO; tasks * features]);
        let writes = for_input
            .par_chunks_mut(chunk)
            .zip(for_scale.par_chunks_mut(features).zip(for_shift.par_chunks_mut(features)));
        let reads = input.par_chunks(chunk).zip(incoming.par_chunks(chunk));
        writes.zip(reads).for_each(|((input, (scale, shift)), (x, gradient))| {
            gradients(&mut Part { input, scale, shift }, x, scales, gradient, epsilon);
        });
        let total = |parts: Vec<F>| {
            let mut total = vec![F::ZERO; features];
            for part in parts.chunks_exact(features) {
                for (total, &value) in total.iter_mut().zip(part) {
                    *total += value;
                }
            }
            Tensor::from_vec(total, features, x.device())
        };
        Ok((
            Some(Tensor::from_vec(for_input, x.shape(), x.device())?),
            Some(total(for_scale)?),
            Some(total(for_shift)?),
        ))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = match s1 {
            CpuStorage::F32(_) => {
                let (scale, shift) = (elements(s2, l2)?, elements(s3, l3)?);
                CpuStorage::F32(self.forward::<f32>(elements(s1, l1)?, scale, shift))
            }
            CpuStorage::F64(_) => {
                let (scale, shift) = (elements(s2, l2)?, elements(s3, l3)?);
                CpuStorage::F64(self.forward::<f64>(elements(s1, l1)?, scale, shift))
            }
            _ => bail!("layer normalisation runs on f32 and f64"),
        };
        Ok((out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        _shift: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        match x.dtype() {
            DType::F32 => self.backward::<f32>(x, scale, grad_res),
            DType::F64 => self.backward::<f64>(x, scale, grad_res),
            other => bail!("layer normalisation runs on f32 and f64, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{draw, list};

    fn definition(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
        normal.broadcast_mul(scale)?.broadcast_add(shift)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

        #[test]
        fn outputs_and_gradients_are_those_of_the_definition(
            (batch, steps) in (1usize..5, prop_oneof![1usize..20, Just(600)]),
            features in prop_oneof![1usize..70, Just(257)],
            seed in 0usize..1000,
            (dtype, tolerance) in prop_oneof![Just((DType::F64, 1e-11)), Just((DType::F32, 2e-5))],
        ) {
            let shape = [batch, steps, features];
            let vars = [draw(&shape, seed, dtype), draw(&[features], seed + 1, dtype), draw(&[features], seed + 2, dtype)];
            let weights = draw(&shape, seed + 3, dtype);
            let found = layer_norm(&vars[0], &vars[1], &vars[2], 1e-2).unwrap();
            let expected = definition(&vars[0], &vars[1], &vars[2], 1e-2).unwrap();
            let backward = |y: &Tensor| {
                (y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap()
            };
            let (slopes, expected_slopes) = (backward(&found), backward(&expected));
            let mut pairs = vec![(found, expected)];
            for var in &vars {
                let of = |all: &candle_core::backprop::GradStore| all.get(var).unwrap().clone();
                pairs.push((of(&slopes), of(&expected_slopes)));
            }
            for (part, (found, expected)) in pairs.iter().enumerate() {
                prop_assert_eq!(found.dims(), expected.dims());
                let expected = list(expected);
                let size = expected.iter().fold(1.0f64, |size, x| size.max(x.abs()));
                for (found, expected) in list(found).iter().zip(expected) {
                    prop_assert!(
                        (found - expected).abs() <= tolerance * size,
                        "{part}: {found} instead of {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn rows_have_mean_shift_and_deviation_scale() {
        let x = draw(&[3, 50], 1, DType::F64);
        let full = |value: f64| Tensor::full(value, 50, &Device::Cpu).unwrap();
        let y = layer_norm(&x, &full(2.0), &full(3.0), 0.0).unwrap();
        for row in list(&y).chunks(50) {
            let mean = row.iter().sum::<f64>() / 50.0;
            let variance = row.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / 50.0;
            assert!((mean - 3.0).abs() < 1e-13 && (variance - 4.0).abs() < 1e-12);
        }
        assert!(layer_norm(&x, &full(2.0).narrow(0, 0, 49).unwrap(), &full(3.0), 0.0).is_err());
    }
}
