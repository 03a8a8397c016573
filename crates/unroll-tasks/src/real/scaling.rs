//! Standardising the channels of time series.

use crate::data::SeriesFile;

/// Mean and standard deviation of each channel over all steps whose value is known.
pub(crate) struct Scaling {
    channels: Vec<(f64, f64)>,
}

impl Scaling {
    /// The statistics of these cases.
    pub(crate) fn fit(series: &SeriesFile, cases: &[usize]) -> Self {
        let channel = |channel: usize| {
            let values = || {
                cases
                    .iter()
                    .flat_map(move |&index| {
                        series.cases[index].values.iter().skip(channel).step_by(series.channels)
                    })
                    .filter(|value| !value.is_nan())
            };
            let count = values().count().max(1) as f64;
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
            // A channel that never changes says nothing, at any scale.
            (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
        };
        Self { channels: (0..series.channels).map(channel).collect() }
    }

    /// The values, `(T, C)` row by row, standardised; missing ones stay NaN.
    pub(crate) fn apply(&self, values: &[f64]) -> impl Iterator<Item = f32> {
        let statistics = self.channels.iter().cycle();
        values.iter().zip(statistics).map(|(value, (mean, std))| ((value - mean) / std) as f32)
    }
}
