//! What each process did, in its order: `DIR/events/<process>.jsonl`.
//!
//! Every process appends to a file of its own, one checksum and one JSON object a line. A line that was
//! being written when the machine stopped is a torn tail and is passed over. Nothing is derived from
//! the log but what people read; results live in the records.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, canonical, claims, files, layout};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A process began.
    Started {
        /// Its host.
        host: String,
        /// Its number there.
        pid: u32,
        /// The command that the user gave.
        command: String,
        /// Id of the manifest.
        manifest: String,
        /// Id of the environment.
        environment: String,
        /// Hash of the text of `experiment.toml`; not in logs from before it was kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        experiment: Option<String>,
    },
    /// A trial began, or went on from a checkpoint.
    TrialStarted {
        /// Its id.
        trial: String,
        /// Training steps done before.
        step: u64,
    },
    /// A trial was put down to go on later.
    TrialPaused {
        /// Its id.
        trial: String,
        /// Training steps done.
        step: u64,
    },
    /// A trial came to its end.
    TrialEnded {
        /// Its id.
        trial: String,
        /// `finished`, `diverged`, `failed`.
        status: String,
        /// Hash of its results.
        fingerprint: String,
        /// Why it failed.
        message: Option<String>,
    },
    /// A trial had a record with other results.
    Conflict {
        /// Its id.
        trial: String,
        /// Hash of the results that came second.
        fingerprint: String,
    },
    /// A file could not be used and was set aside.
    SetAside {
        /// The file.
        file: String,
        /// Why.
        message: String,
    },
    /// The process ended by itself.
    Ended {
        /// Its exit code.
        code: u8,
    },
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Seconds since 1970, for people: nothing depends on it.
    time: f64,
    #[serde(flatten)]
    event: Event,
}

/// The log of this process. The file is locked while the log lives: so others see that the process
/// does, too.
#[derive(Debug)]
pub struct EventLog {
    file: Mutex<File>,
    process: String,
}

impl EventLog {
    /// Begins the log of this process in a folder.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(dir: &Path, host: &str) -> Result<Self> {
        let folder = dir.join(layout::EVENTS);
        files::create_dir(&folder)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let host: String = host.chars().map(plain).collect();
        // Numbers of processes come again: never append to the log of another one.
        for count in 0u32.. {
            let process = format!("{host}-{}-{count}", std::process::id());
            let path = folder.join(format!("{process}.jsonl"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => {
                    claims::lock_new(&file);
                    return Ok(Self { file: Mutex::new(file), process });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(&path, error)),
            }
        }
        unreachable!("four thousand million logs of one process number")
    }

    /// Name of this process in the folder.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Appends an event. A log that cannot be written is no reason to stop a run.
    pub fn append(&self, event: Event) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64());
        let Ok(json) = serde_json::to_string(&Line { time, event }) else { return };
        let line = format!("{} {json}\n", &canonical::hash_bytes(json.as_bytes())[..8]);
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if file.write_all(line.as_bytes()).is_ok() {
            file.sync_data().ok();
        }
    }

    /// Says to other processes that this one makes no more files, before it is gone: of several that
    /// leave at the same time, the last one to say so sees that it is alone.
    pub fn leave(&self) {
        let file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Where there are no locks nobody has seen one.
        file.unlock().ok();
    }
}

/// A log read back.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadLog {
    /// The file.
    pub path: PathBuf,
    /// The events with their times (seconds since 1970).
    pub events: Vec<(f64, Event)>,
    /// Whether the last line was cut short.
    pub torn: bool,
    /// Other lines that are not what was written, from 1.
    pub damaged: Vec<usize>,
}

/// All logs of a folder, in the order of their names.
///
/// # Errors
/// [`Error::Io`].
pub fn read_all(dir: &Path) -> Result<Vec<ReadLog>> {
    let folder = dir.join(layout::EVENTS);
    files::stems(&folder, "jsonl")?
        .into_iter()
        .map(|process| {
            let path = folder.join(format!("{process}.jsonl"));
            let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
            Ok(parse(path, &bytes))
        })
        .collect()
}

fn parse(path: PathBuf, bytes: &[u8]) -> ReadLog {
    let mut log = ReadLog { path, events: Vec::new(), torn: false, damaged: Vec::new() };
    let mut rest = bytes;
    for number in 1.. {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            log.torn = !rest.is_empty();
            break;
        };
        match parse_line(&rest[..end]) {
            Some(line) => log.events.push((line.time, line.event)),
            None => log.damaged.push(number),
        }
        rest = &rest[end + 1..];
    }
    log
}

fn parse_line(line: &[u8]) -> Option<Line> {
    let (hash, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    (canonical::hash_bytes(json.as_bytes()).get(..8) == Some(hash)).then_some(())?;
    serde_json::from_str(json).ok()
}

/// Whether a process other than `own` may still write to a folder: its log is locked, or it cannot be
/// told (a file system without locks).
///
/// # Errors
/// [`Error::Io`].
pub fn others_live(dir: &Path, own: &str) -> Result<bool> {
    let folder = dir.join(layout::EVENTS);
    for process in files::stems(&folder, "jsonl")? {
        if process != own {
            let path = folder.join(format!("{process}.jsonl"));
            let file = File::open(&path).map_err(|error| Error::io(&path, error))?;
            if file.try_lock_shared().is_err() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: u8) -> Event {
        Event::Ended { code }
    }

    #[test]
    fn events_come_back_and_torn_tails_and_damage_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::create(dir.path(), "host.name").unwrap();
        for code in 0..3 {
            log.append(ended(code));
        }
        let read = read_all(dir.path()).unwrap().remove(0);
        let events: Vec<Event> = read.events.iter().map(|(_, event)| event.clone()).collect();
        assert_eq!(events, [ended(0), ended(1), ended(2)]);
        assert!(!read.torn && read.damaged.is_empty());

        let whole = fs::read(&read.path).unwrap();
        let torn = parse(read.path.clone(), &whole[..whole.len() - 5]);
        assert!(torn.torn && torn.events.len() == 2 && torn.damaged.is_empty());

        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        let flipped = parse(read.path, &flipped);
        assert!(!flipped.torn && flipped.events.len() == 2 && flipped.damaged == [2]);
    }

    #[test]
    fn a_living_process_is_seen_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = EventLog::create(dir.path(), "h").unwrap();
        assert!(!others_live(dir.path(), first.process()).unwrap());
        let second = EventLog::create(dir.path(), "h").unwrap();
        assert_ne!(first.process(), second.process());
        assert!(others_live(dir.path(), first.process()).unwrap());
        drop(second);
        assert!(!others_live(dir.path(), first.process()).unwrap());
    }
}
