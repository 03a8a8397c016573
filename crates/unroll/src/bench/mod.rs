//! `unroll bench`: one layer alone, two programs against each other, counted instructions.

pub mod ab;
pub mod cases;
pub mod counts;
mod layer;
pub mod outputs;
pub mod programs;
pub mod scratch;

pub use layer::{LayerRequest, layer};
