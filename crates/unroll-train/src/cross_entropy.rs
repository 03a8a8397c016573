//! Cross-entropy from logits as one operation on the CPU.
//!
//! In plain tensor operations the loss and its gradient make about ten copies of the logits, which
//! for a large vocabulary cost as much as the product that made them. Here the forward pass reads
//! the logits once and keeps the probabilities, and the backward pass turns these into the gradient
//! in place.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::optim::Real;

/// Rows are given to threads in blocks of about this many logits.
const BLOCK: usize = 1 << 14;

/// Whether the fused operation runs on this tensor.
pub(crate) fn supports(logits: &Tensor) -> bool {
    unroll_core::fused::supports(logits.device(), logits.dtype())
}

/// `-ln softmax(logits)[target]` of each row: `(N, C)` to `(N,)`. Every target must be below `C`.
pub(crate) fn fused(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let op = CrossEntropy { targets: targets.to_vec(), probabilities: Mutex::new(None) };
    logits.contiguous()?.apply_op1(op)
}

struct CrossEntropy {
    targets: Vec<u32>,
    /// Kept from the forward to the first backward pass.
    probabilities: Mutex<Option<CpuStorage>>,
}

impl CrossEntropy {
    fn forward<R: Real>(&self, logits: &[R], classes: usize) -> (Vec<R>, Vec<R>) {
        let mut losses = vec![R::ZERO; self.targets.len()];
        let mut probabilities = vec![R::ZERO; logits.len()];
        let rows = losses
            .par_iter_mut()
            .zip(&self.targets)
            .zip(logits.par_chunks(classes).zip(probabilities.par_chunks_mut(classes)))
            .with_min_len((BLOCK / classes).max(1));
        rows.for_each(|((loss, &target), (logits, probabilities))| {
            *loss = row(logits, target as usize, probabilities);
        });
        (losses, probabilities)
    }

    /// `(softmax - one-hot) * gradient of the row's loss`, in place of the probabilities.
    fn backward<R: Real>(&self, probabilities: &mut [R], gradient: &[R], classes: usize) {
        let rows = probabilities
            .par_chunks_mut(classes)
            .zip(gradient.par_iter().zip(&self.targets))
            .with_min_len((BLOCK / classes).max(1));
        rows.for_each(|(row, (&gradient, &target))| {
            if let Some(value) = row.get_mut(target as usize) {
                *value = *value - R::ONE;
            }
            for value in row {
                *value = *value * gradient;
            }
        });
    }
}

/// Loss of one row; `probabilities` becomes its softmax. NaN and infinity come through as NaN.
fn row<R: Real>(logits: &[R], target: usize, probabilities: &mut [R]) -> R {
    let peak = logits.iter().fold(R::NEGATIVE_INFINITY, |peak, &x| if x > peak { x } else { peak });
    let mut total = 0.0;
    for (probability, &logit) in probabilities.iter_mut().zip(logits) {
        *probability = (logit - peak).exp();
        total += (*probability).to_f64();
    }
    let scale = R::from_f64(1.0 / total);
    for probability in probabilities.iter_mut() {
        *probability = *probability * scale;
    }
    let target = logits.get(target).copied().unwrap_or(R::NAN);
    R::from_f64(total.ln() - (target.to_f64() - peak.to_f64()))
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, classes) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("cross-entropy: the logits are not contiguous")
        };
        if rows != self.targets.len() || classes == 0 {
            bail!("cross-entropy: {} targets for logits {rows} x {classes}", self.targets.len())
        }
        let (losses, probabilities) = match storage {
            CpuStorage::F32(logits) => {
                let (losses, probabilities) = self.forward(&logits[start..end], classes);
                (CpuStorage::F32(losses), CpuStorage::F32(probabilities))
            }
            CpuStorage::F64(logits) => {
                let (losses, probabilities) = self.forward(&logits[start..end], classes);
                (CpuStorage::F64(losses), CpuStorage::F64(probabilities))
            }
            _ => bail!("cross-entropy: logits must be f32 or f64"),
        };
        *self.probabilities.lock().unwrap_or_else(PoisonError::into_inner) = Some(probabilities);
        Ok((losses, Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, _losses: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, classes) = logits.dims2()?;
        let take = || self.probabilities.lock().unwrap_or_else(PoisonError::into_inner).take();
        let probabilities = match take() {
            Some(kept) => Some(kept),
            // A second backward pass through the same graph.
            None => {
                let (storage, layout) = logits.storage_and_layout();
                if let candle_core::Storage::Cpu(storage) = &*storage {
                    self.cpu_fwd(storage, layout)?;
                }
                take()
            }
        };
        let shape = logits.shape().clone();
        match probabilities {
            Some(CpuStorage::F32(mut values)) => {
                self.backward(&mut values, &gradient.to_vec1::<f32>()?, classes);
                Ok(Some(Tensor::from_vec(values, shape, logits.device())?))
            }
            Some(CpuStorage::F64(mut values)) => {
                self.backward(&mut values, &gradient.to_vec1::<f64>()?, classes);
                Ok(Some(Tensor::from_vec(values, shape, logits.device())?))
            }
            _ => bail!("cross-entropy: logits must be f32 or f64 on the CPU"),
        }
    }
}
