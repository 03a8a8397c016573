//! Whole-sequence operations with hand-written backward passes for candle.
//!
//! One operation runs one recurrent layer in one direction over all steps, forward and backward, so
//! that the graph holds a single node where an unrolled layer holds thousands. The only crate with
//! SIMD and `unsafe`.
//!
//! - [`recurrent`]: vanilla RNN, GRU and LSTM layers.
//! - [`attention`](mod@attention): scaled dot-product attention; [`additive_scores`] for Bahdanau's.
//! - [`layer_norm`], [`gelu`] and [`linear`]: what else a transformer block is made of.
//! - [`isa`]: which instruction set the loops run on, chosen at run time.

mod additive;
pub mod attention;
mod buffers;
#[allow(unsafe_code)]
mod few_rows;
mod float;
#[allow(unsafe_code)]
mod fused;
mod gelu;
mod gru;
pub mod isa;
mod layer_norm;
mod linear;
mod lstm;
pub mod memory;
mod operation;
#[cfg(feature = "planted")]
mod planted;
mod product;
mod real;
pub mod recurrent;
mod rnn;
mod sequence;
#[allow(unsafe_code)]
mod simd;
mod storage;
#[cfg(test)]
mod testing;
pub mod threads;

pub use additive::additive_scores;
pub use attention::{AttentionArgs, attention, self_attention};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use recurrent::{
    CellKind, GruReset, GruUpdate, Layer, LayerOutput, Nonlinearity, layer, supports,
};
