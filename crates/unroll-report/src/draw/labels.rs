//! Labels inside panels: where they may stand, and where they cover least.

use super::canvas::{Align, Canvas, Color, Point};
use super::font::text_width;
use super::panel::{DIRECT_SIZE, Frame, Layer, Panel};

impl Panel {
    /// Where a level's label may stand, best first.
    pub(super) fn places_beside_level(&self, frame: Frame, at: f64, label: &str) -> Vec<Point> {
        let width = text_width(label, DIRECT_SIZE);
        let right = frame.left + frame.width;
        if self.y.is_names() {
            // Above the frame, over the top end of the line.
            let x = frame.left + frame.width * self.x.place(at);
            let x = (x - width / 2.0).min(right - width).max(frame.left);
            return vec![(x, frame.top - 2.5), (x, frame.top - 3.0 - DIRECT_SIZE)];
        }
        let y = frame.top + frame.height * (1.0 - self.y.place(at));
        let (above, below) = (y - 1.8, y + 0.95 * DIRECT_SIZE);
        let fits =
            |y: &f64| *y >= frame.top + 0.5 * DIRECT_SIZE && *y <= frame.top + frame.height - 1.0;
        let steps = [1.0, 0.0, 0.5, 0.75, 0.25];
        let xs = steps.map(|step| frame.left + 2.0 + step * (frame.width - width - 4.0));
        // Further away, with a line that leads to it, where what is beside it is full.
        let far = (2..8).map(|row| f64::from(row) * 1.2 * DIRECT_SIZE);
        let far = far.flat_map(|off| [above - off, below + off]);
        let rows = [above, below].into_iter().chain(far);
        rows.filter(fits).flat_map(|y| xs.map(|x| (x, y))).collect()
    }

    /// Joins a level's label to its line, if it stands apart from it.
    pub(super) fn lead_to_level(
        &self,
        canvas: &mut Canvas,
        frame: Frame,
        (at, label): (f64, &str),
        (x, y): Point,
    ) {
        let level = frame.top + frame.height * (1.0 - self.y.place(at));
        let end = if y < level { y + 1.5 } else { y - 0.9 * DIRECT_SIZE };
        if !self.y.is_names() && (level - end).abs() > DIRECT_SIZE {
            let x = x + text_width(label, DIRECT_SIZE) / 2.0;
            canvas.line(vec![(x, end), (x, level)], 0.4, Color::GREY);
        }
    }

    /// Where the label of a line through points may stand, at each of them: over or under it, or in one of
    /// the corners that a sloping line leaves free.
    pub(super) fn places_beside_points(
        &self,
        frame: Frame,
        points: &[Point],
        label: &str,
    ) -> Vec<Point> {
        let width = text_width(label, DIRECT_SIZE);
        let room = frame.left + 2.0..=(frame.left + frame.width - width).max(frame.left + 2.0);
        let rows = frame.top + DIRECT_SIZE..=frame.top + frame.height - 2.0;
        let beside = |&point: &Point| {
            let (x, y) = self.at(frame, point);
            let (over, under) = (y - 3.5, y + DIRECT_SIZE + 2.0);
            let (left, right) = (x - 3.0 - width, x + 3.0);
            let centered = x - width / 2.0;
            let all = [(centered, over), (centered, under)];
            let corners = [(right, over), (left, under), (left, over), (right, under)];
            all.into_iter().chain(corners).map(|(x, y)| {
                (x.clamp(*room.start(), *room.end()), y.clamp(*rows.start(), *rows.end()))
            })
        };
        points.iter().flat_map(beside).collect()
    }

    /// Where the label of an upright line may stand: beside its ends.
    pub(super) fn places_beside_upright(&self, frame: Frame, at: f64, label: &str) -> Vec<Point> {
        let width = text_width(label, DIRECT_SIZE);
        let x = frame.left + frame.width * self.x.place(at);
        let (top, bottom) = (frame.top + DIRECT_SIZE, frame.top + frame.height - 3.0);
        let fits = |x: &f64| *x > frame.left && x + width < frame.left + frame.width;
        let sides = [x + 2.5, x - 2.5 - width];
        sides.into_iter().filter(fits).flat_map(|x| [(x, top), (x, bottom)]).collect()
    }
}

/// Writes a label at the candidate where it covers least of what is drawn, and of several such where least is
/// within `distance` of it: a label between two lines could be either's. Gives the place.
pub(super) fn write_label(
    canvas: &mut Canvas,
    label: &str,
    candidates: Vec<Point>,
    distance: f64,
    taken: &mut Vec<Point>,
) -> Option<Point> {
    let width = text_width(label, DIRECT_SIZE);
    let covered = |(x, y): Point, more: f64| {
        let (left, right) = (x - 1.5 - more, x + width + 1.5 + more);
        let (top, bottom) = (y - 0.9 * DIRECT_SIZE - more, y + 1.5 + more);
        let inside = |&&(px, py): &&Point| px > left && px < right && py > top && py < bottom;
        taken.iter().filter(inside).count()
    };
    let cost = |&place: &Point| (covered(place, 0.0), covered(place, distance));
    if let Some((x, y)) = candidates.into_iter().min_by_key(cost) {
        canvas.text(label, (x, y), DIRECT_SIZE, Color::GREY, Align::Left);
        let along = (0..=width as usize).map(|step| x + step as f64);
        taken.extend(along.flat_map(|x| [(x, y), (x, y - 0.7 * DIRECT_SIZE)]));
        return Some((x, y));
    }
    None
}

/// Labels of levels in a panel with rows stand above the frame: how many lines they may need.
pub(super) fn room_above(panel: &Panel, width: f64) -> f64 {
    if !panel.y.is_names() {
        return 0.0;
    }
    let mut labels: Vec<(f64, f64)> = Vec::new();
    for layer in &panel.layers {
        if let Layer::Level { at, label, .. } = layer {
            labels.push((width * panel.x.place(*at), text_width(label, DIRECT_SIZE)));
        }
    }
    let touching = labels.windows(2).any(|pair| {
        let (a, b) = (pair[0], pair[1]);
        // Labels that would leave the frame are moved in: reckon with their whole width.
        (a.0 - b.0).abs() < a.1 + b.1
    });
    let lines = if touching { 2.0 } else { 1.0 };
    if labels.is_empty() { 0.0 } else { lines * (DIRECT_SIZE + 0.5) }
}

/// Points along everything drawn since mark number `from`.
pub(super) fn places(canvas: &Canvas, from: usize) -> Vec<Point> {
    let mut found = Vec::new();
    for mark in &canvas.marks[from..] {
        match mark {
            super::canvas::Mark::Line { points, .. } => {
                for pair in points.windows(2) {
                    let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
                    let steps = ((x1 - x0).hypot(y1 - y0) / 2.0).ceil().clamp(1.0, 500.0);
                    let share = |step: usize| step as f64 / steps;
                    found.extend(
                        (0..=steps as usize).map(|step| {
                            (x0 + share(step) * (x1 - x0), y0 + share(step) * (y1 - y0))
                        }),
                    );
                }
            }
            super::canvas::Mark::Disc { center, .. } => found.push(*center),
            // Markers; bands may be written on.
            super::canvas::Mark::Area { points, alpha: 1.0, .. } => found.extend(points),
            _ => {}
        }
    }
    found
}
