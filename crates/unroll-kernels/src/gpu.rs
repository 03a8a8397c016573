//! GPUs: opening one, what the driver tells about it, its memory, its mode of multiplication.
//!
//! Without the feature `cuda` there is none, and everything here says so.

use candle_core::Device;

#[cfg(any(feature = "cuda", test))]
pub(crate) mod attention;
#[cfg(feature = "cuda")]
#[path = "gpu/cuda.rs"]
mod driver;
#[cfg(not(feature = "cuda"))]
#[path = "gpu/none.rs"]
mod driver;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod machine;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod recurrent;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod tuning;

/// Why a GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The program has no CUDA in it.
    #[error("this program was built without CUDA")]
    NotBuilt,
    /// The driver's library is not there.
    #[error("there is no NVIDIA driver on this machine: libcuda.so.1 was not found")]
    NoDriver,
    /// The driver is there and shows no GPU.
    #[error("the NVIDIA driver shows no GPU")]
    NoGpu,
    /// There are fewer GPUs.
    #[error("there is no GPU {index}: the NVIDIA driver shows {count}, numbered from 0")]
    NoSuchGpu {
        /// The one that was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver refuses, or a library that is needed besides it is missing.
    #[error("{0}")]
    Refused(String),
}

/// What the driver tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// Names, by index.
    pub names: Vec<String>,
    /// Newest CUDA version that the driver runs: `13.0`.
    pub cuda: String,
}

/// Opens a GPU. All its work goes to one stream, whatever thread asks for it.
///
/// # Errors
/// [`Unavailable`].
pub fn open(index: usize) -> Result<Device, Unavailable> {
    driver::open(index)
}

/// The GPUs of this machine.
///
/// # Errors
/// [`Unavailable`].
pub fn list() -> Result<Gpus, Unavailable> {
    driver::list()
}

/// Rounds the inputs of f32 products on GPUs to 10 bits of mantissa (TF32), or not, in the whole process.
/// They are not rounded when the program starts.
pub fn set_tf32(on: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(on);
}

/// Whether f32 products on GPUs round their inputs to TF32.
pub fn tf32() -> bool {
    cfg!(feature = "cuda") && candle_core::cuda::gemm_reduced_precision_f32()
}

/// What tuning found so far. Of recurrent layers (`UNROLL_GPU_RECURRENT=tuned`) one line for each layer and
/// pass (`lstm forward B=32 H=256: ...`, `lstm forward B=32 H=256 tf32: ...`), all ways with microseconds per
/// step and what a step cannot be faster than in that way; before them, what that rests on (`device: ...`: launches
/// and memory, measured). Of attention (`UNROLL_GPU_ATTENTION=tuned`) one line for each shape (`attention training
/// B=8 N=4 T=512 S=512 d=64 causal: ...`), with microseconds. Last, where lists of steps were recorded, how often
/// (`lists of steps: ...`).
pub fn ways() -> Vec<String> {
    let parts: &[Vec<String>] = &[
        #[cfg(any(feature = "cuda", test))]
        recurrent::floors(),
        #[cfg(any(feature = "cuda", test))]
        recurrent::findings(),
        #[cfg(feature = "cudnn")]
        recurrent::library::findings(),
        #[cfg(any(feature = "cuda", test))]
        crate::attention::findings(),
        #[cfg(feature = "cuda")]
        machine::cuda::recordings(),
    ];
    parts.concat()
}

/// Most memory in use on a GPU: the high-water mark of the pool that its tensors come from.
#[derive(Debug, Clone)]
pub struct HighWater(driver::Pool);

impl HighWater {
    /// The mark of a device; `None` on a CPU, and where the driver has no such pools.
    pub fn of(device: &Device) -> Option<Self> {
        driver::Pool::of(device).map(Self)
    }

    /// Begins anew. Gives the bytes in use now, or `None` when the driver does not tell.
    pub fn reset(&self) -> Option<u64> {
        self.0.reset()
    }

    /// Most bytes in use since [`reset`](Self::reset), or `None` when the driver does not tell.
    pub fn peak(&self) -> Option<u64> {
        self.0.peak()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_no_pool() {
        assert!(HighWater::of(&Device::Cpu).is_none());
    }

    #[test]
    fn where_no_gpu_can_be_used_the_reason_is_told() {
        match (list(), open(0)) {
            (Ok(gpus), Ok(device)) => {
                assert!(!gpus.names.is_empty() && !gpus.cuda.is_empty());
                let count = gpus.names.len();
                let missing = open(count).map(|_| ());
                assert_eq!(missing, Err(Unavailable::NoSuchGpu { index: count, count }));
                let mark = HighWater::of(&device).unwrap();
                let before = mark.reset().unwrap();
                let tensor =
                    candle_core::Tensor::zeros(1 << 20, candle_core::DType::F32, &device).unwrap();
                device.synchronize().unwrap();
                assert!(mark.peak().unwrap() >= before + (4 << 20), "{before} {mark:?}");
                drop(tensor);
            }
            (_, Err(reason)) => {
                assert_eq!(reason == Unavailable::NotBuilt, cfg!(not(feature = "cuda")));
                assert!(!reason.to_string().contains('\n'), "{reason}");
            }
            (Err(reason), Ok(_)) => panic!("a GPU that is not listed was opened: {reason}"),
        }
    }
}
