//! Many series over many tasks: average ranks and which of them differ (Demšar 2006; pairwise
//! Wilcoxon tests with Holm's adjustment instead of Nemenyi's, as Benavoli, Corani & Mangili 2016
//! advise: whether two series differ then does not depend on the others).

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::improvement::{holm, two_sided};
use super::midranks;

/// Differences up to which [`signed_rank_p`] is exact.
const EXACT: usize = 50;

/// Fewest tasks with which a pair of so many series can differ at `alpha`: when one is ahead in all of them.
pub fn fewest_tasks(series: usize, alpha: f64) -> usize {
    let pairs = (series * series.saturating_sub(1) / 2).max(1) as f64;
    (1..EXACT).find(|&n| pairs * 0.5f64.powi(n as i32 - 1) < alpha).unwrap_or(EXACT)
}

/// Series compared over tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    /// Mean rank of each series over the tasks; 1 is best.
    pub average: Vec<f64>,
    /// p of Friedman's test that all series are alike; `None` when nothing differs.
    pub friedman: Option<f64>,
    /// p of each pair (first before second), Holm-adjusted.
    pub pairs: Vec<(usize, usize, f64)>,
    /// Largest sets of series, by average rank, in which no pair differs at 5 %: two or more each.
    pub cliques: Vec<Vec<usize>>,
    /// Tasks.
    pub tasks: usize,
}

impl Ranking {
    /// Of `scores[task][series]`, larger is better; `None` with fewer than two series or tasks, for
    /// NaN, and when rows differ in length.
    pub fn of(scores: &[Vec<f64>]) -> Option<Self> {
        let series = scores.first()?.len();
        let uneven = scores.iter().any(|row| row.len() != series);
        let nan = scores.iter().flatten().any(|score| score.is_nan());
        if scores.len() < 2 || series < 2 || uneven || nan {
            return None;
        }
        let ranked: Vec<Vec<f64>> = scores
            .iter()
            .map(|row| midranks(&row.iter().map(|score| -score).collect::<Vec<_>>()))
            .collect();
        let n = scores.len() as f64;
        let average: Vec<f64> =
            (0..series).map(|s| ranked.iter().map(|row| row[s]).sum::<f64>() / n).collect();
        let mut pairs = Vec::new();
        for a in 0..series {
            for b in a + 1..series {
                let differences: Vec<f64> =
                    scores.iter().map(|row| difference(row[a], row[b])).collect();
                pairs.push((a, b, signed_rank_p(&differences)?));
            }
        }
        let adjusted = holm(&pairs.iter().map(|pair| pair.2).collect::<Vec<_>>());
        for (pair, p) in pairs.iter_mut().zip(adjusted) {
            pair.2 = p;
        }
        let cliques = cliques(&average, &pairs);
        Some(Self { friedman: friedman_p(&ranked), average, pairs, cliques, tasks: scores.len() })
    }
}

/// `a - b`, where two infinities of one sign are equal.
fn difference(a: f64, b: f64) -> f64 {
    if a == b { 0.0 } else { a - b }
}

/// Friedman's chi-square test of ranks (rows are tasks), with the correction for ties.
fn friedman_p(ranks: &[Vec<f64>]) -> Option<f64> {
    let (n, k) = (ranks.len() as f64, ranks.first()?.len());
    let center = (k as f64 + 1.0) / 2.0;
    let column = |s: usize| ranks.iter().map(|row| row[s] - center).sum::<f64>();
    let between: f64 = (0..k).map(|s| column(s).powi(2)).sum();
    let within: f64 = ranks.iter().flatten().map(|rank| (rank - center).powi(2)).sum();
    if within == 0.0 || n < 2.0 {
        return None;
    }
    let statistic = (k as f64 - 1.0) * between / within;
    Some(ChiSquared::new(k as f64 - 1.0).ok()?.sf(statistic))
}

/// Two-sided p of Wilcoxon's signed-rank test (1945); differences of 0 are dropped, equal ones share
/// mid-ranks. Exact up to 50 differences, else the normal approximation. 1 when nothing is left;
/// `None` for NaN.
pub fn signed_rank_p(differences: &[f64]) -> Option<f64> {
    if differences.iter().any(|value| value.is_nan()) {
        return None;
    }
    let kept: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    if kept.is_empty() {
        return Some(1.0);
    }
    let ranks = midranks(&kept.iter().map(|value| value.abs()).collect::<Vec<_>>());
    let positive = || kept.iter().zip(&ranks).filter(|(value, _)| **value > 0.0);
    if kept.len() > EXACT {
        let sum: f64 = positive().map(|(_, rank)| rank).sum();
        let mean: f64 = ranks.iter().sum::<f64>() / 2.0;
        let variance: f64 = ranks.iter().map(|rank| rank * rank).sum::<f64>() / 4.0;
        return two_sided((sum - mean) / variance.sqrt());
    }
    let doubled: Vec<usize> = ranks.iter().map(|rank| (2.0 * rank).round() as usize).collect();
    let total: usize = doubled.iter().sum();
    let observed: usize = positive().map(|(_, rank)| (2.0 * rank).round() as usize).sum();
    let mut ways = vec![0.0f64; total + 1];
    ways[0] = 1.0;
    for rank in doubled {
        for sum in (rank..=total).rev() {
            ways[sum] += ways[sum - rank];
        }
    }
    let all: f64 = ways.iter().sum();
    let below: f64 = ways[..=observed].iter().sum();
    let above: f64 = ways[observed..].iter().sum();
    Some((2.0 * below.min(above) / all).min(1.0))
}

/// Runs of series, by average rank, in which no pair differs.
fn cliques(average: &[f64], pairs: &[(usize, usize, f64)]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..average.len()).collect();
    order.sort_by(|&a, &b| average[a].total_cmp(&average[b]));
    let alike = |a: usize, b: usize| {
        let (a, b) = (a.min(b), a.max(b));
        pairs.iter().any(|&(x, y, p)| (x, y) == (a, b) && p >= 0.05)
    };
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut covered = 0;
    for first in 0..order.len() {
        let mut end = first + 1;
        while end < order.len() && (first..end).all(|place| alike(order[place], order[end])) {
            end += 1;
        }
        // A set that an earlier one holds says nothing new.
        if end - first >= 2 && end > covered {
            found.push(order[first..end].to_vec());
            covered = end;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consistent_ranks_are_told_apart_only_with_enough_tasks() {
        let row = |task: usize| vec![3.0 + task as f64, 2.0, 1.0 - task as f64];
        let few = Ranking::of(&(0..5).map(row).collect::<Vec<_>>()).unwrap();
        assert_eq!(few.average, [1.0, 2.0, 3.0]);
        // Five tasks: no smaller p than 2 / 2^5.
        assert_eq!(few.cliques, [[0, 1, 2]]);
        let many = Ranking::of(&(0..9).map(row).collect::<Vec<_>>()).unwrap();
        assert!(many.cliques.is_empty(), "{many:?}");
        assert!(many.friedman.unwrap() < 0.001);
    }

    #[test]
    fn ties_and_divergence_are_ranked() {
        let worst = f64::NEG_INFINITY;
        let ranking = Ranking::of(&[vec![1.0, 1.0, worst], vec![worst, 2.0, worst]]).unwrap();
        assert_eq!(ranking.average, [2.0, 1.25, 2.75]);
        assert_eq!(Ranking::of(&[vec![1.0, 2.0]]), None);
        assert_eq!(Ranking::of(&[vec![1.0, f64::NAN], vec![1.0, 2.0]]), None);
        let same = Ranking::of(&[vec![1.0, 1.0], vec![1.0, 1.0]]).unwrap();
        assert_eq!((same.friedman, same.pairs), (None, vec![(0, 1, 1.0)]));
    }

    #[test]
    fn overlapping_cliques_are_both_kept() {
        let p = |value: f64| value;
        let pairs = [(0, 1, p(0.3)), (0, 2, p(0.01)), (1, 2, p(0.2))];
        assert_eq!(cliques(&[1.0, 2.0, 3.0], &pairs), [[0, 1], [1, 2]]);
    }
}
