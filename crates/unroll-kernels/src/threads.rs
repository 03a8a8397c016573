//! Threads beside ours, and locks among them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps candle from starting threads of its own for element-wise operations; whether it did.
///
/// candle runs element-wise operations on large tensors in a pool with one thread for each core,
/// whatever the number of threads that a caller's rayon pool has. Its workers spin for a while after each
/// operation and take cores from the layers: without them, training steps are 5 to 35 % faster on two
/// cores, and `--threads` means what it says. The pool's size is read once, from `CANDLE_NUM_THREADS`;
/// this sets the variable to 1 unless the user has set it.
///
/// Does nothing once the process has several threads (or where that cannot be told): call it first in
/// `main`.
pub fn keep_candle_to_one_thread() -> bool {
    const NAME: &str = "CANDLE_NUM_THREADS";
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if !alone || std::env::var_os(NAME).is_some() {
        return false;
    }
    // SAFETY: no other thread exists that could read the environment meanwhile.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var(NAME, "1");
    }
    true
}

/// Locks what no panic can leave half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
