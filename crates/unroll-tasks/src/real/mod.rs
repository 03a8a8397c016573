//! Tasks from bundled data sets, and from sets that are fetched.

mod air_quality;
pub(crate) mod digits;
pub(crate) mod digits_seen_and_heard;
pub(crate) mod electricity;
pub(crate) mod fashion_mnist;
pub(crate) mod forecast;
mod forecasting;
mod hourly;
mod images;
pub(crate) mod japanese_vowels;
pub(crate) mod mnist;
pub(crate) mod pm25;
mod scaling;
pub(crate) mod spoken_digits;
pub(crate) mod text;
pub(crate) mod text_classification;
pub(crate) mod timeseries;
