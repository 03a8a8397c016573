//! The Gaussian error linear unit as one operation.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::float::Float;
use crate::isa::multiversion;
use crate::storage::{elements, host};

/// Elements per task.
const CHUNK: usize = 1 << 13;

/// `x Phi(x)` with the normal distribution function (Hendrycks & Gimpel 2016), by the error function
/// and not by its approximation with `tanh`. Runs on `f32` and `f64` on the CPU
/// ([`supports`](crate::supports)).
///
/// # Errors
/// On other devices and types.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Gelu)
}

struct Gelu;

multiversion! {
    fn values<F: Float>(out: &mut [F], input: &[F]) {
        let (half, root) = (F::from_double(0.5), F::from_double(std::f64::consts::FRAC_1_SQRT_2));
        for (out, &x) in out.iter_mut().zip(input) {
            *out = half * x * (F::ONE + (x * root).erf());
        }
    }
}

multiversion! {
    /// `g (Phi(x) + x phi(x))` with the density `phi`.
    fn gradients<F: Float>(out: &mut [F], input: &[F], gradient: &[F]) {
        let (half, root) = (F::from_double(0.5), F::from_double(std::f64::consts::FRAC_1_SQRT_2));
        let density = F::from_double(0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
        for ((out, &x), &gradient) in out.iter_mut().zip(input).zip(gradient) {
            let below = half * (F::ONE + (x * root).erf());
            *out = gradient * (below + x * density * (-half * x * x).exp());
        }
    }
}

fn forward<F: Float>(storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
    let input = elements::<F>(storage, layout)?;
    let mut out = vec![F::ZERO; input.len()];
    let chunks = out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
    chunks.for_each(|(out, input)| values(out, input));
    Ok(F::storage(out))
}

fn backward<F: Float>(x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let gradient = gradient.contiguous()?;
    let guards = [x, &gradient].map(Tensor::storage_and_layout);
    let at = |index: usize| elements::<F>(host(&guards[index].0)?, guards[index].1);
    let (input, incoming) = (at(0)?, at(1)?);
    let mut out = vec![F::ZERO; input.len()];
    let chunks = out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
    chunks
        .zip(incoming.par_chunks(CHUNK))
        .for_each(|((out, input), gradient)| gradients(out, input, gradient));
    Tensor::from_vec(out, x.shape(), x.device())
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = match storage {
            CpuStorage::F32(_) => forward::<f32>(storage, layout)?,
            CpuStorage::F64(_) => forward::<f64>(storage, layout)?,
            _ => bail!("GELU runs on f32 and f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        match arg.dtype() {
            DType::F32 => Ok(Some(backward::<f32>(arg, grad_res)?)),
            DType::F64 => Ok(Some(backward::<f64>(arg, grad_res)?)),
            other => bail!("GELU runs on f32 and f64, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn definition(x: &Tensor) -> Tensor {
        let root = std::f64::consts::FRAC_1_SQRT_2;
        let double = x.affine(root, 0.0).unwrap().erf().unwrap().affine(1.0, 1.0).unwrap();
        (x.affine(0.5, 0.0).unwrap() * double).unwrap()
    }

    #[test]
    fn values_and_gradients_are_those_of_the_definition() {
        // More than one chunk, and tails where the density vanishes.
        let values: Vec<f64> = (0..20_001).map(|i| (i as f64 - 10_000.0) / 500.0).collect();
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 2e-6)] {
            let x = Tensor::new(&values[..], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let x = Var::from_tensor(&x).unwrap();
            let slopes = |y: &Tensor| {
                let gradients = y.sum_all().unwrap().backward().unwrap();
                gradients.get(&x).unwrap().clone()
            };
            let (found, expected) = (gelu(&x).unwrap(), definition(&x));
            let pairs = [(&found, &expected), (&slopes(&found), &slopes(&expected))];
            for (found, expected) in pairs {
                let list =
                    |x: &Tensor| -> Vec<f64> { x.to_dtype(DType::F64).unwrap().to_vec1().unwrap() };
                for ((found, expected), x) in list(found).iter().zip(list(expected)).zip(&values) {
                    let error = (found - expected).abs();
                    assert!(error <= tolerance * expected.abs().max(1.0), "at {x}: {error:e}");
                }
            }
        }
    }

    #[test]
    fn a_view_is_read_in_its_order() {
        let x = Tensor::new(&[[1f32, -2.0], [3.0, 0.0]], &Device::Cpu).unwrap().t().unwrap();
        let found: Vec<Vec<f32>> = gelu(&x).unwrap().to_vec2().unwrap();
        let expected: Vec<Vec<f32>> = definition(&x).to_vec2().unwrap();
        assert_eq!(found[0].len(), 2);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6);
        }
    }
}
