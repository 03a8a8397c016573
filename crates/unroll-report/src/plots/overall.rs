//! All tasks together: performance profiles, average ranks.

use unroll_results::decision::{Decisions, Overall};

use super::{Palette, Plot};
use crate::draw::{Axis, Figure, Layer, Panel};

/// Cells from which on ranks are drawn: with fewer they say nothing that a table does not.
const CELLS_FOR_RANKS: usize = 3;

/// The plots over all tasks and lengths.
pub(super) fn plots(decisions: &Decisions, palette: &Palette) -> Vec<Plot> {
    let Some(overall) = &decisions.overall else { return Vec::new() };
    ranks(overall, palette).into_iter().chain(profiles(overall, palette)).collect()
}

fn profiles(overall: &Overall, palette: &Palette) -> Option<Plot> {
    if overall.series.iter().all(|series| series.profile.is_empty()) {
        return None;
    }
    let x = Axis::between("skill τ (0: best trivial baseline, 1: perfect)", 0.0, 1.0);
    let y = Axis::between("share of runs with skill > τ", 0.0, 1.03);
    let mut layers = Vec::new();
    for series in &overall.series {
        let Some(look) = palette.look(&series.name) else { continue };
        let band = series.profile.iter().zip(&series.band);
        let band = stairs(band.map(|((tau, _), (low, high))| (*tau, (*low, *high))));
        let band: Vec<_> = band.into_iter().map(|(tau, (low, high))| (tau, low, high)).collect();
        if !band.is_empty() {
            layers.push(Layer::Band { points: band, look });
        }
        let points = stairs(series.profile.iter().copied());
        layers.push(Layer::Line { points, look });
    }
    let names = overall.series.iter().map(|series| series.name.as_str());
    let banded = overall.series.iter().any(|series| !series.band.is_empty());
    let note = if banded {
        "Higher is better. Band: pointwise 95 % intervals of the stratified bootstrap."
    } else {
        "Higher is better. Too few seeds for intervals."
    };
    Some(Plot {
        name: "profile".into(),
        figure: Figure {
            title: format!("Performance profiles over {} tasks and lengths", overall.skill_cells),
            columns: 1,
            panels: vec![Panel { title: String::new(), x, y, layers }],
            legend: palette.legend(names),
            scale: None,
            note: note.into(),
        },
    })
}

/// A share of runs falls at a run's skill at once: between two places it is what it was at the first.
fn stairs<T: Copy>(points: impl Iterator<Item = (f64, T)>) -> Vec<(f64, T)> {
    let mut found: Vec<(f64, T)> = Vec::new();
    for (x, y) in points {
        found.extend(found.last().map(|&(_, before)| (x, before)));
        found.push((x, y));
    }
    found
}

/// A critical-difference diagram with a row for each series: long names fit, and so do many.
fn ranks(overall: &Overall, palette: &Palette) -> Option<Plot> {
    let ranking = overall.ranking.as_ref().filter(|r| r.tasks >= CELLS_FOR_RANKS)?;
    let order = overall.order();
    let names: Vec<&str> = order.iter().map(|&place| overall.series[place].name.as_str()).collect();
    let bars = ranking.cliques.len();
    let last = order.len() as f64;
    // Bars stand beside the best and worst ranks that there can be.
    let step = 0.045 * (last - 1.0).max(1.0);
    let end = last + step * (bars as f64 + 1.0);
    let x = Axis::between("average rank (1 is best)", 0.8, end);
    let y = Axis::names(&names);
    let mut layers = Vec::new();
    for (number, clique) in ranking.cliques.iter().enumerate() {
        let rows = || clique.iter().filter_map(|s| order.iter().position(|place| place == s));
        let (Some(top), Some(bottom)) = (rows().min(), rows().max()) else { continue };
        let at = last + step * (number as f64 + 1.0);
        layers.push(Layer::Joint { at, from: top as f64, to: bottom as f64 });
    }
    for (row, &place) in order.iter().enumerate() {
        let Some(look) = palette.look(&overall.series[place].name) else { continue };
        layers.push(Layer::Single { at: (ranking.average[place], row as f64), look });
    }
    let friedman = ranking.friedman.map_or_else(String::new, |p| {
        format!(" Friedman's test that all are alike: p = {}.", crate::rows::significant(p))
    });
    let joined = if bars > 0 {
        "Upright bars join series that no pairwise Wilcoxon test (Holm-adjusted, 5 %) tells apart."
    } else {
        "Wilcoxon tests (Holm-adjusted, 5 %) tell every pair apart."
    };
    Some(Plot {
        name: "ranks".into(),
        figure: Figure {
            title: format!("Average ranks over {} tasks and lengths", ranking.tasks),
            columns: 1,
            panels: vec![Panel { title: String::new(), x, y, layers }],
            legend: Vec::new(),
            scale: None,
            note: format!("{joined}{friedman}"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::stairs;

    #[test]
    fn stairs_are_level_and_upright() {
        let points = [(0.0, 3), (0.5, 2), (1.0, 2)];
        assert_eq!(stairs(points.into_iter()), [(0.0, 3), (0.5, 3), (0.5, 2), (1.0, 2), (1.0, 2)]);
        assert!(stairs(std::iter::empty::<(f64, i32)>()).is_empty());
    }
}
