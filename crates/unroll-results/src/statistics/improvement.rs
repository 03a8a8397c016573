//! Whether one series is better than another, and how sure that is.
//!
//! Values are scores: larger is better, minus infinity is a run that diverged.
//!
//! | measure | definition |
//! |---|---|
//! | probability of improvement | mean over tasks of the share of pairs (x, y) with x > y, equal ones counting half: the normalised U of Mann & Whitney (1947) (Agarwal et al. 2021) |
//! | its interval | percentiles under the bootstrap that resamples the seeds of either series within each task (rliable's `StratifiedIndependentBootstrap`) |
//! | p | two-sided permutation test of the rank sum, exact with mid-ranks up to [`EXACT`] values, else the normal approximation with the correction for ties |
//! | performance profile | share of runs with a score above tau |

use statrs::distribution::{ContinuousCDF, Normal};

use super::{Interval, SplitMix64, midranks, quantile};

/// Values of both samples up to which the permutation test is exact.
pub const EXACT: usize = 60;

/// `P(x > y) + P(x = y) / 2` over all pairs; `None` without a pair and for NaN.
pub fn probability_of_improvement(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.is_empty() || y.is_empty() || x.iter().chain(y).any(|value| value.is_nan()) {
        return None;
    }
    let mut twice = 0usize;
    for a in x {
        for b in y {
            twice += usize::from(a > b) + usize::from(a >= b);
        }
    }
    Some(twice as f64 / (2 * x.len() * y.len()) as f64)
}

/// The mean over tasks of [`probability_of_improvement`]: one pair of samples for each task.
pub fn mean_probability_of_improvement(tasks: &[(Vec<f64>, Vec<f64>)]) -> Option<f64> {
    let each: Option<Vec<f64>> =
        tasks.iter().map(|(x, y)| probability_of_improvement(x, y)).collect();
    super::mean(&each?)
}

/// 95 % interval of [`mean_probability_of_improvement`]. The same `seed` gives the same interval.
pub fn improvement_interval(
    tasks: &[(Vec<f64>, Vec<f64>)],
    resamples: usize,
    seed: u64,
) -> Option<Interval> {
    mean_probability_of_improvement(tasks)?;
    let mut random = SplitMix64(seed);
    // Which of two runs is better is looked up, not computed again for each resample.
    let wins: Vec<Vec<Vec<f64>>> = tasks
        .iter()
        .map(|(x, y)| {
            let row = |a: &f64| y.iter().map(|b| half_steps(*a, *b)).collect();
            x.iter().map(row).collect()
        })
        .collect();
    let mut found = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        let mut sum = 0.0;
        for ((x, y), wins) in tasks.iter().zip(&wins) {
            let columns: Vec<usize> = (0..y.len()).map(|_| random.below(y.len())).collect();
            let mut won = 0.0;
            for _ in 0..x.len() {
                let row = &wins[random.below(x.len())];
                won += columns.iter().map(|&column| row[column]).sum::<f64>();
            }
            sum += won / (x.len() * y.len()) as f64;
        }
        found.push(sum / tasks.len() as f64);
    }
    Some(Interval { low: quantile(&found, 0.025)?, high: quantile(&found, 0.975)? })
}

fn half_steps(a: f64, b: f64) -> f64 {
    0.5 * (f64::from(u8::from(a > b)) + f64::from(u8::from(a >= b)))
}

/// Two-sided p of the hypothesis that both samples come from one distribution, by the sum of ranks.
/// `None` without values on either side and for NaN.
pub fn rank_sum_p(x: &[f64], y: &[f64]) -> Option<f64> {
    let all: Vec<f64> = x.iter().chain(y).copied().collect();
    if x.is_empty() || y.is_empty() || all.iter().any(|value| value.is_nan()) {
        return None;
    }
    let ranks = midranks(&all);
    if all.len() > EXACT {
        return rank_sum_normal(&ranks, x.len());
    }
    // Mid-ranks are halves: twice of them are whole numbers, and their sums can be counted.
    let doubled: Vec<usize> = ranks.iter().map(|rank| (2.0 * rank).round() as usize).collect();
    let total: usize = doubled.iter().sum();
    let observed: usize = doubled[..x.len()].iter().sum();
    // ways[k][s]: subsets of k values whose doubled ranks sum to s.
    let mut ways = vec![vec![0.0f64; total + 1]; x.len() + 1];
    ways[0][0] = 1.0;
    for rank in doubled {
        for taken in (1..=x.len()).rev() {
            for sum in (rank..=total).rev() {
                ways[taken][sum] += ways[taken - 1][sum - rank];
            }
        }
    }
    let counts = &ways[x.len()];
    let all: f64 = counts.iter().sum();
    let below: f64 = counts[..=observed].iter().sum();
    let above: f64 = counts[observed..].iter().sum();
    Some((2.0 * below.min(above) / all).min(1.0))
}

fn rank_sum_normal(ranks: &[f64], taken: usize) -> Option<f64> {
    let (n, n1) = (ranks.len() as f64, taken as f64);
    let n2 = n - n1;
    let sum: f64 = ranks[..taken].iter().sum();
    let mean = n1 * (n + 1.0) / 2.0;
    let center = (n + 1.0) / 2.0;
    // With ties the mid-ranks' own variance is the right one.
    let spread: f64 = ranks.iter().map(|rank| (rank - center).powi(2)).sum();
    let variance = n1 * n2 * spread / (n * (n - 1.0));
    if variance == 0.0 {
        return Some(1.0);
    }
    two_sided((sum - mean) / variance.sqrt())
}

/// Two-sided p of a standard normal value.
pub(super) fn two_sided(z: f64) -> Option<f64> {
    Some((2.0 * Normal::new(0.0, 1.0).ok()?.cdf(-z.abs())).min(1.0))
}

/// Seeds for each series with which a rank sum test at `alpha` has a power of 80 % if the probability
/// of improvement is what it is now (Noether 1987), and with which it could reach `alpha` at all;
/// `None` when there is no difference to find, or only with more than 1,000.
pub fn seeds_needed(probability: f64, alpha: f64) -> Option<usize> {
    let normal = Normal::new(0.0, 1.0).ok()?;
    let effect = (probability - 0.5).abs();
    let alpha_valid = alpha > 0.0 && alpha < 1.0;
    if !(effect > 0.0 && alpha_valid) {
        return None;
    }
    let z = normal.inverse_cdf(1.0 - alpha / 2.0) + normal.inverse_cdf(0.8);
    let wanted = (z * z / (6.0 * effect * effect)).ceil();
    (wanted <= 1000.0).then(|| (wanted as usize).max(fewest_seeds(alpha)))
}

/// Fewest seeds with which the exact test can reach `alpha`: `2 / C(2n, n) < alpha`.
pub fn fewest_seeds(alpha: f64) -> usize {
    let mut subsets = 1.0;
    for n in 1..EXACT / 2 {
        let n = n as f64;
        subsets *= (2.0 * n - 1.0) * (2.0 * n) / (n * n);
        if 2.0 / subsets < alpha {
            return n as usize;
        }
    }
    EXACT / 2
}

/// Holm's step-down adjustment of p values (1979), in their order.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut largest = 0.0f64;
    for (done, &index) in order.iter().enumerate() {
        largest = largest.max((p.len() - done) as f64 * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Two series seed by seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paired {
    /// Seeds that both have.
    pub n: usize,
    /// Of these, on which the first is better.
    pub wins: usize,
    /// Of these, on which both are equal.
    pub ties: usize,
}

impl Paired {
    /// Of (seed, score) pairs; seeds that only one side has are left out.
    pub fn of(x: &[(u64, f64)], y: &[(u64, f64)]) -> Self {
        let mut paired = Self::default();
        for (seed, a) in x {
            if let Some((_, b)) = y.iter().find(|(other, _)| other == seed) {
                paired.n += 1;
                paired.wins += usize::from(a > b);
                paired.ties += usize::from(a == b);
            }
        }
        paired
    }
}

/// The share of `scores` above each of `taus`: a performance profile.
pub fn profile(scores: &[f64], taus: &[f64]) -> Vec<f64> {
    let n = scores.len().max(1) as f64;
    let mut sorted: Vec<f64> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    sorted.sort_by(f64::total_cmp);
    let above =
        |tau: &f64| (sorted.len() - sorted.partition_point(|score| score <= tau)) as f64 / n;
    taus.iter().map(above).collect()
}

/// 95 % pointwise intervals of [`profile`] under the stratified bootstrap: (low, high) at each tau.
pub fn profile_band(
    strata: &[Vec<f64>],
    taus: &[f64],
    resamples: usize,
    seed: u64,
) -> Vec<(f64, f64)> {
    let mut random = SplitMix64(seed);
    let mut found = vec![Vec::with_capacity(resamples); taus.len()];
    let mut pooled = Vec::new();
    for _ in 0..resamples {
        pooled.clear();
        for stratum in strata {
            pooled.extend((0..stratum.len()).map(|_| stratum[random.below(stratum.len())]));
        }
        for (values, share) in found.iter_mut().zip(profile(&pooled, taus)) {
            values.push(share);
        }
    }
    let ends = |values: &Vec<f64>| {
        let at = |probability| quantile(values, probability).unwrap_or(0.0);
        (at(0.025), at(0.975))
    };
    found.iter().map(ends).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_seeds_separate_nothing_and_four_can() {
        let p = rank_sum_p(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]).unwrap();
        assert!((p - 0.1).abs() < 1e-12);
        let p = rank_sum_p(&[4.0, 5.0, 6.0, 7.0], &[0.0, 1.0, 2.0, 3.0]).unwrap();
        assert!((p - 2.0 / 70.0).abs() < 1e-12);
        assert_eq!((fewest_seeds(0.05), fewest_seeds(0.05 / 4.0)), (4, 5));
        // Nothing but ties: every order of the values is the same.
        assert_eq!(rank_sum_p(&[1.0; 4], &[1.0; 5]), Some(1.0));
        let diverged = [f64::NEG_INFINITY; 4];
        assert!(rank_sum_p(&diverged, &[1.0, 2.0, 3.0, 4.0]).unwrap() < 0.05);
        assert_eq!(rank_sum_p(&[], &[1.0]), None);
    }

    #[test]
    fn the_normal_approximation_meets_the_exact_test() {
        let x: Vec<f64> = (0..30).map(|i| f64::from(i * 7 % 30)).collect();
        let y: Vec<f64> = (0..30).map(|i| f64::from(i * 11 % 30) + 4.5).collect();
        let exact = rank_sum_p(&x, &y).unwrap();
        let ranks = midranks(&x.iter().chain(&y).copied().collect::<Vec<_>>());
        let normal = rank_sum_normal(&ranks, 30).unwrap();
        assert!((exact - normal).abs() < 0.005, "{exact} {normal}");
    }

    #[test]
    fn more_seeds_are_needed_for_smaller_effects() {
        // Noether (1987): (1.96 + 0.84)^2 / (6 * 0.2^2) = 32.7.
        assert_eq!(seeds_needed(0.7, 0.05), Some(33));
        assert_eq!(seeds_needed(0.3, 0.05), Some(33));
        assert_eq!(seeds_needed(1.0, 0.05), Some(6));
        assert_eq!(seeds_needed(0.5, 0.05), None);
        assert_eq!(seeds_needed(0.501, 0.05), None);
    }

    #[test]
    fn pairs_need_both_seeds() {
        let x = [(0, 1.0), (1, 2.0), (2, 3.0)];
        let y = [(2, 3.0), (1, 1.0), (7, 0.0)];
        assert_eq!(Paired::of(&x, &y), Paired { n: 2, wins: 1, ties: 1 });
    }

    proptest! {
        #[test]
        fn improvement_is_antisymmetric(
            x in prop::collection::vec(0u8..6, 1..8), y in prop::collection::vec(0u8..6, 1..8),
        ) {
            let (x, y): (Vec<f64>, Vec<f64>) =
                (x.into_iter().map(f64::from).collect(), y.into_iter().map(f64::from).collect());
            let forth = probability_of_improvement(&x, &y).unwrap();
            let back = probability_of_improvement(&y, &x).unwrap();
            prop_assert!((forth + back - 1.0).abs() < 1e-12);
            let p = rank_sum_p(&x, &y).unwrap();
            prop_assert!(p > 0.0 && p <= 1.0);
            prop_assert!((p - rank_sum_p(&y, &x).unwrap()).abs() < 1e-12);
        }
    }
}
