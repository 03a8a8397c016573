//! The metric after training: against length, by series, at other lengths.

use unroll_results::Summary;
use unroll_results::record::{BaselineValue, Better};
use unroll_results::statistics::Spread;
use unroll_results::summary::{LengthGroup, QualityGroup, SeedValue};

use super::{Palette, Plot, ascending, file_part, seeds, wide};
use crate::draw::{Axis, Figure, Layer, Panel};

/// One series at one length.
struct Cell<'a> {
    series: &'a str,
    length: usize,
    values: &'a [SeedValue],
    spread: Option<Spread>,
    /// Trials without a number.
    lost: usize,
}

/// A task's metric against its lengths, or by series when there is one length.
pub(super) fn plot(summary: &Summary, palette: &Palette, task: &str) -> Option<Plot> {
    let groups: Vec<&QualityGroup> =
        summary.quality.iter().filter(|group| group.task == task && group.n > 0).collect();
    let described = *groups.iter().find(|group| !group.metric.is_empty())?;
    let cells: Vec<Cell<'_>> = groups
        .iter()
        .map(|group| Cell {
            series: &group.series,
            length: group.length,
            values: &group.values,
            spread: group.test,
            lost: group.n.saturating_sub(group.test.map_or(0, |spread| spread.n)),
        })
        .collect();
    let lengths = ascending(cells.iter().map(|cell| cell.length));
    let levels = Levels {
        baselines: groups
            .iter()
            .filter_map(|group| Some((group.length, group.strongest_baseline()?)))
            .collect(),
        solved_at: described.solved_at,
    };
    let (metric, better) = (described.metric.as_str(), described.better);
    let (panel, legend) = if let [length] = lengths[..] {
        (by_series(palette, &cells, &levels, metric, better, task, length), Vec::new())
    } else {
        let panel = against_length(palette, &cells, &levels, metric, better, &lengths, false);
        (panel, palette.legend(cells.iter().map(|cell| cell.series)))
    };
    let title = format!("{task}: {metric} on the test split");
    Some(Plot {
        name: format!("metric-{}", file_part(task)),
        figure: Figure {
            title,
            columns: 1,
            panels: vec![panel],
            note: note(lengths.len() == 1, &cells),
            legend,
            scale: None,
        },
    })
}

fn note(rows: bool, cells: &[Cell<'_>]) -> String {
    let n = ascending(cells.iter().filter_map(|cell| cell.spread).map(|spread| spread.n));
    let line = if rows { "Stroke" } else { "Line" };
    let band = if rows { "bar" } else { "band" };
    let mut note = match n.last() {
        None => "No trial ended with a number".to_owned(),
        Some(1) => "One seed".to_owned(),
        Some(_) => {
            format!("{line}: median of {}; {band}: smallest to largest; dots: seeds", seeds(n))
        }
    };
    if cells.iter().any(|cell| cell.lost > 0) {
        note.push_str("; cross at the edge: trials without a number (diverged)");
    }
    note + "."
}

/// The metric at other lengths, one plot for each trained length.
pub(super) fn other_lengths(summary: &Summary, palette: &Palette, task: &str) -> Vec<Plot> {
    let of_task = || summary.lengths.iter().filter(|group| group.task == task);
    let trained = ascending(of_task().map(|group| group.trained_length));
    let plot = |trained: usize| {
        let groups: Vec<&LengthGroup> =
            of_task().filter(|group| group.trained_length == trained).collect();
        let described = *groups.iter().find(|group| !group.metric.is_empty())?;
        let mut cells: Vec<Cell<'_>> = groups
            .iter()
            .map(|group| Cell {
                series: &group.series,
                length: group.length,
                values: &group.values,
                spread: group.spread,
                lost: group.values.iter().filter(|value| !value.value.is_finite()).count(),
            })
            .collect();
        // The trained length itself is where the curve starts, unless it was evaluated anew.
        let quality = summary.quality.iter().filter(|group| {
            group.task == task
                && group.length == trained
                && !cells.iter().any(|cell| cell.series == group.series && cell.length == trained)
        });
        let at_trained: Vec<Cell<'_>> = quality
            .filter(|group| groups.iter().any(|other| other.series == group.series))
            .map(|group| Cell {
                series: &group.series,
                length: trained,
                values: &group.values,
                spread: group.test,
                lost: 0,
            })
            .collect();
        cells.extend(at_trained);
        cells.sort_by_key(|cell| cell.length);
        let lengths = ascending(cells.iter().map(|cell| cell.length));
        let (metric, better) = (described.metric.as_str(), described.better);
        let levels = Levels { baselines: Vec::new(), solved_at: None };
        let mut panel = against_length(palette, &cells, &levels, metric, better, &lengths, false);
        panel.x.label = "evaluated length (steps)".into();
        let label = format!("trained at {trained}");
        panel.layers.push(Layer::Upright { at: panel.x.coordinate(trained as f64), label });
        Some(Plot {
            name: format!("lengths-{}-{trained}", file_part(task)),
            figure: Figure {
                title: format!("{task}: {metric} at other lengths after training at {trained}"),
                columns: 1,
                panels: vec![panel],
                legend: palette.legend(cells.iter().map(|cell| cell.series)),
                scale: None,
                note: note(false, &cells),
            },
        })
    };
    trained.into_iter().filter_map(plot).collect()
}

/// What a metric is held against.
struct Levels<'a> {
    /// By length.
    baselines: Vec<(usize, &'a BaselineValue)>,
    solved_at: Option<f64>,
}

impl Levels<'_> {
    /// The only value of the best baseline, or one per length.
    fn constant(&self) -> Option<&BaselineValue> {
        let (_, first) = self.baselines.first()?;
        self.baselines.iter().all(|(_, other)| other == first).then_some(first)
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.baselines.iter().map(|(_, baseline)| baseline.value).chain(self.solved_at)
    }
}

/// All values that an axis must hold.
fn values(cells: &[Cell<'_>], levels: &Levels<'_>) -> Vec<f64> {
    let data = cells.iter().flat_map(|cell| cell.values.iter().map(|value| value.value));
    data.chain(levels.values()).collect()
}

fn metric_axis(metric: &str, better: Better, values: &[f64]) -> Axis {
    if better == Better::Lower && wide(values) {
        Axis::powers(metric, values.iter().map(|value| value.log10()))
    } else {
        Axis::linear(metric, values.iter().copied())
    }
}

/// Where trials without a number are marked: the bad end of the axis.
fn bad_end(better: Better) -> f64 {
    match better {
        Better::Lower => 1.0,
        Better::Higher => 0.0,
    }
}

fn against_length(
    palette: &Palette,
    cells: &[Cell<'_>],
    levels: &Levels<'_>,
    metric: &str,
    better: Better,
    lengths: &[usize],
    logarithmic: bool,
) -> Panel {
    let x = Axis::lengths("length (steps)", lengths, logarithmic);
    let y = metric_axis(metric, better, &values(cells, levels));
    let at = |length: usize, value: f64| (x.coordinate(length as f64), y.coordinate(value));
    let mut layers = Vec::new();
    if let Some(value) = levels.solved_at {
        let label = "solved".to_owned();
        layers.push(Layer::Level { at: y.coordinate(value), label, dotted: true });
    }
    if let Some(baseline) = levels.constant() {
        let label = baseline.name.clone();
        layers.push(Layer::Level { at: y.coordinate(baseline.value), label, dotted: false });
    } else {
        layers.extend(baseline_steps(levels, &at));
    }
    for (series, look) in palette.legend(cells.iter().map(|cell| cell.series)) {
        let cells: Vec<&Cell<'_>> = cells.iter().filter(|cell| cell.series == series).collect();
        let spreads = || cells.iter().filter_map(|cell| Some((cell.length, cell.spread?)));
        let band = spreads().map(|(length, spread)| {
            let (x, low) = at(length, spread.min);
            (x, low, at(length, spread.max).1)
        });
        let medians: Vec<_> = spreads().map(|(length, spread)| at(length, spread.median)).collect();
        let dots = cells.iter().flat_map(|cell| {
            let finite = cell.values.iter().filter(|value| value.value.is_finite());
            finite.map(|value| at(cell.length, value.value))
        });
        layers.push(Layer::Dots { points: dots.collect(), look });
        if !medians.is_empty() {
            layers.push(Layer::Band { points: band.collect(), look });
            layers.push(Layer::Line { points: medians, look });
        }
        let lost = cells.iter().filter(|cell| cell.lost > 0);
        layers.extend(lost.map(|cell| Layer::Lost {
            along: x.coordinate(cell.length as f64),
            end: bad_end(better),
            look,
        }));
    }
    Panel { title: String::new(), x, y, layers }
}

/// A baseline that depends on the length, as a grey dashed line through its values.
fn baseline_steps(levels: &Levels<'_>, at: &impl Fn(usize, f64) -> (f64, f64)) -> Option<Layer> {
    let mut points: Vec<(usize, f64)> =
        levels.baselines.iter().map(|(length, baseline)| (*length, baseline.value)).collect();
    points.sort_by_key(|point| point.0);
    points.dedup_by_key(|point| point.0);
    let label = levels.baselines.first().map(|(_, baseline)| baseline.name.clone())?;
    let points = points.into_iter().map(|(length, value)| at(length, value)).collect();
    Some(Layer::Reference { points, label })
}

fn by_series(
    palette: &Palette,
    cells: &[Cell<'_>],
    levels: &Levels<'_>,
    metric: &str,
    better: Better,
    task: &str,
    length: usize,
) -> Panel {
    let x = metric_axis(metric, better, &values(cells, levels));
    let names: Vec<&str> = cells.iter().map(|cell| cell.series).collect();
    let y = Axis::names(&names);
    let mut layers = Vec::new();
    if let Some(value) = levels.solved_at {
        let label = "solved".to_owned();
        layers.push(Layer::Level { at: x.coordinate(value), label, dotted: true });
    }
    if let Some(baseline) = levels.constant() {
        let label = baseline.name.clone();
        layers.push(Layer::Level { at: x.coordinate(baseline.value), label, dotted: false });
    }
    for (row, cell) in cells.iter().enumerate() {
        let Some(look) = palette.look(cell.series) else { continue };
        let row = row as f64;
        let finite = cell.values.iter().filter(|value| value.value.is_finite());
        let points: Vec<_> = finite.map(|value| (x.coordinate(value.value), row)).collect();
        if let Some(spread) = cell.spread.filter(|spread| spread.n == 1) {
            layers.push(Layer::Single { at: (x.coordinate(spread.median), row), look });
        } else if let Some(spread) = cell.spread {
            let [low, median, high] =
                [spread.min, spread.median, spread.max].map(|value| (x.coordinate(value), row));
            layers.push(Layer::Bar { from: low, to: high, look });
            layers.push(Layer::Dots { points, look });
            layers.push(Layer::Stroke { at: median, look });
        }
        if cell.lost > 0 {
            layers.push(Layer::Lost { along: row, end: bad_end(better), look });
        }
    }
    Panel { title: format!("{task}, length {length}"), x, y, layers }
}
