//! Options about single models and their numbers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MOST_THREADS;
use crate::experiment::Precision;
use crate::parity::Rounding;

/// Element types on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    /// 32 bits
    F32,
    /// 64 bits
    F64,
    /// 16 bits, 8 of them of mantissa; sums and losses in f32
    Bf16,
}

impl DtypeArg {
    /// candle's type.
    pub fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::F64 => candle_core::DType::F64,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// How f32 products round on a GPU, on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PrecisionArg {
    /// Not at all
    Fp32,
    /// To TF32
    Tf32,
}

impl PrecisionArg {
    /// The setting.
    pub fn precision(self) -> Precision {
        match self {
            Self::Fp32 => Precision::Fp32,
            Self::Tf32 => Precision::Tf32,
        }
    }
}

/// Which loss `--probe` takes derivatives of.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProbeArg {
    /// 0.5 * sum(h_T^2)
    Last,
}

/// Options of `unroll parity`.
#[derive(Debug, Args)]
pub struct ParityArgs {
    /// Device that is held to the processor; `cpu` compares the processor's own forms and types
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Roundings, by comma [default: all that the device has]
    #[arg(long, value_delimiter = ',')]
    pub rounding: Vec<RoundingArg>,
    /// Architectures, by comma [default: all]
    #[arg(long, value_delimiter = ',')]
    pub arch: Vec<String>,
    /// Small shapes alone
    #[arg(long)]
    pub quick: bool,
    /// Write every comparison as a row
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: Option<u32>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Roundings on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoundingArg {
    /// 64 bits
    F64,
    /// 32 bits
    Fp32,
    /// 32 bits, products on a GPU in TF32
    Tf32,
    /// bf16, sums in f32
    Bf16,
}

impl RoundingArg {
    /// The rounding.
    pub fn rounding(self) -> Rounding {
        match self {
            Self::F64 => Rounding::F64,
            Self::Fp32 => Rounding::Fp32,
            Self::Tf32 => Rounding::Tf32,
            Self::Bf16 => Rounding::Bf16,
        }
    }
}

/// Options of `unroll eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Architecture [default: the weights file's `arch` metadata]
    #[arg(long)]
    pub arch: Option<String>,
    /// Options of the architecture as JSON [default: the weights file's `config` metadata]
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Safetensors file with the parameters, such as `weights/TRIAL.safetensors` of a run that keeps them
    #[arg(long)]
    pub weights: PathBuf,
    /// What stands before the parameters' names in it, as `body.` [default: the file's `prefix` metadata]
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Safetensors file with x and, where wanted, h0, c0, lengths, grad_output
    #[arg(long)]
    pub input: PathBuf,
    /// File to write output, h_n, c_n, attn and gradients to
    #[arg(long)]
    pub output: PathBuf,
    /// Also write the gradients of sum(output * grad_output) as grad.NAME
    #[arg(long)]
    pub grad: bool,
    /// Write grad_h, the total derivative of a loss at every step
    #[arg(long)]
    pub probe: Option<ProbeArg>,
    /// Element type of the computation
    #[arg(long, default_value = "f32")]
    pub dtype: DtypeArg,
    /// How f32 products round on a GPU
    #[arg(long, default_value = "fp32")]
    pub precision: PrecisionArg,
    /// Run the reference form instead of the fused one
    #[arg(long)]
    pub reference: bool,
    /// Device
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Options of `unroll list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Architecture, task, `settings` or a table of them (`train`) to describe
    pub name: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
