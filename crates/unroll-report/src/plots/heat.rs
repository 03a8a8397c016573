//! Series against length as a heat map of the metric.

use unroll_results::decision::{Decision, Decisions};
use unroll_results::record::Better;

use super::{Plot, file_part, wide};
use crate::draw::{Axis, Color, Figure, Layer, Panel, Scale};
use crate::rows::significant;

/// A task's map, if it has two lengths and two series or more.
pub(super) fn plot(decisions: &Decisions, task: &str) -> Option<Plot> {
    let cells: Vec<&Decision> = decisions.cells.iter().filter(|cell| cell.task == task).collect();
    let mut names: Vec<&str> = Vec::new();
    for candidate in cells.iter().flat_map(|cell| &cell.candidates) {
        if !names.contains(&candidate.series.as_str()) {
            names.push(&candidate.series);
        }
    }
    if cells.len() < 2 || names.len() < 2 {
        return None;
    }
    let first = cells[0];
    let found: Vec<(usize, usize, f64)> = cells
        .iter()
        .enumerate()
        .flat_map(|(column, cell)| {
            let names = &names;
            cell.candidates.iter().filter_map(move |candidate| {
                let row = names.iter().position(|name| *name == candidate.series)?;
                Some((column, row, candidate.metric.filter(|value| value.is_finite())?))
            })
        })
        .collect();
    let values: Vec<f64> = found.iter().map(|(_, _, value)| *value).collect();
    if values.is_empty() {
        return None;
    }
    let label = format!("{} ({} is better)", first.metric, first.better.name());
    let logarithmic = first.better == Better::Lower && wide(&values);
    let axis = if logarithmic {
        Axis::powers(&label, values.iter().map(|value| value.log10()))
    } else {
        Axis::linear(&label, values.iter().copied())
    };
    let scale = Scale { axis };
    let lengths = cells.iter().map(|cell| cell.length.to_string()).collect();
    let x = Axis::columns("length (steps)", lengths);
    let y = Axis::names(&names);
    let mut layers = Vec::new();
    for (column, row, value) in found {
        let color = scale.color(scale.axis.coordinate(value));
        let (at_x, at_y) = (column as f64, row as f64);
        layers.push(Layer::Cell {
            from: (at_x - 0.5, at_y - 0.5),
            to: (at_x + 0.5, at_y + 0.5),
            color,
        });
        let text = significant(value);
        let color = if color.is_dark() { Color::WHITE } else { Color::BLACK };
        layers.push(Layer::Written { at: (at_x, at_y), text, color });
    }
    Some(Plot {
        name: format!("heat-{}", file_part(task)),
        figure: Figure {
            title: format!("{task}: {} by series and length", first.metric),
            columns: 1,
            panels: vec![Panel { title: String::new(), x, y, layers }],
            legend: Vec::new(),
            scale: Some(scale),
            note: "Interquartile mean over seeds; an empty cell has no finite value.".into(),
        },
    })
}
