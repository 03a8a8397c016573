//! Runs the CUDA kernels of `unroll-kernels` on a processor, thread by thread: a test of their arithmetic,
//! their barriers and their bounds that needs no GPU.
//!
//! It says nothing about speed, nor about what only hardware shows (the order of memory accesses between
//! barriers is that of one thread after another, in an order that the caller chooses).

/// A launch. All blocks run at once.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Blocks in x and y.
    pub grid: (u32, u32),
    /// Threads in a block: whole warps.
    pub threads: u32,
    /// Blocks in a cluster, side by side in x.
    pub cluster: u32,
    /// Bytes of shared memory.
    pub shared_bytes: usize,
    /// In which order threads run between barriers; results may not depend on it.
    pub order: u64,
}

/// Whether there was a C++ compiler to build the kernels with.
pub const AVAILABLE: bool = cfg!(emulated);

/// Runs a kernel whose one argument is `arguments`, byte by byte.
///
/// # Errors
/// When there is no such kernel, the argument has another size, threads wait for each other without end or
/// write outside of their block's shared memory.
///
/// # Safety
/// Pointers within `arguments` must be valid for what the kernel does with them.
#[allow(unsafe_code)]
pub unsafe fn run(launch: &Launch<'_>, arguments: &[u8]) -> Result<(), String> {
    // SAFETY: the caller's promise.
    unsafe { run_built(launch, arguments) }
}

#[cfg(emulated)]
#[allow(unsafe_code)]
unsafe fn run_built(launch: &Launch<'_>, arguments: &[u8]) -> Result<(), String> {
    use std::ffi::{CStr, CString, c_char, c_void};
    unsafe extern "C" {
        fn unroll_emulate(
            name: *const c_char,
            grid_x: u32,
            grid_y: u32,
            threads: u32,
            cluster: u32,
            shared_bytes: usize,
            arguments: *const c_void,
            size: usize,
            order: u64,
        ) -> *const c_char;
    }
    let name = CString::new(launch.kernel).map_err(|error| error.to_string())?;
    // SAFETY: the name and the arguments live until the call ends; pointers in them are the caller's promise.
    let error = unsafe {
        unroll_emulate(
            name.as_ptr(),
            launch.grid.0,
            launch.grid.1,
            launch.threads,
            launch.cluster,
            launch.shared_bytes,
            arguments.as_ptr().cast(),
            arguments.len(),
            launch.order,
        )
    };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: not null: a text that is part of the program.
    let text = unsafe { CStr::from_ptr(error) }.to_string_lossy();
    Err(format!("{}: {text}", launch.kernel))
}

#[cfg(not(emulated))]
#[allow(unsafe_code)]
unsafe fn run_built(launch: &Launch<'_>, _arguments: &[u8]) -> Result<(), String> {
    Err(format!("{}: there was no C++ compiler", launch.kernel))
}
