//! Recurrent layers by cuDNN: the yardstick, and what tuning falls back to where nothing here is faster.
//!
//! cuDNN takes single layers in one direction over whole sequences, without probes. Its gates are those of
//! PyTorch, in the same order; it wants all weights in one buffer of its own layout.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, bail};

use super::choice::{self, Policy, TIMES, backward_by, difference, forward_by};
use super::host::{Arguments, Gradients, Incoming, Lengths, Shape, Wanted};
use crate::gpu::machine::cuda::Gpu;
use crate::gpu::machine::{Machine, Place};

/// What forward keeps for backward.
pub(crate) struct Reserve {
    layer: Arc<Layer>,
    weights: CudaSlice<f32>,
    reserve: CudaSlice<f32>,
}

/// What forward gives.
pub(crate) struct Forward {
    pub(crate) output: CudaSlice<f32>,
    pub(crate) hidden: CudaSlice<f32>,
    pub(crate) cell: Option<CudaSlice<f32>>,
    pub(crate) kept: Option<Reserve>,
}

/// Whether cuDNN knows such a layer.
pub(crate) fn knows(args: &Arguments) -> bool {
    let cell =
        matches!((args.cell.name, args.cell.variant), ("rnn", 0 | 1) | ("gru", 0) | ("lstm", _));
    let whole = matches!(args.lengths, Lengths::All) && !args.reverse;
    cell && whole && args.probe_hidden == Place::NULL && args.probe_cell == Place::NULL
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answered(asked: &str, status: sys::cudnnStatus_t) -> Result<()> {
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

/// cuDNN on a device.
struct Library {
    handle: sys::cudnnHandle_t,
}

impl Library {
    fn new(gpu: &Gpu) -> Result<Arc<Self>> {
        static OPEN: LazyLock<Mutex<HashMap<String, Arc<Library>>>> = LazyLock::new(Mutex::default);
        let mut open = lock(&OPEN);
        if let Some(library) = open.get(&gpu.name()) {
            return Ok(library.clone());
        }
        gpu.bind()?;
        let mut library = Self { handle: null_mut() };
        call!(cudnnCreate(&raw mut library.handle))?;
        let stream = gpu.device().cuda_stream().cu_stream();
        call!(cudnnSetStream(library.handle, stream.cast()))?;
        let library = Arc::new(library);
        open.insert(gpu.name(), library.clone());
        Ok(library)
    }
}

#[allow(unsafe_code)]
// SAFETY: a handle may be used on any thread, one at a time: `LAYERS` is locked while it is.
unsafe impl Send for Library {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Drop for Library {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            let _ = call!(cudnnDestroy(self.handle));
        }
    }
}

/// A descriptor that is given back.
struct Descriptor(sys::cudnnTensorDescriptor_t);

impl Descriptor {
    fn new() -> Result<Self> {
        let mut descriptor = Self(null_mut());
        call!(cudnnCreateTensorDescriptor(&raw mut descriptor.0))?;
        Ok(descriptor)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if !self.0.is_null() {
            let _ = call!(cudnnDestroyTensorDescriptor(self.0));
        }
    }
}

/// What a layer of some size needs, made once.
struct Layer {
    library: Arc<Library>,
    dropout: sys::cudnnDropoutDescriptor_t,
    rnn: sys::cudnnRNNDescriptor_t,
    x: sys::cudnnRNNDataDescriptor_t,
    y: sys::cudnnRNNDataDescriptor_t,
    state: sys::cudnnTensorDescriptor_t,
    /// Steps of each sequence, which older versions read on the device.
    lengths: CudaSlice<i32>,
    weight_bytes: usize,
    /// Where in cuDNN's buffer pieces of ours are: which of the four, from where in it, to where, how many numbers.
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    part: usize,
    from: usize,
    to: usize,
    len: usize,
}

#[allow(unsafe_code)]
// SAFETY: cuDNN's objects may be used on any thread, one at a time: `LAYERS` is locked while they are.
unsafe impl Send for Layer {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for Layer {}

impl Drop for Layer {
    fn drop(&mut self) {
        // What was never made is null; what cannot be given back is lost.
        if !self.state.is_null() {
            let _ = call!(cudnnDestroyTensorDescriptor(self.state));
        }
        for data in [self.x, self.y] {
            if !data.is_null() {
                let _ = call!(cudnnDestroyRNNDataDescriptor(data));
            }
        }
        if !self.rnn.is_null() {
            let _ = call!(cudnnDestroyRNNDescriptor(self.rnn));
        }
        if !self.dropout.is_null() {
            let _ = call!(cudnnDestroyDropoutDescriptor(self.dropout));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    device: String,
    cell: &'static str,
    variant: i32,
    shape: Shape,
    biases: bool,
    tf32: bool,
}

/// Layers that are kept.
const LAYERS_KEPT: usize = 64;
static LAYERS: LazyLock<Mutex<HashMap<Key, Arc<Layer>>>> = LazyLock::new(Mutex::default);

fn key(gpu: &Gpu, args: &Arguments) -> Key {
    Key {
        device: gpu.name(),
        cell: args.cell.name,
        variant: args.cell.variant,
        shape: args.shape,
        biases: args.bias_ih != Place::NULL,
        tf32: gpu.tf32(),
    }
}

fn layer(gpu: &Gpu, args: &Arguments) -> Result<Arc<Layer>> {
    let key = key(gpu, args);
    let mut layers = lock(&LAYERS);
    if let Some(layer) = layers.get(&key) {
        return Ok(layer.clone());
    }
    if layers.len() >= LAYERS_KEPT {
        layers.clear();
    }
    let layer = Arc::new(Layer::new(gpu, args)?);
    layers.insert(key, layer.clone());
    Ok(layer)
}

impl Layer {
    fn new(gpu: &Gpu, args: &Arguments) -> Result<Self> {
        use sys::cudnnDataType_t::CUDNN_DATA_FLOAT as FLOAT;
        let Shape { batch, steps, inputs, hidden } = args.shape;
        let lengths = vec![steps as c_int; batch];
        let mut layer = Self {
            library: Library::new(gpu)?,
            dropout: null_mut(),
            rnn: null_mut(),
            x: null_mut(),
            y: null_mut(),
            state: null_mut(),
            lengths: gpu.upload(&lengths)?,
            weight_bytes: 0,
            pieces: Vec::new(),
        };
        let handle = layer.library.handle;
        gpu.bind()?;
        call!(cudnnCreateDropoutDescriptor(&raw mut layer.dropout))?;
        call!(cudnnSetDropoutDescriptor(layer.dropout, handle, 0.0, null_mut(), 0, 0))?;
        call!(cudnnCreateRNNDescriptor(&raw mut layer.rnn))?;
        let has_biases = args.bias_ih != Place::NULL;
        call!(cudnnSetRNNDescriptor_v8(
            layer.rnn,
            sys::cudnnRNNAlgo_t::CUDNN_RNN_ALGO_STANDARD,
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
            layer.dropout,
            // CUDNN_RNN_PADDED_IO_ENABLED: rows of sequences, not of steps.
            1,
        ))?;
        let data = |to: *mut sys::cudnnRNNDataDescriptor_t, width: usize| -> Result<()> {
            call!(cudnnCreateRNNDataDescriptor(to))?;
            #[allow(unsafe_code)]
            // SAFETY: written to by the call above.
            let descriptor = unsafe { *to };
            call!(cudnnSetRNNDataDescriptor(
                descriptor,
                FLOAT,
                sys::cudnnRNNDataLayout_t::CUDNN_RNN_DATA_LAYOUT_BATCH_MAJOR_UNPACKED,
                steps as c_int,
                batch as c_int,
                width as c_int,
                lengths.as_ptr(),
                null_mut(),
            ))
        };
        data(&raw mut layer.x, inputs)?;
        data(&raw mut layer.y, hidden)?;
        call!(cudnnCreateTensorDescriptor(&raw mut layer.state))?;
        let dims = [1, batch as c_int, hidden as c_int];
        let strides = [(batch * hidden) as c_int, hidden as c_int, 1];
        call!(cudnnSetTensorNdDescriptor(layer.state, FLOAT, 3, dims.as_ptr(), strides.as_ptr()))?;
        call!(cudnnGetRNNWeightSpaceSize(handle, layer.rnn, &raw mut layer.weight_bytes))?;
        layer.pieces = layer.find_pieces(gpu, args)?;
        Ok(layer)
    }

    /// Asks cuDNN where each gate's weights and biases are, and joins those that lie as ours do.
    fn find_pieces(&self, gpu: &Gpu, args: &Arguments) -> Result<Vec<Piece>> {
        let Shape { inputs, hidden, .. } = args.shape;
        let gates = args.cell.gates;
        let space = gpu.allocate(self.weight_bytes / 4)?;
        let base = gpu.place(&space).0;
        let (matrix, bias) = (Descriptor::new()?, Descriptor::new()?);
        let mut pieces: Vec<Piece> = Vec::new();
        let mut add = |part: usize, from: usize, to: u64, len: usize| -> Result<()> {
            let Some(to) = to.checked_sub(base) else { bail!("cuDNN's weights are elsewhere") };
            let to = to as usize / 4;
            if (to + len) * 4 > self.weight_bytes {
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
                self.library.handle,
                self.rnn,
                0,
                self.weight_bytes,
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
}

fn pointer(place: Place) -> *const c_void {
    place.0 as *const c_void
}

fn pointer_mut(place: Place) -> *mut c_void {
    place.0 as *mut c_void
}

/// Numbers that so many bytes take.
fn numbers(bytes: usize) -> usize {
    bytes.div_ceil(4).max(1)
}

/// Runs a layer forward.
pub(crate) fn forward(gpu: &Gpu, args: &Arguments, keep: bool) -> Result<Forward> {
    let layer = layer(gpu, args)?;
    let Shape { batch, steps, hidden, .. } = args.shape;
    let weights = gpu.allocate(numbers(layer.weight_bytes))?;
    let ours = [args.weight_ih, args.weight_hh, args.bias_ih, args.bias_hh];
    let space = gpu.place(&weights);
    for piece in &layer.pieces {
        gpu.copy(ours[piece.part].offset(piece.from), space.offset(piece.to), piece.len)?;
    }
    let mode = if keep {
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_TRAINING
    } else {
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_INFERENCE
    };
    let (mut work_bytes, mut reserve_bytes) = (0, 0);
    let one_at_a_time = lock(&LAYERS);
    call!(cudnnGetRNNTempSpaceSizes(
        layer.library.handle,
        layer.rnn,
        mode,
        layer.x,
        &raw mut work_bytes,
        &raw mut reserve_bytes,
    ))?;
    let work = gpu.allocate(numbers(work_bytes))?;
    let reserve = gpu.allocate(numbers(reserve_bytes))?;
    let output = gpu.allocate(batch * steps * hidden)?;
    let last = gpu.allocate(batch * hidden)?;
    let cell = if args.cell.has_cell { Some(gpu.allocate(batch * hidden)?) } else { None };
    let last_cell = cell.as_ref().map_or(Place::NULL, |cell| gpu.place(cell));
    let lengths = pointer(gpu.place_of(&layer.lengths, 0));
    gpu.bind()?;
    call!(cudnnRNNForward(
        layer.library.handle,
        layer.rnn,
        mode,
        lengths.cast(),
        layer.x,
        pointer(args.input),
        layer.y,
        pointer_mut(gpu.place(&output)),
        layer.state,
        pointer(args.hidden),
        pointer_mut(gpu.place(&last)),
        layer.state,
        pointer(args.cell_state),
        pointer_mut(last_cell),
        layer.weight_bytes,
        pointer(space),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&reserve)),
    ))?;
    drop(one_at_a_time);
    let kept = keep.then_some(Reserve { layer, weights, reserve });
    Ok(Forward { output, hidden: last, cell, kept })
}

/// Runs a layer backward. Uses up what forward kept.
pub(crate) fn backward(
    gpu: &Gpu,
    args: &Arguments,
    kept: &Reserve,
    from: &Incoming,
    wanted: Wanted,
) -> Result<Gradients<CudaSlice<f32>>> {
    let layer = &kept.layer;
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let (mut work_bytes, mut reserve_bytes) = (0, 0);
    let one_at_a_time = lock(&LAYERS);
    call!(cudnnGetRNNTempSpaceSizes(
        layer.library.handle,
        layer.rnn,
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_TRAINING,
        layer.x,
        &raw mut work_bytes,
        &raw mut reserve_bytes,
    ))?;
    let work = gpu.allocate(numbers(work_bytes))?;
    let grad_input = gpu.allocate(batch * steps * inputs)?;
    let grad_hidden = gpu.allocate(batch * hidden)?;
    let grad_cell = if args.cell.has_cell { Some(gpu.allocate(batch * hidden)?) } else { None };
    let to_cell = grad_cell.as_ref().map_or(Place::NULL, |cell| gpu.place(cell));
    let lengths = pointer(gpu.place_of(&layer.lengths, 0));
    gpu.bind()?;
    call!(cudnnRNNBackwardData_v8(
        layer.library.handle,
        layer.rnn,
        lengths.cast(),
        layer.y,
        pointer(from.output),
        pointer(from.grad_output),
        layer.x,
        pointer_mut(gpu.place(&grad_input)),
        layer.state,
        pointer(args.hidden),
        pointer(from.grad_hidden),
        pointer_mut(gpu.place(&grad_hidden)),
        layer.state,
        pointer(args.cell_state),
        pointer(from.grad_cell),
        pointer_mut(to_cell),
        layer.weight_bytes,
        pointer(gpu.place(&kept.weights)),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&kept.reserve)),
    ))?;
    let mut found = Gradients {
        input: wanted.input.then_some(grad_input),
        weight_ih: None,
        weight_hh: None,
        bias_ih: None,
        bias_hh: None,
        hidden: grad_hidden,
        cell: grad_cell,
        probe_hidden: None,
        probe_cell: None,
    };
    if !(wanted.weight_ih || wanted.weight_hh || wanted.biases) {
        return Ok(found);
    }
    let sums = gpu.allocate(numbers(layer.weight_bytes))?;
    // cuDNN adds.
    gpu.zero(gpu.place(&sums), numbers(layer.weight_bytes))?;
    call!(cudnnRNNBackwardWeights_v8(
        layer.library.handle,
        layer.rnn,
        sys::cudnnWgradMode_t::CUDNN_WGRAD_MODE_ADD,
        lengths.cast(),
        layer.x,
        pointer(args.input),
        layer.state,
        pointer(args.hidden),
        layer.y,
        pointer(from.output),
        layer.weight_bytes,
        pointer_mut(gpu.place(&sums)),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&kept.reserve)),
    ))?;
    drop(one_at_a_time);
    let width = args.cell.gates * hidden;
    let collected = |part: usize, len: usize| -> Result<Option<CudaSlice<f32>>> {
        let to = gpu.allocate(len)?;
        for piece in layer.pieces.iter().filter(|piece| piece.part == part) {
            let (from, to) = (gpu.place(&sums).offset(piece.to), gpu.place(&to));
            gpu.copy(from, to.offset(piece.from), piece.len)?;
        }
        Ok(Some(to))
    };
    if wanted.weight_ih {
        found.weight_ih = collected(0, width * inputs)?;
    }
    if wanted.weight_hh {
        found.weight_hh = collected(1, width * hidden)?;
    }
    if wanted.biases && args.bias_ih != Place::NULL {
        found.bias_ih = collected(2, width)?;
        found.bias_hh = collected(3, width)?;
    }
    Ok(found)
}

/// What was measured, once in the process.
static MEASURED: Mutex<BTreeMap<(Key, bool), (bool, String)>> = Mutex::new(BTreeMap::new());

/// Whether cuDNN runs a layer: where it knows it, and `UNROLL_GPU_RECURRENT` says so, or tuning found it faster
/// than what is here.
pub(crate) fn wins(gpu: &Gpu, args: &Arguments, keep: bool) -> Result<bool> {
    match choice::policy()? {
        Policy::Library => Ok(knows(args)),
        Policy::Tuned if knows(args) => measured(gpu, args, keep),
        _ => Ok(false),
    }
}

/// What tuning found: one line for each layer, with microseconds per step.
pub(crate) fn findings() -> Vec<String> {
    lock(&MEASURED).values().map(|(_, line)| line.clone()).collect()
}

const ALL: Wanted = Wanted {
    input: true,
    weight_ih: true,
    weight_hh: true,
    biases: true,
    probe_hidden: false,
    probe_cell: false,
};

/// Times both, forward alone or with backward. What cuDNN refuses or finds different is not used.
fn measured(gpu: &Gpu, args: &Arguments, keep: bool) -> Result<bool> {
    let key = (key(gpu, args), keep);
    if let Some((wins, _)) = lock(&MEASURED).get(&key) {
        return Ok(*wins);
    }
    // The output's gradient is the output: any will do. Gives the output, and the gradient of the weights.
    let incoming = |output: &CudaSlice<f32>| Incoming {
        output: gpu.place(output),
        grad_output: gpu.place(output),
        grad_hidden: Place::NULL,
        grad_cell: Place::NULL,
    };
    let ours = || -> Result<[Option<CudaSlice<f32>>; 2]> {
        let found = forward_by(Policy::Tuned, gpu, args)?;
        if !keep {
            return Ok([Some(found.output), None]);
        }
        let from = incoming(&found.output);
        let back = backward_by(Policy::Tuned, gpu, args, found.kept, &from, ALL)?;
        Ok([Some(found.output), back.weight_hh])
    };
    let theirs = || -> Result<[Option<CudaSlice<f32>>; 2]> {
        let found = forward(gpu, args, keep)?;
        let Some(kept) = &found.kept else { return Ok([Some(found.output), None]) };
        let back = backward(gpu, args, kept, &incoming(&found.output), ALL)?;
        Ok([Some(found.output), back.weight_hh])
    };
    let time = |run: &dyn Fn() -> Result<[Option<CudaSlice<f32>>; 2]>| -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..TIMES {
            least = least.min(gpu.time(&|| run().map(|_| ()))?);
        }
        Ok(least / args.shape.steps as f64)
    };
    let expected = ours()?;
    let our_time = time(&ours)?;
    let their_time = theirs().and_then(|found| {
        for (expected, found) in expected.iter().zip(&found) {
            if let (Some(expected), Some(found)) = (expected, found)
                && let Some(off) = difference(&gpu.read(expected)?, &gpu.read(found)?)
            {
                bail!("differs by {off}");
            }
        }
        time(&theirs)
    });
    let wins = their_time.as_ref().is_ok_and(|theirs| *theirs < our_time);
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let line = format!(
        "{} {} B={batch} H={hidden}{}: {} at T={steps} I={inputs}, of ours {:.2} us; cudnn {}",
        args.cell.name,
        if keep { "training" } else { "inference" },
        if gpu.tf32() { " tf32" } else { "" },
        if wins { "cudnn" } else { "ours" },
        our_time * 1e6,
        match &their_time {
            Ok(seconds) => format!("{:.2} us", seconds * 1e6),
            Err(error) =>
                format!("not usable: {}", error.to_string().lines().next().unwrap_or_default()),
        }
    );
    lock(&MEASURED).insert(key, (wins, line));
    Ok(wins)
}
