//! The error type of measurements.

/// What can go wrong while a model is measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The measurement has no meaning for what was given.
    #[error("{0}")]
    Unsupported(String),
    /// Somebody asked it to stop.
    #[error("interrupted")]
    Interrupted,
    /// A model could not be put around its task, or a batch does not fit.
    #[error(transparent)]
    Train(#[from] unroll_train::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] unroll_core::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with the measurements' [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
