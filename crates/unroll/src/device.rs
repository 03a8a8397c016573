//! Devices by name.

use candle_core::{DType, Device};
use unroll_kernels::gpu;

use crate::experiment::Precision;

/// Checks a device name without opening it.
///
/// # Errors
/// What is wrong, and the names that are right.
pub fn check(name: &str) -> Result<(), String> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match kind {
        "cpu" if !name.contains(':') => Ok(()),
        "cuda" if index.parse::<usize>().is_ok() => {
            if cfg!(feature = "cuda") {
                Ok(())
            } else {
                Err("this program was built without CUDA: build it with `--features cuda` \
                     (scripts/build_cuda.sh), or use `cpu`"
                    .into())
            }
        }
        _ => {
            Err(format!("there is no device `{name}`; the devices are cpu, cuda and cuda:<index>"))
        }
    }
}

/// Opens a device.
///
/// # Errors
/// What is wrong, in words for a user.
pub fn open(name: &str) -> Result<Device, String> {
    check(name)?;
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cuda", index) => {
            let index = index.parse::<usize>().unwrap_or(0);
            gpu::open(index).map_err(|reason| {
                format!(
                    "device `{name}` cannot be used here: {reason}. `--device cpu` runs anywhere"
                )
            })
        }
        _ => Ok(Device::Cpu),
    }
}

/// Opens a device for work that is all in one precision: products round so in this process from now on.
///
/// # Errors
/// As [`open`]; when there is no such precision for this type on this device.
pub fn open_in(name: &str, dtype: DType, precision: Precision) -> Result<Device, String> {
    check(name)?;
    precision.check(dtype, name)?;
    let device = open(name)?;
    gpu::set_tf32(precision == Precision::Tf32);
    Ok(device)
}
