//! Matrix products over slices.

use gemm::Parallelism;

use crate::real::Real;

/// A matrix in a slice: `rows x columns` with element strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, F> {
    data: &'a [F],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, F> Matrix<'a, F> {
    /// Rows one after the other.
    pub(crate) fn new(data: &'a [F], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows `row_stride` elements apart.
    pub(crate) fn strided(data: &'a [F], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
                < self.data.len()
    }
}

/// Whether a product may use all threads of the pool, or is already inside a parallel region.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

/// `out = left right`, or `out += left right`. `out` has rows `out_stride` elements apart.
pub(crate) fn multiply<F: Real>(
    out: &mut [F],
    out_stride: usize,
    left: Matrix<'_, F>,
    right: Matrix<'_, F>,
    accumulate: bool,
    threads: Threads,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(k, right.rows, "inner sizes of a product differ");
    assert!(left.fits() && right.fits(), "a factor of a product is larger than its slice");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * out_stride + n <= out.len() && n <= out_stride.max(n), "product too large");
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // `alpha` multiplies what is in `out`, `beta` the product.
    let alpha = if accumulate { F::ONE } else { F::ZERO };
    // SAFETY: the two asserts above bound every index that gemm forms for the three matrices;
    // `out` is borrowed mutably, so it overlaps neither factor.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            alpha,
            F::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The transpose of a `rows x columns` matrix.
pub(crate) fn transposed<F: Real>(data: &[F], rows: usize, columns: usize) -> Vec<F> {
    let mut out = vec![F::ZERO; rows * columns];
    for (row, values) in data.chunks_exact(columns.max(1)).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            out[column * rows + row] = value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_match_the_definition() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (16, 48, 17), (2, 33, 64)] {
            let a: Vec<f64> = (0..m * k).map(|i| (i as f64 * 0.37).sin()).collect();
            let b: Vec<f64> = (0..n * k).map(|i| (i as f64 * 0.11).cos()).collect();
            let mut out = vec![1.0; m * n];
            multiply(
                &mut out,
                n,
                Matrix::new(&a, m, k),
                Matrix::new(&b, n, k).t(),
                true,
                Threads::One,
            );
            for row in 0..m {
                for column in 0..n {
                    let dot: f64 = (0..k).map(|i| a[row * k + i] * b[column * k + i]).sum();
                    assert!((out[row * n + column] - 1.0 - dot).abs() < 1e-12);
                }
            }
        }
    }
}
