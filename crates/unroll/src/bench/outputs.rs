//! Verdicts for people and for other programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use unroll_results::ab::{Change, Verdict};

use super::ab::{CaseReport, Report};

/// A table for a terminal.
pub fn terminal(report: &Report) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "case",
        "base",
        "candidate",
        "change",
        "95 % interval",
        "control",
        "detectable",
        "verdict",
    ]);
    for case in &report.cases {
        let evidence = case.confirmation.as_ref().unwrap_or(&case.first);
        table.add_row([
            case.id.clone(),
            time(case.base_s),
            time(case.candidate_s),
            percent(evidence.change.value),
            interval(&evidence.change),
            interval(&evidence.control),
            format!("{:.1} %", 100.0 * evidence.detectable),
            case.verdict.name().to_owned(),
        ]);
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    for case in &report.new {
        lines.push(format!("{}: new, the base does not run it: {}", case.id, case.reason));
    }
    format!("{}\n{}\n", lines.join("\n"), sentence(report))
}

/// The outcome in a sentence.
pub fn sentence(report: &Report) -> String {
    let count = |verdict| report.cases.iter().filter(|case| case.verdict == verdict).count();
    let (slower, open) = (count(Verdict::Slower), count(Verdict::Inconclusive));
    let (faster, same) = (count(Verdict::Faster), count(Verdict::Same));
    let new = match report.new.len() {
        0 => String::new(),
        new => format!(" {new} new, which the base does not run."),
    };
    let compared = match report.verdict {
        _ if report.cases.is_empty() => "Inconclusive: nothing was compared.".to_owned(),
        Verdict::Slower => format!(
            "Regression: {slower} of {} cases slower, confirmed by fresh measurements.",
            report.cases.len()
        ),
        Verdict::Inconclusive => format!(
            "Inconclusive: {open} of {} cases cannot be told on this machine now. More blocks would \
             find smaller changes.",
            report.cases.len()
        ),
        Verdict::Same | Verdict::Faster => {
            format!("No regression: {faster} faster, {same} the same.")
        }
    };
    compared + &new
}

/// A comment for a pull request.
pub fn markdown(report: &Report) -> String {
    let mark = match report.verdict {
        Verdict::Slower => "❌",
        Verdict::Inconclusive => "❔",
        Verdict::Same | Verdict::Faster => "✅",
    };
    let mut text = format!("### {mark} {}\n\n", sentence(report));
    let program = |program: &super::programs::Program| match &program.commit {
        Some(commit) => format!("`{}` ({})", program.name, &commit[..commit.len().min(12)]),
        None => format!("`{}`", program.name),
    };
    let _ = writeln!(
        text,
        "Base {}, candidate {}; {} to {} blocks of 6 processes, {} s each, {} thread(s).\n",
        program(&report.base),
        program(&report.candidate),
        report.effort.blocks,
        report.effort.blocks * report.effort.rounds,
        report.effort.seconds,
        report.effort.threads
    );
    text.push_str("| case | base | candidate | change | 95 % interval | control | verdict |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---|\n");
    for case in &report.cases {
        let evidence = case.confirmation.as_ref().unwrap_or(&case.first);
        let verdict = match case.verdict {
            Verdict::Slower => "**slower**".to_owned(),
            Verdict::Inconclusive => {
                format!("inconclusive (detectable: {:.1} %)", 100.0 * evidence.detectable)
            }
            other => other.name().to_owned(),
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {verdict} |",
            case.id,
            time(case.base_s),
            time(case.candidate_s),
            percent(evidence.change.value),
            interval(&evidence.change),
            interval(&evidence.control),
        );
    }
    for case in &report.new {
        // A bar would end the cell.
        let reason = case.reason.replace('|', "\\|").replace('`', "'");
        let _ = writeln!(text, "| `{}` | – | – | – | – | – | new: {reason} |", case.id);
    }
    text.push_str(
        "\nControl is the base against itself: what the machine makes up. A change counts when it is \
         significant over all cases (Holm), stands clear of the control and shows again in \
         fresh measurements.\n",
    );
    text
}

/// Bencher Metric Format: latencies in nanoseconds.
pub fn bencher(report: &Report) -> Value {
    let entry = |case: &CaseReport| {
        let change = &case.first.change;
        let nanoseconds = |factor: f64| case.base_s * (1.0 + factor) * 1e9;
        let value = json!({"latency": {
            "value": case.candidate_s * 1e9,
            "lower_value": nanoseconds(change.low),
            "upper_value": nanoseconds(change.high),
        }});
        (case.id.clone(), value)
    };
    Value::Object(report.cases.iter().map(entry).collect::<Map<_, _>>())
}

/// github-action-benchmark's `customSmallerIsBetter`.
pub fn github_benchmark(report: &Report) -> Value {
    let entry = |case: &CaseReport| {
        let half = 0.5 * (case.first.change.high - case.first.change.low) * case.base_s;
        json!({
            "name": case.id,
            "unit": "ms",
            "value": case.candidate_s * 1e3,
            "range": format!("± {:.3}", half * 1e3),
            "extra": format!("{} against base: {}", percent(case.first.change.value), case.verdict.name()),
        })
    };
    Value::Array(report.cases.iter().map(entry).collect())
}

fn percent(change: f64) -> String {
    format!("{:+.1} %", 100.0 * change)
}

fn interval(change: &Change) -> String {
    format!("{:+.1}..{:+.1} %", 100.0 * change.low, 100.0 * change.high)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.3} s"),
        s if s >= 1e-3 => format!("{:.3} ms", 1e3 * s),
        s => format!("{:.2} µs", 1e6 * s),
    }
}
