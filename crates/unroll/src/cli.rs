//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Compare sequence architectures - fairly, fast and reproducibly.
#[derive(Debug, Parser)]
#[command(name = "unroll", version, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Plan, run (or go on with) and report an experiment
    #[command(after_help = "Example:\n  unroll run experiments/quickstart.toml\n  \
        unroll run experiments/adding_lengths.toml --set train.steps=500 --jobs 2\n\n\
        Finished trials are kept: the same command goes on where an earlier run stopped.")]
    Run(RunArgs),
    /// Show the trials of an experiment and which of them are done
    #[command(after_help = "Example:\n  unroll plan experiments/quickstart.toml")]
    Plan(PlanArgs),
    /// Make tables, plots and the report again from the trials of a result folder
    #[command(after_help = "Example:\n  unroll report results/quickstart")]
    Report(ReportArgs),
    /// Run one model with given weights and inputs (safetensors under PyTorch's names)
    #[command(after_help = "Example:\n  unroll eval --arch lstm --weights lstm.safetensors \
        --input lstm.safetensors --output y.safetensors --grad --dtype f64")]
    Eval(EvalArgs),
    /// Measure speed
    Bench(BenchArgs),
    /// List architectures, their options, defaults and costs; tasks and theirs
    #[command(after_help = "Example:\n  unroll list\n  unroll list lstm")]
    List(ListArgs),
}

/// Options of `unroll run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Experiment file
    pub file: PathBuf,
    /// Change a setting: a dotted path and a TOML value
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device for all trials, over the file's: cpu, cuda or cuda:N
    #[arg(long)]
    pub device: Option<String>,
    /// Threads of each trial [default: the cores divided by the jobs]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Trials at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub jobs: u32,
    /// Result folder [default: results/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// End the run at the first failed trial
    #[arg(long, conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// Run all trials even when some fail (this is the default)
    #[arg(long)]
    pub keep_going: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Experiment file
    pub file: PathBuf,
    /// Change a setting: a dotted path and a TOML value
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device for all trials, over the file's
    #[arg(long)]
    pub device: Option<String>,
    /// Result folder [default: results/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result folder
    pub dir: PathBuf,
}

/// Element types on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeArg {
    /// 32 bits
    F32,
    /// 64 bits
    F64,
}

impl DtypeArg {
    /// candle's type.
    pub fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::F64 => candle_core::DType::F64,
        }
    }
}

/// Which loss `--probe` takes derivatives of.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProbeArg {
    /// 0.5 * sum(h_T^2)
    Last,
}

/// Options of `unroll eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Architecture
    #[arg(long)]
    pub arch: String,
    /// Options of the architecture as JSON [default: the weights file's `config` metadata]
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Safetensors file with the parameters
    #[arg(long)]
    pub weights: PathBuf,
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
    /// Run the reference form instead of the fused one
    #[arg(long)]
    pub reference: bool,
    /// Device
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Options of `unroll bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `unroll bench` measures.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// One layer alone: forward, or forward and backward to parameters and input
    #[command(after_help = "Example:\n  unroll bench layer --arch lstm --batch 32 --seq-len 128 \
        --input 128 --hidden 256 --mode train --threads 2 --json")]
    Layer(LayerArgs),
}

/// What a layer benchmark times.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// Forward, sum of outputs, backward to parameters and input
    Train,
    /// Forward
    Infer,
}

/// Options of `unroll bench layer`.
#[derive(Debug, Args)]
pub struct LayerArgs {
    /// Architecture, or `sdpa` for the attention core alone
    #[arg(long)]
    pub arch: String,
    /// Sequences
    #[arg(long, default_value_t = 32)]
    pub batch: usize,
    /// Steps
    #[arg(long, default_value_t = 128)]
    pub seq_len: usize,
    /// Input features [default: the hidden size]
    #[arg(long)]
    pub input: Option<usize>,
    /// Hidden size (for sdpa: heads times head size)
    #[arg(long, default_value_t = 256)]
    pub hidden: usize,
    /// Layers
    #[arg(long)]
    pub layers: Option<usize>,
    /// Attention heads
    #[arg(long)]
    pub heads: Option<usize>,
    /// Causal attention
    #[arg(long)]
    pub causal: bool,
    /// What to time
    #[arg(long, default_value = "train")]
    pub mode: ModeArg,
    /// Element type
    #[arg(long, default_value = "f32")]
    pub dtype: DtypeArg,
    /// Device
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Time for at least this long, seconds
    #[arg(long, default_value_t = 1.0)]
    pub min_seconds: f64,
    /// Time the reference form instead of the fused one
    #[arg(long)]
    pub reference: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Architecture or task to describe
    pub name: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}
