//! Baselines of classified time series.

use super::{dtw, ridge};
use crate::Baseline;
use crate::data::SeriesFile;
use crate::data::labelled::LabelledSequences;
use crate::data::split::Splits;

/// Weight of the squared coefficients in the ridge regression, for standardised channels.
const RIDGE_PENALTY: f64 = 1.0;

/// The archive's reference classifier, on the raw values as published: Bagnall et al. 2018 give
/// 0.949 for Japanese vowels (`DTW_D`). It also learns from the cases that validate the models.
pub(crate) fn nearest_neighbour(train: &SeriesFile, test: &SeriesFile) -> f64 {
    dtw::nearest_neighbour_accuracy(&examples(train), &examples(test), train.channels)
}

/// Sums that [`nearest_neighbour`] takes, about.
pub(crate) fn nearest_neighbour_cost(train: &SeriesFile, test: &SeriesFile) -> f64 {
    let steps =
        |series: &SeriesFile| series.cases.iter().map(|case| case.length as f64).sum::<f64>();
    steps(train) * steps(test) * train.channels as f64
}

fn examples(series: &SeriesFile) -> dtw::Examples<'_> {
    dtw::Examples {
        sequences: series.cases.iter().map(|case| case.values.as_slice()).collect(),
        labels: series.cases.iter().map(|case| case.class).collect(),
    }
}

/// Ridge regression on what is left of a sequence when its order is lost; `None` without examples.
pub(crate) fn ridge_without_order(
    sequences: &LabelledSequences,
    splits: &Splits,
) -> Option<Baseline> {
    let summaries: Vec<Vec<f32>> =
        (0..sequences.labels().len()).map(|index| summary(sequences, index)).collect();
    let examples = |part: &[usize]| ridge::Examples {
        rows: part.iter().map(|&index| summaries[index].as_slice()).collect(),
        labels: part.iter().map(|&index| sequences.labels()[index]).collect(),
    };
    let (train, test) = (examples(&splits.train), examples(&splits.test));
    let value = ridge::ridge_accuracy(&train, &test, sequences.classes(), RIDGE_PENALTY)?;
    let name = "ridge regression on mean and deviation of each channel, order ignored".into();
    Some(Baseline { name, value, fitted: true })
}

/// Mean and standard deviation of each channel over the steps of a sequence.
fn summary(sequences: &LabelledSequences, index: usize) -> Vec<f32> {
    let values = sequences.sequence(index);
    let steps = sequences.length(index).max(1);
    moments(values, values.len() / steps)
}

/// Mean and standard deviation of each channel over the steps of `values`, `(T, C)` row by row.
pub(crate) fn moments(values: &[f32], channels: usize) -> Vec<f32> {
    let steps = (values.len() / channels.max(1)).max(1);
    let moments = (0..channels).map(|channel| {
        let channel = || values.iter().skip(channel).step_by(channels).map(|&v| f64::from(v));
        let mean = channel().sum::<f64>() / steps as f64;
        let variance = channel().map(|value| (value - mean).powi(2)).sum::<f64>() / steps as f64;
        [mean as f32, variance.sqrt() as f32]
    });
    moments.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_mean_and_deviation_of_each_channel() {
        let mut sequences = LabelledSequences::new(2, 1);
        sequences.push([1.0, 5.0, 3.0, 5.0], 0);
        assert_eq!(summary(&sequences, 0), [2.0, 1.0, 5.0, 0.0]);
    }
}
