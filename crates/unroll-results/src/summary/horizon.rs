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
    /// the longest length; infinite beyond [`HorizonGroup::measured_to`], 0 when all norms are 0. (A fit
    /// could be followed further, but says nothing of curves that are no exponential, and those are the
    /// ones that reach far.)
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
    /// Largest distance that every model was measured to: horizons beyond it are not told apart.
    pub measured_to: usize,
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
        let measured: Vec<_> = models
            .into_iter()
            .filter_map(|(model, trials)| {
                let longest = trials.iter().max_by_key(|trial| trial.cell.length)?;
                Some((model, initial_input(longest)?, trials))
            })
            .collect();
        let measured_to = measured.iter().map(|(_, reach, _)| reach.measured_to).min().unwrap_or(0);
        for ((series, seed), reach, trials) in measured {
            let solved = |trial: &&&TrialRecord| trial.quality.as_ref().is_some_and(|q| q.solved);
            let longest_solved =
                trials.iter().filter(solved).map(|trial| trial.cell.length).max().unwrap_or(0);
            let within = |horizon: &f64| *horizon <= measured_to as f64;
            let horizon = match reach.reach {
                // Nothing but zeros: there is no gradient that could reach far.
                None => 0.0,
                Some(_) => reach.horizon_percent.filter(within).unwrap_or(f64::INFINITY),
            };
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
            measured_to,
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
        // Beyond the length: not told apart, whatever a fit would say.
        assert_eq!(group.measured_to, 199);
        assert_eq!([found[4], found[6]], [(f64::INFINITY, 100), (f64::INFINITY, 200)]);
        // Ranks of horizons 1.5, 3.5, 6.5, 6.5 beside those of lengths 1.5, 3.5, 5.5, 7.5, twice each.
        assert!((group.horizon.correlation.unwrap() - 18.0 / 360f64.sqrt()).abs() < 1e-12);
        assert!(group.horizon.interval.unwrap().low > 0.5);
        // 99 % of 1 + e^-0.5 + ... lie within 9 steps: e^(-0.5 * 10) < 0.01 < e^(-0.5 * 9).
        assert_eq!((found_reach(group, 0), found_reach(group, 6)), (9, 197));
        assert!((group.reach.correlation.unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn horizons_are_compared_as_far_as_all_models_were_measured() {
        let mut records = Vec::new();
        for (series, rate, lengths) in [
            ("rnn", -0.5, &[50, 100][..]),
            // Not run at the longest length.
            ("gru", -0.05, &[50]),
            ("lstm", -0.06, &[50, 100]),
            // Rounding: falls to 1 % in no less than 1e17 steps.
            ("mha", -1e-17, &[50, 100]),
        ] {
            records.extend(lengths.iter().map(|&length| trial(series, length, 0, rate, 50)));
        }
        let summary = Summary::from_records(&records);
        let [group] = &summary.horizons[..] else { panic!("one task") };
        assert_eq!(group.measured_to, 49);
        let found: Vec<f64> = group.points.iter().map(|point| point.horizon).collect();
        // ln 0.01 / -0.06 = 76.8: within the length of 100, but the GRU could not have shown it.
        assert!((found[0] - 0.01f64.ln() / -0.5).abs() < 1e-9, "{found:?}");
        assert_eq!(found[1..], [f64::INFINITY; 3]);
    }

    #[test]
    fn one_length_or_no_measurement_says_nothing() {
        let one = [trial("gru", 50, 0, -0.1, 50), trial("gru", 50, 1, -0.1, 50)];
        assert!(Summary::from_records(&one).horizons.is_empty());
        let unmeasured = testing::sweep();
        assert!(Summary::from_records(&unmeasured).horizons.is_empty());
    }
}
