//! From interleaved timings of two programs to a verdict for each case.
//!
//! Repetitions within one process are not independent (memory layout, caches and frequency are drawn
//! once per process), so a process gives one number, and the unit of the statistics is the *block*: six
//! fresh processes in the order base, control, candidate, candidate, control, base, which cancels a
//! linear drift. The control is the base again: what it seems to differ by is what the machine makes up
//! (Kalibera & Jones 2013; Mytkowicz et al. 2009 on layout).
//!
//! | number | definition |
//! |---|---|
//! | effect | mean over blocks of `ln candidate - ln base`, shown as `exp(effect) - 1` |
//! | interval | expanded percentile bootstrap over blocks (Hesterberg 2015): the percentile interval, wider by `t / z * sqrt(n / (n - 1))` |
//! | p | two-sided Student's t of the blocks against no effect, adjusted over the cases (Holm 1979) |
//! | detectable | the effect that would be found with a probability of 0.8: `(t_(1 - a/2) + t_0.8) s / sqrt(n)` |

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::statistics::{SplitMix64, mean, quantile};

/// Rounds of the bootstrap.
const RESAMPLES: usize = 4000;
/// Probability with which the detectable effect is detected.
const POWER: f64 = 0.8;

/// Times of one block, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The base, first and last.
    pub base: [f64; 2],
    /// The base again, second and second to last.
    pub control: [f64; 2],
    /// The candidate, in the middle.
    pub candidate: [f64; 2],
}

impl Block {
    fn ln_ratio(&self, over: [f64; 2]) -> f64 {
        0.5 * (over[0].ln() + over[1].ln() - self.base[0].ln() - self.base[1].ln())
    }
}

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Criteria {
    /// Probability of a false alarm over all cases.
    pub alpha: f64,
    /// Smaller effects are no news (0.01: 1 %).
    pub least_effect: f64,
    /// An interval within this much of no effect says "same" (0.03: 3 %).
    pub same_within: f64,
}

impl Default for Criteria {
    fn default() -> Self {
        Self { alpha: 0.05, least_effect: 0.01, same_within: 0.03 }
    }
}

/// A relative change with its interval: 0.05 is 5 % slower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Geometric mean over blocks.
    #[serde(with = "crate::number")]
    pub value: f64,
    /// Lower end.
    #[serde(with = "crate::number")]
    pub low: f64,
    /// Upper end.
    #[serde(with = "crate::number")]
    pub high: f64,
}

/// What the blocks of one case say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Blocks.
    pub blocks: usize,
    /// Candidate against base, 95 % interval.
    pub change: Change,
    /// The same with the confidence that the number of cases asks for.
    pub adjusted: Change,
    /// Control against base, 95 % interval: what the machine makes up.
    pub control: Change,
    /// p-value, not adjusted.
    #[serde(with = "crate::number")]
    pub p: f64,
    /// p-value adjusted by Holm's method.
    #[serde(with = "crate::number")]
    pub p_adjusted: f64,
    /// Smallest change that would be found with probability 0.8.
    #[serde(with = "crate::number")]
    pub detectable: f64,
}

/// What is said of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The candidate takes less time.
    Faster,
    /// No difference that counts.
    Same,
    /// The candidate takes more time: a regression.
    Slower,
    /// The machine was too noisy or biased to tell. Not a pass.
    Inconclusive,
}

impl Verdict {
    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Same => "same",
            Self::Slower => "slower",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Whether it claims a difference, which a second round has to confirm.
    pub fn is_a_difference(self) -> bool {
        matches!(self, Self::Faster | Self::Slower)
    }
}

/// The evidence of every case, p-values adjusted for their number. Cases with fewer than three blocks,
/// or a time that is not positive, give `None`.
pub fn evidence(cases: &[Vec<Block>], criteria: &Criteria) -> Vec<Option<Evidence>> {
    let measured: Vec<Option<Measured>> = cases.iter().map(|blocks| Measured::of(blocks)).collect();
    let p: Vec<f64> = measured.iter().flatten().map(|measured| measured.p).collect();
    let mut adjusted = holm(&p).into_iter();
    measured
        .iter()
        .map(|measured| {
            let measured = measured.as_ref()?;
            let (p_adjusted, level) = adjusted.next()?;
            Some(measured.evidence(p_adjusted, criteria.alpha / level as f64))
        })
        .collect()
}

/// The verdict of a round.
pub fn verdict(evidence: &Evidence, criteria: &Criteria) -> Verdict {
    let Evidence { change, adjusted, control, .. } = evidence;
    let least = criteria.least_effect;
    // What the control shows may be the machine's: a difference has to stand clear of it.
    if evidence.p_adjusted < criteria.alpha {
        if change.value >= least && adjusted.low > 0.0 && change.low > control.high {
            return Verdict::Slower;
        }
        if change.value <= -least && adjusted.high < 0.0 && change.high < control.low {
            return Verdict::Faster;
        }
        // A change that would be news, and that chance does not explain, is not "the same" because the
        // control is too unsteady to stand clear of.
        if change.value.abs() >= least {
            return Verdict::Inconclusive;
        }
    }
    let within =
        |change: &Change| change.low > -criteria.same_within && change.high < criteria.same_within;
    // A control that is off by more than counts: a real change may hide behind the same bias. One that
    // is merely noisy says nothing against a candidate that was measured well.
    let biased = (control.low > 0.0 || control.high < 0.0) && !within(control);
    if within(change) && !biased { Verdict::Same } else { Verdict::Inconclusive }
}

/// The verdict after a second round of cases that seemed to differ: both have to say the same.
pub fn confirmed(first: Verdict, second: Verdict) -> Verdict {
    if first == second { first } else { Verdict::Inconclusive }
}

struct Measured {
    effects: Vec<f64>,
    controls: Vec<f64>,
    p: f64,
}

impl Measured {
    fn of(blocks: &[Block]) -> Option<Self> {
        let effects: Vec<f64> =
            blocks.iter().map(|block| block.ln_ratio(block.candidate)).collect();
        let controls: Vec<f64> = blocks.iter().map(|block| block.ln_ratio(block.control)).collect();
        let finite = effects.iter().chain(&controls).all(|value| value.is_finite());
        if blocks.len() < 3 || !finite {
            return None;
        }
        let p = p_value(&effects)?;
        Some(Self { effects, controls, p })
    }

    fn evidence(&self, p_adjusted: f64, alpha: f64) -> Evidence {
        let n = self.effects.len();
        let standard_error = deviation(&self.effects) / (n as f64).sqrt();
        let t = |probability| student(n).map_or(f64::NAN, |t| t.inverse_cdf(probability));
        Evidence {
            blocks: n,
            change: interval(&self.effects, 0.05),
            adjusted: interval(&self.effects, alpha),
            control: interval(&self.controls, 0.05),
            p: self.p,
            p_adjusted,
            detectable: ((t(1.0 - alpha / 2.0) + t(POWER)) * standard_error).exp_m1(),
        }
    }
}

fn student(n: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, (n - 1) as f64).ok()
}

/// Standard deviation of a sample.
fn deviation(values: &[f64]) -> f64 {
    let center = mean(values).unwrap_or(f64::NAN);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// Two-sided t test against 0.
fn p_value(values: &[f64]) -> Option<f64> {
    let error = deviation(values) / (values.len() as f64).sqrt();
    let center = mean(values)?;
    if error == 0.0 {
        return Some(if center == 0.0 { 1.0 } else { 0.0 });
    }
    Some(2.0 * student(values.len())?.cdf(-(center / error).abs()))
}

/// Expanded percentile bootstrap interval of the mean, as relative changes.
fn interval(values: &[f64], alpha: f64) -> Change {
    let n = values.len();
    let mut random = SplitMix64::new(0);
    let mut means: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let sum: f64 = (0..n).map(|_| values[random.below(n)]).sum();
        means.push(sum / n as f64);
    }
    let center = mean(values).unwrap_or(f64::NAN);
    // The percentile interval of few values is too narrow twice: by the normal instead of Student's
    // quantile, and by the variance over n instead of n - 1. Widened about the mean, as Hesterberg's
    // adjusted probabilities do, without asking a bootstrap of 4000 for its extreme tails.
    let widening = {
        let tail = 1.0 - alpha / 2.0;
        let t = student(n).map_or(f64::NAN, |t| t.inverse_cdf(tail));
        let z = Normal::new(0.0, 1.0).map_or(f64::NAN, |z| z.inverse_cdf(tail));
        t / z * (n as f64 / (n as f64 - 1.0)).sqrt()
    };
    let end = |probability| {
        let percentile = quantile(&means, probability).unwrap_or(f64::NAN);
        (center + widening * (percentile - center)).exp_m1()
    };
    Change { value: center.exp_m1(), low: end(alpha / 2.0), high: end(1.0 - alpha / 2.0) }
}

/// Holm's step-down adjustment: each p-value with its adjusted one and the number of cases that its
/// confidence is divided by.
pub fn holm(p: &[f64]) -> Vec<(f64, usize)> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![(1.0, 1); p.len()];
    let mut largest: f64 = 0.0;
    for (rank, &index) in order.iter().enumerate() {
        let left = p.len() - rank;
        largest = largest.max((p[index] * left as f64).min(1.0));
        adjusted[index] = (largest, left);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks around a base of 1 s with multiplicative noise per process.
    fn blocks(n: usize, effect: f64, bias: f64, noise: f64, seed: u64) -> Vec<Block> {
        let mut random = SplitMix64::new(seed);
        let mut draw = || (0..12).map(|_| random.below(1000) as f64 / 1000.0).sum::<f64>() - 6.0;
        let mut time = |shift: f64| (shift + noise * draw()).exp();
        (0..n)
            .map(|_| Block {
                base: [time(0.0), time(0.0)],
                control: [time(bias), time(bias)],
                candidate: [time(effect.ln_1p()), time(effect.ln_1p())],
            })
            .collect()
    }

    fn verdict_of(blocks: Vec<Block>) -> Verdict {
        let criteria = Criteria::default();
        verdict(&evidence(&[blocks], &criteria)[0].unwrap(), &criteria)
    }

    #[test]
    fn clear_cases_are_told_apart() {
        assert_eq!(verdict_of(blocks(10, 0.0, 0.0, 0.003, 1)), Verdict::Same);
        assert_eq!(verdict_of(blocks(10, 0.05, 0.0, 0.003, 2)), Verdict::Slower);
        assert_eq!(verdict_of(blocks(10, -0.05, 0.0, 0.003, 3)), Verdict::Faster);
        assert_eq!(verdict_of(blocks(10, 0.0, 0.0, 0.2, 4)), Verdict::Inconclusive);
        // Certain, but no news.
        assert_eq!(verdict_of(blocks(10, 0.005, 0.0, 0.0005, 5)), Verdict::Same);
    }

    #[test]
    fn a_noisy_control_is_no_bias() {
        let mut blocks = blocks(10, 0.0, 0.0, 0.003, 9);
        blocks[3].control = [1.3; 2];
        let found = evidence(&[blocks.clone()], &Criteria::default())[0].unwrap();
        assert!(found.control.high > 0.03, "{found:?}");
        assert_eq!(verdict_of(blocks), Verdict::Same);
    }

    #[test]
    fn a_significant_change_beside_an_unsteady_control_is_not_the_same() {
        for (effect, seed) in [(0.02, 11), (-0.02, 12)] {
            let mut blocks = blocks(10, effect, 0.0, 0.001, seed);
            for (place, block) in blocks.iter_mut().enumerate() {
                block.control = [if place % 2 == 0 { 1.06 } else { 0.945 }; 2];
            }
            let criteria = Criteria::default();
            let found = evidence(&[blocks.clone()], &criteria)[0].unwrap();
            assert!(found.p_adjusted < criteria.alpha, "{found:?}");
            assert!(found.change.low.abs().max(found.change.high.abs()) < 0.03, "{found:?}");
            assert_eq!(verdict_of(blocks), Verdict::Inconclusive);
        }
    }

    #[test]
    fn a_biased_machine_does_not_accuse_the_candidate() {
        // The control is 6 % slower although it is the same program.
        assert_eq!(verdict_of(blocks(10, 0.05, 0.06, 0.003, 6)), Verdict::Inconclusive);
        assert_eq!(verdict_of(blocks(10, 0.0, 0.06, 0.003, 7)), Verdict::Inconclusive);
        // A difference that stands clear of the bias is one.
        assert_eq!(verdict_of(blocks(10, 0.3, 0.06, 0.003, 8)), Verdict::Slower);
    }

    #[test]
    fn false_alarms_are_as_rare_as_asked_for() {
        let criteria = Criteria::default();
        let rounds = 400;
        let mut alarms = 0;
        for round in 0..rounds {
            let cases: Vec<_> =
                (0..3).map(|case| blocks(8, 0.0, 0.0, 0.05, 10 * round + case)).collect();
            let differs = |evidence: &Option<Evidence>| {
                evidence.as_ref().is_some_and(|e| verdict(e, &criteria).is_a_difference())
            };
            alarms += usize::from(evidence(&cases, &criteria).iter().any(differs));
        }
        // 5 % over all three cases would be 20; standing clear of the control makes it fewer.
        assert!(alarms <= 20, "{alarms} of {rounds}");
    }

    #[test]
    fn the_detectable_effect_is_found_as_often_as_it_says() {
        let criteria = Criteria { same_within: 0.03, ..Criteria::default() };
        let noise = 0.02;
        let mut detectable = Vec::new();
        for seed in 0..200 {
            let evidence = evidence(&[blocks(10, 0.0, 0.0, noise, seed)], &criteria)[0].unwrap();
            detectable.push(evidence.detectable);
        }
        let effect = mean(&detectable).unwrap();
        let found = |seed: &u64| {
            let found =
                evidence(&[blocks(10, effect, 0.0, noise, 1000 + seed)], &criteria)[0].unwrap();
            found.p_adjusted < criteria.alpha
        };
        let share = (0..200).filter(found).count() as f64 / 200.0;
        assert!((0.7..0.9).contains(&share), "{share}");
    }

    /// Against statsmodels.stats.multitest.multipletests(p, method="holm").
    #[test]
    fn holm_is_the_published_procedure() {
        let adjusted: Vec<f64> =
            holm(&[0.01, 0.04, 0.03, 0.005]).into_iter().map(|(p, _)| p).collect();
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-15, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.6, 0.9]).into_iter().map(|(p, _)| p).collect::<Vec<_>>(), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn too_little_or_impossible_data_gives_no_evidence() {
        let criteria = Criteria::default();
        assert_eq!(evidence(&[blocks(2, 0.0, 0.0, 0.01, 0)], &criteria), [None]);
        let mut broken = blocks(5, 0.0, 0.0, 0.01, 0);
        broken[0].candidate[0] = 0.0;
        assert_eq!(evidence(&[broken], &criteria), [None]);
        // No noise at all: certain.
        let exact = vec![Block { base: [1.0; 2], control: [1.0; 2], candidate: [1.1; 2] }; 4];
        assert_eq!(verdict_of(exact), Verdict::Slower);
    }

    #[test]
    fn a_difference_needs_both_rounds() {
        assert_eq!(confirmed(Verdict::Slower, Verdict::Slower), Verdict::Slower);
        for second in [Verdict::Same, Verdict::Faster, Verdict::Inconclusive] {
            assert_eq!(confirmed(Verdict::Slower, second), Verdict::Inconclusive);
        }
    }
}
