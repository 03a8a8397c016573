//! Trial records, Polars tables and statistics.
//!
//! Measuring and reporting meet only here, at files: a trial writes one [`TrialRecord`] as JSON
//! ([`store`]); [`Tables`] and the [`Summary`] that reports are made from are derived from the
//! records and can always be rebuilt. A folder is the only thing that processes share: the frozen
//! [`Manifest`], sealed records, [`claims`], a log of [`events`] for each process. The only crate that knows polars, and no polars type leaves
//! it but in [`Tables`].

pub mod ab;
pub mod canonical;
pub mod claims;
pub mod columns;
pub mod compare;
pub mod decay;
pub mod decision;
pub mod environment;
mod error;
pub mod events;
pub mod export;
pub mod files;
pub mod layout;
pub mod manifest;
pub mod number;
pub mod record;
pub mod run_folder;
pub mod sealed;
pub mod side_by_side;
pub mod statistics;
pub mod store;
pub mod summary;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod weights;

pub use decision::Decisions;
pub use environment::Environment;
pub use error::{Error, Result};
pub use manifest::{Manifest, PlannedTrial, Skipped};
pub use record::TrialRecord;
pub use summary::Summary;
pub use tables::Tables;
