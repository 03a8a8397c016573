//! A canvas as SVG inside a page: small, with colors that follow the page's and marks that know their
//! series. (The files beside the page are drawn by plotters.)

use std::collections::BTreeMap;
use std::fmt::Write;

use super::canvas::{Align, Canvas, Color, Mark, Point, Tag};
use super::font::text_width;

/// Units of the view box per point.
const UNITS: f64 = 10.0;

/// The colors of a page, each a class that is another color on a dark background.
#[derive(Debug, Default)]
pub(crate) struct Colors(BTreeMap<(u8, u8, u8), usize>);

impl Colors {
    fn class(&mut self, Color(red, green, blue): Color) -> usize {
        let next = self.0.len();
        *self.0.entry((red, green, blue)).or_insert(next)
    }

    /// One rule for each color, for both backgrounds.
    pub(crate) fn rules(&self) -> String {
        let mut rules = String::new();
        for (&(red, green, blue), class) in &self.0 {
            let Color(r, g, b) = on_dark(Color(red, green, blue));
            let _ = writeln!(
                rules,
                ".c{class}{{--c:light-dark(#{red:02x}{green:02x}{blue:02x},#{r:02x}{g:02x}{b:02x})}}"
            );
        }
        rules
    }
}

/// The color with its lightness turned over, hue and chroma kept, and a little lifted: what was pale on
/// white is dim on black.
fn on_dark(Color(red, green, blue): Color) -> Color {
    let (low, high) = (red.min(green).min(blue), red.max(green).max(blue));
    let shift = 255 - i32::from(low) - i32::from(high);
    let turned = [red, green, blue].map(|part| (i32::from(part) + shift).clamp(0, 255) as u8);
    Color(turned[0], turned[1], turned[2]).mixed(Color::WHITE, 0.09)
}

/// `<`, `&`, `"` and the like as entities.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // No control character is allowed in HTML but these.
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// The canvas as an SVG element that is named `title`; `decoration` is hidden from screen readers.
pub(crate) fn inline_svg(
    canvas: &Canvas,
    title: &str,
    decoration: bool,
    colors: &mut Colors,
) -> String {
    let (width, height) = (unit(canvas.width), unit(canvas.height));
    let mut svg = if decoration {
        let (w, h) = (1.4 * canvas.width, 1.4 * canvas.height);
        format!(
            "<svg width=\"{w:.0}\" height=\"{h:.0}\" viewBox=\"0 0 {width} {height}\" aria-hidden=\"true\">"
        )
    } else {
        let mut hits = String::new();
        for hit in &canvas.hits {
            let series = hit.series.map_or_else(String::new, |series| series.to_string());
            let (x, y) = (unit(hit.at.0), unit(hit.at.1));
            let text = hit.text.replace(['\t', '\n', '\r'], " ");
            let _ = writeln!(hits, "{x}\t{y}\t{series}\t{text}");
        }
        format!(
            "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" style=\"--w:{:.0}\" role=\"img\" \
             tabindex=\"0\" aria-label=\"{}\" data-hits=\"{}\">",
            canvas.width,
            escaped(title),
            escaped(hits.trim_end())
        )
    };
    let mut open = Tag::Frame;
    let mut path = Path::default();
    for (mark, &tag) in canvas.marks.iter().zip(&canvas.tags) {
        if tag != open {
            path.flush(&mut svg);
            if open != Tag::Frame {
                svg.push_str("</g>");
            }
            match tag {
                Tag::Frame => {}
                Tag::Series(series) => {
                    let _ = write!(svg, "<g data-s=\"{series}\">");
                }
                Tag::Fixed => svg.push_str("<g>"),
            }
            open = tag;
        }
        draw(mark, tag, colors, &mut path, &mut svg);
    }
    path.flush(&mut svg);
    if open != Tag::Frame {
        svg.push_str("</g>");
    }
    svg.push_str("</svg>");
    svg
}

/// Lines of one look that follow each other are one element: dashes are many lines.
#[derive(Default)]
struct Path {
    attributes: String,
    data: String,
}

impl Path {
    fn flush(&mut self, svg: &mut String) {
        if !self.data.is_empty() {
            let _ = write!(svg, "<path {} d=\"{}\"/>", self.attributes, self.data);
            self.data.clear();
        }
    }
}

fn unit(length: f64) -> i64 {
    (length * UNITS).round() as i64
}

fn paint(color: Color, what: &str, tag: Tag, colors: &mut Colors) -> String {
    if tag == Tag::Fixed {
        let Color(red, green, blue) = color;
        return format!("{what}=\"#{red:02x}{green:02x}{blue:02x}\"");
    }
    let letter = if what == "stroke" { "l" } else { "f" };
    format!("class=\"{letter} c{}\"", colors.class(color))
}

fn draw(mark: &Mark, tag: Tag, colors: &mut Colors, path: &mut Path, svg: &mut String) {
    match mark {
        Mark::Line { points, width, color } => {
            let paint = paint(*color, "stroke", tag, colors);
            let attributes = format!("{paint} stroke-width=\"{}\"", unit(*width));
            if attributes != path.attributes {
                path.flush(svg);
                path.attributes = attributes;
            }
            path.data.push_str(&steps(&thinned(points)));
        }
        Mark::Area { points, color, alpha } => {
            path.flush(svg);
            let opacity =
                if *alpha < 1.0 { format!(" opacity=\"{alpha}\"") } else { String::new() };
            let paint = paint(*color, "fill", tag, colors);
            let _ = write!(svg, "<path {paint}{opacity} d=\"{}z\"/>", steps(&thinned(points)));
        }
        Mark::Disc { center, radius, color } => {
            path.flush(svg);
            let (x, y) = (unit(center.0), unit(center.1));
            let paint = paint(*color, "fill", tag, colors);
            let _ = write!(svg, "<circle {paint} cx=\"{x}\" cy=\"{y}\" r=\"{}\"/>", unit(*radius));
        }
        Mark::Text { text, at, size, color, align, upwards } => {
            path.flush(svg);
            let (x, y) = (unit(at.0), unit(at.1));
            let anchor = match align {
                Align::Left => "",
                Align::Center => " text-anchor=\"middle\"",
                Align::Right => " text-anchor=\"end\"",
            };
            let turn = if *upwards {
                format!(" transform=\"rotate(-90 {x} {y})\"")
            } else {
                String::new()
            };
            // The reader's font may be wider than the one that everything was placed with.
            let fit = if text.chars().count() > 1 {
                let width = unit(text_width(text, *size));
                format!(" textLength=\"{width}\" lengthAdjust=\"spacingAndGlyphs\"")
            } else {
                String::new()
            };
            let paint = paint(*color, "fill", tag, colors);
            let (text, size) = (escaped(text), unit(*size));
            let _ = write!(
                svg,
                "<text {paint} x=\"{x}\" y=\"{y}\" font-size=\"{size}\"{anchor}{turn}{fit}>{text}</text>"
            );
        }
    }
}

/// Points that a reader can tell apart: a twentieth of a point aside of the line between its
/// neighbours is not seen (Ramer 1972, Douglas & Peucker 1973).
fn thinned(points: &[Point]) -> Vec<Point> {
    const TOLERANCE: f64 = 0.05;
    if points.len() < 3 {
        return points.to_vec();
    }
    let mut kept = vec![false; points.len()];
    let mut spans = vec![(0, points.len() - 1)];
    while let Some((from, to)) = spans.pop() {
        (kept[from], kept[to]) = (true, true);
        let farthest = (from + 1..to)
            .map(|place| (place, aside(points[place], points[from], points[to])))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((place, _)) = farthest.filter(|(_, distance)| *distance > TOLERANCE) {
            spans.extend([(from, place), (place, to)]);
        }
    }
    points.iter().zip(kept).filter(|(_, kept)| *kept).map(|(point, _)| *point).collect()
}

/// Distance of a point from the piece of a line between two others.
fn aside(point: Point, from: Point, to: Point) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (px, py) = (point.0 - from.0, point.1 - from.1);
    let square = dx * dx + dy * dy;
    let share = if square > 0.0 { ((px * dx + py * dy) / square).clamp(0.0, 1.0) } else { 0.0 };
    (px - share * dx).hypot(py - share * dy)
}

/// `M1 2l3 4`: the first point, then steps.
fn steps(points: &[Point]) -> String {
    let mut data = String::new();
    let mut last = (0, 0);
    for (number, point) in points.iter().enumerate() {
        let place = (unit(point.0), unit(point.1));
        let _ = match number {
            0 => write!(data, "M{} {}", place.0, place.1),
            1 => write!(data, "l{} {}", place.0 - last.0, place.1 - last.1),
            _ => write!(data, " {} {}", place.0 - last.0, place.1 - last.1),
        };
        last = place;
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_know_their_series_and_text_is_escaped() {
        let mut canvas = Canvas::new(20.0, 10.0);
        canvas.text("a<b>\"", (1.0, 2.0), 5.0, Color::BLACK, Align::Left);
        canvas.tag = Tag::Series(3);
        canvas.line(vec![(0.0, 0.0), (1.0, 1.0)], 1.0, Color::GREY);
        canvas.line(vec![(2.0, 2.0), (3.0, 3.0)], 1.0, Color::GREY);
        let mut colors = Colors::default();
        let svg = inline_svg(&canvas, "x' onload='y", false, &mut colors);
        assert!(svg.contains("a&lt;b&gt;&quot;") && svg.contains("x&#39; onload=&#39;y"), "{svg}");
        assert!(svg.contains("<g data-s=\"3\"><path class=\"l c1\" stroke-width=\"10\" d=\"M0 0l10 10M20 20l10 10\"/></g>"), "{svg}");
        let rules = colors.rules();
        assert!(rules.contains(".c0{--c:light-dark(#000000,#ffffff)}"), "{rules}");
    }

    #[test]
    fn straight_lines_keep_their_ends_and_corners_stay() {
        let straight: Vec<Point> = (0..100).map(|i| (f64::from(i), 2.0)).collect();
        assert_eq!(thinned(&straight), [(0.0, 2.0), (99.0, 2.0)]);
        let corner = [(0.0, 0.0), (5.0, 5.0), (10.0, 0.0)];
        assert_eq!(thinned(&corner), corner);
        assert_eq!(thinned(&[(1.0, 1.0); 3]).len(), 2);
    }

    #[test]
    fn colors_are_turned_over() {
        assert_eq!(on_dark(Color::BLACK), Color::WHITE);
        let blue = on_dark(Color(0x00, 0x72, 0xb2));
        assert!(blue.2 > 240 && blue.0 < 120, "{blue:?}");
    }
}
