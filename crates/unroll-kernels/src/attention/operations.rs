//! Attention by candle's own operations: scores are stored, once for each head.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{AttentionArgs, Mask};
use crate::widened;

/// What scores of hidden keys are: finite, since infinities would turn `0 * inf` into NaN in gradients.
const HIDDEN: f64 = -1e30;

/// The same as [`attention`](super::attention()).
pub(super) fn attention(args: &AttentionArgs<'_>) -> Result<Tensor> {
    let (dtype, wide) = (args.queries.dtype(), widened(args.queries.dtype()));
    // Scaling the queries costs `T d` products where scaling the scores would cost `T S`.
    let queries = args.queries.affine(args.scale, 0.0)?;
    let columns = args.keys.contiguous()?.transpose(2, 3)?;
    let mut scores = queries.contiguous()?.matmul(&columns)?.to_dtype(wide)?;
    if let Some(hidden) = hidden(args, wide)? {
        scores = scores.broadcast_add(&hidden)?;
    }
    let peak = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&peak)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let out = weights.to_dtype(dtype)?.matmul(&args.values.contiguous()?)?;
    match seeing(args)? {
        Some(seeing) => {
            let (batch, _, queries, _) = args.queries.dims4()?;
            let seeing = Tensor::from_vec(seeing, (batch, 1, queries, 1), out.device())?;
            out.broadcast_mul(&seeing.to_dtype(dtype)?)
        }
        None => Ok(out),
    }
}

/// The same as [`self_attention`](super::self_attention).
pub(super) fn self_attention(
    packed: &Tensor,
    heads: usize,
    scale: f64,
    mask: Mask,
    lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let (batch, steps, features) = packed.dims3()?;
    let parts = packed.reshape((batch, steps, 3, heads, features / (3 * heads).max(1)))?;
    let part = |index: usize| parts.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
    let (queries, keys, values) = (&part(0)?, &part(1)?, &part(2)?);
    let joined = attention(&AttentionArgs { queries, keys, values, scale, mask, lengths })?;
    joined.transpose(1, 2)?.reshape((batch, steps, features / 3))
}

/// 0 for keys that a query sees and [`HIDDEN`] for others, `(1 or B, 1, 1 or T, S)`; `None` when all see all. Of the
/// host come `T + S` numbers, and `B S` with lengths: the rest is made on the device.
fn hidden(args: &AttentionArgs<'_>, dtype: DType) -> Result<Option<Tensor>> {
    let (queries, keys, device) = (args.queries.dim(2)?, args.keys.dim(2)?, args.queries.device());
    let after = || steps_after(queries, keys, device);
    let pattern = match args.mask {
        Mask::None => None,
        Mask::Causal => Some(after()?.gt(0f32)?),
        Mask::Window(window) => {
            let after = after()?;
            Some((after.gt(0f32)? + after.le(-(window as f32))?)?)
        }
    };
    let weigh = |hides: Tensor| hides.to_dtype(dtype)?.affine(HIDDEN, 0.0);
    let pattern = pattern.map(|hides| weigh(hides.reshape((1, 1, queries, keys))?)).transpose()?;
    let Some(lengths) = args.lengths else { return Ok(pattern) };
    let padding = |&length: &usize| (0..keys).map(move |key| f32::from(u8::from(key >= length)));
    let padding: Vec<f32> = lengths.iter().flat_map(padding).collect();
    let padding = weigh(Tensor::from_vec(padding, (lengths.len(), 1, 1, keys), device)?)?;
    match pattern {
        Some(pattern) => Ok(Some(pattern.broadcast_add(&padding)?)),
        None => Ok(Some(padding)),
    }
}

/// By how many steps each key comes after each query, `(T, S)`.
fn steps_after(queries: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let key = Tensor::arange(0f32, keys as f32, device)?.unsqueeze(0)?;
    let query = Tensor::arange(0f32, queries as f32, device)?.unsqueeze(1)?;
    key.broadcast_sub(&(query + (keys as f64 - queries as f64))?)
}

/// 1 for queries that see any key and 0 for others, `(B, T)`; `None` when all see one.
fn seeing(args: &AttentionArgs<'_>) -> Result<Option<Vec<f32>>> {
    let (batch, _, queries, _) = args.queries.dims4()?;
    let keys = args.keys.dim(2)?;
    let sees = |row: usize| {
        let (sequence, query) = (row / queries.max(1), row % queries.max(1));
        let length = args.lengths.map_or(keys, |lengths| lengths[sequence]);
        let own = (query + keys + 1).saturating_sub(queries);
        let end = if args.mask == Mask::None { length } else { length.min(own) };
        let from = match args.mask {
            Mask::Window(window) => own.saturating_sub(window),
            Mask::None | Mask::Causal => 0,
        };
        f32::from(u8::from(from < end))
    };
    let rows: Vec<f32> = (0..batch * queries).map(sees).collect();
    Ok(rows.contains(&0.0).then_some(rows))
}
