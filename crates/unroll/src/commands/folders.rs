//! What is done with results.

use std::path::Path;

use miette::{IntoDiagnostic, miette};
use serde_json::{Map, Value, json};
use unroll_results::Manifest;
use unroll_results::compare::Difference;
use unroll_results::run_folder::{self, State};

use crate::cli::{
    CompareArgs, ExportArgs, MergeArgs, ReplayArgs, ReportArgs, SlurmArgs, StatusArgs, VerifyArgs,
};
use crate::progress::{Display, Progress, Silent};
use crate::replay::{self, ReplayError, Replayed, Verdict};
use crate::{environment, exit, report, share, slurm};

use super::run::counts;
use super::{
    Failure, OrExit, Outcome, interrupt_flag, into_report, output_folder, print, print_json,
    read_plan, results_failure, thread_pool,
};

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let manifest = Manifest::read(&args.dir).map_err(results_failure)?;
    let ids = manifest.trials.iter().map(|trial| trial.id.clone());
    let states = run_folder::states(&args.dir, ids).map_err(results_failure)?;
    let plain: Vec<State> = states.iter().map(|trial| trial.state).collect();
    let weight = |done: bool| -> f64 {
        let trials = manifest.trials.iter().zip(&plain);
        // An empty sum of floats is -0.
        trials.filter(|(_, s)| s.is_done() == done).map(|(t, _)| t.weight).sum::<f64>() + 0.0
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

pub(super) fn merge(args: &MergeArgs) -> Outcome {
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

pub(super) fn replay(args: &ReplayArgs) -> Outcome {
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

pub(super) fn verify(args: &VerifyArgs) -> Outcome {
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

pub(super) fn submit_slurm(args: &SlurmArgs) -> Outcome {
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

pub(super) fn make_report(args: &ReportArgs) -> Outcome {
    let written = report::write(&args.dir).usage()?;
    print(&written.terminal)?;
    Ok(if written.missing > 0 { exit::INCOMPLETE } else { exit::OK })
}

pub(super) fn compare(args: &CompareArgs) -> Outcome {
    let compared = share::compare(&args.first, &args.second, args.out.as_deref()).usage()?;
    if args.json {
        print_json(&compared.json)?;
    } else {
        print(&compared.text)?;
    }
    Ok(exit::OK)
}

pub(super) fn export(args: &ExportArgs) -> Outcome {
    print(&share::export(&args.dir, args.to, args.out.as_deref(), &args.url).usage()?)?;
    Ok(exit::OK)
}
