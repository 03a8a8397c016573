//! Modules, kernels and their launches.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex};

use super::{
    Answer, BLOCKS_OF_MULTIPROCESSOR, CLUSTER, CLUSTER_MOST, COOPERATIVE_LAUNCH_TOO_LARGE, GROUP,
    INVALID_CLUSTER_SIZE, INVALID_CONTEXT, INVALID_IMAGE, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES,
    NEWEST_PTX, NOT_FOUND, SHARED, SHARED_MOST, SHARED_OF_MULTIPROCESSOR, SUCCESS, StreamHandle,
    THREADS_OF_MULTIPROCESSOR, UNSUPPORTED_PTX_VERSION, give, lock, multiprocessors, refuse,
    submit, without_context,
};
use crate::compile::{Compiled, Dim, compile};
use crate::ptx::Module;
use crate::work::{Launch, Work, fail};

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
