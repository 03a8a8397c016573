//! The commands: from arguments to exit codes.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use miette::{IntoDiagnostic, WrapErr, miette};
use serde_json::{Map, Value, json};
use unroll_core::Form;
use unroll_core::weights::TensorFile;
use unroll_results::ab::Criteria;
use unroll_results::compare::Difference;
use unroll_results::run_folder::{self, State};
use unroll_results::{Manifest, files, store};

use crate::bench::ab::{self, Effort};
use crate::bench::cases::{self, Case, CaseFile};
use crate::bench::programs::Program;
use crate::bench::scratch::TemporaryFolder;
use crate::bench::{counts, outputs};
use crate::cli::{
    AbArgs, BenchCommand, Cli, Command, CompareArgs, CountsArgs, DataCommand, DataFetchArgs,
    EvalArgs, ExportArgs, GateArgs, LayerArgs, ListArgs, MergeArgs, ModeArg, PlanArgs, ProfileArg,
    ReplayArgs, ReportArgs, RetryArg, RunArgs, SampleArgs, SlurmArgs, StatusArgs, SubmitCommand,
    VerifyArgs,
};
use crate::experiment::{Plan, Trial};
use crate::gate::{self, Finding};
use crate::progress::{Display, Progress, Silent};
use crate::replay::{self, ReplayError, Replayed, Verdict};
use crate::run::{self, RunError, RunOptions, RunOutcome};
use crate::{bench, device, environment, eval, exit, fetch, list, report, sample, share, slurm};

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
        Command::Status(args) => status(&args),
        Command::Merge(args) => merge(&args),
        Command::Replay(args) => replay(&args),
        Command::Sample(args) => sample(&args),
        Command::Verify(args) => verify(&args),
        Command::Submit(args) => match args.command {
            SubmitCommand::Slurm(args) => submit_slurm(&args),
        },
        Command::Report(args) => make_report(&args),
        Command::Compare(args) => compare(&args),
        Command::Export(args) => export(&args),
        Command::Eval(args) => evaluate(&args),
        Command::Bench(args) => match args.command {
            BenchCommand::Layer(args) => bench_layer(&args),
            BenchCommand::Ab(args) => bench_ab(&args),
            BenchCommand::Counts(args) => bench_counts(&args),
        },
        Command::Gate(args) => run_gate(&args),
        Command::Data(args) => match args.command {
            DataCommand::List(args) if args.json => {
                print_json(&fetch::list_json()).map(|()| exit::OK)
            }
            DataCommand::List(_) => print(&fetch::list()).map(|()| exit::OK),
            DataCommand::Fetch(args) => fetch_data(&args),
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
    Ok(plan)
}

fn output_folder(plan: &Plan, out: Option<&PathBuf>) -> PathBuf {
    out.cloned().unwrap_or_else(|| Path::new("results").join(&plan.experiment.name))
}

/// The command as the user typed it, the program by its name alone.
fn command_line() -> String {
    let arguments = std::env::args().skip(1).map(|argument| slurm::quote(&argument));
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
        _ => exit::FAILURE,
    };
    Failure(code, into_report(error))
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
        shard: args.shard,
        retry_failed: args.retry == Some(RetryArg::Failed),
        fail_fast: args.fail_fast,
        checkpoint_every: args.checkpoint_every,
        keep_weights: args.keep_weights || plan.experiment.keep_weights,
        command: command_line(),
    };
    let interrupt = interrupt_flag()?;

    let all: Vec<&Trial> = plan.trials.iter().collect();
    let states = run::states(&options.out, &all).map_err(run_failure)?;
    let done = states.iter().filter(|state| state.is_done()).count();
    let left = plan.trials.iter().zip(&states).filter(|(_, state)| !state.is_done());
    let display = Display::new(left.map(|(trial, _)| trial), done);
    let progress: &dyn Progress = if args.json { &Silent } else { &display };
    let outcome = run::run(&plan, &options, progress, &interrupt);
    display.close();
    let outcome = outcome.map_err(run_failure)?;

    // What is finished is usable, however the run ended.
    let written = report::write(&options.out).failure()?;
    if args.json {
        let mut value = serde_json::to_value(&outcome).into_diagnostic().failure()?;
        value["missing"] = outcome.missing().into();
        value["skipped"] = skipped_json(&plan)?;
        value["out"] = options.out.display().to_string().into();
        value["summary"] = written.summary;
        print_json(&value)?;
    } else {
        print(&written.terminal)?;
        print(&run_summary(&outcome, &options))?;
        if outcome.interrupted {
            eprintln!("Interrupted: the same command goes on from here.");
        }
        if outcome.failed > 0 {
            eprintln!("`--retry failed` runs the trials again that failed.");
        }
    }
    Ok(outcome.exit_code())
}

/// What a plan leaves out for want of data.
fn skipped_json(plan: &Plan) -> Result<Value, Failure> {
    serde_json::to_value(&plan.skipped).into_diagnostic().failure()
}

fn run_gate(args: &GateArgs) -> Outcome {
    let plan = read_plan(&args.file, &args.set, None)?;
    let expected = &plan.experiment.expect;
    if expected.is_empty() {
        let file = args.file.display();
        return Err(Failure(
            exit::USAGE,
            miette!("{file} expects nothing: it has no `[[expect]]`"),
        ));
    }
    let jobs = args.jobs as usize;
    let threads = args
        .threads
        .map_or_else(|| (environment::cores() / jobs).max(1), |threads| threads as usize);
    let temporary = TemporaryFolder::new("unroll-gate");
    let options = RunOptions {
        out: args.out.clone().unwrap_or_else(|| temporary.path().to_owned()),
        jobs,
        threads,
        shard: None,
        retry_failed: true,
        fail_fast: false,
        checkpoint_every: std::time::Duration::from_secs(60),
        keep_weights: plan.experiment.keep_weights,
        command: command_line(),
    };
    let interrupt = interrupt_flag()?;
    let display = Display::new(plan.trials.iter(), 0);
    let progress: &dyn Progress = if args.json { &Silent } else { &display };
    let outcome = run::run(&plan, &options, progress, &interrupt);
    display.close();
    let outcome = outcome.map_err(run_failure)?;
    if outcome.interrupted {
        return Ok(exit::INTERRUPTED);
    }
    let mut records = Vec::with_capacity(plan.trials.len());
    for trial in &plan.trials {
        records.extend(store::find(&options.out, &trial.id).into_diagnostic().failure()?);
    }
    let machine = gate::kind_of_machine(&environment::current(threads));
    let judged = gate::judge(expected, &records, &machine);
    if let Some(path) = &args.markdown {
        let text = gate::markdown(&plan.experiment.name, &judged);
        files::write(path, text.as_bytes()).into_diagnostic().failure()?;
    }
    if args.json {
        print_json(&json!({"machine": machine, "expectations": judged}))?;
    } else {
        print(&gate::terminal(&judged))?;
        print(&format!("\nThis machine: {machine}\n"))?;
    }
    let any = |finding| judged.iter().any(|one| one.finding == finding);
    Ok(if any(Finding::Missed) {
        exit::REGRESSION
    } else if any(Finding::NoData) {
        exit::INCONCLUSIVE
    } else {
        exit::OK
    })
}

fn run_summary(outcome: &RunOutcome, options: &RunOptions) -> String {
    let mut line = format!("{} of {} trials", outcome.reused + outcome.ran, outcome.selected);
    if let Some(shard) = options.shard {
        line.push_str(&format!(" of shard {shard} ({} in all)", outcome.planned));
    }
    for (count, what) in [
        (outcome.reused, "from before"),
        (outcome.diverged, "diverged"),
        (outcome.failed, "failed"),
        (outcome.conflicts, "with other bits than before"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    let out = options.out.display();
    format!("\n{line}. Report: {out}/REPORT.html, tables: {out}/tables, plots: {out}/plots\n")
}

fn plan(args: &PlanArgs) -> Outcome {
    let plan = read_plan(&args.file, &args.set, args.device.as_deref())?;
    let out = output_folder(&plan, args.out.as_ref());
    let trials: Vec<&Trial> = plan.trials.iter().collect();
    let states = run::states(&out, &trials).map_err(run_failure)?;
    if args.json {
        let trials: Vec<Value> = plan
            .trials
            .iter()
            .zip(&states)
            .map(|(trial, state)| {
                json!({
                    "id": trial.id,
                    "done": state.is_done(),
                    "state": state,
                    "device": trial.device,
                    "parameters": trial.parameters,
                    "spec": trial.spec,
                })
            })
            .collect();
        let manifest = plan.manifest().id;
        let name = &plan.experiment.name;
        let skipped = skipped_json(&plan)?;
        print_json(&json!({
            "experiment": name, "manifest": manifest, "trials": trials, "skipped": skipped,
        }))?;
        return Ok(exit::OK);
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "id", "what", "series", "task", "length", "seed", "hidden", "params", "state",
    ]);
    for (trial, state) in plan.trials.iter().zip(&states) {
        let cell = &trial.cell;
        table.add_row([
            trial.id[..8].to_owned(),
            trial.spec.kind.name().to_owned(),
            cell.series.clone(),
            cell.task.clone(),
            cell.length.to_string(),
            cell.seed.to_string(),
            cell.hidden_size.to_string(),
            trial.parameters.to_string(),
            state.name().to_owned(),
        ]);
    }
    print(&format!("{table}\n\n{}\n", counts(&states)))?;
    Ok(exit::OK)
}

/// `12 trials: 8 finished, 4 missing`.
fn counts(states: &[State]) -> String {
    let counted: Vec<String> = State::ALL
        .into_iter()
        .map(|state| (states.iter().filter(|s| **s == state).count(), state))
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {}", state.name()))
        .collect();
    format!("{} trials: {}", states.len(), counted.join(", "))
}

fn status(args: &StatusArgs) -> Outcome {
    let manifest = Manifest::read(&args.dir).map_err(results_failure)?;
    let ids = manifest.trials.iter().map(|trial| trial.id.clone());
    let states = run_folder::states(&args.dir, ids).map_err(results_failure)?;
    let plain: Vec<State> = states.iter().map(|trial| trial.state).collect();
    let weight = |done: bool| -> f64 {
        let trials = manifest.trials.iter().zip(&plain);
        trials.filter(|(_, s)| s.is_done() == done).map(|(t, _)| t.weight).sum()
    };
    let share = weight(true) / (weight(true) + weight(false)).max(f64::MIN_POSITIVE);
    if args.json {
        let counts: Map<String, Value> = State::ALL
            .into_iter()
            .map(|state| {
                (state.name().to_owned(), plain.iter().filter(|s| **s == state).count().into())
            })
            .collect();
        print_json(&json!({
            "experiment": manifest.experiment,
            "manifest": manifest.id,
            "planned": plain.len(),
            "counts": counts,
            "work_done": share,
            "trials": states,
        }))?;
    } else {
        let mut text = format!("{}: {}", manifest.experiment, counts(&plain));
        text.push_str(&format!("; {:.0} % of the counted work done\n", 100.0 * share));
        for (trial, state) in manifest.trials.iter().zip(&states) {
            let cell = &trial.cell;
            let what = match state.state {
                State::Running => {
                    let owner = state.owner.as_ref();
                    let owner = owner.map(|o| format!(" on {} (process {})", o.host, o.pid));
                    let beat = state.progress.filter(|beat| beat.total > 0);
                    let far = beat.map(|b| format!(", step {} of {}", b.done, b.total));
                    format!("running{}{}", owner.unwrap_or_default(), far.unwrap_or_default())
                }
                State::Failed | State::Damaged | State::Diverged => {
                    let message = state.message.as_deref().unwrap_or_default();
                    format!("{}: {message}", state.state.name())
                }
                State::Paused => "paused: the next run goes on from its checkpoint".to_owned(),
                State::Finished | State::Missing => continue,
            };
            text.push_str(&format!(
                "  {}  {} {} {} T={} seed {}  {what}\n",
                &trial.id[..8],
                trial.kind.name(),
                cell.series,
                cell.task,
                cell.length,
                cell.seed,
            ));
        }
        print(&text)?;
    }
    let failed = plain.iter().any(|state| matches!(state, State::Failed | State::Damaged));
    Ok(match (plain.iter().all(|state| state.is_done()), failed) {
        (true, _) => exit::OK,
        (false, true) => exit::FAILURE,
        (false, false) => exit::INCOMPLETE,
    })
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

fn merge(args: &MergeArgs) -> Outcome {
    let merged = run_folder::merge(&args.dirs, &args.out).map_err(results_failure)?;
    let written = report::write(&args.out).failure()?;
    if args.json {
        print_json(&serde_json::to_value(&merged).into_diagnostic().failure()?)?;
    } else {
        print(&written.terminal)?;
        let out = args.out.display();
        print(&format!("\n{} of {} trials in {out}\n", merged.records, merged.planned))?;
        for trial in &merged.missing {
            let cell = &trial.cell;
            eprintln!(
                "missing: {} {} {} {} T={} seed {}",
                &trial.id[..8],
                trial.kind.name(),
                cell.series,
                cell.task,
                cell.length,
                cell.seed
            );
        }
        for trial in &merged.conflicts {
            eprintln!("trial {trial} has different bits in different folders: see {out}/conflicts");
        }
    }
    Ok(match (merged.conflicts.len(), merged.missing.len()) {
        (1.., _) => exit::MISMATCH,
        (_, 1..) => exit::INCOMPLETE,
        _ => exit::OK,
    })
}

fn replay(args: &ReplayArgs) -> Outcome {
    let replay_failure = |error: ReplayError| match error {
        ReplayError::Results(error) => results_failure(error),
        other => Failure(exit::USAGE, into_report(other)),
    };
    let trials = replay::select(&args.dir, args.trial.as_deref()).map_err(replay_failure)?;
    if trials.is_empty() {
        return Err(Failure(exit::USAGE, miette!("{} has no results yet", args.dir.display())));
    }
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let pool = thread_pool(threads)?;
    let interrupt = interrupt_flag()?;
    let display = Display::new(trials.iter().map(|(trial, _)| trial), 0);
    let progress: &dyn Progress = if args.json { &Silent } else { &display };
    let mut all = Vec::new();
    for (trial, record) in &trials {
        let replayed = pool.install(|| {
            replay::replay(&args.dir, trial, record, progress, &interrupt).map_err(replay_failure)
        });
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error) => {
                display.close();
                return Err(error);
            }
        };
        let stop = matches!(replayed.verdict, Verdict::Interrupted);
        all.push(replayed);
        if stop {
            break;
        }
    }
    display.close();
    let count = |wanted: fn(&Verdict) -> bool| all.iter().filter(|r| wanted(&r.verdict)).count();
    let different = count(|verdict| matches!(verdict, Verdict::Different { .. }));
    if args.json {
        print_json(&serde_json::to_value(&all).into_diagnostic().failure()?)?;
    } else {
        let text: String = all.iter().map(replay_line).collect();
        let same = count(|verdict| matches!(verdict, Verdict::Same));
        let close = count(|verdict| matches!(verdict, Verdict::Close { .. }));
        print(&format!(
            "{text}{} of {} trials replayed: {same} the same to the bit, {close} within tolerance, \
             {different} different\n",
            all.len(),
            trials.len()
        ))?;
    }
    Ok(match (count(|verdict| matches!(verdict, Verdict::Interrupted)), different) {
        (_, 1..) => exit::MISMATCH,
        (1.., _) => exit::INTERRUPTED,
        _ => exit::OK,
    })
}

/// What is said about a replayed trial: nothing when it is the same to the bit.
fn replay_line(replayed: &Replayed) -> String {
    const SHOWN: usize = 8;
    let name = format!("{} {}", &replayed.trial[..8], replayed.name);
    match &replayed.verdict {
        Verdict::Same => String::new(),
        Verdict::Interrupted => format!("{name}: interrupted\n"),
        Verdict::Close { because, untrained, trained } => format!(
            "{name}: within tolerance; {because}. Largest relative difference before training \
             {untrained:.1e} (allowed {:.0e}), after training {trained:.1e} (allowed {:.0e})\n",
            replay::UNTRAINED,
            replay::TRAINED
        ),
        Verdict::Different { because, divergence, differences } => {
            let mut text = format!("{name}: DIFFERENT\n");
            if let Some(because) = because {
                text.push_str(&format!("  beyond the tolerance, although {because}\n"));
            }
            if let Some(parted) = divergence {
                text.push_str(&format!(
                    "  the weights part at training step {} (after {} steps they were the same)\n",
                    parted.first_different, parted.last_equal
                ));
            }
            for Difference { at, recorded, replayed } in differences.iter().take(SHOWN) {
                text.push_str(&format!("  {at}: recorded {recorded}, now {replayed}\n"));
            }
            if differences.len() > SHOWN {
                text.push_str(&format!("  and {} more\n", differences.len() - SHOWN));
            }
            text
        }
    }
}

fn verify(args: &VerifyArgs) -> Outcome {
    let verified = run_folder::verify(&args.dir).map_err(results_failure)?;
    if args.json {
        print_json(&serde_json::to_value(&verified).into_diagnostic().failure()?)?;
    } else {
        let mut text = String::new();
        for problem in &verified.problems {
            text.push_str(&format!("PROBLEM  {problem}\n"));
        }
        for note in &verified.notes {
            text.push_str(&format!("note     {note}\n"));
        }
        text.push_str(&format!(
            "{} of {} trials have records ({} failed, {} missing); {} records of other trials; {} \
             {}; {} problems\n",
            verified.records,
            verified.planned,
            verified.failed,
            verified.missing,
            verified.others,
            verified.environments,
            if verified.environments == 1 { "environment" } else { "environments" },
            verified.problems.len()
        ));
        print(&text)?;
    }
    Ok(match (verified.problems.len(), verified.missing) {
        (1.., _) => exit::FAILURE,
        (_, 1..) => exit::INCOMPLETE,
        _ => exit::OK,
    })
}

fn sample(args: &SampleArgs) -> Outcome {
    let writer = sample::Writer::open(&args.dir, args.trial.as_deref()).usage()?;
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let request = sample::Request {
        prompt: &args.prompt,
        length: args.length,
        temperature: args.temperature,
        top_p: args.top_p,
        context: args.context,
    };
    let mut texts = Vec::new();
    for number in 0..args.count {
        let mut tell = |text: &str| {
            // Shown while it is written; a closed pipe shows in the next print.
            if !args.json && std::io::stdout().write_all(text.as_bytes()).is_ok() {
                std::io::stdout().flush().ok();
            }
        };
        tell(&args.prompt);
        let seed = (args.seed, number);
        let pool = thread_pool(threads)?;
        let text = pool.install(|| writer.write(&request, seed, &mut tell)).usage()?;
        tell(if number + 1 < args.count { "\n\n" } else { "\n" });
        texts.push(text);
    }
    if args.json {
        print_json(&json!({ "trial": writer.trial(), "prompt": args.prompt, "texts": texts }))?;
    }
    Ok(exit::OK)
}

fn submit_slurm(args: &SlurmArgs) -> Outcome {
    // Everything that is wrong with the experiment shows here and not in a job's log.
    let plan = read_plan(&args.file, &args.set, args.device.as_deref())?;
    let absolute = |path: &Path| std::path::absolute(path).into_diagnostic().failure();
    let tasks = (args.tasks as usize).min(plan.trials.len());
    let mut run_options = Vec::new();
    for set in &args.set {
        run_options.extend(["--set".to_owned(), set.clone()]);
    }
    if let Some(device) = &args.device {
        run_options.extend(["--device".to_owned(), device.clone()]);
    }
    if args.retry.is_some() {
        run_options.extend(["--retry".to_owned(), "failed".to_owned()]);
    }
    let request = slurm::Request {
        program: std::env::current_exe().into_diagnostic().failure()?,
        file: absolute(&args.file)?,
        run_options,
        out: absolute(&output_folder(&plan, args.out.as_ref()))?,
        name: format!("unroll-{}", plan.experiment.name),
        tasks,
        at_once: args.at_once.map(|limit| limit as usize),
        time: args.time.clone(),
        cpus: args.cpus as usize,
        sbatch: args.sbatch.clone(),
    };
    if args.print {
        let slurm::Scripts { array, merge } = request.scripts();
        print(&format!("{array}\n# ---- after all tasks: {}-merge\n{merge}", request.name))?;
        return Ok(exit::OK);
    }
    let (array, merge) = request.submit().map_err(into_report).failure()?;
    print(&format!(
        "{} trials in {tasks} tasks: job {array}; then job {merge} merges them into {}\n",
        plan.trials.len(),
        request.out.display()
    ))?;
    Ok(exit::OK)
}

fn thread_pool(threads: usize) -> Result<rayon::ThreadPool, Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        // Graphs of unrolled sequences are walked by recursion.
        .stack_size(256 << 20)
        .build()
        .into_diagnostic()
        .failure()
}

fn make_report(args: &ReportArgs) -> Outcome {
    let written = report::write(&args.dir).usage()?;
    print(&written.terminal)?;
    Ok(if written.missing > 0 { exit::INCOMPLETE } else { exit::OK })
}

fn compare(args: &CompareArgs) -> Outcome {
    let compared = share::compare(&args.first, &args.second, args.out.as_deref()).usage()?;
    if args.json {
        print_json(&compared.json)?;
    } else {
        print(&compared.text)?;
    }
    Ok(exit::OK)
}

fn export(args: &ExportArgs) -> Outcome {
    print(&share::export(&args.dir, args.to, args.out.as_deref(), &args.url).usage()?)?;
    Ok(exit::OK)
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
        device: device::open_in(&args.device, args.dtype.dtype(), args.precision.precision())
            .map_err(|e| miette!("{e}"))
            .usage()?,
        form: if args.reference { Form::Reference } else { Form::Auto },
        grad: args.grad,
        probe_last: args.probe.is_some(),
    };
    let result = eval::run(&request, &weights, input.as_ref().unwrap_or(&weights));
    let out = result.map_err(into_report).usage()?;
    let bytes = out.to_bytes().map_err(into_report).failure()?;
    files::write(&args.output, &bytes)
        .map_err(into_report)
        .wrap_err("the output cannot be written")
        .usage()?;
    Ok(exit::OK)
}

fn bench_layer(args: &LayerArgs) -> Outcome {
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let pool = thread_pool(threads)?;
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
        device: device::open_in(&args.device, args.dtype.dtype(), args.precision.precision())
            .map_err(|e| miette!("{e}"))
            .usage()?,
        form: if args.reference { Form::Reference } else { Form::Auto },
        min_seconds: args.min_seconds,
        iterations: args.iterations.map(|iterations| iterations as usize),
    };
    let result = pool.install(|| bench::layer(&request)).map_err(into_report).usage()?;
    let mut value = serde_json::to_value(&result).into_diagnostic().failure()?;
    for (key, field) in [
        ("arch", json!(args.arch)),
        ("mode", json!(if request.train { "train" } else { "infer" })),
        ("threads", json!(threads)),
        ("dtype", json!(request.dtype.as_str())),
        ("device", json!(args.device)),
        ("precision", json!(args.precision.precision().name())),
        ("gpu", json!(environment::gpu_name(&args.device))),
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

fn read_cases(args: &AbArgs) -> miette::Result<Vec<Case>> {
    let file = match (&args.cases, args.profile) {
        (Some(path), _) => CaseFile::read(path).map_err(miette::Report::new)?,
        (None, ProfileArg::Fast) => CaseFile::parse("fast.toml", cases::FAST).map_err(|e| *e)?,
        (None, ProfileArg::Full) => CaseFile::parse("full.toml", cases::FULL).map_err(|e| *e)?,
    };
    let filter = args.filter.as_deref().unwrap_or_default();
    let cases: Vec<Case> = file.case.into_iter().filter(|c| c.id().contains(filter)).collect();
    if cases.is_empty() {
        return Err(miette!("no case has `{filter}` in its name"));
    }
    Ok(cases)
}

fn bench_ab(args: &AbArgs) -> Outcome {
    let cases = read_cases(args).usage()?;
    let resolve = |name: &str| Program::resolve(name, &args.cache).map_err(|e| miette!("{e}"));
    let base = resolve(&args.base).usage()?;
    let candidate = resolve(&args.candidate).usage()?;
    let criteria = Criteria {
        alpha: args.alpha,
        least_effect: args.least_effect / 100.0,
        same_within: args.same_within / 100.0,
    };
    let effort = Effort {
        blocks: args.blocks as usize,
        rounds: args.rounds as usize,
        seconds: args.seconds.as_secs_f64(),
        threads: args.threads as usize,
        summary: if args.median { ab::Summary::Median } else { ab::Summary::Fastest },
    };
    let bar = indicatif::ProgressBar::new(0);
    let mut progress = |round: &str, done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_message(round.to_owned());
        bar.set_position(done as u64);
    };
    let report = ab::compare(&base, &candidate, &cases, criteria, effort, &mut progress)
        .map_err(|e| miette!("{e}"))
        .failure()?;
    bar.finish_and_clear();
    let value = serde_json::to_value(&report).into_diagnostic().failure()?;
    let pretty = |value: &Value| serde_json::to_string_pretty(value).map(|text| text + "\n");
    let files_of = [
        (&args.out, pretty(&value)),
        (&args.markdown, Ok(outputs::markdown(&report))),
        (&args.bmf, pretty(&outputs::bencher(&report))),
        (&args.github_benchmark, pretty(&outputs::github_benchmark(&report))),
    ];
    for (path, text) in files_of {
        if let Some(path) = path {
            let text = text.into_diagnostic().failure()?;
            files::write(path, text.as_bytes()).into_diagnostic().failure()?;
        }
    }
    if args.json {
        print_json(&value)?;
    } else {
        print(&outputs::terminal(&report))?;
    }
    Ok(match report.verdict {
        ab::Verdict::Slower => exit::REGRESSION,
        ab::Verdict::Inconclusive => exit::INCONCLUSIVE,
        ab::Verdict::Same | ab::Verdict::Faster => exit::OK,
    })
}

fn bench_counts(args: &CountsArgs) -> Outcome {
    let mut file = CaseFile::read(&args.file).map_err(miette::Report::new).usage()?;
    let program = match &args.program {
        Some(path) => path.clone(),
        None => std::env::current_exe().into_diagnostic().failure()?,
    };
    let bar = indicatif::ProgressBar::new(file.case.len() as u64);
    let tolerance = args.tolerance / 100.0;
    let progress = |done: usize| bar.set_position(done as u64);
    let report = counts::count(&program, &file.case, tolerance, progress)
        .map_err(|e| miette!("{e}"))
        .failure()?;
    bar.finish_and_clear();
    if args.update {
        for (case, count) in file.case.iter_mut().zip(&report.cases) {
            case.instructions = Some(count.instructions);
        }
        let head = "# Instructions per iteration, at most: portable kernels, one thread. Written by\n\
                    # `unroll bench counts FILE --update`.\n\n";
        let text = head.to_owned() + &toml::to_string(&file).into_diagnostic().failure()?;
        files::write(&args.file, text.as_bytes()).into_diagnostic().failure()?;
    }
    if args.json {
        print_json(&serde_json::to_value(&report).into_diagnostic().failure()?)?;
    } else {
        print(&report.terminal())?;
    }
    Ok(if report.kept() || args.update { exit::OK } else { exit::REGRESSION })
}

fn fetch_data(args: &DataFetchArgs) -> Outcome {
    let from = args.from.as_deref();
    let wanted = fetch::wanted(&args.names, from).map_err(into_report).usage()?;
    let home = unroll_tasks::data::home();
    let (mut failed, mut printed) = (false, Ok(()));
    fetch::fetch(&wanted, &home, from, &mut |set, outcome| match outcome {
        Ok(fetched) if printed.is_ok() => printed = print(&fetch::line(set, &fetched)),
        Ok(_) => {}
        Err(error) => {
            failed = true;
            eprintln!("{}: not fetched. {error}", set.name);
        }
    })
    .map_err(into_report)
    .failure()?;
    printed?;
    Ok(if failed { exit::FAILURE } else { exit::OK })
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
