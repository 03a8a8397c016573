//! Counting memory: an allocator that knows how much is in use and how much was at most.
//!
//! It forwards every call to another allocator, zeroed and resized blocks included. Which one matters: a
//! training step frees and takes the same large blocks again and again, and the system's allocator returns
//! such blocks to the kernel each time, so that half of the time of an attention layer can go into page
//! faults. mimalloc keeps them for a moment, or for as long as the program runs (`keep_freed_pages`, with
//! the feature `mimalloc`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// An allocator with two counters. Programs install it with `#[global_allocator]`.
#[derive(Debug)]
pub struct CountingAllocator<A = System> {
    inner: A,
    in_use: AtomicUsize,
    peak: AtomicUsize,
}

impl<A> CountingAllocator<A> {
    /// Counters at zero.
    pub const fn new(inner: A) -> Self {
        Self { inner, in_use: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Bytes in use now.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// Most bytes that were in use since the last [`reset_peak`](Self::reset_peak).
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// Begins a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.peak.store(self.in_use(), Relaxed);
    }

    fn add(&self, bytes: usize) {
        let before = self.in_use.fetch_add(bytes, Relaxed);
        // Most allocations are below the peak: a read costs less than a write to a shared line.
        if before + bytes > self.peak.load(Relaxed) {
            self.peak.fetch_max(before + bytes, Relaxed);
        }
    }

    fn remove(&self, bytes: usize) {
        self.in_use.fetch_sub(bytes, Relaxed);
    }
}

/// mimalloc no longer returns freed pages to the kernel, unless `MIMALLOC_PURGE_DELAY` says when it
/// shall. A training step frees and takes the same blocks; by default those that rest for 10 ms are
/// returned, so that slow steps fault them in again.
#[cfg(feature = "mimalloc")]
pub fn keep_freed_pages() {
    /// `mi_option_purge_delay` of `mimalloc.h`, which the bindings leave out; the same in versions 2
    /// and 3.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        #[allow(unsafe_code)]
        // SAFETY: sets one integer of mimalloc's options.
        unsafe {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
        }
    }
}

#[allow(unsafe_code)]
// SAFETY: every method forwards its arguments unchanged to an allocator, which upholds the contract; the counters touch no memory of the caller.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the callee's.
        let pointer = unsafe { self.inner.alloc(layout) };
        if !pointer.is_null() {
            self.add(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.inner.dealloc(pointer, layout) };
        self.remove(layout.size());
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { self.inner.alloc_zeroed(layout) };
        if !pointer.is_null() {
            self.add(layout.size());
        }
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { self.inner.realloc(pointer, layout, new_size) };
        if !moved.is_null() {
            self.add(new_size);
            self.remove(layout.size());
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_in_use_and_its_peak() {
        let allocator = CountingAllocator::new(System);
        let layout = Layout::from_size_align(1000, 8).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: blocks are freed once, with the layout that they have then.
        unsafe {
            let first = allocator.alloc(layout);
            let second = allocator.alloc_zeroed(layout);
            assert_eq!(*second.add(999), 0);
            assert_eq!((allocator.in_use(), allocator.peak()), (2000, 2000));
            allocator.dealloc(first, layout);
            allocator.reset_peak();
            let second = allocator.realloc(second, layout, 500);
            assert_eq!(allocator.in_use(), 500);
            assert_eq!(allocator.peak(), 1500);
            allocator.dealloc(second, Layout::from_size_align(500, 8).unwrap());
        }
        assert_eq!(allocator.in_use(), 0);
    }
}
