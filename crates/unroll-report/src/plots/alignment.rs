//! What an encoder and decoder looked at: answer against source.

use unroll_results::Summary;
use unroll_results::record::Alignment;
use unroll_results::summary::AlignmentGroup;

use super::{Plot, file_part};
use crate::draw::{Axis, Figure, Layer, Panel, Scale};

/// One figure for each series of a task that attends.
pub(super) fn plots(summary: &Summary, task: &str) -> Vec<Plot> {
    summary.alignments.iter().filter(|group| group.task == task).map(plot).collect()
}

fn plot(group: &AlignmentGroup) -> Plot {
    let scale = Scale { axis: Axis::between("weight", 0.0, 1.0) };
    let panels = group.examples.iter().map(|example| panel(example, &scale)).collect();
    let (task, series) = (&group.task, &group.series);
    Plot {
        name: format!(
            "alignment-{}-{}-{}",
            file_part(task),
            group.length,
            file_part(&series.replace(", ", "-"))
        ),
        figure: Figure {
            title: format!("{task}, {series}: what the decoder looks at"),
            columns: 3,
            panels,
            legend: Vec::new(),
            scale: Some(scale),
            note: format!(
                "Each row: the weights of the source's symbols (columns) when the symbol at its left was \
                 written; mean over heads, seed {}.",
                group.seed
            ),
        },
    }
}

fn panel(example: &Alignment, scale: &Scale) -> Panel {
    let end = "(end)";
    let answer: Vec<&str> =
        example.answer.iter().map(|name| if name.is_empty() { end } else { name }).collect();
    let mut layers = Vec::new();
    for (row, weights) in example.weights.iter().enumerate() {
        for (column, &weight) in weights.iter().enumerate() {
            let (x, y) = (column as f64, row as f64);
            layers.push(Layer::Cell {
                from: (x - 0.5, y - 0.5),
                to: (x + 0.5, y + 0.5),
                color: scale.color(weight),
            });
        }
    }
    Panel {
        title: String::new(),
        x: Axis::columns("", example.source.clone()),
        y: Axis::names(&answer),
        layers,
    }
}
