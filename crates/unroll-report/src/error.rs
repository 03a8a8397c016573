//! The error type of reports.

/// What can go wrong while a report is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plotting library refused to draw.
    #[error("plot `{plot}`: {message}")]
    Plot {
        /// Which plot.
        plot: String,
        /// Why.
        message: String,
    },
    /// The page's template could not be filled in.
    #[error("the page of the report: {message}")]
    Template {
        /// Why.
        message: String,
    },
    /// A file or folder could not be written.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
