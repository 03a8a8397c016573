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
//! - [`gpu`]: GPUs: opening one, its name, its memory, its mode of multiplication.

use std::sync::OnceLock;

use candle_core::{DType, Device};

mod additive;
pub mod attention;
mod buffers;
#[allow(unsafe_code)]
mod few_rows;
mod float;
#[allow(unsafe_code)]
mod fused;
mod gelu;
pub mod gpu;
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
pub use recurrent::{CellKind, GruReset, GruUpdate, Layer, LayerOutput, Nonlinearity, layer};

/// Whether the operations here run on this device and type: f32 and f64 on the CPU. With the environment
/// variable `UNROLL_KERNELS=none` none does: everything then runs on candle's own operations, as it does
/// on a device that has no kernels here.
pub fn supports(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && matches!(dtype, DType::F32 | DType::F64) && enabled()
}

/// Whether [`layer`] runs a cell on this device and type: as [`supports`], and in f32 on GPUs, except a GRU
/// that resets before its product. `UNROLL_GPU_RECURRENT=candle` leaves GPUs to candle's operations. bf16 and
/// f16 run where f32 does.
pub fn supports_layer(device: &Device, dtype: DType, kind: CellKind) -> bool {
    let dtype = widened(dtype);
    supports(device, dtype) || supports_layer_on_gpu(device, dtype, kind)
}

/// Whether a type has 16 bits.
fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// The type that operations run in: f32 for 16 bits.
fn widened(dtype: DType) -> DType {
    if is_half(dtype) { DType::F32 } else { dtype }
}

/// Whether [`attention()`] runs heads of `size` features (of keys or of values, whichever are more) on this device
/// and type: as [`supports`], in f32 on GPUs up to 128 features, and in bf16 and f16 where f32 does.
/// `UNROLL_GPU_ATTENTION=candle` leaves GPUs to candle's operations.
pub fn supports_attention(device: &Device, dtype: DType, size: usize) -> bool {
    static CANDLE: OnceLock<bool> = OnceLock::new();
    let candle = || *CANDLE.get_or_init(|| is_candle("UNROLL_GPU_ATTENTION"));
    let dtype = widened(dtype);
    let fits = (1..=GPU_FEATURES).contains(&size);
    let on_gpu = device.is_cuda() && dtype == DType::F32 && fits;
    supports(device, dtype) || (on_gpu && enabled() && !candle())
}

/// Most features of a head for which there are GPU kernels.
const GPU_FEATURES: usize = 128;

/// Whether an environment variable says `candle`.
fn is_candle(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "candle")
}

fn supports_layer_on_gpu(device: &Device, dtype: DType, kind: CellKind) -> bool {
    static CANDLE: OnceLock<bool> = OnceLock::new();
    let candle = || *CANDLE.get_or_init(|| is_candle("UNROLL_GPU_RECURRENT"));
    let known = !matches!(kind, CellKind::Gru(GruReset::Before, _));
    device.is_cuda() && dtype == DType::F32 && known && enabled() && !candle()
}

/// Whether the operations of this crate are used where they [run](supports).
pub fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os("UNROLL_KERNELS").is_none_or(|value| value != "none"))
}
