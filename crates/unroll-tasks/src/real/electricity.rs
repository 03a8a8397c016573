//! Hourly electricity load: how large will it be `horizon` hours from now?

use std::f64::consts::TAU;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::hourly::Hourly;
use crate::data::epochs::Epochs;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Options, Readout, Result, Split, TargetKind,
    Targets, Task, TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "electricity",
    summary: "hourly load of 321 clients, 2012 to 2014: forecast from the last T hours (Lai et al. \
              2018; Monash archive)",
    options: options::list::<ElectricityOptions>,
    fixed_length,
    resolve: options::resolve::<ElectricityOptions>,
    build,
    files: &[FILE],
};

const FILE: &str = "electricity_hourly.csv.gz";

/// Unit of the load as Lai et al. 2018 give it.
const UNIT: &str = "kWh";

/// Hours after which the load repeats itself: a day, a week.
const SEASONS: [usize; 2] = [24, 168];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ElectricityOptions {
    horizon: usize,
    calendar: bool,
    eval_stride: usize,
}

impl Default for ElectricityOptions {
    fn default() -> Self {
        Self { horizon: 1, calendar: true, eval_stride: 5 }
    }
}

impl TaskOptions for ElectricityOptions {
    const TASK: &'static str = "electricity";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "horizon", help: "hours from the last input to the forecast load" },
        OptionDoc {
            name: "calendar",
            help: "`true`: hour of the day and day of the week of each step, as sine and cosine, \
                   are inputs beside the load",
        },
        OptionDoc {
            name: "eval_stride",
            help: "models and baselines are evaluated on every n-th hour of a split; n has no \
                   common divisor with 168, so that all hours of the week come up",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_count("horizon", self.horizon, 1, 24 * 366)?;
        require_count("eval_stride", self.eval_stride, 1, 1000)?;
        if [2, 3, 7].iter().any(|&factor| self.eval_stride.is_multiple_of(factor)) {
            return Err(Error::option(
                "eval_stride",
                format!(
                    "{} shares a divisor with the 168 hours of the week and would leave some of \
                     them out; take 1, 5, 11, 13 or the like",
                    self.eval_stride
                ),
            ));
        }
        Ok(())
    }
}

fn fixed_length(_: &Options) -> Result<Option<usize>> {
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: ElectricityOptions = options::parse(request.options)?;
    let path = locate(FILE);
    let series = Hourly::read(&path)?;
    Ok(Box::new(Electricity::new(&series, &path, request.length, request.seed, options)?))
}

/// The loads of the three splits follow each other in time: the last fifth is the test, the tenth
/// before it validation. A window of a later split may look back into the earlier ones; a window of
/// an earlier split never sees or forecasts a load of a later one.
struct Electricity {
    /// Steps that a model looks back.
    length: usize,
    features: usize,
    options: ElectricityOptions,
    /// Loads in the file's unit.
    load: Vec<f64>,
    /// Mean and standard deviation of the training loads.
    mean: f64,
    std: f64,
    /// Mean absolute error of repeating the day before on the training part.
    naive: f64,
    /// `(hours, F)` row by row: scaled load, then the calendar.
    inputs: Vec<f32>,
    /// Hours whose load is forecast in each split.
    train: Range<usize>,
    validation: Range<usize>,
    test: Range<usize>,
    epochs: Epochs,
    /// Training hours that stand for the training split in evaluations.
    train_sample: Vec<usize>,
}

impl Electricity {
    fn new(
        series: &Hourly,
        path: &Path,
        length: usize,
        seed: u64,
        options: ElectricityOptions,
    ) -> Result<Self> {
        let load = series.values.clone();
        let (validation_start, test_start) = (load.len() * 7 / 10, load.len() * 8 / 10);
        // The first forecast comes after `length` inputs and the horizon.
        let longest = validation_start.saturating_sub(options.horizon);
        if !(1..=longest).contains(&length) {
            return Err(Error::option(
                "length",
                format!(
                    "must lie in 1..={longest} (hours to look back within the {validation_start} \
                     of the training split), not {length}"
                ),
            ));
        }
        let train = length + options.horizon - 1..validation_start;
        let (mean, std) = mean_and_std(&load[..validation_start]);
        let training = &load[..validation_start];
        let day_before = training.iter().zip(training.iter().skip(SEASONS[0]));
        let errors: Vec<f64> = day_before.map(|(before, now)| (now - before).abs()).collect();
        let naive = errors.iter().sum::<f64>() / errors.len() as f64;
        // NaN, of too few hours, is not above 0 either.
        if !(std > 0.0 && naive > 0.0) {
            return Err(Error::data(path, 0, "the load never changes"));
        }
        let mut inputs = Vec::new();
        for (index, value) in load.iter().enumerate() {
            inputs.push(((value - mean) / std) as f32);
            if options.calendar {
                for phase in [
                    f64::from(series.hour_of_day(index)) / 24.0,
                    f64::from(series.day_of_week(index)) / 7.0,
                ] {
                    let (sin, cos) = (TAU * phase).sin_cos();
                    inputs.extend([sin as f32, cos as f32]);
                }
            }
        }
        let validation = validation_start..test_start;
        let sample_stream = Stream::new(EVALUATION_SEED, "task/electricity/train_sample");
        let mut train_sample: Vec<usize> = sample_stream
            .rng()
            .distinct(validation.len().div_ceil(options.eval_stride), train.len())
            .into_iter()
            .map(|index| train.start + index)
            .collect();
        train_sample.sort_unstable();
        let epochs = Epochs::new(Stream::new(seed, "task/electricity/train"), train.len());
        Ok(Self {
            length,
            features: if options.calendar { 5 } else { 1 },
            test: test_start..load.len(),
            options,
            load,
            mean,
            std,
            naive,
            inputs,
            train,
            validation,
            epochs,
            train_sample,
        })
    }

    /// Hours that an evaluation of the split forecasts.
    fn evaluated(&self, split: Split) -> Vec<usize> {
        match split {
            Split::Train => self.train_sample.clone(),
            Split::Validation => {
                self.validation.clone().step_by(self.options.eval_stride).collect()
            }
            Split::Test => self.test.clone().step_by(self.options.eval_stride).collect(),
        }
    }

    /// Hours that the forecast for `hour` looks at.
    fn window(&self, hour: usize) -> Range<usize> {
        let end = hour + 1 - self.options.horizon;
        end - self.length..end
    }

    fn batch(&self, hours: &[usize]) -> Batch {
        let mut inputs = Vec::with_capacity(hours.len() * self.length * self.features);
        let mut targets = Vec::with_capacity(hours.len());
        for &hour in hours {
            let window = self.window(hour);
            inputs.extend_from_slice(
                &self.inputs[window.start * self.features..window.end * self.features],
            );
            targets.push(((self.load[hour] - self.mean) / self.std) as f32);
        }
        Batch {
            batch_size: hours.len(),
            seq_len: self.length,
            inputs: Inputs::Values(inputs),
            targets: Targets::Values(targets),
            weights: None,
            lengths: None,
            continues: false,
        }
    }

    /// Root mean squared error, on the evaluated test hours, of answering the load `lag` hours
    /// earlier; `None` where the series does not reach back that far.
    fn lag_error(&self, lag: usize) -> Option<f64> {
        let hours = self.evaluated(Split::Test);
        let squares: Option<f64> = hours
            .iter()
            .map(|&hour| Some((self.load[hour] - self.load[hour.checked_sub(lag)?]).powi(2)))
            .sum();
        Some((squares? / hours.len() as f64).sqrt())
    }
}

impl Task for Electricity {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Values { features: self.features }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Values { outputs: 1 }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        self.length
    }

    fn metric(&self) -> Metric {
        Metric::RootMeanSquaredError { scale: self.std, unit: UNIT }
    }

    fn other_metrics(&self) -> Vec<Metric> {
        vec![
            Metric::MeanAbsoluteError { scale: self.std, unit: UNIT },
            Metric::MeanAbsoluteScaledError { scale: self.std / self.naive },
        ]
    }

    fn baselines(&self) -> Vec<Baseline> {
        let horizon = self.options.horizon;
        // The load a season ago, or as many seasons as it takes to be known at the last input.
        let seasonal = SEASONS
            .map(|season| (format!("seasonal, {season} h"), season * horizon.div_ceil(season)));
        let mut baselines: Vec<Baseline> = [("persistence".to_owned(), horizon)]
            .into_iter()
            .chain(seasonal)
            .filter_map(|(name, lag)| {
                Some(Baseline { name, value: self.lag_error(lag)?, fitted: false })
            })
            .collect();
        baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
        baselines
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size);
        let hours: Vec<usize> = drawn.into_iter().map(|index| self.train.start + index).collect();
        self.batch(&hours)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let hours = self.evaluated(split);
        hours.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }
}

fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
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
            let options = ElectricityOptions { horizon, calendar, eval_stride: 1 };
            let series = counting(200, 200);
            let task = task(&series, length, options).unwrap();
            let hour = |scaled: f32| {
                (f64::from(scaled) * task.std + task.mean).round() as usize
            };
            let read = |batch: &Batch| match (&batch.inputs, &batch.targets) {
                (Inputs::Values(inputs), Targets::Values(targets)) => inputs
                    .chunks(length * task.features)
                    .zip(targets)
                    .map(|(window, &target)| {
                        let loads = window.iter().step_by(task.features);
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

    #[test]
    fn scaling_knows_the_training_part_only() {
        let options = ElectricityOptions::default;
        let same = task(&counting(200, 200), 10, options()).unwrap();
        let other = task(&counting(200, 140), 10, options()).unwrap();
        assert_eq!((same.mean, same.std), (other.mean, other.std));
        assert_eq!(same.mean, 69.5);
        assert_eq!(same.train_batch(0, 50), other.train_batch(0, 50));
        assert_ne!(same.evaluation(Split::Validation, 50), other.evaluation(Split::Validation, 50));
    }

    #[test]
    fn the_calendar_is_that_of_each_step() {
        // 2012-01-01 was a Sunday.
        let task = task(&counting(200, 200), 1, ElectricityOptions::default()).unwrap();
        let at = |hour: usize| &task.inputs[5 * hour + 1..5 * hour + 5];
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
            let found = task.lag_error(lag).unwrap();
            assert!((found - expected).abs() < 1.0, "lag {lag}: {found}");
        }
        let names: Vec<String> = task.baselines().into_iter().map(|b| b.name).collect();
        assert_eq!(names, ["seasonal, 24 h", "seasonal, 168 h", "persistence"]);
    }

    /// At a horizon beyond the season only older seasons are known.
    #[test]
    fn seasonal_baselines_use_what_is_known() {
        let options = ElectricityOptions { horizon: 25, eval_stride: 1, calendar: false };
        let task = task(&counting(400, 400), 1, options).unwrap();
        let value =
            |name: &str| task.baselines().into_iter().find(|b| b.name == name).map(|b| b.value);
        // The load is the hour: the error of a lag is the lag.
        assert_eq!(value("persistence"), Some(25.0));
        assert_eq!(value("seasonal, 24 h"), Some(48.0));
        assert_eq!(value("seasonal, 168 h"), Some(168.0));
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
}
