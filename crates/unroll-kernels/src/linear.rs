//! A linear map with bias as one operation.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::few_rows;
use crate::float::Float;
use crate::isa::{Isa, multiversion};
use crate::product::{Matrix, Threads, multiply};
use crate::storage::{elements, host};

/// Rows per task of the bias and its gradient, which is summed task by task, in order.
const ROWS: usize = 256;

/// `x W^T + b` over the last axis of `x` `(..., in)`, with `weight` `(out, in)` and `bias` `(out,)`.
///
/// A product and a sum of candle's give the same; their backward sums the bias' gradient element by
/// element. Runs on `f32` and `f64` on the CPU ([`supports`](crate::supports)).
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    if inputs == 0 || outputs == 0 || x.dims().last() != Some(&inputs) || bias.dims() != [outputs] {
        bail!(
            "weight {:?} and bias {:?} do not fit the last axis of {:?}",
            weight.dims(),
            bias.dims(),
            x.dims()
        );
    }
    let op = Linear { rows: x.elem_count() / inputs, inputs, outputs };
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)
}

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
}

multiversion! {
    /// Adds every row of `rows` to `total`.
    fn sum_rows<F: Float>(total: &mut [F], rows: &[F]) {
        for row in rows.chunks_exact(total.len()) {
            for (total, &value) in total.iter_mut().zip(row) {
                *total += value;
            }
        }
    }
}

impl Linear {
    fn forward<F: Float>(&self, x: &[F], weight: &[F], bias: &[F]) -> Vec<F> {
        let Self { rows, inputs, outputs } = *self;
        // The product adds to the bias.
        let mut out = vec![F::ZERO; rows * outputs];
        out.par_chunks_mut(ROWS * outputs).for_each(|chunk| {
            for row in chunk.chunks_exact_mut(outputs) {
                row.copy_from_slice(bias);
            }
        });
        let (x, weight) = (Matrix::new(x, rows, inputs), Matrix::new(weight, outputs, inputs).t());
        multiply(&mut out, outputs, x, weight, true, Threads::All);
        out
    }

    fn backward<F: Float>(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Self { rows, inputs, outputs } = *self;
        let gradient = gradient.contiguous()?;
        let guards = [x, weight, &gradient].map(Tensor::storage_and_layout);
        let at = |index: usize| elements::<F>(host(&guards[index].0)?, guards[index].1);
        let (values, weights, incoming) = (at(0)?, at(1)?, at(2)?);
        let left = Matrix::new(incoming, rows, outputs);
        let for_x = if x.track_op() {
            let mut out = vec![F::ZERO; rows * inputs];
            let weights = Matrix::new(weights, outputs, inputs);
            multiply(&mut out, inputs, left, weights, false, Threads::All);
            Some(Tensor::from_vec(out, x.shape(), x.device())?)
        } else {
            None
        };
        let for_weight = if weight.track_op() {
            let mut out = vec![F::ZERO; outputs * inputs];
            let values = Matrix::new(values, rows, inputs);
            multiply(&mut out, inputs, left.t(), values, false, Threads::All);
            Some(Tensor::from_vec(out, weight.shape(), weight.device())?)
        } else {
            None
        };
        let for_bias = if bias.track_op() {
            let mut parts = vec![F::ZERO; rows.div_ceil(ROWS) * outputs];
            let chunks = parts.par_chunks_mut(outputs).zip(incoming.par_chunks(ROWS * outputs));
            chunks.for_each(|(part, rows)| sum_rows(part, rows));
            let mut total = vec![F::ZERO; outputs];
            sum_rows(&mut total, &parts);
            Some(Tensor::from_vec(total, outputs, bias.device())?)
        } else {
            None
        };
        Ok((for_x, for_weight, for_bias))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
                let (x, weight, bias) = (elements(s1, l1)?, elements(s2, l2)?, elements(s3, l3)?);
                let few =
                    self.rows <= few_rows::MOST_ROWS && self.inputs >= few_rows::FEWEST_INPUTS;
                CpuStorage::F32(if few {
                    few_rows::linear(x, weight, bias, self.rows, Isa::current())
                } else {
                    self.forward::<f32>(x, weight, bias)
                })
            }
            CpuStorage::F64(_) => {
                let (weight, bias) = (elements(s2, l2)?, elements(s3, l3)?);
                CpuStorage::F64(self.forward::<f64>(elements(s1, l1)?, weight, bias))
            }
            _ => bail!("this linear map runs on f32 and f64"),
        };
        let mut shape = l1.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.outputs;
        }
        Ok((out, Shape::from(shape)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        match x.dtype() {
            DType::F32 => self.backward::<f32>(x, weight, bias, grad_res),
            DType::F64 => self.backward::<f64>(x, weight, bias, grad_res),
            other => bail!("this linear map runs on f32 and f64, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{draw, list};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        #[test]
        fn outputs_and_gradients_are_those_of_a_product_and_a_sum(
            (batch, steps) in (1usize..4, prop_oneof![1usize..20, Just(300)]),
            (inputs, outputs) in (1usize..40, 1usize..40),
            seed in 0usize..1000,
            (dtype, tolerance) in prop_oneof![Just((DType::F64, 1e-12)), Just((DType::F32, 1e-5))],
        ) {
            let shape = [batch, steps, inputs];
            let vars = [
                draw(&shape, seed, dtype),
                draw(&[outputs, inputs], seed + 1, dtype),
                draw(&[outputs], seed + 2, dtype),
            ];
            let weights = draw(&[batch, steps, outputs], seed + 3, dtype);
            let found = linear(&vars[0], &vars[1], &vars[2]).unwrap();
            let rows = vars[0].reshape((batch * steps, inputs)).unwrap();
            let expected = rows.matmul(&vars[1].t().unwrap()).unwrap();
            let expected = expected.broadcast_add(&vars[2]).unwrap();
            let expected = expected.reshape((batch, steps, outputs)).unwrap();
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
    fn sizes_that_do_not_fit_are_errors() {
        let (x, weight) = (draw(&[2, 3], 0, DType::F32), draw(&[4, 3], 1, DType::F32));
        assert!(linear(&x, &weight, &draw(&[4], 2, DType::F32)).is_ok());
        assert!(linear(&x, &weight, &draw(&[3], 2, DType::F32)).is_err());
        assert!(linear(&weight.t().unwrap(), &weight, &draw(&[4], 2, DType::F32)).is_err());
        assert!(linear(&x, &weight, &draw(&[4], 2, DType::F64)).is_err());
    }
}
