//! The report of a run as Markdown, with its plots.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

use unroll_results::Summary;
use unroll_results::files;
use unroll_results::record::Status;

use crate::rows::{self, Rows, significant};
use crate::{Result, plots};

/// What a report says besides its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportContext {
    /// Name of the experiment.
    pub experiment: String,
    /// The question it answers, Markdown.
    pub question: String,
    /// How its results are to be read, Markdown.
    pub analysis: String,
    /// The commands that made the results.
    pub commands: Vec<String>,
    /// Machine, versions and the like, one fact a line.
    pub environment: Vec<String>,
}

/// Writes `DIR/REPORT.md` and returns its path. The plots are expected in `DIR/plots`, where
/// [`plots::write_all`] puts them.
///
/// # Errors
/// [`crate::Error::Results`] when the file cannot be written.
pub fn write(dir: &Path, context: &ReportContext, summary: &Summary) -> Result<PathBuf> {
    let path = dir.join("REPORT.md");
    files::write(&path, render(context, summary).as_bytes())?;
    Ok(path)
}

/// The report's text.
pub fn render(context: &ReportContext, summary: &Summary) -> String {
    let mut text = format!("# {}\n", context.experiment.trim());
    // With several (shards, interrupted runs) see the end.
    if let [command] = context.commands.as_slice() {
        paragraph(&mut text, &format!("Made with `{}`.", command.trim()));
    }
    section(&mut text, "Question", &context.question);
    setting(&mut text, summary);
    for task in &summary.tasks {
        task_section(&mut text, summary, task);
    }
    failures(&mut text, summary);
    section(&mut text, "Analysis", &context.analysis);
    reproduce(&mut text, context);
    text
}

fn paragraph(text: &mut String, words: &str) {
    let _ = write!(text, "\n{}\n", words.trim());
}

fn section(text: &mut String, title: &str, words: &str) {
    if !words.trim().is_empty() {
        let _ = write!(text, "\n## {title}\n");
        paragraph(text, words);
    }
}

fn list<T: Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { "–".to_owned() } else { values.join(", ") }
}

fn setting(text: &mut String, summary: &Summary) {
    let setting = &summary.setting;
    text.push_str("\n## Setting\n\n");
    let lines = [
        format!(
            "Trials: {}, of which {} finished, {} diverged, {} failed",
            setting.trials, setting.finished, setting.diverged, setting.failed
        ),
        format!("Architectures matched by: {}", list(&setting.matched_by)),
        format!("Seeds: {}", list(&setting.seeds)),
        format!("Lengths: {}", list(&setting.lengths)),
        format!("Batch size: {}", list(&setting.batch_sizes)),
        format!("Device: {}", list(&setting.devices)),
        format!("Number type: {}", list(&setting.dtypes)),
        format!("Form: {}", list(&setting.forms)),
    ];
    for line in lines {
        let _ = writeln!(text, "- {line}");
    }
    if summary.series.is_empty() {
        return;
    }
    text.push_str("\n| series | architecture | hidden size | layers | parameters |\n");
    text.push_str("|---|---|---:|---:|---:|\n");
    for series in &summary.series {
        let parameters = match series.parameters[..] {
            [] => "–".to_owned(),
            [one] => one.to_string(),
            [first, .., last] => format!("{first} to {last}"),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {parameters} |",
            cell(&series.name),
            cell(&series.architecture),
            list(&series.hidden_sizes),
            list(&series.num_layers),
        );
    }
}

fn task_section(text: &mut String, summary: &Summary, task: &str) {
    let _ = write!(text, "\n## {task}\n");
    let described = summary.quality.iter().find(|g| g.task == task && !g.metric.is_empty());
    if let Some(group) = described {
        let mut words = format!("Metric on the test split: {}.", rows::metric(summary, task));
        let baselines: Vec<String> = group
            .baselines
            .iter()
            .map(|baseline| format!("{} ({})", baseline.name, significant(baseline.value)))
            .collect();
        if !baselines.is_empty() {
            let length = group.length;
            let _ =
                write!(words, " Without learning, at length {length}: {}.", baselines.join(", "));
        }
        words.push_str(
            " `solved` is k of n trials that ran; `steps` the median number of training steps to \
             the stopping threshold.",
        );
        paragraph(text, &words);
    }
    table(text, &rows::quality(summary, task));
    titled_table(text, "Other lengths", "", &rows::lengths(summary, task));
    titled_table(
        text,
        "Gradient decay",
        "Half-life in steps, from a least-squares line through the logarithm of the norm over the \
         distances `fitted`, with its interval over seeds (Student's t); the distances at which the \
         norm has fallen to 1 % and to f32's epsilon of that at distance 0, and within which 99 % of \
         the sum of norms lie (medians over seeds). `law` is the one that fits better, `open` when \
         the seeds do not agree; `exponent` is that of the power law.",
        &rows::gradients(summary, task),
    );
    titled_table(
        text,
        "State dynamics",
        "Lyapunov exponents in nats per step along test sequences, over seeds: a positive one is chaos, \
         the largest one the slowest way to forget. `lost` directions vanish within a step. \
         `ln |det|` is the change of volume. The largest singular value is that of the Jacobian of the \
         whole state over the distance beside it, a lower bound where random probes estimate it.",
        &rows::dynamics(summary, task),
    );
    titled_table(
        text,
        "Gates",
        "Medians over seeds. A sigmoid gate is closed below 0.1 and open above 0.9, a candidate saturated \
         beyond 0.9 in size. The forget time `1 / (1 - f)` in steps is that of the gate that keeps the \
         state, with the quantiles over units.",
        &rows::gates(summary, task),
    );
    titled_table(
        text,
        "Attention",
        "Over heads and seeds: the entropy of the weights as a share of that of uniform weights, and the \
         mean distance in steps that is attended to, beside that of uniform weights.",
        &rows::attention(summary, task),
    );
    if let Some(group) = summary.horizons.iter().find(|group| group.task == task) {
        let mut words = "Before any training, at the longest length: the distance at which ∂L/∂x has \
                         fallen to 1 % (by the fitted rate where it is beyond the length), and that \
                         within which 99 % of the sum of its norms lie; and the longest length that \
                         was solved after training."
            .to_owned();
        let agreements = [("horizon", &group.horizon), ("the 99 % distance", &group.reach)];
        for (name, agreement) in agreements {
            if let Some(agreement) = rows::agreement(agreement) {
                let _ = write!(
                    words,
                    " Spearman's rank correlation of {name} and longest length, over series and \
                     seeds, series resampled: {agreement}."
                );
            }
        }
        titled_table(text, "Horizon and learning", &words, &rows::horizons(summary, task));
    }
    titled_table(
        text,
        "Speed and memory",
        "Times are medians over iterations, then over trials; they depend on the machine.",
        &rows::throughput(summary, task),
    );
    for plot in plots::list(summary).iter().filter(|plot| plot.task == task) {
        let _ = write!(text, "\n![{}](plots/{}.svg)\n", cell(&plot.title), plot.name);
    }
}

fn titled_table(text: &mut String, title: &str, words: &str, rows: &Rows) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n### {title}\n");
    if !words.is_empty() {
        paragraph(text, words);
    }
    table(text, rows);
}

fn table(text: &mut String, rows: &Rows) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n| {} |\n|", rows.titles.join(" | "));
    for number in &rows.numbers {
        text.push_str(if *number { "---:|" } else { "---|" });
    }
    text.push('\n');
    for row in &rows.rows {
        let cells: Vec<String> = row.iter().map(|text| cell(text)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

/// A text that cannot end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn failures(text: &mut String, summary: &Summary) {
    text.push_str("\n## Diverged and failed trials\n\n");
    if summary.failures.is_empty() {
        text.push_str("None.\n");
        return;
    }
    text.push_str("| series | task | length | seed | what happened | trial |\n");
    text.push_str("|---|---|---:|---:|---|---|\n");
    for failure in &summary.failures {
        let what = match &failure.status {
            Status::Diverged { step } => format!("diverged at training step {step}"),
            Status::Failed { message } => format!("failed: {message}"),
            Status::Finished {} => "finished".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | `{}` |",
            cell(&failure.series),
            cell(&failure.task),
            failure.length,
            failure.seed,
            cell(&what),
            failure.trial,
        );
    }
}

fn reproduce(text: &mut String, context: &ReportContext) {
    if context.commands.is_empty() && context.environment.is_empty() {
        return;
    }
    text.push_str("\n## How to reproduce\n");
    if !context.commands.is_empty() {
        let _ = write!(text, "\n```sh\n{}\n```\n", context.commands.join("\n"));
    }
    if !context.environment.is_empty() {
        text.push('\n');
        for line in &context.environment {
            let _ = writeln!(text, "- {}", line.trim());
        }
    }
}
