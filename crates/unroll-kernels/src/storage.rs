//! Tensors as slices.

use candle_core::{CpuStorage, Layout, Result, Storage, bail};

use crate::float::Float;

/// The elements of a contiguous tensor.
pub(crate) fn elements<'a, F: Float>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [F]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&F::slice(storage)?[start..end]),
        None => bail!("this operation needs contiguous tensors"),
    }
}

/// The storage of a tensor on the CPU.
pub(crate) fn host(storage: &Storage) -> Result<&CpuStorage> {
    match storage {
        Storage::Cpu(storage) => Ok(storage),
        _ => bail!("this operation has only a CPU form"),
    }
}
