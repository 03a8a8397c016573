//! Attention from one sequence to another.

use candle_core::Tensor;
use unroll_core::{Cost, Lengths, Result, cost, ops};
use unroll_kernels::AttentionArgs;
use unroll_kernels::attention::Mask;

use crate::softmax::{SOFTMAX_FLOPS, WeightDropout};

/// What is attended to: keys `(B, N, S, A)`, values `(B, N, S, V)`, and which steps are real.
pub(crate) struct Memory<'a> {
    pub(crate) keys: &'a Tensor,
    pub(crate) values: &'a Tensor,
    pub(crate) lengths: Option<&'a Lengths>,
}

impl Memory<'_> {
    /// `softmax(scale Q K^T) V` `(B, N, T, V)` for queries `(B, N, T, A)` and, if asked for, the weights `(B,
    /// N, T, S)`; as one operation where `fused`, nothing is dropped and no weights are kept.
    pub(crate) fn attend(
        &self,
        queries: &Tensor,
        scale: f64,
        dropout: Option<WeightDropout<'_>>,
        (fused, keep): (bool, bool),
    ) -> Result<(Tensor, Option<Tensor>)> {
        if fused && !keep && dropout.is_none() {
            let lengths = self.lengths.map(Lengths::as_slice);
            let (keys, values, mask) = (self.keys, self.values, Mask::None);
            let args = AttentionArgs { queries, keys, values, scale, mask, lengths };
            return Ok((unroll_kernels::attention(&args)?, None));
        }
        let scores = queries.affine(scale, 0.0)?.matmul(&self.keys.transpose(2, 3)?)?;
        self.weigh(&scores, dropout, keep)
    }

    /// The values under the softmax of scores `(B, N, T, S)`.
    pub(crate) fn weigh(
        &self,
        scores: &Tensor,
        dropout: Option<WeightDropout<'_>>,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let real = match self.lengths {
            Some(lengths) => {
                let mask = lengths.mask(self.keys.dim(2)?, scores.dtype(), scores.device())?;
                Some(mask.unsqueeze(1)?.unsqueeze(1)?)
            }
            None => None,
        };
        let weights = ops::masked_softmax(scores, real.as_ref())?;
        let dropped = match dropout {
            Some(WeightDropout { probability, stream }) => {
                let (shape, dtype) = (weights.shape(), weights.dtype());
                let mask = stream.dropout_mask(shape, probability, dtype, weights.device())?;
                (&weights * mask)?
            }
            None => weights.clone(),
        };
        Ok((dropped.matmul(&self.values.contiguous()?)?, keep.then_some(weights)))
    }
}

/// Cost of the maps of multi-head attention from `targets` steps to `sources`.
pub(crate) fn projections_cost(sources: u64, targets: u64, hidden: u64, bias: bool) -> Cost {
    cost::linear(targets, hidden, hidden, bias)
        + cost::linear(sources, hidden, 2 * hidden, bias)
        + cost::linear(targets, hidden, hidden, bias)
}

/// FLOPs of scores, softmax and context of so many pairs of steps, whose scores take `per_pair` each.
pub(crate) fn pairs_flops(pairs: u64, per_pair: u64, hidden: u64, heads: u64) -> u64 {
    pairs * (per_pair + 2 * hidden + heads * SOFTMAX_FLOPS)
}
