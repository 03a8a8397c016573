//! One color, marker and dash for each architecture, in every plot.
//!
//! Colors are those of Okabe & Ito (2008) and of Paul Tol's "muted" scheme (technical note 3.2,
//! 2021), which color-blind readers can tell apart; marker and dash repeat the information for print
//! in black and white. Variants of one architecture keep its hue and take another lightness, marker
//! and dash.

use unroll_results::summary::SeriesInfo;

use super::canvas::{Canvas, Color, Point};

/// Shape of a data point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Marker {
    Disc,
    Square,
    Triangle,
    Diamond,
    TriangleDown,
    Hexagon,
    Cross,
    Plus,
}

const MARKERS: [Marker; 8] = [
    Marker::Disc,
    Marker::Square,
    Marker::Triangle,
    Marker::Diamond,
    Marker::TriangleDown,
    Marker::Hexagon,
    Marker::Cross,
    Marker::Plus,
];

/// Lengths drawn and left out in turn, points.
const DASHES: [&[f64]; 5] = [&[], &[5.0, 1.8], &[1.4, 1.4], &[6.0, 1.5, 1.4, 1.5], &[3.0, 1.2]];

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Look {
    pub(crate) color: Color,
    pub(crate) marker: Marker,
    pub(crate) dash: &'static [f64],
}

const fn look(color: Color, marker: usize, dash: usize) -> Look {
    Look { color, marker: MARKERS[marker], dash: DASHES[dash] }
}

/// The architectures of the registry.
const KNOWN: [(&str, Look); 17] = [
    ("rnn", look(Color(0xd5, 0x5e, 0x00), 0, 0)),
    ("gru", look(Color(0x00, 0x9e, 0x73), 1, 1)),
    ("lstm", look(Color(0x00, 0x72, 0xb2), 2, 0)),
    ("mha", look(Color(0xcc, 0x79, 0xa7), 3, 3)),
    ("transformer", look(Color(0xe6, 0x9f, 0x00), 4, 4)),
    ("local_transformer", look(Color(0x56, 0xb4, 0xe9), 5, 2)),
    ("linear_transformer", look(Color(0x00, 0x00, 0x00), 7, 1)),
    ("local", look(Color(0x44, 0xaa, 0x99), 6, 2)),
    ("linear", look(Color(0x66, 0x11, 0x00), 0, 3)),
    ("additive", look(Color(0x88, 0x22, 0x55), 1, 0)),
    ("additive_scalar", look(Color(0xaa, 0x44, 0x99), 2, 2)),
    ("luong_dot", look(Color(0x33, 0x22, 0x88), 3, 0)),
    ("luong_general", look(Color(0x11, 0x77, 0x33), 4, 1)),
    ("luong_concat", look(Color(0x99, 0x99, 0x33), 5, 3)),
    ("recurrent_mha", look(Color(0xcc, 0x66, 0x77), 6, 4)),
    ("recurrent_local", look(Color(0x66, 0x99, 0xcc), 7, 0)),
    ("recurrent_linear", look(Color(0x77, 0x77, 0x77), 3, 2)),
];

/// For architectures that the table does not know.
const OTHERS: [Look; 5] = [
    look(Color(0xdd, 0xcc, 0x77), 0, 4),
    look(Color(0xbb, 0x22, 0x22), 2, 3),
    look(Color(0x00, 0x44, 0x88), 5, 1),
    look(Color(0x7f, 0x7f, 0x00), 1, 2),
    look(Color(0x88, 0x55, 0xcc), 4, 0),
];

/// The looks of a report's series, in order: known architectures from the table, others by the hash
/// of their name (the next free look when two share it), variants from their architecture's look.
pub(crate) fn looks(series: &[SeriesInfo]) -> Vec<Look> {
    let mut others: Vec<(&str, usize)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut found = Vec::with_capacity(series.len());
    for info in series {
        let architecture = info.architecture.as_str();
        let known = KNOWN.iter().find(|(name, _)| *name == architecture).map(|(_, look)| *look);
        let base = known.unwrap_or_else(|| OTHERS[other(&mut others, architecture)]);
        let number = seen.iter().filter(|name| **name == architecture).count();
        seen.push(architecture);
        found.push(variant(base, number));
    }
    found
}

/// The place in [`OTHERS`] of an architecture, noted for the next time.
fn other<'a>(taken: &mut Vec<(&'a str, usize)>, architecture: &'a str) -> usize {
    if let Some((_, index)) = taken.iter().find(|(name, _)| *name == architecture) {
        return *index;
    }
    let first = (hash(architecture) % OTHERS.len() as u64) as usize;
    let free = (0..OTHERS.len())
        .map(|step| (first + step) % OTHERS.len())
        .find(|index| taken.iter().all(|(_, used)| used != index));
    let index = free.unwrap_or(first);
    taken.push((architecture, index));
    index
}

/// The look of the `number`th variant of an architecture; 0 is the architecture itself.
fn variant(base: Look, number: usize) -> Look {
    let position = |found: Option<usize>| found.unwrap_or(0);
    let marker = position(MARKERS.iter().position(|marker| *marker == base.marker));
    let dash = position(DASHES.iter().position(|dash| *dash == base.dash));
    let color = match number % 3 {
        0 => base.color,
        1 => base.color.mixed(Color::BLACK, 0.4),
        _ => base.color.mixed(Color::WHITE, 0.4),
    };
    Look {
        color,
        marker: MARKERS[(marker + number) % MARKERS.len()],
        dash: DASHES[(dash + number) % DASHES.len()],
    }
}

/// FNV-1a: the standard library's hash may change.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Look {
    /// Draws the marker around a place.
    pub(crate) fn mark(&self, canvas: &mut Canvas, center: Point, radius: f64) {
        let (x, y) = center;
        let polygon = |corners: usize, start: f64, radius: f64| -> Vec<Point> {
            (0..corners)
                .map(|corner| {
                    let angle = std::f64::consts::TAU * (start + corner as f64 / corners as f64);
                    (x + radius * angle.cos(), y + radius * angle.sin())
                })
                .collect()
        };
        let filled = |canvas: &mut Canvas, points| canvas.area(points, self.color, 1.0);
        let strokes = |canvas: &mut Canvas, start: f64| {
            for turn in [start, start + 0.25] {
                let angle = std::f64::consts::TAU * turn;
                let (dx, dy) = (1.1 * radius * angle.cos(), 1.1 * radius * angle.sin());
                canvas.line(vec![(x - dx, y - dy), (x + dx, y + dy)], 0.5 * radius, self.color);
            }
        };
        match self.marker {
            Marker::Disc => canvas.disc(center, 0.95 * radius, self.color),
            Marker::Square => filled(canvas, polygon(4, 0.125, 1.2 * radius)),
            Marker::Triangle => filled(canvas, polygon(3, 0.75, 1.3 * radius)),
            Marker::Diamond => filled(canvas, polygon(4, 0.0, 1.3 * radius)),
            Marker::TriangleDown => filled(canvas, polygon(3, 0.25, 1.3 * radius)),
            Marker::Hexagon => filled(canvas, polygon(6, 0.0, 1.15 * radius)),
            Marker::Cross => strokes(canvas, 0.125),
            Marker::Plus => strokes(canvas, 0.0),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn series(name: &str) -> SeriesInfo {
        SeriesInfo {
            name: name.into(),
            architecture: name.split(',').next().unwrap().into(),
            family: String::new(),
            hidden_sizes: vec![],
            num_layers: vec![],
            parameters: vec![],
            forms: vec![],
        }
    }

    fn distance(a: Color, b: Color) -> f64 {
        let square = |a: u8, b: u8| (f64::from(a) - f64::from(b)).powi(2);
        (square(a.0, b.0) + square(a.1, b.1) + square(a.2, b.2)).sqrt()
    }

    #[test]
    fn all_looks_of_the_tables_differ() {
        let all: Vec<Look> = KNOWN.iter().map(|known| known.1).chain(OTHERS).collect();
        for (index, a) in all.iter().enumerate() {
            assert!(distance(a.color, Color::WHITE) > 100.0, "visible on white: {a:?}");
            for b in &all[..index] {
                assert!(distance(a.color, b.color) > 25.0, "{a:?} {b:?}");
                assert!((a.marker, a.dash) != (b.marker, b.dash), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn looks_do_not_depend_on_the_other_series() {
        let alone = looks(&[series("lstm")]);
        let among = looks(&["rnn", "gru", "lstm", "hyena"].map(series));
        assert_eq!(alone[0], among[2]);
        assert_eq!(looks(&[series("hyena")])[0], among[3]);
        assert_eq!(alone[0].color, Color(0x00, 0x72, 0xb2));
    }

    #[test]
    fn unknown_architectures_get_different_looks() {
        let names = ["hyena", "mamba", "rwkv", "s4", "retnet"];
        let found = looks(&names.map(series));
        for (index, a) in found.iter().enumerate() {
            assert!(found[..index].iter().all(|b| a.color != b.color));
        }
        // More than there are looks for: no panic.
        let many: Vec<_> = (0..20).map(|i| series(&format!("new{i}"))).collect();
        assert_eq!(looks(&many).len(), 20);
    }

    #[test]
    fn variants_differ_in_dash_and_marker() {
        let names = ["lstm", "lstm, forget_bias=1", "lstm, forget_bias=2", "lstm, forget_bias=5"];
        let found = looks(&names.map(series));
        for (index, a) in found.iter().enumerate() {
            for b in &found[..index] {
                assert!(a.marker != b.marker && a.dash != b.dash, "{a:?} {b:?}");
            }
        }
        assert_eq!(found[3].color, found[0].color);
    }
}
