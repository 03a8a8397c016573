//! Learning curves, over seeds.

use super::Index;
use super::quality::strongest;
use crate::record::{BaselineValue, Better, Status, TrialRecord};
use crate::statistics::Spread;
use crate::tables::{best_baseline, best_reference};

/// One seed's validation metric.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedCurve {
    /// Seed.
    pub seed: u64,
    /// Whether the trial diverged after its last point.
    pub diverged: bool,
    /// (training steps done, validation metric), in order of steps.
    pub points: Vec<(u64, f64)>,
}

/// The seeds at one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurveBand {
    /// Training steps done.
    pub step: u64,
    /// Spread of the finite values; a seed that finished earlier counts with its last value, a seed
    /// that diverged earlier no longer counts.
    pub spread: Spread,
}

/// The learning curves of one series at one task and length.
#[derive(Debug, Clone, PartialEq)]
pub struct CurveGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Trained length, steps.
    pub length: usize,
    /// Name of the metric with unit; empty when no trial has one.
    pub metric: String,
    /// Which end is good.
    pub better: Better,
    /// The best baseline.
    pub best_baseline: Option<BaselineValue>,
    /// The value from which on the task counts as solved.
    pub solved_at: Option<f64>,
    /// One curve for each seed.
    pub seeds: Vec<SeedCurve>,
    /// The seeds brought together at every step that any of them was evaluated at.
    pub band: Vec<CurveBand>,
}

pub(super) fn groups(index: &Index<'_>) -> Vec<CurveGroup> {
    let groups = index.groups(|record| !record.curve.is_empty());
    let group = |(key, trials): &(super::GroupKey, Vec<&TrialRecord>)| {
        let quality = trials.iter().find_map(|trial| trial.quality.as_ref());
        let seeds: Vec<SeedCurve> = trials
            .iter()
            .map(|trial| SeedCurve {
                seed: trial.cell.seed,
                diverged: matches!(trial.status, Status::Diverged { .. }),
                points: trial.curve.iter().map(|p| (p.step, p.validation)).collect(),
            })
            .collect();
        CurveGroup {
            series: index.series(*key),
            task: index.task(*key),
            length: key.length,
            metric: quality.map_or_else(String::new, |quality| quality.metric.clone()),
            better: quality.map_or(Better::Lower, |quality| quality.better),
            best_baseline: quality
                .and_then(|q| strongest(q.better, best_baseline(q), best_reference(q)))
                .cloned(),
            solved_at: quality.and_then(|quality| quality.solved_at),
            band: band(&seeds),
            seeds,
        }
    };
    groups.iter().map(group).collect()
}

fn band(seeds: &[SeedCurve]) -> Vec<CurveBand> {
    let mut steps: Vec<u64> =
        seeds.iter().flat_map(|seed| seed.points.iter().map(|point| point.0)).collect();
    steps.sort_unstable();
    steps.dedup();
    let at = |step| Spread::of(seeds.iter().filter_map(|seed| value_at(seed, step)));
    steps.iter().filter_map(|&step| Some(CurveBand { step, spread: at(step)? })).collect()
}

/// The value at `step`: of the last evaluation up to there.
fn value_at(seed: &SeedCurve, step: u64) -> Option<f64> {
    let after = seed.points.partition_point(|point| point.0 <= step);
    let ended = after == seed.points.len() && seed.points.last().is_some_and(|p| p.0 < step);
    if seed.diverged && ended {
        return None;
    }
    Some(seed.points.get(after.checked_sub(1)?)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(diverged: bool, points: &[(u64, f64)]) -> SeedCurve {
        SeedCurve { seed: 0, diverged, points: points.to_vec() }
    }

    #[test]
    fn early_stops_keep_their_last_value_and_diverged_seeds_leave() {
        let seeds = [
            seed(false, &[(0, 1.0), (10, 0.1)]),
            seed(true, &[(0, 3.0), (10, f64::NAN)]),
            seed(false, &[(0, 2.0), (10, 0.5), (20, 0.3)]),
        ];
        let band = band(&seeds);
        let rows: Vec<_> =
            band.iter().map(|b| (b.step, b.spread.n, b.spread.min, b.spread.max)).collect();
        assert_eq!(rows, [(0, 3, 1.0, 3.0), (10, 2, 0.1, 0.5), (20, 2, 0.1, 0.3)]);
        assert_eq!(value_at(&seeds[1], 20), None);
        assert_eq!(value_at(&seed(false, &[(5, 1.0)]), 4), None);
    }
}
