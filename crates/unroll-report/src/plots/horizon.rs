//! Longest length learned against the horizon of the gradient before training.

use unroll_results::Summary;
use unroll_results::summary::HorizonPoint;

use super::{Palette, Plot, file_part};
use crate::draw::{Axis, Figure, Layer, Panel};
use crate::rows;

/// Where the seeds of a series stand beside each other, in rows.
const OFFSETS: [f64; 7] = [0.0, -0.12, 0.12, -0.24, 0.24, -0.36, 0.36];

/// A task's plot, if its models were measured before training at two lengths or more.
pub(super) fn plot(summary: &Summary, palette: &Palette, task: &str) -> Option<Plot> {
    let group = summary.horizons.iter().find(|group| group.task == task)?;
    let within = |horizon: f64| horizon.max(0.5).log10();
    let finite = || group.points.iter().map(|p| p.horizon).filter(|horizon| horizon.is_finite());
    // What is beyond the distances measured stands in a strip of its own, right of all others, its series
    // beside each other.
    let limit = within(group.measured_to as f64);
    let mut beyond: Vec<&str> = group
        .points
        .iter()
        .filter(|point| point.horizon.is_infinite())
        .map(|point| point.series.as_str())
        .collect();
    beyond.dedup();
    let lowest = finite().map(within).fold(limit, f64::min);
    let strip = if beyond.is_empty() { 0.0 } else { 0.25 * (limit - lowest).max(0.8) };
    let x = Axis::powers("horizon before training (steps)", [lowest, limit + strip]);
    let x = if beyond.is_empty() { x } else { x.known_to(limit) };
    let at = |point: &HorizonPoint| match beyond.iter().position(|name| *name == point.series) {
        Some(place) if point.horizon.is_infinite() => {
            limit + strip * (place as f64 + 1.0) / (beyond.len() as f64 + 0.5)
        }
        _ => within(point.horizon),
    };
    let lengths = group.lengths.iter().rev().map(ToString::to_string);
    let names: Vec<String> = lengths.chain(["none".to_owned()]).collect();
    let mut y = Axis::names(&names.iter().map(String::as_str).collect::<Vec<_>>());
    y.label = "longest length solved".to_owned();
    let row = |solved: usize| {
        let place = group.lengths.iter().rev().position(|&length| length == solved);
        place.unwrap_or(group.lengths.len()) as f64
    };
    let mut layers = Vec::new();
    if !beyond.is_empty() {
        layers.push(Layer::Shade {
            from: (limit, f64::NEG_INFINITY),
            to: (f64::INFINITY, f64::INFINITY),
        });
        layers.push(Layer::Upright { at: limit, label: String::new() });
    }
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for point in &group.points {
        let Some(look) = palette.look(&point.series) else { continue };
        let number = seen.entry(point.series.as_str()).or_default();
        let y = row(point.longest_solved) + OFFSETS[*number % OFFSETS.len()];
        *number += 1;
        layers.push(Layer::Single { at: (at(point), y), look });
    }
    let mut note = "Horizon: distance at which ∂L/∂x has fallen to 1 % of its value at the last \
                    step. One marker for each seed."
        .to_owned();
    if !beyond.is_empty() {
        note.push_str(&format!(
            " In the grey strip: still above 1 % at the largest distance measured, {}; the strip has no \
             scale.",
            group.measured_to
        ));
    }
    if let Some(agreement) = rows::agreement(&group.horizon) {
        note.push_str(&format!(" Rank correlation {agreement}"));
        note.push_str(if beyond.is_empty() { "." } else { ", all in the strip of equal rank." });
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
