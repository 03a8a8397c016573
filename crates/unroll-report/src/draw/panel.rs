//! One pair of axes with what is drawn between them.

use super::axis::Axis;
use super::canvas::{Align, Canvas, Color, Hit, Point, Tag};
use super::labels::{places, write_label};
use super::look::Look;

/// Something drawn in a panel; places are coordinates of the axes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layer {
    /// A filled rectangle between two corners: a cell of a heat map.
    Cell { from: Point, to: Point, color: Color },
    /// The area between the smallest and largest values: (x, low, high).
    Band { points: Vec<(f64, f64, f64)>, look: Look },
    /// A line in the look's color and dash, with a few of its markers.
    Line { points: Vec<Point>, look: Look },
    /// A thin pale line: one of several seeds.
    Seed { points: Vec<Point>, look: Look },
    /// Small pale dots: the seeds' values.
    Dots { points: Vec<Point>, look: Look },
    /// A bar along a row.
    Bar { from: Point, to: Point, look: Look },
    /// A short upright stroke through a row: a median.
    Stroke { at: Point, look: Look },
    /// A small cross at the upper (1) or lower (0) end of the y axis, or the ends of the x axis for
    /// rows: a value that is no number.
    Lost { along: f64, end: f64, look: Look },
    /// A small cross at the end of a line: the trial diverged there.
    Diverged { at: Point, look: Look },
    /// A marker: a single value.
    Single { at: Point, look: Look },
    /// A few words in the middle of a place: the value of a heat map's cell.
    Written { at: Point, text: String, color: Color },
    /// An upright bar beside rows that belong together.
    Joint { at: f64, from: f64, to: f64 },
    /// A grey area between two corners, to the panel's edges where they are infinite.
    Shade { from: Point, to: Point },
    /// A line across the panel at a value, labelled directly: a baseline or limit.
    Level { at: f64, label: String, dotted: bool },
    /// A dashed grey line through points, labelled at one of them: a baseline that is not constant.
    Reference { points: Vec<Point>, label: String },
    /// A dotted line from bottom to top at an x.
    Upright { at: f64, label: String },
}

/// A panel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) layers: Vec<Layer>,
}

/// The rectangle between the axes, points on the figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

pub(super) const TICK_SIZE: f64 = 7.0;
pub(super) const LABEL_SIZE: f64 = 8.0;
pub(super) const DIRECT_SIZE: f64 = 6.3;
const TICK_LENGTH: f64 = 2.5;
const TICK_GAP: f64 = 2.0;
/// Markers on a line of many points.
const MARKERS: usize = 6;
/// Radius of a marker on a line.
const MARKER: f64 = 2.3;

impl Panel {
    /// An empty place in a figure's grid.
    pub(crate) fn blank() -> Self {
        let axis = Axis::linear("", []);
        Self { title: String::new(), x: axis.clone(), y: axis, layers: Vec::new() }
    }

    /// Whether it is an empty place: not a panel whose values are all missing, which has a title of
    /// its axis.
    pub(super) fn is_blank(&self) -> bool {
        self.layers.is_empty() && self.title.is_empty() && self.x.label.is_empty()
    }

    /// Room that the y axis' tick labels need left of the frame.
    pub(super) fn tick_room(&self, height: f64) -> f64 {
        let ticks = self.y.ticks(wanted_ticks(height), height, TICK_SIZE);
        let widths = ticks.iter().filter_map(|tick| tick.label.as_ref());
        let widest = widths.map(|label| label.width(TICK_SIZE)).fold(0.0, f64::max);
        widest + TICK_LENGTH + TICK_GAP
    }

    pub(super) fn at(&self, frame: Frame, (x, y): Point) -> Point {
        (
            frame.left + frame.width * self.x.place(x),
            frame.top + frame.height * (1.0 - self.y.place(y)),
        )
    }

    /// Draws the panel without its axis titles.
    pub(super) fn draw(&self, canvas: &mut Canvas, frame: Frame, legend: &[(String, Look)]) {
        let tag = |layer: &Layer| match layer {
            Layer::Cell { .. } | Layer::Written { .. } => Tag::Fixed,
            _ => layer
                .look()
                .and_then(|look| legend.iter().position(|(_, other)| *other == look))
                .map_or(Tag::Frame, Tag::Series),
        };
        self.draw_axes(canvas, frame);
        let before = canvas.marks.len();
        for layer in &self.layers {
            self.draw_level(canvas, frame, layer);
        }
        for layer in &self.layers {
            canvas.tag = tag(layer);
            self.draw_area(canvas, frame, layer);
        }
        for layer in &self.layers {
            canvas.tag = tag(layer);
            self.draw_line(canvas, frame, layer);
            let series = match canvas.tag {
                Tag::Series(place) => Some(place),
                Tag::Frame | Tag::Fixed => None,
            };
            self.note_hits(canvas, frame, layer, series);
        }
        canvas.tag = Tag::Frame;
        // Labels go where they cover least of what is drawn.
        let mut taken = places(canvas, before);
        for layer in &self.layers {
            match layer {
                Layer::Level { at, label, .. }
                    if self.level_axis().contains(*at) && !label.is_empty() =>
                {
                    let candidates = self.places_beside_level(frame, *at, label);
                    let place = write_label(canvas, label, candidates, 0.0, &mut taken);
                    if let Some(place) = place {
                        self.lead_to_level(canvas, frame, (*at, label), place);
                    }
                }
                Layer::Reference { points, label } if !label.is_empty() => {
                    let candidates = self.places_beside_points(frame, points, label);
                    write_label(canvas, label, candidates, 8.0, &mut taken);
                }
                Layer::Upright { at, label } if !label.is_empty() => {
                    let candidates = self.places_beside_upright(frame, *at, label);
                    write_label(canvas, label, candidates, 0.0, &mut taken);
                }
                _ => {}
            }
        }
        if !self.layers.iter().any(Layer::is_data) {
            let middle = (frame.left + frame.width / 2.0, frame.top + 0.42 * frame.height);
            canvas.text("no finite values", middle, TICK_SIZE, Color::GREY, Align::Center);
        }
    }

    /// The axis that levels are read on: x when the rows have names.
    fn level_axis(&self) -> &Axis {
        if self.y.is_names() { &self.x } else { &self.y }
    }

    fn draw_axes(&self, canvas: &mut Canvas, frame: Frame) {
        let (bottom, right) = (frame.top + frame.height, frame.left + frame.width);
        for tick in self.y.ticks(wanted_ticks(frame.height), frame.height, TICK_SIZE) {
            let y = frame.top + frame.height * (1.0 - self.y.place(tick.at));
            let length = if tick.label.is_some() { TICK_LENGTH } else { 0.6 * TICK_LENGTH };
            if let Some(label) = &tick.label {
                canvas.line(vec![(frame.left, y), (right, y)], 0.4, Color::LIGHT_GREY);
                let at = (frame.left - TICK_LENGTH - TICK_GAP, y + 0.35 * TICK_SIZE);
                label.write(canvas, at, TICK_SIZE, Align::Right);
            }
            if !self.y.is_names() {
                canvas.line(vec![(frame.left - length, y), (frame.left, y)], 0.5, Color::BLACK);
            }
        }
        for tick in self.x.ticks(wanted_ticks(0.8 * frame.width), frame.width, TICK_SIZE) {
            let x = frame.left + frame.width * self.x.place(tick.at);
            let length = if tick.label.is_some() { TICK_LENGTH } else { 0.6 * TICK_LENGTH };
            if let Some(label) = &tick.label {
                canvas.line(vec![(x, frame.top), (x, bottom)], 0.4, Color::LIGHT_GREY);
                let at = (x, bottom + TICK_LENGTH + 1.0 + 0.85 * TICK_SIZE);
                label.write(canvas, at, TICK_SIZE, Align::Center);
            }
            canvas.line(vec![(x, bottom), (x, bottom + length)], 0.5, Color::BLACK);
        }
        let corner = vec![(frame.left, frame.top), (frame.left, bottom), (right, bottom)];
        canvas.line(corner, 0.6, Color::BLACK);
    }

    fn draw_level(&self, canvas: &mut Canvas, frame: Frame, layer: &Layer) {
        let (bottom, right) = (frame.top + frame.height, frame.left + frame.width);
        match layer {
            Layer::Level { at, dotted, .. } if self.level_axis().contains(*at) => {
                let dashes: &[f64] = if *dotted { &[0.9, 1.6] } else { &[4.0, 2.0] };
                let ends = if self.y.is_names() {
                    let x = frame.left + frame.width * self.x.place(*at);
                    [(x, frame.top), (x, bottom)]
                } else {
                    let y = frame.top + frame.height * (1.0 - self.y.place(*at));
                    [(frame.left, y), (right, y)]
                };
                canvas.dashed(&ends, 0.8, Color::GREY, dashes);
            }
            Layer::Reference { points, .. } => {
                let places: Vec<Point> =
                    points.iter().map(|&point| self.at(frame, point)).collect();
                canvas.dashed(&places, 0.8, Color::GREY, &[4.0, 2.0]);
            }
            Layer::Upright { at, .. } => {
                let x = frame.left + frame.width * self.x.place(*at);
                canvas.dashed(&[(x, frame.top), (x, bottom)], 0.7, Color::GREY, &[0.9, 1.6]);
            }
            _ => {}
        }
    }

    fn draw_area(&self, canvas: &mut Canvas, frame: Frame, layer: &Layer) {
        let at = |point| self.at(frame, point);
        match layer {
            Layer::Cell { from, to, color } => {
                let ((x0, y0), (x1, y1)) = (at(*from), at(*to));
                canvas.area(vec![(x0, y0), (x1, y0), (x1, y1), (x0, y1)], *color, 1.0);
            }
            Layer::Shade { from, to } => {
                let ((x0, y0), (x1, y1)) = (at(*from), at(*to));
                canvas.area(vec![(x0, y0), (x1, y0), (x1, y1), (x0, y1)], Color::GREY, 0.14);
            }
            Layer::Band { points, look } if points.len() == 1 => {
                let (x, low, high) = points[0];
                let pale = look.color.mixed(Color::WHITE, 0.5);
                canvas.line(vec![at((x, low)), at((x, high))], 1.4, pale);
            }
            Layer::Band { points, look } => {
                let above = points.iter().map(|&(x, _, high)| at((x, high)));
                let below = points.iter().rev().map(|&(x, low, _)| at((x, low)));
                canvas.area(above.chain(below).collect(), look.color, 0.16);
            }
            Layer::Bar { from, to, look } => {
                let pale = look.color.mixed(Color::WHITE, 0.7);
                canvas.line(vec![at(*from), at(*to)], 2.6, pale);
            }
            Layer::Seed { points, look } => {
                let pale = look.color.mixed(Color::WHITE, 0.55);
                canvas.line(points.iter().map(|&point| at(point)).collect(), 0.35, pale);
            }
            Layer::Dots { points, look } => {
                let pale = look.color.mixed(Color::WHITE, 0.45);
                for &point in points {
                    canvas.disc(at(point), 1.35, pale);
                }
            }
            _ => {}
        }
    }

    fn draw_line(&self, canvas: &mut Canvas, frame: Frame, layer: &Layer) {
        match layer {
            Layer::Line { points, look } => {
                let places: Vec<Point> =
                    points.iter().map(|&point| self.at(frame, point)).collect();
                canvas.dashed(&places, 1.15, look.color, look.dash);
                for index in marked(places.len()) {
                    look.mark(canvas, places[index], MARKER);
                }
            }
            Layer::Stroke { at, look } => {
                let (x, y) = self.at(frame, *at);
                canvas.line(vec![(x, y - 4.2), (x, y + 4.2)], 1.8, look.color);
            }
            Layer::Lost { along, end, look } => {
                let (x, y) = if self.y.is_names() {
                    let (_, y) = self.at(frame, (0.0, *along));
                    (frame.left + frame.width * end, y)
                } else {
                    let (x, _) = self.at(frame, (*along, 0.0));
                    (x, frame.top + frame.height * (1.0 - end))
                };
                cross(canvas, (x, y), look.color);
            }
            Layer::Diverged { at, look } => cross(canvas, self.at(frame, *at), look.color),
            Layer::Single { at, look } => look.mark(canvas, self.at(frame, *at), MARKER),
            Layer::Joint { at, from, to } => {
                let ends = [(*at, from - 0.25), (*at, to + 0.25)];
                canvas.line(ends.map(|end| self.at(frame, end)).into(), 2.2, Color::GREY);
            }
            Layer::Written { at, text, color } => {
                let (x, y) = self.at(frame, *at);
                let place = (x, y + 0.35 * DIRECT_SIZE);
                canvas.text(text, place, DIRECT_SIZE, *color, Align::Center);
            }
            _ => {}
        }
    }

    /// Notes the values that a layer shows.
    fn note_hits(&self, canvas: &mut Canvas, frame: Frame, layer: &Layer, series: Option<usize>) {
        /// Values of a line that a reader can ask for: as many as fit under a finger.
        const MOST: usize = 48;
        let points: Vec<Point> = match layer {
            Layer::Line { points, .. } if points.len() > MOST => {
                (0..MOST).map(|place| points[place * (points.len() - 1) / (MOST - 1)]).collect()
            }
            Layer::Line { points, .. } | Layer::Dots { points, .. } => points.clone(),
            Layer::Single { at, .. } | Layer::Stroke { at, .. } | Layer::Written { at, .. } => {
                vec![*at]
            }
            _ => return,
        };
        for point in points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let label = |axis: &Axis, value: f64| {
                let label = if axis.label.is_empty() || axis.is_names() {
                    String::new()
                } else {
                    format!("{} ", axis.label)
                };
                label + &axis.describe(value)
            };
            let text = match layer {
                Layer::Written { text, .. } => {
                    format!("{}, {}: {text}", label(&self.y, point.1), label(&self.x, point.0))
                }
                _ if self.y.is_names() => {
                    format!("{}: {}", label(&self.y, point.1), label(&self.x, point.0))
                }
                _ => format!("{}, {}", label(&self.x, point.0), label(&self.y, point.1)),
            };
            canvas.hits.push(Hit { at: self.at(frame, point), series, text });
        }
    }
}

impl Layer {
    /// How it is drawn, if it belongs to a series.
    fn look(&self) -> Option<Look> {
        match self {
            Self::Band { look, .. }
            | Self::Line { look, .. }
            | Self::Seed { look, .. }
            | Self::Dots { look, .. }
            | Self::Bar { look, .. }
            | Self::Stroke { look, .. }
            | Self::Lost { look, .. }
            | Self::Diverged { look, .. }
            | Self::Single { look, .. } => Some(*look),
            _ => None,
        }
    }

    /// Whether the layer shows measured values.
    fn is_data(&self) -> bool {
        !matches!(
            self,
            Self::Shade { .. } | Self::Level { .. } | Self::Reference { .. } | Self::Upright { .. }
        )
    }
}

fn cross(canvas: &mut Canvas, (x, y): Point, color: Color) {
    for side in [-2.2, 2.2] {
        canvas.line(vec![(x - 2.2, y - side), (x + 2.2, y + side)], 1.0, color);
    }
}

/// About one tick for this many points of an axis.
fn wanted_ticks(length: f64) -> usize {
    (length / 20.0).clamp(3.0, 8.0) as usize
}

/// Which of a line's points have markers.
fn marked(points: usize) -> Vec<usize> {
    if points <= 2 * MARKERS {
        return (0..points).collect();
    }
    (0..MARKERS).map(|index| index * (points - 1) / (MARKERS - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::canvas::Mark;
    use super::super::font::text_width;
    use super::super::look::looks;
    use super::super::look::tests::series;
    use super::*;

    /// Whether a line passes through a text that reads from left to right.
    fn strikes(canvas: &Canvas, text: &str) -> bool {
        let label = canvas.marks.iter().find_map(|mark| match mark {
            Mark::Text { text: other, at, .. } if other == text => Some(*at),
            _ => None,
        });
        let (x, y) = label.unwrap();
        let width = text_width(text, DIRECT_SIZE);
        let through =
            |&(px, py): &Point| px > x && px < x + width && py < y && py > y - 0.7 * DIRECT_SIZE;
        places(canvas, 0).iter().any(through)
    }

    /// Beside a level that curves run along there is no room: the label stands apart, and a line leads to it.
    #[test]
    fn labels_of_crowded_levels_stand_apart() {
        let label = "ridge regression (test split)".to_owned();
        let look = looks(&[series("gru")])[0];
        for crowded in [false, true] {
            let offsets: &[f64] = if crowded { &[-0.6, -0.2, 0.2, 0.6] } else { &[6.0] };
            let lines = offsets.iter().map(|offset| Layer::Line {
                points: (0..=50).map(|x| (2.0 * f64::from(x), 8.0 + offset)).collect(),
                look,
            });
            let level = Layer::Level { at: 8.0, label: label.clone(), dotted: false };
            let panel = Panel {
                title: String::new(),
                x: Axis::linear("", [0.0, 100.0]),
                y: Axis::linear("", [0.0, 20.0]),
                layers: [level].into_iter().chain(lines).collect(),
            };
            let mut canvas = Canvas::new(250.0, 150.0);
            let frame = Frame { left: 30.0, top: 10.0, width: 200.0, height: 128.0 };
            panel.draw(&mut canvas, frame, &[]);
            canvas.marks.retain(
                |mark| !matches!(mark, Mark::Line { color, .. } if *color == Color::LIGHT_GREY),
            );
            assert!(!strikes(&canvas, &label));
            let upright = |mark: &Mark| match mark {
                Mark::Line { points, color: Color::GREY, .. } => {
                    points.len() == 2 && points[0].0 == points[1].0
                }
                _ => false,
            };
            assert_eq!(canvas.marks.iter().any(upright), crowded);
        }
    }

    #[test]
    fn dashed_lines_do_not_strike_through_labels() {
        for rate in [-0.02, -0.11, -0.31, 0.2] {
            let points: Vec<Point> = (0..=12)
                .map(|step| (f64::from(step) * 8.0, rate * f64::from(step) * 8.0))
                .collect();
            let label = "σ(1)^k with zero weights".to_owned();
            let panel = Panel {
                title: String::new(),
                x: Axis::linear("", [0.0, 100.0]),
                y: Axis::linear("", [-30.0, 20.0]),
                layers: vec![Layer::Reference { points, label: label.clone() }],
            };
            let mut canvas = Canvas::new(250.0, 150.0);
            let frame = Frame { left: 30.0, top: 10.0, width: 200.0, height: 128.0 };
            panel.draw(&mut canvas, frame, &[]);
            // Grid lines may pass behind a label.
            canvas.marks.retain(
                |mark| !matches!(mark, Mark::Line { color, .. } if *color == Color::LIGHT_GREY),
            );
            assert!(!strikes(&canvas, &label), "{rate}");
        }
    }
}
