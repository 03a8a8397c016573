//! Runs a plan: what is on disk is kept, the rest runs, every finished trial is on disk before the
//! next begins; tables, plots and the report follow.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use unroll_results::record::{Status, TrialKind};
use unroll_results::{TrialRecord, store};

use crate::environment::Environment;
use crate::experiment::{Plan, Trial};
use crate::progress::Progress;
use crate::trial;

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The output folder cannot be written.
    #[error("cannot write to {}: {source}", path.display())]
    Output {
        /// Folder or file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A record could not be written or read.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
    /// A thread pool could not be made.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// The device cannot be opened.
    #[error("{0}")]
    Device(String),
}

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Result folder.
    pub out: PathBuf,
    /// Trials at the same time (throughput trials always run alone).
    pub jobs: usize,
    /// Threads of each trial.
    pub threads: usize,
    /// Whether the first failed trial ends the run.
    pub fail_fast: bool,
    /// The command that the user gave, for the report.
    pub command: String,
}

/// What has become of the trials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    /// Trials of the plan.
    pub planned: usize,
    /// Were on disk before.
    pub reused: usize,
    /// Ran to their end now, diverged ones among them.
    pub ran: usize,
    /// Diverged, now or before.
    pub diverged: usize,
    /// Failed now.
    pub failed: usize,
    /// Whether the run was interrupted.
    pub interrupted: bool,
}

/// The trials of a plan as they are written beside the results.
#[derive(Debug, Serialize, serde::Deserialize)]
pub struct Manifest {
    /// Layout of this file.
    pub schema: u32,
    /// Name of the experiment.
    pub experiment: String,
    /// The command that made it.
    pub command: String,
    /// The trials in order.
    pub trials: Vec<ManifestTrial>,
}

/// One line of a manifest.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct ManifestTrial {
    /// Hash of the meaning.
    pub id: String,
    /// What it measures.
    pub kind: TrialKind,
    /// Where it stands in the sweep.
    pub cell: unroll_results::record::Cell,
}

/// Runs what is missing of a plan. Does not write tables: see [`crate::report`].
///
/// # Errors
/// When the folder cannot be written or a device cannot be opened; failed trials are no errors but
/// records.
pub fn run(
    plan: &Plan,
    options: &RunOptions,
    progress: &dyn Progress,
    interrupt: &AtomicBool,
) -> Result<RunOutcome, RunError> {
    prepare(plan, options)?;
    let done = finished(plan, &options.out)?;
    let left: Vec<&Trial> = plan.trials.iter().filter(|t| !done.contains_key(&t.id)).collect();
    let mut devices = HashMap::new();
    for trial in &left {
        if !devices.contains_key(&trial.device) {
            let device = crate::device::open(&trial.device).map_err(RunError::Device)?;
            devices.insert(trial.device.clone(), device);
        }
    }

    let shared = Shared {
        options,
        progress,
        interrupt,
        devices,
        outcome: Mutex::new(RunOutcome {
            planned: plan.trials.len(),
            reused: done.len(),
            diverged: done.values().filter(|r| matches!(r.status, Status::Diverged { .. })).count(),
            ..RunOutcome::default()
        }),
    };
    // Timings of trials that share the machine with others would be wrong.
    let (alone, together): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|trial| trial.spec.kind == TrialKind::Throughput);
    shared.work(together, options.jobs.max(1))?;
    shared.work(alone, 1)?;
    let mut outcome = shared.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.interrupted = interrupt.load(Ordering::Relaxed);
    Ok(outcome)
}

/// Makes the folder and writes down what will run.
fn prepare(plan: &Plan, options: &RunOptions) -> Result<(), RunError> {
    let out = &options.out;
    let trials = store::trials_dir(out);
    std::fs::create_dir_all(&trials)
        .map_err(|source| RunError::Output { path: trials.clone(), source })?;
    store::write_bytes(&out.join("experiment.toml"), plan.text.as_bytes())?;
    let manifest = Manifest {
        schema: 1,
        experiment: plan.experiment.name.clone(),
        command: options.command.clone(),
        trials: plan
            .trials
            .iter()
            .map(|t| ManifestTrial { id: t.id.clone(), kind: t.spec.kind, cell: t.cell.clone() })
            .collect(),
    };
    write_json(&out.join("manifest.json"), &manifest)?;
    write_json(&out.join("environment.json"), &Environment::current(options.threads))?;
    Ok(())
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RunError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| RunError::Output {
        path: path.to_owned(),
        source: std::io::Error::other(error),
    })?;
    bytes.push(b'\n');
    Ok(store::write_bytes(path, &bytes)?)
}

/// The trials of a plan that have a record which is no failure.
pub fn finished(plan: &Plan, out: &Path) -> Result<HashMap<String, TrialRecord>, RunError> {
    let mut done = HashMap::new();
    for trial in &plan.trials {
        let path = store::path(out, &trial.id)?;
        if path.exists() {
            let record = store::read(&path)?;
            if !matches!(record.status, Status::Failed { .. }) {
                done.insert(trial.id.clone(), record);
            }
        }
    }
    Ok(done)
}

struct Shared<'a> {
    options: &'a RunOptions,
    progress: &'a dyn Progress,
    interrupt: &'a AtomicBool,
    devices: HashMap<String, candle_core::Device>,
    outcome: Mutex<RunOutcome>,
}

impl Shared<'_> {
    /// Works off trials with `jobs` workers, each with its own threads.
    fn work(&self, trials: Vec<&Trial>, jobs: usize) -> Result<(), RunError> {
        let jobs = jobs.min(trials.len());
        let queue = Mutex::new(VecDeque::from(trials));
        let stop = AtomicBool::new(false);
        let mut pools = Vec::with_capacity(jobs);
        for _ in 0..jobs {
            let threads = self.options.threads;
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                // Graphs of unrolled sequences are walked by recursion.
                .stack_size(256 << 20)
                .build()
                .map_err(|source| RunError::Threads { threads, source })?;
            pools.push(pool);
        }
        let first_error = Mutex::new(None);
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| {
                    loop {
                        if stop.load(Ordering::Relaxed) || self.interrupt.load(Ordering::Relaxed) {
                            return;
                        }
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(trial) = next else { return };
                        match pool.install(|| self.one(trial)) {
                            Ok(true) => {}
                            Ok(false) => stop.store(true, Ordering::Relaxed),
                            Err(error) => {
                                stop.store(true, Ordering::Relaxed);
                                let mut first =
                                    first_error.lock().unwrap_or_else(PoisonError::into_inner);
                                first.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Runs one trial and writes its record; `false` when the run should end.
    fn one(&self, trial: &Trial) -> Result<bool, RunError> {
        self.progress.started(trial);
        let device = &self.devices[&trial.device];
        let Some(record) = trial::run(trial, device, self.progress, self.interrupt) else {
            return Ok(false);
        };
        store::write(&self.options.out, &record)?;
        {
            let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match record.status {
                Status::Failed { .. } => outcome.failed += 1,
                Status::Diverged { .. } => {
                    outcome.ran += 1;
                    outcome.diverged += 1;
                }
                Status::Finished {} => outcome.ran += 1,
            }
        }
        self.progress.finished(trial, &record);
        let failed = matches!(record.status, Status::Failed { .. });
        Ok(!(failed && self.options.fail_fast))
    }
}
