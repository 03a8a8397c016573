//! Plans, runs and the gate.

use miette::{IntoDiagnostic, miette};
use serde_json::{Value, json};
use unroll_results::run_folder::State;
use unroll_results::{files, store};

use crate::bench::scratch::TemporaryFolder;
use crate::cli::{GateArgs, PlanArgs, RetryArg, RunArgs};
use crate::experiment::{Plan, Trial};
use crate::gate::{self, Judged};
use crate::progress::{Display, Progress, Silent};
use crate::run::{self, RunOptions, RunOutcome};
use crate::{environment, exit, report};

use super::{
    Failure, OrExit, Outcome, command_line, interrupt_flag, output_folder, print, print_json,
    read_plan, run_failure,
};

pub(super) fn run_experiment(args: &RunArgs) -> Outcome {
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

pub(super) fn run_gate(args: &GateArgs) -> Outcome {
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
    let notes = gate_notes(&plan, records.len(), &judged, &machine);
    let missing = !plan.skipped.is_empty() || records.len() < plan.trials.len();
    let outcome = gate::outcome(&judged, missing);
    if let Some(path) = &args.markdown {
        let text = gate::markdown(&plan.experiment.name, &judged, outcome, &notes);
        files::write(path, text.as_bytes()).into_diagnostic().failure()?;
    }
    if args.json {
        let skipped = skipped_json(&plan)?;
        print_json(&json!({
            "machine": machine, "expectations": judged, "skipped": skipped, "notes": notes,
        }))?;
    } else {
        print(&gate::terminal(&judged))?;
        for note in &notes {
            print(&format!("\n{note}\n"))?;
        }
        print(&format!("\nThis machine: {machine}\n"))?;
    }
    Ok(match outcome {
        gate::Outcome::Passed => exit::OK,
        gate::Outcome::Missed => exit::REGRESSION,
        gate::Outcome::Inconclusive => exit::INCONCLUSIVE,
    })
}

/// Why a gate is not a pass, beyond its expectations.
fn gate_notes(plan: &Plan, records: usize, judged: &[Judged], machine: &str) -> Vec<String> {
    let mut notes: Vec<String> = plan.skipped.iter().map(ToString::to_string).collect();
    if records < plan.trials.len() {
        let missing = plan.trials.len() - records;
        notes.push(format!("{missing} of {} trials have no record", plan.trials.len()));
    }
    if gate::is_elsewhere(judged) {
        notes.push(format!(
            "Nothing was checked: every expectation is `exactly` on another machine. Here it would be \
             `on = \"{machine}\"`."
        ));
    }
    notes
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

pub(super) fn plan(args: &PlanArgs) -> Outcome {
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
                    "too_large": trial.too_large,
                    "spec": trial.spec,
                })
            })
            .collect();
        let manifest = plan.manifest().id;
        let name = &plan.experiment.name;
        let skipped = skipped_json(&plan)?;
        print_json(&json!({
            "experiment": name, "manifest": manifest, "trials": trials, "skipped": skipped,
            "notes": plan.notes,
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
            // What is done has found a larger machine.
            match &trial.too_large {
                Some(_) if !state.is_done() => "too large".to_owned(),
                _ => state.name().to_owned(),
            },
        ]);
    }
    print(&format!("{table}\n\n{}\n", counts(&states)))?;
    Ok(exit::OK)
}

/// `12 trials: 8 finished, 4 missing`.
pub(super) fn counts(states: &[State]) -> String {
    let counted: Vec<String> = State::ALL
        .into_iter()
        .map(|state| (states.iter().filter(|s| **s == state).count(), state))
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {}", state.name()))
        .collect();
    let trials = if states.len() == 1 { "trial" } else { "trials" };
    format!("{} {trials}: {}", states.len(), counted.join(", "))
}
