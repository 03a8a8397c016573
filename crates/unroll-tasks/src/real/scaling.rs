//! Standardising what series are made of.

use crate::data::SeriesFile;

/// Mean and standard deviation of each channel over all steps whose value is known.
pub(crate) struct Scaling {
    channels: Vec<(f64, f64)>,
}

impl Scaling {
    /// The statistics of these cases.
    pub(crate) fn fit(series: &SeriesFile, cases: &[usize]) -> Self {
        let channel = |channel: usize| {
            let values = cases
                .iter()
                .flat_map(|&index| {
                    series.cases[index].values.iter().skip(channel).step_by(series.channels)
                })
                .copied()
                .filter(|value| !value.is_nan());
            let (mean, std) = mean_and_std(values);
            (mean, or_one(std))
        };
        Self { channels: (0..series.channels).map(channel).collect() }
    }

    /// The values, `(T, C)` row by row, standardised; missing ones stay NaN.
    pub(crate) fn apply(&self, values: &[f64]) -> impl Iterator<Item = f32> {
        let statistics = self.channels.iter().cycle();
        values.iter().zip(statistics).map(|(value, (mean, std))| ((value - mean) / std) as f32)
    }
}

/// Mean and standard deviation.
pub(crate) fn mean_and_std(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The standard deviation to divide by: what never changes says nothing, at any scale.
pub(crate) fn or_one(std: f64) -> f64 {
    if std > 0.0 { std } else { 1.0 }
}
