//! A result folder as a whole: where its run stands, merging parts of a run, verifying.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::claims::{self, Beat, Owner};
use crate::environment::Environment;
use crate::manifest::{Manifest, PlannedTrial};
use crate::record::{Cell, Status, TrialRecord};
use crate::{Error, Result, Tables, canonical, events, files, layout, store, weights};

/// Name of a process that writes no log.
pub const NOBODY: &str = "";

/// The records of a manifest's trials.
#[derive(Debug, Clone)]
pub struct Records {
    /// In the order of the manifest, under the names that it has for them.
    pub records: Vec<TrialRecord>,
    /// Trials without a record.
    pub missing: Vec<PlannedTrial>,
}

/// Reads the records of a manifest's trials.
///
/// # Errors
/// As [`store::read`]: one damaged file stops the reading and is named.
pub fn records(dir: &Path, manifest: &Manifest) -> Result<Records> {
    let mut all = Records { records: Vec::new(), missing: Vec::new() };
    for trial in &manifest.trials {
        match store::find(dir, &trial.id)? {
            Some(record) => all.records.push(placed(record, &trial.cell)),
            None => all.missing.push(trial.clone()),
        }
    }
    Ok(all)
}

/// A record under the name that this sweep has for it: a trial that another experiment ran means the
/// same under another name.
fn placed(mut record: TrialRecord, cell: &Cell) -> TrialRecord {
    let form = std::mem::take(&mut record.cell.form);
    record.cell = Cell { form, ..cell.clone() };
    record
}

/// Where a trial stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Has a record.
    Finished,
    /// Has a record: training did not stay finite.
    Diverged,
    /// Has a record that says why it could not run.
    Failed,
    /// Its record cannot be read.
    Damaged,
    /// A process works on it.
    Running,
    /// Has begun and can go on from a checkpoint.
    Paused,
    /// Nothing of it is there.
    Missing,
}

impl State {
    /// All states, in the order in which they are counted.
    pub const ALL: [Self; 7] = [
        Self::Finished,
        Self::Diverged,
        Self::Failed,
        Self::Damaged,
        Self::Running,
        Self::Paused,
        Self::Missing,
    ];

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Missing => "missing",
        }
    }

    /// Whether there is nothing left to do.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Finished | Self::Diverged)
    }
}

/// A trial and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct TrialState {
    /// The trial's id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// Why it failed, or what is wrong with its record.
    pub message: Option<String>,
    /// Who works on it.
    pub owner: Option<Owner>,
    /// How far it is.
    pub progress: Option<Beat>,
}

/// Where each of some trials stands in a folder, which other processes may write to meanwhile.
///
/// # Errors
/// [`Error::Io`], [`Error::Schema`]; a damaged record is a state.
pub fn states(dir: &Path, ids: impl Iterator<Item = String>) -> Result<Vec<TrialState>> {
    let mut claims: BTreeMap<String, _> = claims::read_all(dir)?
        .into_iter()
        .filter(|claim| !claim.dead)
        .map(|claim| (claim.trial.clone(), claim))
        .collect();
    let begun: BTreeSet<String> =
        files::stems(&dir.join(layout::CHECKPOINTS), "checkpoint")?.into_iter().collect();
    ids.map(|id| {
        let (mut message, mut owner, mut progress) = (None, None, None);
        let state = match store::find(dir, &id) {
            Ok(Some(record)) => match record.status {
                Status::Finished {} => State::Finished,
                Status::Diverged { step } => {
                    message = Some(format!("at step {step}"));
                    State::Diverged
                }
                Status::Failed { message: why } => {
                    message = Some(why);
                    State::Failed
                }
            },
            Err(error) if error.is_damage() => {
                message = Some(error.to_string());
                State::Damaged
            }
            Err(error) => return Err(error),
            Ok(None) => State::Missing,
        };
        let state = match (state.is_done(), claims.remove(&id)) {
            (false, Some(claim)) => {
                (owner, progress) = (claim.owner, claim.beat);
                State::Running
            }
            (_, _) if state == State::Missing && begun.contains(&id) => State::Paused,
            _ => state,
        };
        Ok(TrialState { id, state, message, owner, progress })
    })
    .collect()
}

/// Removes what processes that were killed have left half written, and the room they had set aside, unless a
/// process other than `own` lives in the folder.
///
/// # Errors
/// [`Error::Io`].
pub fn tidy(dir: &Path, own: &str) -> Result<()> {
    if events::others_live(dir, own)? {
        return Ok(());
    }
    files::remove_temporaries(dir)?;
    files::reserves(dir)?.iter().try_for_each(|path| files::remove(path))
}

/// What merging found.
#[derive(Debug, Clone, Serialize)]
pub struct Merged {
    /// Trials of the run.
    pub planned: usize,
    /// Trials that have a record now.
    pub records: usize,
    /// Trials that no folder has a record of.
    pub missing: Vec<PlannedTrial>,
    /// Trials whose records differ: the same trial gave other bits.
    pub conflicts: Vec<String>,
}

/// Brings the records of parts of one run together in `out`, which may have some already. What comes
/// out does not depend on the order of the folders.
///
/// # Errors
/// [`Error::Manifests`] when the folders are for different trials; as [`store::read`].
pub fn merge(dirs: &[PathBuf], out: &Path) -> Result<Merged> {
    let mut first: Option<(&Path, Manifest)> = None;
    let existing = Manifest::find(out)?.map(|_| out);
    let sources: BTreeSet<&Path> = dirs.iter().map(PathBuf::as_path).chain(existing).collect();
    for &dir in &sources {
        let manifest = Manifest::read(dir)?;
        if let Some((other, expected)) = &first {
            if let Some(message) = expected.difference(&manifest) {
                let (first, second) = (other.to_path_buf(), dir.to_owned());
                return Err(Error::Manifests { first, second, message });
            }
        } else {
            first = Some((dir, manifest));
        }
    }
    let Some((_, manifest)) = first else {
        return Err(Error::NoFolder { dir: out.to_owned(), file: layout::MANIFEST });
    };

    for folder in [layout::TRIALS, layout::ENVIRONMENTS, layout::EVENTS] {
        files::create_dir(&out.join(folder))?;
    }
    tidy(out, NOBODY)?;
    let mut merged = Merged {
        planned: manifest.trials.len(),
        records: 0,
        missing: Vec::new(),
        conflicts: Vec::new(),
    };
    for trial in &manifest.trials {
        let mut found = Vec::new();
        for &dir in &sources {
            if let Some(record) = store::find(dir, &trial.id)? {
                let path = store::path(dir, &trial.id)?;
                let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
                let failed = matches!(record.status, Status::Failed { .. });
                found.push((failed, record.fingerprint(), bytes));
            }
        }
        // Finished before failed, then an order that has nothing to do with the folders'.
        found.sort();
        let Some((failed, fingerprint, bytes)) = found.first() else {
            merged.missing.push(trial.clone());
            continue;
        };
        merged.records += 1;
        let path = store::path(out, &trial.id)?;
        if fs::read(&path).ok().as_ref() != Some(bytes) {
            files::write(&path, bytes)?;
        }
        merge_weights(&sources, out, &trial.id)?;
        for (_, other, bytes) in found.iter().filter(|(f, other, _)| !f && other != fingerprint) {
            if !failed {
                let name = format!("{}-{}", trial.id, &other[..8]);
                let path = layout::file_of(out, layout::CONFLICTS, &name, "json")?;
                files::create_dir(&out.join(layout::CONFLICTS))?;
                files::write(&path, bytes)?;
                merged.conflicts.push(trial.id.clone());
            }
        }
    }
    for &dir in sources.iter().filter(|dir| **dir != out) {
        copy_all(dir, out, layout::ENVIRONMENTS, "json")?;
        copy_all(dir, out, layout::EVENTS, "jsonl")?;
        if let Ok(bytes) = fs::read(dir.join(layout::EXPERIMENT)) {
            files::write(&out.join(layout::EXPERIMENT), &bytes)?;
        }
    }
    // Last: from now on this is a result folder.
    manifest.write(out)?;
    merged.conflicts.dedup();
    Ok(merged)
}

/// Copies the weights that the merged record of a trial names, if some folder has kept them.
fn merge_weights(sources: &BTreeSet<&Path>, out: &Path, trial: &str) -> Result<()> {
    let record = store::find(out, trial)?;
    let Some(hash) = record.and_then(|record| record.trace).and_then(|trace| trace.last) else {
        return Ok(());
    };
    let target = layout::file_of(out, layout::WEIGHTS, trial, "safetensors")?;
    for &dir in sources.iter().filter(|dir| **dir != out) {
        let source = layout::file_of(dir, layout::WEIGHTS, trial, "safetensors")?;
        if let Ok(bytes) = fs::read(source)
            && weights::hash(&bytes) == hash
        {
            files::create_dir(&out.join(layout::WEIGHTS))?;
            return files::write(&target, &bytes);
        }
    }
    Ok(())
}

/// Copies the files of a folder; one whose name is taken by other bytes gets a name of its own.
fn copy_all(from: &Path, to: &Path, folder: &str, extension: &str) -> Result<()> {
    for stem in files::stems(&from.join(folder), extension)? {
        let source = from.join(folder).join(format!("{stem}.{extension}"));
        let bytes = fs::read(&source).map_err(|error| Error::io(&source, error))?;
        let mut target = to.join(folder).join(format!("{stem}.{extension}"));
        match fs::read(&target) {
            Ok(there) if there == bytes => continue,
            Ok(_) => {
                let hash = canonical::hash_bytes(&bytes);
                let name = format!("{stem}-{}.{extension}", &hash[..8]);
                target = to.join(folder).join(name);
            }
            Err(_) => {}
        }
        files::write(&target, &bytes)?;
    }
    Ok(())
}

/// What a folder holds, checked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Trials of the run.
    pub planned: usize,
    /// Records that are whole and belong to the run.
    pub records: usize,
    /// Trials that failed.
    pub failed: usize,
    /// Trials without a record.
    pub missing: usize,
    /// Records of trials that are not part of the run (of an earlier version of the experiment).
    pub others: usize,
    /// Environments that the records come from.
    pub environments: usize,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What a reader should know, one sentence each.
    pub notes: Vec<String>,
}

/// Checks hashes, schemas and completeness of a folder, and that its tables are those of its records.
///
/// # Errors
/// When the folder or its manifest cannot be read; everything else is a finding.
pub fn verify(dir: &Path) -> Result<Verified> {
    let manifest = Manifest::read(dir)?;
    let mut verified = Verified { planned: manifest.trials.len(), ..Verified::default() };
    let planned: BTreeMap<&str, &PlannedTrial> =
        manifest.trials.iter().map(|trial| (trial.id.as_str(), trial)).collect();
    let mut environments = BTreeSet::new();
    let mut fingerprints = BTreeMap::new();
    for id in store::ids(dir)? {
        let record = match store::read(&store::path(dir, &id)?) {
            Ok(record) => record,
            Err(error) => {
                verified.problems.push(error.to_string());
                continue;
            }
        };
        environments.insert(record.timing.environment.clone());
        fingerprints.insert(id.clone(), record.fingerprint());
        match planned.get(id.as_str()) {
            None => verified.others += 1,
            Some(trial) if trial.kind != record.kind => verified.problems.push(format!(
                "trial {id} is planned as {} and recorded as {}",
                trial.kind.name(),
                record.kind.name()
            )),
            Some(_) => verified.records += 1,
        }
        verified.failed += usize::from(matches!(record.status, Status::Failed { .. }));
    }
    verified.missing = manifest
        .trials
        .iter()
        .filter(|trial| !store::path(dir, &trial.id).is_ok_and(|path| path.exists()))
        .count();
    for id in &environments {
        if let Err(error) = Environment::read(dir, id) {
            verified.problems.push(format!("environment of a record: {error}"));
        }
    }
    verified.environments = environments.len();
    logs(dir, &manifest.id, &fingerprints, &mut verified)?;
    kept_weights(dir, &mut verified)?;
    leftovers(dir, &mut verified)?;
    if verified.problems.is_empty() {
        tables(dir, &manifest, &mut verified)?;
    }
    Ok(verified)
}

/// The event logs: whole, and of one mind with the records and the experiment.
fn logs(
    dir: &Path,
    manifest: &str,
    fingerprints: &BTreeMap<String, String>,
    verified: &mut Verified,
) -> Result<()> {
    let mut texts = BTreeSet::new();
    for log in events::read_all(dir)? {
        let path = log.path.display();
        if !log.damaged.is_empty() {
            verified.problems.push(format!("{path}: damaged lines: {:?}", log.damaged));
        }
        if log.torn {
            verified.notes.push(format!("{path}: the process was stopped while writing a line"));
        }
        for (_, event) in log.events {
            if let events::Event::Started { manifest: of, experiment: Some(hash), .. } = &event
                && of == manifest
            {
                texts.insert(hash.clone());
            }
            if let events::Event::TrialEnded { trial, status, fingerprint, .. } = event
                && status != "failed"
                && fingerprints.get(&trial).is_some_and(|kept| *kept != fingerprint)
            {
                verified.problems.push(format!(
                    "trial {trial} had other results in {path}: the same trial gave other bits"
                ));
            }
        }
    }
    let path = dir.join(layout::EXPERIMENT);
    match fs::read(&path) {
        Ok(text) if texts.is_empty() || texts.contains(&canonical::hash_bytes(&text)) => {}
        Ok(_) => verified.problems.push(format!(
            "{}: not the experiment that the run was started with: it was changed afterwards",
            path.display()
        )),
        Err(_) if texts.is_empty() => {}
        Err(_) => verified.notes.push(format!("{}: not there", path.display())),
    }
    Ok(())
}

/// Whether kept weights are those that the records were measured with.
fn kept_weights(dir: &Path, verified: &mut Verified) -> Result<()> {
    for trial in files::stems(&dir.join(layout::WEIGHTS), "safetensors")? {
        let path = layout::file_of(dir, layout::WEIGHTS, &trial, "safetensors")?;
        let name = path.display();
        let trace = store::find(dir, &trial).ok().flatten().and_then(|record| record.trace);
        let Some(hash) = trace.and_then(|trace| trace.last) else {
            verified.notes.push(format!("{name}: there is no record that says what they are"));
            continue;
        };
        let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
        if weights::hash(&bytes) != hash {
            verified.problems.push(format!("{name}: not the weights of the trial's record"));
        }
    }
    Ok(())
}

/// Files that a finished run does not leave.
fn leftovers(dir: &Path, verified: &mut Verified) -> Result<()> {
    for path in files::temporaries(dir)? {
        verified.notes.push(format!("{}: left by an interrupted write", path.display()));
    }
    if !events::others_live(dir, NOBODY)? {
        for path in files::reserves(dir)? {
            let path = path.display();
            verified.notes.push(format!("{path}: room set aside by a run that was killed"));
        }
    }
    for (folder, extension, what) in [
        (layout::CLAIMS, "claim", "a trial that is, or was, being worked on"),
        (layout::CHECKPOINTS, "checkpoint", "a trial that has begun"),
    ] {
        for stem in files::stems(&dir.join(folder), extension)? {
            verified.notes.push(format!("{folder}/{stem}.{extension}: {what}"));
        }
    }
    for (folder, what) in [
        (layout::CONFLICTS, "a second run of the trial gave other bits"),
        (layout::DAMAGED, "could not be read and was set aside"),
    ] {
        for stem in files::stems(&dir.join(folder), "json")? {
            let line = format!("{folder}/{stem}.json: {what}");
            if folder == layout::CONFLICTS {
                verified.problems.push(line);
            } else {
                verified.notes.push(line);
            }
        }
    }
    Ok(())
}

/// Whether the tables are those that the records give.
fn tables(dir: &Path, manifest: &Manifest, verified: &mut Verified) -> Result<()> {
    let tables = Tables::from_records(&records(dir, manifest)?.records)?;
    for (path, bytes) in tables.files(&dir.join(layout::TABLES))? {
        match fs::read(&path) {
            Ok(there) if there == bytes => {}
            Ok(_) => verified.problems.push(format!(
                "{}: not the table of these records: `unroll report` makes it again",
                path.display()
            )),
            Err(_) => verified.notes.push(format!("{}: not there", path.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    /// A folder with a manifest of four trials and the records of some of them.
    fn folder(with: &[usize]) -> (tempfile::TempDir, Vec<TrialRecord>) {
        let dir = tempfile::tempdir().unwrap();
        let environment = testing::environment().write(dir.path()).unwrap();
        let (mut trials, mut records) = (Vec::new(), Vec::new());
        for seed in 0..4 {
            let mut record = testing::quality("gru", 50, seed, 0.1);
            let spec = json!({ "seed": seed });
            record.id = canonical::hash(&spec);
            record.timing.environment.clone_from(&environment);
            record.timing.wall_s = with.len() as f64;
            trials.push(PlannedTrial {
                id: record.id.clone(),
                kind: record.kind,
                cell: record.cell.clone(),
                weight: 1.0,
                spec,
            });
            records.push(record);
        }
        Manifest::new("adding".into(), String::new(), String::new(), trials)
            .write(dir.path())
            .unwrap();
        for &index in with {
            store::write(dir.path(), &records[index]).unwrap();
        }
        (dir, records)
    }

    fn all_bytes(dir: &Path) -> Vec<Vec<u8>> {
        let manifest = Manifest::read(dir).unwrap();
        let tables = Tables::from_records(&records(dir, &manifest).unwrap().records).unwrap();
        tables.files(dir).unwrap().into_iter().map(|(_, bytes)| bytes).collect()
    }

    #[test]
    fn shards_merge_to_the_same_bytes_in_any_order() {
        let parts = [folder(&[0, 1]).0, folder(&[1, 2, 3]).0, folder(&[3]).0];
        let mut merged: Vec<Vec<Vec<u8>>> = Vec::new();
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let out = tempfile::tempdir().unwrap();
            let dirs = order.map(|index: usize| parts[index].path().to_owned());
            let result = merge(&dirs, out.path()).unwrap();
            assert!(result.missing.is_empty() && result.conflicts.is_empty());
            merged.push(all_bytes(out.path()));
            // Once more into the same folder: nothing changes.
            merge(&dirs[..1], out.path()).unwrap();
            assert_eq!(&all_bytes(out.path()), merged.last().unwrap());
        }
        assert!(merged.iter().all(|bytes| *bytes == merged[0]));
    }

    #[test]
    fn merging_lists_what_is_missing_and_refuses_another_run() {
        let (part, _) = folder(&[0, 2]);
        let out = tempfile::tempdir().unwrap();
        let merged = merge(&[part.path().to_owned()], out.path()).unwrap();
        let seeds: Vec<u64> = merged.missing.iter().map(|trial| trial.cell.seed).collect();
        assert_eq!((merged.records, seeds), (2, vec![1, 3]));

        let other = tempfile::tempdir().unwrap();
        Manifest::new("adding".into(), String::new(), String::new(), Vec::new())
            .write(other.path())
            .unwrap();
        let dirs = [part.path().to_owned(), other.path().to_owned()];
        assert!(matches!(merge(&dirs, out.path()), Err(Error::Manifests { .. })));
    }

    #[test]
    fn other_bits_of_the_same_trial_are_a_conflict() {
        let ((first, _), (second, mut records)) = (folder(&[0]), folder(&[]));
        records[0].curve[1].validation += 1e-9;
        store::write(second.path(), &records[0]).unwrap();
        let mut winners = Vec::new();
        for dirs in [[&first, &second], [&second, &first]] {
            let out = tempfile::tempdir().unwrap();
            let merged = merge(&dirs.map(|dir| dir.path().to_owned()), out.path()).unwrap();
            assert_eq!(merged.conflicts, [records[0].id.clone()]);
            assert_eq!(verify(out.path()).unwrap().problems.len(), 1);
            winners.push(fs::read(store::path(out.path(), &records[0].id).unwrap()).unwrap());
        }
        assert_eq!(winners[0], winners[1]);
    }

    #[test]
    fn every_state_is_seen() {
        let (dir, records) = folder(&[0]);
        let path = dir.path();
        store::write(path, &testing::failed(records[1].clone())).unwrap();
        fs::write(store::path(path, &records[2].id).unwrap(), "{").unwrap();
        let mut claims = claims::Claims::new(path, Owner::current(), claims::PATIENCE).unwrap();
        let claim = claims.attempt(&records[3].id).unwrap();
        let ids = || records.iter().map(|record| record.id.clone());
        let of = |states: &[TrialState]| states.iter().map(|s| s.state).collect::<Vec<_>>();
        let seen = states(path, ids()).unwrap();
        use State::{Damaged, Failed, Finished, Missing, Paused, Running};
        assert_eq!(of(&seen), [Finished, Failed, Damaged, Running]);
        assert!(seen[1].message.as_ref().is_some_and(|why| why.contains("memory")));
        drop(claim);
        assert_eq!(of(&states(path, ids()).unwrap())[3], Missing);
        files::create_dir(&path.join(layout::CHECKPOINTS)).unwrap();
        let begun = layout::file_of(path, layout::CHECKPOINTS, &records[3].id, "checkpoint");
        fs::write(begun.unwrap(), "").unwrap();
        assert_eq!(of(&states(path, ids()).unwrap())[3], Paused);
    }

    #[test]
    fn verifying_finds_what_is_wrong() {
        let (dir, records) = folder(&[0, 1, 2]);
        let path = dir.path();
        let manifest = Manifest::read(path).unwrap();
        let tables = Tables::from_records(&super::records(path, &manifest).unwrap().records);
        tables.unwrap().write(&path.join(layout::TABLES)).unwrap();
        let sound = verify(path).unwrap();
        assert_eq!((sound.planned, sound.records, sound.missing), (4, 3, 1));
        assert!(sound.problems.is_empty() && sound.notes.is_empty(), "{sound:?}");

        fs::write(path.join("tables/trials.csv"), "trial\n").unwrap();
        assert!(verify(path).unwrap().problems[0].contains("trials.csv"));

        let record = store::path(path, &records[0].id).unwrap();
        let mut bytes = fs::read(&record).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&record, bytes).unwrap();
        assert!(verify(path).unwrap().problems[0].contains(&records[0].id));

        fs::remove_dir_all(path.join(layout::ENVIRONMENTS)).unwrap();
        assert_eq!(verify(path).unwrap().problems.len(), 2);
    }
}
