//! The error type of the model crates.

use std::fmt;
use std::path::PathBuf;

use crate::memory::readable;
use candle_core::DType;

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
    /// A tensor has another element type than the model.
    #[error("`{what}` has type {}, expected {expected}", found.as_str())]
    Type {
        /// Name of the tensor.
        what: String,
        /// The type it has.
        found: DType,
        /// The type it should have.
        expected: String,
    },
    /// A tensor is on another device than the model.
    #[error("`{what}` is on {found}, the model on {expected}")]
    Device {
        /// Name of the tensor.
        what: String,
        /// Where it is.
        found: String,
        /// Where it should be.
        expected: String,
    },
    /// A parameter, an input or a part of a state is missing.
    #[error("tensor `{name}` is missing; {place} holds: {}", list(available))]
    MissingTensor {
        /// Name under PyTorch's convention.
        name: String,
        /// What should hold it: `the file`, `the state`, `the model`.
        place: &'static str,
        /// The names that are there.
        available: Vec<String>,
    },
    /// A file has all parameters of a model, with something before their names.
    #[error(
        "tensor `{name}` is missing; the file holds `{prefix}{name}`: take away the prefix \
         `{prefix}` (`TensorFile::under`)"
    )]
    Prefixed {
        /// The parameter's name in the model.
        name: String,
        /// What the file has before each name.
        prefix: String,
    },
    /// A file holds weights that the model does not have.
    #[error(
        "the model has no {}; its parameters are: {}. Does its configuration fit the file?",
        quoted(names),
        list(known)
    )]
    UnexpectedTensors {
        /// Names in the file that are no parameters of the model.
        names: Vec<String>,
        /// The model's parameters.
        known: Vec<String>,
    },
    /// A model that shares the parameters of another one leaves some of them.
    #[error(
        "a model that shares parameters leaves {}: it needs the configuration of the model that they belong to",
        quoted(names)
    )]
    NotTaken {
        /// Parameters of the other model that this one does not have.
        names: Vec<String>,
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
    #[error("{}", without_backtrace(.0))]
    Candle(#[from] candle_core::Error),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// candle's error as a message alone: its own text has the call stack in it where `RUST_BACKTRACE` is set.
fn without_backtrace(error: &candle_core::Error) -> &dyn fmt::Display {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(inner),
        other => other,
    }
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
