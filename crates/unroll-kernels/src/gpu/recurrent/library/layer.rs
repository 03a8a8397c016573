//! What cuDNN is told of a layer, and where it wants its weights.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, bail};

use crate::gpu::machine::cuda::Gpu;
use crate::gpu::machine::{Machine, Place};
use crate::gpu::recurrent::host::{Arguments, Shape};
use crate::threads::lock;

pub(super) fn answered(asked: &str, status: sys::cudnnStatus_t) -> Result<()> {
    match status {
        sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS => Ok(()),
        sys::cudnnStatus_t::CUDNN_STATUS_NOT_INITIALIZED => bail!("cuDNN is not there ({asked})"),
        status => bail!("{asked}: cuDNN answers {status:?}"),
    }
}

/// Calls a function of cuDNN's.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        #[allow(unsafe_code)]
        // SAFETY: descriptors are those made here, which live as long as their `Layer`; addresses are of host
        // variables that the call writes to at once, or of device memory that is alive until the stream is past
        // here, as large as the descriptors say.
        let status = unsafe { sys::$function($($argument),*) };
        answered(stringify!($function), status)
    }};
}

pub(super) use call;

/// An object of cuDNN's that is given back.
macro_rules! owned {
    ($name:ident, $handle:ident, $create:ident, $destroy:ident, $what:literal) => {
        #[doc = $what]
        pub(super) struct $name(pub(super) sys::$handle);

        impl $name {
            fn new() -> Result<Self> {
                let mut new = Self(null_mut());
                call!($create(&raw mut new.0))?;
                Ok(new)
            }
        }

        #[allow(unsafe_code)]
        // SAFETY: cuDNN's objects may be used on any thread, one at a time: `LAYERS` is locked while they are.
        unsafe impl Send for $name {}
        #[allow(unsafe_code)]
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl Drop for $name {
            fn drop(&mut self) {
                // What was never made is null; what cannot be given back is lost.
                if !self.0.is_null() {
                    let _ = call!($destroy(self.0));
                }
            }
        }
    };
}

owned!(Library, cudnnHandle_t, cudnnCreate, cudnnDestroy, "cuDNN on a device.");
owned!(
    Dropout,
    cudnnDropoutDescriptor_t,
    cudnnCreateDropoutDescriptor,
    cudnnDestroyDropoutDescriptor,
    "Dropout between layers: none."
);
owned!(
    Rnn,
    cudnnRNNDescriptor_t,
    cudnnCreateRNNDescriptor,
    cudnnDestroyRNNDescriptor,
    "A recurrent network."
);
owned!(
    Sequences,
    cudnnRNNDataDescriptor_t,
    cudnnCreateRNNDataDescriptor,
    cudnnDestroyRNNDataDescriptor,
    "`(B, T, features)`."
);
owned!(
    Numbers,
    cudnnTensorDescriptor_t,
    cudnnCreateTensorDescriptor,
    cudnnDestroyTensorDescriptor,
    "A tensor."
);

impl Library {
    fn on(gpu: &Gpu) -> Result<Arc<Self>> {
        static OPEN: LazyLock<Mutex<HashMap<String, Arc<Library>>>> = LazyLock::new(Mutex::default);
        let mut open = lock(&OPEN);
        if let Some(library) = open.get(&gpu.name()) {
            return Ok(library.clone());
        }
        gpu.bind()?;
        let library = Arc::new(Self::new()?);
        let stream = gpu.device().cuda_stream().cu_stream();
        call!(cudnnSetStream(library.0, stream.cast()))?;
        open.insert(gpu.name(), library.clone());
        Ok(library)
    }
}

/// What a layer of some size needs, made once.
pub(super) struct Layer {
    pub(super) rnn: Rnn,
    pub(super) x: Sequences,
    pub(super) y: Sequences,
    pub(super) state: Numbers,
    /// Steps of each sequence, which older versions read on the device.
    pub(super) lengths: CudaSlice<i32>,
    pub(super) weight_bytes: usize,
    /// Where in cuDNN's buffer pieces of ours are.
    pub(super) pieces: Vec<Piece>,
    // The network refers to it.
    _dropout: Dropout,
    pub(super) library: Arc<Library>,
}

/// How cuDNN runs the recurrence. Of the persistent ones, the first holds the recurrent weights on chip for one
/// launch, the second is for small hidden sizes, forward and backward of PyTorch's layers where it is allowed. cuDNN
/// says where it has them. Its third, which compiles kernels for a size at run time, is not among them: it wants a
/// compiler (NVRTC) on the machine that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Standard,
    Persistent,
    PersistentSmall,
}

impl Algorithm {
    pub(super) const ALL: [Self; 3] = [Self::Standard, Self::Persistent, Self::PersistentSmall];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Persistent => "persistent",
            Self::PersistentSmall => "persistent, small H",
        }
    }

    const fn of_library(self) -> sys::cudnnRNNAlgo_t {
        match self {
            Self::Standard => sys::cudnnRNNAlgo_t::CUDNN_RNN_ALGO_STANDARD,
            Self::Persistent => sys::cudnnRNNAlgo_t::CUDNN_RNN_ALGO_PERSIST_STATIC,
            Self::PersistentSmall => sys::cudnnRNNAlgo_t::CUDNN_RNN_ALGO_PERSIST_STATIC_SMALL_H,
        }
    }
}

/// Numbers of ours that lie together in cuDNN's buffer: in which of the four tensors (weights of inputs and of
/// states, biases of both), from where in it, to where, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) part: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    device: String,
    cell: &'static str,
    variant: i32,
    shape: Shape,
    biases: bool,
    tf32: bool,
    /// None: of all.
    algorithm: Option<Algorithm>,
}

/// Layers that are kept.
const LAYERS_KEPT: usize = 64;
pub(super) static LAYERS: LazyLock<Mutex<HashMap<Key, Arc<Layer>>>> = LazyLock::new(Mutex::default);

pub(super) fn key(gpu: &Gpu, args: &Arguments, algorithm: Option<Algorithm>) -> Key {
    Key {
        device: gpu.name(),
        cell: args.cell.name,
        variant: args.cell.variant,
        shape: args.shape,
        biases: args.bias_ih != Place::NULL,
        tf32: gpu.tf32(),
        algorithm,
    }
}

pub(super) fn layer(gpu: &Gpu, args: &Arguments, algorithm: Algorithm) -> Result<Arc<Layer>> {
    let key = key(gpu, args, Some(algorithm));
    let mut layers = lock(&LAYERS);
    if let Some(layer) = layers.get(&key) {
        return Ok(layer.clone());
    }
    if layers.len() >= LAYERS_KEPT {
        layers.clear();
    }
    let layer = Arc::new(Layer::new(gpu, args, algorithm)?);
    layers.insert(key, layer.clone());
    Ok(layer)
}

impl Layer {
    fn new(gpu: &Gpu, args: &Arguments, algorithm: Algorithm) -> Result<Self> {
        use sys::cudnnDataType_t::CUDNN_DATA_FLOAT as FLOAT;
        let Shape { batch, steps, inputs, hidden } = args.shape;
        let lengths = vec![steps as c_int; batch];
        let library = Library::on(gpu)?;
        gpu.bind()?;
        let dropout = Dropout::new()?;
        call!(cudnnSetDropoutDescriptor(dropout.0, library.0, 0.0, null_mut(), 0, 0))?;
        let rnn = Rnn::new()?;
        let has_biases = args.bias_ih != Place::NULL;
        call!(cudnnSetRNNDescriptor_v8(
            rnn.0,
            algorithm.of_library(),
            match (args.cell.name, args.cell.variant) {
                ("rnn", 0) => sys::cudnnRNNMode_t::CUDNN_RNN_TANH,
                ("rnn", _) => sys::cudnnRNNMode_t::CUDNN_RNN_RELU,
                ("gru", _) => sys::cudnnRNNMode_t::CUDNN_GRU,
                _ => sys::cudnnRNNMode_t::CUDNN_LSTM,
            },
            if has_biases {
                sys::cudnnRNNBiasMode_t::CUDNN_RNN_DOUBLE_BIAS
            } else {
                sys::cudnnRNNBiasMode_t::CUDNN_RNN_NO_BIAS
            },
            sys::cudnnDirectionMode_t::CUDNN_UNIDIRECTIONAL,
            sys::cudnnRNNInputMode_t::CUDNN_LINEAR_INPUT,
            FLOAT,
            FLOAT,
            if gpu.tf32() {
                sys::cudnnMathType_t::CUDNN_DEFAULT_MATH
            } else {
                sys::cudnnMathType_t::CUDNN_FMA_MATH
            },
            inputs as i32,
            hidden as i32,
            // No projection.
            hidden as i32,
            1,
            dropout.0,
            // CUDNN_RNN_PADDED_IO_ENABLED: rows of sequences, not of steps.
            1,
        ))?;
        let sequences = |width: usize| -> Result<Sequences> {
            let new = Sequences::new()?;
            call!(cudnnSetRNNDataDescriptor(
                new.0,
                FLOAT,
                sys::cudnnRNNDataLayout_t::CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED,
                steps as c_int,
                batch as c_int,
                width as c_int,
                lengths.as_ptr(),
                null_mut(),
            ))?;
            Ok(new)
        };
        let state = Numbers::new()?;
        let dims = [1, batch as c_int, hidden as c_int];
        let strides = [(batch * hidden) as c_int, hidden as c_int, 1];
        call!(cudnnSetTensorNdDescriptor(state.0, FLOAT, 3, dims.as_ptr(), strides.as_ptr()))?;
        let mut weight_bytes = 0;
        call!(cudnnGetRNNWeightSpaceSize(library.0, rnn.0, &raw mut weight_bytes))?;
        Ok(Self {
            x: sequences(inputs)?,
            y: sequences(hidden)?,
            state,
            lengths: gpu.upload(&lengths)?,
            weight_bytes,
            pieces: find_pieces(gpu, args, (&library, &rnn), weight_bytes)?,
            rnn,
            _dropout: dropout,
            library,
        })
    }
}

/// Asks cuDNN where each gate's weights and biases are, and joins those that lie as ours do.
fn find_pieces(
    gpu: &Gpu,
    args: &Arguments,
    (library, rnn): (&Library, &Rnn),
    weight_bytes: usize,
) -> Result<Vec<Piece>> {
    let Shape { inputs, hidden, .. } = args.shape;
    let gates = args.cell.gates;
    let space = gpu.allocate(weight_bytes / 4)?;
    let base = gpu.place(&space).0;
    let (matrix, bias) = (Numbers::new()?, Numbers::new()?);
    let mut pieces: Vec<Piece> = Vec::new();
    let mut add = |part: usize, from: usize, to: u64, len: usize| -> Result<()> {
        let Some(to) = to.checked_sub(base) else { bail!("cuDNN's weights are elsewhere") };
        let to = to as usize / 4;
        if (to + len) * 4 > weight_bytes {
            bail!("cuDNN's weights do not end where they should");
        }
        match pieces
            .iter_mut()
            .find(|p| p.part == part && p.from + p.len == from && p.to + p.len == to)
        {
            Some(before) => before.len += len,
            None => pieces.push(Piece { part, from, to, len }),
        }
        Ok(())
    };
    for id in 0..2 * gates {
        let (mut at, mut bias_at): (*mut c_void, *mut c_void) = (null_mut(), null_mut());
        call!(cudnnGetRNNWeightParams(
            library.0,
            rnn.0,
            0,
            weight_bytes,
            base as *const c_void,
            id as i32,
            matrix.0,
            &raw mut at,
            bias.0,
            &raw mut bias_at,
        ))?;
        let (part, gate) = (id / gates, id % gates);
        let len = hidden * if part == 0 { inputs } else { hidden };
        add(part, gate * len, at as u64, len)?;
        if args.bias_ih != Place::NULL {
            add(2 + part, gate * hidden, bias_at as u64, hidden)?;
        }
    }
    Ok(pieces)
}
