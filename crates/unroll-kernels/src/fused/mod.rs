//! Recurrent layers in f32 on packed weights.
//!
//! Activations stay as candle has them, batch first; only the states of the current step lie
//! densely. The input projection runs a few steps ahead of the recurrence, while its result is still
//! in the cache. A call is shared among threads by sequences, or by hidden units where there are few
//! sequences. Each element is computed by the same operations whatever the share, so results
//! depend on neither the number of threads nor the batch around a sequence.

mod backward;
mod cells;
mod flush;
mod forward;
mod product;
mod scratch;
#[cfg(test)]
mod tests;
mod workers;

use std::ops::Range;

pub(crate) use backward::backward;
pub(crate) use forward::forward;
use scratch::Scratch;

use crate::buffers::{Dims, TimeOrder};
use crate::isa::Isa;
use crate::recurrent::CellKind;
use crate::sequence::{Inputs, OutputGradients, Weights};

/// One layer's call.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) isa: Isa,
    pub(crate) kind: CellKind,
    pub(crate) dims: Dims,
    pub(crate) order: &'a TimeOrder,
    pub(crate) weights: Weights<'a, f32>,
    pub(crate) inputs: Inputs<'a, f32>,
}

/// Results of forward.
pub(crate) struct Forward {
    /// `(B, T, H)`.
    pub(crate) output: Vec<f32>,
    /// `(B, H)`.
    pub(crate) hidden: Vec<f32>,
    /// `(B, H)`, or empty.
    pub(crate) cell: Vec<f32>,
    /// When asked for.
    pub(crate) saved: Option<Saved>,
}

/// What forward keeps for backward besides the output.
pub(crate) struct Saved {
    /// `(B, T, G*H)`: activated gates.
    gates: Scratch,
    /// `(B, T, H)`, or empty.
    extra: Scratch,
    /// `(B, T, H)`: cell states, or empty.
    cells: Scratch,
}

/// Which gradients backward computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) x: bool,
    pub(crate) weight_ih: bool,
    pub(crate) weight_hh: bool,
    pub(crate) probe_hidden: bool,
    pub(crate) probe_cell: bool,
}

/// Calls a generic function with the cell and the vector type of a call.
macro_rules! dispatch {
    ($call:expr, $run:ident($($arg:expr),*)) => {{
        use crate::fused::cells::{Gru, Lstm, Rnn};
        macro_rules! with_cell {
            ($vector:ty) => {
                match $call.kind {
                    CellKind::Rnn(phi) => $run::<$vector, _>(Rnn(phi), $($arg),*),
                    CellKind::Gru(GruReset::After, update) => {
                        let cell = Gru::<false> { keep_old: update == GruUpdate::KeepOld };
                        $run::<$vector, _>(cell, $($arg),*)
                    }
                    CellKind::Gru(GruReset::Before, update) => {
                        let cell = Gru::<true> { keep_old: update == GruUpdate::KeepOld };
                        $run::<$vector, _>(cell, $($arg),*)
                    }
                    CellKind::Lstm => $run::<$vector, _>(Lstm, $($arg),*),
                }
            };
        }
        // An instruction set that the processor lacks must never run.
        let isa = if $call.isa.is_available() { $call.isa } else { Isa::Portable };
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => with_cell!(crate::simd::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_cell!(crate::simd::Avx2),
            _ => with_cell!(crate::simd::Portable),
        }
    }};
}
use dispatch;

/// A buffer that several workers write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the workers of a call write disjoint parts, or wait for each other at a barrier.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

impl Shared {
    fn new(buffer: &mut [f32]) -> Self {
        Self(if buffer.is_empty() { std::ptr::null_mut() } else { buffer.as_mut_ptr() })
    }

    /// To read only.
    fn read(buffer: &[f32]) -> Self {
        Self(if buffer.is_empty() { std::ptr::null_mut() } else { buffer.as_ptr().cast_mut() })
    }

    /// The element at an offset within the buffer; null stays null.
    fn at(self, offset: usize) -> *mut f32 {
        if self.0.is_null() { self.0 } else { self.0.wrapping_add(offset) }
    }
}

/// Elements from one row to the next of a dense buffer: one line more than the row, since rows a
/// power of two apart would compete for the same few lines of the cache.
fn padded(columns: usize) -> usize {
    columns.next_multiple_of(16) + 16
}

/// The hidden units of a range of blocks.
fn units(blocks: &Range<usize>, width: usize, hidden: usize) -> Range<usize> {
    (blocks.start * width).min(hidden)..(blocks.end * width).min(hidden)
}
