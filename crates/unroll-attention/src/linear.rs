//! Linear attention (Katharopoulos 2020): softmax replaced by a feature map, so that the past is a
//! sum of fixed size.
//!
//! With `phi(x) = elu(x) + 1`:
//!
//! ```text
//! S_t = S_{t-1} + phi(k_t) v_t^T        z_t = z_{t-1} + phi(k_t)
//! o_t = phi(q_t)^T S_t / (phi(q_t)^T z_t + eps)
//! ```
//!
//! [`causal`] computes blocks of steps in parallel, [`step`] one step, [`global`] the form without
//! mask; all three give the same numbers. Under rotary positions the numerator rotates `phi(q)` and
//! `phi(k)` and the denominator does not (Su 2021, equation 19): the denominator stays positive.

use candle_core::Tensor;
use unroll_core::{Result, ops};

/// `eps` in the denominator, as in the authors' code. Weights therefore sum to
/// `z / (z + eps)`, a little below 1, where `z` is the denominator without it.
pub(crate) const EPSILON: f64 = 1e-6;

/// Steps that the causal form computes in parallel.
pub(crate) const LINEAR_BLOCK: usize = 64;

/// `phi(x) = elu(x) + 1`: positive.
pub(crate) fn feature_map(x: &Tensor) -> Result<Tensor> {
    Ok((x.elu(1.0)? + 1.0)?)
}

/// The past as two sums.
#[derive(Debug, Clone)]
pub(crate) struct Sums {
    /// `S`: `(B, N, d, d)`, rows are key features.
    pub(crate) products: Tensor,
    /// `z`: `(B, N, d)`.
    pub(crate) normaliser: Tensor,
}

/// Queries, keys and values of every head, `(B, N, T, d)`, after the feature map.
pub(crate) struct Features {
    /// Queries of the numerator (rotated under rotary positions).
    pub(crate) queries: Tensor,
    /// Keys of the numerator; zero on padding.
    pub(crate) keys: Tensor,
    /// Queries of the denominator.
    pub(crate) plain_queries: Tensor,
    /// Keys of the denominator; zero on padding.
    pub(crate) plain_keys: Tensor,
    /// Values.
    pub(crate) values: Tensor,
}

impl Features {
    /// All blocks of `len` steps at once, `(B N C, len, d)`; zeros fill the last one.
    fn blocks(&self, len: usize) -> Result<Self> {
        let (batch, heads, seq_len, head_size) = self.keys.dims4()?;
        let count = seq_len.div_ceil(len);
        let fold = |x: &Tensor| -> Result<Tensor> {
            let missing = count * len - seq_len;
            let x = if missing > 0 { x.pad_with_zeros(2, 0, missing)? } else { x.clone() };
            Ok(x.contiguous()?.reshape((batch * heads * count, len, head_size))?)
        };
        Ok(Self {
            queries: fold(&self.queries)?,
            keys: fold(&self.keys)?,
            plain_queries: fold(&self.plain_queries)?,
            plain_keys: fold(&self.plain_keys)?,
            values: fold(&self.values)?,
        })
    }

    fn zero_sums(&self) -> Result<Sums> {
        let (batch, heads, _, head_size) = self.keys.dims4()?;
        let (dtype, device) = (self.keys.dtype(), self.keys.device());
        Ok(Sums {
            products: Tensor::zeros((batch, heads, head_size, head_size), dtype, device)?,
            normaliser: Tensor::zeros((batch, heads, head_size), dtype, device)?,
        })
    }

    /// `S` and `z` with all steps of this block added.
    fn add_to(&self, sums: &Sums) -> Result<Sums> {
        Ok(Sums {
            products: (&sums.products + self.keys.transpose(2, 3)?.matmul(&self.values)?)?,
            normaliser: (&sums.normaliser + self.plain_keys.sum(2)?)?,
        })
    }
}

/// `(B, N, T, d)` of outputs, and the weights `(B, N, T, T)` that they imply when asked for.
pub(crate) struct Attended {
    pub(crate) context: Tensor,
    pub(crate) weights: Option<Tensor>,
}

/// The causal form from `start` (zeros when `None`), in blocks of [`LINEAR_BLOCK`] steps: within a
/// block `(mask * Q K^T) V`, from earlier blocks `Q S`. Also the sums after the last step.
///
/// All blocks are computed together. What each adds to the sums is summed over the blocks before it by
/// one product with a triangular matrix: a loop would take slices, whose gradients are as long as the
/// whole sequence, so that training would cost the square of the length.
pub(crate) fn causal(
    features: &Features,
    start: Option<&Sums>,
    keep_weights: bool,
) -> Result<(Attended, Sums)> {
    let (batch, heads, seq_len, head_size) = features.queries.dims4()?;
    let (dtype, device) = (features.queries.dtype(), features.queries.device());
    let lower = |n: usize| ops::mask_from_fn(n, n, dtype, device, |i, j| j <= i);
    let start = match start {
        Some(sums) => sums.clone(),
        None => features.zero_sums()?,
    };
    let len = LINEAR_BLOCK.min(seq_len.max(1));
    let (rows, count) = (batch * heads, seq_len.div_ceil(len));
    let before = ops::mask_from_fn(count, count, dtype, device, |i, j| j < i)?;
    // `(B N, C, size)` of what the blocks add to `(B N, C, size)` of what stands before each.
    let sums_before = |added: &Tensor, first: &Tensor, size: usize| -> Result<Tensor> {
        let added = added.reshape((rows, count, size))?;
        let before = before.broadcast_left(rows)?.contiguous()?.matmul(&added)?;
        Ok(before.broadcast_add(&first.reshape((rows, 1, size))?)?)
    };

    let blocks = features.blocks(len)?;
    let mask = lower(len)?;
    let products = blocks.keys.transpose(1, 2)?.matmul(&blocks.values)?;
    let products = sums_before(&products, &start.products, head_size * head_size)?;
    let products = products.reshape((rows * count, head_size, head_size))?;
    let normaliser = sums_before(&blocks.plain_keys.sum(1)?, &start.normaliser, head_size)?;
    let normaliser = normaliser.reshape((rows * count, 1, head_size))?;

    let scores = blocks.queries.matmul(&blocks.keys.transpose(1, 2)?)?.broadcast_mul(&mask)?;
    let numerator = (scores.matmul(&blocks.values)? + blocks.queries.matmul(&products)?)?;
    let running = mask.broadcast_matmul(&blocks.plain_keys)?.broadcast_add(&normaliser)?;
    let denominator = (&blocks.plain_queries * running)?.sum_keepdim(2)?.affine(1.0, EPSILON)?;
    let unfold = |x: &Tensor| -> Result<Tensor> {
        let whole = x.reshape((batch, heads, count * len, x.dim(2)?))?;
        Ok(if count * len > seq_len { whole.narrow(2, 0, seq_len)? } else { whole })
    };
    let context = unfold(&numerator.broadcast_div(&denominator)?)?;
    let weights = if keep_weights {
        let scores = features.queries.matmul(&features.keys.transpose(2, 3)?)?;
        let scores = scores.broadcast_mul(&lower(seq_len)?)?;
        Some(scores.broadcast_div(&unfold(&denominator)?)?)
    } else {
        None
    };
    Ok((Attended { context, weights }, features.add_to(&start)?))
}

/// The form without mask: every query reads the sums over all real steps (and those of `start`).
/// The queries may be others than the keys' steps.
pub(crate) fn global(
    features: &Features,
    start: Option<&Sums>,
    keep_weights: bool,
) -> Result<Attended> {
    let zero;
    let start = match start {
        Some(sums) => sums,
        None => {
            zero = features.zero_sums()?;
            &zero
        }
    };
    let sums = features.add_to(start)?;
    let (context, denominator) = read(&features.queries, &features.plain_queries, &sums)?;
    let weights = if keep_weights {
        let scores = features.queries.matmul(&features.keys.transpose(2, 3)?)?;
        Some(scores.broadcast_div(&denominator)?)
    } else {
        None
    };
    Ok(Attended { context, weights })
}

/// The recurrent form: adds one step to the sums, then reads them.
pub(crate) fn step(features: &Features, sums: &Sums) -> Result<(Tensor, Sums)> {
    let sums = features.add_to(sums)?;
    let (context, _) = read(&features.queries, &features.plain_queries, &sums)?;
    Ok((context, sums))
}

/// `q^T S / (q^T z + eps)` for queries `(B, N, Q, d)`, and the denominator `(B, N, Q, 1)`.
fn read(queries: &Tensor, plain_queries: &Tensor, sums: &Sums) -> Result<(Tensor, Tensor)> {
    let denominator = plain_queries.matmul(&sums.normaliser.unsqueeze(3)?)?.affine(1.0, EPSILON)?;
    Ok((queries.matmul(&sums.products)?.broadcast_div(&denominator)?, denominator))
}

/// FLOPs of the core over `seq_len` steps of one sequence and head of size `d`.
pub(crate) fn flops(causal: bool, seq_len: usize, head_size: u64) -> u64 {
    // Adding to the sums and reading them: two products of d x d a step; and the denominator.
    let steps = seq_len as u64 * (4 * head_size * head_size + 2 * head_size);
    if !causal {
        return steps;
    }
    let full = (seq_len / LINEAR_BLOCK) as u64 * (LINEAR_BLOCK * LINEAR_BLOCK) as u64;
    let rest = ((seq_len % LINEAR_BLOCK) * (seq_len % LINEAR_BLOCK)) as u64;
    // Three products within each block: scores, values, running normaliser.
    steps + 6 * head_size * (full + rest)
}
