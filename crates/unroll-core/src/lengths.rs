//! Lengths of the sequences in a padded batch.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// How many leading steps of each sequence in a padded batch are real. The rest is padding: it
/// changes no output, state or gradient of a real step, and outputs there are zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths(Vec<usize>);

impl Lengths {
    /// Checks the lengths against a batch of `batch` sequences padded to `seq_len` steps.
    ///
    /// # Errors
    /// When there are not `batch` of them, or one is 0 or larger than `seq_len`.
    pub fn new(lengths: Vec<usize>, batch: usize, seq_len: usize) -> Result<Self> {
        let lengths = Self(lengths);
        lengths.check(batch, seq_len)?;
        Ok(lengths)
    }

    /// [`new`](Self::new)'s checks against another batch.
    pub(crate) fn check(&self, batch: usize, seq_len: usize) -> Result<()> {
        let lengths = &self.0;
        if lengths.len() != batch {
            return Err(Error::shape(
                "lengths",
                [lengths.len()],
                format!("one length for each of {batch} sequences"),
            ));
        }
        if let Some(bad) = lengths.iter().find(|&&l| l == 0 || l > seq_len) {
            return Err(Error::option(
                "lengths",
                format!("a sequence has length {bad}; lengths must lie in 1..={seq_len}"),
            ));
        }
        Ok(())
    }

    /// The lengths, one per sequence.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// `(B, T)`: 1 on real steps, 0 on padding.
    pub fn mask(&self, seq_len: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let values: Vec<f32> = self
            .0
            .iter()
            .flat_map(|&length| (0..seq_len).map(move |t| if t < length { 1.0 } else { 0.0 }))
            .collect();
        Ok(Tensor::from_vec(values, (self.0.len(), seq_len), device)?.to_dtype(dtype)?)
    }

    /// `x` `(B, T, F)` with zeros on padding, whatever stood there: a product with 0 would leave NaN and infinity.
    pub fn zero_padding(&self, x: &Tensor) -> Result<Tensor> {
        let seq_len = x.dim(1)?;
        if self.0.iter().all(|&length| length == seq_len) {
            return Ok(x.clone());
        }
        let real = self.mask(seq_len, DType::U8, x.device())?.unsqueeze(2)?;
        Ok(real.broadcast_as(x.shape())?.where_cond(x, &x.zeros_like()?)?)
    }

    /// `(B,)` of u32: the index of each sequence's last real step.
    pub fn last_indices(&self, device: &Device) -> Result<Tensor> {
        let last: Vec<u32> = self.0.iter().map(|&l| (l - 1) as u32).collect();
        Ok(Tensor::from_vec(last, self.0.len(), device)?)
    }
}
