//! Runs a plan: what is on disk is kept, the rest runs, every finished trial is on disk before the
//! next begins; tables, plots and the report follow.
//!
//! Several processes may run the same plan in one folder. They share the trials by claims
//! ([`unroll_results::claims`]), and what each of them writes would be the same.

mod folder;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use serde::Serialize;
use unroll_results::claims::{self, Attempt, Beat, Claim, Claims, Owner};
use unroll_results::events::{Event, EventLog};
use unroll_results::record::{Status, TrialKind};
use unroll_results::run_folder::{self, State};
use unroll_results::store::{self, Kept};
use unroll_results::{Manifest, TrialRecord};

use self::folder::Folder;
use crate::checkpoint::Checkpoints;
use crate::cli::MOST_THREADS;
use crate::experiment::{Plan, Trial};
use crate::progress::Progress;
use crate::trial::{self, Outcome, Surroundings};
use crate::{device, environment, exit};

/// Time between two looks at trials that other processes work on.
const POLL: Duration = Duration::from_millis(500);

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something in the output folder cannot be written or read.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
    /// Another process runs other trials in the folder.
    #[error(
        "another process is running a different experiment in {}: {message}. Wait for it, or give \
         another --out", dir.display()
    )]
    Conflict {
        /// The folder.
        dir: PathBuf,
        /// How the two differ.
        message: String,
    },
    /// The disk became full; what had ended is safe.
    #[error(
        "no space left for {}: every trial that has ended is saved. Make room and give the same \
         command again", dir.display()
    )]
    Full {
        /// The folder.
        dir: PathBuf,
    },
    /// More threads than any machine has a use for.
    #[error(
        "{jobs} trials at the same time with {threads} threads each are {} threads: at most {MOST_THREADS} in all",
        jobs * threads
    )]
    TooManyThreads {
        /// Trials at the same time.
        jobs: usize,
        /// Threads of each.
        threads: usize,
    },
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

/// A part of a plan: number `index` (from 1) of `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// Which one, from 1.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').map(|(index, count)| (index.parse(), count.parse()));
        match parts {
            Some((Ok(index), Ok(count))) if 1 <= index && index <= count => {
                Ok(Self { index, count })
            }
            _ => Err("a shard is I/N with 1 <= I <= N, such as 2/7".into()),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
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
    /// The part of the plan to run; `None` is all of it.
    pub shard: Option<Shard>,
    /// Whether trials that failed before run again.
    pub retry_failed: bool,
    /// Whether the first failed trial ends the run.
    pub fail_fast: bool,
    /// Time between two checkpoints of a trial.
    pub checkpoint_every: Duration,
    /// Whether the weights of trained models are kept.
    pub keep_weights: bool,
    /// The command that the user gave, for the log and the report.
    pub command: String,
}

/// What has become of the trials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    /// Trials of the plan.
    pub planned: usize,
    /// Trials of this shard.
    pub selected: usize,
    /// Were on disk before, or came from other processes meanwhile.
    pub reused: usize,
    /// Ran to their end now, diverged ones among them.
    pub ran: usize,
    /// Diverged, now or before.
    pub diverged: usize,
    /// Failed, now or before.
    pub failed: usize,
    /// Had a record with other bits.
    pub conflicts: usize,
    /// Whether the run was interrupted.
    pub interrupted: bool,
}

impl RunOutcome {
    /// Trials that have no record yet.
    pub fn missing(&self) -> usize {
        self.selected.saturating_sub(self.reused + self.ran + self.failed)
    }

    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.conflicts, self.failed) {
            (true, _, _) => exit::INTERRUPTED,
            (_, 1.., _) => exit::MISMATCH,
            (_, _, 1..) => exit::FAILURE,
            _ => exit::OK,
        }
    }

    fn count_before(&mut self, state: State) {
        match state {
            State::Failed => self.failed += 1,
            State::Diverged => {
                self.diverged += 1;
                self.reused += 1;
            }
            _ => self.reused += 1,
        }
    }
}

/// Runs what is missing of a plan. Does not write tables: see [`crate::report`].
///
/// # Errors
/// When the folder cannot be written, belongs to another version or another running experiment, or a
/// device cannot be opened; failed trials are no errors but records.
pub fn run(
    plan: &Plan,
    options: &RunOptions,
    progress: &dyn Progress,
    interrupt: &AtomicBool,
) -> Result<RunOutcome, RunError> {
    let dir = &options.out;
    let (jobs, threads) = (options.jobs, options.threads);
    if jobs.saturating_mul(threads) > environment::cores().max(MOST_THREADS as usize) {
        return Err(RunError::TooManyThreads { jobs, threads });
    }
    let manifest = plan.manifest();
    let environment = environment::current(options.threads);
    let owner = Owner::current();
    let entered = Folder::enter(dir, plan, &manifest, &environment, options, &owner, progress)?;
    let selected: Vec<&Trial> = select(plan, &manifest, options.shard);
    let mut outcome = RunOutcome {
        planned: plan.trials.len(),
        selected: selected.len(),
        ..RunOutcome::default()
    };
    let mut left = Vec::new();
    let states = entered.states(&selected, progress)?;
    entered.tidy(&selected, &states)?;
    if options.keep_weights {
        folder::warn_of_missing_weights(dir, &selected, &states, progress)?;
    }
    for (trial, state) in selected.iter().zip(states) {
        match state {
            State::Finished | State::Diverged => outcome.count_before(state),
            State::Failed if !options.retry_failed => outcome.count_before(state),
            _ => left.push(*trial),
        }
    }
    folder::warn_of_other_builds(dir, &selected, &environment, progress)?;
    folder::warn_of_other_threads(dir, &selected, options.threads, progress)?;

    let mut devices = HashMap::new();
    for trial in &left {
        if !devices.contains_key(&trial.device) {
            let device = device::open(&trial.device).map_err(RunError::Device)?;
            devices.insert(trial.device.clone(), device);
        }
    }
    let numerics = environment.numerics();
    let checkpoints = Checkpoints::new(dir, numerics, options.checkpoint_every, &entered.log);
    let shared = Shared {
        options,
        folder: &entered,
        progress: Pulse { inner: progress, log: &entered.log, beats: Mutex::default() },
        interrupt,
        devices,
        checkpoints,
        claims: Mutex::new(Claims::new(dir, owner, claims::PATIENCE)?),
        claimed: Mutex::default(),
        outcome: Mutex::new(outcome),
        stop: AtomicBool::new(false),
    };
    // Timings of trials that share the machine with others would be wrong.
    let (alone, together): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|trial| trial.spec.kind == TrialKind::Throughput);
    let (done, beating) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || {
            // Until the sender is dropped.
            while let Err(mpsc::RecvTimeoutError::Timeout) = beating.recv_timeout(claims::HEARTBEAT)
            {
                shared.beat();
            }
        });
        let result =
            shared.work_off(together, options.jobs.max(1)).and_then(|()| shared.work_off(alone, 1));
        drop(done);
        result
    });
    let mut outcome = shared.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.interrupted = interrupt.load(Ordering::Relaxed);
    let code = result.as_ref().map_or(exit::FAILURE, |()| outcome.exit_code());
    entered.leave(code)?;
    if code == exit::OK {
        folder::tell_abandoned(dir, plan, progress)?;
    }
    result.map(|()| outcome)
}

/// The trials of a shard.
fn select<'a>(plan: &'a Plan, manifest: &Manifest, shard: Option<Shard>) -> Vec<&'a Trial> {
    match shard {
        None => plan.trials.iter().collect(),
        Some(Shard { index, count }) => {
            manifest.shard(index, count).into_iter().map(|place| &plan.trials[place]).collect()
        }
    }
}

/// Where each of some trials stands.
///
/// # Errors
/// When a record belongs to a newer version, or the folder cannot be read.
pub fn states(out: &Path, trials: &[&Trial]) -> Result<Vec<State>, RunError> {
    let ids = trials.iter().map(|trial| trial.id.clone());
    Ok(run_folder::states(out, ids)?.into_iter().map(|trial| trial.state).collect())
}

/// Passes progress on, writes it into the log and remembers it for the claims.
struct Pulse<'a> {
    inner: &'a dyn Progress,
    log: &'a EventLog,
    beats: Mutex<HashMap<String, Beat>>,
}

impl Progress for Pulse<'_> {
    fn started(&self, trial: &Trial, step: u64) {
        self.log.append(Event::TrialStarted { trial: trial.id.clone(), step });
        self.inner.started(trial, step);
    }

    fn advanced(&self, trial: &Trial, done: u64, total: u64, note: &str) {
        lock(&self.beats).insert(trial.id.clone(), Beat { done, total });
        self.inner.advanced(trial, done, total, note);
    }

    fn finished(&self, trial: &Trial, record: &TrialRecord) {
        self.inner.finished(trial, record);
    }

    fn note(&self, text: &str) {
        self.inner.note(text);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared<'a> {
    options: &'a RunOptions,
    folder: &'a Folder,
    progress: Pulse<'a>,
    interrupt: &'a AtomicBool,
    devices: HashMap<String, candle_core::Device>,
    checkpoints: Checkpoints<'a>,
    claims: Mutex<Claims>,
    /// Trials that run now.
    claimed: Mutex<HashMap<String, Claim>>,
    outcome: Mutex<RunOutcome>,
    stop: AtomicBool,
}

impl Shared<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.interrupt.load(Ordering::Relaxed)
    }

    /// Says that this process lives.
    fn beat(&self) {
        let beats = lock(&self.progress.beats);
        for (trial, claim) in lock(&self.claimed).iter() {
            claim.beat(beats.get(trial).copied().unwrap_or(Beat { done: 0, total: 0 }));
        }
    }

    /// Runs trials until none is left: those that other processes work on are waited for, and taken
    /// over if they die.
    fn work_off(&self, trials: Vec<&Trial>, jobs: usize) -> Result<(), RunError> {
        let mut queue = trials;
        let mut told = 0;
        while !queue.is_empty() && !self.stopped() {
            let before = queue.len();
            queue = self.work(queue, jobs)?;
            if !queue.is_empty() && queue.len() == before {
                if told != queue.len() {
                    told = queue.len();
                    let trials = if told == 1 { "trial" } else { "trials" };
                    self.progress
                        .note(&format!("Waiting for {told} {trials} in work by other processes."));
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }

    /// Works off trials with `jobs` workers, each with its own threads; what other processes hold is
    /// given back.
    fn work<'t>(&self, trials: Vec<&'t Trial>, jobs: usize) -> Result<Vec<&'t Trial>, RunError> {
        let jobs = jobs.min(trials.len());
        let queue = Mutex::new(VecDeque::from(trials));
        let held = Mutex::new(Vec::new());
        let first_error = Mutex::new(None);
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
        std::thread::scope(|scope| {
            for pool in &pools {
                scope.spawn(|| {
                    while !self.stopped() {
                        let next = lock(&queue).pop_front();
                        let Some(trial) = next else { return };
                        match pool.install(|| self.one(trial)) {
                            Ok(true) => {}
                            Ok(false) => lock(&held).push(trial),
                            Err(error) => {
                                self.stop.store(true, Ordering::Relaxed);
                                lock(&first_error).get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(held.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Runs one trial and keeps its record; `false` when another process holds it.
    fn one(&self, trial: &Trial) -> Result<bool, RunError> {
        let Attempt::Taken(claim) = lock(&self.claims).attempt(&trial.id)? else {
            return Ok(false);
        };
        // Between the look at the folder and the claim, another process may have ended it.
        if let Some(record) = store::find(&self.folder.dir, &trial.id)?
            && !(self.options.retry_failed && matches!(record.status, Status::Failed { .. }))
        {
            lock(&self.outcome).count_before(match record.status {
                Status::Finished {} => State::Finished,
                Status::Diverged { .. } => State::Diverged,
                Status::Failed { .. } => State::Failed,
            });
            self.progress.finished(trial, &record);
            return Ok(true);
        }
        lock(&self.claimed).insert(trial.id.clone(), claim);
        let result = self.claimed(trial);
        lock(&self.claimed).remove(&trial.id);
        result.map(|()| true)
    }

    /// Runs a trial that this process holds.
    fn claimed(&self, trial: &Trial) -> Result<(), RunError> {
        let surroundings = Surroundings {
            progress: &self.progress,
            interrupt: self.interrupt,
            checkpoints: Some(&self.checkpoints),
            keep_weights: self.options.keep_weights.then_some(&self.folder.dir),
            environment: &self.folder.environment,
        };
        let id = || trial.id.clone();
        let record = match trial::run(trial, &self.devices[&trial.device], surroundings) {
            Outcome::Ended(record) => record,
            Outcome::Paused(step) => {
                self.folder.log.append(Event::TrialPaused { trial: id(), step });
                return Ok(());
            }
        };
        let kept = self.folder.keep(&record)?;
        let message = match &record.status {
            Status::Failed { message } => Some(message.clone()),
            _ => None,
        };
        let (status, fingerprint) = (record.status.name().to_owned(), record.fingerprint());
        if let Kept::Conflict(path) = &kept {
            self.folder.log.append(Event::Conflict { trial: id(), fingerprint });
            self.progress.note(&format!(
                "Trial {} ran twice with different bits: the first result stays, the second is {}. \
                 Something is not deterministic.",
                trial.id,
                path.display()
            ));
        } else {
            self.folder.log.append(Event::TrialEnded { trial: id(), status, fingerprint, message });
        }
        self.checkpoints.remove(&trial.id)?;
        {
            let mut outcome = lock(&self.outcome);
            outcome.conflicts += usize::from(matches!(kept, Kept::Conflict(_)));
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
        if self.options.fail_fast && matches!(record.status, Status::Failed { .. }) {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
