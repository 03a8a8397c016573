//! Tasks from bundled data sets.

pub(crate) mod digits;
pub(crate) mod electricity;
mod hourly;
mod images;
pub(crate) mod japanese_vowels;
pub(crate) mod mnist;
mod scaling;
pub(crate) mod spoken_digits;
pub(crate) mod timeseries;
