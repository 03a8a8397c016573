//! Options about result folders.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MOST_THREADS;

/// Options of `unroll status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Result folder
    pub dir: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll merge`.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Result folders of the shards
    #[arg(required = true)]
    pub dirs: Vec<PathBuf>,
    /// Result folder to bring them together in
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Result folder
    pub dir: PathBuf,
    /// Beginning of a trial's id [default: all trials]
    pub trial: Option<String>,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: Option<u32>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Result folder
    pub dir: PathBuf,
    /// Beginning of a trial's id [default: the trial that is best on the validation split]
    pub trial: Option<String>,
    /// What is gone on from
    #[arg(long, default_value = "\n", hide_default_value = true)]
    pub prompt: String,
    /// Tokens to write
    #[arg(long, default_value_t = 300)]
    pub length: usize,
    /// Divides the logits: 0 always takes the likeliest token, 1 draws as the model says
    #[arg(long, default_value_t = 1.0)]
    pub temperature: f64,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Texts to write, each with draws of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Steps that models see whose state grows with each step [default: the length they were trained at]
    #[arg(long, value_name = "STEPS")]
    pub context: Option<usize>,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MOST_THREADS))]
    pub threads: Option<u32>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Result folder
    pub dir: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result folder
    pub dir: PathBuf,
}

/// Options of `unroll compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Result folder A
    pub first: PathBuf,
    /// Result folder B
    pub second: PathBuf,
    /// Folder to write COMPARE.html and COMPARE.md to [default: print]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `unroll export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportTo {
    /// The tables as CSV
    Csv,
    /// The tables as Parquet
    Parquet,
    /// All records in one file
    Json,
    /// Bencher Metric Format
    Bmf,
    /// What github-action-benchmark reads, a file for each direction
    GithubBenchmark,
    /// Event files, a folder for each trial
    Tensorboard,
    /// Runs in an MLflow server, over its REST API
    Mlflow,
}

/// Options of `unroll export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Result folder
    pub dir: PathBuf,
    /// For which tool
    #[arg(long)]
    pub to: ExportTo,
    /// Folder to write to [default: DIR/export/TOOL]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Address of the MLflow server
    #[arg(long, default_value = "http://127.0.0.1:5000")]
    pub url: String,
}
