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
    /// A file is cut short, edited or something else.
    #[error("{path}: damaged: {source}", path = path.display())]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file's bytes are not those that were written.
    #[error("{path}: damaged: the checksum does not match", path = path.display())]
    Checksum {
        /// Which one.
        path: PathBuf,
    },
    /// A file was written by another version of this program.
    #[error(
        "{path}: written by {age} version of this program (schema {found}; this version reads \
         {expected}): use that version, or another folder",
        path = path.display(),
        age = if found > expected { "a newer" } else { "an older" }
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
    /// A file holds something that its own parts contradict.
    #[error("{path}: {message}", path = path.display())]
    Inconsistent {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// A folder is no result folder.
    #[error("{dir} is not a result folder: it has no {file}", dir = dir.display())]
    NoFolder {
        /// The folder.
        dir: PathBuf,
        /// The file that every result folder has.
        file: &'static str,
    },
    /// Folders are for different trials.
    #[error("{first} and {second} are not parts of one run: {message}",
        first = first.display(), second = second.display())]
    Manifests {
        /// One folder.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
        /// Where they differ first.
        message: String,
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
    /// Whether a file's content is lost (and not only out of reach, or of another version).
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Damaged { .. }
                | Self::Checksum { .. }
                | Self::Misnamed { .. }
                | Self::Inconsistent { .. }
        )
    }

    /// Whether the disk has no room left.
    pub fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
