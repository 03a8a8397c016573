//! The metric against what it costs: which series no other one beats in both.

use unroll_results::decision::{Candidate, Decision, Decisions, Objective, Speed};
use unroll_results::record::Better;

use super::{Palette, Plot, file_part, wide};
use crate::draw::{Axis, Figure, Layer, Panel};

/// Panels of one figure.
const MOST: usize = 6;

/// What is on the x axis.
struct Cost {
    label: fn(Speed) -> &'static str,
    of: fn(&Candidate) -> Option<f64>,
    /// Whether less of it is better.
    less: bool,
}

const COSTS: [Cost; 2] = [
    Cost {
        label: |speed| match speed {
            Speed::Step => "step tokens/s (training step alone)",
            Speed::Training => "run tokens/s (clock of training runs)",
        },
        of: |c| c.tokens_per_s,
        less: false,
    },
    Cost {
        label: |_| "peak memory of a training step (bytes)",
        of: |c| c.peak_bytes.map(|bytes| bytes as f64),
        less: true,
    },
];

/// A task's metric against speed and against memory, a panel for each length.
pub(super) fn plots(decisions: &Decisions, palette: &Palette, task: &str) -> Vec<Plot> {
    let cells: Vec<&Decision> = decisions
        .cells
        .iter()
        .filter(|cell| cell.task == task && cell.candidates.len() > 1)
        .collect();
    let mut panels = Vec::new();
    // The longest lengths, when there are too many for a figure.
    let shown = &cells[cells.len().saturating_sub(MOST / 2)..];
    for cost in &COSTS {
        panels.extend(shown.iter().filter_map(|cell| panel(cell, cost, palette)));
    }
    let Some(first) = cells.first().filter(|_| !panels.is_empty()) else { return Vec::new() };
    let names = shown.iter().flat_map(|cell| &cell.candidates).map(|c| c.series.as_str());
    vec![Plot {
        name: format!("pareto-{}", file_part(task)),
        figure: Figure {
            title: format!("{task}: {} against speed and memory", first.metric),
            columns: if shown.len() > 1 { shown.len() } else { panels.len().min(2) },
            panels,
            legend: palette.legend(names),
            scale: None,
            note: "Marker: interquartile mean over seeds. Dashed: the front of the panel's two criteria alone \
                   (metrics beyond solved are equal); every other series meets one that is as good in both and \
                   better in one. The front of the tables has more criteria."
                .into(),
        },
    }]
}

fn panel(cell: &Decision, cost: &Cost, palette: &Palette) -> Option<Panel> {
    let points: Vec<(&Candidate, f64, f64)> = cell
        .candidates
        .iter()
        .filter_map(|c| Some((c, (cost.of)(c)?, c.metric?)))
        .filter(|(_, x, y)| *x > 0.0 && y.is_finite())
        .collect();
    if points.len() < 2 {
        return None;
    }
    let x = Axis::prefixes((cost.label)(cell.speed), points.iter().map(|(_, x, _)| x.log10()));
    let values: Vec<f64> = points.iter().map(|(_, _, y)| *y).collect();
    let y = if cell.better == Better::Lower && wide(&values) {
        Axis::powers(&cell.metric, values.iter().map(|value| value.log10()))
    } else {
        Axis::linear(&cell.metric, values.iter().copied())
    };
    // As in the tables, nothing is gained beyond solved.
    let score = |point: &(&Candidate, f64, f64)| Objective::Metric.of(point.0);
    let better = |a: &(&Candidate, f64, f64), b: &(&Candidate, f64, f64)| {
        let cheaper = if cost.less { a.1 < b.1 } else { a.1 > b.1 };
        let cheap = cheaper || a.1 == b.1;
        cheap && score(a) >= score(b) && (cheaper || score(a) > score(b))
    };
    let mut front: Vec<_> =
        points.iter().filter(|b| !points.iter().any(|a| better(a, b))).collect();
    front.sort_by(|a, b| a.1.total_cmp(&b.1));
    let place =
        |&(_, cost, value): &(&Candidate, f64, f64)| (x.coordinate(cost), y.coordinate(value));
    let mut layers = vec![Layer::Reference {
        points: front.into_iter().map(place).collect(),
        label: String::new(),
    }];
    for point in &points {
        let Some(look) = palette.look(&point.0.series) else { continue };
        layers.push(Layer::Single { at: place(point), look });
    }
    Some(Panel { title: format!("{}, length {}", cell.task, cell.length), x, y, layers })
}
