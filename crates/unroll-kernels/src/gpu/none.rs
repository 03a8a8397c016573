//! A program without CUDA.

use candle_core::Device;

use super::{Gpus, Unavailable};

pub(super) fn open(_index: usize) -> Result<Device, Unavailable> {
    Err(Unavailable::NotBuilt)
}

pub(super) fn list() -> Result<Gpus, Unavailable> {
    Err(Unavailable::NotBuilt)
}

/// There is none.
#[derive(Debug, Clone)]
pub(super) struct Pool;

impl Pool {
    pub(super) fn of(_device: &Device) -> Option<Self> {
        None
    }

    pub(super) fn reset(&self) -> Option<u64> {
        None
    }

    pub(super) fn peak(&self) -> Option<u64> {
        None
    }
}
