//! Axes: from numbers to places.

use super::font::shortened;
use super::ticks::{self, Decades, Label, Tick};
use crate::rows::{power_of_ten, significant};

/// What an axis' coordinates stand for.
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    /// The numbers themselves.
    Linear,
    /// Decimal logarithms.
    Log(Decades),
    /// Lengths at fixed ticks, as binary logarithms or themselves.
    Lengths { lengths: Vec<usize>, logarithmic: bool },
    /// Rows with names, the first at the top.
    Names(Vec<String>),
    /// Columns with names, the first at the left.
    Columns(Vec<String>),
}

/// An axis of a panel. Data are given as coordinates: [`Axis::coordinate`] of a number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    kind: Kind,
    min: f64,
    max: f64,
    /// Coordinates above it stand for values of which nothing more is known than that.
    beyond: Option<f64>,
    /// What stands beside the axis.
    pub(crate) label: String,
}

/// The smallest and largest finite value; `None` when there is none.
fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|value| value.is_finite());
    finite.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((min, max)) => Some((value.min(min), value.max(max))),
    })
}

impl Axis {
    /// A linear axis around all finite values. Starts at 0 when the values are positive and come
    /// near it.
    pub(crate) fn linear(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = range(values).unwrap_or((0.0, 1.0));
        let mut pad = 0.06 * (high - low);
        if pad <= 1e-9 * high.abs().max(low.abs()) {
            pad = if high == 0.0 { 0.5 } else { 0.1 * high.abs() };
        }
        let near_zero = low >= 0.0 && low <= 0.35 * high;
        let min = if near_zero { 0.0 } else { low - pad };
        Self { kind: Kind::Linear, min, max: high + pad, beyond: None, label: label.to_owned() }
    }

    /// A linear axis with these ends.
    pub(crate) fn between(label: &str, min: f64, max: f64) -> Self {
        Self { kind: Kind::Linear, min, max, beyond: None, label: label.to_owned() }
    }

    /// A linear axis from 0 to the largest value, or to a round one just beyond.
    pub(crate) fn from_zero(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let high = range(values).map_or(1.0, |range| range.1);
        let high = if high > 0.0 { high } else { 1.0 };
        let power = 10f64.powf(high.log10().floor() - 1.0);
        let round = (high / power - 1e-9).ceil() * power;
        let max = if round <= 1.02 * high { round } else { high };
        Self { kind: Kind::Linear, min: 0.0, max, beyond: None, label: label.to_owned() }
    }

    /// A logarithmic axis around decimal logarithms (not the numbers, which may be too small for
    /// an f64), labelled with powers of ten.
    pub(crate) fn powers(label: &str, logarithms: impl IntoIterator<Item = f64>) -> Self {
        Self::logarithmic(label, logarithms, Decades::Powers)
    }

    /// The same, labelled 1k, 10k, ...
    pub(crate) fn prefixes(label: &str, logarithms: impl IntoIterator<Item = f64>) -> Self {
        Self::logarithmic(label, logarithms, Decades::Prefixes)
    }

    fn logarithmic(
        label: &str,
        logarithms: impl IntoIterator<Item = f64>,
        decades: Decades,
    ) -> Self {
        let (low, high) = range(logarithms).unwrap_or((-1.0, 1.0));
        let pad = if high - low < 0.3 { 0.25 } else { 0.05 * (high - low) };
        let (min, max) = (low - pad, high + pad);
        Self { kind: Kind::Log(decades), min, max, beyond: None, label: label.to_owned() }
    }

    /// An axis of lengths with a tick at each; logarithmic when `always` or when they span more than
    /// a factor of 8.
    pub(crate) fn lengths(label: &str, lengths: &[usize], always: bool) -> Self {
        let mut lengths: Vec<usize> =
            lengths.iter().copied().filter(|&length| length > 0).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let (first, last) =
            (lengths.first().copied().unwrap_or(1), lengths.last().copied().unwrap_or(1));
        let logarithmic = always || last > 8 * first;
        let coordinate = |length: usize| coordinate_of_length(length as f64, logarithmic);
        let (low, high) = (coordinate(first), coordinate(last));
        let pad = if high > low { 0.05 * (high - low) } else { 0.5 };
        let kind = Kind::Lengths { lengths, logarithmic };
        Self { kind, min: low - pad, max: high + pad, beyond: None, label: label.to_owned() }
    }

    /// Rows with names; long ones are cut in the middle.
    pub(crate) fn names(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| shortened(name, 7.0, 110.0)).collect();
        let max = names.len() as f64 - 0.5;
        Self { kind: Kind::Names(names), min: -0.5, max, beyond: None, label: String::new() }
    }

    /// Columns with names.
    pub(crate) fn columns(label: &str, names: Vec<String>) -> Self {
        let max = names.len() as f64 - 0.5;
        Self { kind: Kind::Columns(names), min: -0.5, max, beyond: None, label: label.to_owned() }
    }

    /// The axis with values above a coordinate all alike: it has no ticks there.
    pub(crate) fn known_to(self, coordinate: f64) -> Self {
        Self { beyond: Some(coordinate), ..self }
    }

    /// What a coordinate stands for, in words.
    pub(crate) fn describe(&self, coordinate: f64) -> String {
        if let Some(limit) = self.beyond.filter(|limit| coordinate > *limit) {
            return format!("beyond {}", self.describe(limit));
        }
        match &self.kind {
            Kind::Linear => significant(coordinate),
            // Smaller than an f64 can be.
            Kind::Log(_) => power_of_ten(coordinate * std::f64::consts::LN_10),
            Kind::Lengths { logarithmic: true, .. } => coordinate.exp2().round().to_string(),
            Kind::Lengths { .. } => coordinate.to_string(),
            Kind::Names(names) | Kind::Columns(names) => {
                names.get(coordinate.round().max(0.0) as usize).cloned().unwrap_or_default()
            }
        }
    }

    /// Makes room so that the axis reaches as far as another one.
    pub(crate) fn join(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The coordinate of a number.
    pub(crate) fn coordinate(&self, value: f64) -> f64 {
        match &self.kind {
            Kind::Linear | Kind::Names(_) | Kind::Columns(_) => value,
            Kind::Log(_) => value.log10(),
            Kind::Lengths { logarithmic, .. } => coordinate_of_length(value, *logarithmic),
        }
    }

    /// The place of a coordinate: 0 at the axis' start, 1 at its end, never outside.
    pub(crate) fn place(&self, coordinate: f64) -> f64 {
        let place = ((coordinate - self.min) / (self.max - self.min)).clamp(0.0, 1.0);
        if matches!(self.kind, Kind::Names(_)) { 1.0 - place } else { place }
    }

    /// The coordinate at a place between 0 and 1: the inverse of [`place`](Self::place).
    pub(crate) fn at_place(&self, place: f64) -> f64 {
        self.min + place * (self.max - self.min)
    }

    /// Whether a coordinate lies on the axis.
    pub(crate) fn contains(&self, coordinate: f64) -> bool {
        coordinate >= self.min && coordinate <= self.max
    }

    /// Whether the axis has rows with names: no ticks.
    pub(crate) fn is_names(&self) -> bool {
        self.rows().is_some()
    }

    /// How many rows with names the axis has, if that is what it has.
    pub(crate) fn rows(&self) -> Option<usize> {
        match &self.kind {
            Kind::Names(names) => Some(names.len()),
            _ => None,
        }
    }

    /// The ticks; about as many as `wanted`, or with labels that fit `room` points for lengths.
    pub(crate) fn ticks(&self, wanted: usize, room: f64, size: f64) -> Vec<Tick> {
        let mut ticks = self.all_ticks(wanted, room, size);
        ticks.retain(|tick| self.beyond.is_none_or(|limit| tick.at <= limit));
        ticks
    }

    fn all_ticks(&self, wanted: usize, room: f64, size: f64) -> Vec<Tick> {
        match &self.kind {
            Kind::Linear => ticks::linear(self.min, self.max, wanted),
            Kind::Log(style) => ticks::logarithmic(self.min, self.max, wanted, *style),
            Kind::Names(names) | Kind::Columns(names) => {
                let tick =
                    |(row, name): (usize, &String)| Tick::new(row as f64, Label::plain(name));
                names.iter().enumerate().map(tick).collect()
            }
            Kind::Lengths { lengths, .. } => {
                let mut free = f64::INFINITY;
                // From the longest down: the ends matter most, and a crowd is at the short end.
                let mut ticks: Vec<Tick> = Vec::new();
                for &length in lengths.iter().rev() {
                    let at = self.coordinate(length as f64);
                    let label = Label::plain(ticks::length(length));
                    let (center, half) = (self.place(at) * room, label.width(size) / 2.0);
                    let fits = center + half + 3.0 <= free;
                    if fits {
                        free = center - half;
                    }
                    ticks.push(Tick { at, label: fits.then_some(label) });
                }
                ticks.reverse();
                ticks
            }
        }
    }
}

fn coordinate_of_length(length: f64, logarithmic: bool) -> f64 {
    if logarithmic { length.log2() } else { length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_still_make_an_axis() {
        for value in [0.0, 0.25, -3.0, 1e-300, 1e300] {
            let axis = Axis::linear("", [value, value]);
            let place = axis.place(value);
            assert!(place.is_finite() && (0.0..=1.0).contains(&place), "{value}");
            assert!(!axis.ticks(5, 100.0, 7.0).is_empty(), "{value}");
        }
        assert!((Axis::powers("", [-3.0]).place(-3.0) - 0.5).abs() < 1e-12);
        assert_eq!(Axis::lengths("", &[64], false).place(64.0), 0.5);
    }

    #[test]
    fn nothing_makes_an_axis_too() {
        let none: [f64; 0] = [];
        assert!(!Axis::linear("", none).ticks(5, 100.0, 7.0).is_empty());
        assert!(!Axis::powers("", [f64::NAN]).ticks(5, 100.0, 7.0).is_empty());
        assert!(Axis::lengths("", &[], true).ticks(5, 100.0, 7.0).is_empty());
    }

    #[test]
    fn lengths_are_logarithmic_beyond_a_factor_of_eight() {
        let middle = |lengths: &[usize]| {
            let axis = Axis::lengths("", lengths, false);
            axis.place(axis.coordinate(lengths[1] as f64))
        };
        assert!((middle(&[64, 128, 1024]) - 0.273).abs() < 0.01, "log2: a quarter of the way");
        assert!((middle(&[100, 200, 800]) - 0.177).abs() < 0.01, "linear: a seventh");
    }

    #[test]
    fn crowded_length_labels_are_left_out() {
        let lengths: Vec<usize> = (1..=40).map(|i| 25 * i).collect();
        let ticks = Axis::lengths("", &lengths, false).ticks(5, 150.0, 7.0);
        let labelled = ticks.iter().filter(|tick| tick.label.is_some()).count();
        assert_eq!(ticks.len(), 40);
        assert!((3..15).contains(&labelled), "{labelled}");
        assert!(ticks.last().unwrap().label.is_some());
    }

    #[test]
    fn error_axes_start_at_zero() {
        assert_eq!(Axis::linear("", [0.01, 0.17]).place(0.0), 0.0);
        assert!(!Axis::linear("", [0.8, 0.9]).contains(0.0));
    }

    #[test]
    fn nothing_is_told_apart_beyond_what_was_measured() {
        let axis = Axis::powers("", [0.0, 3.0]).known_to(1.5);
        assert!(axis.contains(2.9));
        let ticks = axis.ticks(5, 100.0, 7.0);
        assert!(!ticks.is_empty() && ticks.iter().all(|tick| tick.at <= 1.5), "{ticks:?}");
        assert_eq!(axis.describe(1.0), "1.0e1");
        assert_eq!(axis.describe(2.0), "beyond 3.2e1");
    }

    #[test]
    fn names_run_from_the_top() {
        let axis = Axis::names(&["a", "b"]);
        assert_eq!((axis.place(0.0), axis.place(1.0)), (0.75, 0.25));
    }
}
