//! TensorBoard's event files: TFRecords of `Event` messages, written by hand.
//!
//! A TFRecord is the length (u64), its checksum, the bytes, their checksum; a checksum is CRC-32C,
//! rotated and shifted. An `Event` has a time (field 1), a step (2) and either a file version (3) or a
//! `Summary` (5) of values: tag (1) and number (2).

use std::path::PathBuf;

use super::{File, file_part};
use crate::TrialRecord;

/// One folder for each trial that has numbers.
pub(super) fn files(records: &[TrialRecord]) -> Vec<File> {
    let file = |record: &TrialRecord| {
        let scalars = scalars(record);
        if scalars.is_empty() {
            return None;
        }
        let cell = &record.cell;
        let id = record.id.get(..8).unwrap_or(&record.id);
        let run = format!(
            "{}-{}-{}-seed{}-{}-{}",
            cell.task,
            cell.length,
            cell.series,
            cell.seed,
            record.kind.name(),
            id
        );
        let mut bytes = Vec::new();
        // The version says how to read the rest.
        frame(&mut bytes, &event(0.0, 0, None));
        for scalar in scalars {
            frame(
                &mut bytes,
                &event(scalar.seconds, scalar.step, Some((&scalar.tag, scalar.value))),
            );
        }
        let path: PathBuf = [&*file_part(&run), "events.out.tfevents.0.unroll"].iter().collect();
        Some((path, bytes))
    };
    records.iter().filter_map(file).collect()
}

struct Scalar {
    tag: String,
    step: u64,
    /// Seconds since the beginning of training.
    seconds: f64,
    value: f64,
}

fn scalars(record: &TrialRecord) -> Vec<Scalar> {
    let metric = record.quality.as_ref().map_or("metric", |quality| quality.metric.as_str());
    let mut found = Vec::new();
    for point in &record.curve {
        for (tag, value) in [
            ("train/loss".to_owned(), point.train_loss),
            ("train/gradient norm".to_owned(), point.gradient_norm),
            ("train/learning rate".to_owned(), point.learning_rate),
            (format!("validation/{metric}"), point.validation),
            ("validation/loss".to_owned(), point.validation_loss),
        ] {
            found.push(Scalar { tag, step: point.step, seconds: point.seconds, value });
        }
    }
    let seconds = record.curve.last().map_or(0.0, |point| point.seconds);
    if let Some(quality) = &record.quality {
        let tag = format!("test/{metric}");
        found.push(Scalar { tag, step: quality.steps, seconds, value: quality.test });
    }
    for evaluation in &record.other_lengths {
        let tag = format!("other lengths/{metric}");
        found.push(Scalar {
            tag,
            step: evaluation.length as u64,
            seconds,
            value: evaluation.value,
        });
    }
    // Against distance, where a learning curve has steps.
    for point in &record.gradient {
        let value =
            point.mean_log_norm.map_or(f64::NEG_INFINITY, |ln| ln / std::f64::consts::LN_10);
        let tag = format!(
            "gradient decay/log10 norm of {}, layer {}, after {} steps",
            point.of.name(),
            point.layer,
            point.step
        );
        found.push(Scalar { tag, step: point.distance as u64, seconds: 0.0, value });
    }
    for times in &record.throughput {
        let phase = times.phase.name();
        for (what, value) in [
            ("tokens per s", Some(times.tokens_per_s)),
            ("median s", Some(times.median_s)),
            ("peak bytes", times.peak_bytes.map(|bytes| bytes as f64)),
        ] {
            let Some(value) = value else { continue };
            found.push(Scalar { tag: format!("{phase}/{what}"), step: 0, seconds: 0.0, value });
        }
    }
    found
}

/// An `Event` message with a number, or with the file's version.
fn event(seconds: f64, step: u64, value: Option<(&str, f64)>) -> Vec<u8> {
    let mut message = vec![0x09];
    message.extend(seconds.to_le_bytes());
    message.push(0x10);
    varint(&mut message, step);
    match value {
        None => bytes_field(&mut message, 3, b"brain.Event:2"),
        Some((tag, number)) => {
            let mut inner = Vec::new();
            bytes_field(&mut inner, 1, tag.as_bytes());
            inner.push(0x15);
            inner.extend((number as f32).to_le_bytes());
            let mut summary = Vec::new();
            bytes_field(&mut summary, 1, &inner);
            bytes_field(&mut message, 5, &summary);
        }
    }
    message
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of length-delimited bytes.
fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A TFRecord.
fn frame(out: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(message);
    out.extend(masked(message).to_le_bytes());
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event files are small.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_file_begins_with_its_version() {
        let files = files(&[testing::quality("gru", 5, 0, 0.1)]);
        let (path, bytes) = &files[0];
        assert!(path.to_string_lossy().contains("tfevents"), "{path:?}");
        // 26 bytes: time (9), step (2), tag and length (2), text (13).
        assert_eq!(bytes[..8], 26u64.to_le_bytes());
        assert_eq!(&bytes[12 + 13..12 + 26], b"brain.Event:2");
    }

    #[test]
    fn long_numbers_are_split() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}
