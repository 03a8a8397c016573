//! The error type of tasks and data sets.

use std::path::{Path, PathBuf};

/// What can go wrong while a task is set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that the task cannot be built from.
    #[error("task option `{option}`: {message}")]
    Option {
        /// Name of the option.
        option: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An option is not known to the task.
    #[error("task `{task}` has no option `{option}`; it has: {}", known.join(", "))]
    UnknownOption {
        /// Name of the task.
        task: String,
        /// The name that was given.
        option: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A data file cannot be read.
    #[error("data file {}: {source}{}", path.display(), places(source, searched))]
    MissingData {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
        /// Where else it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A data set that is fetched when asked for is not there.
    #[error("data set `{set}` is not there (no {}): `unroll data fetch {set}` brings it", path.display())]
    NotFetched {
        /// Name of the set.
        set: String,
        /// A file that was looked for.
        path: PathBuf,
    },
    /// A data file has other content than expected.
    #[error("data file {}{}: {message}", path.display(), at_line(*line))]
    Data {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1; 0 when the format has no lines.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A cell of a table has other content than expected.
    #[error("data file {}, line {line}, column {column} (`{name}`): {message}", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
        /// Name of the column.
        name: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Error {
    /// An [`Error::Option`] from its two parts.
    pub fn option(option: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Option { option: option.into(), message: message.into() }
    }

    /// An [`Error::MissingData`] for a file of the data folder.
    pub fn missing(path: &Path, source: std::io::Error) -> Self {
        let searched = crate::data::folder::searched(path);
        Self::MissingData { path: path.to_owned(), source, searched }
    }

    /// An [`Error::Data`] from its parts.
    pub fn data(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self::Data { path: path.to_owned(), line, message: message.into() }
    }
}

fn at_line(line: usize) -> String {
    if line == 0 { String::new() } else { format!(", line {line}") }
}

/// Where a file that is not there was looked for, and how to name another place.
fn places(source: &std::io::Error, searched: &[PathBuf]) -> String {
    if source.kind() != std::io::ErrorKind::NotFound || searched.is_empty() {
        return String::new();
    }
    let places: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
    let places = places.join(", ");
    format!("; looked for at {places}. UNROLL_DATA names another data folder")
}

/// Result with the tasks' [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
