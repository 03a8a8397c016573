//! Two result folders side by side, as HTML and Markdown.

use std::path::{Path, PathBuf};

use unroll_results::files;
use unroll_results::side_by_side::{SideBySide, WinnerPair};

use crate::document::{Block, Document, ReportContext, Section, Words};
use crate::rows::{Rows, bytes, dash, prefixed, significant};
use crate::{Result, html, markdown};

/// A comparison, ready to be written.
#[derive(Debug)]
pub struct Comparison {
    document: Document,
}

impl Comparison {
    /// Of two folders under the names that the reader gave them.
    pub fn new(names: [&str; 2], contexts: [&ReportContext; 2], found: &SideBySide) -> Self {
        Self { document: document(names, contexts, found) }
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        markdown::render(&self.document, &[])
    }

    /// As one HTML file that needs nothing else.
    ///
    /// # Errors
    /// [`crate::Error::Template`].
    pub fn html(&self) -> Result<String> {
        html::render(&self.document, &[])
    }

    /// Writes `DIR/COMPARE.md` and `DIR/COMPARE.html`.
    ///
    /// # Errors
    /// [`crate::Error`].
    pub fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        files::create_dir(dir)?;
        let paths = [dir.join("COMPARE.md"), dir.join("COMPARE.html")];
        files::write(&paths[0], self.markdown().as_bytes())?;
        files::write(&paths[1], self.html()?.as_bytes())?;
        Ok(paths)
    }
}

fn document(names: [&str; 2], contexts: [&ReportContext; 2], found: &SideBySide) -> Document {
    let mut sections = vec![answer(found), what(names, contexts, found)];
    let mut metrics = Section::new("Metric after training");
    metrics.words(
        "Interquartile means over seeds. “B is better” is the probability that a run of B is better than \
         one of A; p is that of the exact rank sum test, Holm-adjusted over all rows.",
    );
    metrics.table("Metric after training in A and B", quality(found));
    if !found.quality.is_empty() {
        sections.push(metrics);
    }
    let mut speed = Section::new("Speed and memory");
    speed.words(
        "Medians over trials. “Apart” where the ranges of the trials do not overlap; clock times of \
         two machines, or of a busy one, are no verdict on the code.",
    );
    speed.table("Speed and memory in A and B", throughput(found));
    if !found.throughput.is_empty() {
        sections.push(speed);
    }
    let mut only = Section::new("Only in one");
    for (name, groups) in [("A", &found.only_first), ("B", &found.only_second)] {
        if !groups.is_empty() {
            only.words(format!("Only in {name}:"));
            only.blocks.push(Block::List(groups.iter().map(|g| Words::from(g.clone())).collect()));
        }
    }
    if !only.blocks.is_empty() {
        sections.push(only);
    }
    Document { title: format!("{} and {}", names[0], names[1]), sections }
}

fn answer(found: &SideBySide) -> Section {
    let mut section = Section::new("Answer");
    let count = |verdict: &str| found.quality.iter().filter(|q| q.verdict() == verdict).count();
    if found.quality.is_empty() && found.throughput.is_empty() {
        section.words("The two have no measurement in common.");
    }
    if found.shared_trials > 0 {
        section.words(format!(
            "Both have {} trials of the same meaning; {} of them have the same results to the last bit.",
            found.shared_trials, found.same_bits
        ));
    }
    if !found.quality.is_empty() {
        section.words(format!(
            "Of {} metrics, B is better in {}, worse in {}, and not separated from A in {}.",
            found.quality.len(),
            count("better"),
            count("worse"),
            count("not separated")
        ));
        let changed: Vec<_> =
            found.winners.iter().filter(|pair| pair.best[0] != pair.best[1]).collect();
        let learned =
            found.winners.iter().filter(|pair| pair.best.iter().any(Option::is_some)).count();
        match (learned, changed.is_empty()) {
            (0, true) => section.words("Nothing was learned in either, at any task and length."),
            (_, true) => section.words(
                "The series ahead is the same in both at every task and length at which something was \
                 learned.",
            ),
            _ => {}
        }
        for pair in changed {
            section.words(winners(pair));
        }
    }
    let mut ratios: Vec<f64> = found
        .throughput
        .iter()
        .map(|pair| pair.tokens_per_s[1] / pair.tokens_per_s[0])
        .filter(|ratio| ratio.is_finite() && *ratio > 0.0)
        .collect();
    ratios.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (ratios.first(), ratios.last()) {
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        section.words(format!(
            "B runs at {} times the speed of A (geometric mean of {} measurements, {} to {}).",
            significant(mean.exp()),
            ratios.len(),
            significant(*first),
            significant(*last)
        ));
    }
    section
}

/// `On adding at length 50, gru is ahead in A and lstm in B; the evidence singles out neither.`
fn winners(pair: &WinnerPair) -> Words {
    let place = format!("On {} at length {}, ", pair.task, pair.length);
    match (&pair.best, pair.singled_out) {
        ([Some(a), Some(b)], singled_out) => Words::from(place)
            .strong(a)
            .text(" is ahead in A and ")
            .strong(b)
            .text(" in B; the evidence singles out ")
            .text(match singled_out {
                [true, true] => "each of them where it is ahead.",
                [true, false] => "the one in A alone.",
                [false, true] => "the one in B alone.",
                [false, false] => "neither.",
            }),
        ([Some(a), None], _) => {
            Words::from(place).strong(a).text(" is ahead in A; nothing was learned in B.")
        }
        ([None, Some(b)], _) => {
            Words::from(place).text("nothing was learned in A; ").strong(b).text(" is ahead in B.")
        }
        ([None, None], _) => Words::from(place).text("nothing was learned in either."),
    }
}

fn what(names: [&str; 2], contexts: [&ReportContext; 2], found: &SideBySide) -> Section {
    let mut section = Section::new("What is compared");
    for ((letter, name), context) in ["A", "B"].into_iter().zip(names).zip(contexts) {
        section.words(Words::new().strong(letter).text(": ").code(name).text(format!(
            ", experiment {}, {} trials with results, {} without",
            context.experiment,
            context.trials.len(),
            context.missing
        )));
        let lines = context.environment.iter().map(|line| Words::from(line.as_str()));
        section.blocks.push(Block::List(lines.collect()));
    }
    let empty: Vec<&str> = ["A", "B"]
        .into_iter()
        .zip(contexts)
        .filter(|(_, context)| context.trials.is_empty())
        .map(|(letter, _)| letter)
        .collect();
    if !empty.is_empty() {
        let verb = if empty.len() == 1 { "has" } else { "have" };
        section.words(format!(
            "{} {verb} no results yet: there is nothing to compare.",
            empty.join(" and ")
        ));
        return section;
    }
    let same_list = contexts[0].manifest == contexts[1].manifest;
    let same = contexts[0].environment == contexts[1].environment;
    section.words(match (same, same_list) {
        (true, true) => "The list of trials, the build and the machine are the same.",
        (true, false) => "The build and the machine are the same; the lists of trials differ.",
        (false, true) => "The list of trials is the same; the build or the machine differs.",
        (false, false) => "The lists of trials differ, and so does the build or the machine.",
    });
    match (found.shared_trials, same_list) {
        (0, true) => section.words(
            "They hold different trials of that list, as parts of one run do: `unroll merge` brings parts \
             together.",
        ),
        (0, false) => {
            section.words("No trial has the same meaning in both: settings or data differ.");
        }
        _ => {}
    }
    section
}

fn quality(found: &SideBySide) -> Rows {
    let mut rows = Rows::new(&[
        ("task", false),
        ("length", true),
        ("series", false),
        ("metric", false),
        ("A", true),
        ("B", true),
        ("solved A", false),
        ("solved B", false),
        ("B is better", true),
        ("p", true),
        ("B is", false),
    ]);
    for pair in &found.quality {
        let [a, b] = pair.values.map(|value| value.map_or_else(dash, significant));
        let [solved_a, solved_b] =
            [0, 1].map(|side| format!("{}/{}", pair.solved[side], pair.runs[side]));
        rows.rows.push(vec![
            pair.task.clone(),
            pair.length.to_string(),
            pair.series.clone(),
            pair.metric.clone(),
            a,
            b,
            solved_a,
            solved_b,
            format!("{:.2}", pair.second_better),
            significant(pair.p),
            pair.verdict().to_owned(),
        ]);
    }
    rows
}

fn throughput(found: &SideBySide) -> Rows {
    let mut rows = Rows::new(&[
        ("task", false),
        ("length", true),
        ("series", false),
        ("phase", false),
        ("tokens/s A", true),
        ("tokens/s B", true),
        ("B/A", true),
        ("apart", false),
        ("peak A", true),
        ("peak B", true),
    ]);
    for pair in &found.throughput {
        let [a, b] = pair.tokens_per_s;
        rows.rows.push(vec![
            pair.task.clone(),
            pair.length.to_string(),
            pair.series.clone(),
            pair.phase.to_owned(),
            prefixed(a),
            prefixed(b),
            significant(b / a),
            if pair.apart { "yes" } else { "no" }.to_owned(),
            pair.peak_bytes[0].map_or_else(dash, bytes),
            pair.peak_bytes[1].map_or_else(dash, bytes),
        ]);
    }
    rows
}
