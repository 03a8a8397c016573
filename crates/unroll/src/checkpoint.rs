//! Trials that have begun, on disk: `DIR/checkpoints/<id>.checkpoint`.
//!
//! One line of JSON that says what follows, one with what was measured so far, then the bytes
//! of an [`unroll_train::Checkpoint`]. A
//! checkpoint is used only by a build and machine that would have given the same bits so far; any
//! other starts the trial anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use unroll_results::events::{Event, EventLog};
use unroll_results::{Error, Result, canonical, files, layout};
use unroll_train::Checkpoint;

use crate::measure::Measured;

/// Version of the file's layout.
const SCHEMA: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Header {
    schema: u32,
    trial: String,
    numerics: String,
    wall_s: f64,
    blake3: String,
}

/// A trial that has begun.
pub struct Begun {
    /// Where it stands.
    pub checkpoint: Checkpoint,
    /// Seconds spent on it so far.
    pub wall_s: f64,
    /// What was measured so far.
    pub measured: Measured,
}

/// The checkpoints of a result folder.
pub struct Checkpoints<'a> {
    dir: PathBuf,
    numerics: String,
    every: Duration,
    log: &'a EventLog,
}

impl<'a> Checkpoints<'a> {
    /// Checkpoints of a process whose results depend on `numerics`
    /// ([`unroll_results::Environment::numerics`]), taken at least `every` so often.
    pub fn new(dir: &Path, numerics: String, every: Duration, log: &'a EventLog) -> Self {
        Self { dir: dir.to_owned(), numerics, every, log }
    }

    /// Time between two checkpoints of a trial.
    pub fn every(&self) -> Duration {
        self.every
    }

    fn path(&self, trial: &str) -> Result<PathBuf> {
        layout::file_of(&self.dir, layout::CHECKPOINTS, trial, "checkpoint")
    }

    /// Where a trial can go on, if it has begun. A checkpoint that cannot be used is removed, and the
    /// log says why.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn load(&self, trial: &str) -> Result<Option<Begun>> {
        let path = self.path(trial)?;
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::Io { path: path.clone(), source })?,
        };
        match self.parse(trial, &bytes) {
            Ok(begun) => Ok(Some(begun)),
            Err(message) => {
                self.log.append(Event::SetAside { file: path.display().to_string(), message });
                files::remove(&path)?;
                Ok(None)
            }
        }
    }

    fn parse(&self, trial: &str, bytes: &[u8]) -> std::result::Result<Begun, String> {
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or("no header")?;
        let (header, payload) = (&bytes[..end], &bytes[end + 1..]);
        let header: Header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
        if header.schema != SCHEMA {
            return Err(format!("schema {}, not {SCHEMA}", header.schema));
        }
        if header.blake3 != canonical::hash_bytes(payload) {
            return Err("the checksum does not match".into());
        }
        if header.trial != trial {
            return Err(format!("belongs to trial {}", header.trial));
        }
        if header.numerics != self.numerics {
            return Err("made by another build or machine: the bits would not be the same".into());
        }
        let end = payload.iter().position(|&byte| byte == b'\n').ok_or("no measurements")?;
        let (measured, payload) = (&payload[..end], &payload[end + 1..]);
        let measured = serde_json::from_slice(measured).map_err(|e| e.to_string())?;
        let checkpoint = Checkpoint::from_bytes(payload).map_err(|error| error.to_string())?;
        Ok(Begun { checkpoint, wall_s: header.wall_s, measured })
    }

    /// Writes where a trial stands, in place of what was there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(
        &self,
        trial: &str,
        checkpoint: &[u8],
        measured: &Measured,
        wall_s: f64,
    ) -> Result<()> {
        let path = self.path(trial)?;
        let io = |error: serde_json::Error| Error::Io { path: path.clone(), source: error.into() };
        let mut payload = serde_json::to_vec(measured).map_err(io)?;
        payload.push(b'\n');
        payload.extend_from_slice(checkpoint);
        let header = Header {
            schema: SCHEMA,
            trial: trial.to_owned(),
            numerics: self.numerics.clone(),
            wall_s,
            blake3: canonical::hash_bytes(&payload),
        };
        let mut bytes = serde_json::to_vec(&header).map_err(io)?;
        bytes.push(b'\n');
        bytes.append(&mut payload);
        files::create_dir(&self.dir.join(layout::CHECKPOINTS))?;
        files::write(&path, &bytes)
    }

    /// Removes what is there of a trial that has ended.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, trial: &str) -> Result<()> {
        files::remove(&self.path(trial)?)
    }
}
