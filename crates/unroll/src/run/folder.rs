//! The result folder that a run works in: entering, keeping records, leaving; and what a user should know of what
//! is there already.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use unroll_core::memory::readable;
use unroll_results::claims::Owner;
use unroll_results::events::{self, Event, EventLog};
use unroll_results::record::TrialKind;
use unroll_results::run_folder::{self, State};
use unroll_results::store::{self, Kept};
use unroll_results::{Environment, Manifest, TrialRecord, canonical, files, layout};

use super::{RunError, RunOptions};
use crate::experiment::{Plan, Trial};
use crate::progress::Progress;

/// Room kept free on the disk for the record of a trial that ends when the disk is full, bytes.
const RESERVE: usize = 4 << 20;

/// Says when results are kept that another build or machine has computed.
pub(super) fn warn_of_other_builds(
    dir: &Path,
    trials: &[&Trial],
    environment: &Environment,
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for trial in trials {
        if let Some(record) = store::find(dir, &trial.id)? {
            *counts.entry(record.timing.environment).or_default() += 1;
        }
    }
    let (mut others, mut example) = (0, None);
    for (id, count) in counts {
        match Environment::read(dir, &id) {
            Ok(other) if other.numerics() == environment.numerics() => {}
            Ok(other) => {
                others += count;
                example = example.max(Some(other.build()));
            }
            Err(_) => others += count,
        }
    }
    if others > 0 {
        progress.note(&format!(
            "{others} trials of this folder were computed by another build or machine ({}) than \
             this one ({}). They are kept; `unroll replay {}` tells whether the results are the same.",
            example.unwrap_or_else(|| "unknown".into()),
            environment.build(),
            dir.display()
        ));
    }
    Ok(())
}

/// Says when times are kept that were taken with another number of threads: one table then holds both.
pub(super) fn warn_of_other_threads(
    dir: &Path,
    trials: &[&Trial],
    threads: usize,
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let mut others = BTreeMap::<u64, usize>::new();
    for trial in trials.iter().filter(|trial| trial.spec.kind == TrialKind::Throughput) {
        if let Some(record) = store::find(dir, &trial.id)? {
            let timing = record.timing;
            // Records from before threads were kept have an environment that tells.
            let known = timing.threads.or_else(|| {
                Environment::read(dir, &timing.environment).ok().map(|e| e.threads as u64)
            });
            if let Some(other) = known.filter(|&known| known != threads as u64) {
                *others.entry(other).or_default() += 1;
            }
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    let count: usize = others.values().sum();
    let with: Vec<String> = others.keys().map(u64::to_string).collect();
    progress.note(&format!(
        "{count} throughput {} of this folder had {} threads, this run gives each {threads}. Their times are \
         kept but do not compare with new ones: give the same --threads, or another --out.",
        if count == 1 { "trial" } else { "trials" },
        with.join(" or ")
    ));
    Ok(())
}

/// Says when finished trials have no weights although they are to be kept: weights are written when a trial ends.
pub(super) fn warn_of_missing_weights(
    dir: &Path,
    trials: &[&Trial],
    states: &[State],
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let mut count = 0;
    for (trial, state) in trials.iter().zip(states) {
        if trial.spec.kind == TrialKind::Quality && *state == State::Finished {
            let path = layout::file_of(dir, layout::WEIGHTS, &trial.id, "safetensors")?;
            count += usize::from(!path.exists());
        }
    }
    if count > 0 {
        let trials = if count == 1 { "trial" } else { "trials" };
        progress.note(&format!(
            "{count} {trials} had finished before without keeping weights, and {} none now: weights are written \
             when a trial ends. Give another --out to train again with them.",
            if count == 1 { "has" } else { "have" }
        ));
    }
    Ok(())
}

/// Says how much is kept of trials that had begun and are no longer part of the experiment.
pub(super) fn tell_abandoned(
    dir: &Path,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let planned: HashSet<&str> = plan.trials.iter().map(|trial| trial.id.as_str()).collect();
    let (mut count, mut bytes) = (0, 0);
    for id in files::stems(&dir.join(layout::CHECKPOINTS), "checkpoint")? {
        if !planned.contains(id.as_str()) {
            let path = layout::file_of(dir, layout::CHECKPOINTS, &id, "checkpoint")?;
            count += 1;
            bytes += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        }
    }
    if count > 0 {
        progress.note(&format!(
            "{} holds {count} {} ({}) of trials that are not part of the experiment as it is now. They are of \
             use only if it becomes again what it was; otherwise they can be removed.",
            dir.join(layout::CHECKPOINTS).display(),
            if count == 1 { "checkpoint" } else { "checkpoints" },
            readable(bytes.into())
        ));
    }
    Ok(())
}

/// A result folder that this process has entered.
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) log: EventLog,
    pub(super) environment: String,
    reserve: PathBuf,
}

impl Folder {
    /// Makes the folder if need be, tidies up after processes that were killed, and writes down what
    /// will run.
    pub(super) fn enter(
        dir: &Path,
        plan: &Plan,
        manifest: &Manifest,
        environment: &Environment,
        options: &RunOptions,
        owner: &Owner,
        progress: &dyn Progress,
    ) -> Result<Self, RunError> {
        // Before anything is written: a folder of another version is left as it is.
        let before = match Manifest::find(dir) {
            Err(error) if error.is_damage() => {
                let aside = store::set_aside(dir, &dir.join(layout::MANIFEST))?;
                progress.note(&format!("{error}; it is now {}", aside.display()));
                None
            }
            other => other?,
        };
        files::create_dir(&dir.join(layout::TRIALS))?;
        let log = EventLog::create(dir, &owner.host)?;
        let others = events::others_live(dir, log.process())?;
        if let Some(message) = before.as_ref().and_then(|before| before.difference(manifest)) {
            if others {
                return Err(RunError::Conflict { dir: dir.to_owned(), message });
            }
            progress.note(&format!(
                "The experiment has changed since the last run here: {message}. Trials that mean \
                 the same are kept; the earlier list of trials is in {}/.",
                layout::MANIFESTS
            ));
        }
        run_folder::tidy(dir, log.process())?;
        let reserve = dir.join(format!("{}{}", layout::RESERVE, log.process()));
        write_reserve(&reserve)?;
        files::write(&dir.join(layout::EXPERIMENT), plan.text.as_bytes())?;
        manifest.write(dir)?;
        let environment = environment.write(dir)?;
        log.append(Event::Started {
            host: owner.host.clone(),
            pid: owner.pid,
            command: options.command.clone(),
            manifest: manifest.id.clone(),
            environment: environment.clone(),
            experiment: Some(canonical::hash_bytes(plan.text.as_bytes())),
        });
        Ok(Self { dir: dir.to_owned(), log, environment, reserve })
    }

    /// Where each trial stands; records that cannot be read are set aside.
    pub(super) fn states(
        &self,
        trials: &[&Trial],
        progress: &dyn Progress,
    ) -> Result<Vec<State>, RunError> {
        let states = super::states(&self.dir, trials)?;
        for (trial, _) in trials.iter().zip(&states).filter(|(_, s)| **s == State::Damaged) {
            let path = store::path(&self.dir, &trial.id)?;
            if let Err(error) = store::read(&path)
                && error.is_damage()
            {
                let aside = store::set_aside(&self.dir, &path)?;
                progress.note(&format!(
                    "{error}. It is now {}; the trial runs again.",
                    aside.display()
                ));
                let (file, message) = (path.display().to_string(), error.to_string());
                self.log.append(Event::SetAside { file, message });
            }
        }
        Ok(states)
    }

    /// Removes what processes that were killed right after a trial's end have left of it.
    pub(super) fn tidy(&self, trials: &[&Trial], states: &[State]) -> Result<(), RunError> {
        for (trial, _) in trials.iter().zip(states).filter(|(_, state)| state.is_done()) {
            for (folder, extension) in
                [(layout::CHECKPOINTS, "checkpoint"), (layout::CLAIMS, "claim")]
            {
                files::remove(&layout::file_of(&self.dir, folder, &trial.id, extension)?)?;
            }
        }
        Ok(())
    }

    /// Keeps a record, on a full disk in the place that was reserved for it.
    pub(super) fn keep(&self, record: &TrialRecord) -> Result<Kept, RunError> {
        match store::keep(&self.dir, record) {
            Err(error) if error.is_full() => {
                files::remove(&self.reserve)?;
                store::keep(&self.dir, record)?;
                Err(RunError::Full { dir: self.dir.clone() })
            }
            other => Ok(other?),
        }
    }

    pub(super) fn leave(&self, code: u8) -> Result<(), RunError> {
        self.log.append(Event::Ended { code });
        self.log.leave();
        // Empty folders say nothing; those who need one make it.
        if !events::others_live(&self.dir, self.log.process())? {
            for folder in [layout::CLAIMS, layout::CHECKPOINTS] {
                std::fs::remove_dir(self.dir.join(folder)).ok();
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Also when a run ends before its first trial.
        files::remove(&self.reserve).ok();
    }
}

/// Writes bytes that no file system leaves out.
fn write_reserve(path: &Path) -> Result<(), RunError> {
    let mut bytes = vec![0; RESERVE];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(path)?;
        file.write_all(&bytes)?;
        file.sync_data()
    };
    write().map_err(|source| {
        std::fs::remove_file(path).ok();
        unroll_results::Error::Io { path: path.to_owned(), source }.into()
    })
}
