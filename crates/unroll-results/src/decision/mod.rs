//! Which architecture, for each task and length, and how sure that is; and over all of them.
//!
//! A run's *score* is its test metric, larger being better; beyond the task's own criterion for
//! "solved" nothing is gained any more, so scores end there; a run that diverged scores minus infinity.
//! The *best* series has the largest interquartile mean of scores, then the larger mean, then the higher
//! speed, then fewer parameters. Another series is *worse* when its p against the best is below 0.05: of two
//! series by the exact rank sum test, of more by a permutation test that chooses the best anew each time
//! ([`crate::statistics::best`]); otherwise the evidence does not separate them. One series is *singled out*
//! when every other one is worse. A series has *learned* when its interquartile mean over all runs is better
//! than the best trivial baseline, and that by [`LEAST_SKILL`] of what there is to gain or in so many runs that a
//! sign test, adjusted for the number of series, tells it from chance: of several series that know nothing, the best is above
//! the baseline more often than not. Something was learned at a task and length when its best series has.

mod overall;
mod pareto;

pub use overall::{Overall, OverallSeries};

use crate::Summary;
use crate::record::{BaselineValue, Better, Phase};
use crate::statistics::best::{against_best, fewest_values};
use crate::statistics::improvement::{
    Paired, improvement_interval, probability_of_improvement, seeds_needed,
};
use crate::statistics::{Interval, interquartile_mean, mean, sign_p, stratified_bootstrap};
use crate::summary::{QualityGroup, ThroughputGroup};

/// Seeds below which no interval is shown: few values have few different resamples.
pub const SEEDS_FOR_INTERVALS: usize = 5;
/// Rounds of every bootstrap.
pub const RESAMPLES: usize = 2000;
/// Seed of every bootstrap.
const SEED: u64 = 0x0008_13e5;
/// How many times better something has to be to be named for it.
const LEAST_GAIN: f64 = 1.05;
/// Probability of improvement from which on the best series is far ahead, whatever a test says: a large effect
/// (Vargha & Delaney 2000).
pub const FAR_AHEAD: f64 = 0.71;
/// The share of what there is to gain over the best trivial baseline from which on something is learned, however few
/// the runs.
pub const LEAST_SKILL: f64 = 0.02;
/// Error probability of each decision.
pub const ALPHA: f64 = 0.05;

/// What a report decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Decisions {
    /// One for each task and length with a metric.
    pub cells: Vec<Decision>,
    /// Over all of them, when there are two or more.
    pub overall: Option<Overall>,
}

/// The decision for one task and length.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// Metric with unit.
    pub metric: String,
    /// Which end is good.
    pub better: Better,
    /// Series in the summary's order.
    pub candidates: Vec<Candidate>,
    /// Place of the best one.
    pub best: usize,
    /// Whether no single run of any series is better than the best trivial baseline.
    pub nothing_learned: bool,
    /// How speed was measured, the same way for all.
    pub speed: Speed,
    /// The best trivial baseline.
    pub baseline: Option<BaselineValue>,
    /// The best baseline that is fitted to the training data.
    pub reference: Option<BaselineValue>,
    /// The value from which on the task counts as solved.
    pub solved_at: Option<f64>,
    /// What to take when something else matters most.
    pub choices: Vec<Choice>,
    /// The objectives that the front was found with.
    pub objectives: Vec<Objective>,
}

/// What the evidence says of the best series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As a whole it is no better than the best trivial baseline: there is nothing to decide.
    NothingLearned,
    /// There is no other series.
    Alone,
    /// Every other series is worse.
    SingledOut,
    /// Not every other series is shown to be worse; some may be.
    Open,
}

/// How speed was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// The training step alone, in throughput trials.
    Step,
    /// By the clock, while quality trials trained.
    Training,
}

/// One series in a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Series.
    pub series: String,
    /// (seed, score) of each run.
    pub scores: Vec<(u64, f64)>,
    /// Interquartile mean of the metric over runs that did not diverge.
    pub metric: Option<f64>,
    /// Its 95 % bootstrap interval, from [`SEEDS_FOR_INTERVALS`] seeds on.
    pub interval: Option<Interval>,
    /// Runs that solved the task.
    pub solved: usize,
    /// Runs that diverged.
    pub diverged: usize,
    /// Runs whose training ended when validation reached the stopping threshold, and which the test split
    /// does not count as solved.
    pub missed_on_test: usize,
    /// Runs that are better than the best trivial baseline; `None` without a baseline.
    pub above_chance: Option<usize>,
    /// Whether it is better than the best trivial baseline as a whole, and beyond chance: see the module; a run
    /// that diverged is worse than any number. `None` without a baseline.
    pub learned: Option<bool>,
    /// The longest length that every seed solved, with all shorter ones that it was trained at, of this task.
    pub longest_solved: Option<usize>,
    /// Tokens per second of training, measured as [`Decision::speed`] says.
    pub tokens_per_s: Option<f64>,
    /// Peak memory of a training step, bytes.
    pub peak_bytes: Option<u64>,
    /// Trainable parameters.
    pub parameters: Option<u64>,
    /// The first series that is at least as good in every objective and better in one; `None` on the
    /// front.
    pub dominated_by: Option<String>,
    /// The best series against this one; `None` for the best.
    pub versus: Option<Versus>,
}

/// The best series against another.
#[derive(Debug, Clone, PartialEq)]
pub struct Versus {
    /// Probability that a run of the best one has the better score.
    pub probability: f64,
    /// Its 95 % bootstrap interval, from [`SEEDS_FOR_INTERVALS`] seeds on.
    pub interval: Option<Interval>,
    /// p of being as good as the best, adjusted for all series and for the choice of the best.
    pub p: f64,
    /// Seed by seed.
    pub paired: Paired,
    /// Whether the other one is worse: `p` below [`ALPHA`].
    pub worse: bool,
    /// Whether all scores of both are equal: there is nothing that more seeds could show.
    pub equal: bool,
    /// Whether all that sets them apart is runs that [missed on the test](Candidate::missed_on_test) what
    /// validation had reached: more seeds would tell more about where training stops.
    pub by_stopping: bool,
    /// Seeds in all that would show a difference of this size with 80 % power; `None` when none would.
    pub seeds_needed: Option<usize>,
}

/// Something to be good at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// The metric.
    Metric,
    /// The longest length that every seed solved.
    Length,
    /// Tokens per second of training.
    Speed,
    /// Peak memory of a training step.
    Memory,
    /// Trainable parameters.
    Parameters,
}

impl Objective {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Metric, Self::Length, Self::Speed, Self::Memory, Self::Parameters];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metric => "metric",
            Self::Length => "longest length solved",
            Self::Speed => "tokens/s",
            Self::Memory => "memory",
            Self::Parameters => "parameters",
        }
    }

    /// A candidate's value, larger is better; `None` where it was not measured.
    pub fn of(self, candidate: &Candidate) -> Option<f64> {
        match self {
            Self::Metric => score(candidate),
            Self::Length => Some(candidate.longest_solved.unwrap_or(0) as f64),
            Self::Speed => candidate.tokens_per_s,
            Self::Memory => candidate.peak_bytes.map(|bytes| -(bytes as f64)),
            Self::Parameters => candidate.parameters.map(|count| -(count as f64)),
        }
    }
}

/// What to take when an objective matters most: the best in it among those that are neither shown to be worse
/// nor far behind, and have learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// What matters most.
    pub objective: Objective,
    /// Place of the candidate.
    pub candidate: usize,
    /// How many times better than the best candidate it is in that.
    pub factor: f64,
}

impl Decisions {
    /// Decides.
    pub fn of(summary: &Summary) -> Self {
        let mut cells = Vec::new();
        let mut keys: Vec<(&str, usize)> = Vec::new();
        for group in summary.quality.iter().filter(|group| !group.values.is_empty()) {
            let key = (group.task.as_str(), group.length);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for (task, length) in keys {
            cells.extend(decide(summary, task, length));
        }
        let overall = Overall::of(summary, &cells);
        Self { cells, overall }
    }
}

impl Decision {
    /// The best candidate.
    pub fn winner(&self) -> &Candidate {
        &self.candidates[self.best]
    }

    /// Those that the evidence does not show to be worse, the best left out.
    pub fn open(&self) -> impl Iterator<Item = (&Candidate, &Versus)> {
        self.rivals().filter(|(_, versus)| !versus.worse)
    }

    /// What the evidence says of the best.
    pub fn standing(&self) -> Standing {
        if !self.learned() {
            Standing::NothingLearned
        } else if self.candidates.len() < 2 {
            Standing::Alone
        } else if self.rivals().all(|(_, versus)| versus.worse) {
            Standing::SingledOut
        } else {
            Standing::Open
        }
    }

    /// Whether the best series is better than the best trivial baseline as a whole. Where it is not, ranks and
    /// comparisons are of noise, and nothing counts them.
    pub fn learned(&self) -> bool {
        !self.nothing_learned && self.winner().learned != Some(false)
    }

    /// Those that the evidence shows to be worse than the best.
    pub fn ruled_out(&self) -> impl Iterator<Item = (&Candidate, &Versus)> {
        self.rivals().filter(|(_, versus)| versus.worse)
    }

    /// Whether there are fewer seeds than any difference among so many series could be shown with.
    pub fn too_few_seeds(&self) -> bool {
        self.candidates.len() > 1
            && self.ruled_out().next().is_none()
            && self.seeds() < fewest_seeds_for(self.candidates.len())
    }

    /// Whether a value is better than another.
    pub fn prefers(&self, value: f64, other: f64) -> bool {
        self.better.prefers(value, other)
    }

    /// All but the best.
    pub fn rivals(&self) -> impl Iterator<Item = (&Candidate, &Versus)> {
        self.candidates.iter().filter_map(|c| Some((c, c.versus.as_ref()?)))
    }

    /// The smallest number of runs of a series.
    pub fn seeds(&self) -> usize {
        self.candidates.iter().map(|candidate| candidate.scores.len()).min().unwrap_or(0)
    }
}

/// Interquartile mean of the scores.
fn score(candidate: &Candidate) -> Option<f64> {
    interquartile_mean(&values(&candidate.scores))
}

fn values(scores: &[(u64, f64)]) -> Vec<f64> {
    scores.iter().map(|score| score.1).collect()
}

/// A run's score: see the module.
fn score_of(value: f64, better: Better, solved_at: Option<f64>) -> f64 {
    if !value.is_finite() {
        return f64::NEG_INFINITY;
    }
    match better {
        Better::Lower => -solved_at.map_or(value, |limit| value.max(limit)),
        Better::Higher => solved_at.map_or(value, |limit| value.min(limit)),
    }
}

fn decide(summary: &Summary, task: &str, length: usize) -> Option<Decision> {
    let groups: Vec<&QualityGroup> = summary
        .quality
        .iter()
        .filter(|g| g.task == task && g.length == length && !g.values.is_empty())
        .collect();
    let first = *groups.first()?;
    let baseline = groups.iter().find_map(|group| group.best_baseline.clone());
    let speed = speed(summary, &groups);
    let learned =
        |group: &QualityGroup| Some(has_learned(group, baseline.as_ref()?.value, groups.len()));
    let mut candidates: Vec<Candidate> =
        groups.iter().map(|group| candidate(summary, group, learned(group), speed)).collect();
    let rank = |candidate: &Candidate| {
        let of = |objective: Objective| objective.of(candidate).unwrap_or(f64::NEG_INFINITY);
        // Trimming hides a run that failed where all others solved: the mean does not.
        let mean = mean(&values(&candidate.scores)).unwrap_or(f64::NEG_INFINITY);
        [of(Objective::Metric), mean, of(Objective::Speed), of(Objective::Parameters)]
    };
    let mut best = 0;
    for place in 1..candidates.len() {
        let (new, old) = (rank(&candidates[place]), rank(&candidates[best]));
        if new.partial_cmp(&old) == Some(std::cmp::Ordering::Greater) {
            best = place;
        }
    }
    compare(&mut candidates, best);
    let objectives = pareto::mark(&mut candidates);
    let choices = choices(&candidates, best);
    Some(Decision {
        task: task.to_owned(),
        length,
        metric: first.metric.clone(),
        better: first.better,
        baseline,
        speed,
        reference: groups.iter().find_map(|group| group.best_reference.clone()),
        solved_at: groups.iter().find_map(|group| group.solved_at),
        best,
        nothing_learned: groups
            .iter()
            .all(|g| !g.baselines.is_empty() && g.at_chance + g.diverged >= g.n),
        choices,
        objectives,
        candidates,
    })
}

/// The training step of a series as throughput trials measured it.
fn step_times<'a>(summary: &'a Summary, group: &QualityGroup) -> Option<&'a ThroughputGroup> {
    let same = |times: &&ThroughputGroup| {
        times.phase == Phase::TrainStep
            && (&times.series, &times.task, times.length)
                == (&group.series, &group.task, group.length)
    };
    summary.throughput.iter().find(same)
}

/// The way that more of the series were measured in: the two do not compare.
fn speed(summary: &Summary, groups: &[&QualityGroup]) -> Speed {
    let steps = groups.iter().filter(|group| step_times(summary, group).is_some()).count();
    let clocks = groups.iter().filter(|group| group.tokens_per_s.is_some()).count();
    if steps > 0 && steps >= clocks { Speed::Step } else { Speed::Training }
}

/// Whether one of `series` series is better than the best trivial baseline as a whole, and beyond chance.
fn has_learned(group: &QualityGroup, baseline: f64, series: usize) -> bool {
    // Not cut at the criterion for solved, beyond which a baseline may be.
    let of = |value: f64| score_of(value, group.better, None);
    let scores: Vec<f64> = group.values.iter().map(|v| of(v.value)).collect();
    let Some(mean) = interquartile_mean(&scores) else { return false };
    let gain = mean - of(baseline);
    let perfect = match group.better {
        Better::Lower => 0.0,
        Better::Higher => 1.0,
    };
    // Metrics with another end, such as BLEU, are measured by the baseline.
    let room = of(perfect) - of(baseline);
    let room = if room > 0.0 { room } else { baseline.abs() };
    let above = scores.iter().filter(|score| **score > of(baseline)).count();
    gain > 0.0
        && (gain >= LEAST_SKILL * room || sign_p(above, scores.len()) * (series as f64) < ALPHA)
}

fn candidate(
    summary: &Summary,
    group: &QualityGroup,
    learned: Option<bool>,
    speed: Speed,
) -> Candidate {
    let finite: Vec<f64> =
        group.values.iter().map(|v| v.value).filter(|value| value.is_finite()).collect();
    let enough = finite.len() >= SEEDS_FOR_INTERVALS;
    let times = step_times(summary, group);
    let tokens_per_s = match speed {
        Speed::Step => times.map(|times| times.tokens_per_s.median),
        Speed::Training => group.tokens_per_s.map(|spread| spread.median),
    };
    let mut lengths: Vec<(usize, bool)> = summary
        .quality
        .iter()
        .filter(|g| g.series == group.series && g.task == group.task)
        // A seed that could not run has not solved it.
        .map(|g| (g.length, g.n > 0 && g.solved == g.n + g.failed))
        .collect();
    lengths.sort_unstable();
    let longest_solved =
        lengths.iter().take_while(|(_, solved)| *solved).last().map(|(length, _)| *length);
    Candidate {
        series: group.series.clone(),
        scores: group
            .values
            .iter()
            .map(|v| (v.seed, score_of(v.value, group.better, group.solved_at)))
            .collect(),
        metric: interquartile_mean(&finite),
        interval: enough
            .then(|| stratified_bootstrap(&[&finite], interquartile_mean, 0.95, RESAMPLES, SEED))
            .flatten(),
        solved: group.solved,
        diverged: group.diverged,
        missed_on_test: group.missed_on_test.len(),
        learned,
        above_chance: (!group.baselines.is_empty())
            .then(|| group.n.saturating_sub(group.at_chance + group.diverged)),
        longest_solved,
        tokens_per_s,
        peak_bytes: times.and_then(|t| t.peak_bytes).filter(|bytes| *bytes > 0),
        parameters: group.parameters,
        dominated_by: None,
        versus: None,
    }
}

/// Fills in the best one against each other.
fn compare(candidates: &mut [Candidate], best: usize) {
    let winner = candidates[best].scores.clone();
    let x = values(&winner);
    let samples: Vec<Vec<f64>> = candidates.iter().map(|c| values(&c.scores)).collect();
    let Some(p) = against_best(&samples, best) else { return };
    // What a pair has to pass when all pairs are as hard to tell apart.
    let pairs = candidates.len() * candidates.len().saturating_sub(1) / 2;
    let alpha = ALPHA / pairs.max(1) as f64;
    // Solved, or stopped as if it were.
    let all_stopped = |candidate: &Candidate| {
        candidate.solved + candidate.missed_on_test == candidate.scores.len()
    };
    let best_stopped = all_stopped(&candidates[best]);
    for (place, (candidate, p)) in candidates.iter_mut().zip(p).enumerate() {
        let y = values(&candidate.scores);
        let probability = probability_of_improvement(&x, &y).filter(|_| place != best);
        let Some(probability) = probability else { continue };
        let enough = x.len().min(y.len()) >= SEEDS_FOR_INTERVALS;
        let equal = x.iter().chain(&y).all(|score| *score == x[0]);
        candidate.versus = Some(Versus {
            probability,
            interval: enough
                .then(|| improvement_interval(&[(x.clone(), y)], RESAMPLES, SEED))
                .flatten(),
            p,
            paired: Paired::of(&winner, &candidate.scores),
            worse: p < ALPHA,
            equal,
            by_stopping: !equal && best_stopped && all_stopped(candidate),
            seeds_needed: if equal { None } else { seeds_needed(probability, alpha) },
        });
    }
}

fn choices(candidates: &[Candidate], best: usize) -> Vec<Choice> {
    let mut found = Vec::new();
    // What has learned nothing is no alternative, whatever it costs. Neither is what is far behind in the runs there
    // are: that no test shows it says little with few of them.
    let open = |candidate: &Candidate| {
        let close = |versus: &Versus| !versus.worse && versus.probability < FAR_AHEAD;
        candidate.learned != Some(false) && candidate.versus.as_ref().is_some_and(close)
    };
    if candidates[best].learned == Some(false) {
        return found;
    }
    for objective in [Objective::Speed, Objective::Memory, Objective::Parameters] {
        let Some(own) = objective.of(&candidates[best]) else { continue };
        let mut choice: Option<(usize, f64)> = None;
        for (place, candidate) in candidates.iter().enumerate() {
            let Some(value) = objective.of(candidate).filter(|_| open(candidate)) else { continue };
            if value > own && choice.is_none_or(|(_, most)| value > most) {
                choice = Some((place, value));
            }
        }
        if let Some((candidate, value)) = choice {
            let (a, b) = (value.abs(), own.abs());
            let factor = a.max(b) / a.min(b).max(f64::MIN_POSITIVE);
            if factor >= LEAST_GAIN {
                found.push(Choice { objective, candidate, factor });
            }
        }
    }
    found
}

/// Seeds for each series with which a comparison among `series` of them could separate anything.
pub fn fewest_seeds_for(series: usize) -> usize {
    fewest_values(series, ALPHA)
}

#[cfg(test)]
mod tests;
