//! Gradient norm and clipping.
//!
//! Clipping makes no copies of the gradients: it is a factor and a bound that the optimiser applies
//! while it reads them.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Storage, Tensor};
use unroll_core::ParameterSet;

use crate::Result;

/// How gradients are bounded: by their common norm first, then each entry.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Clip {
    /// Largest Euclidean norm of all gradients together (Pascanu 2013).
    pub norm: Option<f64>,
    /// Largest magnitude of an entry.
    pub value: Option<f64>,
}

/// What a gradient `g` becomes: `clamp(factor * g, -bound, bound)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// At most 1.
    pub factor: f64,
    /// Infinite when entries are not bounded.
    pub bound: f64,
}

impl Bounds {
    /// Leaves gradients as they are.
    pub const NONE: Self = Self { factor: 1.0, bound: f64::INFINITY };
}

impl Clip {
    /// The bounds for gradients whose norm before clipping is `norm`. The factor is PyTorch's
    /// (`clip_grad_norm_`): `min(1, max_norm / (norm + 1e-6))`.
    pub fn bounds(&self, norm: f64) -> Bounds {
        let factor = self.norm.map_or(1.0, |max_norm| (max_norm / (norm + 1e-6)).min(1.0));
        Bounds { factor, bound: self.value.unwrap_or(f64::INFINITY) }
    }
}

/// Euclidean norm of all parameters' gradients together, accumulated in f64 in a fixed order.
/// Parameters that the loss does not depend on count as 0.
pub fn global_norm(parameters: &ParameterSet, gradients: &GradStore) -> Result<f64> {
    let mut on_device = Vec::new();
    let mut total = 0.0;
    for parameter in parameters.iter() {
        let Some(gradient) = gradients.get(parameter.var.as_tensor()) else { continue };
        match host_sum_of_squares(gradient) {
            Some(sum) => total += sum,
            None => on_device.push(gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?),
        }
    }
    if !on_device.is_empty() {
        // One transfer for all.
        total += Tensor::stack(&on_device, 0)?.to_vec1::<f64>()?.iter().sum::<f64>();
    }
    Ok(total.sqrt())
}

/// Sum of squares of a contiguous f32 or f64 tensor on the CPU; `None` for others.
fn host_sum_of_squares(tensor: &Tensor) -> Option<f64> {
    if !unroll_core::fused::supports(tensor.device(), tensor.dtype()) {
        return None;
    }
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            Some(sum_of_squares(&values[start..end], f64::from))
        }
        Storage::Cpu(CpuStorage::F64(values)) => Some(sum_of_squares(&values[start..end], |v| v)),
        _ => None,
    }
}

/// In eight partial sums, which the compiler turns into vector instructions.
fn sum_of_squares<R: Copy>(values: &[R], to_f64: impl Fn(R) -> f64) -> f64 {
    let mut lanes = [0.0; 8];
    let (blocks, rest) = values.as_chunks::<8>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            let value = to_f64(value);
            *lane += value * value;
        }
    }
    let tail: f64 = rest.iter().map(|&value| to_f64(value).powi(2)).sum();
    lanes.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;
    use unroll_core::{BuildContext, Role};

    use super::*;

    /// Parameters whose gradients under `sum(p * g)` are the given vectors.
    fn with_gradients(vectors: &[Vec<f32>], dtype: DType) -> (ParameterSet, GradStore) {
        let context = BuildContext::cpu(dtype, 0);
        let mut parameters = ParameterSet::new(dtype, &Device::Cpu);
        let mut loss = Tensor::zeros((), dtype, &Device::Cpu).unwrap();
        for (index, vector) in vectors.iter().enumerate() {
            let p =
                parameters.add(format!("p{index}"), vector.len(), Role::Scale, &context).unwrap();
            let g = Tensor::from_slice(vector, vector.len(), &Device::Cpu).unwrap();
            let g = g.to_dtype(dtype).unwrap();
            loss = (loss + (p * g).unwrap().sum_all().unwrap()).unwrap();
        }
        (parameters, loss.backward().unwrap())
    }

    #[test]
    fn norm_of_3_4_12_is_13() {
        // f16 takes the way of other devices.
        for dtype in [DType::F32, DType::F64, DType::F16] {
            let (parameters, gradients) = with_gradients(&[vec![3.0, 4.0], vec![12.0]], dtype);
            assert_eq!(global_norm(&parameters, &gradients).unwrap(), 13.0);
        }
    }

    /// The squares of f32 gradients would overflow f32 here.
    #[test]
    fn large_gradients_have_a_finite_norm() {
        let (parameters, gradients) = with_gradients(&[vec![3e30, 4e30]], DType::F32);
        let norm = global_norm(&parameters, &gradients).unwrap();
        assert!((norm / 5e30 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn missing_gradients_count_as_zero() {
        let (mut parameters, gradients) = with_gradients(&[vec![2.0]], DType::F32);
        let context = BuildContext::cpu(DType::F32, 0);
        parameters.add("unused", 3, Role::Scale, &context).unwrap();
        assert_eq!(global_norm(&parameters, &gradients).unwrap(), 2.0);
    }

    proptest! {
        #[test]
        fn sums_equal_the_plain_sum(values in proptest::collection::vec(-1e3f32..1e3, 0..100)) {
            let plain: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let sum = sum_of_squares(&values, f64::from);
            prop_assert!((sum - plain).abs() <= 1e-12 * plain);
        }

        /// After clipping the norm is at most the bound, and small gradients are left alone.
        #[test]
        fn clipped_norm_is_bounded(norm in 0.0f64..1e6, max_norm in 1e-3f64..1e3) {
            let bounds = Clip { norm: Some(max_norm), value: None }.bounds(norm);
            prop_assert!(bounds.factor * norm <= max_norm);
            prop_assert!(bounds.factor <= 1.0);
            if norm < max_norm - 2e-6 {
                prop_assert_eq!(bounds, Bounds::NONE);
            }
        }
    }
}
