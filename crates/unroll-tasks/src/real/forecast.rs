//! Forecasting of any series in a CSV file: what will a column be `horizon` steps from now?

mod series;

use std::ops::Range;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use self::series::{Frame, columns};
use super::forecasting::{
    Reported, Scale, Windows, by_error, filled, naive_error, require_stride, seasonal_lag,
    training_sample,
};
use super::scaling::{mean_and_std, or_one};
use crate::baseline::ridge::Ridge;
use crate::data::epochs::Epochs;
use crate::data::own;
use crate::options::{self, TaskOptions, require_count};
use crate::{
    Baseline, Batch, Error, InputKind, Metric, Options, Readout, Result, Split, TargetKind, Task,
    TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "forecast",
    summary: "forecasts from a CSV file of your own, a line for each time step: any columns as inputs, one \
              or several as targets, from the last T steps; several series in a file, missing values",
    options: options::list::<ForecastOptions>,
    fixed_length,
    resolve,
    build,
    files: &[],
};

/// Largest horizon and season, steps.
const LONGEST: usize = 1 << 24;

/// Products that the ridge regression may take: about a second.
const DEAREST_RIDGE: f64 = 2e9;

/// Weight of the squared coefficients in the ridge regression, for standardised inputs.
const RIDGE_PENALTY: f64 = 1.0;

/// Unit of errors over several targets, whose own units differ.
const SPREAD: &str = "standard deviations";

/// What is wrong with a value that is no number once it is standardised.
const TOO_LARGE: &str = "is too large beside the values of the training part";

/// What becomes of missing values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Missing {
    /// The last known value stands in, and a further input says so.
    Fill,
    /// They are an error.
    Refuse,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ForecastOptions {
    file: String,
    #[serde(deserialize_with = "one_or_many")]
    target: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    inputs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    horizon: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    season: Option<usize>,
    validation: f64,
    test: f64,
    look_back: bool,
    missing: Missing,
    metric: Reported,
    #[serde(deserialize_with = "one_or_many")]
    unit: Vec<String>,
    eval_stride: usize,
    data_hash: String,
}

impl Default for ForecastOptions {
    fn default() -> Self {
        Self {
            file: "electricity_hourly.csv.gz".into(),
            target: vec!["y".into()],
            inputs: Vec::new(),
            time: None,
            group: None,
            horizon: 1,
            season: None,
            validation: 0.1,
            test: 0.2,
            look_back: false,
            missing: Missing::Fill,
            metric: Reported::Rmse,
            unit: Vec::new(),
            eval_stride: 1,
            data_hash: String::new(),
        }
    }
}

/// `"a"` or `["a", "b"]`.
fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text, or a list of texts")]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

impl TaskOptions for ForecastOptions {
    const TASK: &'static str = "forecast";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "file",
            help: "path of the CSV file (or gzip `.csv.gz`), from the current directory, else within the data \
                   folder: a header line with names, then a line for each time step",
        },
        OptionDoc {
            name: "target",
            help: "name of the column that is forecast, or a list of names",
        },
        OptionDoc {
            name: "inputs",
            help: "names of the columns that are read; when left out, all columns of numbers, the targets' \
                   own past included (filled in when an experiment is planned)",
        },
        OptionDoc {
            name: "time",
            help: "column of numbers or dates (`2024-03-01 05:00`) that is checked to grow from line to \
                   line of a series; never an input",
        },
        OptionDoc {
            name: "group",
            help: "column that says which of several series a line belongs to: no window has lines of \
                   two; never an input",
        },
        OptionDoc { name: "horizon", help: "steps from the last input to the forecast one" },
        OptionDoc {
            name: "season",
            help: "steps after which the target repeats itself: a further baseline, and what MASE is \
                   measured by (otherwise the step before)",
        },
        OptionDoc {
            name: "validation",
            help: "share of the steps of each series, before the test part, that is the validation split",
        },
        OptionDoc {
            name: "test",
            help: "share of the steps at the end of each series that is the test split",
        },
        OptionDoc {
            name: "look_back",
            help: "`false`: windows lie wholly within the part of their target; `true`: those of a later \
                   part may begin in the part before, and the same steps are forecast at any length",
        },
        OptionDoc {
            name: "missing",
            help: "fill: the last known value stands in, and a further input says so; refuse: a missing \
                   value is an error",
        },
        OptionDoc {
            name: "metric",
            help: "`rmse` or `mae` in the target's unit (of several targets, in standard deviations of each); \
                   `mase`: the mean absolute error over that of repeating the season before, on the training \
                   part",
        },
        OptionDoc {
            name: "unit",
            help: "unit of the target, for tables and axes; a list of several",
        },
        OptionDoc {
            name: "eval_stride",
            help: "models and baselines are evaluated on every n-th step of a split; n has no common divisor \
                   with `season`, so that all of it comes up",
        },
        own::HASH,
    ];

    fn validate(&self) -> Result<()> {
        if self.file.trim().is_empty() {
            return Err(Error::option("file", "must be the path of a CSV file"));
        }
        if self.target.is_empty() {
            return Err(Error::option("target", "must name at least one column"));
        }
        for (option, names) in [("target", &self.target), ("inputs", &self.inputs)] {
            let twice = |(index, name): (usize, &String)| names[..index].contains(name);
            if let Some(at) = names.iter().enumerate().position(twice) {
                return Err(Error::option(option, format!("names `{}` twice", names[at])));
            }
        }
        require_count("horizon", self.horizon, 1, LONGEST)?;
        if let Some(season) = self.season {
            require_count("season", season, 1, LONGEST)?;
        }
        for (option, share) in [("validation", self.validation), ("test", self.test)] {
            if !(share > 0.0 && share < 1.0) {
                let message = format!("must lie between 0 and 1, not {share}");
                return Err(Error::option(option, message));
            }
        }
        if self.validation + self.test >= 1.0 {
            let message = format!(
                "{} and a test share of {} leave nothing to learn from",
                self.validation, self.test
            );
            return Err(Error::option("validation", message));
        }
        if !self.unit.is_empty() && self.unit.len() != self.target.len() {
            let (units, targets) = (self.unit.len(), self.target.len());
            let message = format!("must have one unit for each target: {units} for {targets}");
            return Err(Error::option("unit", message));
        }
        if self.metric == Reported::Mase && self.target.len() > 1 {
            let message = "`mase` is of one target: take `rmse` or `mae` for several";
            return Err(Error::option("metric", message));
        }
        require_stride(self.eval_stride, self.season.unwrap_or(1), "steps of the season")
    }
}

fn resolve(given: &Options) -> Result<Options> {
    let mut options: ForecastOptions = options::parse(given)?;
    let (frame, hash) = Frame::load(&options)?;
    let [inputs, _] = columns(&frame.table, &options)?;
    // Named in the trial, so that its record says what was read.
    options.inputs = inputs.into_iter().map(|column| frame.table.name(column).to_owned()).collect();
    options.data_hash = hash;
    options::to_map(&options)
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<ForecastOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: ForecastOptions = options::parse(request.options)?;
    let (frame, _) = Frame::load(&options)?;
    Ok(Box::new(Forecast::new(&frame, request.length, request.seed, options)?))
}

/// What is forecast.
struct Target {
    name: String,
    /// In the target's own unit, missing values filled in.
    values: Vec<f64>,
    scale: Scale,
}

/// The steps of each series follow each other in time, and are cut at the same shares: its last ones are
/// the test, those before them validation. A step is forecast where all targets are known. Scales, what
/// stands before a first value, and which inputs have marks are known from the training parts alone.
struct Forecast {
    options: ForecastOptions,
    /// Of all steps, series by series.
    windows: Windows,
    targets: Vec<Target>,
    /// Steps of each series.
    series: Vec<Range<usize>>,
    /// Steps that are forecast in each split.
    train: Vec<usize>,
    validation: Vec<usize>,
    test: Vec<usize>,
    /// Training steps that stand for the training split in evaluations.
    train_sample: Vec<usize>,
    epochs: Epochs,
    /// Measured when first asked for.
    baselines: OnceLock<Vec<Baseline>>,
}

/// The parts of a series: training, validation, test.
#[derive(Debug, Clone, PartialEq)]
struct Parts([Range<usize>; 3]);

impl Parts {
    fn of(series: &Range<usize>, validation: f64, test: f64) -> Self {
        // Sums of shares such as 0.1 and 0.2 are a little off.
        let cut = |share: f64| {
            series.start + ((1.0 - share) * series.len() as f64 + 1e-6).floor() as usize
        };
        let [first, second] = [cut(validation + test), cut(test)];
        Self([series.start..first, first..second, second..series.end])
    }
}

impl Forecast {
    fn new(frame: &Frame, length: usize, seed: u64, options: ForecastOptions) -> Result<Self> {
        let [inputs, targets] = columns(&frame.table, &options)?;
        let parts: Vec<Parts> = frame
            .series
            .iter()
            .map(|series| Parts::of(series, options.validation, options.test))
            .collect();
        let training: Vec<Range<usize>> = parts.iter().map(|parts| parts.0[0].clone()).collect();
        require_length(frame, &parts, length, &options)?;

        let targets = targets
            .into_iter()
            .enumerate()
            .map(|(number, column)| {
                let unit = options.unit.get(number).cloned().unwrap_or_default();
                target(frame, column, unit, &training, &options)
            })
            .collect::<Result<Vec<(Target, Vec<bool>)>>>()?;
        let known = |step: &usize| targets.iter().all(|(_, known)| known[*step]);
        // A window of the first target and its horizon need so many steps before it.
        let before = length + options.horizon - 1;
        let forecast = |part: usize, stride: usize| -> Vec<usize> {
            let steps = parts.iter().zip(&frame.series).flat_map(|(Parts(parts), series)| {
                let part = parts[part].clone();
                let begin = if options.look_back { series.start } else { part.start };
                part.start.max(begin + before)..part.end
            });
            steps.filter(known).step_by(stride).collect()
        };
        let stride = options.eval_stride;
        let [train, validation, test] =
            [(0, 1), (1, stride), (2, stride)].map(|(part, stride)| forecast(part, stride));
        for (part, name) in [(&train, "training"), (&validation, "validation"), (&test, "test")] {
            if part.is_empty() {
                let message = format!(
                    "the {name} split has no step whose targets are all known, after windows of {length} \
                     steps"
                );
                return Err(Error::data(frame.table.path(), 0, message));
            }
        }
        let sample = training_sample(ENTRY.name, validation.len(), train.len());
        Ok(Self {
            windows: windows(frame, &inputs, &training, (length, options.horizon))?,
            targets: targets.into_iter().map(|(target, _)| target).collect(),
            series: frame.series.clone(),
            epochs: Epochs::new(Stream::new(seed, "task/forecast/train"), train.len()),
            train_sample: sample.into_iter().map(|index| train[index]).collect(),
            train,
            validation,
            test,
            options,
            baselines: OnceLock::new(),
        })
    }

    fn batch(&self, steps: &[usize]) -> Batch {
        self.windows.batch(steps, |step, answers| {
            // Only known steps are forecast, and what is known is what fills its own step.
            answers
                .extend(self.targets.iter().map(|target| target.scale.scaled(target.values[step])));
        })
    }

    /// The scale of what is reported: of several targets, in standard deviations of each.
    fn scale(&self) -> Scale {
        match self.targets.as_slice() {
            [only] => only.scale.clone(),
            _ => Scale { mean: 0.0, std: 1.0, naive: f64::NAN, unit: SPREAD.into() },
        }
    }

    /// The metric on the evaluated test steps of a rule that forecasts a target, by its number, at a step,
    /// in the target's own unit.
    fn error_of(&self, forecast: impl Fn(usize, usize) -> Option<f64>) -> Option<f64> {
        let scale = self.scale();
        let targets = || self.targets.iter().enumerate();
        let errors: Option<Vec<f64>> = self
            .test
            .iter()
            .flat_map(|&step| targets().map(move |(number, target)| (step, number, target)))
            .map(|(step, number, target)| {
                let error = forecast(step, number)? - target.values[step];
                // Where there are several, a standard deviation of each counts as much.
                Some(error / target.scale.std * scale.std)
            })
            .collect();
        Some(scale.of(self.options.metric, &errors?))
    }

    /// The step so many steps before, within the same series.
    fn earlier(&self, step: usize, lag: usize) -> Option<usize> {
        let series = self.series.partition_point(|series| series.end <= step);
        let earlier = step.checked_sub(lag)?;
        (earlier >= self.series.get(series)?.start).then_some(earlier)
    }

    fn measure_baselines(&self) -> Vec<Baseline> {
        let horizon = self.options.horizon;
        let lag = |lag: usize| {
            self.error_of(|step, number| {
                Some(self.targets[number].values[self.earlier(step, lag)?])
            })
        };
        let mean = self.error_of(|_, number| Some(self.targets[number].scale.mean));
        let seasonal = self.options.season.map(|season| {
            (format!("seasonal, {season} steps"), lag(seasonal_lag(season, horizon)))
        });
        let plain = [("persistence".into(), lag(horizon)), ("training mean".into(), mean)];
        let mut baselines = by_error(plain.into_iter().chain(seasonal));
        baselines.extend(self.ridge());
        baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
        baselines
    }

    /// A ridge regression on the last steps of a window, as many of them as do not take too long.
    fn ridge(&self) -> Option<Baseline> {
        let affordable = (DEAREST_RIDGE / self.train.len() as f64).sqrt() as usize;
        let last = (affordable / self.windows.features.max(1)).min(self.windows.length);
        if last == 0 {
            return None;
        }
        let row = |step: usize| {
            let end = self.windows.of(step).end;
            self.windows.at(end - last..end)
        };
        let outputs = self.targets.len();
        let rows: Vec<&[f32]> = self.train.iter().map(|&step| row(step)).collect();
        let scaled = |step: &usize| {
            let step = *step;
            self.targets.iter().map(move |t| (t.values[step] - t.scale.mean) / t.scale.std)
        };
        let answers: Vec<f64> = self.train.iter().flat_map(scaled).collect();
        let ridge = Ridge::of_values(&rows, &answers, outputs, RIDGE_PENALTY)?;
        let value = self.error_of(|step, number| {
            let Scale { mean, std, .. } = self.targets[number].scale;
            Some(ridge.answers(row(step))[number] * std + mean)
        })?;
        let name = match last == self.windows.length {
            true => "ridge regression on the window".into(),
            false => format!("ridge regression on the last {last} steps"),
        };
        value.is_finite().then_some(Baseline { name, value, fitted: true })
    }
}

impl Task for Forecast {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Values { features: self.windows.features }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Values { outputs: self.targets.len() }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        self.windows.length
    }

    fn metric(&self) -> Metric {
        self.scale().metric(self.options.metric)
    }

    fn other_metrics(&self) -> Vec<Metric> {
        let scale = self.scale();
        let mut others = scale.others(self.options.metric);
        // Nothing can be measured by a naive forecast that is never wrong, or of several targets.
        if scale.naive.is_nan() || scale.naive <= 0.0 {
            others.retain(|other| !matches!(other, Metric::MeanAbsoluteScaledError { .. }));
        }
        if self.targets.len() > 1 {
            others.extend(self.targets.iter().enumerate().map(|(output, target)| {
                let Scale { std: scale, unit, .. } = target.scale.clone();
                Metric::RootMeanSquaredErrorOf { output, name: target.name.clone(), scale, unit }
            }));
        }
        others
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.baselines.get_or_init(|| self.measure_baselines()).clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size);
        let steps: Vec<usize> = drawn.into_iter().map(|index| self.train[index]).collect();
        self.batch(&steps)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let steps = match split {
            Split::Train => &self.train_sample,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        };
        steps.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }
}

/// Checks that a window and the horizon fit in each part of some series.
fn require_length(
    frame: &Frame,
    parts: &[Parts],
    length: usize,
    options: &ForecastOptions,
) -> Result<()> {
    let within = if options.look_back { 0..1 } else { 0..3 };
    let names = ["training", "validation", "test"];
    let longest = within
        .map(|part| {
            let steps = parts.iter().map(|parts| parts.0[part].len()).max().unwrap_or(0);
            (steps.saturating_sub(options.horizon), steps, names[part])
        })
        .min();
    let Some((longest, steps, part)) = longest else { return Ok(()) };
    if longest == 0 {
        let message = format!(
            "{} steps are too few: the {part} part of the longest series has {steps}, which is no more than \
             the horizon of {}",
            frame.len(),
            options.horizon
        );
        return Err(Error::data(frame.table.path(), 0, message));
    }
    if !(1..=longest).contains(&length) {
        let apart = if part == "training" { "" } else { ", unless `look_back = true`" };
        let message = format!(
            "must lie in 1..={longest} (steps to look back within the {steps} of the {part} part, the horizon \
             of {} included{apart}), not {length}",
            options.horizon
        );
        return Err(Error::option("length", message));
    }
    Ok(())
}

/// A target, and at which steps it is known.
fn target(
    frame: &Frame,
    column: usize,
    unit: String,
    training: &[Range<usize>],
    options: &ForecastOptions,
) -> Result<(Target, Vec<bool>)> {
    let values = frame.values(column)?;
    let name = frame.table.name(column).to_owned();
    let of_training = training.iter().flat_map(|steps| values[steps.clone()].iter().copied());
    let (mean, std) = mean_and_std(of_training.flatten());
    let never = |what: &str| {
        let message = format!("the target `{name}` {what}");
        Err(Error::data(frame.table.path(), 0, message))
    };
    if !std.is_finite() {
        return never("has numbers that are too large to square");
    }
    if std <= 0.0 {
        return never("never changes in the training part: there is nothing to learn");
    }
    let season = options.season.unwrap_or(1);
    if training.iter().all(|steps| steps.len() <= season) {
        let longest = training.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let message =
            format!("must be less than the {longest} steps of the training part, not {season}");
        return Err(Error::option("season", message));
    }
    let naive = naive_error(training.iter().map(|steps| &values[steps.clone()]), season);
    if options.metric == Reported::Mase && naive <= 0.0 {
        let message =
            format!("`mase` is not possible: repeating {season} steps before is never wrong");
        return Err(Error::option("metric", message));
    }
    let scale = Scale { mean, std, naive, unit: unit.into() };
    let known = values.iter().map(Option::is_some).collect();
    let values = frame.filled(&values, mean);
    match values.iter().position(|&value| !scale.scaled(value).is_finite()) {
        Some(step) => Err(frame.cell(step, column, TOO_LARGE)),
        None => Ok((Target { name, values, scale }, known)),
    }
}

/// The inputs: each column standardised, with a mark beside it where values of its training part are
/// missing. A mark that never was 1 in training would tell a model nothing.
fn windows(
    frame: &Frame,
    columns: &[usize],
    training: &[Range<usize>],
    (length, horizon): (usize, usize),
) -> Result<Windows> {
    let mut inputs: Vec<Vec<f32>> = Vec::new();
    for &column in columns {
        let values = frame.values(column)?;
        let trained = || training.iter().flat_map(|steps| &values[steps.clone()]).copied();
        let (mean, std) = mean_and_std(trained().flatten());
        if trained().flatten().next().is_none() {
            let message = format!(
                "the input `{}` has no value in the training part: leave it out of `inputs`",
                frame.table.name(column)
            );
            return Err(Error::data(frame.table.path(), 0, message));
        }
        let std = or_one(std);
        let scaled: Vec<f32> = frame
            .filled(&values, mean)
            .into_iter()
            .map(|value| ((value - mean) / std) as f32)
            .collect();
        if let Some(step) = scaled.iter().position(|value| !value.is_finite()) {
            return Err(frame.cell(step, column, TOO_LARGE));
        }
        inputs.push(scaled);
        if trained().any(|value| value.is_none()) {
            inputs.push(values.iter().map(|value| f32::from(u8::from(value.is_none()))).collect());
        }
    }
    let features = inputs.len();
    let rows = (0..frame.len()).flat_map(|step| inputs.iter().map(move |input| input[step]));
    Ok(Windows { inputs: rows.collect(), features, length, horizon })
}

#[cfg(test)]
mod tests;
