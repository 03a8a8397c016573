//! What was run: the part of a report before its numbers.

use super::{Index, distinct};
use crate::record::{Status, TrialKind};

/// What was run, each as the different values in the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Trials with a record.
    pub trials: usize,
    /// Of these, finished.
    pub finished: usize,
    /// Of these, diverged.
    pub diverged: usize,
    /// Of these, failed.
    pub failed: usize,
    /// What the architectures were matched by.
    pub matched_by: Vec<String>,
    /// Seeds, ascending.
    pub seeds: Vec<u64>,
    /// Lengths, ascending, steps.
    pub lengths: Vec<usize>,
    /// Devices.
    pub devices: Vec<String>,
    /// Number types.
    pub dtypes: Vec<String>,
    /// How f32 products round.
    pub precisions: Vec<String>,
    /// Forms that ran.
    pub forms: Vec<String>,
    /// Sequences per batch, ascending.
    pub batch_sizes: Vec<usize>,
    /// What differs between the kinds of trials, for each kind that there is.
    pub kinds: Vec<KindSetting>,
}

/// What the trials of one kind have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindSetting {
    /// What they measure.
    pub kind: TrialKind,
    /// Number types.
    pub dtypes: Vec<String>,
    /// Sequences per batch, ascending.
    pub batch_sizes: Vec<usize>,
}

/// A series of plots and tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesInfo {
    /// Its name; with the device when the records are of several.
    pub name: String,
    /// Registry name of its architecture.
    pub architecture: String,
    /// How that carries information along a sequence.
    pub family: String,
    /// Hidden sizes, ascending.
    pub hidden_sizes: Vec<usize>,
    /// Numbers of layers, ascending.
    pub num_layers: Vec<usize>,
    /// Trainable parameters, ascending: they can differ between tasks and lengths.
    pub parameters: Vec<u64>,
    /// Forms that ran.
    pub forms: Vec<String>,
}

/// A trial that diverged or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Id.
    pub trial: String,
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// Seed.
    pub seed: u64,
    /// How it ended: never [`Status::Finished`].
    pub status: Status,
}

pub(super) fn setting(index: &Index<'_>) -> Setting {
    let records = index.records;
    let of_kind = |kind| {
        let cells = || records.iter().filter(|r| r.kind == kind).map(|record| &record.cell);
        KindSetting {
            kind,
            dtypes: distinct(cells().map(|cell| cell.dtype.clone())),
            batch_sizes: ascending(cells().map(|cell| cell.batch_size)),
        }
    };
    let count = |name| records.iter().filter(|record| record.status.name() == name).count();
    Setting {
        trials: records.len(),
        finished: count("finished"),
        diverged: count("diverged"),
        failed: count("failed"),
        matched_by: distinct(records.iter().map(|record| record.cell.matched_by.clone())),
        seeds: ascending(records.iter().map(|record| record.cell.seed)),
        lengths: ascending(records.iter().map(|record| record.cell.length)),
        devices: distinct(records.iter().map(|record| record.cell.device.clone())),
        dtypes: distinct(records.iter().map(|record| record.cell.dtype.clone())),
        precisions: distinct(records.iter().map(|record| record.cell.precision.clone())),
        forms: distinct(records.iter().map(|record| record.cell.form.clone())),
        batch_sizes: ascending(records.iter().map(|record| record.cell.batch_size)),
        kinds: ascending(records.iter().map(|record| record.kind))
            .into_iter()
            .map(of_kind)
            .collect(),
    }
}

fn ascending<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

pub(super) fn series(index: &Index<'_>) -> Vec<SeriesInfo> {
    let of = |number: usize| {
        let keyed = index.keys.iter().zip(index.records);
        keyed.filter(move |(key, _)| key.series == number).map(|(_, record)| record)
    };
    let info = |(number, name): (usize, &String)| SeriesInfo {
        name: name.clone(),
        architecture: of(number)
            .next()
            .map_or_else(String::new, |record| record.cell.architecture.clone()),
        family: of(number).next().map_or_else(String::new, |record| record.cell.family.clone()),
        hidden_sizes: ascending(of(number).map(|record| record.cell.hidden_size)),
        num_layers: ascending(of(number).map(|record| record.cell.num_layers)),
        parameters: ascending(
            of(number).filter_map(|record| record.cost.as_ref().map(|cost| cost.parameters)),
        ),
        forms: distinct(of(number).map(|record| record.cell.form.clone())),
    };
    index.series.iter().enumerate().map(info).collect()
}

pub(super) fn failures(index: &Index<'_>) -> Vec<Failure> {
    let keyed = index.keys.iter().zip(index.records);
    keyed
        .filter(|(_, record)| !matches!(record.status, Status::Finished {}))
        .map(|(key, record)| Failure {
            trial: record.id.clone(),
            series: index.series(*key),
            task: index.task(*key),
            length: key.length,
            seed: record.cell.seed,
            status: record.status.clone(),
        })
        .collect()
}
