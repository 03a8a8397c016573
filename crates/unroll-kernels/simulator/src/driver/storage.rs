//! Memory: asked for, given back, copied, filled.

use std::ffi::{c_int, c_uint, c_void};

use super::{
    Answer, INVALID_CONTEXT, INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, StreamHandle, context, give,
    never_recorded, refuse, submit, unless_recording, without_context,
};
use crate::memory;
use crate::work::{Work, check};

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
