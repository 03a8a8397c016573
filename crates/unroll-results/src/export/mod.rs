//! Results for other tools. Every export is a list of files, so that it can be tested without a disk; the
//! same records give the same bytes.

mod benchmarks;
mod tensorboard;

use serde_json::json;

use crate::{Manifest, Result, Summary, Tables, TrialRecord, files, layout};
use std::path::{Path, PathBuf};

pub use benchmarks::{bencher, github_benchmark};

/// A file of an export: its path under the folder it goes to, and its bytes.
pub type File = (PathBuf, Vec<u8>);

/// A kind of export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The tables as CSV.
    Csv,
    /// The tables as Parquet.
    Parquet,
    /// All records in one file.
    Json,
    /// Bencher Metric Format.
    Bencher,
    /// What github-action-benchmark reads, a file for each direction.
    GithubBenchmark,
    /// Event files, a folder for each trial.
    Tensorboard,
}

impl Format {
    /// The files of a run.
    ///
    /// # Errors
    /// [`crate::Error::Table`], [`crate::Error::Damaged`].
    pub fn files(self, manifest: &Manifest, records: &[TrialRecord]) -> Result<Vec<File>> {
        let one = |name: &str, value: &serde_json::Value| vec![(name.into(), pretty(value))];
        Ok(match self {
            Self::Csv => tables(records, "csv")?,
            Self::Parquet => tables(records, "parquet")?,
            Self::Json => {
                let trials: Vec<serde_json::Value> = records
                    .iter()
                    .map(|record| {
                        serde_json::to_value(record).map_err(|source| crate::Error::Damaged {
                            path: layout::TRIALS.into(),
                            source,
                        })
                    })
                    .collect::<Result<_>>()?;
                let (experiment, id) = (&manifest.experiment, &manifest.id);
                let value = json!({"experiment": experiment, "manifest": id, "trials": trials});
                one("results.json", &value)
            }
            Self::Bencher => one("bencher.json", &bencher(&Summary::from_records(records))),
            Self::GithubBenchmark => {
                let [smaller, bigger] = github_benchmark(&Summary::from_records(records));
                let mut files = one("smaller_is_better.json", &smaller);
                files.extend(one("bigger_is_better.json", &bigger));
                files
            }
            Self::Tensorboard => tensorboard::files(records),
        })
    }
}

/// Writes files under a folder and returns their paths.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write(dir: &Path, files: &[File]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (name, bytes) in files {
        let path = dir.join(name);
        files::create_dir(path.parent().unwrap_or(dir))?;
        files::write(&path, bytes)?;
        paths.push(path);
    }
    Ok(paths)
}

fn tables(records: &[TrialRecord], extension: &str) -> Result<Vec<File>> {
    let mut all = Tables::from_records(records)?.files(Path::new(""))?;
    all.retain(|(path, _)| path.extension().is_some_and(|found| found == extension));
    Ok(all)
}

fn pretty(value: &serde_json::Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Letters, digits, `-` and `_`; everything else as `-`, at most 80 of them.
fn file_part(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    text.chars().map(safe).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn manifest() -> Manifest {
        Manifest::new("adding".into(), "q".into(), "a".into(), Vec::new())
    }

    #[test]
    fn every_format_takes_every_record() {
        let mut records = testing::sweep();
        records.push(testing::measured("gru", 6, 1, "cpu"));
        let formats = [
            (Format::Csv, 14),
            (Format::Parquet, 14),
            (Format::Json, 1),
            (Format::Bencher, 1),
            (Format::GithubBenchmark, 2),
            // One trial failed and has nothing to show.
            (Format::Tensorboard, 18),
        ];
        for (format, count) in formats {
            let files = format.files(&manifest(), &records).unwrap();
            assert_eq!(files.len(), count, "{format:?}");
            assert!(files == format.files(&manifest(), &records).unwrap(), "{format:?}");
            let nothing = format.files(&manifest(), &[]).unwrap();
            assert!(nothing.len() <= count, "{format:?}");
        }
    }

    #[test]
    fn all_records_come_back_from_json() {
        let records = testing::sweep();
        let files = Format::Json.files(&manifest(), &records).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&files[0].1).unwrap();
        let trials = value["trials"].as_array().unwrap();
        let back: Vec<String> = trials
            .iter()
            .map(|trial| serde_json::from_value::<TrialRecord>(trial.clone()).unwrap().id)
            .collect();
        assert_eq!(back, records.iter().map(|record| record.id.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn files_stay_in_their_folder() {
        let mut record = testing::quality("../../x", 5, 0, 0.1);
        record.cell.task = "/etc/..".into();
        record.id = "0123".into();
        let files = Format::Tensorboard.files(&manifest(), &[record]).unwrap();
        assert!(!files[0].0.to_string_lossy().contains(".."), "{:?}", files[0].0);
        assert!(files[0].0.is_relative());
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &files).unwrap()[0].is_file());
    }
}
