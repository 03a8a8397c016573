use super::*;
use crate::testing;
use crate::{Summary, TrialRecord};

fn runs(series: &str, length: usize, values: &[f64]) -> Vec<TrialRecord> {
    let run = |(seed, value): (u64, &f64)| testing::quality(series, length, seed, *value);
    (0..).zip(values).map(run).collect()
}

fn decide_all(records: &[Vec<TrialRecord>]) -> Decisions {
    Decisions::of(&Summary::from_records(&records.concat()))
}

#[test]
fn a_clear_winner_is_named_and_the_rest_is_worse() {
    let decisions = decide_all(&[
        runs("rnn", 50, &[0.16, 0.17, 0.165, 0.168, 0.169]),
        runs("gru", 50, &[0.05, 0.06, 0.055, 0.052, 0.051]),
    ]);
    let cell = &decisions.cells[0];
    assert_eq!(cell.winner().series, "gru");
    let versus = cell.candidates[0].versus.as_ref().unwrap();
    assert!(versus.worse && versus.probability == 1.0, "{versus:?}");
    assert_eq!((versus.paired.wins, versus.paired.n), (5, 5));
    assert_eq!(versus.interval, Some(Interval { low: 1.0, high: 1.0 }));
    assert_eq!(cell.open().count(), 0);
}

#[test]
fn few_seeds_separate_nothing_and_say_how_many_would() {
    let decisions =
        decide_all(&[runs("rnn", 50, &[0.16, 0.17, 0.165]), runs("gru", 50, &[0.05, 0.06, 0.055])]);
    let versus = decisions.cells[0].candidates[0].versus.clone().unwrap();
    assert!(!versus.worse);
    assert_eq!((versus.interval, versus.seeds_needed), (None, Some(6)));
    assert_eq!(decisions.cells[0].candidates[0].interval, None);
    assert_eq!((fewest_seeds_for(2), fewest_seeds_for(5)), (4, 6));
}

#[test]
fn beyond_solved_nothing_is_gained() {
    // All below 0.01: solved. The one with the smaller error is not better.
    let decisions = decide_all(&[
        runs("gru", 50, &[0.005, 0.006, 0.004, 0.005, 0.003]),
        runs("lstm", 50, &[0.0001, 0.0002, 0.0001, 0.0001, 0.0001]),
    ]);
    let cell = &decisions.cells[0];
    let versus = cell.rivals().next().unwrap().1;
    assert!(versus.equal && !versus.worse && versus.seeds_needed.is_none(), "{versus:?}");
    assert_eq!(cell.winner().longest_solved, Some(50));
}

#[test]
fn diverged_runs_are_the_worst_and_failed_ones_are_not_counted() {
    let mut rnn = runs("rnn", 50, &[0.02; 5]);
    rnn[0] = testing::diverged(rnn[0].clone(), 3);
    rnn[1] = testing::diverged(rnn[1].clone(), 3);
    rnn[2] = testing::failed(rnn[2].clone());
    let decisions = decide_all(&[rnn, runs("gru", 50, &[0.05; 5])]);
    let cell = &decisions.cells[0];
    assert_eq!(cell.winner().series, "gru");
    assert_eq!(cell.candidates[0].scores.len(), 4);
    // Whatever the weights gave when the run broke off is no result.
    let mut lucky = runs("rnn", 50, &[0.001; 5]);
    for run in &mut lucky {
        *run = testing::diverged(run.clone(), 3);
        run.quality.as_mut().unwrap().test = 0.001;
    }
    let decisions = decide_all(&[lucky, runs("gru", 50, &[0.05; 5])]);
    let cell = &decisions.cells[0];
    let rnn = &cell.candidates[0];
    assert_eq!((cell.winner().series.as_str(), rnn.metric, rnn.diverged), ("gru", None, 5));
    assert_eq!(rnn.versus.as_ref().unwrap().probability, 1.0);
    assert!(rnn.versus.as_ref().unwrap().worse && rnn.dominated_by.is_some());
    let all_failed: Vec<_> = runs("rnn", 50, &[0.1]).into_iter().map(testing::failed).collect();
    assert_eq!(decide_all(&[all_failed]), Decisions { cells: Vec::new(), overall: None });
    assert_eq!(decide_all(&[]).cells, []);
}

#[test]
fn the_front_holds_what_nothing_beats_and_choices_are_not_worse() {
    let cost = |mut records: Vec<TrialRecord>, parameters: u64| {
        for record in &mut records {
            if let Some(cost) = &mut record.cost {
                cost.parameters = parameters;
            }
        }
        records
    };
    let decisions = decide_all(&[
        cost(runs("rnn", 50, &[0.15, 0.16, 0.155, 0.152, 0.151]), 100),
        cost(runs("gru", 50, &[0.05, 0.06, 0.055, 0.052, 0.051]), 200),
        cost(runs("lstm", 50, &[0.053, 0.0601, 0.0551, 0.0522, 0.0511]), 150),
        cost(runs("mha", 50, &[0.15, 0.165, 0.156, 0.153, 0.152]), 300),
    ]);
    let cell = &decisions.cells[0];
    let dominated: Vec<_> = cell.candidates.iter().map(|c| c.dominated_by.as_deref()).collect();
    assert_eq!(dominated, [None, None, None, Some("rnn")]);
    assert_eq!(cell.objectives, [Objective::Metric, Objective::Parameters]);
    // rnn has fewer parameters still, and is worse.
    assert_eq!(cell.choices.len(), 1);
    assert_eq!(cell.candidates[cell.choices[0].candidate].series, "lstm");
    assert!((cell.choices[0].factor - 200.0 / 150.0).abs() < 1e-12);
}

#[test]
fn several_cells_are_ranked_over_the_series_that_all_have() {
    let mut records = Vec::new();
    for length in [10, 20, 30] {
        records.push(runs("rnn", length, &[0.2; 5]));
        records.push(runs("gru", length, &[1.0 / 12.0; 5]));
    }
    let decisions = decide_all(&records);
    let overall = decisions.overall.unwrap();
    assert_eq!(overall.cells.len(), 3);
    assert_eq!(overall.ranking.as_ref().unwrap().average, [2.0, 1.0]);
    assert_eq!(overall.order(), [1, 0]);
    // 1/6 is the baseline: half of it is a skill of one half, and more is none.
    assert!((overall.series[1].skill.unwrap() - 0.5).abs() < 1e-12);
    assert_eq!(overall.series[0].skill, Some(0.0));
    assert_eq!(overall.series[1].profile[0], 1.0);
    assert_eq!(*overall.series[1].profile.last().unwrap(), 0.0);
    assert_eq!((overall.series[1].first, overall.series[1].band.len()), (3, TAUS));
    records.pop();
    assert_eq!(decide_all(&records).overall.unwrap().cells.len(), 2);
}

#[test]
fn a_run_that_trimming_hides_still_counts() {
    let decisions = decide_all(&[
        runs("lstm", 50, &[0.005, 0.005, 0.005, 0.005, 0.05]),
        runs("gru", 50, &[0.005; 5]),
    ]);
    let cell = &decisions.cells[0];
    assert_eq!(cell.winner().series, "gru");
    assert!(cell.undecided());
    assert_eq!(cell.winner().above_chance, Some(5));
}

#[test]
fn lengths_are_solved_without_a_gap() {
    let mut records = Vec::new();
    for (length, value) in [(10, 0.001), (20, 0.1), (50, 0.001)] {
        records.push(runs("gru", length, &[value; 3]));
        records.push(runs("rnn", length, &[0.001; 3]));
    }
    // One seed of the other could not run at the longest.
    let last = records.len() - 1;
    records[last][0] = testing::failed(records[last][0].clone());
    let decisions = decide_all(&records);
    let longest: Vec<_> = decisions.cells[0]
        .candidates
        .iter()
        .map(|c| (c.series.as_str(), c.longest_solved))
        .collect();
    assert_eq!(longest, [("gru", Some(10)), ("rnn", Some(20))]);
    // Level with the best is first too; where nobody learns, nobody is.
    let level = decide_all(&[
        runs("gru", 10, &[0.001; 3]),
        runs("rnn", 10, &[0.001; 3]),
        runs("gru", 20, &[0.5; 3]),
        runs("rnn", 20, &[0.4; 3]),
    ]);
    let first: Vec<_> = level.overall.unwrap().series.iter().map(|series| series.first).collect();
    assert_eq!(first, [1, 1]);
}

#[test]
fn a_fitted_reference_is_no_chance_level() {
    let mut records = runs("gru", 50, &[0.05, 0.06, 0.055]);
    for record in &mut records {
        let quality = record.quality.as_mut().unwrap();
        quality.baselines.push(BaselineValue {
            name: "ridge regression".into(),
            value: 0.02,
            fitted: true,
        });
    }
    let decisions = decide_all(&[records, runs("rnn", 50, &[0.16, 0.15, 0.15])]);
    let cell = &decisions.cells[0];
    assert_eq!(cell.baseline.as_ref().unwrap().name, "always answer 1");
    assert_eq!(cell.reference.as_ref().unwrap().value, 0.02);
    assert_eq!((cell.winner().above_chance, cell.nothing_learned), (Some(3), false));
}
