//! The CUDA driver's interface, through the bindings that candle brings.

use std::ffi::c_int;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

use super::machine::cuda::Gpu;
use super::{Gpus, Unavailable};

fn unavailable(error: DriverError) -> Unavailable {
    use sys::cudaError_enum as Code;
    match error.0 {
        // Where the driver's library is not found, its place is taken by one that answers with this.
        Code::CUDA_ERROR_STUB_LIBRARY => Unavailable::NoDriver,
        Code::CUDA_ERROR_NO_DEVICE => Unavailable::NoGpu,
        other => Unavailable::Refused(format!("the NVIDIA driver answers {other:?}")),
    }
}

fn count() -> Result<c_int, Unavailable> {
    result::init().map_err(unavailable)?;
    match result::device::get_count().map_err(unavailable)? {
        0 => Err(Unavailable::NoGpu),
        count => Ok(count),
    }
}

pub(super) fn open(index: usize) -> Result<Device, Unavailable> {
    let count = count()? as usize;
    if index >= count {
        return Err(Unavailable::NoSuchGpu { index, count });
    }
    let major = device_attribute(
        index,
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
    )?;
    if major < 9 {
        let name = result::device::get(index as c_int).and_then(result::device::get_name);
        let name = name.unwrap_or_else(|_| format!("GPU {index}"));
        return Err(Unavailable::Refused(format!(
            "{name} has compute capability {major}; the kernels are for 9 (Hopper) and later"
        )));
    }
    // Not the stream of the calling thread: a trial runs on another thread than the one that opens.
    let device = Device::new_cuda_with_stream(index)
        .map_err(|error| Unavailable::Refused(first_lines(&error.to_string())))?;
    if let Device::Cuda(cuda) = &device {
        #[allow(unsafe_code)]
        // SAFETY: events order the uses of a tensor on several streams; this device has one, which runs what
        // it is given in order, frees of memory included.
        unsafe {
            cuda.disable_event_tracking();
        }
        if let Some(pool) = Pool::of(&device) {
            pool.keep_all();
        }
        // Now, so that it is no part of what is measured later: neither of the time nor of the memory.
        Gpu::new(cuda, false)
            .map_err(|error| Unavailable::Refused(first_lines(&error.to_string())))?;
    }
    Ok(device)
}

fn device_attribute(
    index: usize,
    attribute: sys::CUdevice_attribute,
) -> Result<c_int, Unavailable> {
    let mut value: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: the driver has been initialised; writes one integer to a place that is there.
    let answer =
        unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, index as sys::CUdevice) };
    answer.result().map_err(unavailable)?;
    Ok(value)
}

/// An error of candle's without its backtrace, in one line.
fn first_lines(text: &str) -> String {
    let is_frame = |line: &str| {
        let number = line.trim_start().split_once(": ").map_or("", |(number, _)| number);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let lines = text.lines().take_while(|line| !is_frame(line)).map(str::trim);
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

pub(super) fn list() -> Result<Gpus, Unavailable> {
    let mut names = Vec::new();
    for index in 0..count()? {
        let device = result::device::get(index).map_err(unavailable)?;
        names.push(result::device::get_name(device).map_err(unavailable)?);
    }
    let mut version: c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: writes one integer to a place that is there.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    answer.result().map_err(unavailable)?;
    Ok(Gpus { names, cuda: format!("{}.{}", version / 1000, version % 1000 / 10) })
}

/// The pool that a device's tensors are allocated from.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    /// Keeps the device's context, and with it the pool, alive.
    _device: candle_core::CudaDevice,
    pool: sys::CUmemoryPool,
}

#[allow(unsafe_code)]
// SAFETY: the pool is a handle that the driver's functions may be given on any thread.
unsafe impl Send for Pool {}
#[allow(unsafe_code)]
// SAFETY: as above; nothing behind the handle is touched here.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn of(device: &Device) -> Option<Self> {
        let Device::Cuda(device) = device else { return None };
        let stream = device.cuda_stream();
        if !stream.context().has_async_alloc() {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: the device number comes from the driver.
        let pool = unsafe { result::device::get_mem_pool(stream.context().cu_device()) }.ok()?;
        Some(Self { _device: device.clone(), pool })
    }

    /// Keeps what is freed for the next who asks. Otherwise every wait for the device gives all of it back to the
    /// system, and every step asks for it anew.
    fn keep_all(&self) {
        let mut most = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        #[allow(unsafe_code)]
        // SAFETY: the pool belongs to a device that is open; the attribute is a 64-bit number, which is read.
        // Where it is refused, everything is slower, and not wrong.
        let _ = unsafe {
            result::mem_pool::set_attribute(self.pool, threshold, (&raw mut most).cast())
        };
    }

    fn read(&self, attribute: sys::CUmemPool_attribute) -> Option<u64> {
        let mut bytes: u64 = 0;
        #[allow(unsafe_code)]
        // SAFETY: the pool belongs to a device that is open; both attributes that are asked for are 64-bit.
        let answer = unsafe {
            result::mem_pool::get_attribute(self.pool, attribute, (&raw mut bytes).cast())
        };
        answer.ok().map(|()| bytes)
    }

    pub(super) fn reset(&self) -> Option<u64> {
        let mut zero: u64 = 0;
        let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        #[allow(unsafe_code)]
        // SAFETY: as above; the mark can be set to zero, which is what is written.
        let answer =
            unsafe { result::mem_pool::set_attribute(self.pool, high, (&raw mut zero).cast()) };
        answer.ok()?;
        self.read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    pub(super) fn peak(&self) -> Option<u64> {
        self.read(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
    }
}

#[cfg(test)]
mod tests {
    use super::first_lines;

    #[test]
    fn a_backtrace_is_left_out() {
        let text = "no such\nthing\n   0: candle_core::error::Error::bt\n   1: main\n";
        assert_eq!(first_lines(text), "no such thing");
        assert_eq!(first_lines("error 3: it is so"), "error 3: it is so");
    }
}
