//! Metrics after training, over seeds.

use super::{GroupKey, Index, distinct};
use crate::record::{BaselineValue, Better, Quality, Status, TrialKind, TrialRecord};
use crate::statistics::{Spread, median};
use crate::tables::{best_baseline, best_reference};

/// A seed's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedValue {
    /// Seed.
    pub seed: u64,
    /// Its value; NaN when the trial diverged.
    pub value: f64,
}

/// What can be said of a group as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every trial solved the task.
    Solved,
    /// Some trials solved it.
    SometimesSolved,
    /// None solved it, or it has no such criterion; better than chance at least once.
    AboveChance,
    /// No trial is better than the best trivial baseline.
    AtChance,
    /// Every trial diverged.
    Diverged,
    /// Every trial failed: there is nothing to say.
    Failed,
}

impl Verdict {
    /// A word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Solved => "solved",
            Self::SometimesSolved => "sometimes solved",
            Self::AboveChance => "above chance",
            Self::AtChance => "at chance",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
        }
    }
}

/// The quality trials of one series at one task and length.
#[derive(Debug, Clone, PartialEq)]
pub struct QualityGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Trained length, steps.
    pub length: usize,
    /// Hidden sizes: one, unless matching depends on something else than these.
    pub hidden_sizes: Vec<usize>,
    /// Trainable parameters, the largest of the group.
    pub parameters: Option<u64>,
    /// Name of the metric with unit; empty when no trial has one.
    pub metric: String,
    /// Which end is good.
    pub better: Better,
    /// Test metric of each trial that has one.
    pub values: Vec<SeedValue>,
    /// Spread of the finite test metrics.
    pub test: Option<Spread>,
    /// Trials that ran: finished and diverged. "Solved k of n" means this n.
    pub n: usize,
    /// Trials that solved the task.
    pub solved: usize,
    /// Seeds of the trials whose training ended when validation reached the stopping threshold, and which the test
    /// split does not count as solved.
    pub missed_on_test: Vec<u64>,
    /// Trials no better than the best trivial baseline.
    pub at_chance: usize,
    /// Trials that diverged.
    pub diverged: usize,
    /// Trials that could not run; not in `n`.
    pub failed: usize,
    /// The value from which on the task counts as solved.
    pub solved_at: Option<f64>,
    /// Baselines.
    pub baselines: Vec<BaselineValue>,
    /// The best of those that are trivial: what counts as chance.
    pub best_baseline: Option<BaselineValue>,
    /// The best of those that are fitted to the training data.
    pub best_reference: Option<BaselineValue>,
    /// Trials that reached the stopping threshold.
    pub reached: usize,
    /// Median steps to the threshold over all `n`, where a trial that never reached it counts as
    /// slower than all that did; `None` when the median trial did not reach it.
    pub steps_to_threshold: Option<f64>,
    /// Tokens trained on per second of training (clock).
    pub tokens_per_s: Option<Spread>,
}

impl QualityGroup {
    /// The best of all baselines, trivial or fitted: the line to be above.
    pub fn strongest_baseline(&self) -> Option<&BaselineValue> {
        strongest(self.better, self.best_baseline.as_ref(), self.best_reference.as_ref())
    }

    /// What can be said of the group as a whole.
    pub fn verdict(&self) -> Verdict {
        if self.n == 0 {
            Verdict::Failed
        } else if self.diverged == self.n {
            Verdict::Diverged
        } else if self.solved == self.n {
            Verdict::Solved
        } else if self.solved > 0 {
            Verdict::SometimesSolved
        } else if self.at_chance + self.diverged >= self.n {
            Verdict::AtChance
        } else {
            Verdict::AboveChance
        }
    }
}

/// The better of two baselines, of which there may be none.
pub(super) fn strongest<'a>(
    better: Better,
    trivial: Option<&'a BaselineValue>,
    fitted: Option<&'a BaselineValue>,
) -> Option<&'a BaselineValue> {
    match (trivial, fitted) {
        (Some(trivial), Some(fitted)) if better.prefers(trivial.value, fitted.value) => {
            Some(trivial)
        }
        (trivial, fitted) => fitted.or(trivial),
    }
}

/// The metric of one series, trained at one length, at another length.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Trained length, steps.
    pub trained_length: usize,
    /// Evaluated length, steps.
    pub length: usize,
    /// Name of the metric with unit.
    pub metric: String,
    /// Which end is good.
    pub better: Better,
    /// Value of each seed.
    pub values: Vec<SeedValue>,
    /// Spread of the finite values.
    pub spread: Option<Spread>,
}

/// A metric beside the task's own, of one series at one length.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Trained length, steps.
    pub length: usize,
    /// Name of the metric with unit.
    pub metric: String,
    /// Spread of the finite values over seeds.
    pub spread: Option<Spread>,
}

pub(super) fn metrics(index: &Index<'_>) -> Vec<MetricGroup> {
    let mut found = Vec::new();
    let counts = |record: &TrialRecord| record.quality.is_some() && !has_diverged(record);
    for (key, trials) in index.groups(counts) {
        let qualities: Vec<&Quality> = trials.iter().filter_map(|t| t.quality.as_ref()).collect();
        let names = distinct(qualities.iter().flat_map(|q| q.others.iter().map(|o| &o.name)));
        for name in names {
            let values = qualities.iter().flat_map(|quality| &quality.others);
            let values = values.filter(|other| other.name == *name).map(|other| other.value);
            found.push(MetricGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                metric: name.clone(),
                spread: Spread::of(values),
            });
        }
    }
    found
}

pub(super) fn groups(index: &Index<'_>) -> Vec<QualityGroup> {
    let groups = index.groups(|record| record.kind == TrialKind::Quality);
    groups.iter().map(|(key, trials)| group(index, *key, trials)).collect()
}

fn group(index: &Index<'_>, key: GroupKey, trials: &[&TrialRecord]) -> QualityGroup {
    let qualities: Vec<&Quality> = trials.iter().filter_map(|t| t.quality.as_ref()).collect();
    let first = qualities.first();
    let with_status = |name| trials.iter().filter(|trial| trial.status.name() == name).count();
    let values: Vec<SeedValue> = trials
        .iter()
        .filter_map(|trial| {
            let quality = trial.quality.as_ref()?;
            Some(SeedValue { seed: trial.cell.seed, value: unless_diverged(trial, quality.test) })
        })
        .collect();
    let n = trials.len() - with_status("failed");
    QualityGroup {
        series: index.series(key),
        task: index.task(key),
        length: key.length,
        hidden_sizes: distinct(trials.iter().map(|trial| trial.cell.hidden_size)),
        parameters: trials.iter().filter_map(|t| t.cost.map(|cost| cost.parameters)).max(),
        metric: first.map_or_else(String::new, |quality| quality.metric.clone()),
        better: first.map_or(Better::Lower, |quality| quality.better),
        test: Spread::of(values.iter().map(|value| value.value)),
        values,
        n,
        solved: qualities.iter().filter(|quality| quality.solved).count(),
        missed_on_test: trials
            .iter()
            .filter(|trial| trial.quality.as_ref().is_some_and(missed_on_test))
            .map(|trial| trial.cell.seed)
            .collect(),
        at_chance: trials
            .iter()
            .filter(|trial| !has_diverged(trial))
            .filter(|trial| trial.quality.as_ref().is_some_and(|quality| quality.at_chance))
            .count(),
        diverged: with_status("diverged"),
        failed: with_status("failed"),
        solved_at: first.and_then(|quality| quality.solved_at),
        baselines: first.map_or_else(Vec::new, |quality| quality.baselines.clone()),
        best_baseline: first.and_then(|quality| best_baseline(quality)).cloned(),
        best_reference: first.and_then(|quality| best_reference(quality)).cloned(),
        reached: qualities.iter().filter(|q| q.steps_to_threshold.is_some()).count(),
        steps_to_threshold: steps_to_threshold(n, &qualities),
        tokens_per_s: Spread::of(trials.iter().filter_map(|trial| {
            let tokens = trial.curve.last()?.tokens as f64;
            (tokens > 0.0 && trial.timing.train_s > 0.0).then(|| tokens / trial.timing.train_s)
        })),
    }
}

/// Training went no further than the step at which validation passed the threshold, and the test says otherwise.
fn missed_on_test(quality: &Quality) -> bool {
    let ended_there = quality.steps_to_threshold == Some(quality.steps);
    quality.solved_at.is_some() && !quality.solved && ended_there
}

fn has_diverged(trial: &TrialRecord) -> bool {
    matches!(trial.status, Status::Diverged { .. })
}

/// A run that diverged ends with whatever its weights were then: no result.
fn unless_diverged(trial: &TrialRecord, value: f64) -> f64 {
    if has_diverged(trial) { f64::NAN } else { value }
}

/// Median over all `n` trials; those that never got there stand above every number.
fn steps_to_threshold(n: usize, qualities: &[&Quality]) -> Option<f64> {
    let mut steps: Vec<f64> =
        qualities.iter().filter_map(|q| q.steps_to_threshold.map(|steps| steps as f64)).collect();
    steps.resize(n.max(steps.len()), f64::INFINITY);
    median(&steps).filter(|steps| steps.is_finite())
}

pub(super) fn lengths(index: &Index<'_>) -> Vec<LengthGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.other_lengths.is_empty()) {
        let mut lengths = distinct(
            trials.iter().flat_map(|t| t.other_lengths.iter().map(|evaluation| evaluation.length)),
        );
        lengths.sort_unstable();
        let quality = trials.iter().find_map(|trial| trial.quality.as_ref());
        for length in lengths {
            let values: Vec<SeedValue> = trials
                .iter()
                .flat_map(|trial| {
                    let at = trial.other_lengths.iter().filter(move |e| e.length == length);
                    at.map(|e| SeedValue {
                        seed: trial.cell.seed,
                        value: unless_diverged(trial, e.value),
                    })
                })
                .collect();
            found.push(LengthGroup {
                series: index.series(key),
                task: index.task(key),
                trained_length: key.length,
                length,
                metric: quality.map_or_else(String::new, |quality| quality.metric.clone()),
                better: quality.map_or(Better::Lower, |quality| quality.better),
                spread: Spread::of(values.iter().map(|value| value.value)),
                values,
            });
        }
    }
    found
}
