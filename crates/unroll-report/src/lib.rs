//! Plots and reports from result tables.
