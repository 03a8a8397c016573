//! Sharing one call among threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};

use rayon::prelude::*;

use crate::buffers::Dims;

/// What one worker computes.
#[derive(Debug, Clone)]
pub(super) struct Share {
    /// Sequences.
    pub(super) rows: Range<usize>,
    /// Blocks of hidden units, each as wide as a panel.
    pub(super) blocks: Range<usize>,
}

/// How a call is shared out.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) shares: Vec<Share>,
    /// Whether the shares differ in units, so that every step needs all of them.
    pub(super) by_units: bool,
}

/// Sequences whose bias gradients are summed together: depends on the batch alone, so that the
/// order of the sum does not depend on the threads.
pub(super) fn bias_group(batch: usize) -> usize {
    (batch / 16).clamp(1, 8)
}

impl Plan {
    /// `blocks` blocks of hidden units; `width` is `G*H`.
    pub(super) fn new(dims: &Dims, width: usize, blocks: usize, threads: usize) -> Self {
        /// Products that a thread must have at every step to be worth a wait for the others.
        const STEP_WORK: usize = 64 << 10;
        /// Products of a whole call that are worth waking a thread.
        const CALL_WORK: usize = 1 << 20;
        /// More sequences would push a step's activations out of the second-level cache.
        const MOST_ROWS: usize = 64;

        let batch = dims.batch;
        let step_work = batch * width * dims.hidden;
        let threads = if step_work * dims.steps < CALL_WORK { 1 } else { threads.max(1) };
        let few_rows = batch < 4 * threads;
        let by_units = threads.min(blocks).min(step_work / STEP_WORK);
        if few_rows && by_units > 1 {
            let cut = |part: usize| part * blocks / by_units;
            let shares = (0..by_units)
                .map(|part| Share { rows: 0..batch, blocks: cut(part)..cut(part + 1) })
                .collect();
            return Self { shares, by_units: true };
        }
        let group = bias_group(batch);
        let parts = if few_rows && step_work < STEP_WORK { 1 } else { threads };
        let rows = batch.div_ceil(parts).min(MOST_ROWS).next_multiple_of(group);
        let shares = (0..batch)
            .step_by(rows)
            .map(|first| Share { rows: first..(first + rows).min(batch), blocks: 0..blocks })
            .collect();
        Self { shares, by_units: false }
    }

    /// Runs all shares, those of a split by units at the same time.
    pub(super) fn run(&self, work: impl Fn(&Share, &Barrier) + Sync) {
        let barrier = Barrier::new(if self.by_units { self.shares.len() } else { 1 });
        let work = |share: &Share| {
            let _flush = super::flush::FlushToZero::begin();
            let _poison = PoisonOnPanic(&barrier);
            work(share, &barrier);
        };
        match &self.shares[..] {
            [only] => work(only),
            shares if self.by_units => together(shares, &work),
            shares => shares.par_iter().with_max_len(1).for_each(work),
        }
    }
}

/// Runs all shares at the same time: they wait for each other.
///
/// On the pool's own threads, one share each: threads beside the pool would compete with its workers,
/// which look for work for a while before they sleep. Two such calls at once could wait for each other's
/// threads, so that the second one, if there ever is one, gets threads of its own.
fn together(shares: &[Share], work: &(impl Fn(&Share) + Sync)) {
    static POOL: Mutex<()> = Mutex::new(());

    // A panic in a call says nothing about the next.
    let pool = match POOL.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    if pool.is_some() && shares.len() <= rayon::current_num_threads() {
        rayon::broadcast(|thread| {
            if let Some(share) = shares.get(thread.index()) {
                work(share);
            }
        });
    } else {
        std::thread::scope(|scope| {
            for share in shares {
                scope.spawn(move || work(share));
            }
        });
    }
}

/// A barrier that spins, since steps are short, and gives way once it has spun for long.
#[derive(Debug)]
pub(super) struct Barrier {
    parties: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    poisoned: AtomicBool,
}

impl Barrier {
    fn new(parties: usize) -> Self {
        Self {
            parties,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Waits until all parties have called this; what they wrote before is visible after.
    pub(super) fn wait(&self) {
        if self.parties == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.parties {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.round.load(Ordering::Acquire) == round {
            spins += 1;
            if spins < 4000 {
                std::hint::spin_loop();
            } else {
                assert!(!self.poisoned.load(Ordering::Relaxed), "another worker panicked");
                std::thread::yield_now();
            }
        }
    }
}

/// Lets the other workers fail instead of waiting forever.
struct PoisonOnPanic<'a>(&'a Barrier);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for batch in [1, 2, 3, 7, 16, 17, 33, 64, 200] {
            for (hidden, threads) in [(1, 1), (40, 2), (256, 2), (512, 3), (512, 16)] {
                let dims = Dims { batch, steps: 50, inputs: 3, hidden };
                let blocks = hidden.div_ceil(32);
                let plan = Plan::new(&dims, 4 * hidden, blocks, threads);
                let mut seen = vec![0; batch * blocks];
                for share in &plan.shares {
                    assert_eq!(share.rows.start % bias_group(batch), 0);
                    for row in share.rows.clone() {
                        for block in share.blocks.clone() {
                            seen[row * blocks + block] += 1;
                        }
                    }
                }
                assert!(seen.iter().all(|&count| count == 1), "{plan:?}");
            }
        }
    }

    #[test]
    fn barrier_separates_rounds() {
        let plan = Plan {
            shares: (0..3).map(|i| Share { rows: 0..1, blocks: i..i + 1 }).collect(),
            by_units: true,
        };
        let count = AtomicUsize::new(0);
        plan.run(|_, barrier| {
            for round in 1..500 {
                count.fetch_add(1, Ordering::Relaxed);
                barrier.wait();
                assert_eq!(count.load(Ordering::Relaxed), 3 * round);
                barrier.wait();
            }
        });
    }
}
