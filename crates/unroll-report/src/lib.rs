//! Plots and reports from trial records.
//!
//! Everything here is made from a [`Summary`](unroll_results::Summary) and changes nothing in it:
//! [`plots`] writes figures, [`Report`] one HTML and one Markdown file of the same content,
//! [`terminal`] tables for people in a hurry. The only crate that knows plotters and minijinja.

mod answer;
mod comparison;
mod decide;
mod document;
mod draw;
mod error;
mod html;
mod markdown;
pub mod plots;
mod report;
mod rows;
pub mod terminal;

pub use comparison::Comparison;
pub use document::{ReportContext, TrialLine};
pub use error::{Error, Result};
pub use report::Report;
