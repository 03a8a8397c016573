//! Canonical JSON: the text that hashes are taken of.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// JSON with sorted keys and no spaces, so that the text does not depend on a library's map.
pub fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// The first 32 hexadecimal digits of the BLAKE3 hash of a value's canonical JSON.
///
/// A value that JSON cannot hold (a map whose keys are no strings) counts as `null`; no wire type of
/// this crate is one.
pub fn hash<T: Serialize + ?Sized>(value: &T) -> String {
    hash_bytes(to_string(&serde_json::to_value(value).unwrap_or_default()).as_bytes())
}

/// The first 32 hexadecimal digits of the BLAKE3 hash of some bytes.
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_else_changes() {
        let value: Value =
            serde_json::from_str(r#"{ "b": [1, 1.0, {"z": null, "a": "ü\n"}], "a": 1e-3 }"#)
                .unwrap();
        assert_eq!(to_string(&value), r#"{"a":0.001,"b":[1,1.0,{"a":"ü\n","z":null}]}"#);
    }

    #[test]
    fn the_hash_is_blake3() {
        // The first digits of BLAKE3 of no bytes, from the published test vectors.
        assert_eq!(hash_bytes(b""), "af1349b9f5f9a1a6a0404dea36dcc949");
        assert_eq!(hash(&serde_json::json!({})), hash_bytes(b"{}"));
    }
}
