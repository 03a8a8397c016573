//! Files of users: found by the path they give, known by their contents.

use std::path::{Path, PathBuf};

use unroll_core::architecture::OptionDoc;

use super::locate;
use crate::{Error, Result};

/// Name of the option that holds the hash of a task's files.
const OPTION: &str = "data_hash";

/// The option that makes the contents of files a part of a trial's identity.
pub(crate) const HASH: OptionDoc = OptionDoc {
    name: OPTION,
    help: "BLAKE3 of the contents of the files; filled in when an experiment is planned, so that it is \
           part of a trial's identity; other contents are then an error",
};

/// The path as given if there is such a file, else within the data folder.
pub(crate) fn find(file: &str) -> PathBuf {
    let path = Path::new(file);
    if path.is_file() { path.to_owned() } else { locate(file) }
}

/// The bytes of a file, as they lie on the disk.
pub(crate) fn read(file: &str) -> Result<Vec<u8>> {
    let path = find(file);
    std::fs::read(&path).map_err(|source| missing(file, &path, source))
}

/// A file of one's own is looked for as it is named before it is within the data folders.
fn missing(file: &str, path: &Path, source: std::io::Error) -> Error {
    let mut error = Error::missing(path, source);
    if let Error::MissingData { searched, .. } = &mut error
        && let here = std::path::absolute(file).unwrap_or_else(|_| file.into())
        && !searched.contains(&here)
    {
        searched.insert(0, here);
    }
    error
}

/// Hash of the contents of files.
pub(crate) fn hash_of<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for bytes in contents {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Hash of the contents of files, which are read for it.
pub(crate) fn hash(files: &[&str]) -> Result<String> {
    let contents: Vec<Vec<u8>> = files.iter().map(|file| read(file)).collect::<Result<_>>()?;
    Ok(hash_of(contents.iter().map(Vec::as_slice)))
}

/// Checks that files are those that an experiment was planned with; one that was not (an empty hash) takes
/// any.
pub(crate) fn check(files: &[&str], found: &str, expected: &str) -> Result<()> {
    if expected.is_empty() || found == expected {
        return Ok(());
    }
    let names: Vec<String> = files.iter().map(|file| format!("`{file}`")).collect();
    let (has, they) = if files.len() == 1 { ("has", "it has") } else { ("have", "they have") };
    let message = format!(
        "{} {has} the hash {found}, where {expected} is expected: {they} changed",
        names.join(" and ")
    );
    Err(Error::option(OPTION, message))
}
