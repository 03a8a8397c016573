//! Whether the reach of a gradient before training tells what will be learned.

use std::collections::BTreeMap;

use super::Index;
use crate::decay::{Reach, reaches};
use crate::record::{GradientOf, TrialKind, TrialRecord};
use crate::statistics::{Interval, rank_correlation, rank_correlation_interval};

/// Rounds of the bootstrap, and its seed.
const RESAMPLES: usize = 2000;
const SEED: u64 = 0;

/// One model with one seed: its trials at all lengths.
#[derive(Debug, Clone, PartialEq)]
pub struct HorizonPoint {
    /// Series.
    pub series: String,
    /// Seed.
    pub seed: u64,
    /// Distance at which dL/dx has fallen to 1 % of that at distance 0, at initialisation and at
    /// the longest length; what the fitted exponential says where that is beyond the length, and infinite
    /// where that does not fall.
    pub horizon: f64,
    /// Distance within which 99 % of the sum of norms lie there: unlike the horizon not misled by a
    /// last step that weighs more than all others, as a residual connection makes it; 0 when all
    /// norms are 0.
    pub reach: usize,
    /// Longest length at which the task was solved after training, steps; 0 when at none.
    pub longest_solved: usize,
}

/// All models of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct HorizonGroup {
    /// Task.
    pub task: String,
    /// Lengths trained at, ascending.
    pub lengths: Vec<usize>,
    /// In order of series and seed.
    pub points: Vec<HorizonPoint>,
    /// How horizon and longest solved length agree.
    pub horizon: Agreement,
    /// How reach and longest solved length agree.
    pub reach: Agreement,
}

/// Spearman's rank correlation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// The correlation; `None` when one side is constant.
    pub correlation: Option<f64>,
    /// 95 % interval, by resampling series; `None` with fewer than three series.
    pub interval: Option<Interval>,
}

impl Agreement {
    /// Of the pairs of each series.
    fn of(series: &[Vec<(f64, f64)>]) -> Self {
        Self {
            correlation: rank_correlation(&series.concat()),
            interval: rank_correlation_interval(series, RESAMPLES, SEED),
        }
    }
}

/// Tasks with a criterion for "solved", trained at two lengths or more by models whose gradients were
/// measured before.
pub(super) fn groups(index: &Index<'_>) -> Vec<HorizonGroup> {
    let trained = |record: &TrialRecord| {
        record.kind == TrialKind::Quality
            && record.quality.as_ref().is_some_and(|quality| quality.solved_at.is_some())
            && initial_input(record).is_some()
    };
    // By task, then series and seed in order, the trials by length.
    let mut tasks = BTreeMap::<usize, BTreeMap<(usize, u64), Vec<&TrialRecord>>>::new();
    for (key, trials) in index.groups(trained) {
        for trial in trials {
            let models = tasks.entry(key.task).or_default();
            models.entry((key.series, trial.cell.seed)).or_default().push(trial);
        }
    }
    let mut found = Vec::new();
    for (task, models) in tasks {
        let mut lengths: Vec<usize> =
            models.values().flatten().map(|trial| trial.cell.length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.len() < 2 {
            continue;
        }
        let mut points = Vec::new();
        let mut by_series = BTreeMap::<usize, Vec<HorizonPoint>>::new();
        for ((series, seed), trials) in models {
            let longest = trials.iter().max_by_key(|trial| trial.cell.length);
            let Some(reach) = longest.and_then(|trial| initial_input(trial)) else { continue };
            let solved = |trial: &&&TrialRecord| trial.quality.as_ref().is_some_and(|q| q.solved);
            let longest_solved =
                trials.iter().filter(solved).map(|trial| trial.cell.length).max().unwrap_or(0);
            let horizon = expected_horizon(&reach);
            let name = index.series[series].clone();
            let reach = reach.reach.unwrap_or(0);
            let point = HorizonPoint { series: name, seed, horizon, reach, longest_solved };
            by_series.entry(series).or_default().push(point.clone());
            points.push(point);
        }
        let agreement = |value: fn(&HorizonPoint) -> f64| {
            let pair = |point: &HorizonPoint| (value(point), point.longest_solved as f64);
            let pairs: Vec<Vec<(f64, f64)>> =
                by_series.values().map(|points| points.iter().map(pair).collect()).collect();
            Agreement::of(&pairs)
        };
        let horizon = agreement(|point| point.horizon);
        let reach = agreement(|point| point.reach as f64);
        found.push(HorizonGroup {
            task: index.tasks[task].clone(),
            lengths,
            points,
            horizon,
            reach,
        });
    }
    found
}

/// The reach of dL/dx before training, if it was measured.
pub(crate) fn initial_input(record: &TrialRecord) -> Option<Reach> {
    let of_input = |reach: &Reach| reach.of == GradientOf::Input && reach.step == 0;
    reaches(&record.gradient).into_iter().find(of_input)
}

/// See [`HorizonPoint::horizon`].
fn expected_horizon(reach: &Reach) -> f64 {
    reach.horizon_percent.unwrap_or_else(|| match reach.decay {
        Some(decay) if decay.exponential.slope < 0.0 => {
            (0.01f64.ln() / decay.exponential.slope).max(reach.measured_to as f64)
        }
        _ => f64::INFINITY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::GradientPoint;
    use crate::{Summary, testing};

    /// A trial whose input gradient falls by `rate` per step, solved up to a length.
    fn trial(series: &str, length: usize, seed: u64, rate: f64, solved_to: usize) -> TrialRecord {
        let mut record =
            testing::quality(series, length, seed, if length <= solved_to { 0.001 } else { 0.5 });
        if let Some(quality) = &mut record.quality {
            quality.solved = length <= solved_to;
        }
        record.gradient = (0..length)
            .map(|distance| {
                let ln = rate * distance as f64;
                GradientPoint {
                    of: GradientOf::Input,
                    layer: 0,
                    step: 0,
                    distance,
                    ln_mean_norm: ln,
                    mean_log_norm: Some(ln),
                    ln_quantiles: [ln; 3],
                }
            })
            .collect();
        record
    }

    fn found_reach(group: &HorizonGroup, point: usize) -> usize {
        group.points[point].reach
    }

    #[test]
    fn longer_horizons_that_learn_longer_tasks_correlate() {
        let mut records = Vec::new();
        for (series, rate, solved_to) in
            [("rnn", -0.5, 0), ("gru", -0.1, 50), ("lstm", -0.005, 100), ("mha", 0.0, 200)]
        {
            for length in [50, 100, 200] {
                records.extend((0..2).map(|seed| trial(series, length, seed, rate, solved_to)));
            }
        }
        let summary = Summary::from_records(&records);
        let [group] = &summary.horizons[..] else { panic!("one task") };
        assert_eq!(group.lengths, [50, 100, 200]);
        let found: Vec<_> = group.points.iter().map(|p| (p.horizon, p.longest_solved)).collect();
        assert!((found[0].0 - 0.01f64.ln() / -0.5).abs() < 1e-9 && found[0].1 == 0);
        // Beyond the length: by the fitted rate.
        assert!((found[4].0 - 0.01f64.ln() / -0.005).abs() < 1e-6 && found[4].1 == 100);
        assert_eq!(found[6], (f64::INFINITY, 200));
        assert!((group.horizon.correlation.unwrap() - 1.0).abs() < 1e-12);
        assert!(group.horizon.interval.unwrap().low > 0.9);
        // 99 % of 1 + e^-0.5 + ... lie within 9 steps: e^(-0.5 * 10) < 0.01 < e^(-0.5 * 9).
        assert_eq!((found_reach(group, 0), found_reach(group, 6)), (9, 197));
        assert!((group.reach.correlation.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_length_or_no_measurement_says_nothing() {
        let one = [trial("gru", 50, 0, -0.1, 50), trial("gru", 50, 1, -0.1, 50)];
        assert!(Summary::from_records(&one).horizons.is_empty());
        let unmeasured = testing::sweep();
        assert!(Summary::from_records(&unmeasured).horizons.is_empty());
    }
}
