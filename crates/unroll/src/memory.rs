//! Memory in use, if the program was started with a counting allocator.

use std::sync::OnceLock;

use unroll_kernels::memory::CountingAllocator;

static COUNTER: OnceLock<&'static CountingAllocator> = OnceLock::new();

/// Names the allocator that counts. Only the first call has an effect.
pub fn count_with(allocator: &'static CountingAllocator) {
    COUNTER.get_or_init(|| allocator);
}

/// Peak memory of a phase, above what was in use when it began. Without a counting allocator
/// (library use) all peaks are 0.
#[derive(Debug, Default)]
pub struct Gauge {
    before: u64,
}

impl Gauge {
    /// Begins a phase.
    pub fn reset(&mut self) {
        if let Some(counter) = COUNTER.get() {
            counter.reset_peak();
            self.before = counter.in_use() as u64;
        }
    }

    /// Bytes above the beginning of the phase at its peak.
    pub fn peak(&self) -> u64 {
        COUNTER.get().map_or(0, |counter| (counter.peak() as u64).saturating_sub(self.before))
    }
}
