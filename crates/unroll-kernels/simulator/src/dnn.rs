//! cuDNN's recurrent layers (libcudnn.so.9), as its documentation defines them: one layer, one direction, f32, whole
//! sequences row by row. Numbers are computed in f64, and weights lie in an order of this file's own, with gaps.

mod passes;

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use crate::blas::round_to_tf32;
use crate::driver::StreamHandle;

type Status = c_uint;
type Any = *mut c_void;

const SUCCESS: Status = 0;
const BAD_PARAM: Status = 2000;
const NOT_SUPPORTED: Status = 3000;

fn refuse(status: Status, why: &str) -> Status {
    eprintln!("simulated cuDNN: {why}");
    status
}

/// A descriptor of any kind; what is not said yet is zero.
#[derive(Debug, Default)]
struct Handle {
    stream: usize,
}

#[derive(Debug, Default)]
struct Dropout {
    set: bool,
}

/// A recurrent layer.
#[derive(Debug, Default, Clone)]
struct Rnn {
    set: bool,
    /// 0 standard, 1 persistent, 3 persistent for small hidden sizes.
    algorithm: c_uint,
    /// 0 relu, 1 tanh, 2 LSTM, 3 GRU.
    mode: c_uint,
    biases: bool,
    /// Whether what products read is rounded to 10 bits of mantissa.
    tf32: bool,
    inputs: usize,
    hidden: usize,
}

/// `(B, T, features)`.
#[derive(Debug, Default, Clone)]
struct Data {
    steps: usize,
    batch: usize,
    width: usize,
}

#[derive(Debug, Default, Clone)]
struct Tensor {
    dims: Vec<c_int>,
    strides: Vec<c_int>,
}

/// Functions that make and give back an object.
macro_rules! object {
    ($kind:ident, $create:ident, $destroy:ident) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $create(to: *mut Any) -> Status {
            // SAFETY: the caller gives a place.
            unsafe { to.write(Box::into_raw(Box::<$kind>::default()).cast()) };
            SUCCESS
        }

        #[unsafe(no_mangle)]
        unsafe extern "C" fn $destroy(object: Any) -> Status {
            // SAFETY: made above, and given back once.
            drop(unsafe { Box::from_raw(object.cast::<$kind>()) });
            SUCCESS
        }
    };
}

object!(Handle, cudnnCreate, cudnnDestroy);
object!(Dropout, cudnnCreateDropoutDescriptor, cudnnDestroyDropoutDescriptor);
object!(Rnn, cudnnCreateRNNDescriptor, cudnnDestroyRNNDescriptor);
object!(Data, cudnnCreateRNNDataDescriptor, cudnnDestroyRNNDataDescriptor);
object!(Tensor, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor);

/// What a handle stands for.
///
/// # Safety
/// Made by the function that makes such objects, and not given back.
unsafe fn object<'a, T>(handle: Any) -> &'a T {
    // SAFETY: the caller's promise.
    unsafe { &*handle.cast::<T>() }
}

/// Puts another in its place.
///
/// # Safety
/// As for [`object`]; nobody reads it meanwhile.
unsafe fn replace<T>(handle: Any, object: T) {
    // SAFETY: the caller's promise.
    unsafe { *handle.cast::<T>() = object };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetStream(handle: Any, stream: StreamHandle) -> Status {
    unsafe { replace(handle, Handle { stream: stream as usize }) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetDropoutDescriptor(
    dropout: Any,
    _handle: Any,
    probability: f32,
    _states: Any,
    _bytes: usize,
    _seed: c_ulonglong,
) -> Status {
    if probability != 0.0 {
        return refuse(NOT_SUPPORTED, "dropout");
    }
    unsafe { replace(dropout, Dropout { set: true }) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetRNNDescriptor_v8(
    rnn: Any,
    algorithm: c_uint,
    mode: c_uint,
    bias_mode: c_uint,
    direction: c_uint,
    input_mode: c_uint,
    kind: c_uint,
    math_kind: c_uint,
    math: c_uint,
    inputs: i32,
    hidden: i32,
    projected: i32,
    layers: i32,
    dropout: Any,
    flags: u32,
) -> Status {
    let one_layer = (direction, input_mode, layers, projected) == (0, 0, 1, hidden);
    let known = matches!(algorithm, 0 | 1 | 3)
        && mode <= 3
        && matches!(bias_mode, 0 | 2)
        && (kind, math_kind) == (0, 0);
    if !one_layer || !known || !matches!(math, 0 | 3) || flags != 1 {
        return refuse(NOT_SUPPORTED, "a recurrent layer that is not simulated");
    }
    if inputs < 1 || hidden < 1 || !unsafe { object::<Dropout>(dropout) }.set {
        return refuse(
            BAD_PARAM,
            "a recurrent layer without sizes or with a dropout that is not set",
        );
    }
    let made = Rnn {
        set: true,
        algorithm,
        mode,
        biases: bias_mode == 2,
        tf32: math == 0,
        inputs: inputs as usize,
        hidden: hidden as usize,
    };
    unsafe { replace(rnn, made) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetRNNDataDescriptor(
    data: Any,
    kind: c_uint,
    layout: c_uint,
    steps: c_int,
    batch: c_int,
    width: c_int,
    lengths: *const c_int,
    _padding: Any,
) -> Status {
    if kind != 0 || layout != 2 {
        return refuse(NOT_SUPPORTED, "sequences that are not f32, row by row");
    }
    if steps < 1 || batch < 1 || width < 1 {
        return refuse(BAD_PARAM, "sequences without sizes");
    }
    // SAFETY: the caller gives a length for each sequence.
    let lengths = unsafe { std::slice::from_raw_parts(lengths, batch as usize) };
    if lengths.iter().any(|&length| length != steps) {
        return refuse(NOT_SUPPORTED, "sequences of different lengths");
    }
    let made = Data { steps: steps as usize, batch: batch as usize, width: width as usize };
    unsafe { replace(data, made) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnSetTensorNdDescriptor(
    tensor: Any,
    kind: c_uint,
    count: c_int,
    dims: *const c_int,
    strides: *const c_int,
) -> Status {
    if kind != 0 || count < 3 {
        return refuse(BAD_PARAM, "a tensor that is not f32 or has fewer than three axes");
    }
    // SAFETY: the caller gives as many.
    let numbers = |from| unsafe { std::slice::from_raw_parts(from, count as usize) }.to_vec();
    let made = Tensor { dims: numbers(dims), strides: numbers(strides) };
    unsafe { replace(tensor, made) };
    SUCCESS
}

/// Numbers between the pieces of the weights.
const GAP: usize = 5;
/// Numbers that are kept of each unit at each step: four of its gates, its cell, four gradients.
const KEPT: usize = 9;
/// Hidden sizes that an algorithm goes up to: 1 (a guess; a multiple of 128 as well), and 3 (where PyTorch asks for
/// it in training; simple cells and gated ones).
const MOST_HIDDEN: usize = 1024;
const MOST_HIDDEN_SMALL: [usize; 2] = [256, 128];

impl Rnn {
    fn gates(&self) -> usize {
        match self.mode {
            2 => 4,
            3 => 3,
            _ => 1,
        }
    }

    /// Where the weights of a gate, and its bias, begin: the gates of the input first, then those of the state; the
    /// last first.
    fn place(&self, id: usize) -> (usize, usize) {
        // Each algorithm has its own gap before the first.
        let (gates, mut at) = (self.gates(), self.algorithm as usize);
        for other in (0..2 * gates).rev() {
            let matrix = self.hidden * if other < gates { self.inputs } else { self.hidden };
            if other == id {
                return (at, at + matrix + GAP);
            }
            at += matrix + GAP + if self.biases { self.hidden + GAP } else { 0 };
        }
        (at, at)
    }

    fn weight_count(&self) -> usize {
        // `place` of what is not there is the end.
        self.place(usize::MAX).0
    }

    /// What a product reads of a number.
    fn read(&self, value: f64) -> f64 {
        if self.tf32 { f64::from(round_to_tf32(value as f32)) } else { value }
    }

    /// Whether the algorithm has such sizes.
    fn has_sizes(&self) -> bool {
        match self.algorithm {
            1 => self.hidden.is_multiple_of(128) && self.hidden <= MOST_HIDDEN,
            3 => self.hidden <= MOST_HIDDEN_SMALL[usize::from(self.mode > 1)],
            _ => true,
        }
    }

    /// Bytes that forward keeps for backward; each algorithm's are its own.
    fn kept_bytes(&self, x: &Data) -> usize {
        4 * (KEPT * x.batch * x.steps * self.hidden + self.algorithm as usize)
    }

    fn check(&self, weight_bytes: usize) -> bool {
        self.set && weight_bytes == 4 * self.weight_count()
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnGetRNNWeightSpaceSize(
    _handle: Any,
    rnn: Any,
    bytes: *mut usize,
) -> Status {
    let rnn = unsafe { object::<Rnn>(rnn) };
    if !rnn.set {
        return refuse(BAD_PARAM, "a recurrent layer that is not set");
    }
    unsafe { bytes.write(4 * rnn.weight_count()) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnGetRNNTempSpaceSizes(
    _handle: Any,
    rnn: Any,
    mode: c_uint,
    x: Any,
    work_bytes: *mut usize,
    reserve_bytes: *mut usize,
) -> Status {
    let (rnn, x) = unsafe { (object::<Rnn>(rnn), object::<Data>(x)) };
    if !rnn.has_sizes() {
        // Nothing wrong: a caller learns so where an algorithm ends.
        return NOT_SUPPORTED;
    }
    unsafe {
        work_bytes.write(64);
        reserve_bytes.write(if mode == 1 { rnn.kept_bytes(x) } else { 0 });
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnGetRNNWeightParams(
    _handle: Any,
    rnn: Any,
    layer: i32,
    weight_bytes: usize,
    weights: *const c_void,
    id: i32,
    matrix: Any,
    matrix_at: *mut Any,
    bias: Any,
    bias_at: *mut Any,
) -> Status {
    let rnn = unsafe { object::<Rnn>(rnn) };
    let gates = rnn.gates();
    if layer != 0 || !rnn.check(weight_bytes) || id < 0 || id as usize >= 2 * gates {
        return refuse(BAD_PARAM, "weights that are not there");
    }
    let (to_matrix, to_bias) = rnn.place(id as usize);
    let columns = if (id as usize) < gates { rnn.inputs } else { rnn.hidden };
    let at = |offset: usize| weights.cast::<f32>().wrapping_add(offset).cast_mut().cast::<c_void>();
    let tensor = |rows: usize, columns: usize| Tensor {
        dims: vec![1, rows as c_int, columns as c_int],
        strides: vec![(rows * columns) as c_int, columns as c_int, 1],
    };
    unsafe {
        matrix_at.write(at(to_matrix));
        replace(matrix, tensor(rnn.hidden, columns));
        bias_at.write(if rnn.biases { at(to_bias) } else { std::ptr::null_mut() });
        replace(bias, tensor(rnn.hidden, usize::from(rnn.biases)));
    }
    SUCCESS
}
