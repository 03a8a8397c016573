//! Losses.

use candle_core::{D, Tensor};

use crate::batch::{TensorBatch, TensorTargets};
use crate::{Result, cross_entropy};

/// Loss of each answer, `(N, O)` to `(N,)`: mean squared error over its numbers, or cross-entropy
/// in nats of its logits.
pub fn answer_losses(answers: &Tensor, targets: &TensorTargets) -> Result<Tensor> {
    match targets {
        TensorTargets::Values(values) => Ok((answers - values)?.sqr()?.mean(D::Minus1)?),
        TensorTargets::Classes(classes) if cross_entropy::supports(answers) => {
            Ok(cross_entropy::fused(answers, classes)?)
        }
        TensorTargets::Classes(classes) => cross_entropy_by_tensors(answers, classes),
    }
}

/// Mean loss of a batch, weighted: a scalar to differentiate.
pub fn mean_loss(answers: &Tensor, batch: &TensorBatch) -> Result<Tensor> {
    let losses = answer_losses(answers, &batch.targets)?;
    let total: f64 = batch.weights.iter().sum();
    let losses = if batch.weights.iter().all(|&weight| weight == 1.0) {
        losses
    } else {
        let weights = Tensor::from_slice(&batch.weights, batch.answers(), losses.device())?;
        (&losses * weights.to_dtype(losses.dtype())?)?
    };
    Ok(losses.sum_all()?.affine(1.0 / total, 0.0)?)
}

/// The definition, on any device: `ln sum exp(x - max x) - (x_target - max x)`.
fn cross_entropy_by_tensors(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    // The maximum only keeps the exponential in range: as a constant it cancels in the gradient.
    let peak = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&peak)?;
    let normaliser = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let index = Tensor::from_slice(targets, (targets.len(), 1), logits.device())?;
    Ok((normaliser - shifted.gather(&index, D::Minus1)?)?.squeeze(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;
    use unroll_core::Stream;

    use super::*;

    fn loss_and_gradient(
        loss: impl Fn(&Tensor) -> Tensor,
        logits: &Tensor,
    ) -> (Vec<f64>, Vec<f64>) {
        let var = Var::from_tensor(logits).unwrap();
        let losses = loss(&var);
        // Unequal factors, so that a gradient that ignores them shows.
        let factors = Tensor::arange(1f64, losses.dim(0).unwrap() as f64 + 1.0, &Device::Cpu)
            .and_then(|f| f.to_dtype(logits.dtype()))
            .unwrap();
        let gradients = (&losses * factors).unwrap().sum_all().unwrap().backward().unwrap();
        let host =
            |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        (host(&losses), host(gradients.get(&var).unwrap()))
    }

    proptest! {
        /// The fused operation is the definition, in value and gradient.
        #[test]
        fn fused_equals_definition(rows in 1usize..9, classes in 1usize..40, seed: u64, single: bool) {
            let dtype = if single { DType::F32 } else { DType::F64 };
            let tolerance = if single { 1e-5 } else { 1e-13 };
            let logits = Stream::new(seed, "logits")
                .normal((rows, classes), 3.0, dtype, &Device::Cpu)
                .unwrap();
            let mut rng = Stream::new(seed, "targets").rng();
            let targets: Vec<u32> = (0..rows).map(|_| rng.below(classes) as u32).collect();
            let (a, da) = loss_and_gradient(|x| cross_entropy::fused(x, &targets).unwrap(), &logits);
            let (b, db) =
                loss_and_gradient(|x| cross_entropy_by_tensors(x, &targets).unwrap(), &logits);
            for (a, b) in a.iter().zip(&b).chain(da.iter().zip(&db)) {
                prop_assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{} {}", a, b);
            }
        }
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_classes() {
        let logits = Tensor::full(1e4f32, (2, 7), &Device::Cpu).unwrap();
        let losses = answer_losses(&logits, &TensorTargets::Classes(vec![0, 6])).unwrap();
        for loss in losses.to_vec1::<f32>().unwrap() {
            assert!((loss - 7f32.ln()).abs() < 1e-6);
        }
    }

    /// A confident wrong answer has a finite loss, its logit difference; NaN stays NaN.
    #[test]
    fn extremes() {
        let logits = Tensor::new(&[[200f32, -200.0], [f32::NAN, 0.0]], &Device::Cpu).unwrap();
        let losses: Vec<f32> =
            answer_losses(&logits, &TensorTargets::Classes(vec![1, 1])).unwrap().to_vec1().unwrap();
        assert_eq!(losses[0], 400.0);
        assert!(losses[1].is_nan());
    }

    /// The gradient can be taken twice through one graph.
    #[test]
    fn second_backward_pass_gives_the_same() {
        let logits = Var::new(&[[0.3f64, -1.0, 2.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy::fused(&logits, &[2]).unwrap().sum_all().unwrap();
        let gradient = || -> Vec<Vec<f64>> {
            loss.backward().unwrap().get(&logits).unwrap().to_vec2().unwrap()
        };
        let first = gradient();
        assert_eq!(first, gradient());
        assert!(first[0].iter().sum::<f64>().abs() < 1e-15);
    }
}
