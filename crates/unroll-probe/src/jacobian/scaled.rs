//! Matrices whose entries leave the range of f64, as values times powers of two.
//!
//! Powers of two rescale without rounding, and their exponents add up as integers: however many
//! steps a product has, rescaling costs it no accuracy.

use std::f64::consts::LN_2;
use std::ops::Range;

use nalgebra::{DMatrix, SVD};

use crate::{Error, Result};

/// Iterations after which a singular value decomposition has failed; a few per value are usual.
const SVD_ITERATIONS: usize = 1_000_000;

/// Exponent of a row that is zero: below every other, and far from overflow when added to.
const NOTHING: i64 = i64::MIN / 4;

/// The binary exponent of a number that is not zero, up to the 52 places of subnormals.
fn exponent_of(value: f64) -> i64 {
    ((value.to_bits() >> 52) & 0x7ff) as i64 - 1023
}

/// `value * 2^exponent`; zero where that is too small for f64.
fn times_power_of_two(mut value: f64, mut exponent: i64) -> f64 {
    let power = |exponent: i64| f64::from_bits(((exponent + 1023) as u64) << 52);
    while exponent < -1022 && value != 0.0 {
        value *= power(-1022);
        exponent += 1022;
    }
    while exponent > 1023 && value != 0.0 && value.is_finite() {
        value *= power(1023);
        exponent -= 1023;
    }
    if value == 0.0 || !value.is_finite() { value } else { value * power(exponent) }
}

/// `ln(value * 2^exponent)`; -infinity for 0.
fn ln_scaled(value: f64, exponent: i64) -> f64 {
    if value == 0.0 { f64::NEG_INFINITY } else { value.ln() + exponent as f64 * LN_2 }
}

/// The largest absolute value's exponent, or `None` when all are zero.
///
/// # Errors
/// When a value is NaN or infinite.
fn common_exponent<'a>(values: impl IntoIterator<Item = &'a f64>) -> Result<Option<i64>> {
    let mut largest = 0.0;
    for value in values {
        if !value.is_finite() {
            return Err(Error::Unsupported(
                "a Jacobian of a few steps is outside the range of f64: its factors are too far \
                 apart to be multiplied"
                    .into(),
            ));
        }
        largest = f64::max(largest, value.abs());
    }
    Ok((largest != 0.0).then(|| exponent_of(largest)))
}

/// The largest singular value of a matrix whose largest entry is near 1.
fn largest_singular_value(matrix: DMatrix<f64>) -> Result<f64> {
    if matrix.is_empty() || matrix.iter().all(|&value| value == 0.0) {
        return Ok(0.0);
    }
    SVD::try_new(matrix, false, false, f64::EPSILON, SVD_ITERATIONS)
        .map(|svd| svd.singular_values.max())
        .ok_or_else(|| {
            Error::Unsupported("the singular values of a Jacobian did not converge".into())
        })
}

/// `values * 2^exponent`, the largest entry of `values` near 1.
#[derive(Debug, Clone)]
pub(super) struct ScaledMatrix {
    values: DMatrix<f64>,
    exponent: i64,
}

impl ScaledMatrix {
    pub(super) fn identity(size: usize) -> Self {
        Self { values: DMatrix::identity(size, size), exponent: 0 }
    }

    /// The values without the power of two.
    pub(super) fn values(&self) -> &DMatrix<f64> {
        &self.values
    }

    /// Puts other values under the same power of two, and rescales them.
    pub(super) fn replace(&mut self, mut values: DMatrix<f64>) -> Result<()> {
        if let Some(exponent) = common_exponent(&values)? {
            values.apply(|value| *value = times_power_of_two(*value, -exponent));
            self.exponent += exponent;
        }
        self.values = values;
        Ok(())
    }

    /// Logarithm of the largest singular value.
    pub(super) fn ln_largest(&self) -> Result<f64> {
        Ok(ln_scaled(largest_singular_value(self.values.clone())?, self.exponent))
    }

    /// Logarithm of the largest Euclidean norm of a column of `self * factor`.
    pub(super) fn ln_largest_column(&self, factor: &DMatrix<f64>) -> f64 {
        let columns = &self.values * factor;
        let largest = columns.column_iter().map(|column| column.norm()).fold(0.0, f64::max);
        ln_scaled(largest, self.exponent)
    }
}

/// A product of matrices in which each row has its own power of two: parts of the state that forget
/// at different rates are then exact beside each other, though their ratio is outside the range of
/// f64.
#[derive(Debug, Clone)]
pub(super) struct RowScaledMatrix {
    values: DMatrix<f64>,
    exponents: Vec<i64>,
}

impl RowScaledMatrix {
    /// The columns in `columns` of the identity.
    pub(super) fn of_identity(size: usize, columns: Range<usize>) -> Self {
        let values = DMatrix::from_fn(size, columns.len(), |row, column| {
            if row == columns.start + column { 1.0 } else { 0.0 }
        });
        let exponents =
            (0..size).map(|row| if columns.contains(&row) { 0 } else { NOTHING }).collect();
        Self { values, exponents }
    }

    /// `factor * self`.
    pub(super) fn multiply_from_left(&mut self, factor: &DMatrix<f64>) -> Result<()> {
        let size = self.exponents.len();
        // Each new row's scale: that of its largest term, so that only terms that cannot count
        // underflow.
        let mut exponents = vec![NOTHING; size];
        for (column, &scale) in factor.column_iter().zip(&self.exponents) {
            if scale == NOTHING {
                continue;
            }
            for (exponent, &value) in exponents.iter_mut().zip(&column) {
                if value != 0.0 {
                    *exponent = (*exponent).max(scale + exponent_of(value));
                }
            }
        }
        let mut balanced = DMatrix::zeros(size, size);
        for ((mut to, from), &scale) in
            balanced.column_iter_mut().zip(factor.column_iter()).zip(&self.exponents)
        {
            if scale == NOTHING {
                continue;
            }
            for ((to, &value), &exponent) in to.iter_mut().zip(&from).zip(&exponents) {
                if value != 0.0 {
                    *to = times_power_of_two(value, scale - exponent);
                }
            }
        }
        let mut values = balanced * &self.values;
        for (mut row, exponent) in values.row_iter_mut().zip(&mut exponents) {
            match common_exponent(row.iter())? {
                Some(shift) => {
                    row.apply(|value| *value = times_power_of_two(*value, -shift));
                    *exponent += shift;
                }
                None => *exponent = NOTHING,
            }
        }
        self.values = values;
        self.exponents = exponents;
        Ok(())
    }

    /// Logarithm of the largest singular value of the rows in `rows`.
    pub(super) fn ln_largest_of_rows(&self, rows: Range<usize>) -> Result<f64> {
        let exponents = &self.exponents[rows.clone()];
        let common = exponents.iter().copied().max().unwrap_or(NOTHING);
        if common == NOTHING {
            return Ok(f64::NEG_INFINITY);
        }
        let mut block = self.values.rows(rows.start, rows.len()).into_owned();
        for (mut row, &exponent) in block.row_iter_mut().zip(exponents) {
            row.apply(|value| *value = times_power_of_two(*value, exponent - common));
        }
        Ok(ln_scaled(largest_singular_value(block)?, common))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact_to_the_ends() {
        assert_eq!(times_power_of_two(3.0, -1), 1.5);
        assert_eq!(times_power_of_two(1.0, -1074), f64::from_bits(1));
        assert_eq!(times_power_of_two(1.0, -5000), 0.0);
        assert_eq!(times_power_of_two(f64::from_bits(1), 1074), 1.0);
        assert_eq!(times_power_of_two(1.0, 1023), 2f64.powi(1023));
        assert_eq!(times_power_of_two(1.0, 5000), f64::INFINITY);
        assert_eq!(exponent_of(-6.0), 2);
        assert_eq!(exponent_of(0.2), -3);
    }

    #[test]
    fn products_keep_scales_apart() {
        let step = DMatrix::from_row_slice(2, 2, &[0.5, 0.0, 0.0, 1e-3]);
        let mut rows = RowScaledMatrix::of_identity(2, 0..2);
        let mut whole = ScaledMatrix::identity(2);
        for _ in 0..10_000 {
            rows.multiply_from_left(&step).unwrap();
            whole.replace(&step * whole.values()).unwrap();
        }
        let close = |found: f64, base: f64| (found / (1e4 * base.ln()) - 1.0).abs() < 1e-12;
        assert!(close(whole.ln_largest().unwrap(), 0.5));
        assert!(close(rows.ln_largest_of_rows(0..2).unwrap(), 0.5));
        assert!(close(rows.ln_largest_of_rows(1..2).unwrap(), 1e-3));
    }

    #[test]
    fn nothing_has_no_logarithm() {
        let mut rows = RowScaledMatrix::of_identity(3, 0..1);
        assert_eq!(rows.ln_largest_of_rows(1..3).unwrap(), f64::NEG_INFINITY);
        rows.multiply_from_left(&DMatrix::zeros(3, 3)).unwrap();
        assert_eq!(rows.ln_largest_of_rows(0..3).unwrap(), f64::NEG_INFINITY);
        let mut whole = ScaledMatrix::identity(2);
        whole.replace(DMatrix::zeros(2, 2)).unwrap();
        assert_eq!(whole.ln_largest().unwrap(), f64::NEG_INFINITY);
        assert!(whole.replace(DMatrix::from_element(2, 2, f64::NAN)).is_err());
    }
}
