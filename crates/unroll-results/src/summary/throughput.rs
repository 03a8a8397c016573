//! Times and memory, over seeds. Everything here depends on the clock and the machine.

use std::collections::BTreeMap;

use super::Index;
use crate::record::{Phase, Throughput};
use crate::statistics::Spread;

/// One phase of one series at one task and length.
#[derive(Debug, Clone, PartialEq)]
pub struct ThroughputGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Sequence length, steps.
    pub length: usize,
    /// What was timed.
    pub phase: Phase,
    /// Trainable parameters, the largest of the group.
    pub parameters: Option<u64>,
    /// Sequences per batch.
    pub batch_size: usize,
    /// Trials.
    pub n: usize,
    /// Median seconds per iteration, over trials.
    pub median_s: Spread,
    /// Fastest iteration of all, seconds.
    pub min_s: f64,
    /// Smallest 0.1 and largest 0.9 quantile, seconds.
    pub quantiles_s: [f64; 2],
    /// Tokens per second, over trials.
    pub tokens_per_s: Spread,
    /// Counted GFLOP/s, over trials; `None` when not counted.
    pub gflops_per_s: Option<Spread>,
    /// Largest memory of all, bytes; `None` when it was not measured.
    pub peak_bytes: Option<u64>,
}

pub(super) fn groups(index: &Index<'_>) -> Vec<ThroughputGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.throughput.is_empty()) {
        let mut phases: BTreeMap<Phase, Vec<&Throughput>> = BTreeMap::new();
        for times in trials.iter().flat_map(|trial| &trial.throughput) {
            phases.entry(times.phase).or_default().push(times);
        }
        for (phase, times) in phases {
            let spread = |value: fn(&Throughput) -> f64| Spread::of(times.iter().map(|t| value(t)));
            // Times that are not numbers are not times.
            let (Some(median_s), Some(tokens_per_s)) =
                (spread(|t| t.median_s), spread(|t| t.tokens_per_s))
            else {
                continue;
            };
            let all = |value: fn(&Throughput) -> f64| times.iter().map(move |t| value(t));
            found.push(ThroughputGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                phase,
                parameters: trials.iter().filter_map(|t| t.cost.map(|c| c.parameters)).max(),
                batch_size: trials.iter().map(|trial| trial.cell.batch_size).max().unwrap_or(0),
                n: times.len(),
                median_s,
                min_s: all(|t| t.min_s).fold(f64::INFINITY, f64::min),
                quantiles_s: [
                    all(|t| t.quantiles_s[0]).fold(f64::INFINITY, f64::min),
                    all(|t| t.quantiles_s[1]).fold(f64::NEG_INFINITY, f64::max),
                ],
                tokens_per_s,
                gflops_per_s: spread(|t| t.gflops_per_s),
                peak_bytes: times.iter().filter_map(|t| t.peak_bytes).max(),
            });
        }
    }
    found
}
