//! cuRAND's functions (libcurand.so.10): generators that candle makes and Unroll never asks for numbers, whose streams
//! are its own. Asking is an error.

use std::ffi::{c_uint, c_ulonglong, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn curandCreateGenerator(generator: *mut *mut c_void, _kind: c_uint) -> c_uint {
    static GENERATOR: u8 = 0;
    // SAFETY: the caller gives a place.
    unsafe { generator.write((&raw const GENERATOR).cast_mut().cast()) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn curandSetPseudoRandomGeneratorSeed(
    _generator: *mut c_void,
    _seed: c_ulonglong,
) -> c_uint {
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn curandSetStream(_generator: *mut c_void, _stream: *mut c_void) -> c_uint {
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn curandDestroyGenerator(_generator: *mut c_void) -> c_uint {
    0
}
