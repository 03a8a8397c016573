//! QR iteration: an orthonormal frame carried along a product of matrices.

use nalgebra::DMatrix;

use super::scaled::ScaledMatrix;
use crate::Result;

/// What one factor of the product tells about its own rank.
pub(super) struct RankBound {
    /// Size of each column of `Z = A Q` below which it cannot be told from rounding errors.
    pub(super) noise: Vec<f64>,
    /// The rank that `Z` has at most.
    pub(super) rank: usize,
}

impl RankBound {
    /// Bounds for `transposed * frame`, where `transposed` is known entry by entry.
    ///
    /// The rounding errors of column `j` of the product are at most about
    /// `n eps sum_i |Q_ij| |A e_i|`: sizes of single columns of `A` enter, so that a factor that is
    /// small throughout is not taken for a singular one.
    pub(super) fn of_product(transposed: &DMatrix<f64>, frame: &DMatrix<f64>) -> Self {
        let size = transposed.nrows();
        let norms: Vec<f64> = transposed.column_iter().map(|column| column.norm()).collect();
        let unit = size as f64 * f64::EPSILON;
        let noise = frame
            .column_iter()
            .map(|column| unit * column.iter().zip(&norms).map(|(q, n)| q.abs() * n).sum::<f64>())
            .collect();
        let zero = |value: &f64| *value == 0.0;
        let zero_columns = transposed.column_iter().filter(|c| c.iter().all(zero)).count();
        let zero_rows = transposed.row_iter().filter(|r| r.iter().all(zero)).count();
        Self { noise, rank: size - zero_columns.max(zero_rows) }
    }

    /// Bounds for a product of which nothing else is known.
    pub(super) fn of_columns(product: &DMatrix<f64>) -> Self {
        let largest = product.column_iter().map(|column| column.norm()).fold(0.0, f64::max);
        let noise = product.nrows() as f64 * f64::EPSILON * largest;
        Self { noise: vec![noise; product.ncols()], rank: product.ncols() }
    }
}

/// `Z = Q R`, without the columns that depend on those before them.
pub(super) struct Factors {
    /// Orthonormal columns, as many as the rank of `Z`.
    pub(super) q: DMatrix<f64>,
    /// Upper triangular if no column was left out.
    pub(super) r: DMatrix<f64>,
    /// `ln |R_ii|` of the columns that were kept.
    pub(super) ln_diagonal: Vec<f64>,
}

/// Householder QR. A column that adds nothing to the span of those before it would leave an
/// arbitrary direction behind it, and all columns after it would be measured against that one: it is
/// left out instead, and what it holds is kept in `R`.
pub(super) fn factorise(z: &DMatrix<f64>, bound: &RankBound) -> Factors {
    let scales: Vec<f64> = z.column_iter().map(|column| column.amax()).collect();
    // Columns of size 1, as the norms within QR are sums of squares, which underflow at 1e-154.
    let mut scaled = z.clone();
    for (mut column, &scale) in scaled.column_iter_mut().zip(&scales) {
        if scale > 0.0 {
            column.unscale_mut(scale);
        }
    }
    let mut kept: Vec<usize> = (0..z.ncols()).filter(|&column| scales[column] > 0.0).collect();
    loop {
        if kept.is_empty() {
            let (rows, columns) = z.shape();
            let (q, r) = (DMatrix::zeros(rows, 0), DMatrix::zeros(0, columns));
            return Factors { q, r, ln_diagonal: Vec::new() };
        }
        let qr = scaled.select_columns(&kept).qr();
        let mut r = qr.r();
        let above_noise = |entry: usize| {
            let column = kept[entry];
            r[(entry, entry)].abs() * (scales[column] / bound.noise[column])
        };
        let null = (0..kept.len()).find(|&entry| {
            let above = above_noise(entry);
            above.is_nan() || above <= 1.0
        });
        let surplus = || {
            let weakest =
                (0..kept.len()).min_by(|&a, &b| above_noise(a).total_cmp(&above_noise(b)));
            weakest.filter(|_| kept.len() > bound.rank)
        };
        if let Some(entry) = null.or_else(surplus) {
            kept.remove(entry);
            continue;
        }
        let ln_diagonal = kept
            .iter()
            .enumerate()
            .map(|(entry, &column)| r[(entry, entry)].abs().ln() + scales[column].ln())
            .collect();
        let q = qr.q();
        let r = if kept.len() == z.ncols() {
            for (mut column, &scale) in r.column_iter_mut().zip(&scales) {
                column.scale_mut(scale);
            }
            r
        } else {
            q.tr_mul(z)
        };
        return Factors { q, r, ln_diagonal };
    }
}

/// The frame `Q_k` of `M = Q_k R_k ... R_1 Q_0^T`, with the product of the triangular factors.
pub(super) struct Frame {
    q: DMatrix<f64>,
    product: ScaledMatrix,
    /// Transposed product of the inverses; `None` once a factor is singular, or from the start.
    inverse: Option<ScaledMatrix>,
    /// `ln |R_ii|` of every factor, by direction; -infinity for directions that are lost.
    history: Vec<FrameStep>,
    directions: usize,
}

/// One factor of the product.
pub(super) struct FrameStep {
    /// Time steps that it spans.
    pub(super) steps: usize,
    /// `ln |R_ii|` by direction.
    pub(super) ln_diagonal: Vec<f64>,
}

impl Frame {
    /// Starts from orthonormal columns.
    pub(super) fn new(q: DMatrix<f64>, with_inverse: bool) -> Self {
        let directions = q.ncols();
        Self {
            q,
            product: ScaledMatrix::identity(directions),
            inverse: with_inverse.then(|| ScaledMatrix::identity(directions)),
            history: Vec::new(),
            directions,
        }
    }

    pub(super) fn q(&self) -> &DMatrix<f64> {
        &self.q
    }

    /// `R_k ... R_1`.
    pub(super) fn product(&self) -> &ScaledMatrix {
        &self.product
    }

    pub(super) fn history(&self) -> &[FrameStep] {
        &self.history
    }

    /// Logarithm of the volume that the last factor made of a unit cube; -infinity once a direction
    /// is lost.
    pub(super) fn last_ln_volume(&self) -> f64 {
        self.history.last().map_or(0.0, |step| step.ln_diagonal.iter().sum())
    }

    /// Logarithm of the smallest singular value of `R_k ... R_1`, for frames with an inverse.
    pub(super) fn ln_smallest(&self) -> Result<f64> {
        match &self.inverse {
            Some(inverse) => Ok(-inverse.ln_largest()?),
            None => Ok(f64::NEG_INFINITY),
        }
    }

    /// Takes in one more factor, given as what it makes of the frame: `z = A Q`.
    pub(super) fn advance(
        &mut self,
        z: &DMatrix<f64>,
        bound: &RankBound,
        steps: usize,
    ) -> Result<()> {
        let Factors { q, r, mut ln_diagonal } = factorise(z, bound);
        if let Some(inverse) = &mut self.inverse {
            let mut next = inverse.values().clone();
            if q.ncols() == self.directions && r.tr_solve_upper_triangular_mut(&mut next) {
                inverse.replace(next)?;
            } else {
                self.inverse = None;
            }
        }
        self.product.replace(&r * self.product.values())?;
        ln_diagonal.resize(self.directions, f64::NEG_INFINITY);
        self.history.push(FrameStep { steps, ln_diagonal });
        self.q = q;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, values: &[f64]) -> DMatrix<f64> {
        DMatrix::from_row_slice(rows, columns, values)
    }

    fn factors(z: &DMatrix<f64>) -> Factors {
        let identity = DMatrix::identity(z.ncols(), z.ncols());
        factorise(z, &RankBound::of_product(z, &identity))
    }

    #[test]
    fn dependent_columns_are_left_out_and_kept_in_r() {
        // Column 1 is twice column 0; column 3 is zero.
        let z = matrix(4, 4, &[1., 2., 3., 0., 0., 0., 1., 0., 2., 4., 0., 0., 5., 10., 1., 0.]);
        let Factors { q, r, ln_diagonal } = factors(&z);
        assert_eq!((q.ncols(), ln_diagonal.len()), (2, 2));
        assert!((&q * r - z).amax() < 1e-14);
        assert!((q.tr_mul(&q) - DMatrix::identity(2, 2)).amax() < 1e-15);
        assert!((ln_diagonal[0] - 30f64.sqrt().ln()).abs() < 1e-15);
    }

    #[test]
    fn small_is_not_singular() {
        let z = matrix(3, 3, &[1e-200, 0., 0., 0., 1., 1e-9, 0., 0., 1e-30]);
        let z = z.map_with_location(|_, column, value| value * [1.0, 1.0, 1e-21][column]);
        let Factors { q, r, ln_diagonal } = factors(&z);
        let graded = DMatrix::from_diagonal(&nalgebra::DVector::from_vec(vec![1e-200, 1., 1e-30]));
        assert_eq!(factors(&graded).q.ncols(), 3);
        assert_eq!(q.ncols(), 2, "the last column is within rounding errors of the one before");
        assert!((&q * r - &z).amax() < 1e-40);
        assert!((ln_diagonal[0] / 1e-200f64.ln() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn zero_rows_bound_the_rank() {
        let z = matrix(3, 3, &[1., 2., 3., 4., 5., 7., 0., 0., 0.]);
        assert_eq!(factors(&z).q.ncols(), 2);
        assert_eq!(factors(&DMatrix::zeros(3, 3)).q.ncols(), 0);
    }

    /// The first direction is lost, and the frame's last column holds little of it: the columns
    /// before are nearly dependent then, and make rounding errors of more than the noise.
    #[test]
    fn lost_directions_are_counted_where_noise_hides_them() {
        let transposed = matrix(3, 3, &[0., 0.3, -0.7, 0., 0.9, 0.2, 0., -0.4, 0.8]);
        let holds = matrix(3, 3, &[0.6, 0.31, 0.77, 0.8, -0.45, 0.13, 1e-5, 0.59, -0.28]);
        let frame = holds.qr().q().transpose();
        let z = &transposed * &frame;
        let bound = RankBound::of_product(&transposed, &frame);
        let last = z.clone().qr().r()[(2, 2)].abs();
        assert!(last > bound.noise[2], "{last} {}", bound.noise[2]);
        assert_eq!(factorise(&z, &bound).q.ncols(), 2);
    }

    #[test]
    fn frames_go_on_after_losing_all() {
        let mut frame = Frame::new(DMatrix::identity(2, 2), true);
        for factor in
            [matrix(2, 2, &[0., 0., 0., 2.]), DMatrix::zeros(2, 2), matrix(2, 2, &[1.; 4])]
        {
            let bound = RankBound::of_product(&factor, frame.q());
            let z = &factor * frame.q();
            frame.advance(&z, &bound, 1).unwrap();
        }
        assert_eq!(frame.product().ln_largest().unwrap(), f64::NEG_INFINITY);
        assert_eq!(frame.ln_smallest().unwrap(), f64::NEG_INFINITY);
        assert_eq!(frame.history()[0].ln_diagonal, [2f64.ln(), f64::NEG_INFINITY]);
    }
}
