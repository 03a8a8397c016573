use proptest::prelude::*;

use super::super::air_quality::Hour;
use super::*;
use crate::{Inputs, Targets};

/// Dust is the hour, so that inputs and targets tell where they are from; every seventh hour and the
/// first two were not measured.
fn counting(hours: usize) -> AirQuality {
    let hour = |index: usize| Hour {
        pm25: (index >= 2 && !index.is_multiple_of(7)).then_some(index as f64),
        weather: [index as f64, 1.0, 0.0, 0.0, 0.0, 0.0],
        wind: index % 4,
    };
    AirQuality { first_hour: 24 * 10, hours: (0..hours).map(hour).collect() }
}

fn task(air: &AirQuality, length: usize, options: Pm25Options) -> Result<Pm25> {
    Pm25::new(air, Path::new("test.csv.gz"), length, 3, options)
}

fn at(horizon: usize) -> Pm25Options {
    Pm25Options { horizon, eval_stride: 1, ..Default::default() }
}

fn bundled(horizon: usize, metric: Reported) -> Pm25 {
    let path = locate(FILE);
    let air = AirQuality::read(&path).unwrap();
    Pm25::new(&air, &path, 24, 0, Pm25Options { metric, ..at(horizon) }).unwrap()
}

proptest! {
    #[test]
    fn windows_end_a_horizon_before_a_measured_target_of_their_split(
        length in 1usize..40, horizon in 1usize..30,
    ) {
        let task = task(&counting(200), length, at(horizon)).unwrap();
        let hour = |scaled: f32| (f64::from(scaled) * task.scale.std + task.scale.mean).round() as usize;
        let known = |hour: usize| hour >= 2 && !hour.is_multiple_of(7);
        let splits =
            [(Split::Train, 0..140), (Split::Validation, 140..160), (Split::Test, 160..200)];
        let trained = (0..20).map(|step| (task.train_batch(step, 7), 0..140));
        let evaluated = splits.iter().flat_map(|(split, hours)| {
            task.evaluation(*split, 7).into_iter().map(|batch| (batch, hours.clone()))
        });
        for (batch, hours) in trained.chain(evaluated) {
            let (Inputs::Values(inputs), Targets::Values(targets)) =
                (&batch.inputs, &batch.targets) else { panic!("numbers") };
            for (window, &target) in inputs.chunks(length * FEATURES).zip(targets) {
                let target = hour(target);
                prop_assert!(hours.contains(&target) && known(target), "{}", target);
                let end = target + 1 - horizon;
                for (step, at) in window.chunks(FEATURES).zip(end - length..end) {
                    // Weather is the hour too, and is always there.
                    prop_assert_eq!(step[1], f32::from(u8::from(!known(at))));
                    if known(at) {
                        prop_assert_eq!(hour(step[0]), at);
                    } else if at >= 2 {
                        prop_assert_eq!(hour(step[0]), at - 1, "the hour before stands in");
                    } else {
                        prop_assert_eq!(step[0], 0.0, "before the first, the mean");
                    }
                    let wind: Vec<usize> = (0..4).filter(|w| step[8 + w] == 1.0).collect();
                    prop_assert_eq!(wind, [at % 4]);
                }
            }
        }
        let tested = task.evaluation(Split::Test, 7).iter().map(|b| b.batch_size).sum::<usize>();
        prop_assert_eq!(tested, (160..200).filter(|&hour| known(hour)).count());
    }
}

#[test]
fn scaling_knows_the_training_part_only() {
    let mut air = counting(200);
    let before = task(&air, 10, at(1)).unwrap();
    for hour in &mut air.hours[140..] {
        hour.pm25 = Some(1e6);
        hour.weather = [1e6; WEATHER];
    }
    let after = task(&air, 10, at(1)).unwrap();
    assert_eq!(before.scale, after.scale);
    assert_eq!(before.train_batch(0, 50), after.train_batch(0, 50));
    assert_ne!(before.evaluation(Split::Test, 50), after.evaluation(Split::Test, 50));
}

/// Dust is the hour: a lag of k errs by k, one more where the hour before stands in for the last.
#[test]
fn baselines_are_what_their_names_say() {
    for (horizon, metric, persistence, seasonal) in [
        (1, Reported::Mae, 1.0 + 1.0 / 6.0, 24.0 + 1.0 / 6.0),
        (25, Reported::Mae, 25.0 + 1.0 / 6.0, 48.0 + 1.0 / 6.0),
    ] {
        // 42 test hours from 168 on, six times seven: each rest comes up equally often.
        let task = task(&counting(210), 5, Pm25Options { metric, ..at(horizon) }).unwrap();
        let value = |name: &str| {
            task.baselines().into_iter().find(|b| b.name == name).map(|b| b.value).unwrap()
        };
        assert!((value("persistence") - persistence).abs() < 1e-9, "{:?}", task.baselines());
        assert!((value("seasonal, 24 h") - seasonal).abs() < 1e-9, "{:?}", task.baselines());
    }
}

/// Persistence is known to be 22.1, 61.2 and 98.7 over the test hours whose last input was measured.
/// Over all of them, the last measurement before it standing in, it is up to 0.8 worse.
#[test]
fn the_bundled_file_has_its_known_baselines() {
    for (horizon, measured, all) in [(1, 22.1, 22.13), (6, 61.2, 61.65), (24, 98.7, 99.48)] {
        let task = bundled(horizon, Reported::Rmse);
        let pairs =
            || task.test.iter().filter_map(|&hour| task.dust[hour].zip(task.dust[hour - horizon]));
        let squares = pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>();
        let found = (squares / pairs().count() as f64).sqrt();
        assert!((found - measured).abs() < 0.05, "{horizon} h: {found}");
        let baselines = task.baselines();
        let found = baselines.iter().find(|b| b.name == "persistence").unwrap().value;
        assert!((found - all).abs() < 0.01, "{horizon} h: {baselines:?}");
        let mean = baselines.iter().find(|b| b.name == "training mean").unwrap().value;
        assert!((mean - 93.6).abs() < 0.05, "{baselines:?}");
    }
    let known = bundled(1, Reported::Rmse);
    assert_eq!(known.dust.len(), 43_824);
    assert_eq!(known.dust.iter().filter(|value| value.is_none()).count(), 2067);
}

#[test]
fn metrics_are_of_the_same_errors() {
    let [rmse, mae, mase] = [Reported::Rmse, Reported::Mae, Reported::Mase].map(|m| bundled(6, m));
    let persistence = |task: &Pm25| {
        task.baselines().into_iter().find(|b| b.name == "persistence").map(|b| b.value).unwrap()
    };
    assert!(persistence(&mae) < persistence(&rmse));
    assert!((persistence(&mase) * mase.scale.naive - persistence(&mae)).abs() < 1e-9);
}

#[test]
fn impossible_requests_are_errors() {
    let air = counting(200);
    for length in [0, 140, usize::MAX] {
        let error = task(&air, length, at(1)).err();
        assert!(matches!(error, Some(Error::Option { option, .. }) if option == "length"));
    }
    for eval_stride in [0, 2, 9, 24] {
        assert!(Pm25Options { eval_stride, ..at(1) }.validate().is_err(), "{eval_stride}");
    }
    let mut unmeasured = counting(200);
    unmeasured.hours[160..].iter_mut().for_each(|hour| hour.pm25 = None);
    assert!(matches!(task(&unmeasured, 5, at(1)).err(), Some(Error::Data { .. })));
}
