//! Statistics against rliable and scipy on the same numbers: `scripts/statistics_vectors.py`.

use serde::Deserialize;
use unroll_results::statistics::improvement::{
    holm, improvement_interval, mean_probability_of_improvement, profile, profile_band, rank_sum_p,
};
use unroll_results::statistics::ranks::{Ranking, signed_rank_p};
use unroll_results::statistics::{Interval, interquartile_mean, stratified_bootstrap};

#[derive(Deserialize)]
struct Vectors {
    iqm: Vec<Iqm>,
    improvement: Vec<Improvement>,
    rank_sum: Vec<RankSum>,
    signed_rank: Vec<SignedRank>,
    holm: Vec<Holm>,
    friedman: Vec<Friedman>,
    profile: Vec<Profile>,
}

#[derive(Deserialize)]
struct Iqm {
    tasks: Vec<Vec<f64>>,
    iqm: f64,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct Improvement {
    x: Vec<Vec<f64>>,
    y: Vec<Vec<f64>>,
    probability: f64,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct RankSum {
    x: Vec<f64>,
    y: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct SignedRank {
    differences: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct Holm {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct Friedman {
    scores: Vec<Vec<f64>>,
    average: Vec<f64>,
    p: f64,
}

#[derive(Deserialize)]
struct Profile {
    tasks: Vec<Vec<f64>>,
    taus: Vec<f64>,
    profile: Vec<f64>,
    band: [Vec<f64>; 2],
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/statistics.json")).unwrap()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{a} and {b}");
}

/// Ends of two bootstrap intervals: each has a Monte-Carlo error of some per cent of the width.
fn near(found: Interval, expected: [f64; 2]) {
    let slack = 0.04 * (expected[1] - expected[0]) + 1e-9;
    assert!(
        (found.low - expected[0]).abs() <= slack && (found.high - expected[1]).abs() <= slack,
        "{found:?} and {expected:?}"
    );
}

#[test]
fn interquartile_means_and_their_intervals_are_those_of_rliable() {
    for case in vectors().iqm {
        let pooled = case.tasks.concat();
        close(interquartile_mean(&pooled).unwrap(), case.iqm);
        let strata: Vec<&[f64]> = case.tasks.iter().map(Vec::as_slice).collect();
        let found = stratified_bootstrap(&strata, interquartile_mean, 0.95, 20_000, 3).unwrap();
        near(found, case.interval);
    }
}

#[test]
fn probabilities_of_improvement_are_those_of_rliable() {
    for case in vectors().improvement {
        let tasks: Vec<(Vec<f64>, Vec<f64>)> = case.x.into_iter().zip(case.y).collect();
        close(mean_probability_of_improvement(&tasks).unwrap(), case.probability);
        // rliable has 2,000 resamples here, which leave its ends that much less sure.
        let found = improvement_interval(&tasks, 20_000, 3).unwrap();
        let slack = 0.06 * (case.interval[1] - case.interval[0]) + 1e-9;
        assert!((found.low - case.interval[0]).abs() <= slack, "{found:?} {:?}", case.interval);
        assert!((found.high - case.interval[1]).abs() <= slack, "{found:?} {:?}", case.interval);
    }
}

#[test]
fn rank_tests_are_those_of_scipy() {
    let vectors = vectors();
    for case in vectors.rank_sum {
        close(rank_sum_p(&case.x, &case.y).unwrap(), case.p);
    }
    for case in vectors.signed_rank {
        close(signed_rank_p(&case.differences).unwrap(), case.p);
    }
    for case in vectors.holm {
        for (found, expected) in holm(&case.p).into_iter().zip(case.adjusted) {
            close(found, expected);
        }
    }
    for case in vectors.friedman {
        let ranking = Ranking::of(&case.scores).unwrap();
        close(ranking.friedman.unwrap(), case.p);
        for (found, expected) in ranking.average.into_iter().zip(case.average) {
            close(found, expected);
        }
    }
}

#[test]
fn performance_profiles_are_those_of_rliable() {
    for case in vectors().profile {
        let pooled = case.tasks.concat();
        for (found, expected) in profile(&pooled, &case.taus).into_iter().zip(case.profile) {
            close(found, expected);
        }
        let band = profile_band(&case.tasks, &case.taus, 2000, 5);
        for (index, (low, high)) in band.into_iter().enumerate() {
            // Shares of 18 runs: an end may fall on the next one.
            assert!((low - case.band[0][index]).abs() < 0.06, "{index}");
            assert!((high - case.band[1][index]).abs() < 0.06, "{index}");
        }
    }
}
