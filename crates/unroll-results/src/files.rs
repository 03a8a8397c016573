//! Files that are there whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;

use crate::{Error, Result, layout};

/// Writes `bytes` to `path`: beside its place, synced, renamed, and the folder synced, so that a
/// reader sees all of it or what was there before, whenever the program or the machine stops.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    let result = match write() {
        // Somebody tidied the folder meanwhile ([`remove_temporaries`]).
        Err(error) if error.kind() == io::ErrorKind::NotFound => write(),
        result => result,
    };
    result.map_err(|error| Error::io(path, error))
}

/// Makes a folder and those above it.
///
/// # Errors
/// [`Error::Io`].
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Error::io(path, error))
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}

/// Names of the files in a folder that end in `.EXTENSION`, without that ending, sorted; none when
/// there is no such folder. Hidden files do not count.
///
/// # Errors
/// [`Error::Io`].
pub fn stems(folder: &Path, extension: &str) -> Result<Vec<String>> {
    let mut stems: Vec<String> = names(folder)?
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .filter_map(|name| Some(name.strip_suffix(extension)?.strip_suffix('.')?.to_owned()))
        .collect();
    stems.sort_unstable();
    Ok(stems)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder, error)),
    };
    let name = |entry: io::Result<fs::DirEntry>| -> Result<Option<String>> {
        Ok(entry.map_err(|error| Error::io(folder, error))?.file_name().into_string().ok())
    };
    entries.filter_map(|entry| name(entry).transpose()).collect()
}

/// Files of interrupted [`write()`]s in a folder and the folders right below it: `.NAME.`
/// and six random characters.
///
/// # Errors
/// [`Error::Io`].
pub fn temporaries(dir: &Path) -> Result<Vec<PathBuf>> {
    let temporary = |name: &str| {
        let random = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')?.1.into());
        random.is_some_and(|random: &str| {
            random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric())
        })
    };
    let mut found = Vec::new();
    for name in names(dir)? {
        let path = dir.join(&name);
        if path.is_dir() {
            let below = names(&path)?.into_iter().filter(|name| temporary(name));
            found.extend(below.map(|name| path.join(name)));
        } else if temporary(&name) {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Files that keep room on the disk for a process ([`layout::RESERVE`]).
///
/// # Errors
/// [`Error::Io`].
pub fn reserves(dir: &Path) -> Result<Vec<PathBuf>> {
    let names = names(dir)?.into_iter().filter(|name| name.starts_with(layout::RESERVE));
    Ok(names.map(|name| dir.join(name)).collect())
}

/// Removes what [`temporaries`] finds. For a folder that no other process writes to.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_temporaries(dir: &Path) -> Result<()> {
    temporaries(dir)?.iter().try_for_each(|path| remove(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_write_leaves_is_found_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        create_dir(&dir.path().join("trials")).unwrap();
        // The library's own name for its file: left behind as a kill would leave it.
        let open = AtomicWriteFile::open(dir.path().join("trials/a.json")).unwrap();
        std::mem::forget(open);
        write(&dir.path().join("trials/b.json"), b"{}").unwrap();
        fs::write(dir.path().join(".hidden"), "").unwrap();
        assert_eq!(temporaries(dir.path()).unwrap().len(), 1);
        assert_eq!(stems(&dir.path().join("trials"), "json").unwrap(), ["b"]);
        remove_temporaries(dir.path()).unwrap();
        assert!(temporaries(dir.path()).unwrap().is_empty());
        assert!(dir.path().join(".hidden").exists());
        assert_eq!(fs::read(dir.path().join("trials/b.json")).unwrap(), b"{}");
    }
}
