//! Softmax attention for any score: the core that all kinds but the linear one share.

use candle_core::{DType, Device, Tensor};
use unroll_core::{Form, Result, Stream, ops};
use unroll_kernels::AttentionArgs;

use crate::pattern::{Plan, Visible};

/// Queries per block of a causal pattern.
pub(crate) const QUERY_BLOCK: usize = 128;

/// Element-wise FLOPs per score: scale to the peak, exponential, sum, division and their like.
pub(crate) const SOFTMAX_FLOPS: u64 = 5;

/// Dropout on the weights: probability and the stream below which each block has its own.
#[derive(Clone, Copy)]
pub(crate) struct WeightDropout<'a> {
    pub(crate) probability: f64,
    pub(crate) stream: &'a Stream,
}

/// What a softmax attention gives.
pub(crate) struct Attended {
    /// `(B, N, T, V)`: for each query the mean of the values under its weights.
    pub(crate) context: Tensor,
    /// `(B, N, T, S)`: the weights before dropout, when asked for.
    pub(crate) weights: Option<Tensor>,
}

/// `softmax(score(Q, K) + mask) V`, block by block.
///
/// `queries` `(B, N, T, A)`, `keys` `(B, N, S, A)`, `values` `(B, N, S, V)`; `score` maps a block of
/// queries and keys to `(B, N, queries, keys)`. A query that sees no key gets zeros.
pub(crate) fn attend(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    plan: &Plan,
    dropout: Option<WeightDropout<'_>>,
    keep_weights: bool,
    score: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Attended> {
    let mut contexts = Vec::with_capacity(plan.blocks().len());
    let mut kept = Vec::new();
    for (index, (block, mask)) in plan.blocks().iter().enumerate() {
        let rows = |x: &Tensor, start: usize, len: usize| -> Result<Tensor> {
            // `contiguous` copies nothing when the block is the whole.
            Ok(x.narrow(2, start, len)?.contiguous()?)
        };
        let scores = score(
            &rows(queries, block.query, block.queries)?,
            &rows(keys, block.key, block.keys)?,
        )?;
        let weights = ops::masked_softmax(&scores, mask.as_ref())?;
        let dropped = match dropout {
            Some(WeightDropout { probability, stream }) => {
                let mask = stream.child(&format!("block{index}")).dropout_mask(
                    weights.shape(),
                    probability,
                    weights.dtype(),
                    weights.device(),
                )?;
                (&weights * mask)?
            }
            None => weights.clone(),
        };
        contexts.push(dropped.matmul(&rows(values, block.key, block.keys)?)?);
        if keep_weights {
            let right = plan.keys() - block.key - block.keys;
            kept.push(weights.pad_with_zeros(3, block.key, right)?);
        }
    }
    Ok(Attended {
        context: join(contexts)?,
        weights: if keep_weights { Some(join(kept)?) } else { None },
    })
}

/// Whether a pass in this form may use fused operations.
pub(crate) fn may_fuse(form: Form, dtype: DType, device: &Device) -> bool {
    form == Form::Auto && unroll_kernels::supports(device, dtype)
}

/// The same for attention over heads of `size` features: also on GPUs, and in 16 bits.
pub(crate) fn may_attend(form: Form, dtype: DType, device: &Device, size: usize) -> bool {
    form == Form::Auto && unroll_kernels::supports_attention(device, dtype, size)
}

/// Features of queries or of values `(B, N, rows, features)`, whichever are more.
pub(crate) fn widest(queries: &Tensor, values: &Tensor) -> Result<usize> {
    Ok(queries.dim(3)?.max(values.dim(3)?))
}

/// `softmax(scale Q K^T + mask) V` `(B, N, T, V)` as one operation: the numbers of [`attend`] with
/// that score and no dropout.
pub(crate) fn attend_fused(
    (queries, keys, values): (&Tensor, &Tensor, &Tensor),
    visible: &Visible,
    scale: f64,
) -> Result<Tensor> {
    let lengths = visible.lengths.as_deref();
    let args = AttentionArgs { queries, keys, values, scale, mask: visible.mask, lengths };
    Ok(unroll_kernels::attention(&args)?)
}

/// Blocks of queries one after the other.
fn join(mut blocks: Vec<Tensor>) -> Result<Tensor> {
    match (blocks.pop(), blocks.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            blocks.push(last);
            Ok(Tensor::cat(&blocks, 2)?)
        }
        (None, _) => Err(unroll_core::Error::shape("queries", [0], "at least one step")),
    }
}

/// `1 / sqrt(d)` for heads of size `d`.
pub(crate) fn scale(head_size: usize) -> f64 {
    1.0 / (head_size as f64).sqrt()
}

/// `Q K^T / sqrt(d)` over the last axes (Vaswani 2017, equation 1); `d` is the head size.
pub(crate) fn scaled_dot_product(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    // Scaling the queries costs `T d` products where scaling the scores would cost `T^2`.
    let queries = queries.affine(scale(queries.dim(3)?), 0.0)?;
    Ok(queries.matmul(&keys.transpose(2, 3)?)?)
}
