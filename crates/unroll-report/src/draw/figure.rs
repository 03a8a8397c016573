//! Panels in rows and columns over a shared legend.

use super::axis::Axis;
use super::canvas::{Align, Canvas, Color, Tag};
use super::font::{shortened, text_width};
use super::labels::room_above;
use super::look::Look;
use super::panel::{Frame, LABEL_SIZE, Panel, TICK_SIZE};

/// Width of a paper's column and of both columns, points.
const SINGLE: f64 = 252.0;
const DOUBLE: f64 = 516.0;
/// Height of a panel's frame.
const FRAME_HEIGHT: f64 = 128.0;
/// Height of a row with a name.
const ROW_HEIGHT: f64 = 16.0;
const MARGIN: f64 = 4.0;
const TITLE_SIZE: f64 = 8.0;
const LEGEND_SIZE: f64 = 7.5;
const NOTE_SIZE: f64 = 6.3;
/// Length of the line beside a legend's name.
const SAMPLE: f64 = 22.0;

/// A bar of colors with its numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    pub(crate) axis: Axis,
}

/// Viridis (van der Walt & Smith 2015) at five places: equal steps look equal, in grey too.
const RAMP: [Color; 5] = [
    Color(68, 1, 84),
    Color(59, 82, 139),
    Color(33, 145, 140),
    Color(94, 201, 98),
    Color(253, 231, 37),
];

impl Scale {
    /// The color of a coordinate of the axis; values beyond its ends have the ends' colors.
    pub(crate) fn color(&self, coordinate: f64) -> Color {
        let place = 4.0 * self.axis.place(coordinate).clamp(0.0, 1.0);
        let below = (place as usize).min(3);
        RAMP[below].mixed(RAMP[below + 1], place - below as f64)
    }

    fn draw(&self, canvas: &mut Canvas, top: f64) -> f64 {
        canvas.tag = Tag::Fixed;
        let bottom = self.draw_bar(canvas, top);
        canvas.tag = Tag::Frame;
        bottom
    }

    fn draw_bar(&self, canvas: &mut Canvas, top: f64) -> f64 {
        /// Rectangles of the bar: more than a screen tells apart.
        const PIECES: usize = 64;
        let width = 0.5 * canvas.width;
        let left = (canvas.width - width) / 2.0;
        let (bar, step) = (top + 2.0, width / PIECES as f64);
        for piece in 0..PIECES {
            let share = (piece as f64 + 0.5) / PIECES as f64;
            let x = left + piece as f64 * step;
            // A little wider, so that no seam shows.
            let right = (x + step + 0.3).min(left + width);
            let corners = vec![(x, bar), (right, bar), (right, bar + 6.0), (x, bar + 6.0)];
            canvas.area(corners, self.color(self.axis.at_place(share)), 1.0);
        }
        canvas.tag = Tag::Frame;
        for tick in self.axis.ticks(5, width, TICK_SIZE) {
            let x = left + width * self.axis.place(tick.at);
            if let Some(label) = &tick.label {
                canvas.line(vec![(x, bar + 6.0), (x, bar + 8.0)], 0.5, Color::BLACK);
                label.write(canvas, (x, bar + 9.0 + 0.85 * TICK_SIZE), TICK_SIZE, Align::Center);
            }
        }
        let title = (canvas.width / 2.0, bar + 12.0 + TICK_SIZE + LABEL_SIZE);
        canvas.text(&self.axis.label, title, LABEL_SIZE, Color::BLACK, Align::Center);
        bar + 15.0 + TICK_SIZE + LABEL_SIZE
    }
}

/// A figure: panels, and a legend that is never over data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// What a screen reader says.
    pub(crate) title: String,
    /// Panels side by side, at most.
    pub(crate) columns: usize,
    pub(crate) panels: Vec<Panel>,
    /// Series in order.
    pub(crate) legend: Vec<(String, Look)>,
    /// What the colors of a heat map stand for.
    pub(crate) scale: Option<Scale>,
    /// What lines, bands and dots are, in small type at the bottom.
    pub(crate) note: String,
}

impl Figure {
    /// Panels side by side for `panels` of them: three, unless two leave fewer gaps.
    pub(crate) fn columns_for(panels: usize) -> usize {
        match panels {
            0..=2 | 4 => panels.clamp(1, 2),
            _ => 3,
        }
    }

    /// Lays the figure out.
    pub(crate) fn canvas(&self) -> Canvas {
        self.laid_out(true)
    }

    /// The figure without legend and note, for a page that has them beside it.
    pub(crate) fn bare_canvas(&self) -> Canvas {
        self.laid_out(false)
    }

    /// A legend's line and marker.
    pub(crate) fn sample(look: &Look) -> Canvas {
        let mut canvas = Canvas::new(SAMPLE + 2.0, 8.0);
        canvas.dashed(&[(1.0, 4.0), (SAMPLE + 1.0, 4.0)], 1.15, look.color, look.dash);
        look.mark(&mut canvas, (SAMPLE / 2.0 + 1.0, 4.0), 2.5);
        canvas
    }

    fn laid_out(&self, whole: bool) -> Canvas {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let width = if columns == 1 { SINGLE } else { DOUBLE };
        let rows: Vec<&[Panel]> = self.panels.chunks(columns).collect();
        let lefts: Vec<f64> = (0..columns).map(|column| self.left_room(column, columns)).collect();
        let right = 10.0;
        let frame_width =
            (width - lefts.iter().sum::<f64>() - right * columns as f64 - MARGIN) / columns as f64;

        // The height is known once everything has been placed.
        let mut canvas = Canvas::new(width, 0.0);
        let mut top = MARGIN;
        for (number, row) in rows.iter().enumerate() {
            let titled = row.iter().any(|panel| !panel.title.is_empty());
            let above = row.iter().map(|panel| room_above(panel, frame_width)).fold(0.0, f64::max);
            top += above + if titled { TITLE_SIZE + 4.0 } else { 2.0 };
            let height = row.iter().map(frame_height).fold(0.0, f64::max);
            let mut left = MARGIN;
            for (column, panel) in row.iter().enumerate() {
                left += lefts[column];
                if panel.is_blank() {
                    left += frame_width + right;
                    continue;
                }
                let frame = Frame { left, top, width: frame_width, height };
                panel.draw(&mut canvas, frame, &self.legend);
                let title = (left, top - 4.0 - above);
                canvas.text(&panel.title, title, TITLE_SIZE, Color::BLACK, Align::Left);
                if self.shows_y_label(number * columns + column, columns) {
                    let x = left - panel.tick_room(height) - 4.0;
                    let at = (x, top + height / 2.0);
                    canvas.text_upwards(&panel.y.label, at, LABEL_SIZE, Color::BLACK);
                }
                let below = self.goes_on_below(number, column, columns);
                if !below {
                    let y = top + height + TICK_SIZE + LABEL_SIZE + 6.5;
                    let at = (left + frame_width / 2.0, y);
                    canvas.text(&panel.x.label, at, LABEL_SIZE, Color::BLACK, Align::Center);
                }
                left += frame_width + right;
            }
            top += height + TICK_SIZE + 9.0;
            let last = number + 1 == rows.len();
            let ended = |column| !self.goes_on_below(number, column, columns);
            let ragged = (0..row.len()).any(ended);
            if last || ragged {
                top += LABEL_SIZE + 2.0;
            }
        }
        if whole {
            top = self.draw_legend(&mut canvas, top + 2.0);
        }
        if let Some(scale) = &self.scale {
            top = scale.draw(&mut canvas, top);
        }
        if whole {
            top = self.draw_note(&mut canvas, top);
        }
        canvas.height = (top + MARGIN).ceil();
        canvas
    }

    /// Room left of the frames of a column: title of the axis and tick labels.
    fn left_room(&self, column: usize, columns: usize) -> f64 {
        let drawn = |(_, panel): &(usize, &Panel)| !panel.is_blank();
        let panels = || self.panels.iter().enumerate().skip(column).step_by(columns).filter(drawn);
        let ticks =
            panels().map(|(_, panel)| panel.tick_room(frame_height(panel))).fold(0.0, f64::max);
        let labelled = panels().any(|(index, _)| self.shows_y_label(index, columns));
        ticks + if labelled { LABEL_SIZE + 5.0 } else { 2.0 }
    }

    /// Whether a panel's y axis has a title: when its left neighbour does not say the same.
    fn shows_y_label(&self, index: usize, columns: usize) -> bool {
        let label = &self.panels[index].y.label;
        let first = index.is_multiple_of(columns);
        !label.is_empty() && (first || self.panels[index - 1].y.label != *label)
    }

    /// Whether the panel below has the same x axis, and its title.
    fn goes_on_below(&self, row: usize, column: usize, columns: usize) -> bool {
        let label = |row: usize| self.panels.get(row * columns + column).map(|p| &p.x.label);
        self.has_panel(row + 1, column, columns) && label(row) == label(row + 1)
    }

    fn has_panel(&self, row: usize, column: usize, columns: usize) -> bool {
        self.panels.get(row * columns + column).is_some_and(|panel| !panel.is_blank())
    }

    fn draw_legend(&self, canvas: &mut Canvas, mut top: f64) -> f64 {
        let width = |name: &str| SAMPLE + 4.0 + text_width(name, LEGEND_SIZE) + 14.0;
        let room = canvas.width - 2.0 * MARGIN;
        let mut rows: Vec<Vec<(String, Look)>> = Vec::new();
        let mut used = f64::INFINITY;
        for (name, look) in &self.legend {
            let entry = (shortened(name, LEGEND_SIZE, room - SAMPLE - 18.0), *look);
            if used + width(&entry.0) > room {
                rows.push(Vec::new());
                used = 0.0;
            }
            used += width(&entry.0);
            if let Some(row) = rows.last_mut() {
                row.push(entry);
            }
        }
        for row in rows {
            let total: f64 = row.iter().map(|entry| width(&entry.0)).sum::<f64>() - 14.0;
            let mut x = MARGIN + (room - total).max(0.0) / 2.0;
            let middle = top + 0.62 * LEGEND_SIZE;
            for (name, look) in &row {
                canvas.dashed(&[(x, middle), (x + SAMPLE, middle)], 1.15, look.color, look.dash);
                look.mark(canvas, (x + SAMPLE / 2.0, middle), 2.5);
                let at = (x + SAMPLE + 4.0, middle + 0.35 * LEGEND_SIZE);
                canvas.text(name, at, LEGEND_SIZE, Color::BLACK, Align::Left);
                x += width(name);
            }
            top += LEGEND_SIZE + 4.5;
        }
        top
    }

    fn draw_note(&self, canvas: &mut Canvas, mut top: f64) -> f64 {
        let room = canvas.width - 2.0 * MARGIN;
        let mut line = String::new();
        let mut lines = Vec::new();
        for word in self.note.split_whitespace() {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if text_width(&longer, NOTE_SIZE) > room && !line.is_empty() {
                lines.push(std::mem::replace(&mut line, word.to_owned()));
            } else {
                line = longer;
            }
        }
        if !line.is_empty() {
            lines.push(line);
        }
        for line in lines {
            top += NOTE_SIZE + 1.8;
            let at = (canvas.width / 2.0, top);
            canvas.text(&line, at, NOTE_SIZE, Color::GREY, Align::Center);
        }
        top
    }
}

/// Rows are apart enough for the axis' title, which stands upright beside them.
fn frame_height(panel: &Panel) -> f64 {
    let title = text_width(&panel.y.label, LABEL_SIZE).min(FRAME_HEIGHT);
    panel.y.rows().map_or(FRAME_HEIGHT, |rows| (ROW_HEIGHT * rows as f64).max(title))
}
