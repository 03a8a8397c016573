//! What the recurrent state's Jacobian does to directions: singular values and Lyapunov exponents.

use unroll_results::Summary;
use unroll_results::statistics::Spread;
use unroll_results::summary::DynamicsGroup;

use super::{Palette, Plot, ascending, decimal, file_part};
use crate::draw::{Axis, Figure, Layer, Panel};

/// One plot for each length: a row of two panels for each moment of training.
pub(super) fn plots(summary: &Summary, palette: &Palette, task: &str) -> Vec<Plot> {
    let of_task = || summary.dynamics.iter().filter(|group| group.task == task);
    let plot = |length: usize| {
        let groups: Vec<&DynamicsGroup> =
            of_task().filter(|group| group.length == length).collect();
        Plot {
            name: format!("dynamics-{}-{length}", file_part(task)),
            figure: figure(palette, &groups, task, length),
        }
    };
    ascending(of_task().map(|group| group.length)).into_iter().map(plot).collect()
}

fn figure(palette: &Palette, groups: &[&DynamicsGroup], task: &str, length: usize) -> Figure {
    let moments = ascending(groups.iter().map(|group| group.moment));
    let spreads = || groups.iter().flat_map(|group| group.points.iter().map(|point| point.largest));
    let ends = |spread: Spread| [spread.min, spread.max];
    let distances =
        groups.iter().flat_map(|group| group.points.iter().map(|point| point.distance as f64));
    let distance = Axis::from_zero("distance k (steps)", distances);
    let largest =
        Axis::powers("largest singular value", spreads().flatten().flat_map(ends).map(decimal));
    let place = Axis::from_zero("share of the state's directions", [1.0]);
    let exponents =
        groups.iter().flat_map(|group| &group.exponents).flat_map(|spread| ends(*spread));
    let exponent = Axis::linear("exponent (nats per step)", exponents.chain([0.0]));
    let mut panels = Vec::new();
    for moment in moments {
        let of_moment = || groups.iter().filter(move |group| group.moment == moment);
        let (mut values, mut spectra) = (Vec::new(), Vec::new());
        for group in of_moment() {
            let Some(look) = palette.look(&group.series) else { continue };
            let known =
                || group.points.iter().filter_map(|p| Some((p.distance as f64, p.largest?)));
            values.push(Layer::Band {
                points: known().map(|(x, l)| (x, decimal(l.min), decimal(l.max))).collect(),
                look,
            });
            values.push(Layer::Line {
                points: known().map(|(x, l)| (x, decimal(l.mean))).collect(),
                look,
            });
            let size = group.state_size.max(1) as f64;
            let spectrum = || {
                let places = group.exponents.iter().enumerate();
                places.map(|(number, spread)| ((number as f64 + 0.5) / size, spread))
            };
            spectra.push(Layer::Band {
                points: spectrum().map(|(x, spread)| (x, spread.min, spread.max)).collect(),
                look,
            });
            spectra.push(Layer::Line {
                points: spectrum().map(|(x, spread)| (x, spread.mean)).collect(),
                look,
            });
        }
        spectra.push(Layer::Level {
            at: 0.0,
            label: "neither grows nor fades".into(),
            dotted: true,
        });
        let panel = |what: &str, x: &Axis, y: &Axis, layers| Panel {
            title: format!("{what}, {}", moment.name()),
            x: x.clone(),
            y: y.clone(),
            layers,
        };
        panels.push(panel("Jacobian ∂s_T/∂s_(T−k)", &distance, &largest, values));
        panels.push(panel("Lyapunov spectrum", &place, &exponent, spectra));
    }
    let mut note = "Mean over seeds and sequences; band: smallest to largest.".to_owned();
    if groups.iter().any(|group| group.lost > 0) {
        note.push_str(" A spectrum ends where directions vanish within a step.");
    }
    if groups.iter().any(|group| group.probes.is_some()) {
        note.push_str(" States too large for the exact method have their largest exponents alone.");
    }
    Figure {
        title: format!("{task}, length {length}: Jacobian and Lyapunov exponents of the state"),
        columns: 2,
        panels,
        legend: palette.legend(groups.iter().map(|group| group.series.as_str())),
        scale: None,
        note,
    }
}
