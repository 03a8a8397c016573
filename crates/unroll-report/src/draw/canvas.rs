//! A figure as a list of marks, drawn with plotters to SVG and PNG alike.
//!
//! Lengths are points (1/72 inch); the origin is the top left corner. plotters places everything on
//! whole units, so an SVG counts in twentieths of a point, and a PNG is drawn larger than it will be
//! and averaged down, which smooths the edges too.

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, DrawingBackend, DrawingErrorKind,
};

use super::font::{BASELINE, TextStyle, text_width};

/// Units of an SVG per point.
const SVG_UNITS: f64 = 20.0;
/// Pixels of a PNG per point: 288 per inch.
const PIXELS: u32 = 4;
/// Pixels drawn for each pixel of a PNG, each way.
const OVERSAMPLING: u32 = 2;

/// A place on the figure: x to the right, y down, points.
pub(crate) type Point = (f64, f64);

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Color(pub(crate) u8, pub(crate) u8, pub(crate) u8);

impl Color {
    pub(crate) const BLACK: Self = Self(0, 0, 0);
    pub(crate) const WHITE: Self = Self(255, 255, 255);
    pub(crate) const GREY: Self = Self(110, 110, 110);
    pub(crate) const LIGHT_GREY: Self = Self(228, 228, 228);

    /// Whether white writing is read better on it than black (relative luminance of WCAG 2, with a power
    /// of 2.2 for the exact curve).
    pub(crate) fn is_dark(self) -> bool {
        let part = |part: u8| (f64::from(part) / 255.0).powf(2.2);
        0.2126 * part(self.0) + 0.7152 * part(self.1) + 0.0722 * part(self.2) < 0.18
    }

    pub(super) fn opaque(self) -> BackendColor {
        self.with_alpha(1.0)
    }

    pub(super) fn with_alpha(self, alpha: f64) -> BackendColor {
        BackendColor { alpha, rgb: (self.0, self.1, self.2) }
    }

    /// The color mixed with another: 0 leaves it, 1 replaces it.
    pub(crate) fn mixed(self, other: Self, share: f64) -> Self {
        let mix = |a: u8, b: u8| {
            (f64::from(a) + share * (f64::from(b) - f64::from(a))).round().clamp(0.0, 255.0) as u8
        };
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
}

/// Which end of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Center,
    Right,
}

/// One mark.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mark {
    /// A line through points.
    Line { points: Vec<Point>, width: f64, color: Color },
    /// A filled area.
    Area { points: Vec<Point>, color: Color, alpha: f64 },
    /// A filled disc.
    Disc { center: Point, radius: f64, color: Color },
    /// A text; `at` is on its baseline.
    Text { text: String, at: Point, size: f64, color: Color, align: Align, upwards: bool },
}

/// What a mark belongs to, for a page that lets its reader hide series and ask for values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tag {
    /// Axes, titles, baselines.
    #[default]
    Frame,
    /// A series, by its place in the legend.
    Series(usize),
    /// Colors that stand for values, the same on every background.
    Fixed,
}

/// A place that has a value to tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hit {
    pub(crate) at: Point,
    pub(crate) series: Option<usize>,
    /// What to say: `length (steps) 50, MSE 0.0012`.
    pub(crate) text: String,
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Canvas {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) marks: Vec<Mark>,
    /// What each mark belongs to.
    pub(crate) tags: Vec<Tag>,
    pub(crate) hits: Vec<Hit>,
    /// What marks belong to from now on.
    pub(crate) tag: Tag,
}

/// What a mark looks like to plotters.
struct Style {
    color: BackendColor,
    width: u32,
}

impl BackendStyle for Style {
    fn color(&self) -> BackendColor {
        self.color
    }

    fn stroke_width(&self) -> u32 {
        self.width
    }
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        let (marks, tags, hits) = (Vec::new(), Vec::new(), Vec::new());
        Self { width, height, marks, tags, hits, tag: Tag::Frame }
    }

    fn push(&mut self, mark: Mark) {
        self.marks.push(mark);
        self.tags.push(self.tag);
    }

    pub(crate) fn line(&mut self, points: Vec<Point>, width: f64, color: Color) {
        self.push(Mark::Line { points, width, color });
    }

    /// A line broken into dashes: lengths drawn and left out in turn; solid when there are none.
    pub(crate) fn dashed(&mut self, points: &[Point], width: f64, color: Color, dashes: &[f64]) {
        for piece in super::dashes::split(points, dashes) {
            self.line(piece, width, color);
        }
    }

    pub(crate) fn area(&mut self, points: Vec<Point>, color: Color, alpha: f64) {
        self.push(Mark::Area { points, color, alpha });
    }

    pub(crate) fn disc(&mut self, center: Point, radius: f64, color: Color) {
        self.push(Mark::Disc { center, radius, color });
    }

    pub(crate) fn text(&mut self, text: &str, at: Point, size: f64, color: Color, align: Align) {
        let text = text.to_owned();
        self.push(Mark::Text { text, at, size, color, align, upwards: false });
    }

    pub(crate) fn text_upwards(&mut self, text: &str, at: Point, size: f64, color: Color) {
        let (text, align) = (text.to_owned(), Align::Center);
        self.push(Mark::Text { text, at, size, color, align, upwards: true });
    }

    /// The figure as SVG; `title` is what a screen reader says.
    ///
    /// # Errors
    /// What plotters says.
    pub(crate) fn svg(&self, title: &str) -> Result<String, String> {
        let size = (units(self.width, SVG_UNITS) as u32, units(self.height, SVG_UNITS) as u32);
        let mut text = String::new();
        {
            let mut backend = SVGBackend::with_string(&mut text, size);
            self.draw(&mut backend, SVG_UNITS, false).map_err(|error| error.to_string())?;
            backend.present().map_err(|error| error.to_string())?;
        }
        // plotters knows neither physical sizes nor line joins; its first line is the root element.
        let body = text.split_once('\n').map_or("", |(_, body)| body);
        let body = self.with_text_widths(body);
        let title = title.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        Ok(format!(
            "<svg width=\"{}pt\" height=\"{}pt\" viewBox=\"0 0 {} {}\" \
             stroke-linejoin=\"round\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\n\
             <title>{title}</title>\n{body}",
            self.width, self.height, size.0, size.1
        ))
    }

    /// plotters' SVG with the width of each text in it: a viewer's font may be wider than the one that
    /// everything was placed with.
    fn with_text_widths(&self, body: &str) -> String {
        const START: &str = "<text ";
        let mut texts = self.marks.iter().filter_map(|mark| match mark {
            Mark::Text { text, size, .. } => Some((text, size)),
            _ => None,
        });
        let mut pieces = body.split(START);
        let mut sized = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            sized.push_str(START);
            // A single letter is in nobody's way.
            if let Some((text, size)) = texts.next().filter(|(text, _)| text.chars().count() > 1) {
                let width = units(text_width(text, *size), SVG_UNITS);
                sized.push_str(&format!(
                    "textLength=\"{width}\" lengthAdjust=\"spacingAndGlyphs\" "
                ));
            }
            sized.push_str(piece);
        }
        sized
    }

    /// The figure's size in a PNG, pixels.
    pub(crate) fn pixels(&self) -> (u32, u32) {
        let scale = f64::from(PIXELS);
        (units(self.width, scale) as u32, units(self.height, scale) as u32)
    }

    /// The figure as pixels, red, green and blue, row by row.
    ///
    /// # Errors
    /// What plotters says.
    pub(crate) fn raster(&self) -> Result<Vec<u8>, String> {
        let (width, height) = self.pixels();
        let large = (width * OVERSAMPLING, height * OVERSAMPLING);
        let mut buffer = vec![255; large.0 as usize * large.1 as usize * 3];
        {
            let mut backend = BitMapBackend::with_buffer(&mut buffer, large);
            let scale = f64::from(PIXELS * OVERSAMPLING);
            self.draw(&mut backend, scale, true).map_err(|error| error.to_string())?;
            backend.present().map_err(|error| error.to_string())?;
        }
        Ok(averaged(&buffer, width as usize, height as usize))
    }

    /// Draws every mark. A bitmap gets its lines piece by piece: plotters makes one polygon of a
    /// thick line, which is hollow where the line crosses itself.
    fn draw<DB: DrawingBackend>(
        &self,
        backend: &mut DB,
        scale: f64,
        pieces: bool,
    ) -> Result<(), DrawingErrorKind<DB::ErrorType>> {
        let place = |point: &Point| (units(point.0, scale), units(point.1, scale));
        let fill = Style { color: Color::WHITE.opaque(), width: 0 };
        backend.draw_rect((0, 0), place(&(self.width, self.height)), &fill, true)?;
        for mark in &self.marks {
            match mark {
                Mark::Line { points, width, color } => {
                    let width = width * scale;
                    let style =
                        Style { color: color.opaque(), width: width.round().max(1.0) as u32 };
                    if pieces {
                        stroke(backend, points, scale, width, &style)?;
                    } else {
                        backend.draw_path(points.iter().map(place), &style)?;
                    }
                }
                Mark::Area { points, color, alpha } => {
                    let style = Style { color: color.with_alpha(*alpha), width: 0 };
                    backend.fill_polygon(points.iter().map(place), &style)?;
                }
                Mark::Disc { center, radius, color } => {
                    let style = Style { color: color.opaque(), width: 0 };
                    let radius = (radius * scale).round() as u32;
                    backend.draw_circle(place(center), radius, &style, true)?;
                }
                Mark::Text { text, at, size, color, align, upwards } => {
                    let (color, align, upwards) = (*color, *align, *upwards);
                    let style = TextStyle { size: size * scale, color, align, upwards };
                    let rise = BASELINE * size;
                    let top = if upwards { (at.0 - rise, at.1) } else { (at.0, at.1 - rise) };
                    backend.draw_text(text, &style, place(&top))?;
                }
            }
        }
        Ok(())
    }
}

fn units(length: f64, scale: f64) -> i32 {
    (length * scale).round() as i32
}

/// A line as one quadrangle for each piece and a disc at each joint.
fn stroke<DB: DrawingBackend>(
    backend: &mut DB,
    points: &[Point],
    scale: f64,
    width: f64,
    style: &Style,
) -> Result<(), DrawingErrorKind<DB::ErrorType>> {
    let half = width.max(1.0) / 2.0;
    for pair in points.windows(2) {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]].map(|(x, y)| (x * scale, y * scale));
        let length = (x1 - x0).hypot(y1 - y0);
        if length == 0.0 {
            continue;
        }
        let (nx, ny) = (half * (y0 - y1) / length, half * (x1 - x0) / length);
        let corners =
            [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)];
        let corner = |(x, y): (f64, f64)| -> BackendCoord { (x.round() as i32, y.round() as i32) };
        backend.fill_polygon(corners.map(corner), style)?;
    }
    if points.len() > 2 && half >= 2.0 {
        for point in &points[1..points.len() - 1] {
            let center = (units(point.0, scale), units(point.1, scale));
            backend.draw_circle(center, half.floor() as u32, style, true)?;
        }
    }
    Ok(())
}

/// Every pixel as the mean of the pixels drawn for it.
fn averaged(large: &[u8], width: usize, height: usize) -> Vec<u8> {
    let factor = OVERSAMPLING as usize;
    let mut small = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let mut sum = 0;
                for dy in 0..factor {
                    let row = (y * factor + dy) * width * factor;
                    for dx in 0..factor {
                        sum += usize::from(large[(row + x * factor + dx) * 3 + channel]);
                    }
                }
                let count = factor * factor;
                small.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Canvas {
        let mut canvas = Canvas::new(20.0, 10.0);
        canvas.area(vec![(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)], Color::BLACK, 1.0);
        canvas.text("a<b", (12.0, 8.0), 5.0, Color::BLACK, Align::Left);
        canvas
    }

    #[test]
    fn an_svg_has_a_physical_size_and_escapes() {
        let svg = figure().svg("A & B").unwrap();
        assert!(svg.starts_with("<svg width=\"20pt\" height=\"10pt\" viewBox=\"0 0 400 200\""));
        assert!(svg.contains("<title>A &amp; B</title>") && svg.contains("a&lt;b"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn texts_keep_their_widths_in_other_fonts() {
        let mut canvas = Canvas::new(90.0, 10.0);
        for text in ["", "k", "<text a", "transformer"] {
            canvas.text(text, (2.0, 8.0), 5.0, Color::BLACK, Align::Left);
        }
        let svg = canvas.svg("").unwrap();
        let elements: Vec<&str> = svg.split("<text ").skip(1).collect();
        assert_eq!(elements.len(), 4, "{svg}");
        let sized = elements.iter().map(|element| element.starts_with("textLength="));
        assert_eq!(sized.collect::<Vec<_>>(), [false, false, true, true]);
        let width = units(text_width("transformer", 5.0), SVG_UNITS);
        assert!(elements[3].starts_with(&format!("textLength=\"{width}\" ")), "{svg}");
        assert!(elements[3].contains("transformer"));
    }

    #[test]
    fn pixels_are_where_they_belong() {
        let canvas = figure();
        let (width, height) = canvas.pixels();
        assert_eq!((width, height), (80, 40));
        let raster = canvas.raster().unwrap();
        let at = |x: usize, y: usize| raster[(y * 80 + x) * 3];
        assert_eq!((at(20, 20), at(60, 2)), (0, 255));
        // The text is drawn above its baseline at 8 pt and right of 12 pt.
        let dark: Vec<_> = (0..40)
            .flat_map(|y| (42..80).map(move |x| (x, y)))
            .filter(|&(x, y)| at(x, y) < 128)
            .collect();
        assert!(!dark.is_empty());
        assert!(dark.iter().all(|&(x, y)| x >= 48 && (14..=32).contains(&y)), "{dark:?}");
    }

    #[test]
    fn averaging_smooths() {
        let large: Vec<u8> = [0, 255, 255, 255].iter().flat_map(|&v| [v; 3]).collect();
        assert_eq!(averaged(&large, 1, 1), [191; 3]);
    }
}
