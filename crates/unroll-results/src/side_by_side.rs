//! Two result folders side by side: versions, machines or settings.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decision::{ALPHA, Decision, Decisions, Standing};
use crate::record::{Better, Phase};
use crate::statistics::improvement::{holm, probability_of_improvement, rank_sum_p};
use crate::{Summary, TrialRecord};

/// What two sets of results say of the same things.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideBySide {
    /// Trials that both have, by their ids: the same meaning.
    pub shared_trials: usize,
    /// Of these, trials with the same results to the last bit, clock times left out.
    pub same_bits: usize,
    /// Metrics, one row for each task, length and series that both have.
    pub quality: Vec<QualityPair>,
    /// Times and memory, one row for each task, length, series and phase that both have.
    pub throughput: Vec<ThroughputPair>,
    /// The best series of each task and length in both.
    pub winners: Vec<WinnerPair>,
    /// Groups that only the first has: `adding, length 50, gru`.
    pub only_first: Vec<String>,
    /// Groups that only the second has.
    pub only_second: Vec<String>,
}

/// A metric in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QualityPair {
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// Series.
    pub series: String,
    /// Metric with unit.
    pub metric: String,
    /// Interquartile means of the finite values.
    pub values: [Option<f64>; 2],
    /// Runs.
    pub runs: [usize; 2],
    /// Runs that solved the task.
    pub solved: [usize; 2],
    /// Probability that a run of the second is better than one of the first.
    pub second_better: f64,
    /// p of the exact rank sum test, Holm-adjusted over all rows.
    pub p: f64,
}

/// Times in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThroughputPair {
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// Series.
    pub series: String,
    /// Phase.
    pub phase: &'static str,
    /// Median tokens per second.
    pub tokens_per_s: [f64; 2],
    /// Whether the ranges of the trials' medians do not overlap.
    pub apart: bool,
    /// Peak memory, bytes, where it was measured.
    pub peak_bytes: [Option<u64>; 2],
}

/// The best series in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WinnerPair {
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// The best series in the first and in the second; `None` where nothing was learned.
    pub best: [Option<String>; 2],
    /// Whether the evidence singles it out.
    pub singled_out: [bool; 2],
}

impl QualityPair {
    /// `better`, `worse`, `not separated`: the second against the first.
    pub fn verdict(&self) -> &'static str {
        match (self.p < ALPHA, self.second_better > 0.5) {
            (false, _) => "not separated",
            (true, true) => "better",
            (true, false) => "worse",
        }
    }
}

type Key<'a> = (&'a str, usize, &'a str);

impl SideBySide {
    /// Compares the records of two folders.
    pub fn of(first: &[TrialRecord], second: &[TrialRecord]) -> Self {
        let summaries = [first, second].map(Summary::from_records);
        let by_id: BTreeMap<&str, &TrialRecord> =
            first.iter().map(|record| (record.id.as_str(), record)).collect();
        let shared: Vec<(&TrialRecord, &TrialRecord)> = second
            .iter()
            .filter_map(|record| Some((*by_id.get(record.id.as_str())?, record)))
            .collect();
        let same = |(a, b): &&(&TrialRecord, &TrialRecord)| a.fingerprint() == b.fingerprint();
        let [only_first, only_second] = [(0, 1), (1, 0)].map(|(here, there)| {
            let others = keys(&summaries[there]);
            let missing = keys(&summaries[here]).into_iter().filter(|key| !others.contains(key));
            let name =
                |(task, length, series): Key<'_>| format!("{task}, length {length}, {series}");
            missing.map(name).collect()
        });
        Self {
            shared_trials: shared.len(),
            same_bits: shared.iter().filter(same).count(),
            quality: quality(&summaries),
            throughput: throughput(&summaries),
            winners: winners(&summaries),
            only_first,
            only_second,
        }
    }
}

fn keys(summary: &Summary) -> Vec<Key<'_>> {
    let quality = summary.quality.iter().map(|g| (g.task.as_str(), g.length, g.series.as_str()));
    let times = summary.throughput.iter().map(|g| (g.task.as_str(), g.length, g.series.as_str()));
    let gradients =
        summary.gradients.iter().map(|g| (g.task.as_str(), g.length, g.series.as_str()));
    let mut found = Vec::new();
    for key in quality.chain(times).chain(gradients) {
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

fn quality(summaries: &[Summary; 2]) -> Vec<QualityPair> {
    let decisions = summaries.each_ref().map(Decisions::of);
    let mut found = Vec::new();
    for cell in &decisions[0].cells {
        let same = |c: &&Decision| {
            (&c.task, c.length, &c.metric) == (&cell.task, cell.length, &cell.metric)
        };
        let Some(other) = decisions[1].cells.iter().find(same) else { continue };
        for a in &cell.candidates {
            let Some(b) = other.candidates.iter().find(|b| b.series == a.series) else { continue };
            // The metric itself: two versions may differ beyond "solved" too.
            let sign = if cell.better == Better::Lower { -1.0 } else { 1.0 };
            let [x, y] = [0, 1].map(|side| {
                let group = summaries[side].quality.iter().find(|g| {
                    (&g.task, g.length, &g.series) == (&cell.task, cell.length, &a.series)
                });
                let values = group.map_or(&[][..], |group| &group.values);
                let score = |v: f64| if v.is_finite() { sign * v } else { f64::NEG_INFINITY };
                values.iter().map(|value| score(value.value)).collect::<Vec<f64>>()
            });
            let (Some(second_better), Some(p)) =
                (probability_of_improvement(&y, &x), rank_sum_p(&y, &x))
            else {
                continue;
            };
            found.push(QualityPair {
                task: cell.task.clone(),
                length: cell.length,
                series: a.series.clone(),
                metric: cell.metric.clone(),
                values: [a.metric, b.metric],
                runs: [x.len(), y.len()],
                solved: [a.solved, b.solved],
                second_better,
                p,
            });
        }
    }
    let adjusted = holm(&found.iter().map(|pair| pair.p).collect::<Vec<_>>());
    for (pair, p) in found.iter_mut().zip(adjusted) {
        pair.p = p;
    }
    found
}

fn throughput(summaries: &[Summary; 2]) -> Vec<ThroughputPair> {
    let mut found = Vec::new();
    for a in &summaries[0].throughput {
        let key = |g: &crate::summary::ThroughputGroup| {
            (g.task.clone(), g.length, g.series.clone(), g.phase, g.batch_size)
        };
        let Some(b) = summaries[1].throughput.iter().find(|b| key(b) == key(a)) else { continue };
        let (x, y) = (&a.tokens_per_s, &b.tokens_per_s);
        found.push(ThroughputPair {
            task: a.task.clone(),
            length: a.length,
            series: a.series.clone(),
            phase: Phase::name(a.phase),
            tokens_per_s: [x.median, y.median],
            // One trial has no range: nothing can be said.
            apart: x.n > 1 && y.n > 1 && (x.max < y.min || y.max < x.min),
            peak_bytes: [a.peak_bytes, b.peak_bytes],
        });
    }
    found
}

fn winners(summaries: &[Summary; 2]) -> Vec<WinnerPair> {
    let decisions = summaries.each_ref().map(Decisions::of);
    let pair = |cell: &Decision| {
        let same = |c: &&Decision| (&c.task, c.length) == (&cell.task, cell.length);
        let other = decisions[1].cells.iter().find(same)?;
        let best = |cell: &Decision| cell.learned().then(|| cell.winner().series.clone());
        let singled_out = |cell: &Decision| cell.standing() == Standing::SingledOut;
        Some(WinnerPair {
            task: cell.task.clone(),
            length: cell.length,
            best: [best(cell), best(other)],
            singled_out: [singled_out(cell), singled_out(other)],
        })
    };
    decisions[0].cells.iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn runs(series: &str, values: [f64; 5]) -> Vec<TrialRecord> {
        let run = |(seed, value)| testing::quality(series, 50, seed, value);
        (0..).zip(values).map(run).collect()
    }

    #[test]
    fn the_same_results_are_the_same_to_the_bit() {
        let records = testing::sweep();
        let found = SideBySide::of(&records, &records);
        assert_eq!((found.shared_trials, found.same_bits), (18, 18));
        assert!(found.quality.iter().all(|pair| pair.verdict() == "not separated"));
        assert!(found.only_first.is_empty() && found.only_second.is_empty());
        assert!(found.winners.iter().all(|pair| pair.best[0] == pair.best[1]));
    }

    #[test]
    fn a_regression_is_seen_and_groups_of_one_side_are_named() {
        let first = [runs("gru", [0.10, 0.11, 0.12, 0.13, 0.14]), runs("rnn", [0.1; 5])];
        let second = [runs("gru", [0.20, 0.21, 0.22, 0.23, 0.24]), runs("lstm", [0.1; 5])];
        let found = SideBySide::of(&first.concat(), &second.concat());
        assert_eq!(found.quality.len(), 1);
        assert_eq!(found.quality[0].verdict(), "worse");
        assert_eq!(found.quality[0].second_better, 0.0);
        assert_eq!(found.only_first, ["adding, length 50, rnn"]);
        assert_eq!(found.only_second, ["adding, length 50, lstm"]);
        assert_eq!((found.shared_trials, found.same_bits), (5, 0));
        assert_eq!(found.winners[0].best, [Some("rnn".into()), Some("lstm".into())]);
        assert_eq!(found.winners[0].singled_out, [true, true]);
    }

    #[test]
    fn where_nothing_was_learned_nothing_is_best() {
        // Always answering 1 has 1/6. Single runs are below it, no series is as a whole.
        let noise = |a: &str, b: &str| {
            [runs(a, [0.16, 0.17, 0.17, 0.17, 0.17]), runs(b, [0.18; 5])].concat()
        };
        let (first, second) = (noise("gru", "lstm"), noise("lstm", "gru"));
        assert_eq!(SideBySide::of(&first, &second).winners[0].best, [None, None]);
        let learned = runs("gru", [0.1; 5]);
        let found = SideBySide::of(&first, &learned);
        assert_eq!(found.winners[0].best, [None, Some("gru".into())]);
        assert_eq!(found.winners[0].singled_out, [false, false]);
    }

    #[test]
    fn times_are_paired_by_phase() {
        let a = [testing::measured("gru", 8, 0, "cpu"), testing::measured("gru", 8, 1, "cpu")];
        let found = SideBySide::of(&a, &a[..1]);
        assert_eq!(found.throughput[0].tokens_per_s, [75_000.0, 100_000.0]);
        assert!(!found.throughput[0].apart);
        assert!(SideBySide::of(&a, &[]).throughput.is_empty());
    }
}
