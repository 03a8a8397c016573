//! The machine that is a GPU.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::cuda_backend::cudarc::cublas::{result as cublas, sys as blas};
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUresult};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaSlice, DevicePtr};
use candle_core::cuda_backend::{CudaDevice, DeviceId, WrapErr};
use candle_core::{Result, bail};

use super::{Argument, Factor, Launch, Limits, Machine, Place, Product, Rates, Together};
use crate::threads::lock;

/// The kernels, compiled for the architectures that build.rs names.
static KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// Lists of work that are kept to be done again.
const GRAPHS: usize = 64;

/// A GPU with the kernels on it.
#[derive(Clone)]
pub(crate) struct Gpu {
    device: CudaDevice,
    loaded: Arc<Loaded>,
    tf32: bool,
}

/// What is kept of a device while the process lives.
struct Loaded {
    limits: Option<Limits>,
    rates: Rates,
    module: Handle<sys::CUmodule>,
    functions: Mutex<HashMap<String, Handle<sys::CUfunction>>>,
    graphs: Mutex<Graphs>,
    /// Launches, and whether there is room for them.
    room: Mutex<HashMap<Launch, std::result::Result<(), String>>>,
    /// cuBLAS' own: it would ask for memory within a list that is recorded.
    _workspace: CudaSlice<u8>,
}

/// A handle of the driver's.
#[derive(Clone, Copy)]
struct Handle<T>(T);

#[allow(unsafe_code)]
// SAFETY: the driver's handles of modules and functions may be used on any thread whose current context is
// theirs, which every use here sees to.
unsafe impl<T> Send for Handle<T> {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// Recorded lists of work. A list is recorded when the same work on the same memory is asked for a second
/// time: recording costs as much as doing.
#[derive(Default)]
struct Graphs {
    seen: VecDeque<Vec<u64>>,
    recorded: VecDeque<(Vec<u64>, CudaGraph)>,
    /// Lists recorded, and done again, since the beginning.
    counts: [usize; 2],
    /// Why recording failed once: then nothing is recorded any more.
    refused: Option<String>,
}

/// What became of recording on all devices, where anything was to be recorded: without it steps cost several times
/// as much, which is to be seen.
pub(crate) fn recordings() -> Vec<String> {
    let all = lock(&LOADED);
    let told = all.values().filter_map(|loaded| {
        let graphs = lock(&loaded.graphs);
        let [recorded, again] = graphs.counts;
        match &graphs.refused {
            Some(reason) => Some(format!("lists of steps: not recorded: {reason}")),
            None if recorded > 0 => {
                Some(format!("lists of steps: {recorded} recorded, {again} done again"))
            }
            None => None,
        }
    });
    told.collect()
}

static LOADED: LazyLock<Mutex<HashMap<DeviceId, Arc<Loaded>>>> = LazyLock::new(Mutex::default);

#[allow(unsafe_code)]
// SAFETY: as for `Handle`; a mutex keeps to one thread at a time.
unsafe impl Send for Graphs {}

/// What the driver answers, with what was asked.
fn answered(asked: &str, answer: CUresult) -> Result<()> {
    match answer.result() {
        Ok(()) => Ok(()),
        Err(error) => bail!("{asked}: the NVIDIA driver answers {:?}", error.0),
    }
}

impl Gpu {
    /// The kernels on a device, loaded once. Products round to TF32 where the process lets them, and if `half`.
    pub(crate) fn new(device: &CudaDevice, half: bool) -> Result<Self> {
        let mut all = lock(&LOADED);
        let loaded = match all.get(&device.id()) {
            Some(loaded) => loaded.clone(),
            None => {
                let loaded = Arc::new(Loaded::new(device)?);
                all.insert(device.id(), loaded.clone());
                loaded
            }
        };
        Ok(Self { device: device.clone(), loaded, tf32: half || crate::gpu::tf32() })
    }

    /// Makes the device the calling thread's, for libraries that ask for it.
    #[cfg(feature = "cudnn")]
    pub(crate) fn bind(&self) -> Result<()> {
        self.device.cuda_stream().context().bind_to_thread().w()
    }

    pub(crate) fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Numbers from the host.
    pub(crate) fn upload(&self, values: &[i32]) -> Result<CudaSlice<i32>> {
        self.device.clone_htod(values)
    }

    /// Where a tensor's numbers begin.
    pub(crate) fn place_of<T>(&self, slice: &CudaSlice<T>, offset: usize) -> Place {
        // The guard orders uses on several streams; a device has one here (see `gpu::open`).
        let stream = self.device.cuda_stream();
        let (pointer, _guard) = slice.device_ptr(&stream);
        Place(pointer).offset(offset)
    }

    /// Clusters that can run at once, or blocks on a multiprocessor; and how many must.
    fn blocks_at_once(&self, launch: &Launch) -> Result<(c_int, c_int)> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let function = self.function(launch)?;
        let mut count: c_int = 0;
        #[allow(unsafe_code)]
        // SAFETY: the function is loaded; the count is written to; the attribute outlives the call.
        let (answer, enough) = unsafe {
            match launch.together {
                Together::Any => return Ok((0, 0)),
                Together::Clusters(_) => {
                    let mut attribute = attribute(launch);
                    let config = config(launch, attribute.as_mut(), stream.cu_stream());
                    let answer = sys::cuOccupancyMaxActiveClusters(
                        &raw mut count,
                        function,
                        &raw const config,
                    );
                    (answer, 1)
                }
                Together::All => {
                    let answer = sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                        &raw mut count,
                        function,
                        launch.threads as c_int,
                        launch.shared_bytes,
                    );
                    let all = self.loaded.limits.map_or(1, |limits| limits.multiprocessors);
                    (answer, (launch.grid.0 * launch.grid.1).div_ceil(all as u32) as c_int)
                }
            }
        };
        answered("room for blocks", answer)?;
        Ok((count, enough))
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let mut functions = lock(&self.loaded.functions);
        if let Some(function) = functions.get(&launch.kernel) {
            return Ok(function.0);
        }
        let name = CString::new(launch.kernel.as_str()).map_err(candle_core::Error::wrap)?;
        let mut function = std::ptr::null_mut();
        #[allow(unsafe_code)]
        // SAFETY: the module is loaded, the name ends with zero, the function is written to.
        let answer = unsafe {
            sys::cuModuleGetFunction(&raw mut function, self.loaded.module.0, name.as_ptr())
        };
        answered(&launch.kernel, answer)?;
        let set = |attribute, value: usize| {
            #[allow(unsafe_code)]
            // SAFETY: the function was found above.
            let answer = unsafe { sys::cuFuncSetAttribute(function, attribute, value as c_int) };
            answered(&launch.kernel, answer)
        };
        use sys::CUfunction_attribute_enum as Attribute;
        // What every block may have without asking for more.
        if launch.together != Together::Any || launch.shared_bytes > 48 << 10 {
            let most = self.loaded.limits.map_or(launch.shared_bytes, |limits| limits.shared_bytes);
            set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)?;
        }
        if matches!(launch.together, Together::Clusters(_)) {
            set(Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)?;
        }
        functions.insert(launch.kernel.clone(), Handle(function));
        Ok(function)
    }
}

/// Gives a device's cuBLAS memory to work in, of the size that NVIDIA recommends for Hopper.
fn workspace(device: &CudaDevice) -> Result<CudaSlice<u8>> {
    const BYTES: usize = 32 << 20;
    #[allow(unsafe_code)]
    // SAFETY: cuBLAS writes before it reads.
    let memory = unsafe { device.alloc::<u8>(BYTES) }?;
    let stream = device.cuda_stream();
    let (pointer, _guard) = memory.device_ptr(&stream);
    #[allow(unsafe_code)]
    // SAFETY: the memory is kept for as long as the process lives, and all work is on one stream.
    let answer = unsafe {
        blas::cublasSetWorkspace_v2(*device.cublas_handle().handle(), pointer as *mut c_void, BYTES)
    };
    answer
        .result()
        .map_err(|error| candle_core::Error::msg(format!("memory for cuBLAS: {error:?}")))?;
    drop(_guard);
    Ok(memory)
}

fn attribute(launch: &Launch) -> Option<sys::CUlaunchAttribute> {
    let (id, value) = match launch.together {
        Together::Any => return None,
        Together::Clusters(x) => (
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y: 1, z: 1 },
            },
        ),
        Together::All => (
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            sys::CUlaunchAttributeValue { cooperative: 1 },
        ),
    };
    Some(sys::CUlaunchAttribute { id, pad: Default::default(), value })
}

/// The attribute has to live as long as what is made of it is used.
fn config(
    launch: &Launch,
    attribute: Option<&mut sys::CUlaunchAttribute>,
    stream: sys::CUstream,
) -> sys::CUlaunchConfig {
    sys::CUlaunchConfig {
        gridDimX: launch.grid.0,
        gridDimY: launch.grid.1,
        gridDimZ: 1,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared_bytes as u32,
        hStream: stream,
        numAttrs: u32::from(attribute.is_some()),
        attrs: attribute.map_or(std::ptr::null_mut(), |one| &raw mut *one),
    }
}

impl Loaded {
    fn new(device: &CudaDevice) -> Result<Self> {
        let context = device.cuda_stream().context().clone();
        context.bind_to_thread().w()?;
        let attribute = |attribute| -> Result<usize> {
            let mut value: c_int = 0;
            #[allow(unsafe_code)]
            // SAFETY: the device is open, the value is written to.
            let answer = unsafe {
                sys::cuDeviceGetAttribute(&raw mut value, attribute, context.cu_device())
            };
            answered("the device's limits", answer)?;
            Ok(value.max(0) as usize)
        };
        use sys::CUdevice_attribute_enum as Attribute;
        let cooperative = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? == 1;
        let limits = Limits {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            // 16 where the hardware's groups are large enough, which a launch shows.
            cluster: 16,
        };
        let mut module = std::ptr::null_mut();
        #[allow(unsafe_code)]
        // SAFETY: a whole image in static memory; the context is current.
        let answer = unsafe { sys::cuModuleLoadData(&raw mut module, KERNELS.as_ptr().cast()) };
        answered("the kernels", answer)?;
        Ok(Self {
            limits: cooperative.then_some(limits),
            rates: Rates {
                // Told in kHz.
                clock_hz: 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? as f64,
                cache_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            },
            module: Handle(module),
            functions: Mutex::default(),
            graphs: Mutex::default(),
            room: Mutex::default(),
            _workspace: workspace(device)?,
        })
    }
}

impl Machine for Gpu {
    type Buffer = CudaSlice<f32>;

    fn limits(&self) -> Option<Limits> {
        self.loaded.limits
    }

    fn rates(&self) -> Rates {
        self.loaded.rates
    }

    fn allocate(&self, len: usize) -> Result<CudaSlice<f32>> {
        #[allow(unsafe_code)]
        // SAFETY: numbers of any bits are numbers; what reads them writes them before.
        unsafe {
            self.device.alloc::<f32>(len)
        }
    }

    fn place(&self, buffer: &CudaSlice<f32>) -> Place {
        self.place_of(buffer, 0)
    }

    fn zero(&self, to: Place, len: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        #[allow(unsafe_code)]
        // SAFETY: the place is one of a buffer with as many numbers, alive until the stream is past here.
        let answer = unsafe { sys::cuMemsetD32Async(to.0, 0, len, stream.cu_stream()) };
        answered("setting memory to zero", answer)
    }

    fn copy(&self, from: Place, to: Place, len: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        #[allow(unsafe_code)]
        // SAFETY: as above, for both places.
        let answer =
            unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, 4 * len, stream.cu_stream()) };
        answered("copying memory", answer)
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        let Product { m, n, k, left, right, out, out_stride, accumulate } = *product;
        let handle = self.device.cublas_handle();
        self.device.cuda_stream().context().bind_to_thread().w()?;
        let operation = |factor: Factor| match factor.transposed {
            false => blas::cublasOperation_t::CUBLAS_OP_N,
            true => blas::cublasOperation_t::CUBLAS_OP_T,
        };
        let compute = if self.tf32 {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let (one, zero) = (1f32, 0f32);
        let beta = if accumulate { &raw const one } else { &raw const zero };
        let float = blas::cudaDataType_t::CUDA_R_32F;
        #[allow(unsafe_code)]
        // SAFETY: cuBLAS counts columns where we count rows, so it is given the product of the transposes;
        // the places are those of matrices with these sizes, alive until the stream is past here.
        let answer = unsafe {
            cublas::gemm_ex(
                *handle.handle(),
                operation(right),
                operation(left),
                n as c_int,
                m as c_int,
                k as c_int,
                (&raw const one).cast(),
                right.place.0 as *const c_void,
                float,
                right.stride as c_int,
                left.place.0 as *const c_void,
                float,
                left.stride as c_int,
                beta.cast(),
                out.0 as *mut c_void,
                float,
                out_stride as c_int,
                compute,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        answer.map_err(|error| candle_core::Error::msg(format!("a product on the GPU: {error:?}")))
    }

    fn room(&self, launch: &Launch) -> std::result::Result<(), String> {
        let mut known = lock(&self.loaded.room);
        if let Some(room) = known.get(launch) {
            return room.clone();
        }
        let room = match self.blocks_at_once(launch) {
            Ok((found, needed)) if found >= needed => Ok(()),
            Ok((found, needed)) => Err(format!("room for {found} of {needed}")),
            Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        };
        known.insert(launch.clone(), room.clone());
        room
    }

    fn alive(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().w()
    }

    fn launch<A: Argument>(&self, launch: &Launch, argument: &A) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let function = self.function(launch)?;
        let mut attribute = attribute(launch);
        let config = config(launch, attribute.as_mut(), stream.cu_stream());
        let mut argument = *argument;
        let mut parameters = [(&raw mut argument).cast::<c_void>()];
        #[allow(unsafe_code)]
        // SAFETY: the kernel's one parameter is such a structure, which is copied before the call returns; its
        // places are those of memory that is alive until the stream is past here.
        let answer = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        answered(&launch.kernel, answer)
    }

    fn name(&self) -> String {
        format!("{:?}", self.device.id())
    }

    fn tf32(&self) -> bool {
        self.tf32
    }

    fn read(&self, buffer: &CudaSlice<f32>) -> Result<Vec<f32>> {
        self.device.clone_dtoh(buffer)
    }

    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
        let stream = self.device.cuda_stream();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let begin = stream.record_event(flags).w()?;
        run()?;
        let end = stream.record_event(flags).w()?;
        Ok(f64::from(begin.elapsed_ms(&end).w()?) / 1e3)
    }

    fn recorded(&self, key: &[u64], run: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut graphs = lock(&self.loaded.graphs);
        let mut key = key.to_vec();
        key.push(u64::from(self.tf32));
        if let Some(at) = graphs.recorded.iter().position(|(known, _)| *known == key) {
            // The one that was not used for longest is forgotten first.
            let Some(used) = graphs.recorded.remove(at) else { bail!("a list of work is lost") };
            let launched = used.1.launch().w();
            graphs.recorded.push_back(used);
            graphs.counts[1] += 1;
            return launched;
        }
        if graphs.refused.is_some() {
            return run();
        }
        if !graphs.seen.contains(&key) {
            if graphs.seen.len() == GRAPHS {
                graphs.seen.pop_front();
            }
            graphs.seen.push_back(key);
            return run();
        }
        let stream = self.device.cuda_stream();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).w()?;
        let result = run();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        match (result, graph) {
            (Ok(()), Ok(Some(graph))) => {
                if graphs.recorded.len() == GRAPHS {
                    graphs.recorded.pop_front();
                }
                graph.launch().w()?;
                graphs.recorded.push_back((key, graph));
                graphs.counts[0] += 1;
                Ok(())
            }
            // Nothing was done while it was recorded.
            (result, graph) => {
                let reason = match (result, graph) {
                    (Err(error), _) => error.to_string(),
                    (_, Err(error)) => error.to_string(),
                    _ => "there was nothing to record".into(),
                };
                graphs.refused = Some(reason.lines().next().unwrap_or_default().to_owned());
                run()
            }
        }
    }
}
