//! From records to tables, plots, the report and the terminal.

use std::path::Path;

use miette::{WrapErr, miette};
use serde_json::{Value, json};
use unroll_report::{Report, ReportContext, TrialLine, terminal};
use unroll_results::events::{self, Event};
use unroll_results::{Environment, Manifest, Summary, Tables, TrialRecord, layout, run_folder};

/// What has been written.
#[derive(Debug)]
pub struct Written {
    /// Table for the terminal.
    pub terminal: String,
    /// The same as JSON.
    pub summary: Value,
    /// Trials without a record.
    pub missing: usize,
}

/// Writes `tables/`, `plots/`, `REPORT.html` and `REPORT.md` of a result folder from its records.
///
/// # Errors
/// When the folder is no result folder, a record is damaged, or something cannot be written.
pub fn write(dir: &Path) -> miette::Result<Written> {
    let manifest = Manifest::read(dir).map_err(plain)?;
    if manifest.trials.is_empty() {
        return Err(miette!("{} holds no trials", dir.display()));
    }
    run_folder::tidy(dir, run_folder::NOBODY).map_err(plain)?;
    let run_folder::Records { records, missing } =
        run_folder::records(dir, &manifest).map_err(plain).wrap_err(
            "`unroll run` with the same --out sets damaged records aside and runs their trials again",
        )?;
    let summary = Summary::from_records(&records);
    let derive = || -> miette::Result<()> {
        let tables = Tables::from_records(&records).map_err(plain)?;
        tables.write(&dir.join(layout::TABLES)).map_err(plain)?;
        Report::new(&context(dir, &manifest, &records), &summary).write(dir).map_err(plain)?;
        Ok(())
    };
    derive().wrap_err_with(|| {
        format!("every trial is saved; `unroll report {}` makes tables and plots", dir.display())
    })?;
    let missing = missing.len();
    let terminal = if records.is_empty() {
        let trials = if missing == 1 { "trial is" } else { "trials are" };
        format!("There are no results yet: {missing} {trials} planned and none has a record.\n")
    } else {
        terminal_text(&summary)
    };
    Ok(Written { terminal, summary: as_json(&summary), missing })
}

/// What the report of a folder says besides its numbers.
pub(crate) fn context(dir: &Path, manifest: &Manifest, records: &[TrialRecord]) -> ReportContext {
    let line = |record: &TrialRecord| TrialLine {
        id: record.id.clone(),
        kind: record.kind.name().to_owned(),
        series: record.cell.series.clone(),
        task: record.cell.task.clone(),
        length: record.cell.length,
        seed: record.cell.seed,
    };
    ReportContext {
        experiment: manifest.experiment.clone(),
        question: manifest.question.clone(),
        analysis: manifest.analysis.clone(),
        commands: commands(dir),
        environment: environments(dir, records),
        manifest: manifest.id.clone(),
        trials: records.iter().map(line).collect(),
        missing: manifest.trials.len().saturating_sub(records.len()),
        skipped: manifest.skipped.iter().map(ToString::to_string).collect(),
    }
}

/// An error whose text says all, its cause included.
fn plain(error: impl std::fmt::Display) -> miette::Report {
    miette!("{error}")
}

/// The commands that worked on a folder, each once, in the order of their time.
fn commands(dir: &Path) -> Vec<String> {
    let mut all: Vec<(f64, String)> = Vec::new();
    for log in events::read_all(dir).unwrap_or_default() {
        for (time, event) in log.events {
            if let Event::Started { command, .. } = event {
                all.push((time, command));
            }
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut seen = std::collections::HashSet::new();
    all.retain(|(_, command)| seen.insert(command.clone()));
    all.into_iter().map(|(_, command)| command).collect()
}

/// Lines about the environments that records come from, in the order of the records.
fn environments(dir: &Path, records: &[TrialRecord]) -> Vec<String> {
    let mut ids: Vec<&str> = Vec::new();
    for record in records {
        let id = record.timing.environment.as_str();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for environment in ids.iter().filter_map(|id| Environment::read(dir, id).ok()) {
        for line in environment.lines() {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// What was learned; without quality trials, what was measured instead.
fn terminal_text(summary: &Summary) -> String {
    let quality = terminal::summary_table(summary);
    if quality.is_empty() {
        terminal::gradient_table(summary) + &terminal::throughput_table(summary)
    } else {
        quality
    }
}

fn as_json(summary: &Summary) -> Value {
    let quality: Vec<Value> = summary
        .quality
        .iter()
        .map(|group| {
            json!({
                "task": group.task,
                "series": group.series,
                "length": group.length,
                "metric": group.metric,
                "parameters": group.parameters,
                "test": group.values.iter().map(|v| json!({"seed": v.seed, "value": v.value})).collect::<Vec<_>>(),
                "median": group.test.as_ref().map(|test| test.median),
                "solved": group.solved,
                "diverged": group.diverged,
                "n": group.n,
                "baseline": group.best_baseline.as_ref().map(|b| b.value),
                "verdict": group.verdict().name(),
            })
        })
        .collect();
    json!({"quality": quality})
}
