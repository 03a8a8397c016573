//! `unroll data`: data sets that are fetched when asked for.
//!
//! Packages come through the machine's own clients (pip, apt-get), or from a file or folder that the
//! user has. The wanted files are taken out, each is checked against the hash in the source, and a set
//! appears as a whole folder or not at all: it is put together in `fetched/.part` and renamed.

mod archive;
mod clients;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use unroll_tasks::data::sets::{self, DataSet, Presence, Source};

use crate::experiment::plan::nearest;

/// Why a set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no set of that name.
    #[error("there is no data set `{name}`: {help}")]
    Unknown {
        /// The name.
        name: String,
        /// The nearest one, and all.
        help: String,
    },
    /// Something cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A client is not there, or did not bring the package.
    #[error("{package}: `{command}` {message}\n{advice}")]
    Client {
        /// The package.
        package: String,
        /// The command.
        command: String,
        /// What became of it, with its last lines.
        message: String,
        /// What to do without it.
        advice: String,
    },
    /// A package cannot be read.
    #[error("{}: {message}", path.display())]
    Package {
        /// The package.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of a package is not what it should be.
    #[error("{}, {member}: {message}", path.display())]
    Member {
        /// The package.
        path: PathBuf,
        /// The file.
        member: &'static str,
        /// What is wrong.
        message: String,
    },
}

impl FetchError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

type Result<T, E = FetchError> = std::result::Result<T, E>;

/// What became of a set.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It was there already, in this folder.
    Before(PathBuf),
    /// It is now in this folder.
    Now(PathBuf),
}

/// The sets of these names (in any case), each once; all sets for none, of those that come from the
/// package `from` when that is a file.
///
/// # Errors
/// [`FetchError::Unknown`]; [`FetchError::Package`] when no set comes from the file.
pub fn wanted(names: &[String], from: Option<&Path>) -> Result<Vec<&'static DataSet>> {
    if let Some(from) = from {
        // Said once, not for each set.
        fs::metadata(from).map_err(FetchError::io(from))?;
    }
    if names.is_empty() {
        let file = from.filter(|from| from.is_file());
        let of_file = |set: &&DataSet| file.is_none_or(|file| archive::is_of(file, set.source));
        let found: Vec<&DataSet> = sets::sets().iter().filter(of_file).collect();
        return match (file, found.is_empty()) {
            (Some(file), true) => Err(FetchError::Package {
                path: file.to_owned(),
                message: "no set comes from a package of this name; name the sets".into(),
            }),
            _ => Ok(found),
        };
    }
    let mut found: Vec<&DataSet> = Vec::new();
    for name in names {
        let set = sets::sets().iter().find(|set| set.name.eq_ignore_ascii_case(name));
        let set = set.ok_or_else(|| {
            let known: Vec<&str> = sets::sets().iter().map(|set| set.name).collect();
            FetchError::Unknown { name: name.clone(), help: nearest(name, &known) }
        })?;
        if !found.contains(&set) {
            found.push(set);
        }
    }
    Ok(found)
}

/// Fetches sets into the data folder `home` that are not there yet, and tells what becomes of each.
/// Packages come from `from`, a file or folder, else through the clients.
///
/// # Errors
/// When the folder cannot be written; what goes wrong with one set is told and ends no other.
pub fn fetch(
    sets: &[&DataSet],
    home: &Path,
    from: Option<&Path>,
    tell: &mut dyn FnMut(&DataSet, Result<Fetched>),
) -> Result<()> {
    let folder = home.join(sets::FOLDER);
    let workshop = Workshop::open(&folder)?;
    let mut packages: Vec<(Source, Option<PathBuf>)> = Vec::new();
    for set in sets {
        let target = folder.join(set.name);
        if let Presence::Present(_) = set.presence_in(&target) {
            tell(set, Ok(Fetched::Before(target)));
            continue;
        }
        let known = packages.iter().find(|(source, _)| *source == set.source).cloned();
        let package = match (from, known) {
            (Some(from), _) => Ok(archive::within(from, set.source)),
            (None, Some((_, Some(path)))) => Ok(path),
            // It was tried for another set, and that was told.
            (None, Some((source, None))) => Err(FetchError::Package {
                path: source.to_string().into(),
                message: "could not be had, as was said".into(),
            }),
            (None, None) => {
                let had = clients::download(set.source, &workshop.part);
                packages.push((set.source, had.as_ref().ok().cloned()));
                had
            }
        };
        let contents = package.and_then(|package| archive::read(&package, set, &workshop.part));
        let installed = contents.and_then(|contents| workshop.install(set, &contents));
        tell(set, installed.map(|()| Fetched::Now(target)));
    }
    Ok(())
}

/// The folder of the fetched sets while this process alone changes it.
struct Workshop {
    folder: PathBuf,
    /// Where packages and half sets are; gone at the end, or when the next process comes.
    part: PathBuf,
    /// Released when it is closed.
    _lock: File,
}

impl Workshop {
    fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(FetchError::io(folder))?;
        let lock = folder.join(".lock");
        let file = File::create(&lock).map_err(FetchError::io(&lock))?;
        file.lock().map_err(FetchError::io(&lock))?;
        let part = folder.join(".part");
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FetchError::io(&part)(error));
            }
            _ => {}
        }
        fs::create_dir(&part).map_err(FetchError::io(&part))?;
        Ok(Self { folder: folder.to_owned(), part, _lock: file })
    }

    /// Puts a set into its place, whole.
    fn install(&self, set: &DataSet, contents: &[Vec<u8>]) -> Result<()> {
        let new = self.part.join(format!("new-{}", set.name));
        fs::create_dir(&new).map_err(FetchError::io(&new))?;
        for (file, content) in set.files.iter().zip(contents) {
            let path = new.join(file.name());
            let write = || -> io::Result<()> {
                let mut written = File::create(&path)?;
                written.write_all(content)?;
                written.sync_all()
            };
            write().map_err(FetchError::io(&path))?;
        }
        let target = self.folder.join(set.name);
        let old = self.part.join(format!("old-{}", set.name));
        let swap = || -> io::Result<()> {
            File::open(&new)?.sync_all()?;
            match fs::rename(&target, &old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::rename(&new, &target)?;
            File::open(&self.folder)?.sync_all()
        };
        swap().map_err(FetchError::io(&target))
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // What is left is removed by the next one.
        fs::remove_dir_all(&self.part).ok();
    }
}

/// A line about a set that was fetched, or was there.
pub fn line(set: &DataSet, fetched: &Fetched) -> String {
    match fetched {
        Fetched::Before(folder) => format!("{}: already in {}\n", set.name, folder.display()),
        Fetched::Now(folder) => {
            format!("{}: fetched into {} ({})\n", set.name, folder.display(), size(set))
        }
    }
}

/// All sets for people.
pub fn list() -> String {
    let mut out = String::new();
    for set in sets::sets() {
        let state = match set.presence() {
            Presence::Present(folder) => format!("in {}", folder.display()),
            Presence::Absent => format!("not there: `unroll data fetch {}`", set.name),
            Presence::Wrong { path, message } => {
                let name = set.name;
                format!("damaged ({}: {message}): `unroll data fetch {name}`", path.display())
            }
        };
        let task = set.task.map(|task| format!(" Task `{task}`.")).unwrap_or_default();
        out.push_str(&format!(
            "{:<18} {:>8}  {state}\n    {}.{task}\n    From {}. Licence: {}.\n",
            set.name,
            size(set),
            set.what,
            set.source,
            set.licence
        ));
    }
    out.push_str("\nOther data come with the repository: data/README.md.\n");
    out
}

/// All sets as JSON.
pub fn list_json() -> Value {
    let one = |set: &DataSet| {
        let (state, place) = match set.presence() {
            Presence::Present(folder) => ("present", folder.display().to_string().into()),
            Presence::Absent => ("absent", Value::Null),
            Presence::Wrong { path, .. } => ("damaged", path.display().to_string().into()),
        };
        json!({
            "name": set.name,
            "what": set.what,
            "task": set.task,
            "bytes": set.bytes(),
            "licence": set.licence,
            "source": set.source.to_string(),
            "state": state,
            "path": place,
        })
    };
    sets::sets().iter().map(one).collect()
}

fn size(set: &DataSet) -> String {
    format!("{:.1} MB", set.bytes() as f64 / 1e6)
}
