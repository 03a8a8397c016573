//! Who works on which trial: `DIR/claims/<id>.claim`.
//!
//! Several processes, on several machines, may share a folder. Each trial that a process works on has
//! a claim file, made with `O_EXCL`, that says who that is and grows by one line every few seconds.
//! Claims only spare work: two processes that run the same trial get the same bits, and
//! [`crate::store::keep`] compares them.
//!
//! A claim whose owner is gone is taken over. On the owner's own machine (same boot) the lock that the
//! owner holds on the file tells at once. From another machine a claim is stale when the file has not
//! grown for [`PATIENCE`], by the clock of the one who waits: no two clocks are compared, and none is
//! ever waited for that goes backwards.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files, layout};

/// Time between two lines of a claim.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a claim of another machine may be silent.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a claim that does not say whose it is may stay so.
const NAMELESS: Duration = Duration::from_secs(2);

/// A process on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Name of the machine.
    pub host: String,
    /// What tells this run of its kernel from any other: locks work among processes that share it.
    pub boot: String,
    /// Number of the process.
    pub pid: u32,
}

impl Owner {
    /// This process.
    pub fn current() -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
                .filter(|t| !t.is_empty())
        };
        let host = read("/proc/sys/kernel/hostname").or_else(|| std::env::var("HOSTNAME").ok());
        let host = host.unwrap_or_else(|| "unknown".into());
        let boot = read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|| host.clone());
        Self { host, boot, pid: std::process::id() }
    }
}

/// Progress of a claimed trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Units done (training steps).
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// A claim of this process. Dropping it gives the trial free.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    file: File,
}

impl Claim {
    /// Says that the owner is alive, and how far it is. A full disk is no reason to stop.
    pub fn beat(&self, beat: Beat) {
        if let Ok(json) = serde_json::to_string(&beat) {
            (&self.file).write_all(format!("{json}\n").as_bytes()).ok();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Not the claim of one who took this over.
        if same_file(&self.file, &self.path) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// A claim read from a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadClaim {
    /// The trial.
    pub trial: String,
    /// Who claims it; `None` when the file does not say.
    pub owner: Option<Owner>,
    /// The last line.
    pub beat: Option<Beat>,
    /// Whether the owner is gone for certain.
    pub dead: bool,
}

/// What came of an attempt to claim a trial.
#[derive(Debug)]
pub enum Attempt {
    /// It is claimed now.
    Taken(Claim),
    /// Somebody else has it.
    Held,
}

/// Claims trials of a folder for one process.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
    owner: Owner,
    line: String,
    patience: Duration,
    /// Length of other machines' claims, and since when they have had it.
    seen: HashMap<String, (u64, Instant)>,
}

impl Claims {
    /// Claims in a folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(dir: &Path, owner: Owner, patience: Duration) -> Result<Self> {
        let folder = dir.join(layout::CLAIMS);
        files::create_dir(&folder)?;
        let line = serde_json::to_string(&owner).unwrap_or_default() + "\n";
        Ok(Self { folder, owner, line, patience, seen: HashMap::new() })
    }

    /// Tries to claim a trial.
    ///
    /// # Errors
    /// [`Error::Id`], [`Error::Io`].
    pub fn attempt(&mut self, trial: &str) -> Result<Attempt> {
        let path = layout::file_of(Path::new(""), "", trial, "claim")?;
        let path = self.folder.join(path.file_name().unwrap_or_default());
        for _ in 0..8 {
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    lock_new(&file);
                    (&file).write_all(self.line.as_bytes()).map_err(|e| Error::io(&path, e))?;
                    return Ok(Attempt::Taken(Claim { path, file }));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Another process has just left and taken the empty folder with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    files::create_dir(&self.folder)?;
                    continue;
                }
                Err(error) => return Err(Error::io(&path, error)),
            }
            // Its owner may have finished meanwhile; then the next round takes it.
            if let Ok(file) = File::open(&path)
                && !self.remove_if_stale(trial, &path, &file)
            {
                return Ok(Attempt::Held);
            }
        }
        Ok(Attempt::Held)
    }

    /// Removes a claim whose owner is gone; whether it did.
    fn remove_if_stale(&mut self, trial: &str, path: &Path, file: &File) -> bool {
        let owner = read_claim(trial, file).owner;
        let stale = match &owner {
            Some(owner) if owner.boot == self.owner.boot => file.try_lock().is_ok(),
            Some(_) => self.silent_for(trial, file, self.patience),
            None => file.try_lock().is_ok() && self.silent_for(trial, file, NAMELESS),
        };
        // While the lock is held no one else on this machine comes this far with the same file.
        if stale && same_file(file, path) {
            self.seen.remove(trial);
            fs::remove_file(path).ok();
        }
        stale
    }

    fn silent_for(&mut self, trial: &str, file: &File, patience: Duration) -> bool {
        let length = file.metadata().map_or(0, |meta| meta.len());
        let now = Instant::now();
        let seen = self.seen.entry(trial.to_owned()).or_insert((length, now));
        if seen.0 != length {
            *seen = (length, now);
        }
        now - seen.1 >= patience
    }
}

/// Locks a file that was just made, so that others see when this process ends. Whoever looks at the
/// file holds its lock for a moment; a file system without locks is one where claims only go stale by
/// silence.
pub(crate) fn lock_new(file: &File) {
    for _ in 0..20 {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

/// Whether `path` still names this open file.
fn same_file(file: &File, path: &Path) -> bool {
    let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

fn read_claim(trial: &str, mut file: &File) -> ReadClaim {
    let mut text = String::new();
    file.read_to_string(&mut text).ok();
    let mut lines = text.lines();
    let owner = lines.next().and_then(|line| serde_json::from_str(line).ok());
    // The last line may be torn.
    let beat = lines.rev().find_map(|line| serde_json::from_str(line).ok());
    ReadClaim { trial: trial.to_owned(), owner, beat, dead: false }
}

/// All claims of a folder, by trial.
///
/// # Errors
/// [`Error::Io`].
pub fn read_all(dir: &Path) -> Result<Vec<ReadClaim>> {
    let folder = dir.join(layout::CLAIMS);
    let boot = Owner::current().boot;
    let mut claims = Vec::new();
    for trial in files::stems(&folder, "claim")? {
        // One that has gone meanwhile is none.
        if let Ok(file) = File::open(folder.join(format!("{trial}.claim"))) {
            let mut claim = read_claim(&trial, &file);
            let here = claim.owner.as_ref().is_some_and(|owner| owner.boot == boot);
            claim.dead = here && file.try_lock_shared().is_ok();
            claims.push(claim);
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(dir: &Path, boot: &str, patience: Duration) -> Claims {
        let owner = Owner { host: "h".into(), boot: boot.into(), pid: 1 };
        Claims::new(dir, owner, patience).unwrap()
    }

    fn taken(claims: &mut Claims) -> Option<Claim> {
        match claims.attempt("a").unwrap() {
            Attempt::Taken(claim) => Some(claim),
            Attempt::Held => None,
        }
    }

    #[test]
    fn one_of_two_gets_it_and_the_other_when_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let boot = Owner::current().boot;
        let mut first = claims(dir.path(), &boot, PATIENCE);
        let mut second = claims(dir.path(), &boot, PATIENCE);
        let claim = taken(&mut first).unwrap();
        claim.beat(Beat { done: 3, total: 9 });
        assert!(taken(&mut second).is_none());
        let read = read_all(dir.path()).unwrap().remove(0);
        assert_eq!((read.beat, read.dead), (Some(Beat { done: 3, total: 9 }), false));
        drop(claim);
        assert!(taken(&mut second).is_some());
        assert!(read_all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn the_claim_of_a_dead_process_is_taken_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let boot = Owner::current().boot;
        let mut first = claims(dir.path(), &boot, PATIENCE);
        // As a kill leaves it: the file is there, the lock is gone.
        let Claim { path, file } = &*std::mem::ManuallyDrop::new(taken(&mut first).unwrap());
        file.unlock().unwrap();
        assert!(path.exists() && read_all(dir.path()).unwrap()[0].dead);
        assert!(taken(&mut claims(dir.path(), &boot, PATIENCE)).is_some());
    }

    #[test]
    fn the_claim_of_another_machine_is_taken_when_it_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let patience = Duration::from_millis(60);
        let claim = taken(&mut claims(dir.path(), "there", patience)).unwrap();
        // Whatever its clock says.
        let future = std::time::SystemTime::now() + Duration::from_secs(1 << 30);
        claim.file.set_modified(future).unwrap();
        let mut here = claims(dir.path(), "here", patience);
        for done in 0..4 {
            assert!(taken(&mut here).is_none());
            std::thread::sleep(patience / 3);
            claim.beat(Beat { done, total: 4 });
        }
        assert!(taken(&mut here).is_none());
        std::thread::sleep(2 * patience);
        let taken_over = taken(&mut here).unwrap();
        // The first owner wakes up: the claim is not its own any more.
        drop(claim);
        assert!(taken_over.path.exists());
    }

    #[test]
    fn a_claim_that_does_not_say_whose_it_is_does_not_block_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = claims(dir.path(), &Owner::current().boot, PATIENCE);
        fs::write(here.folder.join("a.claim"), "").unwrap();
        assert!(taken(&mut here).is_none());
        std::thread::sleep(NAMELESS);
        assert!(taken(&mut here).is_some());
    }
}
