//! What a compressor needs.

use std::io::Write;

use bzip2::Compression;
use bzip2::write::BzEncoder;

/// Bits that bzip2 (Burrows-Wheeler, blocks of 900 kB) needs for `text`, its headers included.
pub(crate) fn bzip2_bits(text: &[u8]) -> Option<f64> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text).ok()?;
    Some(8.0 * encoder.finish().ok()?.len() as f64)
}
