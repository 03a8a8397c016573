//! The command line.

mod bench;
mod data;
mod experiments;
mod layers;
mod results;

use clap::{Parser, Subcommand};

pub use bench::{AbArgs, BenchArgs, BenchCommand, CountsArgs, LayerArgs, ModeArg, ProfileArg};
pub use data::{DataArgs, DataCommand, DataFetchArgs, DataListArgs};
pub use experiments::{
    GateArgs, PlanArgs, RetryArg, RunArgs, SlurmArgs, SubmitArgs, SubmitCommand,
};
pub use layers::{DtypeArg, EvalArgs, ListArgs, ParityArgs, PrecisionArg, ProbeArg, RoundingArg};
pub use results::{
    CompareArgs, ExportArgs, ExportTo, MergeArgs, ReplayArgs, ReportArgs, SampleArgs, StatusArgs,
    VerifyArgs,
};

/// The most threads, and the most trials at the same time: far more than machines have cores. Each thread has a
/// stack of its own, and thousands of them take the machine down before they do any work.
pub const MOST_THREADS: i64 = 1024;

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
    /// List architectures, tasks, their options, defaults and costs; the settings of experiment files
    #[command(after_help = "Example:\n  unroll list\n  unroll list lstm\n  unroll list settings")]
    List(ListArgs),
}
