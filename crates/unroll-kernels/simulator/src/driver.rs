//! The driver's functions (libcuda.so.1), as many of them as cudarc and candle call. What they do is in NVIDIA's
//! documentation of the driver's interface; what is not simulated answers with an error.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::compile::{Compiled, Dim, compile};
use crate::memory;
use crate::ptx::Module;
use crate::work::{Launch, Work, check, fail};

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

// Streams and events.

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(to: *mut StreamHandle, _flags: c_uint) -> Answer {
    if without_context("cuStreamCreate") {
        return INVALID_CONTEXT;
    }
    let stream = Box::<Mutex<Stream>>::default();
    unsafe { give(to, Box::into_raw(stream).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamDestroy_v2(_stream: StreamHandle) -> Answer {
    // Kept: a program makes few of them, and who uses one that is gone is to be answered all the same.
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamSynchronize(stream: StreamHandle) -> Answer {
    unless_recording(stream, "waiting")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamWaitEvent(
    _stream: StreamHandle,
    _event: *mut c_void,
    _flags: c_uint,
) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamBeginCapture_v2(handle: StreamHandle, _mode: c_uint) -> Answer {
    let mut stream = lock(stream(handle));
    if (handle as usize) <= 2 || stream.recording.is_some() {
        return refuse(CAPTURE_UNSUPPORTED, "this stream cannot record");
    }
    *stream = Stream { recording: Some(Vec::new()), broken: false };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamIsCapturing(handle: StreamHandle, status: *mut c_uint) -> Answer {
    let stream = lock(stream(handle));
    let found = match (&stream.recording, stream.broken) {
        (None, _) => 0,
        (Some(_), false) => 1,
        (Some(_), true) => 2,
    };
    unsafe { give(status, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamEndCapture(handle: StreamHandle, graph: *mut *mut c_void) -> Answer {
    let ended = std::mem::take(&mut *lock(stream(handle)));
    match ended.recording {
        Some(list) if !ended.broken => unsafe { give(graph, Box::into_raw(Box::new(list)).cast()) },
        _ => {
            unsafe { give(graph, std::ptr::null_mut()) };
            CAPTURE_INVALIDATED
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphInstantiateWithFlags(
    to: *mut *mut c_void,
    graph: *mut c_void,
    _flags: u64,
) -> Answer {
    // SAFETY: made by `cuStreamEndCapture`.
    let list = unsafe { &*graph.cast::<Vec<Work>>() }.clone();
    unsafe { give(to, Box::into_raw(Box::new(list)).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphUpload(_graph: *mut c_void, _stream: StreamHandle) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphLaunch(graph: *mut c_void, stream: StreamHandle) -> Answer {
    if without_context("cuGraphLaunch") {
        return INVALID_CONTEXT;
    }
    // SAFETY: made by `cuGraphInstantiateWithFlags`.
    for work in unsafe { &*graph.cast::<Vec<Work>>() } {
        work.check();
        submit(stream, work.clone());
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphExecDestroy(graph: *mut c_void) -> Answer {
    // SAFETY: made by `cuGraphInstantiateWithFlags`, and given back once.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Work>>()) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGraphDestroy(graph: *mut c_void) -> Answer {
    // SAFETY: made by `cuStreamEndCapture`, and given back once.
    drop(unsafe { Box::from_raw(graph.cast::<Vec<Work>>()) });
    SUCCESS
}

type Event = Mutex<Option<Instant>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(to: *mut *mut c_void, _flags: c_uint) -> Answer {
    if without_context("cuEventCreate") {
        return INVALID_CONTEXT;
    }
    unsafe { give(to, Box::into_raw(Box::<Event>::default()).cast()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventRecord(event: *mut c_void, _stream: StreamHandle) -> Answer {
    // SAFETY: made by `cuEventCreate`.
    *lock(unsafe { &*event.cast::<Event>() }) = Some(Instant::now());
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventSynchronize(_event: *mut c_void) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventQuery(_event: *mut c_void) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    begin: *mut c_void,
    end: *mut c_void,
) -> Answer {
    // SAFETY: made by `cuEventCreate`.
    let (begin, end) = unsafe { (&*begin.cast::<Event>(), &*end.cast::<Event>()) };
    match (*lock(begin), *lock(end)) {
        (Some(begin), Some(end)) => unsafe {
            give(milliseconds, (end - begin).as_secs_f32() * 1e3)
        },
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    begin: *mut c_void,
    end: *mut c_void,
) -> Answer {
    unsafe { cuEventElapsedTime_v2(milliseconds, begin, end) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> Answer {
    // SAFETY: made by `cuEventCreate`, and given back once.
    drop(unsafe { Box::from_raw(event.cast::<Event>()) });
    SUCCESS
}

// Memory.

fn allocate(to: *mut usize, bytes: usize) -> Answer {
    if without_context("allocating memory") {
        return INVALID_CONTEXT;
    }
    match memory::allocate(bytes) {
        Some(address) => unsafe { give(to, address) },
        None if bytes == 0 => INVALID_VALUE,
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(to: *mut usize, bytes: usize) -> Answer {
    allocate(to, bytes)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(to: *mut usize, bytes: usize, stream: StreamHandle) -> Answer {
    never_recorded(stream, "allocating memory");
    allocate(to, bytes)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFree_v2(address: usize) -> Answer {
    if memory::free(address) {
        SUCCESS
    } else {
        refuse(INVALID_VALUE, &format!("{address:#x} is given back, and is not the device's"))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeAsync(address: usize, stream: StreamHandle) -> Answer {
    never_recorded(stream, "giving memory back");
    unsafe { cuMemFree_v2(address) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Answer {
    unsafe {
        give(free, memory::CAPACITY - memory::used().0);
        give(total, memory::CAPACITY)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Answer {
    unsafe { give(to, libc::malloc(bytes)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(memory: *mut c_void) -> Answer {
    unsafe { libc::free(memory) };
    SUCCESS
}

fn copy(stream: StreamHandle, to: usize, from: usize, bytes: usize, sides: (bool, bool)) -> Answer {
    if without_context("copying memory") {
        return INVALID_CONTEXT;
    }
    if sides.0 {
        check(from, bytes, "a copy");
    }
    if sides.1 {
        check(to, bytes, "a copy");
    }
    if sides != (true, true) {
        // The program may do what it likes with its own memory before the list runs.
        let answer = unless_recording(stream, "copying the program's memory");
        if answer != SUCCESS {
            return answer;
        }
    }
    submit(stream, Work::Copy { from, to, bytes });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: usize,
    from: *const c_void,
    bytes: usize,
    stream: StreamHandle,
) -> Answer {
    copy(stream, to, from as usize, bytes, (false, true))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: usize, from: *const c_void, bytes: usize) -> Answer {
    copy(std::ptr::null_mut(), to, from as usize, bytes, (false, true))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: usize,
    bytes: usize,
    stream: StreamHandle,
) -> Answer {
    copy(stream, to as usize, from, bytes, (true, false))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: usize, bytes: usize) -> Answer {
    copy(std::ptr::null_mut(), to as usize, from, bytes, (true, false))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: usize,
    from: usize,
    bytes: usize,
    stream: StreamHandle,
) -> Answer {
    copy(stream, to, from, bytes, (true, true))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoD_v2(to: usize, from: usize, bytes: usize) -> Answer {
    copy(std::ptr::null_mut(), to, from, bytes, (true, true))
}

fn set(stream: StreamHandle, to: usize, pattern: &[u8], count: usize) -> Answer {
    if without_context("filling memory") {
        return INVALID_CONTEXT;
    }
    check(to, pattern.len() * count, "a fill");
    submit(stream, Work::Set { to, pattern: pattern.to_vec(), count });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8Async(
    to: usize,
    value: u8,
    count: usize,
    stream: StreamHandle,
) -> Answer {
    set(stream, to, &[value], count)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD8_v2(to: usize, value: u8, count: usize) -> Answer {
    set(std::ptr::null_mut(), to, &[value], count)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemsetD32Async(
    to: usize,
    value: c_uint,
    count: usize,
    stream: StreamHandle,
) -> Answer {
    set(stream, to, &value.to_le_bytes(), count)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetMemPool(pool: *mut *mut c_void, _device: c_int) -> Answer {
    unsafe { give(pool, context()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, device: c_int) -> Answer {
    unsafe { cuDeviceGetMemPool(pool, device) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolSetAttribute(
    _pool: *mut c_void,
    attribute: c_uint,
    value: *mut c_void,
) -> Answer {
    match attribute {
        4 => SUCCESS,
        // The mark of what is reserved or used can be set to zero alone.
        // SAFETY: a 64-bit number for these attributes.
        6 | 8 if unsafe { value.cast::<u64>().read() } == 0 => {
            memory::reset_high();
            SUCCESS
        }
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolGetAttribute(
    _pool: *mut c_void,
    attribute: c_uint,
    value: *mut c_void,
) -> Answer {
    let (used, high) = memory::used();
    let found = match attribute {
        5 | 7 => used,
        6 | 8 => high,
        _ => return INVALID_VALUE,
    };
    unsafe { give(value.cast::<u64>(), found as u64) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolTrimTo(_pool: *mut c_void, _bytes: usize) -> Answer {
    SUCCESS
}

// Modules and kernels.

/// A kernel, and what was asked for with it.
#[derive(Debug)]
struct Function {
    compiled: Arc<Compiled>,
    /// Dynamic shared memory at most; whether clusters may have more blocks than every device has room for.
    settings: Mutex<(u32, bool)>,
}

/// A module with the kernels that were asked for.
#[derive(Debug)]
struct Loaded {
    ptx: Module,
    functions: Mutex<HashMap<String, &'static Function>>,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Answer {
    if without_context("cuModuleLoadData") {
        return INVALID_CONTEXT;
    }
    // SAFETY: the caller's promise.
    let parsed = unsafe { crate::image::ptx(image) }.and_then(|text| Module::parse(&text));
    match parsed {
        Ok(ptx) if ptx.version() > NEWEST_PTX => {
            refuse(UNSUPPORTED_PTX_VERSION, "PTX of a version that the driver does not know")
        }
        Ok(ptx) => {
            let loaded = Box::new(Loaded { ptx, functions: Mutex::default() });
            unsafe { give(module, Box::into_raw(loaded).cast()) }
        }
        Err(error) => refuse(INVALID_IMAGE, &error),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleUnload(_module: *mut c_void) -> Answer {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Answer {
    // SAFETY: made by `cuModuleLoadData`, and never given back; a text that ends with zero.
    let (module, name) = unsafe { (&*module.cast::<Loaded>(), CStr::from_ptr(name)) };
    let name = name.to_string_lossy();
    let mut functions = lock(&module.functions);
    if let Some(&known) = functions.get(&*name) {
        return unsafe { give(function, (&raw const *known).cast_mut().cast()) };
    }
    if module.ptx.entry(&name).is_none() {
        return NOT_FOUND;
    }
    match compile(&module.ptx, &name) {
        Ok(compiled) => {
            let settings = Mutex::new((SHARED - compiled.kernel.static_shared as u32, false));
            // Kept: whoever has it may launch it at any time.
            let made = &*Box::leak(Box::new(Function { compiled: Arc::new(compiled), settings }));
            functions.insert(name.into_owned(), made);
            unsafe { give(function, (&raw const *made).cast_mut().cast()) }
        }
        // A kernel that cannot be simulated is not the program's fault, and it should not go another way instead.
        Err(error) => fail(&format!("{name}: {error}")),
    }
}

fn function(handle: *mut c_void) -> &'static Function {
    // SAFETY: made by `cuModuleGetFunction`, and never given back.
    unsafe { &*handle.cast::<Function>() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(
    handle: *mut c_void,
    attribute: c_uint,
    value: c_int,
) -> Answer {
    let function = function(handle);
    let mut settings = lock(&function.settings);
    match attribute {
        8 if (0..=(SHARED_MOST as i64 - function.compiled.kernel.static_shared as i64))
            .contains(&i64::from(value)) =>
        {
            settings.0 = value as u32;
            SUCCESS
        }
        9 => SUCCESS,
        14 => {
            settings.1 = value != 0;
            SUCCESS
        }
        _ => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    handle: *mut c_void,
) -> Answer {
    let function = function(handle);
    let found = match attribute {
        0 => function.compiled.kernel.max_threads.unwrap_or(1024),
        1 => function.compiled.kernel.static_shared as u32,
        4 => 64,
        8 => lock(&function.settings).0,
        _ => 0,
    };
    unsafe { give(value, found as c_int) }
}

/// Blocks of so many threads and bytes that a multiprocessor has room for at once. PTX does not tell how many
/// registers a thread will need: as many as the kernel's bounds leave, or 64.
fn blocks_of_multiprocessor(function: &Function, threads: u32, dynamic_shared: u32) -> u32 {
    let kernel = &function.compiled.kernel;
    if threads > kernel.max_threads.unwrap_or(1024) {
        return 0;
    }
    let by_threads = THREADS_OF_MULTIPROCESSOR / threads.next_multiple_of(32).max(32);
    // A block needs a kilobyte that the driver keeps.
    let by_shared =
        SHARED_OF_MULTIPROCESSOR / (kernel.static_shared as u32 + dynamic_shared + 1024);
    let by_registers =
        kernel.min_blocks.unwrap_or(65536 / (64 * threads.next_multiple_of(32)).max(1));
    by_threads.min(by_shared).min(by_registers).min(BLOCKS_OF_MULTIPROCESSOR)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    handle: *mut c_void,
    threads: c_int,
    dynamic_shared: usize,
) -> Answer {
    let found = blocks_of_multiprocessor(function(handle), threads as u32, dynamic_shared as u32);
    unsafe { give(blocks, found as c_int) }
}

/// As `CUlaunchConfig`.
#[derive(Debug)]
#[repr(C)]
struct Config {
    grid: Dim,
    threads: Dim,
    shared_bytes: c_uint,
    stream: StreamHandle,
    attributes: *const Attribute,
    attribute_count: c_uint,
}

/// As `CUlaunchAttribute`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Attribute {
    id: c_uint,
    padding: [u8; 4],
    value: [u32; 16],
}

impl Config {
    /// The cluster's size, and whether all blocks run at once.
    ///
    /// # Safety
    /// As many attributes as it says.
    unsafe fn together(&self) -> Result<(Dim, bool), Answer> {
        let (mut cluster, mut cooperative) = (Dim { x: 1, y: 1, z: 1 }, false);
        for index in 0..self.attribute_count as usize {
            // SAFETY: the caller's promise.
            let attribute = unsafe { *self.attributes.add(index) };
            match attribute.id {
                0 => {}
                2 => cooperative = attribute.value[0] != 0,
                4 => {
                    let [x, y, z, ..] = attribute.value;
                    cluster = Dim { x, y, z };
                }
                other => return Err(refuse(INVALID_VALUE, &format!("a launch attribute {other}"))),
            }
        }
        Ok((cluster, cooperative))
    }
}

fn largest_cluster(function: &Function) -> u32 {
    if lock(&function.settings).1 { CLUSTER_MOST } else { CLUSTER }
}

fn active_clusters(function: &Function, config: &Config, cluster: u32) -> u32 {
    let blocks =
        blocks_of_multiprocessor(function, config.threads.count() as u32, config.shared_bytes);
    let groups = (multiprocessors() / GROUP).max(1);
    let group = multiprocessors().min(GROUP);
    groups * (group * blocks / cluster)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveClusters(
    clusters: *mut c_int,
    handle: *mut c_void,
    config: *const Config,
) -> Answer {
    let function = function(handle);
    // SAFETY: the caller's promise.
    let config = unsafe { &*config };
    let (cluster, _) = match unsafe { config.together() } {
        Ok(together) => together,
        Err(answer) => return answer,
    };
    let size = cluster.count() as u32;
    if size == 0 || size > largest_cluster(function) {
        return INVALID_CLUSTER_SIZE;
    }
    unsafe { give(clusters, active_clusters(function, config, size) as c_int) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernelEx(
    config: *const Config,
    handle: *mut c_void,
    parameters: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Answer {
    if without_context("cuLaunchKernelEx") {
        return INVALID_CONTEXT;
    }
    let function = function(handle);
    let kernel = &function.compiled.kernel;
    // SAFETY: the caller's promise.
    let config = unsafe { &*config };
    let (cluster, cooperative) = match unsafe { config.together() } {
        Ok(together) => together,
        Err(answer) => return answer,
    };
    let Config { grid, threads, .. } = *config;
    let name = function.compiled.name.to_string_lossy();
    let no = |answer, why: String| refuse(answer, &format!("{name}: {why}"));
    if grid.count() == 0
        || threads.count() == 0
        || grid.y > 65535
        || grid.z > 65535
        || threads.z > 64
    {
        return no(INVALID_VALUE, format!("a launch of {grid:?} blocks of {threads:?} threads"));
    }
    let most = kernel.max_threads.unwrap_or(1024);
    if threads.count() > u64::from(most) {
        return no(INVALID_VALUE, format!("{threads:?} threads, and {most} are the most"));
    }
    let most = lock(&function.settings).0;
    if config.shared_bytes > most {
        let asked = config.shared_bytes;
        return no(
            INVALID_VALUE,
            format!("{asked} bytes of shared memory, and {most} are the most"),
        );
    }
    let blocks = blocks_of_multiprocessor(function, threads.count() as u32, config.shared_bytes);
    if blocks == 0 {
        return no(LAUNCH_OUT_OF_RESOURCES, "no multiprocessor has room for a block".into());
    }
    let size = cluster.count() as u32;
    if size > 1 {
        if (cluster.y, cluster.z) != (1, 1) {
            return no(INVALID_VALUE, "clusters are simulated along x alone".into());
        }
        if size > largest_cluster(function) || grid.x % size != 0 {
            return no(INVALID_CLUSTER_SIZE, format!("{} blocks in clusters of {size}", grid.x));
        }
        if active_clusters(function, config, size) == 0 {
            return no(INVALID_CLUSTER_SIZE, format!("there is no room for a cluster of {size}"));
        }
    }
    if cooperative && grid.count() > u64::from(blocks * multiprocessors()) {
        return no(COOPERATIVE_LAUNCH_TOO_LARGE, format!("{grid:?} blocks at once"));
    }
    let end = kernel.parameters.last().map_or(0, |(begin, bytes)| begin + bytes);
    let mut bytes = vec![0u8; end + 16];
    for (index, &(begin, size)) in kernel.parameters.iter().enumerate() {
        // SAFETY: the caller gives a pointer to each of the kernel's parameters.
        unsafe {
            let from = (*parameters.add(index)).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr().add(begin), size);
        }
    }
    let launch = Launch {
        compiled: function.compiled.clone(),
        grid,
        threads,
        dynamic_shared: config.shared_bytes,
        cluster: size,
        cooperative,
        parameters: bytes,
    };
    submit(config.stream, Work::Launch(launch));
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    handle: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    threads_x: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    shared_bytes: c_uint,
    stream: StreamHandle,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Answer {
    let config = Config {
        grid: Dim { x: grid_x, y: grid_y, z: grid_z },
        threads: Dim { x: threads_x, y: threads_y, z: threads_z },
        shared_bytes,
        stream,
        attributes: std::ptr::null(),
        attribute_count: 0,
    };
    unsafe { cuLaunchKernelEx(&raw const config, handle, parameters, extra) }
}
