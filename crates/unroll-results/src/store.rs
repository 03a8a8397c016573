//! Trial records as files: `DIR/trials/<id>.json`, one per trial, sealed ([`crate::sealed`]).

use std::fs;
use std::path::{Path, PathBuf};

use crate::record::{SCHEMA, Status, TrialRecord};
use crate::{Error, Result, canonical, files, layout, sealed};

/// Where the record of trial `id` is.
///
/// # Errors
/// [`Error::Id`] when `id` cannot be a file name.
pub fn path(dir: &Path, id: &str) -> Result<PathBuf> {
    layout::file_of(dir, layout::TRIALS, id, "json")
}

/// Writes a record to its place and returns the path. An older record of the trial is replaced.
///
/// # Errors
/// [`Error::Id`], [`Error::Io`].
pub fn write(dir: &Path, record: &TrialRecord) -> Result<PathBuf> {
    let path = path(dir, &record.id)?;
    files::create_dir(&dir.join(layout::TRIALS))?;
    files::write(&path, &sealed::to_bytes(&path, record)?)?;
    Ok(path)
}

/// What has become of a record that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// It is in its place.
    New,
    /// Somebody else's record with the same results was there; that one stays.
    Same,
    /// Somebody else's record with other results was there; that one stays, this one is here.
    Conflict(PathBuf),
}

/// Writes a record unless a finished one is there, and compares the two if so: the same trial has the
/// same bits ([`TrialRecord::fingerprint`]), whoever ran it.
///
/// # Errors
/// As [`write()`].
pub fn keep(dir: &Path, record: &TrialRecord) -> Result<Kept> {
    if let Ok(first) = read(&path(dir, &record.id)?)
        && !matches!(first.status, Status::Failed { .. })
    {
        if first.fingerprint() == record.fingerprint() {
            return Ok(Kept::Same);
        }
        let name = format!("{}-{}", record.id, &record.fingerprint()[..8]);
        let path = layout::file_of(dir, layout::CONFLICTS, &name, "json")?;
        files::create_dir(&dir.join(layout::CONFLICTS))?;
        files::write(&path, &sealed::to_bytes(&path, record)?)?;
        return Ok(Kept::Conflict(path));
    }
    write(dir, record)?;
    Ok(Kept::New)
}

/// Reads one record.
///
/// # Errors
/// [`Error::Io`], [`Error::Damaged`], [`Error::Checksum`], [`Error::Schema`], [`Error::Misnamed`].
pub fn read(path: &Path) -> Result<TrialRecord> {
    let record: TrialRecord = sealed::read(path, SCHEMA)?;
    if path.file_stem().is_none_or(|stem| stem != record.id.as_str()) {
        return Err(Error::Misnamed { path: path.to_owned(), id: record.id });
    }
    Ok(record)
}

/// Reads the record of a trial; `None` when there is none.
///
/// # Errors
/// As [`read`].
pub fn find(dir: &Path, id: &str) -> Result<Option<TrialRecord>> {
    match read(&path(dir, id)?) {
        Ok(record) => Ok(Some(record)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ids of the records in a run's folder, sorted; none when there is no such folder.
///
/// # Errors
/// [`Error::Io`].
pub fn ids(dir: &Path) -> Result<Vec<String>> {
    files::stems(&dir.join(layout::TRIALS), "json")
}

/// Moves a file that cannot be read to `damaged/`, under a name that says what its bytes are, and
/// returns where it is. Nothing is overwritten.
///
/// # Errors
/// [`Error::Io`].
pub fn set_aside(dir: &Path, path: &Path) -> Result<PathBuf> {
    let bytes = fs::read(path).map_err(|error| Error::io(path, error))?;
    let folder = dir.join(layout::DAMAGED);
    files::create_dir(&folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let target = folder.join(format!("{}-{name}", &canonical::hash_bytes(&bytes)[..8]));
    fs::rename(path, &target).map_err(|error| Error::io(path, error))?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn records_come_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ids(dir.path()).unwrap().is_empty());
        let records = testing::sweep();
        for record in records.iter().rev() {
            write(dir.path(), record).unwrap();
        }
        for record in &records {
            let read = find(dir.path(), &record.id).unwrap().unwrap();
            // NaN is not equal to itself; the text is.
            assert_eq!(
                serde_json::to_string(&read).unwrap(),
                serde_json::to_string(record).unwrap()
            );
        }
        assert_eq!(ids(dir.path()).unwrap().len(), records.len());
        assert!(find(dir.path(), "none").unwrap().is_none());
    }

    #[test]
    fn nothing_but_the_record_is_left_after_writing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let record = testing::quality("gru", 50, 0, 0.1);
        write(dir.path(), &record).unwrap();
        write(dir.path(), &record).unwrap();
        let names: Vec<_> = fs::read_dir(dir.path().join(layout::TRIALS))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["gru-50-0.json"]);
    }

    #[test]
    fn damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &testing::quality("gru", 50, 0, 0.1)).unwrap();
        let whole = fs::read(&path).unwrap();

        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path));
        assert!(error.to_string().contains("gru-50-0.json"), "{error}");

        let edited = String::from_utf8(whole.clone()).unwrap().replace("4609", "4608");
        fs::write(&path, edited).unwrap();
        assert!(matches!(read(&path), Err(Error::Checksum { .. })));

        let other = path.with_file_name("other.json");
        fs::write(&other, &whole).unwrap();
        assert!(matches!(read(&other), Err(Error::Misnamed { id, .. }) if id == "gru-50-0"));

        let aside = set_aside(dir.path(), &path).unwrap();
        assert!(aside.starts_with(dir.path().join(layout::DAMAGED)) && !path.exists());
    }

    #[test]
    fn a_newer_version_is_told_from_a_damaged_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = testing::quality("gru", 50, 0, 0.1);
        record.schema = SCHEMA + 7;
        let path = write(dir.path(), &record).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, Error::Schema { found, .. } if found == SCHEMA + 7));
        assert!(error.to_string().contains("newer"), "{error}");
    }

    #[test]
    fn a_second_finisher_is_compared_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = testing::quality("gru", 50, 0, 0.1);
        assert_eq!(keep(dir.path(), &record).unwrap(), Kept::New);
        let first = fs::read(path(dir.path(), &record.id).unwrap()).unwrap();

        record.timing.wall_s *= 2.0;
        record.curve[1].seconds += 1.0;
        assert_eq!(keep(dir.path(), &record).unwrap(), Kept::Same);

        record.curve[1].train_loss += 1e-16;
        let Kept::Conflict(second) = keep(dir.path(), &record).unwrap() else {
            panic!("other bits are no conflict")
        };
        assert!(second.starts_with(dir.path().join(layout::CONFLICTS)) && second.exists());
        assert_eq!(fs::read(path(dir.path(), &record.id).unwrap()).unwrap(), first);

        let failed = testing::failed(testing::quality("lstm", 50, 0, 0.1));
        assert_eq!(keep(dir.path(), &failed).unwrap(), Kept::New);
        let finished = testing::quality("lstm", 50, 0, 0.1);
        assert_eq!(keep(dir.path(), &finished).unwrap(), Kept::New, "a failure is replaced");
    }
}
