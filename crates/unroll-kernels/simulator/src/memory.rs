//! The device's memory: every piece between pages that nobody may touch, filled with bytes that are no number.

use std::collections::BTreeMap;
use std::sync::Mutex;

const PAGE: usize = 4096;
/// What the driver aligns memory to.
const ALIGN: usize = 256;

/// Most bytes that can be in use.
pub(crate) const CAPACITY: usize = 16 << 30;

#[derive(Debug)]
struct Piece {
    base: usize,
    mapped: usize,
    bytes: usize,
}

/// All pieces, by address; bytes in use now and at most.
#[derive(Debug, Default)]
struct Memory {
    pieces: BTreeMap<usize, Piece>,
    used: usize,
    high: usize,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { pieces: BTreeMap::new(), used: 0, high: 0 });

fn memory() -> std::sync::MutexGuard<'static, Memory> {
    MEMORY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Memory that ends where a page ends, as near as the alignment lets it; `None` when there is none.
pub(crate) fn allocate(bytes: usize) -> Option<usize> {
    let mut memory = memory();
    if bytes == 0 || memory.used + bytes > CAPACITY {
        return None;
    }
    let inside = bytes.next_multiple_of(PAGE);
    let mapped = inside + 2 * PAGE;
    // SAFETY: new memory, of which nothing else knows.
    let base = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = libc::mmap(std::ptr::null_mut(), mapped, libc::PROT_NONE, flags, -1, 0);
        if base == libc::MAP_FAILED {
            return None;
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        if libc::mprotect(base.byte_add(PAGE), inside, access) != 0 {
            libc::munmap(base, mapped);
            return None;
        }
        std::ptr::write_bytes(base.byte_add(PAGE).cast::<u8>(), 0xff, inside);
        base as usize
    };
    let address = base + PAGE + (inside - bytes) / ALIGN * ALIGN;
    memory.pieces.insert(address, Piece { base, mapped, bytes });
    memory.used += bytes;
    memory.high = memory.high.max(memory.used);
    Some(address)
}

/// Gives memory back; whether it was there.
pub(crate) fn free(address: usize) -> bool {
    let mut memory = memory();
    let Some(piece) = memory.pieces.remove(&address) else { return false };
    memory.used -= piece.bytes;
    // Before and after it, in its own pages.
    let (begin, end) = (piece.base + PAGE, piece.base + piece.mapped - PAGE);
    for (from, to) in [(begin, address), (address + piece.bytes, end)] {
        // SAFETY: mapped in `allocate`, and not given back before.
        let slack = unsafe { std::slice::from_raw_parts(from as *const u8, to - from) };
        if slack.iter().any(|&byte| byte != 0xff) {
            crate::work::fail(&format!("written beside the {} bytes at {address:#x}", piece.bytes));
        }
    }
    // SAFETY: mapped in `allocate`; who still uses it is wrong and is to be found out.
    unsafe {
        libc::munmap(piece.base as *mut libc::c_void, piece.mapped);
    }
    true
}

/// Whether `bytes` from `address` on are the device's.
pub(crate) fn contains(address: usize, bytes: usize) -> bool {
    let memory = memory();
    let Some((&begin, piece)) = memory.pieces.range(..=address).next_back() else {
        return bytes == 0;
    };
    bytes == 0 || address + bytes <= begin + piece.bytes
}

/// Bytes in use now and at most.
pub(crate) fn used() -> (usize, usize) {
    let memory = memory();
    (memory.used, memory.high)
}

/// The mark of most bytes in use begins anew.
pub(crate) fn reset_high() {
    let mut memory = memory();
    memory.high = memory.used;
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_is_told_from_what_is_not() {
        let begin = super::allocate(1000).unwrap();
        assert_eq!(begin % super::ALIGN, 0);
        assert!(super::contains(begin, 1000) && !super::contains(begin, 1001));
        assert!(super::contains(begin + 996, 4) && !super::contains(begin - 4, 4));
        assert!(super::free(begin) && !super::free(begin) && !super::contains(begin, 4));
        assert!(super::allocate(0).is_none());
    }
}
