//! Hourly electricity load: how large will it be `horizon` hours from now?

use std::f64::consts::TAU;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::forecasting::{
    Reported, Scale, Windows, by_error, cuts, require_look_back, require_stride, seasonal_lag,
    training_sample,
};
use super::hourly::Hourly;
use crate::data::epochs::Epochs;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Options, OwnAnswers, Readout, Result, Split,
    TargetKind, Targets, Task, TaskEntry, TaskRequest,
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

/// What is forecast of the hours up to the horizon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Forecast {
    /// The last of them.
    #[default]
    Point,
    /// All at once: a head with an output for each.
    Direct,
    /// One after the other: the model learns the next hour, and goes on from its own forecasts.
    Autoregressive,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ElectricityOptions {
    horizon: usize,
    forecast: Forecast,
    calendar: bool,
    eval_stride: usize,
}

impl Default for ElectricityOptions {
    fn default() -> Self {
        Self { horizon: 1, forecast: Forecast::default(), calendar: true, eval_stride: 5 }
    }
}

impl TaskOptions for ElectricityOptions {
    const TASK: &'static str = "electricity";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "horizon",
            help: "hours from the last input to the (last) forecast load",
        },
        OptionDoc {
            name: "forecast",
            help: "point: the load at the horizon; direct: all hours up to it at once; autoregressive: hour \
                   by hour, each forecast an input of the next",
        },
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
        require_stride(self.eval_stride, SEASONS[1], "hours of the week")
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
    options: ElectricityOptions,
    /// Loads in the file's unit.
    load: Vec<f64>,
    /// Of the training loads.
    scale: Scale,
    /// Of the inputs of a step: scaled load, then the calendar.
    windows: Windows,
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
        let [validation_start, test_start] = cuts(load.len());
        require_look_back(length, options.horizon, validation_start)?;
        let train = length + options.horizon - 1..validation_start;
        let training: Vec<Option<f64>> =
            load[..validation_start].iter().copied().map(Some).collect();
        let scale = Scale::fit(&training, SEASONS[0], UNIT)
            .ok_or_else(|| Error::data(path, 0, "the load never changes"))?;
        let mut inputs = Vec::new();
        for (index, value) in load.iter().enumerate() {
            inputs.push(scale.scaled(*value));
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
        let count = validation.len().div_ceil(options.eval_stride);
        let sample = training_sample(ENTRY.name, count, train.len());
        let train_sample = sample.into_iter().map(|index| train.start + index).collect();
        let epochs = Epochs::new(Stream::new(seed, "task/electricity/train"), train.len());
        Ok(Self {
            windows: Windows {
                inputs,
                features: if options.calendar { 5 } else { 1 },
                length,
                horizon: options.horizon,
            },
            test: test_start..load.len(),
            options,
            load,
            scale,
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

    fn scaled(&self, hour: usize) -> f32 {
        self.scale.scaled(self.load[hour])
    }

    fn forecasts_own(&self) -> bool {
        self.options.forecast == Forecast::Autoregressive
    }

    /// Windows whose forecasts end at these hours.
    fn batch(&self, hours: &[usize]) -> Batch {
        self.windows.batch(hours, |hour, targets| {
            let window = self.windows.of(hour);
            match self.options.forecast {
                Forecast::Point => targets.push(self.scaled(hour)),
                Forecast::Direct => targets.extend((window.end..=hour).map(|h| self.scaled(h))),
                // The next hour, at each step.
                Forecast::Autoregressive => {
                    targets.extend((window.start + 1..=window.end).map(|h| self.scaled(h)));
                }
            }
        })
    }

    /// Windows that go on to the horizon: the calendar of each hour, without the loads that are to be
    /// forecast.
    fn continued(&self, hours: &[usize]) -> Batch {
        let known = self.windows.length;
        let steps = known + self.options.horizon - 1;
        let (mut inputs, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for &hour in hours {
            let start = self.windows.of(hour).start;
            for step in 0..steps {
                let row = inputs.len();
                inputs.extend_from_slice(self.windows.at(start + step..start + step + 1));
                if step >= known {
                    // The mean of the training loads: nobody may read the load.
                    inputs[row] = 0.0;
                }
                targets.push(self.scaled(start + step + 1));
                weights.push(if step + 1 < known { 0.0 } else { 1.0 });
            }
        }
        Batch {
            batch_size: hours.len(),
            seq_len: steps,
            inputs: Inputs::Values(inputs),
            targets: Targets::Values(targets),
            weights: Some(weights),
            lengths: None,
            continues: false,
        }
    }

    /// Root mean squared error, on the evaluated test hours, of answering what `lag` says is the load so
    /// many hours earlier, for each forecast so many hours ahead; `None` where the series does not reach
    /// back that far.
    fn lag_error(&self, lag: impl Fn(usize) -> usize) -> Option<f64> {
        let horizon = self.options.horizon;
        let ahead = match self.options.forecast {
            Forecast::Point => horizon..=horizon,
            Forecast::Direct | Forecast::Autoregressive => 1..=horizon,
        };
        let hours = self.evaluated(Split::Test);
        let forecast = hours.iter().flat_map(|hour| {
            let origin = hour - horizon;
            ahead.clone().map(move |ahead| (origin + ahead, ahead))
        });
        let errors: Option<Vec<f64>> = forecast
            .map(|(hour, ahead)| {
                let before = hour.checked_sub(lag(ahead))?;
                Some(self.load[hour] - self.load[before])
            })
            .collect();
        Some(self.scale.of(Reported::Rmse, &errors?))
    }
}

impl Task for Electricity {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Values { features: self.windows.features }
    }

    fn target(&self) -> TargetKind {
        let outputs = match self.options.forecast {
            Forecast::Direct => self.options.horizon,
            Forecast::Point | Forecast::Autoregressive => 1,
        };
        TargetKind::Values { outputs }
    }

    fn readout(&self) -> Readout {
        if self.forecasts_own() { Readout::EveryStep } else { Readout::Last }
    }

    fn seq_len(&self) -> usize {
        self.windows.length
    }

    fn metric(&self) -> Metric {
        self.scale.metric(Reported::Rmse)
    }

    fn other_metrics(&self) -> Vec<Metric> {
        let mut others = self.scale.others(Reported::Rmse);
        if self.options.forecast != Forecast::Point {
            let hours = self.options.horizon;
            let (scale, unit) = (self.scale.std, UNIT.into());
            others.push(Metric::RootMeanSquaredErrorAt { hours, scale, unit });
        }
        others
    }

    fn baselines(&self) -> Vec<Baseline> {
        let seasonal = SEASONS.map(|season| {
            let error = self.lag_error(|ahead| seasonal_lag(season, ahead));
            (format!("seasonal, {season} h"), error)
        });
        let persistence = ("persistence".to_owned(), self.lag_error(|ahead| ahead));
        by_error([persistence].into_iter().chain(seasonal))
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
        let batch = |chunk: &[usize]| {
            if self.forecasts_own() { self.continued(chunk) } else { self.batch(chunk) }
        };
        hours.chunks(batch_size.max(1)).map(batch).collect()
    }

    fn own_answers(&self) -> Option<OwnAnswers> {
        self.forecasts_own().then_some(OwnAnswers { from: self.windows.length, feature: 0 })
    }
}

#[cfg(test)]
mod tests;
