//! Devices by name.

use candle_core::Device;

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
            Device::new_cuda(index)
                .map_err(|error| format!("device `{name}` cannot be used here: {error}"))
        }
        _ => Ok(Device::Cpu),
    }
}
