//! Several series against the best of them, which is chosen from the same numbers.
//!
//! The best of many looks good even when all are alike, so p values of pairs with it are too small, and
//! Holm's adjustment over the other series does not know of the choice. Here the choice is part of the test: runs
//! are dealt out to the series at random, the best is chosen again, and how clearly it then stands above any other
//! says what chance alone does (permutation of the maximum: Westfall & Young 1993). A series is told from
//! the best by mistake with the probability of the level at most when all are alike, and less often when some are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::improvement::{EXACT, probability_of_improvement, rank_sum_p};
use super::{SplitMix64, interquartile_mean, mean};

/// Random deals: p values near 0.05 are right to 0.003 (two standard errors).
const DEALS: usize = 20_000;
/// Seed of the deals.
const SEED: u64 = 0x000b_e575;

/// The place of the best sample: the largest interquartile mean, then mean, then the first. `None` without values
/// and for NaN.
pub fn best_of(samples: &[Vec<f64>]) -> Option<usize> {
    let key = |sample: &Vec<f64>| Some((interquartile_mean(sample)?, mean(sample)?));
    let mut best: Option<(usize, (f64, f64))> = None;
    for (place, sample) in samples.iter().enumerate() {
        let key = key(sample)?;
        if best.is_none_or(|(_, least)| key > least) {
            best = Some((place, key));
        }
    }
    best.map(|(place, _)| place)
}

/// For each sample the p of being as good as `best`; 1 for the best itself. Larger values are better, minus
/// infinity is allowed. Of two samples it is the exact test of the rank sum; of more, see the module. `None`
/// where a sample is empty and for NaN.
pub fn against_best(samples: &[Vec<f64>], best: usize) -> Option<Vec<f64>> {
    let wrong = |sample: &Vec<f64>| sample.is_empty() || sample.iter().any(|value| value.is_nan());
    if samples.iter().any(wrong) || best >= samples.len() {
        return None;
    }
    if let [first, second] = samples {
        let (x, y) = if best == 0 { (first, second) } else { (second, first) };
        // Ranks that speak for the other one are no evidence against it.
        let ahead = probability_of_improvement(x, y)? > 0.5;
        let p = if ahead { rank_sum_p(x, y)? } else { 1.0 };
        return Some(if best == 0 { vec![1.0, p] } else { vec![p, 1.0] });
    }
    let observed: Vec<f64> = samples.iter().map(|other| lead(&samples[best], other)).collect();
    let mut largest = deals(samples);
    largest.sort_by(f64::total_cmp);
    let p = |lead: f64| {
        // Leads that differ in rounding alone are equal.
        let below = largest.partition_point(|chance| *chance < lead - 1e-9);
        (1 + largest.len() - below) as f64 / (1 + largest.len()) as f64
    };
    let mut p: Vec<f64> = observed.into_iter().map(p).collect();
    p[best] = 1.0;
    Some(p)
}

/// How far the sum of ranks of `x` lies above what chance makes of it, in standard deviations without ties.
fn lead(x: &[f64], y: &[f64]) -> f64 {
    let mut twice = 0usize;
    for a in x {
        twice += y.iter().map(|b| usize::from(a > b) + usize::from(a >= b)).sum::<usize>();
    }
    let (n1, n2) = (x.len() as f64, y.len() as f64);
    (twice as f64 / 2.0 - n1 * n2 / 2.0) / (n1 * n2 * (n1 + n2 + 1.0) / 12.0).sqrt()
}

/// The largest lead of the best over any other in each deal.
fn deals(samples: &[Vec<f64>]) -> Vec<f64> {
    let mut pool = samples.concat();
    let mut dealt = samples.to_vec();
    let mut random = SplitMix64::new(SEED);
    let deal = |_| {
        for place in (1..pool.len()).rev() {
            pool.swap(place, random.below(place + 1));
        }
        let mut rest = &pool[..];
        for sample in &mut dealt {
            let (own, others) = rest.split_at(sample.len());
            sample.copy_from_slice(own);
            rest = others;
        }
        let best = best_of(&dealt)?;
        let others = dealt.iter().enumerate().filter(|(place, _)| *place != best);
        others.map(|(_, other)| lead(&dealt[best], other)).max_by(f64::total_cmp)
    };
    (0..DEALS).filter_map(deal).collect()
}

/// Fewest values in each of `samples` samples with which [`against_best`] can reach `alpha`: when all values of the
/// best lie above all of another.
pub fn fewest_values(samples: usize, alpha: f64) -> usize {
    static KNOWN: Mutex<BTreeMap<(usize, u64), usize>> = Mutex::new(BTreeMap::new());
    let key = (samples, alpha.to_bits());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(&key) {
        return *found;
    }
    let reaches = |n: &usize| {
        let value = |i: usize| i as f64;
        // The best stands above all others at once: no other values give it a larger lead.
        let samples: Vec<Vec<f64>> =
            (0..samples.max(2)).map(|s| (0..*n).map(|i| value(s * n + i)).collect()).collect();
        let p = against_best(&samples, samples.len() - 1);
        p.is_some_and(|p| p[0] < alpha)
    };
    let found = (2..EXACT / 2).find(reaches).unwrap_or(EXACT / 2);
    known().insert(key, found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_it_is_the_rank_sum_test() {
        let samples = [vec![1.0, 2.0, 3.0, 4.0, 5.0], vec![6.0, 7.0, 8.0, 9.0, 10.0]];
        let p = against_best(&samples, 1).unwrap();
        assert!((p[0] - 2.0 / 252.0).abs() < 1e-12, "{p:?}");
        assert_eq!(p[1], 1.0);
        // The middle half says the first, the ranks say the second: nothing is shown.
        let samples = [vec![0.0, 5.0, 5.0, 5.1], vec![4.9, 5.2, 4.9, 5.2]];
        assert!(against_best(&samples, 0).unwrap()[1] > 0.05);
        assert_eq!((fewest_values(2, 0.05), best_of(&samples)), (4, Some(1)));
    }

    #[test]
    fn the_choice_of_the_best_counts() {
        // All values of the best above all of the others. Alone that has p = 2/252; that the best of five is told so
        // from some other happens in 5.01 % of deals (400,000 simulated elsewhere).
        let samples: Vec<Vec<f64>> =
            (0..5).map(|s| (0..5).map(|i| (5 * s + i) as f64).collect()).collect();
        let p = against_best(&samples, 4).unwrap();
        assert!((0.046..0.054).contains(&p[0]), "{p:?}");
        assert_eq!((p[1], p[2], p[3], p[4]), (p[0], p[0], p[0], 1.0));
        // By the same simulation 8 with 6: 0.034, with 5: 0.100; 17 with 7: 0.035, with 6: 0.095.
        assert_eq!([3, 5, 8, 17].map(|k| fewest_values(k, 0.05)), [5, 6, 6, 7]);
    }

    #[test]
    fn by_chance_alone_nothing_is_told_apart_more_often_than_said() {
        // Four samples of six uniform numbers, 300 times: 5 % are 15, and 27 are three deviations more.
        let mut random = SplitMix64::new(7);
        let mut wrong = 0;
        for _ in 0..300 {
            let samples: Vec<Vec<f64>> =
                (0..4).map(|_| (0..6).map(|_| random.below(1 << 30) as f64).collect()).collect();
            let best = best_of(&samples).unwrap();
            let p = against_best(&samples, best).unwrap();
            wrong += usize::from(p.iter().any(|p| *p < 0.05));
        }
        assert!((3..=27).contains(&wrong), "{wrong} of 300");
    }

    #[test]
    fn infinities_ties_and_nothing() {
        let lost = vec![f64::NEG_INFINITY; 6];
        let samples = [vec![1.0; 6], lost.clone(), vec![1.0; 6]];
        let best = best_of(&samples).unwrap();
        let p = against_best(&samples, best).unwrap();
        assert!(p[1] < 0.05 && p[2] == 1.0 && best == 0, "{p:?}");
        assert_eq!(against_best(&[lost.clone(), lost.clone(), lost], 0), Some(vec![1.0; 3]));
        assert_eq!(against_best(&[vec![1.0], vec![], vec![2.0]], 0), None);
        assert_eq!(against_best(&[vec![1.0], vec![f64::NAN], vec![2.0]], 0), None);
        assert_eq!(best_of(&[]), None);
    }
}
