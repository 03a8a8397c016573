//! Trial records as files: `DIR/trials/<id>.json`, one per trial.
//!
//! A record is written beside its place, synced and renamed, so that a reader sees all of it or
//! nothing, whenever the program is killed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use serde::Deserialize;

use crate::record::{SCHEMA, TrialRecord};
use crate::{Error, Result};

/// The folder of the records within a run's folder.
pub fn trials_dir(dir: &Path) -> PathBuf {
    dir.join("trials")
}

/// Where the record of trial `id` is.
///
/// # Errors
/// [`Error::Id`] when `id` cannot be a file name.
pub fn path(dir: &Path, id: &str) -> Result<PathBuf> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || !id.chars().all(fits) {
        return Err(Error::Id { id: id.to_owned() });
    }
    Ok(trials_dir(dir).join(format!("{id}.json")))
}

/// Writes `bytes` to `path`: all or nothing.
///
/// # Errors
/// [`Error::Io`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().map_err(|error| Error::io(path, error))
}

/// Writes a record to its place and returns the path. An older record of the trial is replaced.
///
/// # Errors
/// [`Error::Id`], [`Error::Io`].
pub fn write(dir: &Path, record: &TrialRecord) -> Result<PathBuf> {
    let path = path(dir, &record.id)?;
    let folder = trials_dir(dir);
    fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    let mut bytes = serde_json::to_vec(record)
        .map_err(|error| Error::io(&path, io::Error::new(io::ErrorKind::InvalidData, error)))?;
    bytes.push(b'\n');
    write_bytes(&path, &bytes)?;
    Ok(path)
}

/// Reads one record.
///
/// # Errors
/// [`Error::Io`], [`Error::Damaged`], [`Error::Schema`], [`Error::Misnamed`].
pub fn read(path: &Path) -> Result<TrialRecord> {
    /// What every version of a record has: enough to tell an old file from a damaged one.
    #[derive(Deserialize)]
    struct Header {
        schema: u32,
    }

    let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
    let damaged = |source| Error::Damaged { path: path.to_owned(), source };
    let header: Header = serde_json::from_slice(&bytes).map_err(damaged)?;
    if header.schema != SCHEMA {
        let path = path.to_owned();
        return Err(Error::Schema { path, found: header.schema, expected: SCHEMA });
    }
    let record: TrialRecord = serde_json::from_slice(&bytes).map_err(damaged)?;
    if path.file_stem().is_none_or(|stem| stem != record.id.as_str()) {
        return Err(Error::Misnamed { path: path.to_owned(), id: record.id });
    }
    Ok(record)
}

/// Ids of the records in a run's folder, sorted; none when there is no such folder.
///
/// # Errors
/// [`Error::Io`].
pub fn ids(dir: &Path) -> Result<Vec<String>> {
    let folder = trials_dir(dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&folder, error)),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io(&folder, error))?.file_name();
        // Files beside their place while being written start with a dot.
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json"))
            && !id.starts_with('.')
        {
            ids.push(id.to_owned());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Reads all records of a run's folder in a fixed order: first those in `order` (the experiment's
/// order of trials) as far as they are there, then the others by id.
///
/// # Errors
/// As [`read`]: one damaged file stops the reading and is named.
pub fn read_all(dir: &Path, order: &[String]) -> Result<Vec<TrialRecord>> {
    let place: std::collections::HashMap<&str, usize> =
        order.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
    let mut ids = ids(dir)?;
    // Stable: ids outside the order keep their sorted order at the end.
    ids.sort_by_key(|id| place.get(id.as_str()).copied().unwrap_or(usize::MAX));
    ids.iter().map(|id| read(&path(dir, id)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn records_come_back_in_the_order_of_the_experiment() {
        let dir = tempfile::tempdir().unwrap();
        let records = testing::sweep();
        for record in records.iter().rev() {
            write(dir.path(), record).unwrap();
        }
        let order: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        let read = read_all(dir.path(), &order).unwrap();
        // NaN is not equal to itself; the text is.
        assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&records).unwrap());

        let read = read_all(dir.path(), &order[3..5]).unwrap();
        let ids: Vec<&str> = read.iter().map(|record| record.id.as_str()).collect();
        assert_eq!(ids[..2], [order[3].as_str(), order[4].as_str()]);
        assert!(ids[2..].is_sorted() && ids.len() == records.len());
    }

    #[test]
    fn a_folder_without_records_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_all(dir.path(), &["a".to_owned()]).unwrap().is_empty());
    }

    #[test]
    fn nothing_but_the_record_is_left_after_writing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let record = testing::quality("gru", 50, 0, 0.1);
        write(dir.path(), &record).unwrap();
        write(dir.path(), &record).unwrap();
        let names: Vec<_> =
            fs::read_dir(trials_dir(dir.path())).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["gru-50-0.json"]);
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &testing::quality("gru", 50, 0, 0.1)).unwrap();
        let whole = fs::read(&path).unwrap();

        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = read_all(dir.path(), &[]).unwrap_err();
        assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path));
        assert!(error.to_string().contains("gru-50-0.json"), "{error}");

        fs::write(
            &path,
            String::from_utf8(whole.clone()).unwrap().replace("\"schema\":1", "\"schema\":9"),
        )
        .unwrap();
        assert!(matches!(read(&path), Err(Error::Schema { found: 9, expected: SCHEMA, .. })));

        let other = path.with_file_name("other.json");
        fs::write(&other, &whole).unwrap();
        assert!(matches!(read(&other), Err(Error::Misnamed { id, .. }) if id == "gru-50-0"));
    }

    #[test]
    fn ids_cannot_leave_the_folder() {
        for id in ["", "../x", "a/b", "a.json", "ä"] {
            assert!(matches!(path(Path::new("d"), id), Err(Error::Id { .. })), "{id}");
        }
    }
}
