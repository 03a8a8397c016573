//! Longest length learned against the horizon of the gradient before training.

use unroll_results::Summary;

use super::{Palette, Plot, file_part};
use crate::draw::{Axis, Figure, Layer, Panel};
use crate::rows;

/// Where the seeds of a series stand beside each other, in rows.
const OFFSETS: [f64; 7] = [0.0, -0.12, 0.12, -0.24, 0.24, -0.36, 0.36];

/// A task's plot, if its models were measured before training at two lengths or more.
pub(super) fn plot(summary: &Summary, palette: &Palette, task: &str) -> Option<Plot> {
    let group = summary.horizons.iter().find(|group| group.task == task)?;
    let finite = || group.points.iter().map(|p| p.horizon).filter(|horizon| horizon.is_finite());
    let longest = group.lengths.last().copied().unwrap_or(1) as f64;
    // A gradient that does not fall stands right of all others.
    let beyond = 3.0 * finite().fold(longest, f64::max);
    let at = |horizon: f64| if horizon.is_finite() { horizon.max(0.5) } else { beyond }.log10();
    let xs = group.points.iter().map(|point| at(point.horizon));
    let x = Axis::powers("horizon before training (steps)", xs.chain([longest.log10()]));
    let lengths = group.lengths.iter().rev().map(ToString::to_string);
    let names: Vec<String> = lengths.chain(["none".to_owned()]).collect();
    let mut y = Axis::names(&names.iter().map(String::as_str).collect::<Vec<_>>());
    y.label = "longest length solved".to_owned();
    let row = |solved: usize| {
        let place = group.lengths.iter().rev().position(|&length| length == solved);
        place.unwrap_or(group.lengths.len()) as f64
    };
    let mut layers = Vec::new();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for point in &group.points {
        let Some(look) = palette.look(&point.series) else { continue };
        let number = seen.entry(point.series.as_str()).or_default();
        let y = row(point.longest_solved) + OFFSETS[*number % OFFSETS.len()];
        *number += 1;
        layers.push(Layer::Single { at: (at(point.horizon), y), look });
    }
    let mut note = "Horizon: distance at which ∂L/∂x has fallen to 1 % of its value at the last \
                    step. One marker for each seed."
        .to_owned();
    if group.points.iter().any(|point| point.horizon.is_infinite()) {
        note.push_str(" At the right edge: gradients that do not fall.");
    }
    if let Some(agreement) = rows::agreement(&group.horizon) {
        note.push_str(&format!(" Rank correlation {agreement}."));
    }
    Some(Plot {
        name: format!("horizon-{}", file_part(task)),
        figure: Figure {
            title: format!("{task}: longest length solved against the horizon before training"),
            columns: 1,
            panels: vec![Panel { title: String::new(), x, y, layers }],
            legend: palette.legend(group.points.iter().map(|point| point.series.as_str())),
            scale: None,
            note,
        },
    })
}
