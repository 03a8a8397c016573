//! Trial records, Polars tables and statistics.
//!
//! Measuring and reporting meet only here, at files: a trial writes one [`TrialRecord`] as JSON
//! ([`store`]); [`Tables`] and the [`Summary`] that reports are made from are derived from the
//! records and can always be rebuilt. The only crate that knows polars, and no polars type leaves
//! it but in [`Tables`].

pub mod columns;
mod error;
pub mod number;
pub mod record;
pub mod statistics;
pub mod store;
pub mod summary;
pub mod tables;
#[cfg(test)]
mod testing;

pub use error::{Error, Result};
pub use record::TrialRecord;
pub use summary::Summary;
pub use tables::Tables;
