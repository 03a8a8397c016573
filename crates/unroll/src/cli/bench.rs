//! Options of benchmarks.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::experiments::seconds;
use super::{DtypeArg, PrecisionArg};

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
    /// Layers one after the other in one process, for scripts: each line of standard input holds the options
    /// of `bench layer`, each line of the output is one JSON object
    #[command(
        after_help = "Example:\n  echo --arch gru --hidden 64 --device cuda | unroll bench layers\n\n\
        A line that cannot be run is answered by {\"error\": ...}."
    )]
    Layers,
    /// Two programs, or two revisions, against each other: what became slower?
    #[command(
        after_help = "Exit codes: 0 nothing became slower, 3 a regression, 4 inconclusive.\n\n\
        Example:\n  unroll bench ab git:main git:HEAD --markdown comment.md"
    )]
    Ab(AbArgs),
    /// Instructions of each case under Valgrind, against limits in the file
    #[command(
        after_help = "Exit codes: 0 all limits are kept, 3 one is not, 4 a case has none.\n\n\
        Example:\n  unroll bench counts benches/counts.toml"
    )]
    Counts(CountsArgs),
}

/// Options of `unroll bench ab`.
#[derive(Debug, Args)]
pub struct AbArgs {
    /// What was there before: a binary, or `git:REVISION`, which is built first
    pub base: String,
    /// What is compared with it: a binary, or `git:REVISION`
    pub candidate: String,
    /// File of cases [default: those of the profile]
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// Cases that come with the program
    #[arg(long, default_value = "fast", conflicts_with = "cases")]
    pub profile: ProfileArg,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Blocks of six processes for each case and round
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..))]
    pub blocks: u32,
    /// Rounds at most: cases that are still inconclusive get another one
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds that each process measures
    #[arg(long, value_name = "SECONDS", default_value = "0.1", value_parser = seconds)]
    pub seconds: Duration,
    /// Threads of each process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Compare medians of iterations instead of the fastest
    #[arg(long)]
    pub median: bool,
    /// Probability of a false alarm over all cases
    #[arg(long, default_value_t = 0.05, value_parser = probability)]
    pub alpha: f64,
    /// Smaller changes are no news, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    pub least_effect: f64,
    /// An interval within this says `same`, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0, value_parser = percent)]
    pub same_within: f64,
    /// Folder for revisions that are built
    #[arg(long, value_name = "DIR", default_value = "target/ab")]
    pub cache: PathBuf,
    /// Print the verdict as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the verdict as JSON
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write a comment for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write Bencher Metric Format
    #[arg(long, value_name = "FILE")]
    pub bmf: Option<PathBuf>,
    /// Write github-action-benchmark's customSmallerIsBetter
    #[arg(long, value_name = "FILE")]
    pub github_benchmark: Option<PathBuf>,
}

/// A probability on the command line, strictly between 0 and 1.
fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("a probability lies between 0 and 1".to_owned()),
    }
}

/// A percentage on the command line, finite and not negative.
fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a percentage is a number that is not negative".to_owned()),
    }
}

/// Cases that come with the program.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProfileArg {
    /// For pull requests: minutes
    Fast,
    /// Every architecture
    Full,
}

/// Options of `unroll bench counts`.
#[derive(Debug, Args)]
pub struct CountsArgs {
    /// File of cases with their limits
    pub file: PathBuf,
    /// Program to count [default: this one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// How much more than the limit is allowed, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    pub tolerance: f64,
    /// Write what was counted into the file as limits
    #[arg(long)]
    pub update: bool,
    /// Write a comment for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Print the counts as JSON
    #[arg(long)]
    pub json: bool,
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
    /// Architecture, `sdpa` for the attention core alone, or candle's own layers as yardsticks:
    /// `candle_lstm`, `candle_gru`
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
    /// How f32 products round on a GPU
    #[arg(long, default_value = "fp32")]
    pub precision: PrecisionArg,
    /// Device
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Time for at least this long, seconds
    #[arg(long, default_value_t = 1.0)]
    pub min_seconds: f64,
    /// Run this many iterations instead, without warming up: for counting instructions
    #[arg(long, hide = true)]
    pub iterations: Option<u64>,
    /// Time the reference form instead of the fused one
    #[arg(long)]
    pub reference: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
