//! Runs trials of a result folder again and compares.
//!
//! On the machine and build that a record comes from, every bit must be the same. Elsewhere (another
//! processor, another build, a GPU) sums are taken in another order, so that results can only be close:
//! then what no training has touched must agree within [`UNTRAINED`], what training has touched within
//! [`TRAINED`], relative to the larger number, and words (solved, diverged) must be the same.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use unroll_results::compare::{self, Difference, Divergence};
use unroll_results::record::{Status, TrialRecord};
use unroll_results::{Environment, Manifest, store};

use crate::experiment::Trial;
use crate::progress::Progress;
use crate::trial::{self, Outcome, Surroundings};
use crate::{device, environment};

/// Largest relative difference before training: initial metric and loss, gradient norms at
/// initialisation.
pub const UNTRAINED: f64 = 1e-3;

/// Largest relative difference after training, which makes small differences large.
pub const TRAINED: f64 = 0.5;

/// How a replayed trial compares.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The same bits.
    Same,
    /// Within the tolerances, where bits cannot be expected to be the same.
    Close {
        /// Why.
        because: String,
        /// Largest relative difference of what no training has touched.
        untrained: f64,
        /// Largest relative difference of what training has touched.
        trained: f64,
    },
    /// Not the same.
    Different {
        /// Why more than the same bits was not asked for, if so.
        because: Option<String>,
        /// Where the weights part.
        divergence: Option<Divergence>,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// Interrupted.
    Interrupted,
}

/// A replayed trial.
#[derive(Debug, Clone, Serialize)]
pub struct Replayed {
    /// The trial.
    pub trial: String,
    /// Its name for people.
    pub name: String,
    /// How it compares.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Why a trial cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The folder.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
    /// No trial has such an id.
    #[error("no trial of {dir} has an id that begins with `{id}`")]
    Unknown {
        /// The folder.
        dir: String,
        /// What was given.
        id: String,
    },
    /// Several trials have such an id.
    #[error("{count} trials have an id that begins with `{id}`: give more of it")]
    Ambiguous {
        /// What was given.
        id: String,
        /// How many.
        count: usize,
    },
    /// The trial has no results.
    #[error("trial {id} has no results to compare with: {why}")]
    NoResults {
        /// The trial.
        id: String,
        /// Why not.
        why: String,
    },
    /// This version of the program cannot run the trial.
    #[error("trial {id} cannot be run by this version of the program: {why}")]
    Meaning {
        /// The trial.
        id: String,
        /// Why not.
        why: String,
    },
    /// The device cannot be opened.
    #[error("{0}")]
    Device(String),
}

/// The trials to replay: the one whose id begins with `id`, or all that have results. With the record
/// of each.
///
/// # Errors
/// [`ReplayError`].
pub fn select(dir: &Path, id: Option<&str>) -> Result<Vec<(Trial, TrialRecord)>, ReplayError> {
    let manifest = Manifest::read(dir)?;
    let chosen =
        |trial: &&unroll_results::PlannedTrial| id.is_none_or(|id| trial.id.starts_with(id));
    let planned: Vec<_> = manifest.trials.iter().filter(chosen).collect();
    if let Some(id) = id {
        match planned.len() {
            1 => {}
            0 => {
                let (dir, id) = (dir.display().to_string(), id.to_owned());
                return Err(ReplayError::Unknown { dir, id });
            }
            count => return Err(ReplayError::Ambiguous { id: id.to_owned(), count }),
        }
    }
    let mut trials = Vec::new();
    for planned in planned {
        let none = |why: &str| ReplayError::NoResults { id: planned.id.clone(), why: why.into() };
        let record = match store::find(dir, &planned.id)? {
            Some(record) => match &record.status {
                Status::Failed { message } if id.is_some() => return Err(none(message)),
                Status::Failed { .. } => continue,
                _ => record,
            },
            None if id.is_some() => return Err(none("it has not been run")),
            None => continue,
        };
        let trial = Trial::from_manifest(planned).map_err(|error| ReplayError::Meaning {
            id: planned.id.clone(),
            why: error.to_string(),
        })?;
        trials.push((trial, record));
    }
    Ok(trials)
}

/// Runs a trial again and compares.
///
/// # Errors
/// [`ReplayError`].
pub fn replay(
    dir: &Path,
    trial: &Trial,
    recorded: &TrialRecord,
    progress: &dyn Progress,
    interrupt: &AtomicBool,
) -> Result<Replayed, ReplayError> {
    let here = environment::current(rayon::current_num_threads());
    let because = elsewhere(dir, recorded, &here);
    let device = device::open(&trial.device).map_err(ReplayError::Device)?;
    let id = here.id();
    let surroundings = Surroundings {
        progress,
        interrupt,
        checkpoints: None,
        keep_weights: None,
        environment: &id,
    };
    let verdict = match trial::run(trial, &device, surroundings) {
        Outcome::Paused(_) => Verdict::Interrupted,
        Outcome::Ended(replayed) => {
            progress.finished(trial, &replayed);
            compare(recorded, &replayed, because)
        }
    };
    let name = crate::progress::describe(trial);
    Ok(Replayed { trial: trial.id.clone(), name, verdict })
}

/// Why bits cannot be expected to be the same here; `None` when they can.
fn elsewhere(dir: &Path, recorded: &TrialRecord, here: &Environment) -> Option<String> {
    if recorded.cell.device != "cpu" {
        return Some("a GPU does not promise the order of sums".into());
    }
    let Ok(there) = Environment::read(dir, &recorded.timing.environment) else {
        return Some("the environment of the record is unknown".into());
    };
    let show = |(set, cpu): (&str, Option<&str>)| format!("{} ({set})", cpu.unwrap_or("unknown"));
    if there.machine() != here.machine() || there.target != here.target {
        let (there, here) = (show(there.machine()), show(here.machine()));
        return Some(format!("recorded on {there}, replayed on {here}"));
    }
    if there.numerics() != here.numerics() {
        return Some(format!("recorded by build {}, replayed by {}", there.build(), here.build()));
    }
    None
}

/// Compares two records; `because` says why only closeness is asked for.
fn compare(recorded: &TrialRecord, replayed: &TrialRecord, because: Option<String>) -> Verdict {
    if recorded.fingerprint() == replayed.fingerprint() {
        return Verdict::Same;
    }
    let differences = compare::differences(recorded, replayed);
    let divergence = compare::divergence(recorded, replayed);
    let Some(because) = because else {
        return Verdict::Different { because: None, divergence, differences };
    };
    let (mut untrained, mut trained) = (0.0f64, 0.0f64);
    let mut close = true;
    for difference in &differences {
        let relative = difference.relative().unwrap_or(f64::INFINITY);
        let (worst, tolerance) = if is_untrained(&difference.at, recorded) {
            (&mut untrained, UNTRAINED)
        } else {
            (&mut trained, TRAINED)
        };
        *worst = worst.max(relative);
        close &= relative <= tolerance;
    }
    if close {
        Verdict::Close { because, untrained, trained }
    } else {
        Verdict::Different { because: Some(because), divergence, differences }
    }
}

/// Whether no training step has touched a number: the first point of the curve, gradients at
/// initialisation.
fn is_untrained(at: &str, record: &TrialRecord) -> bool {
    let index = |list: &str| {
        at.strip_prefix(list)?.strip_prefix('.')?.split('.').next()?.parse::<usize>().ok()
    };
    let step = match (index("curve"), index("gradient")) {
        (Some(point), _) => record.curve.get(point).map(|point| point.step),
        (_, Some(point)) => record.gradient.get(point).map(|point| point.step),
        _ => None,
    };
    step == Some(0)
}
