//! cuBLAS' functions (libcublas.so.13), as many of them as cudarc and candle call: products of matrices that lie
//! column by column.

use std::ffi::{c_int, c_longlong, c_uint, c_void};
use std::sync::Mutex;

use half::{bf16, f16};

use crate::driver::{StreamHandle, submit};
use crate::work::{Work, check};

type Status = c_uint;

const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 7;
const NOT_SUPPORTED: Status = 15;

/// Numbers in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F64,
    F16,
    Bf16,
}

impl Kind {
    fn parse(kind: c_uint) -> Option<Self> {
        Some(match kind {
            0 => Self::F32,
            1 => Self::F64,
            2 => Self::F16,
            14 => Self::Bf16,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A factor: where it lies, numbers from column to column, from matrix to matrix, and whether it is transposed.
#[derive(Debug, Clone, Copy)]
struct Factor {
    place: usize,
    stride: usize,
    batch_stride: i64,
    transposed: bool,
}

/// `out = alpha left right + beta out`, `count` times.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    kind: Kind,
    /// Whether what is read is rounded to 10 bits of mantissa.
    tf32: bool,
    m: usize,
    n: usize,
    k: usize,
    left: Factor,
    right: Factor,
    out: Factor,
    alpha: f64,
    beta: f64,
    count: usize,
}

pub(crate) fn round_to_tf32(value: f32) -> f32 {
    if value.is_nan() {
        value
    } else {
        f32::from_bits((value.to_bits().wrapping_add(0x1000)) & !0x1fff)
    }
}

impl Product {
    /// Numbers from the first to the last of a matrix of so many rows and columns as it lies.
    fn extent(factor: &Factor, rows: usize, columns: usize) -> usize {
        let (rows, columns) = if factor.transposed { (columns, rows) } else { (rows, columns) };
        if rows == 0 || columns == 0 { 0 } else { (columns - 1) * factor.stride + rows }
    }

    fn parts(&self) -> [(&Factor, usize, usize, &'static str); 3] {
        [
            (&self.left, self.m, self.k, "the left factor of a product"),
            (&self.right, self.k, self.n, "the right factor of a product"),
            (&self.out, self.m, self.n, "the result of a product"),
        ]
    }

    fn at(&self, factor: &Factor, index: usize) -> usize {
        let offset = factor.batch_stride * index as i64 * self.kind.bytes() as i64;
        factor.place.wrapping_add_signed(offset as isize)
    }

    /// Whether all of it is the device's.
    pub(crate) fn check(&self) {
        for (factor, rows, columns, what) in self.parts() {
            let bytes = Self::extent(factor, rows, columns) * self.kind.bytes();
            for index in 0..self.count {
                check(self.at(factor, index), bytes, what);
            }
        }
    }

    fn numbers(&self, factor: &Factor, index: usize, (rows, columns): (usize, usize)) -> Vec<f32> {
        let (len, place) = (Self::extent(factor, rows, columns), self.at(factor, index));
        // SAFETY: checked to be the device's; of these kinds any bits are numbers.
        unsafe {
            match self.kind {
                Kind::F32 => {
                    let values = std::slice::from_raw_parts(place as *const f32, len);
                    values.iter().map(|&v| if self.tf32 { round_to_tf32(v) } else { v }).collect()
                }
                Kind::F16 => std::slice::from_raw_parts(place as *const f16, len)
                    .iter()
                    .map(|value| value.to_f32())
                    .collect(),
                Kind::Bf16 => std::slice::from_raw_parts(place as *const bf16, len)
                    .iter()
                    .map(|value| value.to_f32())
                    .collect(),
                Kind::F64 => Vec::new(),
            }
        }
    }

    pub(crate) fn run(&self) {
        let (m, n, k) = (self.m, self.n, self.k);
        for index in 0..self.count {
            let strides = |factor: &Factor| {
                let along = (factor.stride as isize, 1);
                if factor.transposed { (along.1, along.0) } else { along }
            };
            if self.kind == Kind::F64 {
                let at = |factor: &Factor| self.at(factor, index);
                let (out, left, right) = (
                    at(&self.out) as *mut f64,
                    at(&self.left) as *const f64,
                    at(&self.right) as *const f64,
                );
                // SAFETY: checked to be the device's.
                unsafe { multiply((m, n, k), out, (left, right), self, strides) };
                continue;
            }
            let left = self.numbers(&self.left, index, (m, k));
            let right = self.numbers(&self.right, index, (k, n));
            let place = self.at(&self.out, index);
            let mut out = if self.kind == Kind::F32 {
                Vec::new()
            } else {
                self.numbers(&self.out, index, (m, n))
            };
            let to = if self.kind == Kind::F32 { place as *mut f32 } else { out.as_mut_ptr() };
            // SAFETY: checked to be the device's, or of the same size.
            unsafe { multiply((m, n, k), to, (left.as_ptr(), right.as_ptr()), self, strides) };
            for column in 0..n {
                for row in 0..m {
                    let at = column * self.out.stride + row;
                    // SAFETY: within the result; numbers between its columns are not touched.
                    unsafe {
                        match self.kind {
                            Kind::F16 => (place as *mut f16).add(at).write(f16::from_f32(out[at])),
                            Kind::Bf16 => {
                                (place as *mut bf16).add(at).write(bf16::from_f32(out[at]));
                            }
                            Kind::F32 | Kind::F64 => {}
                        }
                    }
                }
            }
        }
    }
}

trait Number: Copy + 'static {
    fn of(value: f64) -> Self;
}

impl Number for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }
}

impl Number for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// # Safety
/// Matrices of these sizes.
unsafe fn multiply<T: Number>(
    (m, n, k): (usize, usize, usize),
    out: *mut T,
    (left, right): (*const T, *const T),
    product: &Product,
    strides: impl Fn(&Factor) -> (isize, isize),
) {
    let (out_stride, left_stride, right_stride) =
        (strides(&product.out), strides(&product.left), strides(&product.right));
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            out_stride.0,
            out_stride.1,
            product.beta != 0.0,
            left,
            left_stride.0,
            left_stride.1,
            right,
            right_stride.0,
            right_stride.1,
            T::of(product.beta),
            T::of(product.alpha),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// What a handle stands for.
#[derive(Debug)]
struct Handle {
    stream: Mutex<usize>,
}

fn stream_of(handle: *mut c_void) -> StreamHandle {
    // SAFETY: made by `cublasCreate_v2`, and never given back.
    let handle = unsafe { &*handle.cast::<Handle>() };
    let stream = *handle.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    stream as StreamHandle
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> Status {
    let made = Box::new(Handle { stream: Mutex::new(0) });
    // SAFETY: the caller gives a place.
    unsafe { handle.write(Box::into_raw(made).cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasDestroy_v2(_handle: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasSetStream_v2(handle: *mut c_void, stream: StreamHandle) -> Status {
    // SAFETY: made by `cublasCreate_v2`, and never given back.
    let handle = unsafe { &*handle.cast::<Handle>() };
    *handle.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = stream as usize;
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasSetWorkspace_v2(
    _handle: *mut c_void,
    memory: *mut c_void,
    bytes: usize,
) -> Status {
    check(memory as usize, bytes, "memory for cuBLAS");
    if (memory as usize).is_multiple_of(256) { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: *mut c_void,
    transpose_a: c_uint,
    transpose_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_kind: c_uint,
    lda: c_int,
    stride_a: c_longlong,
    b: *const c_void,
    b_kind: c_uint,
    ldb: c_int,
    stride_b: c_longlong,
    beta: *const c_void,
    c: *mut c_void,
    c_kind: c_uint,
    ldc: c_int,
    stride_c: c_longlong,
    count: c_int,
    compute: c_uint,
    _algorithm: c_int,
) -> Status {
    let Some(kind) = Kind::parse(a_kind) else { return NOT_SUPPORTED };
    if b_kind != a_kind || c_kind != a_kind || transpose_a > 1 || transpose_b > 1 {
        return NOT_SUPPORTED;
    }
    let (rows_of_a, rows_of_b) =
        (if transpose_a == 0 { m } else { k }, if transpose_b == 0 { k } else { n });
    let short = [(lda, rows_of_a), (ldb, rows_of_b), (ldc, m)];
    if m < 0 || n < 0 || k < 0 || count < 0 || short.iter().any(|&(ld, rows)| ld < rows.max(1)) {
        eprintln!(
            "simulated GPU: a product of {m} x {k} and {k} x {n} with strides {lda}, {ldb}, {ldc}"
        );
        return INVALID_VALUE;
    }
    // Factors before the product are numbers of the type that it is computed in.
    // SAFETY: the caller gives such numbers.
    let (tf32, alpha, beta) = unsafe {
        match (compute, kind) {
            (68 | 69, Kind::F32 | Kind::F16 | Kind::Bf16) | (77, Kind::F32) => {
                (compute == 77, f64::from(*alpha.cast::<f32>()), f64::from(*beta.cast::<f32>()))
            }
            (70 | 71, Kind::F64) => (false, *alpha.cast::<f64>(), *beta.cast::<f64>()),
            _ => {
                eprintln!("simulated GPU: a product of {kind:?} computed in {compute}");
                return NOT_SUPPORTED;
            }
        }
    };
    let factor = |place: usize, stride: c_int, batch_stride: c_longlong, transpose: c_uint| {
        Factor { place, stride: stride as usize, batch_stride, transposed: transpose == 1 }
    };
    let product = Product {
        kind,
        tf32,
        m: m as usize,
        n: n as usize,
        k: k as usize,
        left: factor(a as usize, lda, stride_a, transpose_a),
        right: factor(b as usize, ldb, stride_b, transpose_b),
        out: factor(c as usize, ldc, stride_c, 0),
        alpha,
        beta,
        count: count as usize,
    };
    product.check();
    submit(stream_of(handle), Work::Product(product));
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmEx(
    handle: *mut c_void,
    transpose_a: c_uint,
    transpose_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_kind: c_uint,
    lda: c_int,
    b: *const c_void,
    b_kind: c_uint,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_kind: c_uint,
    ldc: c_int,
    compute: c_uint,
    algorithm: c_int,
) -> Status {
    // SAFETY: as there.
    unsafe {
        cublasGemmStridedBatchedEx(
            handle,
            transpose_a,
            transpose_b,
            m,
            n,
            k,
            alpha,
            a,
            a_kind,
            lda,
            0,
            b,
            b_kind,
            ldb,
            0,
            beta,
            c,
            c_kind,
            ldc,
            0,
            1,
            compute,
            algorithm,
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasDgemmStridedBatched(
    handle: *mut c_void,
    transpose_a: c_uint,
    transpose_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f64,
    a: *const f64,
    lda: c_int,
    stride_a: c_longlong,
    b: *const f64,
    ldb: c_int,
    stride_b: c_longlong,
    beta: *const f64,
    c: *mut f64,
    ldc: c_int,
    stride_c: c_longlong,
    count: c_int,
) -> Status {
    // SAFETY: as there.
    unsafe {
        cublasGemmStridedBatchedEx(
            handle,
            transpose_a,
            transpose_b,
            m,
            n,
            k,
            alpha.cast(),
            a.cast(),
            1,
            lda,
            stride_a,
            b.cast(),
            1,
            ldb,
            stride_b,
            beta.cast(),
            c.cast(),
            1,
            ldc,
            stride_c,
            count,
            70,
            0,
        )
    }
}
