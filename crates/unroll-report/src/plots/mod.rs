//! Plots for papers, as SVG and PNG.
//!
//! | file | shows |
//! |---|---|
//! | `metric-TASK` | metric against length, or by series at a single length |
//! | `lengths-TASK-T` | metric at other lengths after training at length T |
//! | `curves-TASK` | validation metric against training steps, a panel per length |
//! | `gradient-TASK-T` | gradient norm against distance from the loss |
//! | `dynamics-TASK-T` | largest singular value of the state's Jacobian, Lyapunov spectrum |
//! | `gradient-steps-TASK-T` | gradient norm against distance and training step, a panel per series |
//! | `horizon-TASK` | longest length solved against the gradient's horizon before training |
//! | `heat-TASK` | metric by series and length |
//! | `pareto-TASK` | metric against speed and memory, with the front |
//! | `ranks` | average ranks over all tasks and lengths, with what tests tell apart |
//! | `profile` | performance profiles over all tasks and lengths |
//! | `throughput-TASK` | tokens per second and peak memory against length, a panel per phase |
//!
//! The same summary gives the same bytes. Nothing is drawn for what was not measured.

mod alignment;
mod curves;
mod dynamics;
mod gradient;
mod gradient_steps;
mod heat;
mod horizon;
mod metric;
mod overall;
mod pareto;
mod throughput;

use std::path::{Path, PathBuf};

use unroll_results::files;
use unroll_results::{Decisions, Summary};

use crate::draw::{Canvas, Figure, Look, looks};
use crate::{Error, Result};

/// A figure with the name of its files.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plot {
    pub(crate) name: String,
    pub(crate) figure: Figure,
}

/// What one plot is called and shows, for the text around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlotInfo {
    /// File name without extension.
    pub name: String,
    /// The task it is about; empty for all of them.
    pub task: String,
    /// What it shows, in a line.
    pub title: String,
}

/// The plots that [`write_all`] writes for a summary, in order.
pub fn list(summary: &Summary) -> Vec<PlotInfo> {
    let info = |(task, plot): (&str, Plot)| PlotInfo {
        name: plot.name,
        task: task.to_owned(),
        title: plot.figure.title,
    };
    all(summary, &Decisions::of(summary)).into_iter().map(info).collect()
}

/// Writes every plot as `DIR/NAME.svg` and `DIR/NAME.png` and returns the paths.
///
/// # Errors
/// [`Error::Results`], [`Error::Plot`].
pub fn write_all(dir: &Path, summary: &Summary) -> Result<Vec<PathBuf>> {
    write_these(dir, &all(summary, &Decisions::of(summary)))
}

/// The same for plots that are made already.
pub(crate) fn write_these(dir: &Path, plots: &[(&str, Plot)]) -> Result<Vec<PathBuf>> {
    files::create_dir(dir)?;
    let mut paths = Vec::new();
    for (_, Plot { name, figure }) in plots {
        let failed = |message| Error::Plot { plot: name.clone(), message };
        let canvas = figure.canvas();
        let svg = dir.join(format!("{name}.svg"));
        files::write(&svg, canvas.svg(&figure.title).map_err(failed)?.as_bytes())?;
        let png = dir.join(format!("{name}.png"));
        files::write(&png, &png_bytes(&canvas).map_err(failed)?)?;
        paths.extend([svg, png]);
    }
    Ok(paths)
}

/// A picture as the bytes of a PNG file.
fn png_bytes(canvas: &Canvas) -> Result<Vec<u8>, String> {
    let (width, height) = canvas.pixels();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let encode = |mut writer: png::Writer<&mut Vec<u8>>| {
        writer.write_image_data(&canvas.raster().map_err(std::io::Error::other)?)?;
        writer.finish()
    };
    encoder.write_header().and_then(encode).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Every plot with its task.
pub(crate) fn all<'a>(summary: &'a Summary, decisions: &Decisions) -> Vec<(&'a str, Plot)> {
    let palette = Palette::new(summary);
    let mut found: Vec<(&str, Plot)> =
        overall::plots(decisions, &palette).into_iter().map(|plot| ("", plot)).collect();
    for task in &summary.tasks {
        let mut plots = Vec::new();
        plots.extend(metric::plot(summary, &palette, task));
        plots.extend(heat::plot(decisions, task));
        plots.extend(pareto::plots(decisions, &palette, task));
        plots.extend(metric::other_lengths(summary, &palette, task));
        plots.extend(curves::plot(summary, &palette, task));
        plots.extend(alignment::plots(summary, task));
        plots.extend(gradient::plots(summary, &palette, task));
        plots.extend(dynamics::plots(summary, &palette, task));
        plots.extend(gradient_steps::plots(summary, task));
        plots.extend(horizon::plot(summary, &palette, task));
        plots.extend(throughput::plot(summary, &palette, task));
        found.extend(plots.into_iter().map(|plot| (task.as_str(), plot)));
    }
    found
}

/// The looks of all series of a report: the same in each of its plots.
struct Palette {
    series: Vec<(String, Look)>,
}

impl Palette {
    fn new(summary: &Summary) -> Self {
        let names = summary.series.iter().map(|series| series.name.clone());
        Self { series: names.zip(looks(&summary.series)).collect() }
    }

    /// The look of a series; every group's series is in the summary.
    fn look(&self, series: &str) -> Option<Look> {
        self.series.iter().find(|(name, _)| name == series).map(|(_, look)| *look)
    }

    /// The legend's entries for some series, in the summary's order.
    fn legend<'a>(&self, shown: impl IntoIterator<Item = &'a str>) -> Vec<(String, Look)> {
        let shown: Vec<&str> = shown.into_iter().collect();
        self.series.iter().filter(|(name, _)| shown.contains(&name.as_str())).cloned().collect()
    }
}

/// A part of a file name: letters and digits, everything else as `-`.
fn file_part(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// The different values in ascending order.
fn ascending<T: Ord>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// From natural to decimal logarithms.
fn decimal(ln: f64) -> f64 {
    ln * std::f64::consts::LOG10_E
}

/// `1 seed`, `3 seeds`, `2 to 3 seeds`.
fn seeds(counts: impl IntoIterator<Item = usize>) -> String {
    match ascending(counts)[..] {
        [] => String::new(),
        [1] => "1 seed".to_owned(),
        [n] => format!("{n} seeds"),
        [first, .., last] => format!("{first} to {last} seeds"),
    }
}

/// Whether an axis of errors should be logarithmic: all positive and spanning more than 30 times.
fn wide(values: &[f64]) -> bool {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let low = finite().fold(f64::INFINITY, f64::min);
    let high = finite().fold(f64::NEG_INFINITY, f64::max);
    low > 0.0 && high > 30.0 * low
}
