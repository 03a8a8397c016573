//! Laws, closed forms, oracles and reference vectors of the attention architectures, in f64.

mod common;
mod errors;
mod fused;
mod gradients;
mod laws;
mod oracles;
mod properties;
mod vectors;
