//! Memory in use: on the CPU if the program was started with a counting allocator, on a GPU as its driver tells.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_core::Device;
use mimalloc::MiMalloc;
use unroll_kernels::gpu::HighWater;
use unroll_kernels::memory::CountingAllocator;
use unroll_probe::MemoryGauge;

/// The program's allocator.
pub type Allocator = CountingAllocator<MiMalloc>;

static COUNTER: OnceLock<&'static Allocator> = OnceLock::new();

/// Names the allocator that counts. Only the first call has an effect.
pub fn count_with(allocator: &'static Allocator) {
    COUNTER.get_or_init(|| allocator);
}

/// Peak memory of a phase, above what was in use when it began: of the device that does the work. What
/// the host allocates meanwhile says nothing about a GPU.
pub struct Gauge {
    place: Place,
    before: AtomicU64,
}

enum Place {
    Host(&'static Allocator),
    Gpu(HighWater),
    /// Library use without a counting allocator, or a driver without memory pools.
    Unknown,
}

/// The driver did not tell what is in use.
const UNKNOWN: u64 = u64::MAX;

impl Gauge {
    /// The gauge of a device.
    pub fn of(device: &Device) -> Self {
        let place = match (device, COUNTER.get()) {
            (Device::Cpu, Some(counter)) => Place::Host(counter),
            (Device::Cpu, None) => Place::Unknown,
            _ => HighWater::of(device).map_or(Place::Unknown, Place::Gpu),
        };
        Self { place, before: AtomicU64::new(0) }
    }
}

impl MemoryGauge for Gauge {
    fn reset(&self) {
        let before = match &self.place {
            Place::Host(counter) => {
                counter.reset_peak();
                counter.in_use() as u64
            }
            Place::Gpu(mark) => mark.reset().unwrap_or(UNKNOWN),
            Place::Unknown => UNKNOWN,
        };
        self.before.store(before, Relaxed);
    }

    fn peak(&self) -> Option<u64> {
        let peak = match &self.place {
            Place::Host(counter) => counter.peak() as u64,
            Place::Gpu(mark) => mark.peak()?,
            Place::Unknown => return None,
        };
        match self.before.load(Relaxed) {
            UNKNOWN => None,
            before => Some(peak.saturating_sub(before)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_counts_is_not_measured() {
        // The tests' allocator does not count.
        let gauge = Gauge::of(&Device::Cpu);
        gauge.reset();
        assert_eq!(gauge.peak(), None);
        static COUNTING: Allocator = Allocator::new(MiMalloc);
        let gauge = Gauge { place: Place::Host(&COUNTING), before: AtomicU64::new(0) };
        gauge.reset();
        assert_eq!(gauge.peak(), Some(0));
    }
}
