//! The order in which a run goes through its training examples.

use std::sync::{Arc, Mutex, PoisonError};

use unroll_core::Stream;

/// Endless passes over `count` examples, each pass (epoch) in an order of its own.
///
/// Batches take consecutive pieces of the passes: one that reaches the end of an epoch goes on with
/// the next, and nothing is left out. What a step gets depends on the stream, the step and the
/// batch size alone.
pub(crate) struct Epochs {
    /// Its step is the epoch.
    stream: Stream,
    count: usize,
    /// The orders last asked for: a batch needs one or two of them (more when it is larger than an
    /// epoch), the next batch mostly the same.
    recent: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

/// Orders kept: this epoch's and the next one's.
const KEPT: usize = 2;

impl Epochs {
    /// Passes over the examples `0..count`.
    pub(crate) fn new(stream: Stream, count: usize) -> Self {
        Self { stream, count, recent: Mutex::new(Vec::new()) }
    }

    /// The examples of a training step.
    pub(crate) fn batch(&self, step: u64, batch_size: usize) -> Vec<usize> {
        if self.count == 0 {
            return Vec::new();
        }
        let start = u128::from(step) * batch_size as u128;
        let (mut epoch, mut offset) =
            ((start / self.count as u128) as u64, (start % self.count as u128) as usize);
        let mut examples = Vec::with_capacity(batch_size);
        while examples.len() < batch_size {
            let order = self.order(epoch);
            let piece = order[offset..].iter().take(batch_size - examples.len());
            examples.extend(piece.map(|&example| example as usize));
            epoch = epoch.wrapping_add(1);
            offset = 0;
        }
        examples
    }

    fn order(&self, epoch: u64) -> Arc<[u32]> {
        // The list is whole at any time, so a panic elsewhere under the lock does no harm.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(known, _)| *known == epoch) {
            return Arc::clone(order);
        }
        let mut order: Vec<u32> = (0..self.count as u32).collect();
        self.stream.at(epoch).rng().shuffle(&mut order);
        let order: Arc<[u32]> = order.into();
        if recent.len() == KEPT {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&order)));
        order
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn epochs(seed: u64, count: usize) -> Epochs {
        Epochs::new(Stream::new(seed, "test"), count)
    }

    proptest! {
        #[test]
        fn every_epoch_has_every_example_once(
            count in 1usize..40, batch_size in 1usize..50, seed: u64,
        ) {
            let epochs = epochs(seed, count);
            let steps = (3 * count).div_ceil(batch_size) as u64;
            let drawn: Vec<usize> =
                (0..steps).flat_map(|step| epochs.batch(step, batch_size)).collect();
            for epoch in drawn.chunks_exact(count).take(3) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_step_does_not_depend_on_the_steps_before(
            count in 1usize..40, batch_size in 1usize..50, step in 0u64..1000, seed: u64,
        ) {
            let used = epochs(seed, count);
            for earlier in [step.saturating_sub(7), 0, step + 3] {
                used.batch(earlier, batch_size);
            }
            let fresh = epochs(seed, count);
            prop_assert_eq!(used.batch(step, batch_size), fresh.batch(step, batch_size));
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let first = epochs(1, 100);
        assert_ne!(first.batch(0, 100), first.batch(1, 100));
        assert_ne!(first.batch(0, 100), epochs(2, 100).batch(0, 100));
        assert_eq!(first.batch(u64::MAX, 3).len(), 3);
        assert_eq!(epochs(1, 0).batch(0, 3), Vec::<usize>::new());
    }
}
