//! Images that a program loads: PTX as text, or within a fat binary.

use std::ffi::{CStr, c_char, c_void};
use std::io::Read;

const FAT_BINARY: u32 = 0xba55_ed50;
const PTX: u16 = 1;
const ZSTD: u64 = 0x8000;
const LZ4: u64 = 0x2000;

/// The PTX of an image.
///
/// # Errors
/// What is not such an image, or has no PTX in it.
///
/// # Safety
/// A text that ends with zero, or a whole fat binary.
pub(crate) unsafe fn ptx(image: *const c_void) -> Result<String, String> {
    // SAFETY: either begins with four bytes or is a shorter text, in which zero comes before they end.
    let magic = unsafe { image.cast::<u32>().read_unaligned() };
    if magic != FAT_BINARY {
        // SAFETY: the caller's promise.
        let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
        return Ok(text.to_string_lossy().into_owned());
    }
    // SAFETY: the head tells how long it is, and how much comes after it.
    let all = unsafe {
        let head = image.cast::<u8>();
        let head_bytes = usize::from(head.add(6).cast::<u16>().read_unaligned());
        let bytes = head.add(8).cast::<u64>().read_unaligned() as usize;
        std::slice::from_raw_parts(head.add(head_bytes), bytes)
    };
    from_fat_binary(all)
}

/// A number of a fat binary's.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let field = bytes.get(at..at + N).and_then(|field| field.try_into().ok());
    field.ok_or_else(|| "a fat binary that ends early".to_owned())
}

fn from_fat_binary(mut rest: &[u8]) -> Result<String, String> {
    while rest.len() >= 64 {
        let kind = u16::from_le_bytes(field(rest, 0)?);
        let head = u32::from_le_bytes(field(rest, 4)?) as usize;
        let bytes = u64::from_le_bytes(field(rest, 8)?) as usize;
        let compressed = u32::from_le_bytes(field(rest, 16)?) as usize;
        let flags = u64::from_le_bytes(field(rest, 40)?);
        if kind == PTX {
            let used = if compressed == 0 { bytes } else { compressed };
            let payload = rest.get(head..head + used).ok_or("a fat binary that ends early")?;
            let text = if flags & ZSTD != 0 {
                let mut text = Vec::new();
                let mut decoder = ruzstd::decoding::StreamingDecoder::new(payload)
                    .map_err(|error| format!("compressed PTX: {error}"))?;
                decoder
                    .read_to_end(&mut text)
                    .map_err(|error| format!("compressed PTX: {error}"))?;
                text
            } else if flags & LZ4 != 0 {
                return Err(
                    "PTX compressed as is not known: build with --compress-mode=size".into()
                );
            } else {
                payload.to_vec()
            };
            let text = String::from_utf8_lossy(&text);
            return Ok(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(head + bytes..).unwrap_or_default();
    }
    Err("the image has no PTX in it".into())
}
