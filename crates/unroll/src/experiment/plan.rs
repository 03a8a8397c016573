//! From an experiment file to the list of its trials.

use std::collections::BTreeMap;
use std::path::Path;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unroll_core::{Architecture, Cost};
use unroll_results::record::{Cell, TrialKind};
use unroll_results::{Manifest, PlannedTrial, Skipped, canonical};

use super::planner::Planner;
use super::source::{Document, SourceError, help_with_names};
use super::{Experiment, GradientSettings, ThroughputSettings};
use crate::registry;

/// Version of what a trial computes. A change that changes results raises it, so that old trials
/// are not taken for new ones.
pub const ALGORITHM: u32 = 1;

/// The resolved meaning of a trial: everything that its results depend on, defaults included, and
/// nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialSpec {
    /// [`ALGORITHM`].
    pub algorithm: u32,
    /// What is measured.
    pub kind: TrialKind,
    /// Architecture.
    pub arch: String,
    /// All of its options, after matching.
    pub options: Map<String, Value>,
    /// Initialiser.
    pub init: unroll_core::Init,
    /// Task.
    pub task: String,
    /// All of its options.
    pub task_options: Map<String, Value>,
    /// Hashes of the data files that the task reads.
    pub data: BTreeMap<String, String>,
    /// Sequence length asked of the task, steps.
    pub length: usize,
    /// Seed of initial values, batches and dropout.
    pub seed: u64,
    /// Element type.
    pub dtype: super::ElementType,
    /// How f32 products round. Trials from before there was a choice, and those that round nothing, leave
    /// it out of their meaning.
    #[serde(default, skip_serializing_if = "super::Precision::is_exact")]
    pub precision: super::Precision,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Training, of quality and throughput trials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<unroll_train::TrainConfig>,
    /// Lengths evaluated after training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evaluate_lengths: Vec<usize>,
    /// Gradient measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient: Option<GradientSettings>,
    /// Throughput measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<ThroughputSettings>,
}

impl TrialSpec {
    /// The trial's name: the first 32 hexadecimal digits of the BLAKE3 hash of its canonical JSON
    /// (keys sorted, no spaces).
    pub fn id(&self) -> String {
        canonical::hash(self)
    }

    /// Registry line of the architecture.
    pub fn architecture(&self) -> Option<&'static dyn Architecture> {
        registry::find(&self.arch)
    }
}

/// One planned trial.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Hash of the meaning.
    pub id: String,
    /// The meaning.
    pub spec: TrialSpec,
    /// Where it stands in the sweep, for tables.
    pub cell: Cell,
    /// Device to run on: `cpu`, `cuda:0`, ...
    pub device: String,
    /// Trainable parameters of the whole model.
    pub parameters: u64,
    /// A rough number of seconds that the trial takes on one core: only ratios matter, to weigh trials
    /// against each other.
    pub weight: f64,
    /// Why this machine is too small for it, if it is: it would fail. No part of the manifest, which is the
    /// same on every machine.
    pub too_large: Option<String>,
}

impl Trial {
    /// A trial of this meaning, whose forward and backward pass over a batch cost `cost`.
    pub fn new(spec: TrialSpec, cell: Cell, device: String, cost: &Cost) -> Self {
        const FLOPS: f64 = 1e10;
        let training = cost.training_flops() as f64 / FLOPS;
        let weight = match spec.kind {
            TrialKind::Quality => {
                let steps = spec.train.as_ref().map_or(0, |train| train.steps);
                0.05 + training * steps as f64
            }
            TrialKind::Gradient => 0.05 + 4.0 * training,
            TrialKind::Throughput => {
                let seconds = spec.throughput.as_ref().map_or(0.5, |t| t.min_seconds);
                4.0 * seconds + 10.0 * training
            }
        };
        let (id, parameters) = (spec.id(), cost.parameters);
        Self { id, spec, cell, device, parameters, weight, too_large: None }
    }

    /// A trial as a manifest has it.
    ///
    /// # Errors
    /// When this version of the program does not know the meaning: what of it.
    pub fn from_manifest(planned: &PlannedTrial) -> Result<Self, serde_json::Error> {
        let spec: TrialSpec = serde_json::from_value(planned.spec.clone())?;
        if spec.id() != planned.id {
            let message = "this version of the program gives the trial another meaning";
            return Err(serde::de::Error::custom(message));
        }
        let (cell, weight) = (planned.cell.clone(), planned.weight);
        let (id, device, too_large) = (spec.id(), cell.device.clone(), None);
        Ok(Self { id, spec, device, cell, parameters: 0, weight, too_large })
    }
}

/// All trials of an experiment, in the order in which they run.
#[derive(Debug)]
pub struct Plan {
    /// The file.
    pub experiment: Experiment,
    /// The text that it was read from, with `--set` written into it.
    pub text: String,
    /// The trials; none where all data are missing.
    pub trials: Vec<Trial>,
    /// Cells of the sweep that cannot run, because their data are not there.
    pub skipped: Vec<Skipped>,
    /// What is run otherwise than the file reads, and which architectures are not of equal size: a sentence
    /// each, without its full stop.
    pub notes: Vec<String>,
}

/// What makes planning fail.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum PlanError {
    /// Something in the file or a `--set`.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Source(#[from] Box<SourceError>),
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Plan {
    /// The plan as it is frozen in a result folder.
    pub fn manifest(&self) -> Manifest {
        let planned = |trial: &Trial| PlannedTrial {
            id: trial.id.clone(),
            kind: trial.spec.kind,
            cell: trial.cell.clone(),
            weight: trial.weight,
            spec: serde_json::to_value(&trial.spec).unwrap_or_default(),
        };
        Manifest::new(
            self.experiment.name.clone(),
            self.experiment.question.trim().to_owned(),
            self.experiment.analysis.trim().to_owned(),
            self.trials.iter().map(planned).collect(),
        )
        .with_skipped(self.skipped.clone())
    }

    /// Reads an experiment file, sets the given `key=value` pairs over it, and lists its trials.
    /// `device` replaces the axis of that name.
    ///
    /// # Errors
    /// For anything that would keep a trial from running: nothing is left to be found later. Data that are
    /// fetched when asked for, and are not there, are no error: see [`Plan::skipped`].
    pub fn read(path: &Path, sets: &[String], device: Option<&str>) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::Read { path: path.display().to_string(), source })?;
        let mut document = Document::parse(path, text)?;
        for set in sets {
            document.set(set)?;
        }
        if let Some(device) = device {
            document.set(&format!("axes.device=[{}]", Value::String(device.into())))?;
        }
        Ok(Planner::new(document)?.plan()?)
    }
}

/// Help for a name that does not exist; see [`help_with_names`].
pub fn nearest(given: &str, names: &[&str]) -> String {
    help_with_names(given, names)
}
