//! Fine dust in Beijing: how much will there be `horizon` hours from now?

use std::f64::consts::TAU;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::air_quality::{AirQuality, WEATHER, WINDS};
use super::forecasting::{
    Reported, Scale, Windows, by_error, cuts, filled, require_look_back, require_stride,
    seasonal_lag, training_sample,
};
use super::scaling::{mean_and_std, or_one};
use crate::data::epochs::Epochs;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::{
    Baseline, Batch, Error, InputKind, Metric, Options, Readout, Result, Split, TargetKind, Task,
    TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "pm25",
    summary: "fine dust (PM2.5) in Beijing from the last T hours of dust and weather, 2010 to 2014 \
              (Liang et al. 2015; UCI 381)",
    options: options::list::<Pm25Options>,
    fixed_length,
    resolve: options::resolve::<Pm25Options>,
    build,
    files: &[FILE],
};

const FILE: &str = "beijing_pm25_hourly.csv.gz";
const UNIT: &str = "µg/m³";

/// Hours after which the seasonal forecast repeats what was, and MASE's naive one.
const SEASON: usize = 24;

/// Days of a year, on average.
const YEAR: f64 = 365.2425;

/// Numbers of a step: dust, whether it was missing, weather, wind, hour of the day and day of the year.
const FEATURES: usize = 2 + WEATHER + WINDS.len() + 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Pm25Options {
    horizon: usize,
    metric: Reported,
    eval_stride: usize,
}

impl Default for Pm25Options {
    fn default() -> Self {
        Self { horizon: 6, metric: Reported::Rmse, eval_stride: 5 }
    }
}

impl TaskOptions for Pm25Options {
    const TASK: &'static str = "pm25";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "horizon", help: "hours from the last input to the forecast hour" },
        OptionDoc {
            name: "metric",
            help: "`rmse` or `mae` in µg/m³; `mase`: the mean absolute error over that of \
                   repeating the day before, on the training part",
        },
        OptionDoc {
            name: "eval_stride",
            help: "models and baselines are evaluated on every n-th hour of a split; n has no \
                   common divisor with 24, so that all hours of the day come up",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_count("horizon", self.horizon, 1, 24 * 366)?;
        require_stride(self.eval_stride, SEASON, "hours of the day")
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<Pm25Options>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: Pm25Options = options::parse(request.options)?;
    let path = locate(FILE);
    let air = AirQuality::read(&path)?;
    Ok(Box::new(Pm25::new(&air, &path, request.length, request.seed, options)?))
}

/// The hours of the three splits follow each other: the last fifth is the test, the tenth before it
/// validation. Hours without a measurement are never forecast; as inputs they have the last
/// measurement before them (before the first of all, the mean), and are marked. A window of a later
/// split may look back into the earlier ones, never the other way round.
struct Pm25 {
    options: Pm25Options,
    /// In µg/m³; `None` where it was not measured.
    dust: Vec<Option<f64>>,
    /// The last measurement at or before each hour; before the first, the training mean.
    filled: Vec<f64>,
    /// Of the training measurements.
    scale: Scale,
    windows: Windows,
    /// Hours that are forecast in each split.
    train: Vec<usize>,
    validation: Vec<usize>,
    test: Vec<usize>,
    /// Training hours that stand for the training split in evaluations.
    train_sample: Vec<usize>,
    epochs: Epochs,
}

impl Pm25 {
    fn new(
        air: &AirQuality,
        path: &Path,
        length: usize,
        seed: u64,
        options: Pm25Options,
    ) -> Result<Self> {
        let dust: Vec<Option<f64>> = air.hours.iter().map(|hour| hour.pm25).collect();
        let [validation_start, test_start] = cuts(dust.len());
        require_look_back(length, options.horizon, validation_start)?;
        let measured = |hours: Range<usize>| -> Vec<usize> {
            hours.filter(|&hour| dust[hour].is_some()).collect()
        };
        let train = measured(length + options.horizon - 1..validation_start);
        let every = |hours: Range<usize>| measured(hours).into_iter().step_by(options.eval_stride);
        let validation: Vec<usize> = every(validation_start..test_start).collect();
        let test: Vec<usize> = every(test_start..dust.len()).collect();
        for (part, split) in [(&train, "training"), (&validation, "validation"), (&test, "test")] {
            if part.is_empty() {
                let message = format!("the {split} split has no measurement to forecast");
                return Err(Error::data(path, 0, message));
            }
        }
        let scale = Scale::fit(&dust[..validation_start], SEASON, UNIT)
            .ok_or_else(|| Error::data(path, 0, "the dust never changes"))?;
        let filled: Vec<f64> = filled(&dust, scale.mean).collect();
        let sample = training_sample(ENTRY.name, validation.len(), train.len());
        let windows = Windows {
            inputs: inputs(air, &filled, &scale, validation_start),
            features: FEATURES,
            length,
            horizon: options.horizon,
        };
        Ok(Self {
            windows,
            epochs: Epochs::new(Stream::new(seed, "task/pm25/train"), train.len()),
            options,
            dust,
            filled,
            scale,
            train_sample: sample.into_iter().map(|index| train[index]).collect(),
            train,
            validation,
            test,
        })
    }

    fn batch(&self, hours: &[usize]) -> Batch {
        // Only measured hours are forecast, and a measurement is what fills its own hour.
        self.windows
            .batch(hours, |hour, targets| targets.push(self.scale.scaled(self.filled[hour])))
    }

    /// The metric on the evaluated test hours of a rule that forecasts an hour.
    fn error_of(&self, forecast: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        let errors: Option<Vec<f64>> =
            self.test.iter().map(|&hour| Some(forecast(hour)? - self.dust[hour]?)).collect();
        Some(self.scale.of(self.options.metric, &errors?))
    }
}

impl Task for Pm25 {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Values { features: FEATURES }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Values { outputs: 1 }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        self.windows.length
    }

    fn metric(&self) -> Metric {
        self.scale.metric(self.options.metric)
    }

    fn other_metrics(&self) -> Vec<Metric> {
        self.scale.others(self.options.metric)
    }

    fn baselines(&self) -> Vec<Baseline> {
        let horizon = self.options.horizon;
        let lag = |lag: usize| self.error_of(|hour| Some(self.filled[hour.checked_sub(lag)?]));
        by_error([
            ("persistence".into(), lag(horizon)),
            ("seasonal, 24 h".into(), lag(seasonal_lag(SEASON, horizon))),
            ("training mean".into(), self.error_of(|_| Some(self.scale.mean))),
        ])
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size);
        let hours: Vec<usize> = drawn.into_iter().map(|index| self.train[index]).collect();
        self.batch(&hours)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let hours = match split {
            Split::Train => &self.train_sample,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        };
        hours.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }
}

/// All steps, `(hours, F)` row by row; scaled by the hours before `train_end`.
fn inputs(air: &AirQuality, filled: &[f64], scale: &Scale, train_end: usize) -> Vec<f32> {
    let weather: [(f64, f64); WEATHER] = std::array::from_fn(|column| {
        let (mean, std) = mean_and_std(air.hours[..train_end].iter().map(|h| h.weather[column]));
        (mean, or_one(std))
    });
    let mut inputs = Vec::with_capacity(air.hours.len() * FEATURES);
    for (index, (hour, dust)) in air.hours.iter().zip(filled).enumerate() {
        inputs.push(scale.scaled(*dust));
        inputs.push(f32::from(u8::from(hour.pm25.is_none())));
        let scaled = hour.weather.iter().zip(weather);
        inputs.extend(scaled.map(|(value, (mean, std))| ((value - mean) / std) as f32));
        inputs.extend((0..WINDS.len()).map(|wind| f32::from(u8::from(wind == hour.wind))));
        let days = (air.first_hour + index as i64) as f64 / 24.0;
        for period in [1.0, YEAR] {
            let (sin, cos) = (TAU * days / period).sin_cos();
            inputs.extend([sin as f32, cos as f32]);
        }
    }
    inputs
}

#[cfg(test)]
mod tests;
