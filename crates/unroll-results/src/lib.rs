//! Trial records, Polars tables and statistics.
//!
//! Measuring and reporting meet only here, at files: a trial writes one [`record::TrialRecord`] as
//! JSON; tables are derived from the records and can always be rebuilt. The only crate that knows
//! polars.

pub mod record;

pub use record::TrialRecord;
