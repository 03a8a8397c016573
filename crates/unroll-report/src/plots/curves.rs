//! Learning curves: validation metric against training steps.

use unroll_results::Summary;
use unroll_results::record::Better;
use unroll_results::summary::CurveGroup;

use super::{Palette, Plot, ascending, file_part, seeds, wide};
use crate::draw::{Axis, Figure, Layer, Panel};

/// The curves of a task, one panel for each length; axes are shared.
pub(super) fn plot(summary: &Summary, palette: &Palette, task: &str) -> Option<Plot> {
    let groups: Vec<&CurveGroup> =
        summary.curves.iter().filter(|group| group.task == task).collect();
    let described = groups.iter().find(|group| !group.metric.is_empty()).or(groups.first())?;
    let metric = match described.metric.as_str() {
        "" => "validation metric".to_owned(),
        name => format!("validation {name}"),
    };
    let (x, y) = axes(&groups, &metric, described.better);
    let lengths = ascending(groups.iter().map(|group| group.length));
    let panels: Vec<Panel> = lengths
        .iter()
        .map(|&length| {
            let groups: Vec<_> =
                groups.iter().copied().filter(|group| group.length == length).collect();
            let title = format!("{task}, length {length}");
            Panel { title, x: x.clone(), y: y.clone(), layers: layers(palette, &groups, &x, &y) }
        })
        .collect();
    Some(Plot {
        name: format!("curves-{}", file_part(task)),
        figure: Figure {
            title: format!("{task}: {metric} against training steps"),
            columns: Figure::columns_for(panels.len()),
            panels,
            legend: palette.legend(groups.iter().map(|group| group.series.as_str())),
            scale: None,
            note: note(&groups),
        },
    })
}

fn note(groups: &[&CurveGroup]) -> String {
    let n = ascending(groups.iter().map(|group| group.seeds.len()));
    let mut note = if n.last().is_some_and(|n| *n > 1) {
        let lines = "band: smallest to largest; thin lines: seeds";
        format!(
            "Line: median of {}; {lines}. A seed that stopped early counts with its last value.",
            seeds(n)
        )
    } else {
        "One seed.".to_owned()
    };
    if groups.iter().any(|group| group.seeds.iter().any(|seed| seed.diverged)) {
        note.push_str(" Cross: the trial diverged.");
    }
    note
}

fn axes(groups: &[&CurveGroup], metric: &str, better: Better) -> (Axis, Axis) {
    let steps = groups.iter().flat_map(|group| group.band.iter().map(|band| band.step as f64));
    let data = groups
        .iter()
        .flat_map(|group| group.band.iter().flat_map(|band| [band.spread.min, band.spread.max]));
    let levels = groups.iter().flat_map(|group| {
        let baseline = group.best_baseline.as_ref().map(|baseline| baseline.value);
        baseline.into_iter().chain(group.solved_at)
    });
    let values: Vec<f64> = data.chain(levels).collect();
    let y = if better == Better::Lower && wide(&values) {
        Axis::powers(metric, values.iter().map(|value| value.log10()))
    } else {
        Axis::linear(metric, values.iter().copied())
    };
    (Axis::from_zero("training steps", steps), y)
}

fn layers(palette: &Palette, groups: &[&CurveGroup], x: &Axis, y: &Axis) -> Vec<Layer> {
    let at = |step: u64, value: f64| (x.coordinate(step as f64), y.coordinate(value));
    let mut layers = Vec::new();
    if let Some(value) = groups.iter().find_map(|group| group.solved_at) {
        let label = "solved".to_owned();
        layers.push(Layer::Level { at: y.coordinate(value), label, dotted: true });
    }
    if let Some(baseline) = groups.iter().find_map(|group| group.best_baseline.as_ref()) {
        // The curves are of the validation split, which need not be as hard.
        let label = format!("{} (test split)", baseline.name);
        let at = y.coordinate(baseline.value);
        layers.push(Layer::Level { at, label, dotted: false });
    }
    for group in groups {
        let Some(look) = palette.look(&group.series) else { continue };
        for seed in &group.seeds {
            // A value that is no number ends a piece of the line.
            for piece in seed.points.split(|point| !point.1.is_finite()) {
                if piece.len() > 1 && group.seeds.len() > 1 {
                    let points = piece.iter().map(|&(step, value)| at(step, value)).collect();
                    layers.push(Layer::Seed { points, look });
                }
            }
        }
        for seed in group.seeds.iter().filter(|seed| seed.diverged) {
            let last = seed.points.iter().rev().find(|point| point.1.is_finite());
            layers.extend(last.map(|&(step, value)| Layer::Diverged { at: at(step, value), look }));
        }
        if group.band.is_empty() {
            continue;
        }
        let band = group.band.iter().map(|band| {
            let (x, low) = at(band.step, band.spread.min);
            (x, low, at(band.step, band.spread.max).1)
        });
        let medians = group.band.iter().map(|band| at(band.step, band.spread.median));
        layers.push(Layer::Band { points: band.collect(), look });
        layers.push(Layer::Line { points: medians.collect(), look });
    }
    layers
}
