//! The driver's functions (libcuda.so.1), as many of them as cudarc and candle call. What they do is in NVIDIA's
//! documentation of the driver's interface; what is not simulated answers with an error.

mod kernels;
mod storage;
mod streams;

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::memory;
use crate::work::{Work, fail};

pub(crate) type Answer = c_uint;

pub(crate) const SUCCESS: Answer = 0;
const INVALID_VALUE: Answer = 1;
const OUT_OF_MEMORY: Answer = 2;
const INVALID_DEVICE: Answer = 101;
const INVALID_IMAGE: Answer = 200;
const INVALID_CONTEXT: Answer = 201;
const UNSUPPORTED_PTX_VERSION: Answer = 222;
const NOT_FOUND: Answer = 500;
const LAUNCH_OUT_OF_RESOURCES: Answer = 701;
const COOPERATIVE_LAUNCH_TOO_LARGE: Answer = 720;
const CAPTURE_UNSUPPORTED: Answer = 900;
const CAPTURE_INVALIDATED: Answer = 901;
const INVALID_CLUSTER_SIZE: Answer = 912;

/// The newest version of PTX that a driver of CUDA 13.0 knows.
const NEWEST_PTX: (u32, u32) = (9, 0);
/// What a block may have of shared memory without asking, and at most.
const SHARED: u32 = 48 << 10;
const SHARED_MOST: u32 = 227 << 10;
const SHARED_OF_MULTIPROCESSOR: u32 = 228 << 10;
const THREADS_OF_MULTIPROCESSOR: u32 = 2048;
const BLOCKS_OF_MULTIPROCESSOR: u32 = 32;
/// Multiprocessors among which a cluster's blocks must find room.
const GROUP: u32 = 16;
/// Blocks in a cluster, without asking and at most.
const CLUSTER: u32 = 8;
const CLUSTER_MOST: u32 = 16;

/// How many multiprocessors there are: `UNROLL_SIMULATED_MULTIPROCESSORS`.
fn multiprocessors() -> u32 {
    static COUNT: LazyLock<u32> = LazyLock::new(|| {
        let text = std::env::var("UNROLL_SIMULATED_MULTIPROCESSORS").unwrap_or_default();
        text.parse().ok().filter(|&count| count > 0).unwrap_or(GROUP)
    });
    *COUNT
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Whether the thread has made the device's context its own.
    static CURRENT: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
}

/// The one context; its address.
static CONTEXT: u8 = 0;

fn context() -> *mut c_void {
    (&raw const CONTEXT).cast_mut().cast()
}

/// Most functions need a context that is the thread's.
fn without_context(what: &str) -> bool {
    let none = CURRENT.get().is_null();
    if none {
        eprintln!("simulated GPU: {what}: no context is current on this thread");
    }
    none
}

/// Says why a call fails, which the driver's numbers do not.
fn refuse(answer: Answer, why: &str) -> Answer {
    eprintln!("simulated GPU: {why}");
    answer
}

/// Writes a result.
///
/// # Safety
/// A place for it, or null.
unsafe fn give<T>(to: *mut T, value: T) -> Answer {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    SUCCESS
}

/// A stream: work that is recorded, or none.
#[derive(Debug, Default)]
struct Stream {
    recording: Option<Vec<Work>>,
    broken: bool,
}

static DEFAULT: LazyLock<Mutex<Stream>> = LazyLock::new(Mutex::default);

pub(crate) type StreamHandle = *mut c_void;

fn stream(handle: StreamHandle) -> &'static Mutex<Stream> {
    match handle as usize {
        0..=2 => &DEFAULT,
        // SAFETY: made by `cuStreamCreate`, and never given back.
        address => unsafe { &*(address as *const Mutex<Stream>) },
    }
}

/// Does work, or records it.
pub(crate) fn submit(handle: StreamHandle, work: Work) {
    let mut stream = lock(stream(handle));
    match &mut stream.recording {
        Some(list) => list.push(work),
        None => {
            drop(stream);
            work.run();
        }
    }
}

/// The end, where a stream records: a graph has memory of its own, and what the program gets is not what it thinks.
fn never_recorded(handle: StreamHandle, what: &str) {
    if lock(stream(handle)).recording.is_some() {
        fail(&format!("{what} while a stream records"));
    }
}

/// What may not be asked for while a stream records ends the recording.
pub(crate) fn unless_recording(handle: StreamHandle, what: &str) -> Answer {
    let mut stream = lock(stream(handle));
    if stream.recording.is_none() {
        return SUCCESS;
    }
    stream.broken = true;
    refuse(CAPTURE_UNSUPPORTED, &format!("{what} while a stream records"))
}

// The device.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuInit(_flags: c_uint) -> Answer {
    crate::work::tell_of_faults();
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Answer {
    unsafe { give(version, 13000) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Answer {
    unsafe { give(count, 1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Answer {
    if ordinal != 0 {
        return INVALID_DEVICE;
    }
    unsafe { give(device, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> Answer {
    let text = b"simulated GPU\0";
    let len = text.len().min(len.max(0) as usize);
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, len) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Answer {
    unsafe { give(bytes, memory::CAPACITY) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) -> Answer {
    unsafe { give(uuid, [0; 16]) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    _device: c_int,
) -> Answer {
    let found = match attribute {
        1 => 1024,
        8 => SHARED,
        10 => 32,
        12 | 82 => 65536,
        // kHz; bytes of the cache that all share.
        13 => 1_000_000,
        38 => 1 << 20,
        16 => multiprocessors(),
        39 => THREADS_OF_MULTIPROCESSOR,
        75 => 9,
        76 => 0,
        81 => SHARED_OF_MULTIPROCESSOR,
        97 => SHARED_MOST,
        // Unified addresses, cooperative launches, memory pools, clusters.
        41 | 95 | 115 | 120 => 1,
        _ => 0,
    };
    unsafe { give(value, found as c_int) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(found: *mut *mut c_void, _device: c_int) -> Answer {
    unsafe { give(found, context()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> Answer {
    CURRENT.set(context);
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(found: *mut *mut c_void) -> Answer {
    unsafe { give(found, CURRENT.get()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxSynchronize() -> Answer {
    if without_context("cuCtxSynchronize") { INVALID_CONTEXT } else { SUCCESS }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(_error: Answer, text: *mut *const c_char) -> Answer {
    unsafe { give(text, c"an error of the simulated GPU".as_ptr()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(_error: Answer, text: *mut *const c_char) -> Answer {
    unsafe { give(text, c"an error of the simulated GPU".as_ptr()) }
}
