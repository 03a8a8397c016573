use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::data::file::fixtures;

/// A series in which every load is its own hour, so that inputs and targets tell where they are
/// from; from `jump` on it is another one.
fn counting(hours: usize, jump: usize) -> Hourly {
    let mut text = String::from("ts,y\n");
    for index in 0..hours {
        let (day, hour) = (1 + index / 24, index % 24);
        let load = if index < jump { index } else { 1_000_000 + 7 * index };
        writeln!(text, "2012-01-{day:02} {hour:02}:00:00,{load}").unwrap();
    }
    let (_folder, path) = fixtures::file(&fixtures::gzip(&text));
    Hourly::read(&path).unwrap()
}

fn task(series: &Hourly, length: usize, options: ElectricityOptions) -> Result<Electricity> {
    Electricity::new(series, Path::new("test.csv.gz"), length, 3, options)
}

proptest! {
    #[test]
    fn windows_end_a_horizon_before_their_target_and_never_cross_the_split(
        length in 1usize..60, horizon in 1usize..30, calendar: bool,
    ) {
        let options = ElectricityOptions { horizon, calendar, eval_stride: 1, ..Default::default() };
        let series = counting(200, 200);
        let task = task(&series, length, options).unwrap();
        let hour = |scaled: f32| {
            (f64::from(scaled) * task.scale.std + task.scale.mean).round() as usize
        };
        let read = |batch: &Batch| match (&batch.inputs, &batch.targets) {
            (Inputs::Values(inputs), Targets::Values(targets)) => inputs
                .chunks(length * task.windows.features)
                .zip(targets)
                .map(|(window, &target)| {
                    let loads = window.iter().step_by(task.windows.features);
                    (loads.map(|&load| hour(load)).collect::<Vec<_>>(), hour(target))
                })
                .collect::<Vec<_>>(),
            _ => panic!("numbers"),
        };
        let splits = [(Split::Train, 0..140), (Split::Validation, 140..160),
            (Split::Test, 160..200)];
        let trained = (0..30).map(|step| (task.train_batch(step, 7), 0..140));
        let evaluated = splits.iter().flat_map(|(split, hours)| {
            task.evaluation(*split, 7).into_iter().map(|batch| (batch, hours.clone()))
        });
        for (batch, targets) in trained.chain(evaluated) {
            for (window, target) in read(&batch) {
                prop_assert!(targets.contains(&target));
                let end = target + 1 - horizon;
                prop_assert_eq!(window, (end - length..end).collect::<Vec<_>>());
            }
        }
        let tested: Vec<usize> =
            task.evaluation(Split::Test, 7).iter().flat_map(&read).map(|(_, t)| t).collect();
        prop_assert_eq!(tested, (160..200).collect::<Vec<_>>());
    }
}

proptest! {
    /// However it is forecast, the same hours are, from the same loads.
    #[test]
    fn all_forecasts_are_of_the_same_hours(
        length in 1usize..60, horizon in 1usize..30, calendar: bool,
    ) {
        let series = counting(200, 200);
        let make = |forecast| {
            let options = ElectricityOptions { horizon, forecast, calendar, eval_stride: 5 };
            task(&series, length, options).unwrap()
        };
        let [point, direct, own] =
            [Forecast::Point, Forecast::Direct, Forecast::Autoregressive].map(make);
        let numbers = |batch: &Batch| match (&batch.inputs, &batch.targets) {
            (Inputs::Values(inputs), Targets::Values(targets)) => (inputs.clone(), targets.clone()),
            _ => panic!("numbers"),
        };
        for split in [Split::Train, Split::Validation, Split::Test] {
            let batches = [&point, &direct, &own].map(|task| task.evaluation(split, 7));
            for ((point, direct), own) in batches[0].iter().zip(&batches[1]).zip(&batches[2]) {
                let [(inputs, last), (same, all), (continued, next)] =
                    [point, direct, own].map(numbers);
                prop_assert_eq!(&inputs, &same);
                let steps = length + horizon - 1;
                let features = if calendar { 5 } else { 1 };
                for row in 0..point.batch_size {
                    let all = &all[row * horizon..(row + 1) * horizon];
                    prop_assert_eq!(all[horizon - 1], last[row]);
                    let known = &inputs[row * length * features..(row + 1) * length * features];
                    let steps_in = &continued[row * steps * features..(row + 1) * steps * features];
                    prop_assert_eq!(&steps_in[..length * features], known);
                    // No load after the last input is told.
                    let later = steps_in[length * features..].iter().step_by(features);
                    prop_assert!(later.into_iter().all(|&load| load == 0.0));
                    let weights = own.weights.as_ref().map(|w| &w[row * steps..(row + 1) * steps]);
                    let next = &next[row * steps..(row + 1) * steps];
                    prop_assert_eq!(&next[length - 1..], all);
                    let weights = weights.unwrap();
                    prop_assert!(weights[..length - 1].iter().all(|&w| w == 0.0));
                    prop_assert!(weights[length - 1..].iter().all(|&w| w == 1.0));
                }
            }
        }
        // In training each step's answer is the next hour, which is known there.
        let (inputs, targets) = numbers(&own.train_batch(3, 4));
        let features = if calendar { 5 } else { 1 };
        for (row, target) in inputs.chunks(length * features).zip(targets.chunks(length)) {
            let loads: Vec<f32> = row.iter().step_by(features).copied().collect();
            prop_assert_eq!(&loads[1..], &target[..length - 1]);
        }
    }
}

#[test]
fn scaling_knows_the_training_part_only() {
    let options = ElectricityOptions::default;
    let same = task(&counting(200, 200), 10, options()).unwrap();
    let other = task(&counting(200, 140), 10, options()).unwrap();
    assert_eq!(same.scale, other.scale);
    assert_eq!(same.scale.mean, 69.5);
    assert_eq!(same.train_batch(0, 50), other.train_batch(0, 50));
    assert_ne!(same.evaluation(Split::Validation, 50), other.evaluation(Split::Validation, 50));
}

#[test]
fn the_calendar_is_that_of_each_step() {
    // 2012-01-01 was a Sunday.
    let task = task(&counting(200, 200), 1, ElectricityOptions::default()).unwrap();
    let at = |hour: usize| &task.windows.inputs[5 * hour + 1..5 * hour + 5];
    let sunday = (TAU * 6.0 / 7.0).sin_cos();
    let expected = [1.0, 0.0, sunday.0 as f32, sunday.1 as f32];
    for (found, expected) in at(6).iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{:?}", at(6));
    }
    assert_eq!(at(30)[2..], [0.0, 1.0], "Monday");
}

/// The figures that the data folder's README gives for all test hours.
#[test]
fn baselines_have_their_known_values() {
    let path = locate(FILE);
    let series = Hourly::read(&path).unwrap();
    let all = ElectricityOptions { eval_stride: 1, ..Default::default() };
    let task = task(&series, 24, all).unwrap();
    for (lag, expected) in [(1, 319.0), (24, 164.0), (168, 280.0)] {
        let found = task.lag_error(|_| lag).unwrap();
        assert!((found - expected).abs() < 1.0, "lag {lag}: {found}");
    }
    let names: Vec<String> = task.baselines().into_iter().map(|b| b.name).collect();
    assert_eq!(names, ["seasonal, 24 h", "seasonal, 168 h", "persistence"]);
}

/// At a horizon beyond the season only older seasons are known.
#[test]
fn seasonal_baselines_use_what_is_known() {
    let value = |forecast, name: &str| {
        let options = ElectricityOptions { horizon: 25, forecast, eval_stride: 1, calendar: false };
        let task = task(&counting(400, 400), 1, options).unwrap();
        task.baselines().into_iter().find(|b| b.name == name).map(|b| b.value).unwrap()
    };
    // The load is the hour: the error of a lag is the lag.
    assert_eq!(value(Forecast::Point, "persistence"), 25.0);
    assert_eq!(value(Forecast::Point, "seasonal, 24 h"), 48.0);
    assert_eq!(value(Forecast::Point, "seasonal, 168 h"), 168.0);
    for forecast in [Forecast::Direct, Forecast::Autoregressive] {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        // The mean of 1, 4, ..., 625.
        near(value(forecast, "persistence"), 221f64.sqrt());
        near(value(forecast, "seasonal, 24 h"), ((24.0 * 576.0 + 48.0 * 48.0) / 25f64).sqrt());
        near(value(forecast, "seasonal, 168 h"), 168.0);
    }
}

#[test]
fn impossible_requests_are_errors() {
    let series = counting(200, 200);
    for length in [0, 140, usize::MAX] {
        let error = task(&series, length, ElectricityOptions::default()).err();
        assert!(matches!(error, Some(Error::Option { option, .. }) if option == "length"));
    }
    assert!(task(&series, 139, ElectricityOptions::default()).is_ok());
    for eval_stride in [0, 2, 4, 21, 24] {
        let options = ElectricityOptions { eval_stride, ..Default::default() };
        assert!(options.validate().is_err(), "{eval_stride}");
    }
}
