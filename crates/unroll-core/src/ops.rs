//! Tensor operations whose gradients are whole.
//!
//! Several of candle's fast operations cut the gradient silently (`LayerNorm::forward`,
//! `softmax_last_dim`, `rope`). These do not.

use candle_core::{D, DType, Device, Tensor};

use crate::{Lengths, Result};

/// `x W^T + b` over the last axis; `weight` is `(out, in)`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let dims = x.dims();
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs.max(1);
    // A part of the columns of a wider matrix is copied: on GPUs candle multiplies whole matrices alone.
    let y = x.reshape((rows, inputs))?.matmul(&weight.contiguous()?.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let mut shape = dims.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    Ok(y.reshape(shape)?)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::sigmoid(x)?)
}

/// The type that sums and losses over values of a type are computed in: f32 for 16-bit types, which
/// have too few digits to add in; the type itself otherwise.
pub fn summing_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// Normalises the last axis to mean 0 and variance 1, then scales and shifts (Ba 2016). Sums are in the
/// [`summing_type`].
pub fn layer_norm(x: &Tensor, scale: &Tensor, shift: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = summing_type(x.dtype());
    if wide != x.dtype() {
        let [x32, scale, shift] = [x, scale, shift].map(|tensor| tensor.to_dtype(wide));
        return Ok(layer_norm(&x32?, &scale?, &shift?, epsilon)?.to_dtype(x.dtype())?);
    }
    let mean = x.mean_keepdim(D::Minus1)?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    Ok(normal.broadcast_mul(scale)?.broadcast_add(shift)?)
}

/// Softmax over the last axis, over the entries where `mask` (1 or 0, broadcast) is 1; a row with
/// no such entry gives zeros. Sums are in the [`summing_type`].
pub fn masked_softmax(scores: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let wide = summing_type(scores.dtype());
    if wide != scores.dtype() {
        let mask = mask.map(|mask| mask.to_dtype(wide)).transpose()?;
        let weights = masked_softmax(&scores.to_dtype(wide)?, mask.as_ref())?;
        return Ok(weights.to_dtype(scores.dtype())?);
    }
    let Some(mask) = mask else {
        return Ok(candle_nn::ops::softmax(scores, D::Minus1)?);
    };
    // A finite stand-in for minus infinity: infinities would turn 0 * inf into NaN in the gradient.
    let blocked = mask.affine(1e30, -1e30)?;
    let scores = scores.broadcast_mul(mask)?.broadcast_add(&blocked)?;
    let peak = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&peak)?.exp()?.broadcast_mul(mask)?;
    let total = weights.sum_keepdim(D::Minus1)?;
    let empty = total.eq(0.0)?.to_dtype(total.dtype())?;
    Ok(weights.broadcast_div(&(total + empty)?)?)
}

/// Reverses each sequence of `(B, T, F)` within its real length; padding stays where it is.
pub fn reverse_time(x: &Tensor, lengths: Option<&Lengths>) -> Result<Tensor> {
    let (batch, seq_len, features) = x.dims3()?;
    let index: Vec<u32> = (0..batch)
        .flat_map(|b| {
            let length = lengths.map_or(seq_len, |l| l.as_slice()[b]);
            (0..seq_len).map(move |t| if t < length { length - 1 - t } else { t } as u32)
        })
        .collect();
    let index = Tensor::from_vec(index, (batch, seq_len, 1), x.device())?
        .broadcast_as((batch, seq_len, features))?
        .contiguous()?;
    Ok(x.contiguous()?.gather(&index, 1)?)
}

/// `(rows, columns)` of 1 and 0 from a predicate on (row, column).
pub fn mask_from_fn(
    rows: usize,
    columns: usize,
    dtype: DType,
    device: &Device,
    visible: impl Fn(usize, usize) -> bool,
) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| if visible(row, column) { 1.0 } else { 0.0 })
        .collect();
    Ok(Tensor::from_vec(values, (rows, columns), device)?.to_dtype(dtype)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_rows_are_zero_and_others_sum_to_one() {
        let scores = Tensor::new(&[[1f64, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[1f64, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let weights: Vec<Vec<f64>> =
            masked_softmax(&scores, Some(&mask)).unwrap().to_vec2().unwrap();
        assert!((weights[0][0] - 1.0 / (1.0 + 1f64.exp())).abs() < 1e-15);
        assert_eq!(weights[0][2], 0.0);
        assert_eq!(weights[1], [0.0; 3]);
    }

    #[test]
    fn reversing_keeps_the_padding() {
        let x = Tensor::arange(0f64, 8.0, &Device::Cpu).unwrap().reshape((2, 4, 1)).unwrap();
        let lengths = Lengths::new(vec![3, 4], 2, 4).unwrap();
        let y: Vec<f64> =
            reverse_time(&x, Some(&lengths)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(y, [2.0, 1.0, 0.0, 3.0, 7.0, 6.0, 5.0, 4.0]);
    }
}
