//! Plots and reports from trial records.
//!
//! Everything here is made from a [`Summary`](unroll_results::Summary) and changes nothing in it:
//! [`plots`] writes figures, [`markdown`] a report with them, [`terminal`] tables for people in a
//! hurry. The only crate that knows plotters.

mod draw;
mod error;
pub mod markdown;
pub mod plots;
mod rows;
pub mod terminal;

pub use error::{Error, Result};
pub use markdown::ReportContext;
