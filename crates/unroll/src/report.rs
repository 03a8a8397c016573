//! From records to tables, plots, the report and the terminal.

use std::path::Path;

use miette::{IntoDiagnostic, WrapErr, miette};
use serde_json::{Value, json};
use unroll_report::markdown::ReportContext;
use unroll_report::{markdown, plots, terminal};
use unroll_results::record::Cell;
use unroll_results::{Summary, Tables, TrialRecord, store};

use crate::environment::Environment;
use crate::experiment::{Document, Experiment, Plan};
use crate::run::Manifest;

/// Where the list of trials comes from.
pub enum Source<'a> {
    /// A plan that has just been run.
    Plan(&'a Plan),
    /// The manifest in the folder.
    Folder,
}

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

/// Writes `tables/`, `plots/` and `REPORT.md` of a result folder from its records.
///
/// # Errors
/// When the folder is no result folder, a record is damaged, or something cannot be written.
pub fn write(dir: &Path, source: &Source<'_>) -> miette::Result<Written> {
    let read = |name: &str| -> miette::Result<String> {
        let path = dir.join(name);
        std::fs::read_to_string(&path).into_diagnostic().wrap_err_with(|| {
            format!("{} is not a result folder: no {}", dir.display(), path.display())
        })
    };
    let manifest: Manifest = serde_json::from_str(&read("manifest.json")?)
        .into_diagnostic()
        .wrap_err_with(|| format!("{}/manifest.json is damaged", dir.display()))?;
    let environment: Option<Environment> =
        read("environment.json").ok().and_then(|text| serde_json::from_str(&text).ok());
    let experiment = match source {
        Source::Plan(plan) => plan.experiment.clone(),
        Source::Folder => {
            let path = dir.join("experiment.toml");
            let document = Document::parse(&path, read("experiment.toml")?)
                .map_err(|error| miette::Report::from(*error))?;
            let experiment: Result<Experiment, _> = document.deserialize(document.tree());
            experiment.map_err(|error| miette::Report::from(*error))?
        }
    };

    let mut records = Vec::with_capacity(manifest.trials.len());
    let mut missing = 0;
    for trial in &manifest.trials {
        let path = store::path(dir, &trial.id).into_diagnostic()?;
        if path.exists() {
            records.push(placed(store::read(&path).into_diagnostic()?, &trial.cell));
        } else {
            missing += 1;
        }
    }
    let summary = Summary::from_records(&records);
    let tables = Tables::from_records(&records).into_diagnostic()?;
    tables.write(&dir.join("tables")).into_diagnostic()?;
    plots::write_all(&dir.join("plots"), &summary).into_diagnostic()?;
    let context = ReportContext {
        experiment: experiment.name.clone(),
        question: experiment.question.trim().to_owned(),
        analysis: experiment.analysis.trim().to_owned(),
        command: manifest.command.clone(),
        environment: environment.map(|e| e.lines()).unwrap_or_default(),
    };
    markdown::write(dir, &context, &summary).into_diagnostic()?;
    if records.is_empty() && manifest.trials.is_empty() {
        return Err(miette!("{} holds no trials", dir.display()));
    }
    Ok(Written { terminal: terminal_text(&summary), summary: as_json(&summary), missing })
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

/// A record under the name that this sweep has for it: a trial that another experiment ran means the
/// same under another name.
fn placed(mut record: TrialRecord, cell: &Cell) -> TrialRecord {
    let form = std::mem::take(&mut record.cell.form);
    record.cell = Cell { form, ..cell.clone() };
    record
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
