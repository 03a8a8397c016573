//! Memory in use, if the program was started with a counting allocator.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mimalloc::MiMalloc;
use unroll_kernels::memory::CountingAllocator;
use unroll_probe::MemoryGauge;

/// The program's allocator.
pub type Allocator = CountingAllocator<MiMalloc>;

static COUNTER: OnceLock<&'static Allocator> = OnceLock::new();

/// Names the allocator that counts. Only the first call has an effect.
pub fn count_with(allocator: &'static Allocator) {
    COUNTER.get_or_init(|| allocator);
}

/// Peak memory of a phase, above what was in use when it began. Without a counting allocator
/// (library use) all peaks are 0.
#[derive(Debug, Default)]
pub struct Gauge {
    before: AtomicU64,
}

impl MemoryGauge for Gauge {
    fn reset(&self) {
        if let Some(counter) = COUNTER.get() {
            counter.reset_peak();
            self.before.store(counter.in_use() as u64, Relaxed);
        }
    }

    fn peak(&self) -> u64 {
        COUNTER
            .get()
            .map_or(0, |counter| (counter.peak() as u64).saturating_sub(self.before.load(Relaxed)))
    }
}
