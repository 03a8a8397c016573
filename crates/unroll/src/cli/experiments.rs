//! Options about experiments and their runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::MOST_THREADS;
use crate::run::Shard;

/// Options of `unroll gate`.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// Experiment file with `[[expect]]` tables
    pub file: PathBuf,
    /// Change a setting: a dotted path and a TOML value
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads of each trial [default: the cores divided by the jobs]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: Option<u32>,
    /// Trials at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub jobs: u32,
    /// Result folder; finished trials in it are not run again [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the table for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
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
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: Option<u32>,
    /// Trials at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub jobs: u32,
    /// Run one of N parts of the experiment, which are about equally long; see `unroll merge`
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Result folder [default: results/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run trials again that failed in an earlier run
    #[arg(long)]
    pub retry: Option<RetryArg>,
    /// Seconds between two checkpoints of a trial
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub checkpoint_every: Duration,
    /// Keep the weights of trained models as weights/ID.safetensors, also without `keep_weights = true` in
    /// the file
    #[arg(long)]
    pub keep_weights: bool,
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

/// Seconds on the command line.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Trials that run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RetryArg {
    /// Those that failed
    Failed,
}

/// Options of `unroll submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Where to
    #[command(subcommand)]
    pub command: SubmitCommand,
}

/// What `unroll submit` submits to.
#[derive(Debug, Subcommand)]
pub enum SubmitCommand {
    /// A Slurm job array over shards, and a job that merges them
    #[command(after_help = "Example:\n  unroll submit slurm experiments/adding_lengths.toml \
        --tasks 8 --time 02:00:00 --sbatch=--partition=cpu --print")]
    Slurm(SlurmArgs),
}

/// Options of `unroll submit slurm`.
#[derive(Debug, Args)]
pub struct SlurmArgs {
    /// Experiment file
    pub file: PathBuf,
    /// Change a setting: a dotted path and a TOML value
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Device for all trials, over the file's: cpu, cuda or cuda:N
    #[arg(long)]
    pub device: Option<String>,
    /// Result folder, on a file system that all nodes see [default: results/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Tasks of the array; each runs the trials of one shard
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub tasks: u32,
    /// Tasks at the same time [default: as many as Slurm grants]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub at_once: Option<u32>,
    /// Time limit of a task; one that needs more goes on in the next
    #[arg(long, default_value = "04:00:00")]
    pub time: String,
    /// Cores of a task
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: u32,
    /// Run trials again that failed in an earlier run
    #[arg(long)]
    pub retry: Option<RetryArg>,
    /// A further option of sbatch, such as --sbatch=--partition=gpu
    #[arg(long, allow_hyphen_values = true)]
    pub sbatch: Vec<String>,
    /// Only print the job scripts
    #[arg(long)]
    pub print: bool,
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
