//! The commands: from arguments to exit codes.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use miette::{IntoDiagnostic, WrapErr, miette};
use serde_json::{Map, Value, json};
use unroll_core::Form;
use unroll_core::weights::TensorFile;

use crate::cli::{
    BenchCommand, Cli, Command, EvalArgs, LayerArgs, ListArgs, ModeArg, PlanArgs, ReportArgs,
    RunArgs,
};
use crate::environment;
use crate::experiment::Plan;
use crate::progress::{Display, Progress, Silent};
use crate::run::{self, RunOptions};
use crate::{bench, device, eval, list, report};

/// Exit codes of the program.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// A trial failed, or the program did.
    pub const FAILURE: u8 = 1;
    /// The command, a file or a setting is wrong.
    pub const USAGE: u8 = 2;
    /// Trials are missing.
    pub const INCOMPLETE: u8 = 7;
    /// Interrupted: the same command goes on.
    pub const INTERRUPTED: u8 = 75;
}

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
    let cli = Cli::parse();
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

fn dispatch(cli: Cli) -> Outcome {
    match cli.command {
        Command::Run(args) => run_experiment(&args),
        Command::Plan(args) => plan(&args),
        Command::Report(args) => make_report(&args),
        Command::Eval(args) => evaluate(&args),
        Command::Bench(args) => match args.command {
            BenchCommand::Layer(args) => bench_layer(&args),
        },
        Command::List(args) => list_all(&args),
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
    Plan::read(file, set, device).map_err(miette::Report::new).usage()
}

fn output_folder(plan: &Plan, out: Option<&PathBuf>) -> PathBuf {
    out.cloned().unwrap_or_else(|| Path::new("results").join(&plan.experiment.name))
}

/// The command as the user typed it, the program by its name alone.
fn command_line() -> String {
    let quote = |text: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,".contains(c);
        if text.chars().all(plain) { text } else { format!("'{text}'") }
    };
    let arguments = std::env::args().skip(1).map(quote);
    ["unroll".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

fn run_experiment(args: &RunArgs) -> Outcome {
    let plan = read_plan(&args.file, &args.set, args.device.as_deref())?;
    let jobs = args.jobs as usize;
    let threads = args
        .threads
        .map_or_else(|| (environment::cores() / jobs).max(1), |threads| threads as usize);
    let options = RunOptions {
        out: output_folder(&plan, args.out.as_ref()),
        jobs,
        threads,
        fail_fast: args.fail_fast,
        command: command_line(),
    };

    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupt);
    ctrlc::set_handler(move || {
        // The second time the user means it.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(exit::INTERRUPTED));
        }
    })
    .into_diagnostic()
    .failure()?;

    let done = run::finished(&plan, &options.out).map_err(into_report).failure()?;
    let left = plan.trials.iter().filter(|trial| !done.contains_key(&trial.id));
    let display = Display::new(left, done.len());
    let progress: &dyn Progress = if args.json { &Silent } else { &display };
    let outcome = run::run(&plan, &options, progress, &interrupt);
    display.close();
    let outcome = outcome.map_err(into_report).failure()?;

    // What is finished is usable, however the run ended.
    let written = report::write(&options.out, &report::Source::Plan(&plan)).failure()?;
    if args.json {
        let mut value = serde_json::to_value(&outcome).into_diagnostic().failure()?;
        value["out"] = options.out.display().to_string().into();
        value["summary"] = written.summary;
        print_json(&value)?;
    } else {
        print(&written.terminal)?;
        let missing = outcome.planned - outcome.reused - outcome.ran;
        let mut line = format!("{} of {} trials", outcome.planned - missing, outcome.planned);
        for (count, what) in [
            (outcome.reused, "from before"),
            (outcome.diverged, "diverged"),
            (outcome.failed, "failed"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        let out = options.out.display();
        print(&format!(
            "\n{line}. Report: {out}/REPORT.md, tables: {out}/tables, plots: {out}/plots\n"
        ))?;
        if outcome.interrupted {
            eprintln!("Interrupted: the same command goes on from here.");
        }
    }
    Ok(match (outcome.interrupted, outcome.failed) {
        (true, _) => exit::INTERRUPTED,
        (false, 0) => exit::OK,
        _ => exit::FAILURE,
    })
}

fn plan(args: &PlanArgs) -> Outcome {
    let plan = read_plan(&args.file, &args.set, args.device.as_deref())?;
    let out = output_folder(&plan, args.out.as_ref());
    let done = run::finished(&plan, &out).map_err(into_report).failure()?;
    if args.json {
        let trials: Vec<Value> = plan
            .trials
            .iter()
            .map(|trial| {
                let done = done.contains_key(&trial.id);
                json!({"id": trial.id, "done": done, "device": trial.device, "spec": trial.spec})
            })
            .collect();
        print_json(&json!({"experiment": plan.experiment.name, "trials": trials}))?;
        return Ok(exit::OK);
    }
    let mut table = comfy_table::Table::new();
    table.set_header([
        "id", "what", "series", "task", "length", "seed", "hidden", "params", "state",
    ]);
    for trial in &plan.trials {
        let cell = &trial.cell;
        table.add_row([
            trial.id[..8].to_owned(),
            trial.spec.kind.name().to_owned(),
            cell.series.clone(),
            cell.task.clone(),
            cell.length.to_string(),
            cell.seed.to_string(),
            cell.hidden_size.to_string(),
            trial.cost.parameters.to_string(),
            if done.contains_key(&trial.id) { "done" } else { "missing" }.to_owned(),
        ]);
    }
    print(&format!("{table}\n\n{} trials, {} done\n", plan.trials.len(), done.len()))?;
    Ok(exit::OK)
}

fn make_report(args: &ReportArgs) -> Outcome {
    let written = report::write(&args.dir, &report::Source::Folder).usage()?;
    print(&written.terminal)?;
    Ok(if written.missing > 0 { exit::INCOMPLETE } else { exit::OK })
}

/// Any library error as a printable report.
fn into_report(error: impl std::error::Error + Send + Sync + 'static) -> miette::Report {
    miette::Report::msg(error.to_string())
}

fn parse_config(text: &str) -> miette::Result<Map<String, Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(miette!("--config is not a JSON object")),
        Err(error) => Err(miette!("--config is not JSON: {error}")),
    }
}

fn evaluate(args: &EvalArgs) -> Outcome {
    let config = args.config.as_deref().map(parse_config).transpose().usage()?;
    let read = |path: &Path| TensorFile::read(path).map_err(into_report).usage();
    let weights = read(&args.weights)?;
    let same = args.input == args.weights;
    let input = if same { None } else { Some(read(&args.input)?) };
    let request = eval::EvalRequest {
        arch: args.arch.clone(),
        config,
        dtype: args.dtype.dtype(),
        device: device::open(&args.device).map_err(|e| miette!("{e}")).usage()?,
        form: if args.reference { Form::Reference } else { Form::Auto },
        grad: args.grad,
        probe_last: args.probe.is_some(),
    };
    let result = eval::run(&request, &weights, input.as_ref().unwrap_or(&weights));
    let out = result.map_err(into_report).usage()?;
    let bytes = out.to_bytes().map_err(into_report).failure()?;
    unroll_results::store::write_bytes(&args.output, &bytes)
        .map_err(into_report)
        .wrap_err("the output cannot be written")
        .usage()?;
    Ok(exit::OK)
}

fn bench_layer(args: &LayerArgs) -> Outcome {
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(256 << 20)
        .build()
        .into_diagnostic()
        .failure()?;
    let request = bench::LayerRequest {
        arch: args.arch.clone(),
        batch: args.batch,
        seq_len: args.seq_len,
        input: args.input.unwrap_or(args.hidden),
        hidden: args.hidden,
        layers: args.layers,
        heads: args.heads,
        causal: args.causal,
        train: matches!(args.mode, ModeArg::Train),
        dtype: args.dtype.dtype(),
        device: device::open(&args.device).map_err(|e| miette!("{e}")).usage()?,
        form: if args.reference { Form::Reference } else { Form::Auto },
        min_seconds: args.min_seconds,
    };
    let result = pool.install(|| bench::layer(&request)).map_err(into_report).usage()?;
    let mut value = serde_json::to_value(&result).into_diagnostic().failure()?;
    for (key, field) in [
        ("arch", json!(args.arch)),
        ("mode", json!(if request.train { "train" } else { "infer" })),
        ("threads", json!(threads)),
        ("dtype", json!(request.dtype.as_str())),
        ("device", json!(args.device)),
    ] {
        value[key] = field;
    }
    if args.json {
        print(&(value.to_string() + "\n"))?;
    } else {
        for (key, field) in value.as_object().into_iter().flatten() {
            print(&format!("{key:<14} {field}\n"))?;
        }
    }
    Ok(exit::OK)
}

fn list_all(args: &ListArgs) -> Outcome {
    let name = args.name.as_deref();
    if args.json {
        print_json(&list::json(name).map_err(|e| miette!("{e}")).usage()?)?;
    } else {
        print(&list::text(name).map_err(|e| miette!("{e}")).usage()?)?;
    }
    Ok(exit::OK)
}

/// Whether a person looks at standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
