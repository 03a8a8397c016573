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
    assert_eq!((cell.open().count(), cell.standing()), (0, Standing::SingledOut));
}

#[test]
fn one_that_is_worse_singles_out_none_of_the_others() {
    let decisions = decide_all(&[
        runs("rnn", 50, &[0.16; 6]),
        runs("gru", 50, &[0.005; 6]),
        runs("lstm", 50, &[0.005, 0.005, 0.005, 0.005, 0.005, 0.02]),
    ]);
    let cell = &decisions.cells[0];
    let names = |found: Vec<(&Candidate, &Versus)>| {
        found.into_iter().map(|(c, _)| c.series.clone()).collect::<Vec<_>>()
    };
    assert_eq!((cell.winner().series.as_str(), cell.standing()), ("gru", Standing::Open));
    assert_eq!(names(cell.ruled_out().collect()), ["rnn"]);
    assert_eq!(names(cell.open().collect()), ["lstm"]);
    assert!(!cell.too_few_seeds());
    let alone = decide_all(&[runs("gru", 50, &[0.005; 6])]);
    assert_eq!(alone.cells[0].standing(), Standing::Alone);
}

/// The same runs with so many parameters: fewer are cheaper.
fn cost(mut records: Vec<TrialRecord>, parameters: u64) -> Vec<TrialRecord> {
    for record in &mut records {
        if let Some(cost) = &mut record.cost {
            cost.parameters = parameters;
        }
    }
    records
}

#[test]
fn what_is_at_chance_as_a_whole_is_no_choice() {
    // 1/6 is the baseline. The first is on both sides of it, as noise is, and cheap.
    let noise = [0.15, 0.16, 0.16, 0.18, 0.18, 0.19];
    let decisions = decide_all(&[
        cost(runs("rnn", 48, &noise), 100),
        cost(runs("gru", 48, &[0.15, 0.15, 0.15, 0.15, 0.19, 0.19]), 200),
    ]);
    let cell = &decisions.cells[0];
    assert_eq!((cell.winner().series.as_str(), cell.winner().learned), ("gru", Some(true)));
    let rnn = &cell.candidates[0];
    assert_eq!((rnn.learned, rnn.above_chance), (Some(false), Some(3)));
    assert!(!rnn.versus.as_ref().unwrap().worse && cell.choices.is_empty(), "{cell:?}");
    // Where the best is no better, there is nothing to choose from at all.
    let decisions =
        decide_all(&[cost(runs("rnn", 48, &[0.2; 6]), 100), cost(runs("gru", 48, &noise), 200)]);
    let cell = &decisions.cells[0];
    assert_eq!((cell.nothing_learned, cell.standing()), (false, Standing::NothingLearned));
    assert!(cell.choices.is_empty());
    // The best of several that know nothing is above the baseline by a little: five runs of six are no evidence. Six
    // of six are, for one of two series, and so is a fiftieth of what there is to gain with any number.
    let level = 1.0 / 6.0;
    let little = |signs: &[f64]| {
        let values: Vec<f64> = signs.iter().map(|sign| level - 0.001 * sign).collect();
        decide_all(&[runs("gru", 48, &values), runs("rnn", 48, &[0.2; 6])]).cells.remove(0)
    };
    let cell = little(&[1.0, 1.0, 1.0, 1.0, 1.0, -1.0]);
    assert_eq!((cell.winner().learned, cell.winner().above_chance), (Some(false), Some(5)));
    assert_eq!(little(&[1.0; 6]).winner().learned, Some(true));
    assert_eq!(little(&[1.0; 2]).winner().learned, Some(false));
    assert_eq!(little(&[4.0; 2]).winner().learned, Some(true));
    // Diverging is no way to be better: two of three runs count as worse than any number.
    let mut diverged = runs("lstm", 48, &[0.01; 3]);
    for run in &mut diverged[..2] {
        *run = testing::diverged(run.clone(), 3);
    }
    assert_eq!(decide_all(&[diverged]).cells[0].candidates[0].learned, Some(false));
}

#[test]
fn what_is_far_behind_is_no_choice_whatever_a_test_shows() {
    let solved = [0.005; 6];
    let of = |values: &[f64]| {
        decide_all(&[cost(runs("gru", 50, &solved), 200), cost(runs("lstm", 50, values), 100)])
    };
    // Two of six solved: not shown to be worse by a test that knows of the choice, and no advice all the same.
    let behind = of(&[0.005, 0.005, 0.12, 0.13, 0.14, 0.15]).cells[0].clone();
    let versus = behind.candidates[1].versus.as_ref().unwrap();
    assert!(!versus.worse && versus.probability > 0.8, "{versus:?}");
    assert!(behind.choices.is_empty());
    // Five of six are close, and all six are as good.
    assert_eq!(of(&[0.005, 0.005, 0.005, 0.005, 0.005, 0.15]).cells[0].choices.len(), 1);
    // Two seeds show nothing, not even where every run of the one is better.
    let few = decide_all(&[
        cost(runs("gru", 50, &[0.005, 0.006]), 200),
        cost(runs("lstm", 50, &[0.12, 0.13]), 100),
    ]);
    let cell = &few.cells[0];
    assert!(cell.too_few_seeds() && cell.choices.is_empty());
}

#[test]
fn runs_that_stopped_by_validation_and_missed_on_the_test_are_told() {
    let mut gru = runs("gru", 50, &[0.005, 0.0118, 0.005]);
    gru[1].quality.as_mut().unwrap().steps_to_threshold = Some(20);
    let lstm = runs("lstm", 50, &[0.005; 3]);
    let cell = decide_all(&[gru.clone(), lstm.clone()]).cells.remove(0);
    assert_eq!((cell.candidates[0].solved, cell.candidates[0].missed_on_test), (2, 1));
    assert!(cell.candidates[0].versus.as_ref().unwrap().by_stopping);
    // A run that went on, or never got there, is another thing.
    gru[1].quality.as_mut().unwrap().steps_to_threshold = Some(10);
    let cell = decide_all(&[gru, lstm]).cells.remove(0);
    assert_eq!(cell.candidates[0].missed_on_test, 0);
    assert!(!cell.candidates[0].versus.as_ref().unwrap().by_stopping);
}

#[test]
fn speed_is_measured_the_same_way_for_all() {
    let step = |series: &str| {
        let mut record = testing::measured(series, 50, 0, "cpu");
        record.throughput[0].phase = Phase::TrainStep;
        record
    };
    let both = [runs("gru", 50, &[0.1; 3]), runs("rnn", 50, &[0.1; 3])].concat();
    let speeds = |records: &[TrialRecord]| {
        let cell = Decisions::of(&Summary::from_records(records)).cells.remove(0);
        let speeds: Vec<_> = cell.candidates.iter().map(|c| c.tokens_per_s).collect();
        (cell.speed, speeds)
    };
    // 20 steps of 320 tokens in 2 seconds.
    let clock = (Speed::Training, vec![Some(3200.0); 2]);
    assert_eq!(speeds(&both), clock);
    // One series with times of its own does not compare with the clock of the other.
    assert_eq!(speeds(&[both.clone(), vec![step("gru")]].concat()), clock);
    let all = [both, vec![step("gru"), step("rnn")]].concat();
    assert_eq!(speeds(&all), (Speed::Step, vec![Some(1e5); 2]));
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
    // The profile falls where the runs are, and nowhere else.
    let profile = &overall.series[1].profile;
    assert_eq!(profile.iter().map(|at| at.1).collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
    assert!((profile[1].0 - 0.5).abs() < 1e-12 && profile[2].0 == 1.0, "{profile:?}");
    assert_eq!(overall.series[0].profile, [(0.0, 0.0), (1.0, 0.0)]);
    assert_eq!((overall.series[1].first, overall.series[1].band.len()), (3, 3));
    records.pop();
    assert_eq!(decide_all(&records).overall.unwrap().cells.len(), 2);
}

#[test]
fn cells_in_which_nothing_was_learned_have_no_ranks() {
    let mut records = Vec::new();
    for (length, gru, rnn) in [(10, 0.05, 0.1), (20, 0.06, 0.1), (30, 0.18, 0.17)] {
        // One run of the last is below 1/6, as noise is.
        let lucky = if length == 30 { 0.16 } else { rnn };
        records.push(runs("rnn", length, &[lucky, rnn, rnn, rnn, rnn]));
        records.push(runs("gru", length, &[gru; 5]));
    }
    let overall = decide_all(&records).overall.unwrap();
    assert_eq!((overall.cells.len(), overall.learned, overall.skill_cells), (3, 2, 3));
    let ranking = overall.ranking.as_ref().unwrap();
    assert_eq!((ranking.tasks, &ranking.average[..]), (2, &[2.0, 1.0][..]));
    assert_eq!((overall.series[0].first, overall.series[1].first), (0, 2));
    // With one cell left there is nothing to rank over.
    let few = decide_all(&records[2..]).overall.unwrap();
    assert_eq!((few.learned, few.ranking), (1, None));
}

#[test]
fn a_run_that_trimming_hides_still_counts() {
    let decisions = decide_all(&[
        runs("lstm", 50, &[0.005, 0.005, 0.005, 0.005, 0.05]),
        runs("gru", 50, &[0.005; 5]),
    ]);
    let cell = &decisions.cells[0];
    assert_eq!(cell.winner().series, "gru");
    assert_eq!(cell.standing(), Standing::Open);
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
