//! Gradient norm against distance and training step: a heat map for each series.

use unroll_results::Summary;
use unroll_results::record::GradientOf;
use unroll_results::summary::{GradientGroup, Moment};

use super::{Plot, ascending, decimal, file_part};
use crate::draw::{Axis, Figure, Layer, Panel, Scale};

/// Fewer columns would be no map.
const FEWEST_STEPS: usize = 4;
/// Rows of cells at most: more than the frame has room for.
const MOST_ROWS: usize = 64;
/// Decades shown below the largest value: what lies deeper has the darkest color.
const DECADES: f64 = 12.0;

/// A column: the training step, and what was measured there.
type Column<'a> = (f64, &'a GradientGroup);

/// One plot for each length that was measured at four moments of training or more.
pub(super) fn plots(summary: &Summary, task: &str) -> Vec<Plot> {
    let of_task = || {
        let groups = summary.gradients.iter();
        groups.filter(|group| group.task == task && group.of == GradientOf::Input)
    };
    let lengths = ascending(of_task().map(|group| group.length));
    let plot = |length: usize| {
        let mut maps: Vec<(&str, Vec<Column<'_>>)> = Vec::new();
        for group in of_task().filter(|group| group.length == length) {
            // The end of training is at another step for each seed: it has no column.
            let step = match group.moment {
                Moment::Initial => 0.0,
                Moment::During(step) => step as f64,
                Moment::Trained => continue,
            };
            match maps.iter_mut().find(|(name, _)| *name == group.series) {
                Some((_, columns)) => columns.push((step, group)),
                None => maps.push((&group.series, vec![(step, group)])),
            }
        }
        maps.retain(|(_, columns)| columns.len() >= FEWEST_STEPS);
        (!maps.is_empty()).then(|| Plot {
            name: format!("gradient-steps-{}-{length}", file_part(task)),
            figure: figure(&maps, task, length),
        })
    };
    lengths.into_iter().filter_map(plot).collect()
}

fn figure(maps: &[(&str, Vec<Column<'_>>)], task: &str, length: usize) -> Figure {
    let bands = || maps.iter().flat_map(|(_, columns)| columns).flat_map(|(_, group)| &group.band);
    let values = || bands().filter_map(|band| band.mean_ln.map(decimal));
    let highest = values().fold(f64::NEG_INFINITY, f64::max);
    let lowest = values().fold(f64::INFINITY, f64::min).max(highest - DECADES);
    let label = "norm of ∂L/∂x, geometric mean over seeds";
    let scale = Scale { axis: Axis::powers(label, [lowest, highest]) };
    let ends = maps.iter().map(|(_, columns)| {
        columns.last().map_or(0.0, |(step, _)| step + width(columns, columns.len() - 1))
    });
    let x = Axis::from_zero("training steps", ends);
    let distances = bands().map(|band| band.distance as f64 + 1.0);
    let y = Axis::from_zero("distance from the loss (steps)", distances);
    let panels: Vec<Panel> = maps
        .iter()
        .map(|(name, columns)| Panel {
            title: (*name).to_owned(),
            x: x.clone(),
            y: y.clone(),
            layers: cells(columns, &scale),
        })
        .collect();
    Figure {
        title: format!("{task}, length {length}: gradient norm during training"),
        columns: Figure::columns_for(panels.len()),
        panels,
        legend: Vec::new(),
        scale: Some(scale),
        note: "A column is what was measured at its left edge. The darkest color is that of all \
               smaller values and of exact zeros too."
            .to_owned(),
    }
}

/// Up to the next column; the last one is as wide as the one before.
fn width(columns: &[Column<'_>], index: usize) -> f64 {
    let next = (index + 1).min(columns.len() - 1).max(1);
    columns[next].0 - columns[next - 1].0
}

fn cells(columns: &[Column<'_>], scale: &Scale) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (index, (step, group)) in columns.iter().enumerate() {
        for bands in group.band.chunks(group.band.len().div_ceil(MOST_ROWS).max(1)) {
            let (Some(first), Some(last)) = (bands.first(), bands.last()) else { continue };
            // A zero makes the whole cell the darkest.
            let sum: f64 = bands.iter().map(|b| b.mean_ln.map_or(-1e9, decimal)).sum();
            layers.push(Layer::Cell {
                from: (*step, first.distance as f64),
                to: (step + width(columns, index), last.distance as f64 + 1.0),
                color: scale.color(sum / bands.len() as f64),
            });
        }
    }
    layers
}
