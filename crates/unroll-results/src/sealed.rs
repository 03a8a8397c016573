//! JSON files that carry their own checksum: `{"blake3":"<hash>","content":{...}}`.
//!
//! The hash is of the content's bytes as they stand in the file, so that a flipped bit, a lost tail or
//! an edit is seen before a single number is believed. The content has a field `schema`, which is
//! looked at next: a file of a newer version is told from a damaged one.

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Error, Result, canonical};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    blake3: String,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// What every version of a content has.
#[derive(Deserialize)]
struct Header {
    schema: u32,
}

/// The bytes of a file that holds `value`.
///
/// # Errors
/// [`Error::Io`], naming `path`, when the value has no JSON form.
pub fn to_bytes<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>> {
    let content = serde_json::to_string(value)
        .map_err(|error| Error::io(path, io::Error::new(io::ErrorKind::InvalidData, error)))?;
    let hash = canonical::hash_bytes(content.as_bytes());
    Ok(format!("{{\"blake3\":\"{hash}\",\"content\":{content}}}\n").into_bytes())
}

/// The value in the bytes of a file; `path` is named in errors.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Checksum`], [`Error::Schema`].
pub fn from_bytes<T: DeserializeOwned>(path: &Path, bytes: &[u8], schema: u32) -> Result<T> {
    let damaged = |source| Error::Damaged { path: path.to_owned(), source };
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
    let content = envelope.content.get();
    if canonical::hash_bytes(content.as_bytes()) != envelope.blake3 {
        return Err(Error::Checksum { path: path.to_owned() });
    }
    let header: Header = serde_json::from_str(content).map_err(damaged)?;
    if header.schema != schema {
        return Err(Error::Schema {
            path: path.to_owned(),
            found: header.schema,
            expected: schema,
        });
    }
    serde_json::from_str(content).map_err(damaged)
}

/// Reads a file.
///
/// # Errors
/// [`Error::Io`], and as [`from_bytes`].
pub fn read<T: DeserializeOwned>(path: &Path, schema: u32) -> Result<T> {
    from_bytes(path, &std::fs::read(path).map_err(|error| Error::io(path, error))?, schema)
}
