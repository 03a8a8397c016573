//! Tokens per second and peak memory against length.

use unroll_results::Summary;
use unroll_results::record::Phase;
use unroll_results::summary::ThroughputGroup;

use super::{Palette, Plot, ascending, file_part, seeds};
use crate::draw::{Axis, Figure, Layer, Panel};

/// A task's speed, one panel for each phase, and its memory in training and inference.
pub(super) fn plot(summary: &Summary, palette: &Palette, task: &str) -> Option<Plot> {
    let groups: Vec<&ThroughputGroup> =
        summary.throughput.iter().filter(|group| group.task == task).collect();
    let phases = ascending(groups.iter().map(|group| group.phase));
    let lengths = ascending(groups.iter().map(|group| group.length));
    let x = Axis::lengths("length (steps)", &lengths, true);
    let mut panels = Vec::new();
    for &phase in &phases {
        let speed = |group: &ThroughputGroup| {
            let spread = group.tokens_per_s;
            [spread.min, spread.median, spread.max]
        };
        panels.extend(panel(palette, &groups, phase, &x, "tokens/s", "", speed));
    }
    for phase in [Phase::Forward, Phase::TrainStep] {
        let memory = |group: &ThroughputGroup| [group.peak_bytes.unwrap_or(0) as f64; 3];
        panels.extend(panel(
            palette,
            &groups,
            phase,
            &x,
            "peak memory (bytes)",
            "memory, ",
            memory,
        ));
    }
    if panels.is_empty() {
        return None;
    }
    let n = seeds(groups.iter().map(|group| group.n));
    let batches = ascending(groups.iter().map(|group| group.batch_size));
    let batches: Vec<String> = batches.iter().map(ToString::to_string).collect();
    Some(Plot {
        name: format!("throughput-{}", file_part(task)),
        figure: Figure {
            title: format!("{task}: tokens per second and peak memory against length"),
            columns: Figure::columns_for(panels.len()),
            panels,
            legend: palette.legend(groups.iter().map(|group| group.series.as_str())),
            scale: None,
            note: match n.as_str() {
                "1 seed" => format!("One seed. Batch size {}.", batches.join(", ")),
                n => format!(
                    "Line: median of {n}; band: smallest to largest. Batch size {}.",
                    batches.join(", ")
                ),
            },
        },
    })
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Backward => "backward",
        Phase::TrainStep => "training step",
        Phase::Decode => "decoding, one token at a time",
    }
}

/// Values [smallest, median, largest] of a phase against length; `None` without a positive one.
fn panel(
    palette: &Palette,
    groups: &[&ThroughputGroup],
    phase: Phase,
    x: &Axis,
    label: &str,
    prefix: &str,
    values: impl Fn(&ThroughputGroup) -> [f64; 3],
) -> Option<Panel> {
    // Only positive numbers have a place on a logarithmic axis.
    let usable: Vec<(&ThroughputGroup, [f64; 3])> = groups
        .iter()
        .filter(|group| group.phase == phase)
        .map(|group| (*group, values(group)))
        .filter(|(_, values)| values.iter().all(|value| *value > 0.0))
        .collect();
    if usable.is_empty() {
        return None;
    }
    let y = Axis::prefixes(label, usable.iter().flat_map(|(_, v)| v.map(f64::log10)));
    let mut layers = Vec::new();
    for (series, look) in palette.legend(usable.iter().map(|(group, _)| group.series.as_str())) {
        let of_series = || usable.iter().filter(|(group, _)| group.series == series);
        let at = |group: &ThroughputGroup| x.coordinate(group.length as f64);
        let band = of_series().map(|(g, v)| (at(g), y.coordinate(v[0]), y.coordinate(v[2])));
        let medians = of_series().map(|(g, v)| (at(g), y.coordinate(v[1])));
        layers.push(Layer::Band { points: band.collect(), look });
        layers.push(Layer::Line { points: medians.collect(), look });
    }
    Some(Panel { title: format!("{prefix}{}", phase_name(phase)), x: x.clone(), y, layers })
}
