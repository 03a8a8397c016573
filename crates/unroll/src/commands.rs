//! The commands: from arguments to exit codes.

mod bench;
mod folders;
mod models;
mod parity;
mod run;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, FromArgMatches};
use miette::{IntoDiagnostic, miette};
use serde_json::Value;

use crate::cli::{BenchCommand, Cli, Command, DataCommand, MOST_THREADS, SubmitCommand};
use crate::experiment::Plan;
use crate::run::RunError;
use crate::{environment, exit, fetch, slurm};

/// What ends a command early: the exit code and what to print.
struct Failure(u8, miette::Report);

type Outcome = Result<u8, Failure>;

/// Marks an error with an exit code.
trait OrExit<T> {
    fn usage(self) -> Result<T, Failure>;
    fn failure(self) -> Result<T, Failure>;
}

impl<T> OrExit<T> for miette::Result<T> {
    fn usage(self) -> Result<T, Failure> {
        self.map_err(|report| Failure(exit::USAGE, report))
    }

    fn failure(self) -> Result<T, Failure> {
        self.map_err(|report| Failure(exit::FAILURE, report))
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("UNROLL_LOG").unwrap_or_default(),
        )
        .with_writer(std::io::stderr)
        .init();
    // Graphs of unrolled sequences are walked by recursion: give the commands a deep stack.
    let worker = std::thread::Builder::new().stack_size(512 << 20).spawn(move || dispatch(cli));
    let outcome = match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(outcome)) => outcome,
        // The panic has been printed.
        Ok(Err(_)) => Ok(exit::FAILURE),
        Err(error) => Err(Failure(exit::FAILURE, miette!("cannot start a thread: {error}"))),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure(code, report)) => {
            let mut err = std::io::stderr().lock();
            writeln!(err, "{report:?}").ok();
            ExitCode::from(code)
        }
    }
}

/// The command line. What looks like a negative number is a value of the option before it, so that the option
/// says what it takes.
fn parse() -> Cli {
    let matches = with_negative_numbers(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The same command, its options (not the words that stand alone) taking negative numbers.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes = arg.get_long().is_some() && arg.get_action().takes_values();
            if takes { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(with_negative_numbers)
}

fn dispatch(cli: Cli) -> Outcome {
    match cli.command {
        Command::Run(args) => run::run_experiment(&args),
        Command::Plan(args) => run::plan(&args),
        Command::Status(args) => folders::status(&args),
        Command::Merge(args) => folders::merge(&args),
        Command::Replay(args) => folders::replay(&args),
        Command::Sample(args) => models::sample(&args),
        Command::Verify(args) => folders::verify(&args),
        Command::Submit(args) => match args.command {
            SubmitCommand::Slurm(args) => folders::submit_slurm(&args),
        },
        Command::Report(args) => folders::make_report(&args),
        Command::Compare(args) => folders::compare(&args),
        Command::Export(args) => folders::export(&args),
        Command::Eval(args) => models::evaluate(&args),
        Command::Parity(args) => parity::parity(&args),
        Command::Bench(args) => match args.command {
            BenchCommand::Layer(args) => bench::bench_layer(&args),
            BenchCommand::Layers => bench::bench_layers(),
            BenchCommand::Ab(args) => bench::bench_ab(&args),
            BenchCommand::Counts(args) => bench::bench_counts(&args),
        },
        Command::Gate(args) => run::run_gate(&args),
        Command::Data(args) => match args.command {
            DataCommand::List(args) if args.json => {
                print_json(&fetch::list_json()).map(|()| exit::OK)
            }
            DataCommand::List(_) => print(&fetch::list()).map(|()| exit::OK),
            DataCommand::Fetch(args) => models::fetch_data(&args),
        },
        Command::List(args) => models::list_all(&args),
    }
}

/// Writes to standard output; a closed pipe ends the program quietly.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure(exit::FAILURE, miette!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).into_diagnostic().failure()?;
    print(&(text + "\n"))
}

fn read_plan(file: &Path, set: &[String], device: Option<&str>) -> Result<Plan, Failure> {
    let plan = Plan::read(file, set, device).map_err(miette::Report::new).usage()?;
    if plan.trials.is_empty() {
        let reasons: Vec<String> = plan.skipped.iter().map(ToString::to_string).collect();
        let message =
            miette!("{}: nothing can run without data\n{}", file.display(), reasons.join("\n"));
        return Err(Failure(exit::INCOMPLETE, message));
    }
    for skipped in &plan.skipped {
        eprintln!("{skipped}");
    }
    for note in &plan.notes {
        eprintln!("note: {note}.");
    }
    Ok(plan)
}

fn output_folder(plan: &Plan, out: Option<&PathBuf>) -> PathBuf {
    out.cloned().unwrap_or_else(|| Path::new("results").join(&plan.experiment.name))
}

/// The command as the user typed it, the program by its name alone.
fn command_line() -> String {
    // A path need not be UTF-8.
    let arguments =
        std::env::args_os().skip(1).map(|argument| slurm::quote(&argument.to_string_lossy()));
    ["unroll".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// A flag that signals set: the first asks to stop in order, a second one ends the program at once.
/// Finished trials are safe either way.
fn interrupt_flag() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGUSR1, SIGHUP] {
        let code = i32::from(exit::INTERRUPTED);
        // In this order: the flag is looked at before it is set.
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .into_diagnostic()
            .failure()?;
    }
    Ok(flag)
}

fn run_failure(error: RunError) -> Failure {
    let code = match &error {
        RunError::Conflict { .. } | RunError::Results(unroll_results::Error::Schema { .. }) => {
            exit::CONFLICT
        }
        RunError::TooManyThreads { .. } => exit::USAGE,
        _ => exit::FAILURE,
    };
    Failure(code, into_report(error))
}

fn results_failure(error: unroll_results::Error) -> Failure {
    use unroll_results::Error;
    let code = match &error {
        Error::Manifests { .. } | Error::Schema { .. } => exit::CONFLICT,
        Error::NoFolder { .. } => exit::USAGE,
        _ => exit::FAILURE,
    };
    Failure(code, into_report(error))
}

fn thread_pool(threads: usize) -> Result<rayon::ThreadPool, Failure> {
    if threads > environment::cores().max(MOST_THREADS as usize) {
        let message = miette!("--threads must lie in 1 to {MOST_THREADS}, not {threads}");
        return Err(Failure(exit::USAGE, message));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        // Graphs of unrolled sequences are walked by recursion.
        .stack_size(256 << 20)
        .build()
        .into_diagnostic()
        .failure()
}

/// Any library error as a printable report.
fn into_report(error: impl std::error::Error + Send + Sync + 'static) -> miette::Report {
    miette::Report::msg(error.to_string())
}

/// Whether a person looks at standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
