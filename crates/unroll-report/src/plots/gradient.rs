//! Gradient norm against the distance from the loss.

use unroll_results::Summary;
use unroll_results::record::{GradientOf, TheoryKind, falls_through_f64};
use unroll_results::summary::{GradientGroup, Moment};

use super::{Palette, Plot, ascending, decimal, file_part, seeds};
use crate::draw::{Axis, Figure, Layer, Panel};

/// Decimal logarithms of the smallest normal and the smallest f32 above 0.
const F32_LIMITS: [(f64, &str); 2] = [
    (-37.929_779_453_661_63, "f32 floor, 1.2e−38"),
    (-44.853_469_353_933_2, "smallest f32 denormal, 1.4e−45"),
];
/// Where the two are too close for a label each.
const BOTH_LIMITS: &str = "f32 floor, 1.2e−38; smallest denormal, 1.4e−45";

/// Share of an axis that a label takes.
const ROOM_FOR_LABEL: f64 = 0.07;

/// One plot for each length: a row of panels for each derivative and layer, a column for each
/// training step at which gradients were measured.
pub(super) fn plots(summary: &Summary, palette: &Palette, task: &str) -> Vec<Plot> {
    let of_task = || summary.gradients.iter().filter(|group| group.task == task);
    let lengths = ascending(of_task().map(|group| group.length));
    let plot = |length: usize| {
        let groups: Vec<&GradientGroup> =
            of_task().filter(|group| group.length == length).collect();
        let figure = figure(summary, palette, &groups, task, length);
        Plot { name: format!("gradient-{}-{length}", file_part(task)), figure }
    };
    lengths.into_iter().map(plot).collect()
}

fn figure(
    summary: &Summary,
    palette: &Palette,
    groups: &[&GradientGroup],
    task: &str,
    length: usize,
) -> Figure {
    let moments = shown(&ascending(groups.iter().map(|group| group.moment)));
    let groups: Vec<&GradientGroup> =
        groups.iter().copied().filter(|group| moments.contains(&group.moment)).collect();
    let groups = &groups[..];
    let families = families(summary, groups);
    let states = ascending(groups.iter().map(|group| (place(group.of), group.of, group.layer)));
    let layered = |of| states.iter().filter(|state| state.1 == of).count() > 1;
    let distances = groups.iter().flat_map(|g| g.band.iter().map(|band| band.distance as f64));
    let x = Axis::from_zero("distance from the loss (steps)", distances);
    // Columns are moments; where there is one alone, families.
    let side_by_side = moments.len() == 1;
    let mut panels = Vec::new();
    for &(_, of, layer) in &states {
        for family in &families {
            let of_row: Vec<&GradientGroup> = groups
                .iter()
                .copied()
                .filter(|group| (group.of, group.layer) == (of, layer))
                .filter(|group| family.holds(&group.series))
                .collect();
            if of_row.is_empty() {
                panels.extend(side_by_side.then(Panel::blank));
                continue;
            }
            // One scale for a row: before and after training are to be compared.
            let mut y = axis(&of_row, of);
            for panel_groups in &of_row {
                y.join(&axis(&[panel_groups], of));
            }
            for &moment in &moments {
                let groups: Vec<_> =
                    of_row.iter().copied().filter(|group| group.moment == moment).collect();
                let mut title = match family.name.as_str() {
                    "" => name(of).to_owned(),
                    family => family.to_owned(),
                };
                if layered(of) {
                    title.push_str(&format!(", layer {layer}"));
                }
                if !side_by_side {
                    title.push_str(&format!(", {}", moment.name()));
                }
                let layers = layers(palette, &groups, &y);
                panels.push(Panel { title, x: x.clone(), y: y.clone(), layers });
            }
        }
    }
    let n = seeds(groups.iter().flat_map(|g| g.band.iter().map(|band| band.n + band.zeros)));
    let mut note = match n.as_str() {
        "1 seed" => "One seed.".to_owned(),
        n => format!("Line: mean of the logarithm over {n}; band: smallest to largest."),
    };
    if let [moment] = moments[..] {
        note = format!("Measured {}. {note}", moment.name());
    }
    if families.len() > 1 {
        note.push_str(" Each panel has its own scale.");
    }
    let floor = |panel: &Panel| F32_LIMITS.iter().any(|(limit, _)| panel.y.contains(*limit));
    if panels.iter().any(floor) {
        note.push_str(
            " Dotted: limits of float32, which has fewer digits in the shade between them and 0 below.",
        );
    }
    let ends = |lost| groups.iter().any(|group| zeros(group).any(|fallen| fallen == lost));
    if ends(false) {
        note.push_str(" Where a norm is exactly 0 there is no logarithm: the line ends.");
    }
    if ends(true) {
        note.push_str(
            " A line that ends near 1e−308 goes on below: that is as far as one backward pass in float64 \
             can follow it.",
        );
    }
    let columns = if side_by_side { families.len() } else { moments.len() };
    Figure {
        title: format!("{task}, length {length}: gradient norm against distance from the loss"),
        columns: if side_by_side { columns } else { Figure::columns_for(columns) },
        panels,
        legend: palette.legend(groups.iter().map(|group| group.series.as_str())),
        scale: None,
        note,
    }
}

/// Whether a norm of 0 is one that f64 has lost, at each distance where there is one.
fn zeros(group: &GradientGroup) -> impl Iterator<Item = bool> {
    let mut last = 0.0;
    group.band.iter().filter_map(move |band| {
        if band.zeros == 0 {
            last = band.min_ln.unwrap_or(last);
            return None;
        }
        Some(falls_through_f64(last))
    })
}

/// What all architectures have comes first.
fn place(of: GradientOf) -> usize {
    match of {
        GradientOf::Input => 0,
        GradientOf::Hidden => 1,
        GradientOf::Cell => 2,
    }
}

/// Series that share panels.
struct Family {
    name: String,
    series: Vec<String>,
}

impl Family {
    fn holds(&self, series: &str) -> bool {
        self.series.iter().any(|name| name == series)
    }
}

/// The families of the series; a few series share all panels.
fn families(summary: &Summary, groups: &[&GradientGroup]) -> Vec<Family> {
    /// Lines that a panel can show apart.
    const FEW: usize = 6;
    let mut families: Vec<Family> = Vec::new();
    let shown = |name: &str| groups.iter().any(|group| group.series == name);
    for info in summary.series.iter().filter(|info| shown(&info.name)) {
        match families.iter_mut().find(|family| family.name == info.family) {
            Some(family) => family.series.push(info.name.clone()),
            None => {
                let series = vec![info.name.clone()];
                families.push(Family { name: info.family.clone(), series });
            }
        }
    }
    let all: Vec<String> = families.iter().flat_map(|family| family.series.clone()).collect();
    if all.len() <= FEW { vec![Family { name: String::new(), series: all }] } else { families }
}

/// The moments of training that have a column: not more than three, the others are in the heat map.
fn shown(moments: &[Moment]) -> Vec<Moment> {
    match moments {
        [first, .., last] if moments.len() > 3 => vec![*first, moments[moments.len() / 2], *last],
        _ => moments.to_vec(),
    }
}

/// A closed form through the first point of the group's curve.
fn theory(group: &GradientGroup, y: &Axis) -> Option<Layer> {
    let theory = group.theory.as_ref()?;
    let (first, last) = (group.band.first()?, group.band.last()?);
    let start = first.mean_ln?;
    // As many points as the label has places to choose from, on the way to where the line leaves the
    // panel.
    let lowest = (y.at_place(0.0) / std::f64::consts::LOG10_E - start) / theory.ln_rate;
    let end = if lowest.is_finite() && lowest > 0.0 {
        (first.distance as f64 + lowest).min(last.distance as f64)
    } else {
        last.distance as f64
    };
    let begin = first.distance as f64;
    let at = |share: f64| {
        let x = begin + share * (end - begin);
        (x, decimal(start + theory.ln_rate * (x - begin)))
    };
    let points = (0..=12).map(|part| at(f64::from(part) / 12.0)).collect();
    let label = match theory.kind {
        TheoryKind::Exact => theory.formula.clone(),
        TheoryKind::UpperBound => format!("at most {}", theory.formula),
        TheoryKind::GateAtBias => format!("{} with zero weights", theory.formula),
    };
    Some(Layer::Reference { points, label })
}

fn name(of: GradientOf) -> &'static str {
    match of {
        GradientOf::Hidden => "hidden state",
        GradientOf::Cell => "cell state",
        GradientOf::Input => "input",
    }
}

fn symbol(of: GradientOf) -> &'static str {
    match of {
        GradientOf::Hidden => "norm of ∂L/∂h",
        GradientOf::Cell => "norm of ∂L/∂c",
        GradientOf::Input => "norm of ∂L/∂x",
    }
}

fn axis(groups: &[&GradientGroup], of: GradientOf) -> Axis {
    let bands = groups.iter().flat_map(|group| &group.band);
    let ends = bands.flat_map(|band| [band.min_ln, band.max_ln]).flatten();
    Axis::powers(symbol(of), ends.map(decimal))
}

/// Both limits of f32, as far as they are on the axis, and the denormal numbers between them.
fn f32_limits(y: &Axis) -> Vec<Layer> {
    let [(floor, _), (denormal, _)] = F32_LIMITS;
    let mut layers = Vec::new();
    if y.contains(floor) || y.contains(denormal) {
        let (from, to) = ((f64::NEG_INFINITY, denormal), (f64::INFINITY, floor));
        layers.push(Layer::Shade { from, to });
    }
    // On an axis of a hundred decades or more there is no room for a label between them.
    let close = y.contains(floor)
        && y.contains(denormal)
        && y.place(floor) - y.place(denormal) < ROOM_FOR_LABEL;
    for (limit, label) in F32_LIMITS {
        if y.contains(limit) {
            let label = match close {
                true if limit == floor => BOTH_LIMITS,
                true => "",
                false => label,
            };
            layers.push(Layer::Level { at: limit, label: label.to_owned(), dotted: true });
        }
    }
    layers
}

fn layers(palette: &Palette, groups: &[&GradientGroup], y: &Axis) -> Vec<Layer> {
    let mut layers = f32_limits(y);
    let mut formulas = Vec::new();
    for group in groups {
        // Series that differ in something else may share a formula.
        let formula = group.theory.as_ref().map(|theory| theory.formula.clone());
        if formula.is_some() && !formulas.contains(&formula) {
            layers.extend(theory(group, y));
            formulas.push(formula);
        }
        let Some(look) = palette.look(&group.series) else { continue };
        // A distance at which a seed's norm is 0 has no mean logarithm over all seeds.
        for piece in group.band.split(|band| band.zeros > 0 || band.mean_ln.is_none()) {
            let band: Vec<_> = piece
                .iter()
                .filter_map(|band| {
                    let x = band.distance as f64;
                    Some((x, decimal(band.min_ln?), decimal(band.max_ln?)))
                })
                .collect();
            let means: Vec<_> = piece
                .iter()
                .filter_map(|band| Some((band.distance as f64, decimal(band.mean_ln?))))
                .collect();
            if means.is_empty() {
                continue;
            }
            layers.push(Layer::Band { points: band, look });
            layers.push(Layer::Line { points: means, look });
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_those_of_f32() {
        let denormal = f32::from_bits(1);
        for ((limit, _), number) in F32_LIMITS.iter().zip([f32::MIN_POSITIVE, denormal]) {
            assert!((limit - f64::from(number).log10()).abs() < 1e-9, "{limit}");
        }
    }

    #[test]
    fn both_limits_are_drawn_on_every_axis_that_reaches_them() {
        for (lowest, expected) in [
            (-20.0, &[][..]),
            (-41.0, &[F32_LIMITS[0].1]),
            (-60.0, &[F32_LIMITS[0].1, F32_LIMITS[1].1]),
            (-150.0, &[BOTH_LIMITS, ""]),
            (-3000.0, &[BOTH_LIMITS, ""]),
        ] {
            let layers = f32_limits(&Axis::powers("", [0.0, lowest]));
            let labels: Vec<&str> = layers
                .iter()
                .filter_map(|layer| match layer {
                    Layer::Level { label, .. } => Some(label.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(labels, expected, "{lowest}");
            let shades = layers.iter().filter(|layer| matches!(layer, Layer::Shade { .. })).count();
            assert_eq!(shades, usize::from(!labels.is_empty()), "{lowest}");
        }
    }
}
