//! Where an axis has ticks and what stands beside them.

use super::canvas::{Align, Canvas, Color, Point};
use super::font::text_width;

/// A tick's label: `100`, or 10 with a raised exponent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) base: String,
    pub(crate) exponent: Option<String>,
}

/// Size of an exponent relative to its base.
const RAISED: f64 = 0.72;

impl Label {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { base: text.into(), exponent: None }
    }

    /// `mantissa` times ten to the `exponent`; a mantissa of 1 is not written.
    fn power(mantissa: u32, exponent: i32) -> Self {
        let base = if mantissa == 1 { "10".to_owned() } else { format!("{mantissa}×10") };
        Self { base, exponent: Some(exponent.to_string().replace('-', "−")) }
    }

    /// Width in points when written at `size`.
    pub(crate) fn width(&self, size: f64) -> f64 {
        let raised = self.exponent.as_ref().map_or(0.0, |text| text_width(text, RAISED * size));
        text_width(&self.base, size) + raised
    }

    /// Writes the label with its baseline at a place.
    pub(crate) fn write(&self, canvas: &mut Canvas, at: Point, size: f64, align: Align) {
        let x = match align {
            Align::Left => at.0,
            Align::Center => at.0 - self.width(size) / 2.0,
            Align::Right => at.0 - self.width(size),
        };
        canvas.text(&self.base, (x, at.1), size, Color::BLACK, Align::Left);
        if let Some(exponent) = &self.exponent {
            let raised = (x + text_width(&self.base, size), at.1 - 0.36 * size);
            canvas.text(exponent, raised, RAISED * size, Color::BLACK, Align::Left);
        }
    }
}

/// A tick; a minor one has no label.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    /// The axis' coordinate.
    pub(crate) at: f64,
    pub(crate) label: Option<Label>,
}

impl Tick {
    pub(crate) fn new(at: f64, label: Label) -> Self {
        Self { at, label: Some(label) }
    }
}

/// How decades are labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decades {
    /// 10 with an exponent.
    Powers,
    /// 1k, 10k, 100k, 1M.
    Prefixes,
}

/// The number that 1, 2 or 5 times a power of ten makes of the distance between ticks.
fn nice_step(span: f64, ticks: usize) -> f64 {
    let rough = span / ticks.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= 0.999 * rough);
    factor.unwrap_or(10.0) * power
}

/// Ticks of a linear axis.
pub(crate) fn linear(min: f64, max: f64, wanted: usize) -> Vec<Tick> {
    nice_values(min, max, wanted)
        .map(|(value, decimals)| Tick::new(value, number(value, decimals, min, max)))
        .collect()
}

/// Round values between `min` and `max` with the decimals that they need.
fn nice_values(min: f64, max: f64, wanted: usize) -> impl Iterator<Item = (f64, usize)> {
    let step = nice_step(max - min, wanted);
    let decimals = (-step.log10().floor()).clamp(0.0, 300.0) as usize;
    let slack = 1e-6 * step;
    let first = ((min - slack) / step).ceil();
    let last = ((max + slack) / step).floor();
    // The range is finite and a few steps wide: `wanted` bounds the count.
    let count = (last - first).clamp(0.0, 1000.0) as usize;
    (0..=count).map(move |index| ((first + index as f64) * step, decimals))
}

/// A number on a linear axis from `min` to `max`.
fn number(value: f64, decimals: usize, min: f64, max: f64) -> Label {
    let largest = min.abs().max(max.abs());
    let minus = |text: String| text.replace('-', "−");
    if value == 0.0 || value.abs() < 1e-9 * largest {
        return Label::plain("0");
    }
    if !(1e-3..1e15).contains(&largest) {
        let exponent = largest.log10().floor() as i32;
        let scaled = value / 10f64.powi(exponent);
        let text = trimmed(format!("{scaled:.3}"));
        let exponent = Some(minus(exponent.to_string()));
        return Label { base: minus(format!("{text}×10")), exponent };
    }
    if largest >= 10_000.0 {
        return Label::plain(minus(prefixed(value)));
    }
    Label::plain(minus(format!("{value:.decimals$}")))
}

/// Without zeros that say nothing.
fn trimmed(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A number with a prefix of the SI: `1k`, `2.5M`.
pub(crate) fn prefixed(value: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    for (unit, prefix) in prefixes {
        if value.abs() >= 0.9999 * unit {
            return format!("{}{prefix}", trimmed(format!("{:.3}", value / unit)));
        }
    }
    trimmed(format!("{value:.3}"))
}

/// Ticks of an axis of decimal logarithms.
pub(crate) fn logarithmic(min: f64, max: f64, wanted: usize, style: Decades) -> Vec<Tick> {
    let (first, last) = ((min - 1e-9).ceil() as i64, (max + 1e-9).floor() as i64);
    let decades = last - first + 1;
    if decades >= 3 || (decades == 2 && max - min > 1.5) {
        return whole_decades(min, max, wanted, style);
    }
    let mut ticks = Vec::new();
    for exponent in first - 1..=last {
        for mantissa in [1u32, 2, 5] {
            let at = exponent as f64 + f64::from(mantissa).log10();
            if at >= min - 1e-9 && at <= max + 1e-9 {
                ticks.push(Tick::new(at, fraction(mantissa, exponent as i32, style)));
            }
        }
    }
    if ticks.len() >= 2 {
        return ticks;
    }
    // Less than a factor of 2.5: round values, at their logarithms.
    let (low, high) = (10f64.powf(min), 10f64.powf(max));
    if !(low > 0.0 && high.is_finite() && high > low) {
        return whole_decades(min, max, wanted, style);
    }
    let values = nice_values(low, high, wanted.min(4));
    values
        .filter(|(value, _)| *value > 0.0)
        .map(|(value, decimals)| Tick::new(value.log10(), number(value, decimals, low, high)))
        .collect()
}

fn whole_decades(min: f64, max: f64, wanted: usize, style: Decades) -> Vec<Tick> {
    let span = (max - min).max(1.0);
    let steps = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 25.0, 50.0, 100.0];
    let fits = steps.into_iter().find(|step| span / step <= wanted as f64);
    let step = fits.unwrap_or_else(|| nice_step(span, wanted));
    let mut ticks = Vec::new();
    let mut at = (min / step - 1e-9).ceil() * step;
    while at <= max + 1e-9 {
        ticks.push(Tick::new(at, fraction(1, at.round() as i32, style)));
        at += step;
    }
    // Between few decades the eye wants to see that the axis is logarithmic.
    if step == 1.0 && span <= 5.0 {
        for exponent in (min.floor() as i64)..=(max.ceil() as i64) {
            for mantissa in 2..10 {
                let at = exponent as f64 + f64::from(mantissa).log10();
                if at >= min && at <= max {
                    ticks.push(Tick { at, label: None });
                }
            }
        }
    }
    ticks
}

/// `mantissa` times ten to the `exponent`.
fn fraction(mantissa: u32, exponent: i32, style: Decades) -> Label {
    match style {
        Decades::Prefixes if (0..15).contains(&exponent) => {
            Label::plain(prefixed(f64::from(mantissa) * 10f64.powi(exponent)))
        }
        _ => Label::power(mantissa, exponent),
    }
}

/// A length: thousands as `1k` where nothing is lost.
pub(crate) fn length(value: usize) -> String {
    if value >= 1000 && value.is_multiple_of(1000) {
        prefixed(value as f64)
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &[Tick]) -> Vec<String> {
        let text = |label: &Label| match &label.exponent {
            Some(exponent) => format!("{}^{exponent}", label.base),
            None => label.base.clone(),
        };
        ticks.iter().filter_map(|tick| tick.label.as_ref().map(text)).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(&linear(0.0, 1.0, 5)), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&linear(-1.3, 1.3, 5)), ["−1", "0", "1"]);
        assert_eq!(labels(&linear(0.0, 21_000.0, 4)), ["0", "10k", "20k"]);
        assert_eq!(labels(&linear(0.0, 1.2e-5, 3)), ["0", "0.5×10^−5", "1×10^−5"]);
        assert_eq!(labels(&linear(0.16, 0.18, 4)), ["0.160", "0.165", "0.170", "0.175", "0.180"]);
    }

    #[test]
    fn decades_are_thinned() {
        let ticks = logarithmic(-40.0, 0.0, 5, Decades::Powers);
        assert_eq!(labels(&ticks), ["10^−40", "10^−30", "10^−20", "10^−10", "10^0"]);
        let ticks = logarithmic(-3.1, 0.2, 5, Decades::Powers);
        assert_eq!(labels(&ticks), ["10^−3", "10^−2", "10^−1", "10^0"]);
        assert!(ticks.iter().any(|tick| tick.label.is_none()));
        let ticks = logarithmic(2.9, 6.1, 5, Decades::Prefixes);
        assert_eq!(labels(&ticks), ["1k", "10k", "100k", "1M"]);
    }

    #[test]
    fn short_logarithmic_axes_still_have_labels() {
        let ticks = logarithmic(4.0, 4.8, 5, Decades::Prefixes);
        assert_eq!(labels(&ticks), ["10k", "20k", "50k"]);
        let ticks = logarithmic(0.41f64.log10(), 0.49f64.log10(), 5, Decades::Powers);
        assert_eq!(labels(&ticks), ["0.42", "0.44", "0.46", "0.48"]);
        assert!(!logarithmic(-1000.2, -999.9, 5, Decades::Powers).is_empty());
    }

    #[test]
    fn lengths_and_prefixes_lose_nothing() {
        let written: Vec<_> = [8, 1000, 1024, 1500, 20_000].map(length).into();
        assert_eq!(written, ["8", "1k", "1024", "1500", "20k"]);
        assert_eq!(prefixed(2.5e6), "2.5M");
        assert_eq!(prefixed(999.0), "999");
    }
}
