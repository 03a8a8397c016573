//! The error type of training.

use crate::ConfigError;

/// What can go wrong while a model is trained or evaluated. A diverged run is no error but an
/// [`Ending`](crate::Ending).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A training setting has a value that nothing can be trained with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A task gave a batch that does not fit its own description.
    #[error("batch of task `{task}`: {message}")]
    Batch {
        /// Name of the task.
        task: String,
        /// What does not fit.
        message: String,
    },
    /// A checkpoint is damaged or belongs to another run.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The task failed.
    #[error(transparent)]
    Task(#[from] unroll_tasks::Error),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] unroll_core::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with training's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
