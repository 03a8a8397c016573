//! The error type of the model crates.

use std::path::PathBuf;

use crate::memory::readable;

/// What can go wrong while a model is configured, built, loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option has a value that no model can be built from.
    #[error("option `{option}`: {message}")]
    Option {
        /// Name of the option.
        option: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// An option is not known to the architecture.
    #[error("architecture `{architecture}` has no option `{option}`; it has: {}", known.join(", "))]
    UnknownOption {
        /// Registry name of the architecture.
        architecture: String,
        /// The name that was given.
        option: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A tensor has another shape than the model asks for.
    #[error("`{what}` has shape {found:?}, expected {expected}")]
    Shape {
        /// Name of the tensor.
        what: String,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape it should have, in words or numbers.
        expected: String,
    },
    /// A parameter or input is missing in a file.
    #[error("tensor `{name}` is missing; the file holds: {}", available.join(", "))]
    MissingTensor {
        /// Name under PyTorch's convention.
        name: String,
        /// The names that the file holds.
        available: Vec<String>,
    },
    /// A tensor holds NaN or infinity where finite numbers are needed.
    #[error(
        "tensor `{name}` holds {count} values that are not finite (first at flat index {first})"
    )]
    NotFinite {
        /// Name of the tensor.
        name: String,
        /// How many of its values are NaN or infinite.
        count: usize,
        /// Flat index of the first of them.
        first: usize,
    },
    /// More memory is needed than there is.
    #[error(
        "{what} needs {} of memory, and this machine has {}: take smaller sizes, fewer layers or \
         smaller batches", readable(*needed), readable(u128::from(*available))
    )]
    Memory {
        /// What needs it.
        what: String,
        /// Bytes needed, at the least.
        needed: u128,
        /// Bytes that the process may use.
        available: u64,
    },
    /// The model cannot do what was asked for, by its nature.
    #[error("{0}")]
    Unsupported(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A safetensors file is damaged or of another kind.
    #[error("{}: not a readable safetensors file: {source}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: safetensors::SafeTensorError,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Option`] from its two parts.
    pub fn option(option: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Option { option: option.into(), message: message.into() }
    }

    /// An [`Error::Shape`] from its three parts.
    pub fn shape(
        what: impl Into<String>,
        found: impl Into<Vec<usize>>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Shape { what: what.into(), found: found.into(), expected: expected.into() }
    }
}

/// Result with the model crates' [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
