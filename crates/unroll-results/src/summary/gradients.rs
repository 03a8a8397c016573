//! Gradient decay, over seeds.

use std::collections::BTreeMap;

use super::{Counted, Index, moment_of};
use crate::decay::{Decay, DecayLaw, Reach, half_life, reaches};
use crate::record::{GradientOf, GradientPoint, Theory, TrialKind, TrialRecord};
use crate::statistics::{Interval, Spread, mean_interval, median};

/// The seeds at one distance. Logarithms are natural.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradientBand {
    /// Steps between the loss and the state.
    pub distance: usize,
    /// Seeds with a logarithm.
    pub n: usize,
    /// Seeds without one: a norm was 0 (no dependence, or lost by f64 in one backward pass:
    /// [`falls_through_f64`](crate::record::falls_through_f64)).
    pub zeros: usize,
    /// Mean over seeds of the mean logarithm; `None` when `n` is 0.
    pub mean_ln: Option<f64>,
    /// Smallest over seeds.
    pub min_ln: Option<f64>,
    /// Largest over seeds.
    pub max_ln: Option<f64>,
}

/// When in a training run gradients were measured. Runs that stop at a threshold end at different
/// steps: what they have in common is the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Before the first step.
    Initial,
    /// After this many steps, with training going on.
    During(u64),
    /// After the last step.
    Trained,
}

impl Moment {
    /// In words: `at initialisation`, `after 300 steps`, `after training`.
    pub fn name(self) -> String {
        match self {
            Self::Initial => "at initialisation".into(),
            Self::During(step) => format!("after {step} steps"),
            Self::Trained => "after training".into(),
        }
    }

    /// In a word, for table cells: `start`, `step 300`, `end`.
    pub fn short_name(self) -> String {
        match self {
            Self::Initial => "start".into(),
            Self::During(step) => format!("step {step}"),
            Self::Trained => "end".into(),
        }
    }
}

/// The gradient norms of one series, task and length for one derivative, layer and moment.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Sequence length, steps.
    pub length: usize,
    /// Which derivative.
    pub of: GradientOf,
    /// Layer of the state.
    pub layer: usize,
    /// When in training.
    pub moment: Moment,
    /// Whether the numbers were computed in f32.
    pub single_precision: bool,
    /// By distance, ascending.
    pub band: Vec<GradientBand>,
    /// Laws fitted to the mean over seeds; `None` with fewer than three usable distances.
    pub decay: Option<Decay>,
    /// Over seeds, each fitted alone.
    pub over_seeds: OverSeeds,
    /// The closed form, before training, where there is one.
    pub theory: Option<Theory>,
}

/// How the seeds of a group agree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OverSeeds {
    /// 95 % interval of the rate (nats per step) by Student's t; `None` with fewer than two seeds.
    pub rate: Option<Interval>,
    /// 95 % interval of the power law's exponent.
    pub exponent: Option<Interval>,
    /// 95 % interval of [`Decay::evidence`] for the exponential law.
    pub evidence: Option<Interval>,
    /// Distance at which the norm has fallen to 1 %, seed by seed; `None` is beyond what was measured.
    pub horizon_percent: Vec<Option<f64>>,
    /// Distance at which it has fallen to f32's epsilon.
    pub horizon_epsilon: Vec<Option<f64>>,
    /// Distance within which 99 % of the sum of norms lie.
    pub reach: Vec<Option<usize>>,
}

impl OverSeeds {
    fn of(reaches: &[Reach]) -> Self {
        let over = |value: fn(&Decay) -> f64| {
            let values: Vec<f64> =
                reaches.iter().filter_map(|r| r.decay.as_ref().map(value)).collect();
            mean_interval(&values).map(|(_, interval)| interval)
        };
        Self {
            rate: over(|decay| decay.exponential.slope),
            exponent: over(|decay| decay.power.slope),
            evidence: over(Decay::evidence),
            horizon_percent: reaches.iter().map(|reach| reach.horizon_percent).collect(),
            horizon_epsilon: reaches.iter().map(|reach| reach.horizon_epsilon).collect(),
            reach: reaches.iter().map(|reach| reach.reach).collect(),
        }
    }

    /// Interval of the half-life, steps; the upper end is infinite when growth cannot be excluded.
    pub fn half_life(&self) -> Option<Interval> {
        let rate = self.rate?;
        let low = half_life(rate.low)?;
        Some(Interval { low, high: half_life(rate.high).unwrap_or(f64::INFINITY) })
    }

    /// The law that all of the interval speaks for; `None` when the seeds leave it open.
    pub fn law(&self) -> Option<DecayLaw> {
        let evidence = self.evidence?;
        if evidence.low > 0.0 {
            Some(DecayLaw::Exponential)
        } else if evidence.high < 0.0 {
            Some(DecayLaw::Power)
        } else {
            None
        }
    }
}

/// The median over seeds, values beyond what was measured counting as the largest: `None` when half of
/// the seeds or more are beyond.
pub fn median_horizon(horizons: &[Option<f64>]) -> Option<f64> {
    let values: Vec<f64> = horizons.iter().map(|h| h.unwrap_or(f64::INFINITY)).collect();
    median(&values).filter(|value| value.is_finite())
}

pub(super) fn groups(index: &Index<'_>) -> Vec<GradientGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.gradient.is_empty()) {
        // The same for every derivative, layer and moment that any of the seeds measured.
        let mut parts: BTreeMap<(GradientOf, usize, Moment), Vec<&GradientPoint>> = BTreeMap::new();
        let mut seeds: Vec<((GradientOf, usize, Moment), Reach)> = Vec::new();
        let steps = |trial: &TrialRecord| trial.gradient.iter().map(|p| p.step).collect();
        let counted = Counted::of(&trials, steps);
        // Moments that any trial measured in f32. Quality trials measure their f32 weights in an f64 copy.
        let mut in_f32: Vec<Moment> = Vec::new();
        for trial in &trials {
            let single = trial.kind == TrialKind::Gradient && trial.cell.dtype == "f32";
            let moment = |step: u64| moment_of(trial, step);
            let counts = |step: u64| counted.has(trial, moment(step));
            for point in trial.gradient.iter().filter(|point| counts(point.step)) {
                let at = moment(point.step);
                parts.entry((point.of, point.layer, at)).or_default().push(point);
                if single && !in_f32.contains(&at) {
                    in_f32.push(at);
                }
            }
            let of_trial = reaches(&trial.gradient).into_iter().filter(|r| counts(r.step));
            seeds.extend(of_trial.map(|r| ((r.of, r.layer, moment(r.step)), r)));
        }
        for ((of, layer, moment), points) in parts {
            let of_seeds: Vec<Reach> = seeds
                .iter()
                .filter(|(key, _)| *key == (of, layer, moment))
                .map(|(_, reach)| *reach)
                .collect();
            let band = band(&points);
            let single_precision = in_f32.contains(&moment);
            found.push(GradientGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                of,
                layer,
                moment,
                single_precision,
                decay: Decay::of(&usable(&band, single_precision)),
                over_seeds: OverSeeds::of(&of_seeds),
                theory: theory(&trials, of, moment),
                band,
            });
        }
    }
    found
}

/// Closed forms hold before training; seeds share them.
fn theory(trials: &[&TrialRecord], of: GradientOf, moment: Moment) -> Option<Theory> {
    let mut theories = trials.first().filter(|_| moment == Moment::Initial)?.theory.iter();
    theories.find(|theory| theory.of == of).cloned()
}

fn band(points: &[&GradientPoint]) -> Vec<GradientBand> {
    let mut by_distance: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
    for point in points {
        let ln = point.mean_log_norm.filter(|ln| ln.is_finite());
        by_distance.entry(point.distance).or_default().push(ln);
    }
    by_distance
        .into_iter()
        .map(|(distance, values)| {
            let spread = Spread::of(values.iter().copied().flatten());
            let n = spread.map_or(0, |spread| spread.n);
            GradientBand {
                distance,
                n,
                zeros: values.len() - n,
                mean_ln: spread.map(|spread| spread.mean),
                min_ln: spread.map(|spread| spread.min),
                max_ln: spread.map(|spread| spread.max),
            }
        })
        .collect()
}

fn usable(band: &[GradientBand], single_precision: bool) -> Vec<(usize, f64)> {
    let floor =
        if single_precision { f64::from(f32::MIN_POSITIVE).ln() } else { f64::NEG_INFINITY };
    band.iter()
        .filter(|point| point.distance > 0 && point.zeros == 0)
        .filter_map(|point| Some((point.distance, point.mean_ln.filter(|&ln| ln >= floor)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn band_of(law: impl Fn(f64) -> f64) -> Vec<GradientBand> {
        let at = |distance: usize| {
            let ln = Some(law(distance as f64));
            GradientBand { distance, n: 1, zeros: 0, mean_ln: ln, min_ln: ln, max_ln: ln }
        };
        (0..100).map(at).collect()
    }

    #[test]
    fn an_exponential_is_recognised_with_its_half_life() {
        // REFERENCE: a zero-weight LSTM with forget bias 1 has a half-life of 2.21 steps.
        let sigmoid = 1.0 / (1.0 + (-1.0f64).exp());
        let decay = Decay::of(&usable(&band_of(|d| d * sigmoid.ln()), false)).unwrap();
        assert_eq!(decay.better_law(), Some(DecayLaw::Exponential));
        assert!((decay.half_life().unwrap() - 2.2127).abs() < 1e-4);
        assert!((decay.exponential.r_squared - 1.0).abs() < 1e-12);
        assert_eq!((decay.from, decay.to), (1, 99));
    }

    #[test]
    fn a_power_law_is_recognised_with_its_exponent() {
        let law = |d: f64| if d > 0.0 { -1.5 * d.ln() } else { 0.0 };
        let decay = Decay::of(&usable(&band_of(law), false)).unwrap();
        assert_eq!(decay.better_law(), Some(DecayLaw::Power));
        assert!((decay.power.slope + 1.5).abs() < 1e-12);
    }

    #[test]
    fn growth_has_no_half_life() {
        let decay = Decay::of(&usable(&band_of(|d| 0.1 * d), false)).unwrap();
        assert_eq!(decay.half_life(), None);
    }

    #[test]
    fn lost_digits_and_zeros_are_left_out_of_fits() {
        let band = band_of(|d| -2.0 * d);
        assert_eq!(usable(&band, false).len(), 99);
        // ln(1.1755e-38) = -87.3: distances 1 to 43 stay.
        assert_eq!(usable(&band, true).len(), 43);
        let mut with_zero = band;
        with_zero[5].zeros = 1;
        assert_eq!(usable(&with_zero, true).len(), 42);
        assert_eq!(Decay::of(&usable(&with_zero[..3], true)), None);
    }
}
