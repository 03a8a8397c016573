//! The error type of result files.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with records and tables.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not a trial record: cut short, edited or something else.
    #[error("{path}: damaged trial record: {source}", path = path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A record was written by another version of this program.
    #[error(
        "{path}: schema {found}, but this version reads schema {expected}",
        path = path.display()
    )]
    Schema {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The schema that can be read.
        expected: u32,
    },
    /// A record's file name is not its id.
    #[error("{path}: holds the trial `{id}`", path = path.display())]
    Misnamed {
        /// Which file.
        path: PathBuf,
        /// The id within.
        id: String,
    },
    /// An id that cannot be a file name.
    #[error("`{id}` is not a trial id: letters, digits, `-` and `_` only")]
    Id {
        /// The id.
        id: String,
    },
    /// A table could not be built or encoded.
    #[error("table `{table}`: {message}")]
    Table {
        /// Its name.
        table: &'static str,
        /// Why.
        message: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
