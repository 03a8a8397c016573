//! What the tasks that forecast series have in common: windows, scales, metrics, baselines.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;

use super::scaling::mean_and_std;
use crate::options::require_count;
use crate::synthetic::EVALUATION_SEED;
use crate::{Baseline, Batch, Error, Inputs, Metric, Result, Targets};

/// What is reported; models are trained on squared errors in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reported {
    Rmse,
    Mae,
    Mase,
}

/// What numbers of a target are measured in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    /// Mean and standard deviation of the training part.
    pub(super) mean: f64,
    pub(super) std: f64,
    /// Mean absolute error of repeating the season before on the training part.
    pub(super) naive: f64,
    /// Unit of the target.
    pub(super) unit: Cow<'static, str>,
}

impl Scale {
    /// The scale of a training part; `None` where a value is missing. `None` as a whole where the values
    /// never change, or not from one season to the next.
    pub(super) fn fit(
        training: &[Option<f64>],
        season: usize,
        unit: impl Into<Cow<'static, str>>,
    ) -> Option<Self> {
        let (mean, std) = mean_and_std(training.iter().copied().flatten());
        let naive = naive_error([training], season);
        (std > 0.0 && naive > 0.0).then(|| Self { mean, std, naive, unit: unit.into() })
    }

    pub(super) fn scaled(&self, value: f64) -> f32 {
        ((value - self.mean) / self.std) as f32
    }

    pub(super) fn metric(&self, reported: Reported) -> Metric {
        let (scale, unit) = (self.std, self.unit.clone());
        match reported {
            Reported::Rmse => Metric::RootMeanSquaredError { scale, unit },
            Reported::Mae => Metric::MeanAbsoluteError { scale, unit },
            Reported::Mase => Metric::MeanAbsoluteScaledError { scale: scale / self.naive },
        }
    }

    /// The metrics beside the reported one.
    pub(super) fn others(&self, reported: Reported) -> Vec<Metric> {
        let all = [Reported::Rmse, Reported::Mae, Reported::Mase].into_iter();
        all.filter(|&other| other != reported).map(|other| self.metric(other)).collect()
    }

    /// The metric of errors in the target's own unit.
    pub(super) fn of(&self, reported: Reported, errors: &[f64]) -> f64 {
        let mean = |of: fn(&f64) -> f64| errors.iter().map(of).sum::<f64>() / errors.len() as f64;
        match reported {
            Reported::Rmse => mean(|error| error * error).sqrt(),
            Reported::Mae => mean(|error| error.abs()),
            Reported::Mase => mean(|error| error.abs()) / self.naive,
        }
    }
}

/// Mean absolute difference between values a season apart, where both are known, in each series; 0
/// without any.
pub(super) fn naive_error<'a>(
    series: impl IntoIterator<Item = &'a [Option<f64>]>,
    season: usize,
) -> f64 {
    let differences: Vec<f64> = series
        .into_iter()
        .flat_map(|values| values.iter().zip(values.iter().skip(season)))
        .filter_map(|(a, b)| Some((b.as_ref()? - a.as_ref()?).abs()))
        .collect();
    differences.iter().sum::<f64>() / differences.len().max(1) as f64
}

/// The last known value at or before each step; before the first of all, `mean`.
pub(super) fn filled(values: &[Option<f64>], mean: f64) -> impl Iterator<Item = f64> {
    values.iter().scan(mean, |last, value| {
        *last = value.unwrap_or(*last);
        Some(*last)
    })
}

/// How far back the forecast of a value looks that repeats a season, `ahead` steps from the last that
/// is known: a season, or as many as it takes.
pub(super) fn seasonal_lag(season: usize, ahead: usize) -> usize {
    season * ahead.div_ceil(season)
}

/// The baselines whose errors are known, best first; none of them learns.
pub(super) fn by_error(errors: impl IntoIterator<Item = (String, Option<f64>)>) -> Vec<Baseline> {
    let known = errors.into_iter();
    let mut baselines: Vec<Baseline> = known
        .filter_map(|(name, value)| Some(Baseline { name, value: value?, fitted: false }))
        .collect();
    baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
    baselines
}

/// Where the validation and the test part of hours begin that follow each other: the last fifth is the
/// test, the tenth before it validation.
pub(super) fn cuts(hours: usize) -> [usize; 2] {
    [hours * 7 / 10, hours * 8 / 10]
}

/// Checks that a window of `length` hours and the horizon fit in the training part.
pub(super) fn require_look_back(length: usize, horizon: usize, training: usize) -> Result<()> {
    let longest = training.saturating_sub(horizon);
    if (1..=longest).contains(&length) {
        return Ok(());
    }
    let message = format!(
        "must lie in 1..={longest} (hours to look back within the {training} of the training split), \
         not {length}"
    );
    Err(Error::option("length", message))
}

/// Checks that every n-th step of an evaluation comes to all of a season.
pub(super) fn require_stride(eval_stride: usize, season: usize, of: &str) -> Result<()> {
    require_count("eval_stride", eval_stride, 1, 1000)?;
    let divides_none = |stride: &usize| {
        (2..=*stride).all(|d| !(stride.is_multiple_of(d) && season.is_multiple_of(d)))
    };
    if divides_none(&eval_stride) {
        return Ok(());
    }
    let some: Vec<String> =
        (1..).filter(divides_none).take(4).map(|stride| stride.to_string()).collect();
    let message = format!(
        "{eval_stride} shares a divisor with the {season} {of} and would leave some of them out; take \
         {} or the like",
        some.join(", ")
    );
    Err(Error::option("eval_stride", message))
}

/// `count` of a task's `total` training examples, which stand for the training split in evaluations.
pub(super) fn training_sample(task: &str, count: usize, total: usize) -> Vec<usize> {
    let stream = Stream::new(EVALUATION_SEED, format!("task/{task}/train_sample"));
    let mut drawn = stream.rng().distinct(count, total);
    drawn.sort_unstable();
    drawn
}

/// Inputs of all steps, `(steps, F)` row by row, and what a forecast looks at of them.
pub(super) struct Windows {
    pub(super) inputs: Vec<f32>,
    pub(super) features: usize,
    /// Steps that a forecast looks back.
    pub(super) length: usize,
    /// Steps from the last of them to the forecast one.
    pub(super) horizon: usize,
}

impl Windows {
    /// Steps that the forecast of a step looks at.
    pub(super) fn of(&self, step: usize) -> Range<usize> {
        let end = step + 1 - self.horizon;
        end - self.length..end
    }

    /// Inputs of steps.
    pub(super) fn at(&self, steps: Range<usize>) -> &[f32] {
        &self.inputs[steps.start * self.features..steps.end * self.features]
    }

    /// The windows of forecast steps; `answer` adds the right answers of each.
    pub(super) fn batch(
        &self,
        steps: &[usize],
        mut answer: impl FnMut(usize, &mut Vec<f32>),
    ) -> Batch {
        let mut inputs = Vec::with_capacity(steps.len() * self.length * self.features);
        let mut targets = Vec::with_capacity(steps.len());
        for &step in steps {
            inputs.extend_from_slice(self.at(self.of(step)));
            answer(step, &mut targets);
        }
        Batch {
            batch_size: steps.len(),
            seq_len: self.length,
            inputs: Inputs::Values(inputs),
            targets: Targets::Values(targets),
            weights: None,
            lengths: None,
            continues: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naive_errors_stay_within_a_series_and_pass_over_what_is_missing() {
        let day: Vec<Option<f64>> = (0..30)
            .map(|hour| match hour {
                0..24 => Some(0.0),
                _ => [Some(1.0), None, Some(3.0)][hour % 3],
            })
            .collect();
        assert_eq!(naive_error([&day[..]], 24), 2.0);
        let steps = [1.0, 2.0, 10.0, 13.0].map(Some);
        assert_eq!(naive_error([&steps[..]], 1), 4.0);
        assert_eq!(naive_error([&steps[..2], &steps[2..]], 1), 2.0);
        assert_eq!(naive_error([&steps[..]], 4), 0.0);
    }

    #[test]
    fn strides_come_to_all_of_a_season() {
        for (stride, season) in [(1, 24), (5, 24), (7, 24), (11, 168), (25, 24), (3, 1)] {
            assert!(require_stride(stride, season, "hours").is_ok(), "{stride} of {season}");
        }
        for (stride, season) in [(0, 24), (2, 24), (9, 24), (49, 168), (1001, 24)] {
            assert!(require_stride(stride, season, "hours").is_err(), "{stride} of {season}");
        }
        let error = require_stride(4, 24, "hours of the day").unwrap_err().to_string();
        assert!(
            error.contains("the 24 hours of the day") && error.contains("1, 5, 7, 11"),
            "{error}"
        );
    }

    #[test]
    fn seasons_are_those_that_are_known() {
        assert_eq!([1, 24, 25, 49].map(|ahead| seasonal_lag(24, ahead)), [24, 24, 48, 72]);
    }
}
