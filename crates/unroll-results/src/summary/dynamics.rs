//! Jacobians of recurrent states and Lyapunov exponents, over seeds and examples.

use std::collections::BTreeMap;

use super::gradients::Moment;
use super::{Counted, Index, moment_of};
use crate::record::StateJacobian;
use crate::statistics::Spread;

/// The recurrent state of one series, task and length at one moment of training. Logarithms are
/// natural.
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicsGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Sequence length, steps.
    pub length: usize,
    /// When in training.
    pub moment: Moment,
    /// Elements of the state, the largest of the group.
    pub state_size: usize,
    /// Random vectors of the estimates; `None` when all are exact.
    pub probes: Option<usize>,
    /// Examples of all seeds.
    pub n: usize,
    /// Lyapunov exponents in nats per step, the largest first; an exponent that is not finite in any
    /// of the examples is left out, with those behind it.
    pub exponents: Vec<Spread>,
    /// Exponents of the exact spectrum that are minus infinity: directions that are lost entirely.
    pub lost: usize,
    /// Change of volume in nats per step over the largest distance; `None` where a Jacobian is
    /// singular.
    pub log_det_rate: Option<Spread>,
    /// By distance, ascending.
    pub points: Vec<DynamicsPoint>,
}

/// The Jacobian at one distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DynamicsPoint {
    /// Steps.
    pub distance: usize,
    /// `ln sigma_max`; a lower bound when estimated.
    pub largest: Option<Spread>,
    /// `ln sigma_min`; `None` when estimated or singular.
    pub smallest: Option<Spread>,
}

pub(super) fn groups(index: &Index<'_>) -> Vec<DynamicsGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.jacobians.is_empty()) {
        let mut moments: BTreeMap<Moment, Vec<&StateJacobian>> = BTreeMap::new();
        let counted = Counted::of(&trials, |t| t.jacobians.iter().map(|j| j.step).collect());
        for trial in &trials {
            for jacobian in &trial.jacobians {
                let moment = moment_of(trial, jacobian.step);
                if counted.has(trial, moment) {
                    moments.entry(moment).or_default().push(jacobian);
                }
            }
        }
        for (moment, jacobians) in moments {
            found.push(DynamicsGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                moment,
                state_size: jacobians.iter().map(|j| j.state_size).max().unwrap_or(0),
                probes: jacobians.iter().filter_map(|j| j.probes).max(),
                n: jacobians.len(),
                exponents: exponents(&jacobians),
                lost: jacobians.iter().map(|j| lost(j)).max().unwrap_or(0),
                log_det_rate: all_finite(jacobians.iter().filter_map(|jacobian| {
                    jacobian.points.last().map(|point| point.log_det_rate.value)
                })),
                points: points(&jacobians),
            });
        }
    }
    found
}

/// The spread of values that are all finite.
fn all_finite(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let values: Vec<f64> = values.collect();
    if values.iter().all(|value| value.is_finite()) { Spread::of(values) } else { None }
}

fn exponents(jacobians: &[&StateJacobian]) -> Vec<Spread> {
    let shortest = jacobians.iter().map(|j| j.lyapunov.len()).min().unwrap_or(0);
    let at = |place: usize| all_finite(jacobians.iter().map(|j| j.lyapunov[place].value));
    (0..shortest).map_while(at).collect()
}

fn lost(jacobian: &StateJacobian) -> usize {
    jacobian.lyapunov.iter().filter(|exponent| exponent.value == f64::NEG_INFINITY).count()
}

fn points(jacobians: &[&StateJacobian]) -> Vec<DynamicsPoint> {
    let mut by_distance: BTreeMap<usize, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for point in jacobians.iter().flat_map(|jacobian| &jacobian.points) {
        let (largest, smallest) = by_distance.entry(point.distance).or_default();
        largest.push(point.ln_largest);
        smallest.push(point.ln_smallest.unwrap_or(f64::NAN));
    }
    let point = |(distance, (largest, smallest)): (usize, (Vec<f64>, Vec<f64>))| DynamicsPoint {
        distance,
        largest: all_finite(largest.into_iter()),
        smallest: all_finite(smallest.into_iter()),
    };
    by_distance.into_iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Estimate, JacobianPoint};
    use crate::{Summary, TrialRecord, testing};

    fn jacobian(exponents: &[f64]) -> StateJacobian {
        let exact = |value| Estimate { value, standard_error: 0.0 };
        let sum: f64 = exponents.iter().sum();
        let point = |distance: usize| JacobianPoint {
            distance,
            ln_largest: exponents[0] * distance as f64,
            ln_largest_below: exponents[0] * distance as f64,
            probability: 1.0,
            ln_largest_hidden: None,
            ln_largest_cell: None,
            ln_smallest: exponents.last().map(|last| last * distance as f64),
            log_det_rate: exact(sum),
        };
        StateJacobian {
            step: 0,
            example: 0,
            probes: None,
            state_size: exponents.len(),
            steps: 8,
            lyapunov: exponents.iter().copied().map(exact).collect(),
            points: [1, 8].map(point).into(),
        }
    }

    fn record(seed: u64, exponents: &[f64]) -> TrialRecord {
        let mut record = testing::measured("gru", 8, seed, "cpu");
        record.jacobians = vec![jacobian(exponents)];
        record
    }

    #[test]
    fn seeds_are_brought_together() {
        let records = [record(0, &[-0.1, -0.5]), record(1, &[-0.3, -0.7])];
        let group = &Summary::from_records(&records).dynamics[0];
        assert_eq!((group.n, group.state_size, group.lost, group.probes), (2, 2, 0, None));
        assert!((group.exponents[0].mean + 0.2).abs() < 1e-15);
        assert_eq!((group.exponents[1].min, group.exponents[1].max), (-0.7, -0.5));
        assert!((group.log_det_rate.unwrap().mean + 0.8).abs() < 1e-15);
        let last = group.points[1];
        assert_eq!(last.distance, 8);
        assert!((last.largest.unwrap().mean + 1.6).abs() < 1e-15);
        assert!((last.smallest.unwrap().mean + 4.8).abs() < 1e-15);
    }

    #[test]
    fn lost_directions_are_counted_and_not_averaged() {
        let records = [record(0, &[-0.1, f64::NEG_INFINITY]), record(1, &[-0.3, -0.7])];
        let group = &Summary::from_records(&records).dynamics[0];
        assert_eq!((group.exponents.len(), group.lost), (1, 1));
        assert_eq!(group.log_det_rate, None);
        assert_eq!(group.points[1].smallest, None);
        assert!(group.points[1].largest.is_some());
    }
}
