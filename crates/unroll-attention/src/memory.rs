//! What a self-attention layer keeps of the past, and how layers share one [`State`].

use candle_core::{DType, Device, Tensor};
use unroll_core::{Error, Lengths, Result, State, StateTensor};

use crate::linear::Sums;
use crate::pattern::Pattern;

/// The past of one causal self-attention layer.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    /// Keys and values `(B, N, S, d)`; `None` before the first step.
    Cache(Option<(Tensor, Tensor)>),
    /// The sums of linear attention.
    Sums(Sums),
}

/// Sizes of the memories of a stack of equal layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryLayout {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_size: usize,
    /// `None` for linear attention, which keeps sums.
    pub(crate) pattern: Option<Pattern>,
}

impl MemoryLayout {
    /// The state's tensors before the first step: `k` and `v`, or `s` and `z`.
    pub(crate) fn zeros(
        &self,
        batch: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<StateTensor>> {
        let Self { layers, heads, head_size, pattern } = *self;
        if pattern.is_none() {
            let products = (layers, batch, heads, head_size, head_size);
            let normaliser = (layers, batch, heads, head_size);
            return Ok(vec![
                fixed("s", Tensor::zeros(products, dtype, device)?),
                fixed("z", Tensor::zeros(normaliser, dtype, device)?),
            ]);
        }
        let empty = || empty((layers, batch, heads, 0, head_size), dtype);
        Ok(vec![growing("k", empty()?), growing("v", empty()?)])
    }

    /// The layers' memories stacked along a first axis.
    pub(crate) fn pack(
        &self,
        memories: &[Memory],
        batch: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Vec<StateTensor>> {
        let mut first = Vec::with_capacity(memories.len());
        let mut second = Vec::with_capacity(memories.len());
        for memory in memories {
            match memory {
                Memory::Cache(Some((keys, values))) => {
                    first.push(keys);
                    second.push(values);
                }
                Memory::Sums(Sums { products, normaliser }) => {
                    first.push(products);
                    second.push(normaliser);
                }
                Memory::Cache(None) => {}
            }
        }
        match (first.first(), self.pattern) {
            // A window of 1 never looks back: its cache stays empty.
            (None, _) => self.zeros(batch, dtype, device),
            (Some(_), None) => Ok(vec![
                fixed("s", Tensor::stack(&first, 0)?),
                fixed("z", Tensor::stack(&second, 0)?),
            ]),
            (Some(_), Some(_)) => Ok(vec![
                growing("k", Tensor::stack(&first, 0)?),
                growing("v", Tensor::stack(&second, 0)?),
            ]),
        }
    }

    /// One memory for each layer.
    ///
    /// # Errors
    /// When the state is another architecture's, another batch's, or stands after sequences of
    /// different lengths.
    pub(crate) fn unpack(&self, state: &State, batch: usize) -> Result<Vec<Memory>> {
        refuse_ragged(state)?;
        let Self { layers, heads, head_size, pattern } = *self;
        let layer = |tensor: &Tensor, index: usize| tensor.get(index);
        let Some(pattern) = pattern else {
            let products = shaped(state, "s", &[layers, batch, heads, head_size, head_size])?;
            let normaliser = shaped(state, "z", &[layers, batch, heads, head_size])?;
            let sums = |index| -> Result<Memory> {
                Ok(Memory::Sums(Sums {
                    products: layer(products, index)?,
                    normaliser: layer(normaliser, index)?,
                }))
            };
            return (0..layers).map(sums).collect();
        };
        let cached = pattern.cached(state.steps());
        let shape = [layers, batch, heads, cached, head_size];
        let (keys, values) = (shaped(state, "k", &shape)?, shaped(state, "v", &shape)?);
        (0..layers)
            .map(|index| {
                let pair = (cached > 0)
                    .then(|| -> Result<_> { Ok((layer(keys, index)?, layer(values, index)?)) });
                Ok(Memory::Cache(pair.transpose()?))
            })
            .collect()
    }

    /// Elements of the state after `steps` steps.
    pub(crate) fn elements(&self, batch: usize, steps: usize) -> u64 {
        let per_layer = batch * self.heads * self.head_size;
        let each = match self.pattern {
            None => self.head_size + 1,
            Some(pattern) => 2 * pattern.cached(steps),
        };
        (self.layers * per_layer * each) as u64
    }
}

/// The `keep` entries of `all` before `end` along `axis`.
pub(crate) fn entries_before(all: &Tensor, axis: usize, end: usize, keep: usize) -> Result<Tensor> {
    Ok(all.narrow(axis, end - keep, keep)?.contiguous()?)
}

/// `past` and `new` along `axis`.
pub(crate) fn with_past(past: Option<&Tensor>, new: &Tensor, axis: usize) -> Result<Tensor> {
    match past {
        Some(past) => Ok(Tensor::cat(&[past, new], axis)?),
        None => Ok(new.clone()),
    }
}

/// A tensor without elements. It has nothing to place on a device, and some refuse to allocate
/// nothing: it lies on the CPU and is never read.
pub(crate) fn empty(shape: impl Into<candle_core::Shape>, dtype: DType) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, dtype, &Device::Cpu)?)
}

fn fixed(name: &'static str, tensor: Tensor) -> StateTensor {
    StateTensor { name, tensor, batch_axis: 1, time_axis: None }
}

fn growing(name: &'static str, tensor: Tensor) -> StateTensor {
    StateTensor { name, tensor, batch_axis: 1, time_axis: Some(3) }
}

/// The state's tensor called `name`, of this shape.
pub(crate) fn shaped<'a>(state: &'a State, name: &str, shape: &[usize]) -> Result<&'a Tensor> {
    let tensor = state.get(name)?;
    if tensor.dims() != shape {
        return Err(Error::shape(
            format!("state `{name}` after {} steps", state.steps()),
            tensor.dims(),
            format!("{shape:?}"),
        ));
    }
    Ok(tensor)
}

/// The step after which all sequences end; `None` when they end at different ones.
pub(crate) fn common_length(lengths: Option<&Lengths>, seq_len: usize) -> Option<usize> {
    match lengths.map(Lengths::as_slice) {
        None | Some([]) => Some(seq_len),
        Some([first, rest @ ..]) => rest.iter().all(|l| l == first).then_some(*first),
    }
}

const RAGGED: &str = "ragged";

/// Marks a state whose cache ends at a different step in each sequence: a tensor `ragged` with the
/// lengths, `(B,)`. Such a cache has one position for all sequences and cannot be continued.
pub(crate) fn ragged_mark(lengths: &Lengths, dtype: DType, device: &Device) -> Result<StateTensor> {
    let values: Vec<f32> = lengths.as_slice().iter().map(|&l| l as f32).collect();
    let tensor = Tensor::from_vec(values, lengths.as_slice().len(), device)?.to_dtype(dtype)?;
    Ok(StateTensor { name: RAGGED, tensor, batch_axis: 0, time_axis: None })
}

/// Refuses a state with the mark.
pub(crate) fn refuse_ragged(state: &State) -> Result<()> {
    if state.tensors().iter().any(|t| t.name == RAGGED) {
        return Err(Error::Unsupported(
            "this state stands after a padded batch of sequences of different lengths; attention \
             keeps one position for all of them and cannot go on from it: run each length apart"
                .into(),
        ));
    }
    Ok(())
}
