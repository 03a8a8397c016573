//! Kept weights: what a file says of itself, and the hash of what it holds.
//!
//! The hash of a trial's weights is that of a safetensors file without metadata, as records have it. What the
//! file says of itself is written into its header beside, in one order, so that two runs keep the same bytes.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;

use crate::canonical;

/// How a header with metadata begins.
const BEGINNING: &[u8] = b"{\"__metadata__\":";

/// A safetensors file without metadata, with this metadata.
pub fn with_metadata(bytes: &[u8], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let parts = (header_of(bytes), serde_json::to_string(metadata));
    let (Some((header, tensors)), Ok(text)) = parts else { return bytes.to_vec() };
    let rest = header.get(1..).unwrap_or_default();
    let separator: &[u8] = if rest.starts_with(b"}") { b"" } else { b"," };
    file_of([BEGINNING, text.as_bytes(), separator, rest].concat(), tensors)
}

/// The hash of the weights in a safetensors file, whatever its metadata.
pub fn hash(bytes: &[u8]) -> String {
    match without_metadata(bytes) {
        Some(plain) => canonical::hash_bytes(&plain),
        None => canonical::hash_bytes(bytes),
    }
}

/// The file without its metadata; `None` when it has none.
fn without_metadata(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, tensors) = header_of(bytes)?;
    let text = header.strip_prefix(BEGINNING)?;
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let rest = text.get(values.byte_offset()..)?;
    let rest = rest.strip_prefix(b",").unwrap_or(rest);
    Some(file_of([b"{", rest].concat(), tensors))
}

/// Header and tensors; `None` for what is no such file.
fn header_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (header, tensors) = rest.split_at_checked(length)?;
    header.starts_with(b"{").then_some((header, tensors))
}

/// Headers are filled with spaces, so that tensors begin at a multiple of eight bytes.
fn file_of(mut header: Vec<u8>, tensors: &[u8]) -> Vec<u8> {
    header.truncate(header.trim_ascii_end().len());
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes(), header.as_slice(), tensors].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_leaves_the_hash_as_it_is() {
        let metadata: BTreeMap<String, String> = [("arch", "lstm"), ("config", "{\"a\": \"}\"}")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        for header in ["{}", "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"] {
            let plain = file_of(header.as_bytes().to_vec(), &[1, 2, 3, 4]);
            assert_eq!(hash(&plain), canonical::hash_bytes(&plain));
            let kept = with_metadata(&plain, &metadata);
            assert_ne!(kept, plain);
            assert_eq!(without_metadata(&kept).as_deref(), Some(plain.as_slice()));
            assert_eq!(hash(&kept), hash(&plain));
        }
        for wrong in [&b""[..], b"1234567", b"\xff\xff\xff\xff\xff\xff\xff\xff{}"] {
            assert_eq!(hash(wrong), canonical::hash_bytes(wrong));
            assert_eq!(with_metadata(wrong, &metadata), wrong);
        }
    }
}
