//! Memory in use: on the CPU if the program was started with a counting allocator, on a GPU as its driver
//! tells. And what a trial will need at the least.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_core::Device;
use mimalloc::MiMalloc;
use unroll_core::memory;
use unroll_kernels::gpu::HighWater;
use unroll_kernels::memory::CountingAllocator;
use unroll_probe::MemoryGauge;
use unroll_results::record::TrialKind;
use unroll_train::OptimizerKind;

use crate::experiment::TrialSpec;

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

/// Refuses a trial on the CPU that needs more memory than this machine has: for its weights, with gradients and
/// what the optimiser keeps of each, and for the outputs of all layers over a batch `(B, T)`. Estimated from
/// below: a trial that runs is never refused.
///
/// # Errors
/// [`unroll_core::Error::Memory`].
pub fn require(
    spec: &TrialSpec,
    parameters: u64,
    [batch, steps]: [usize; 2],
) -> unroll_core::Result<()> {
    let size =
        |key: &str| spec.options.get(key).and_then(serde_json::Value::as_u64).unwrap_or(1) as usize;
    let (element, outputs, copies) = match spec.kind {
        // Recurrent models are followed back in segments: of the whole length there are norms alone.
        TrialKind::Gradient => (8, 1, 2),
        TrialKind::Quality | TrialKind::Throughput => {
            let kept = spec.train.as_ref().map_or(0, |train| match train.optimizer {
                OptimizerKind::Sgd => 0,
                OptimizerKind::RmsProp => 1,
                OptimizerKind::Adam | OptimizerKind::AdamW => 2,
            });
            let element = spec.dtype.dtype().size_in_bytes();
            (element, size("hidden_size").saturating_mul(size("num_layers")), 2 + kept)
        }
    };
    let weights = memory::product(&[parameters as usize, element, copies]);
    memory::require(format!("training a model of {parameters} parameters"), weights)?;
    let batch_bytes = memory::product(&[batch, steps, outputs, element]);
    memory::require(
        format!("a model of {parameters} parameters on {batch} sequences of {steps} steps"),
        weights.saturating_add(batch_bytes),
    )
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
