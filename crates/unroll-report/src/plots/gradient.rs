//! Gradient norm against the distance from the loss.

use unroll_results::Summary;
use unroll_results::record::{GradientOf, TheoryKind};
use unroll_results::summary::{GradientGroup, Moment};

use super::{Palette, Plot, ascending, decimal, file_part, seeds};
use crate::draw::{Axis, Figure, Layer, Panel};

/// Decimal logarithms of the smallest normal and the smallest f32 above 0.
const F32_LIMITS: [(f64, &str); 2] = [
    (-37.929_779_453_661_63, "f32 floor, 1.2e−38"),
    (-44.853_469_353_933_2, "smallest f32 denormal, 1.4e−45"),
];

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
    let zeros = groups.iter().any(|group| group.band.iter().any(|band| band.zeros > 0));
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
    let floor = |panel: &Panel| panel.y.contains(F32_LIMITS[0].0);
    if panels.iter().any(floor) {
        note.push_str(" Below the f32 floor, float32 has fewer digits and then none.");
    }
    if zeros {
        note.push_str(" Where a norm is exactly 0 there is no logarithm: the line ends.");
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

fn layers(palette: &Palette, groups: &[&GradientGroup], y: &Axis) -> Vec<Layer> {
    let mut layers = Vec::new();
    // On an axis of hundreds of decades the two limits are one line.
    let apart = y.place(F32_LIMITS[0].0) - y.place(F32_LIMITS[1].0) > 0.07;
    for (limit, label) in F32_LIMITS.into_iter().take(if apart { 2 } else { 1 }) {
        if y.contains(limit) {
            let label = label.to_owned();
            layers.push(Layer::Level { at: limit, label, dotted: true });
        }
    }
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
}
