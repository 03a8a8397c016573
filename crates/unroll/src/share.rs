//! Results for others: two folders side by side, exports.

use std::path::Path;

use miette::{WrapErr, miette};
use serde_json::Value;
use unroll_report::{Comparison, ReportContext};
use unroll_results::export::{self, Format};
use unroll_results::side_by_side::SideBySide;
use unroll_results::{Manifest, TrialRecord, layout, run_folder};

use crate::cli::ExportTo;
use crate::{mlflow, report};

/// A comparison for the terminal.
#[derive(Debug)]
pub struct Compared {
    /// Markdown, or where it was written to.
    pub text: String,
    /// The same as JSON.
    pub json: Value,
}

fn plain(error: impl std::fmt::Display) -> miette::Report {
    miette!("{error}")
}

fn read(dir: &Path) -> miette::Result<(Manifest, Vec<TrialRecord>)> {
    let manifest = Manifest::read(dir).map_err(plain)?;
    let records = run_folder::records(dir, &manifest).map_err(plain)?.records;
    Ok((manifest, records))
}

/// Compares two result folders and writes the comparison into `out`, if there is one.
///
/// # Errors
/// When one of them is no result folder or damaged, or something cannot be written.
pub fn compare(first: &Path, second: &Path, out: Option<&Path>) -> miette::Result<Compared> {
    let (a, b) = (read(first)?, read(second)?);
    let found = SideBySide::of(&a.1, &b.1);
    let context = |dir, (manifest, records): &(Manifest, Vec<TrialRecord>)| -> ReportContext {
        report::context(dir, manifest, records)
    };
    let (left, right) = (context(first, &a), context(second, &b));
    let names = [first, second].map(|dir| dir.display().to_string());
    let comparison = Comparison::new([&names[0], &names[1]], [&left, &right], &found);
    let text = match out {
        None => comparison.markdown(),
        Some(out) => {
            let [markdown, page] = comparison.write(out).map_err(plain)?;
            format!("{}\n{}\n", page.display(), markdown.display())
        }
    };
    let json = serde_json::to_value(&found).map_err(plain)?;
    Ok(Compared { text, json })
}

/// Writes the results of a folder for another tool and returns what to tell.
///
/// # Errors
/// As [`compare`]; when the MLflow server cannot be reached or refuses.
pub fn export(dir: &Path, to: ExportTo, out: Option<&Path>, url: &str) -> miette::Result<String> {
    let (manifest, records) = read(dir)?;
    let (format, name) = match to {
        ExportTo::Csv => (Format::Csv, "csv"),
        ExportTo::Parquet => (Format::Parquet, "parquet"),
        ExportTo::Json => (Format::Json, "json"),
        ExportTo::Bmf => (Format::Bencher, "bmf"),
        ExportTo::GithubBenchmark => (Format::GithubBenchmark, "github-benchmark"),
        ExportTo::Tensorboard => (Format::Tensorboard, "tensorboard"),
        ExportTo::Mlflow => {
            let sent = mlflow::send(url, &manifest, &records)
                .map_err(plain)
                .wrap_err_with(|| format!("the MLflow server at {url}"))?;
            return Ok(format!("{sent} runs in the experiment {} at {url}\n", manifest.experiment));
        }
    };
    let files = format.files(&manifest, &records).map_err(plain)?;
    let folder = out.map_or_else(|| dir.join(layout::EXPORT).join(name), Path::to_owned);
    let paths = export::write(&folder, &files).map_err(plain)?;
    Ok(match paths.as_slice() {
        [one] => format!("{}\n", one.display()),
        many => format!("{} files in {}\n", many.len(), folder.display()),
    })
}
