//! What a device does: kernels, copies, products. Done at once, in the order in which it is asked for, or kept in a
//! list while a stream records.

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::blas::Product;
use crate::compile::{Compiled, Dim, LaunchOf};
use crate::memory;

/// A launch of a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) compiled: Arc<Compiled>,
    pub(crate) grid: Dim,
    pub(crate) threads: Dim,
    pub(crate) dynamic_shared: u32,
    pub(crate) cluster: u32,
    pub(crate) cooperative: bool,
    pub(crate) parameters: Vec<u8>,
}

/// Something to be done.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    Launch(Launch),
    /// Bytes from one address to another.
    Copy {
        from: usize,
        to: usize,
        bytes: usize,
    },
    /// A pattern of as many bytes, over and over.
    Set {
        to: usize,
        pattern: Vec<u8>,
        count: usize,
    },
    Product(Product),
}

/// Ends the program: what a device was asked for is wrong.
pub(crate) fn fail(what: &str) -> ! {
    eprintln!("simulated GPU: {what}");
    std::process::abort();
}

/// Memory that the device may touch, or the end.
pub(crate) fn check(address: usize, bytes: usize, what: &str) {
    if !memory::contains(address, bytes) {
        fail(&format!("{what}: {bytes} bytes at {address:#x} are not the device's"));
    }
}

/// One thing at a time.
static DEVICE: Mutex<()> = Mutex::new(());

/// Nothing else is done while this is held.
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}
/// The kernel that runs, for a message.
static RUNNING: AtomicPtr<Compiled> = AtomicPtr::new(std::ptr::null_mut());
/// In which order threads run: another one for each launch.
static ORDER: AtomicU64 = AtomicU64::new(2014);

impl Work {
    pub(crate) fn run(&self) {
        let _alone = alone();
        match self {
            Self::Launch(launch) => launch.run(),
            Self::Copy { from, to, bytes } => {
                // SAFETY: both ends were checked where one is the device's; the other is the caller's promise.
                unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes) };
            }
            Self::Set { to, pattern, count } => {
                for index in 0..*count {
                    // SAFETY: checked when it was asked for.
                    unsafe {
                        let to = (*to as *mut u8).add(index * pattern.len());
                        std::ptr::copy_nonoverlapping(pattern.as_ptr(), to, pattern.len());
                    }
                }
            }
            Self::Product(product) => product.run(),
        }
    }

    /// Memory that it names must still be there when a recorded list runs again.
    pub(crate) fn check(&self) {
        match self {
            Self::Launch(_) => {}
            // Only copies within the device's memory are recorded.
            Self::Copy { from, to, bytes } => {
                check(*from, *bytes, "a recorded copy");
                check(*to, *bytes, "a recorded copy");
            }
            Self::Set { to, pattern, count } => {
                check(*to, pattern.len() * count, "a recorded fill");
            }
            Self::Product(product) => product.check(),
        }
    }
}

impl Launch {
    fn run(&self) {
        let kernel = &self.compiled.kernel;
        RUNNING.store(Arc::as_ptr(&self.compiled).cast_mut(), Ordering::Relaxed);
        let launch = LaunchOf {
            kernel: self.compiled.name.as_ptr(),
            grid: self.grid,
            threads: self.threads,
            cluster: self.cluster,
            together: u32::from(self.cooperative),
            shared_bytes: kernel.static_shared as u32 + self.dynamic_shared,
            fibers: u32::from(kernel.meets),
            order: ORDER.fetch_add(1, Ordering::Relaxed),
            parameters: self.parameters.as_ptr(),
        };
        // SAFETY: the parameters are those that the kernel takes; what it does with them is the caller's promise, and
        // pages that nobody may touch are around all memory.
        unsafe { (self.compiled.run)(&raw const launch) };
        RUNNING.store(std::ptr::null_mut(), Ordering::Relaxed);
    }
}

/// Says which kernel touched memory that is not there, when one does.
pub(crate) fn tell_of_faults() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: the handler only reads and writes what is said there.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    });
}

extern "C" fn fault(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let mut place = [0u8; 256];
    let running = RUNNING.load(Ordering::Relaxed);
    // SAFETY: the launch that runs keeps its kernel; the text ends with zero within the bytes.
    let (place, address) = unsafe {
        if !running.is_null() {
            ((*running).tell)(place.as_mut_ptr().cast(), place.len());
        }
        let end = place.iter().position(|&byte| byte == 0).unwrap_or(place.len());
        (String::from_utf8_lossy(&place[..end]).into_owned(), (*info).si_addr() as usize)
    };
    let what = if place.is_empty() { "the host" } else { &place };
    eprintln!("simulated GPU: {what}: {address:#x} is not within any memory");
    // SAFETY: ends the program in the way that it would have without this function.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
