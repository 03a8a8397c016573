//! Series over several tasks and lengths.

use crate::Summary;
use crate::record::Better;
use crate::statistics::improvement::{profile, profile_band};
use crate::statistics::ranks::Ranking;
use crate::statistics::{Interval, interquartile_mean, stratified_bootstrap};
use crate::summary::QualityGroup;

use super::{Decision, RESAMPLES, SEED, SEEDS_FOR_INTERVALS, score};

/// All series over all cells (tasks and lengths) that every one of them has runs in.
#[derive(Debug, Clone, PartialEq)]
pub struct Overall {
    /// The series, in the summary's order.
    pub series: Vec<OverallSeries>,
    /// The cells: task and length.
    pub cells: Vec<(String, usize)>,
    /// How many of them something was learned in ([`Decision::learned`]): the others are noise, which no rank
    /// counts.
    pub learned: usize,
    /// Average ranks of interquartile mean scores over the cells in which something was learned, and which
    /// differ; `None` with fewer than two of them.
    pub ranking: Option<Ranking>,
    /// Cells that skills could be computed for: those with a trivial baseline that is not perfect.
    pub skill_cells: usize,
}

/// One series over all cells.
#[derive(Debug, Clone, PartialEq)]
pub struct OverallSeries {
    /// Series.
    pub name: String,
    /// Cells in which no series scores better, of those in which something was learned.
    pub first: usize,
    /// Interquartile mean of the skills of all runs.
    pub skill: Option<f64>,
    /// Its 95 % stratified bootstrap interval, from [`SEEDS_FOR_INTERVALS`] seeds on.
    pub interval: Option<Interval>,
    /// Performance profile: from each skill τ on the share of runs with more. At 0, at 1 and at each skill that a
    /// run has, where alone it changes. Empty without skills.
    pub profile: Vec<(f64, f64)>,
    /// Pointwise 95 % intervals of the profile at the same skills; empty with fewer seeds.
    pub band: Vec<(f64, f64)>,
}

impl Overall {
    /// `None` unless two or more series share two or more cells.
    pub(super) fn of(summary: &Summary, cells: &[Decision]) -> Option<Self> {
        let names: Vec<&str> = summary
            .series
            .iter()
            .map(|series| series.name.as_str())
            .filter(|name| cells.iter().any(|c| c.candidates.iter().any(|s| s.series == *name)))
            .collect();
        let shared: Vec<&Decision> = cells
            .iter()
            .filter(|cell| names.iter().all(|n| cell.candidates.iter().any(|c| c.series == *n)))
            .collect();
        if names.len() < 2 || shared.len() < 2 {
            return None;
        }
        let learned: Vec<&Decision> =
            shared.iter().copied().filter(|cell| cell.learned()).collect();
        let scores: Vec<Vec<f64>> = learned
            .iter()
            .map(|cell| {
                let of = |name: &&str| cell.candidates.iter().find(|c| c.series == **name);
                names.iter().filter_map(|name| score(of(name)?)).collect()
            })
            .collect();
        let mut skill_cells = 0;
        let series = names
            .iter()
            .map(|name| {
                let strata: Vec<Vec<f64>> = shared
                    .iter()
                    .filter_map(|cell| skills(summary, name, &cell.task, cell.length))
                    .collect();
                skill_cells = strata.len();
                let of =
                    |cell: &Decision| score(cell.candidates.iter().find(|c| c.series == *name)?);
                let first = learned.iter().filter(|cell| of(cell) == score(cell.winner())).count();
                one(name, first, &strata)
            })
            .collect();
        Some(Self {
            series,
            cells: shared.iter().map(|cell| (cell.task.clone(), cell.length)).collect(),
            learned: learned.len(),
            ranking: Ranking::of(&scores),
            skill_cells,
        })
    }

    /// Places of the series by average rank, or by skill without ranks.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        match &self.ranking {
            Some(ranking) => {
                order.sort_by(|&a, &b| ranking.average[a].total_cmp(&ranking.average[b]));
            }
            None => {
                let skill = |place: usize| self.series[place].skill.unwrap_or(f64::NEG_INFINITY);
                order.sort_by(|&a, &b| skill(b).total_cmp(&skill(a)));
            }
        }
        order
    }
}

/// Where a profile changes, with both ends.
fn steps(skills: &[f64]) -> Vec<f64> {
    let mut taus = [&[0.0, 1.0], skills].concat();
    taus.sort_by(f64::total_cmp);
    taus.dedup();
    taus
}

fn one(name: &str, first: usize, strata: &[Vec<f64>]) -> OverallSeries {
    let pooled = strata.concat();
    let taus = steps(&pooled);
    let slices: Vec<&[f64]> = strata.iter().map(Vec::as_slice).collect();
    let enough = !strata.is_empty() && strata.iter().all(|s| s.len() >= SEEDS_FOR_INTERVALS);
    OverallSeries {
        name: name.to_owned(),
        first,
        skill: interquartile_mean(&pooled),
        interval: enough
            .then(|| stratified_bootstrap(&slices, interquartile_mean, 0.95, RESAMPLES, SEED))
            .flatten(),
        band: if enough { profile_band(strata, &taus, RESAMPLES, SEED) } else { Vec::new() },
        profile: if pooled.is_empty() {
            Vec::new()
        } else {
            let shares = profile(&pooled, &taus);
            taus.into_iter().zip(shares).collect()
        },
    }
}

/// The skill of each run in a cell: 0 is the best trivial baseline (or worse, or diverged), 1 is
/// perfect (an error of 0, an accuracy of 1). `None` without a baseline that leaves room.
fn skills(summary: &Summary, series: &str, task: &str, length: usize) -> Option<Vec<f64>> {
    let same = |g: &&QualityGroup| g.series == series && g.task == task && g.length == length;
    let group = summary.quality.iter().find(same)?;
    // One measure for all series of the cell.
    let in_cell = summary.quality.iter().filter(|g| g.task == task && g.length == length);
    let baseline = in_cell.clone().find_map(|g| g.best_baseline.as_ref())?.value;
    let perfect = match group.better {
        Better::Lower => 0.0,
        Better::Higher => 1.0,
    };
    let room = perfect - baseline;
    let positive = match group.better {
        Better::Lower => room < 0.0,
        Better::Higher => room > 0.0,
    };
    // Adding 0 makes a negative zero a zero.
    let skill = |value: f64| {
        if value.is_finite() { ((value - baseline) / room).clamp(0.0, 1.0) + 0.0 } else { 0.0 }
    };
    positive.then(|| group.values.iter().map(|value| skill(value.value)).collect())
}
