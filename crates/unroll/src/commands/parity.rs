//! A device held to the processor.

use std::fmt::Write as _;

use miette::{IntoDiagnostic, miette};
use serde_json::json;
use unroll_results::files;

use crate::cli::ParityArgs;
use crate::parity::{self, Report, Request, Rounding, Row, What};
use crate::{device, environment, exit};

use super::{OrExit, Outcome, into_report, print, print_json};

pub(super) fn parity(args: &ParityArgs) -> Outcome {
    let opened = device::open(&args.device).map_err(|e| miette!("{e}")).usage()?;
    let roundings: Vec<Rounding> = if args.rounding.is_empty() {
        Rounding::ALL.into_iter().filter(|rounding| rounding.is_of(&opened)).collect()
    } else {
        args.rounding.iter().map(|rounding| rounding.rounding()).collect()
    };
    for rounding in &roundings {
        let checked = rounding.precision().check(rounding.dtype(), &args.device);
        checked.map_err(|e| miette!("{e}")).usage()?;
    }
    let request =
        Request { device: opened, roundings, architectures: args.arch.clone(), quick: args.quick };
    let threads = args.threads.map_or_else(environment::cores, |threads| threads as usize);
    let bar = indicatif::ProgressBar::new(0);
    let mut progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let report = parity::run(&request, threads, &mut progress);
    bar.finish_and_clear();
    let report = report.map_err(into_report).usage()?;
    if let Some(path) = &args.csv {
        files::write(path, csv(&report.rows).as_bytes()).into_diagnostic().failure()?;
    }
    let gpu = environment::gpu_name(&args.device);
    if args.json {
        print_json(&json!({
            "device": args.device, "gpu": gpu, "agrees": report.agrees(), "cases": report.cases,
            "rows": report.rows,
        }))?;
    } else {
        let name = gpu.unwrap_or_else(|| "the processor".to_owned());
        print(&terminal(&report, &format!("{} ({name})", args.device), &request.roundings))?;
    }
    Ok(if report.agrees() { exit::OK } else { exit::FAILURE })
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "architecture,case,rounding,asked,ran,expected,what,tensors,worst,absolute,relative,\
                    from_cpu,tolerance,agrees,error\n"
            .to_owned();
    for row in rows {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\"").replace('\n', " "));
        let number =
            |value: f64| if value.is_finite() { format!("{value:.3e}") } else { String::new() };
        let cells = [
            row.architecture.clone(),
            quoted(&row.case),
            row.rounding.name().to_owned(),
            row.asked.to_owned(),
            row.ran.clone(),
            row.expected.to_owned(),
            row.what.map_or("", What::name).to_owned(),
            row.tensors.to_string(),
            row.worst.clone(),
            number(row.absolute),
            number(row.relative),
            row.from_cpu.map_or_else(String::new, number),
            format!("{:e}", row.tolerance),
            row.agrees.to_string(),
            row.error.as_deref().map_or_else(String::new, quoted),
        ];
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

/// Largest deviations of each architecture, then all comparisons that fail.
fn terminal(report: &Report, device: &str, roundings: &[Rounding]) -> String {
    let mut table = comfy_table::Table::new();
    let worst_of = "largest relative deviation of outputs and states / of gradients";
    let head: Vec<String> = roundings
        .iter()
        .map(|rounding| {
            let [most, of_gradients] =
                [What::Output, What::Gradient].map(|what| rounding.tolerance(what));
            format!("{} (at most {most:e} / {of_gradients:e})", rounding.name())
        })
        .collect();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["architecture".to_owned()].into_iter().chain(head));
    let mut names: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !names.contains(&row.architecture.as_str()) {
            names.push(&row.architecture);
        }
    }
    for name in names {
        let cell = |&rounding: &Rounding| {
            let rows = || {
                let of = |row: &&Row| row.architecture == name && row.rounding == rounding;
                report.rows.iter().filter(of)
            };
            let largest = |gradients: bool| {
                let mut most = 0.0f64;
                for row in rows().filter(|row| (row.what == Some(What::Gradient)) == gradients) {
                    // Keeps NaN.
                    most = if row.relative <= most { most } else { row.relative };
                }
                format!("{most:.1e}")
            };
            let failed = rows().filter(|row| !row.agrees).count();
            let failed = if failed > 0 { format!(" {failed} FAIL") } else { String::new() };
            if rows().next().is_none() {
                "-".to_owned()
            } else {
                format!("{} / {}{failed}", largest(false), largest(true))
            }
        };
        table.add_row([name.to_owned()].into_iter().chain(roundings.iter().map(cell)));
    }
    let mut text = format!("{device} against the processor in f64, {worst_of}\n\n{table}\n");
    let failed: Vec<&Row> = report.rows.iter().filter(|row| !row.agrees).collect();
    let shown = 40;
    for row in failed.iter().take(shown) {
        let Row { architecture, case, asked, ran, worst, .. } = row;
        let rounding = row.rounding.name();
        write!(text, "\nFAIL {architecture} {case} {rounding}, {asked} form (ran {ran}): ").ok();
        match (&row.error, row.from_cpu) {
            (Some(error), _) => write!(text, "{}", error.lines().next().unwrap_or_default()),
            (None, None) => write!(text, "{worst} deviates by {:.1e}", row.relative),
            (None, Some(cpu)) => write!(
                text,
                "{worst} deviates by {:.1e}, and by {cpu:.1e} from the processor in the same type",
                row.relative
            ),
        }
        .ok();
    }
    if failed.len() > shown {
        write!(text, "\n... and {} more", failed.len() - shown).ok();
    }
    let tensors: usize = report.rows.iter().map(|row| row.tensors).sum();
    write!(
        text,
        "\n{} cases, {} comparisons of {tensors} tensors, {} failed\n",
        report.cases,
        report.rows.len(),
        failed.len()
    )
    .ok();
    text
}
