//! A report: from a summary to sections.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use unroll_results::record::Status;
use unroll_results::summary::{KindSetting, SeriesInfo, Setting};
use unroll_results::{Decisions, Summary, files};

use crate::document::{Block, Document, ReportContext, Section, Words, trial_rows};
use crate::plots::{self, Plot};
use crate::rows::{self, Rows, dash, significant};
use crate::{Result, answer, decide, html, markdown};

/// A report, ready to be written.
#[derive(Debug)]
pub struct Report<'a> {
    document: Document,
    plots: Vec<(&'a str, Plot)>,
}

impl<'a> Report<'a> {
    /// Decides, draws and writes the text.
    pub fn new(context: &ReportContext, summary: &'a Summary) -> Self {
        let decisions = Decisions::of(summary);
        let plots = plots::all(summary, &decisions);
        let document = document(context, summary, &decisions, &plots);
        Self { document, plots }
    }

    /// The report as Markdown; plots are linked as `plots/NAME.svg`.
    pub fn markdown(&self) -> String {
        markdown::render(&self.document, &self.plots)
    }

    /// The report as one HTML file that needs nothing else.
    ///
    /// # Errors
    /// [`crate::Error::Template`].
    pub fn html(&self) -> Result<String> {
        html::render(&self.document, &self.plots)
    }

    /// Writes `DIR/REPORT.md`, `DIR/REPORT.html` and `DIR/plots`, and returns the paths of the first two.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        plots::write_these(&dir.join("plots"), &self.plots)?;
        let paths = [dir.join("REPORT.md"), dir.join("REPORT.html")];
        files::write(&paths[0], self.markdown().as_bytes())?;
        files::write(&paths[1], self.html()?.as_bytes())?;
        Ok(paths)
    }
}

fn document(
    context: &ReportContext,
    summary: &Summary,
    decisions: &Decisions,
    plots: &[(&str, Plot)],
) -> Document {
    let mut sections = Vec::new();
    let mut question = Section::new("Question");
    if !context.question.trim().is_empty() {
        question.blocks.push(Block::Prose(context.question.clone()));
        sections.push(question);
    }
    let mut short = Section::new("Answer");
    for sentence in answer::sentences(summary, decisions) {
        short.words(sentence);
    }
    if context.missing > 0 {
        short.words(format!(
            "{} of {} planned trials have no result yet: this is the report of a part.",
            context.missing,
            context.missing + summary.setting.trials
        ));
    }
    for reason in &context.skipped {
        short.words(format!("{reason}."));
    }
    sections.push(short);
    sections.push(setting(summary));
    sections.extend(decide::section(decisions));
    if let Some(mut section) = decide::overall(decisions) {
        add_plots(&mut section, plots, "", |_| true);
        sections.push(section);
    }
    for task in &summary.tasks {
        sections.push(task_section(summary, task, plots));
    }
    sections.push(failures(summary));
    if !context.analysis.trim().is_empty() {
        let mut analysis = Section::new("How to read it");
        analysis.blocks.push(Block::Prose(context.analysis.clone()));
        sections.push(analysis);
    }
    sections.push(reproduce(context));
    let title = context.experiment.trim();
    let title = if title.is_empty() { "Report" } else { title };
    Document { title: title.to_owned(), sections }
}

fn add_plots(
    section: &mut Section,
    plots: &[(&str, Plot)],
    task: &str,
    wanted: impl Fn(&str) -> bool,
) {
    let names = plots.iter().filter(|(of, plot)| *of == task && wanted(&plot.name));
    section.blocks.extend(names.map(|(_, plot)| Block::Plot(plot.name.clone())));
}

fn list<T: Display>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() { dash() } else { values.join(", ") }
}

fn setting(summary: &Summary) -> Section {
    let setting = &summary.setting;
    let mut section = Section::new("Setting");
    let mut numbers = format!("Number type: {}", by_kind(setting, |kind| list(&kind.dtypes)));
    if setting.precisions.iter().any(|precision| precision != "fp32") {
        numbers += &format!("; products in {}", list(&setting.precisions));
    }
    let lines = [
        format!(
            "Trials: {}, of which {} finished, {} diverged, {} failed",
            setting.trials, setting.finished, setting.diverged, setting.failed
        ),
        format!("Architectures matched by: {}{}", list(&setting.matched_by), matched(summary)),
        format!("Seeds: {}", list(&setting.seeds)),
        format!("Lengths: {}", list(&setting.lengths)),
        format!("Batch size: {}", by_kind(setting, |kind| list(&kind.batch_sizes))),
        format!("Device: {}", list(&setting.devices)),
        numbers,
        format!("Form: {}", forms(summary)),
    ];
    section.blocks.push(Block::List(lines.into_iter().map(Words::from).collect()));
    let mut rows = Rows::new(&[
        ("series", false),
        ("architecture", false),
        ("hidden size", true),
        ("layers", true),
        ("parameters", true),
    ]);
    rows.rows.extend(summary.series.iter().map(series_row));
    section.table("Series", rows);
    section
}

/// One value for all kinds of trials, or that of each: `quality 32; throughput 8`.
fn by_kind(setting: &Setting, of: impl Fn(&KindSetting) -> String) -> String {
    let values: Vec<(&str, String)> =
        setting.kinds.iter().map(|kind| (kind.kind.name(), of(kind))).collect();
    match values.first() {
        None => dash(),
        Some((_, first)) if values.iter().all(|(_, value)| value == first) => first.clone(),
        Some(_) => {
            let parts: Vec<String> =
                values.iter().map(|(kind, value)| format!("{kind} {value}")).collect();
            parts.join("; ")
        }
    }
}

/// Forms that ran, with the series of each where they are not all of one: a fused form is faster than a
/// reference form of the very same model.
fn forms(summary: &Summary) -> String {
    // A trial that failed before it ran has none.
    let ran: Vec<&String> = summary.setting.forms.iter().filter(|form| !form.is_empty()).collect();
    if ran.len() < 2 {
        return list(&ran);
    }
    let of = |form: &&String| {
        let series = summary.series.iter().filter(|series| series.forms.contains(form));
        let names: Vec<&str> = series.map(|series| series.name.as_str()).collect();
        format!("{form}: {}", names.join(", "))
    };
    ran.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// How equal the series' parameters are. Where they were to be equal: hidden sizes go in steps (of heads), so
/// that some architectures cannot come near. Where hidden sizes are as given, parameters may be far apart, and a
/// comparison must say so.
fn matched(summary: &Summary) -> String {
    const FAR: f64 = 0.05;
    const ALIKE: f64 = 0.25;
    let by = |name: &str| summary.setting.matched_by.iter().any(|by| by == name);
    if !by("parameters") && !by("hidden_size") {
        return String::new();
    }
    // Tasks and lengths change all series' counts alike: the smallest belong together, and so on.
    let counts: Vec<(&str, &[u64])> = summary
        .series
        .iter()
        .filter(|series| !series.parameters.is_empty())
        .map(|series| (series.name.as_str(), series.parameters.as_slice()))
        .collect();
    let Some(&(_, first)) = counts.first() else { return String::new() };
    if counts.iter().any(|(_, numbers)| numbers.len() != first.len()) {
        return String::new();
    }
    let extremes = (0..first.len()).filter_map(|place| {
        let of = |(name, numbers): &(&str, &[u64])| (numbers[place], (*name).to_owned());
        let least = counts.iter().map(of).min_by_key(|(count, _)| *count)?;
        let most = counts.iter().map(of).max_by_key(|(count, _)| *count)?;
        let share = 1.0 - least.0 as f64 / most.0.max(1) as f64;
        Some((share, least, most))
    });
    let widest = extremes.max_by(|a, b| a.0.total_cmp(&b.0));
    if !by("parameters") {
        return match widest {
            Some((share, (fewest, small), (most, large))) if share > ALIKE => format!(
                " (parameters differ: {large} has {most}, {:.1} times the {fewest} of {small})",
                most as f64 / fewest.max(1) as f64
            ),
            _ => String::new(),
        };
    }
    match widest {
        Some((share, (fewest, small), (most, large))) if share > FAR => format!(
            " (not nearly: {small} has {fewest}, {:.0} % fewer than the {most} of {large})",
            share * 100.0
        ),
        Some((share, ..)) => format!(" (within {:.1} %)", share * 100.0),
        None => String::new(),
    }
}

fn series_row(series: &SeriesInfo) -> Vec<String> {
    let parameters = match series.parameters[..] {
        [] => dash(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first} to {last}"),
    };
    vec![
        series.name.clone(),
        series.architecture.clone(),
        list(&series.hidden_sizes),
        list(&series.num_layers),
        parameters,
    ]
}

fn task_section(summary: &Summary, task: &str, plots: &[(&str, Plot)]) -> Section {
    let mut section = Section::new(format!("Task: {task}"));
    let described = summary.quality.iter().find(|g| g.task == task && !g.metric.is_empty());
    if let Some(group) = described {
        let mut words = format!("Metric on the test split: {}.", rows::metric(summary, task));
        for (fitted, title) in [(false, "Without learning"), (true, "Fitted to the training data")]
        {
            let baselines: Vec<String> = group
                .baselines
                .iter()
                .filter(|baseline| baseline.fitted == fitted)
                .map(|baseline| format!("{} ({})", baseline.name, significant(baseline.value)))
                .collect();
            if !baselines.is_empty() {
                let length = group.length;
                let baselines = baselines.join(", ");
                words.push_str(&format!(" {title}, at length {length}: {baselines}."));
            }
        }
        words.push_str(
            " “Solved” is k of n trials that ran; “steps” the median number of training steps to the \
             stopping threshold; “run tokens/s” the speed by the clock of whole training runs, evaluations left \
             out.",
        );
        section.words(words);
    }
    if let Some(words) = missed_on_test(summary, task) {
        section.words(words);
    }
    section.table(format!("{task}: metric after training"), rows::quality(summary, task));
    let of_metric = ["metric-", "heat-", "pareto-", "curves-"];
    let starts = |name: &str, of: &[&str]| of.iter().any(|start| name.starts_with(start));
    add_plots(&mut section, plots, task, |name| starts(name, &of_metric));
    section.titled_table(
        "Other metrics",
        "On the test split, with the last weights.",
        rows::metrics(summary, task),
    );
    add_plots(&mut section, plots, task, |name| starts(name, &["alignment-"]));
    section.titled_table("Other lengths", "", rows::lengths(summary, task));
    add_plots(&mut section, plots, task, |name| starts(name, &["lengths-"]));
    section.titled_table(
        "Gradient decay",
        "Half-life in steps, from a least-squares line through the logarithm of the norm over the \
         distances “fitted”, with its interval over seeds (Student's t); the distances at which the norm \
         has fallen to 1 % and to f32's epsilon of that at distance 0, and within which 99 % of the sum \
         of norms lie (median over seeds, smallest and largest). Fits and the first two distances are of the mean \
         over examples of the norm's logarithm, the last of the mean norm. “Law” is the one that fits better, \
         “open” when the seeds do not agree; “exponent” is that of the power law, with its interval. \
         “Grows” is a norm that \
         does; “flat” one whose growth the seeds do not agree on, or whose whole change is within \
         rounding.",
        rows::gradients(summary, task),
    );
    add_plots(&mut section, plots, task, |name| starts(name, &["gradient-"]));
    section.titled_table(
        "State dynamics",
        "Lyapunov exponents in nats per step along test sequences, over seeds: a positive one is chaos, \
         the largest one the slowest way to forget. “Lost” directions vanish within a step. ln |det| is \
         the change of volume. The largest singular value is that of the Jacobian of the whole state over \
         the distance beside it, a lower bound where random probes estimate it.",
        rows::dynamics(summary, task),
    );
    add_plots(&mut section, plots, task, |name| starts(name, &["dynamics-"]));
    section.titled_table(
        "Gates",
        "Medians over seeds. A sigmoid gate is closed below 0.1 and open above 0.9, a candidate \
         saturated beyond 0.9 in size. The forget time 1 / (1 - f) in steps is that of the gate that \
         keeps the state, with the quantiles over units.",
        rows::gates(summary, task),
    );
    section.titled_table(
        "Attention",
        "Over heads and seeds: the entropy of the weights as a share of that of uniform weights, and the \
         mean distance in steps that is attended to, beside that of uniform weights.",
        rows::attention(summary, task),
    );
    if let Some(group) = summary.horizons.iter().find(|group| group.task == task) {
        let mut words = format!(
            "Before any training, at the longest length: the distance at which ∂L/∂x has fallen to 1 %, \
             and that within which 99 % of the sum of its norms lie; and the longest length that was \
             solved after training. Horizons beyond {} steps, which is as far as all models were \
             measured, are not told apart and share a rank.",
            group.measured_to
        );
        let agreements = [("horizon", &group.horizon), ("the 99 % distance", &group.reach)];
        for (name, agreement) in agreements {
            if let Some(agreement) = rows::agreement(agreement) {
                words.push_str(&format!(
                    " Spearman's rank correlation of {name} and longest length, over series and \
                     seeds, series resampled: {agreement}."
                ));
            }
        }
        section.titled_table("Horizon and learning", &words, rows::horizons(summary, task));
    }
    add_plots(&mut section, plots, task, |name| starts(name, &["horizon-"]));
    section.titled_table(
        "Speed and memory",
        "Times are medians over iterations, then over trials; they depend on the machine.",
        rows::throughput(summary, task),
    );
    add_plots(&mut section, plots, task, |name| starts(name, &["throughput-"]));
    section
}

/// Trials that stopped as if they had solved the task, and are not counted as such.
fn missed_on_test(summary: &Summary, task: &str) -> Option<String> {
    let groups = summary.quality.iter().filter(|group| group.task == task);
    let missed: Vec<String> = groups
        .filter(|group| !group.missed_on_test.is_empty())
        .map(|group| {
            let s = if group.missed_on_test.len() == 1 { "" } else { "s" };
            let seeds = list(&group.missed_on_test);
            format!("{} at length {}, seed{s} {seeds}", group.series, group.length)
        })
        .collect();
    (!missed.is_empty()).then(|| {
        format!(
            "“Missed on test” are trials that went no further than the step at which validation reached the \
             stopping threshold, and whose test metric is not good enough to count as solved: {}. They might \
             have solved it with more steps; a stricter `threshold` under `[train]` leaves room for the difference.",
            missed.join("; ")
        )
    })
}

fn failures(summary: &Summary) -> Section {
    let mut section = Section::new("Diverged and failed trials");
    if summary.failures.is_empty() {
        section.words("None.");
        return section;
    }
    let mut rows = Rows::new(&[
        ("series", false),
        ("task", false),
        ("length", true),
        ("seed", true),
        ("what happened", false),
        ("trial", false),
    ]);
    for failure in &summary.failures {
        let what = match &failure.status {
            Status::Diverged { step } => format!("diverged at training step {step}"),
            Status::Failed { message } => format!("failed: {message}"),
            Status::Finished {} => "finished".to_owned(),
        };
        rows.rows.push(vec![
            failure.series.clone(),
            failure.task.clone(),
            failure.length.to_string(),
            failure.seed.to_string(),
            what,
            failure.trial.clone(),
        ]);
    }
    section.table("Diverged and failed trials", rows);
    section
}

fn reproduce(context: &ReportContext) -> Section {
    let mut section = Section::new("How to reproduce");
    if !context.commands.is_empty() {
        section.words("Made with:");
        section.blocks.push(Block::Code(context.commands.join("\n")));
    }
    if !context.environment.is_empty() {
        let lines = context.environment.iter().map(|line| Words::from(line.trim()));
        section.blocks.push(Block::List(lines.collect()));
    }
    section.words("In the result folder, with the beginning of a trial's id:");
    section.blocks.push(Block::Code(
        "unroll verify DIR         # hashes, schemas, completeness\n\
         unroll replay DIR TRIAL   # run a trial again and compare bit for bit\n\
         unroll report DIR         # this report again"
            .into(),
    ));
    if !context.manifest.is_empty() {
        section.words(Words::from("List of trials: ").code(&context.manifest));
    }
    section.titled_table("Trials", "", trial_rows(&context.trials));
    section
}
