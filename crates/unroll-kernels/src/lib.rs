//! Whole-sequence operations with hand-written backward passes for candle.
//!
//! One operation runs one recurrent layer in one direction over all steps, forward and backward, so
//! that the graph holds a single node where an unrolled layer holds thousands. The only crate with
//! SIMD and `unsafe`.
//!
//! - [`recurrent`]: vanilla RNN, GRU and LSTM layers.
//! - [`isa`]: which instruction set the loops run on, chosen at run time.

mod buffers;
#[allow(unsafe_code)]
mod fused;
mod gru;
pub mod isa;
mod lstm;
pub mod memory;
mod operation;
mod product;
mod real;
pub mod recurrent;
mod rnn;
mod sequence;

pub use recurrent::{
    CellKind, GruReset, GruUpdate, Layer, LayerOutput, Nonlinearity, layer, supports,
};
