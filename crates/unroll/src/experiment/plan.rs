//! From an experiment file to the list of its trials.

use std::collections::BTreeMap;
use std::path::Path;

use miette::Diagnostic;
use serde::Serialize;
use serde_json::{Map, Value};
use unroll_core::{Architecture, Cost};
use unroll_results::record::{Cell, TrialKind};

use super::planner::Planner;
use super::source::{Document, SourceError, help_with_names};
use super::{Experiment, GradientSettings, ThroughputSettings};
use crate::registry;

/// Version of what a trial computes. A change that changes results raises it, so that old trials
/// are not taken for new ones.
pub const ALGORITHM: u32 = 1;

/// The resolved meaning of a trial: everything that its results depend on, defaults included, and
/// nothing else.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// `cpu` or `cuda`.
    pub device: String,
    /// Training, of quality and throughput trials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<unroll_train::TrainConfig>,
    /// Lengths evaluated after training.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub evaluate_lengths: Vec<usize>,
    /// Gradient measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient: Option<GradientSettings>,
    /// Throughput measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput: Option<ThroughputSettings>,
}

impl TrialSpec {
    /// The trial's name: the first 32 hexadecimal digits of the BLAKE3 hash of its canonical JSON
    /// (keys sorted, no spaces).
    pub fn id(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut text = String::new();
        canonical(&value, &mut text);
        blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
    }

    /// Registry line of the architecture.
    pub fn architecture(&self) -> Option<&'static dyn Architecture> {
        registry::find(&self.arch)
    }
}

/// JSON with sorted keys, so that the text does not depend on a library's map.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
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
    /// Counted forward FLOPs of one batch: what trials are weighed by.
    pub cost: Cost,
}

/// All trials of an experiment, in the order in which they run.
#[derive(Debug)]
pub struct Plan {
    /// The file.
    pub experiment: Experiment,
    /// The text that it was read from.
    pub text: String,
    /// The trials.
    pub trials: Vec<Trial>,
}

/// What makes planning fail.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum PlanError {
    /// Something in the file or a `--set`.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Source(#[from] Box<SourceError>),
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Plan {
    /// Reads an experiment file, sets the given `key=value` pairs over it, and lists its trials.
    /// `device` replaces the axis of that name.
    ///
    /// # Errors
    /// For anything that would keep a trial from running: nothing is left to be found later.
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
