//! Sharing one call among threads.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::buffers::Dims;
use crate::threads::lock;

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

/// How long a call waits for the pool's threads before it takes threads of its own. Those that sleep wake within a
/// tenth of it.
const PATIENCE: Duration = Duration::from_millis(2);

/// Runs all shares at the same time: they wait for each other.
///
/// On the pool's own threads, one share each: threads beside the pool would compete with its workers,
/// which look for work for a while before they sleep. But no call waits for a thread that is busy, perhaps with
/// something that waits for this call: what no thread of the pool takes soon, threads of its own do. Of two such
/// calls at once, the second one, if there ever is one, has threads of its own from the beginning.
fn together(shares: &[Share], work: &(impl Fn(&Share) + Sync)) {
    static POOL: Mutex<()> = Mutex::new(());

    // A panic in a call says nothing about the next.
    let pool = match POOL.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    };
    let work = |index: usize| {
        if let Some(share) = shares.get(index) {
            work(share);
        }
    };
    // The last one is the caller's own.
    let others = shares.len().saturating_sub(1);
    let seats = Seats::new(others, &work);
    // Left also when a thread cannot be made: nobody may work with what is gone.
    let _end = Close(&seats);
    if pool.is_some() && shares.len() <= rayon::current_num_threads() {
        let seats = seats.clone();
        rayon::spawn_broadcast(move |_| seats.take());
    }
    let begin = Instant::now();
    while pool.is_some() && seats.free() > 0 && begin.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        for _ in 0..seats.free() {
            scope.spawn(|| seats.take());
        }
        work(others);
    });
}

/// Pieces of work that threads take, each of them once.
struct Seats {
    count: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    /// What is done with a piece. The one who made this waits until all that were taken are done.
    work: *const (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[allow(unsafe_code)]
// SAFETY: the pointer is to something that threads may share.
unsafe impl Send for Seats {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Seats {}

impl Seats {
    fn new(count: usize, work: &(dyn Fn(usize) + Sync)) -> Arc<Self> {
        #[allow(unsafe_code)]
        // SAFETY: only the lifetime changes; `take` says why that is right.
        let work: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(work) };
        Arc::new(Self {
            count,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            work,
            panic: Mutex::new(None),
        })
    }

    /// Pieces that nobody has taken.
    fn free(&self) -> usize {
        self.count.saturating_sub(self.next.load(Ordering::Acquire))
    }

    /// Takes a piece, if one is left, and does it.
    fn take(&self) {
        let index = self.next.fetch_add(1, Ordering::AcqRel);
        if index >= self.count {
            return;
        }
        let run = AssertUnwindSafe(|| {
            #[allow(unsafe_code)]
            // SAFETY: a piece was taken that is not done: [`Close`] waits for it, and what it works with is there
            // until then. A thread that comes later finds no piece and does not get here.
            let work = unsafe { &*self.work };
            work(index);
        });
        if let Err(panic) = catch_unwind(run) {
            lock(&self.panic).get_or_insert(panic);
        }
        self.done.fetch_add(1, Ordering::Release);
    }
}

/// Waits, when dropped, until all pieces that were taken are done, and lets nobody take another. Goes on with the
/// first panic.
struct Close<'a>(&'a Seats);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let seats = self.0;
        let taken = seats.next.fetch_add(seats.count, Ordering::AcqRel).min(seats.count);
        while seats.done.load(Ordering::Acquire) < taken {
            std::thread::yield_now();
        }
        let panic = lock(&seats.panic).take();
        if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
            resume_unwind(panic);
        }
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

    /// Plans of `count` shares that need all of them at every step.
    fn by_units(count: usize) -> Plan {
        let shares = (0..count).map(|i| Share { rows: 0..1, blocks: i..i + 1 }).collect();
        Plan { shares, by_units: true }
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Runs a plan with many steps, in which each share counts once.
    fn steps(count: usize) {
        let sum = AtomicUsize::new(0);
        by_units(count).run(|_, barrier| {
            for round in 1..50 {
                sum.fetch_add(1, Ordering::Relaxed);
                barrier.wait();
                assert_eq!(sum.load(Ordering::Relaxed), count * round);
                barrier.wait();
            }
        });
    }

    /// A thread of the pool that waits for what comes after the call, as a loader of data on the pool does.
    #[test]
    fn threads_of_the_pool_that_are_busy_are_not_waited_for() {
        for threads in [2, 3] {
            let pool = pool(threads);
            for busy in 1..threads {
                let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(0);
                for _ in 0..busy {
                    let sender = sender.clone();
                    pool.spawn(move || sender.send(()).unwrap());
                }
                // From a thread of the pool itself, and from another one.
                pool.install(|| steps(threads));
                std::thread::scope(|scope| scope.spawn(|| steps(threads)).join().unwrap());
                for _ in 0..busy {
                    receiver.recv().unwrap();
                }
            }
        }
    }

    #[test]
    fn calls_at_once_do_not_wait_for_each_other() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| steps(2)));
            }
        });
    }

    #[test]
    fn a_panic_ends_the_call_and_not_the_pool() {
        let pool = pool(2);
        pool.install(|| {
            for wrong in 0..2 {
                let failed = catch_unwind(|| {
                    by_units(2).run(|share, barrier| {
                        assert_ne!(share.blocks.start, wrong, "on purpose");
                        barrier.wait();
                    });
                });
                assert!(failed.is_err());
                steps(2);
            }
        });
    }
}
