//! Softmax over the rows of a block of scores.
//!
//! A block has a row per query; the keys that a query sees are one run of columns. Rows lie
//! `width` elements apart, a multiple of [`LANES`], so that the loops work on whole vectors.

use crate::float::{Float, LANES, sum_of};
use crate::isa::multiversion;

/// Columns `first..end` of a row that its query sees; empty when `first == end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Run {
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Run {
    fn is_empty(self) -> bool {
        self.first >= self.end
    }

    /// The whole vectors that hold the run.
    #[inline(always)]
    fn vectors(self) -> std::ops::Range<usize> {
        if self.is_empty() {
            return 0..0;
        }
        self.first / LANES * LANES..self.end.next_multiple_of(LANES)
    }
}

/// Sets hidden columns of one row: `LOWEST` in the vectors that the run touches, zero elsewhere.
#[inline(always)]
fn hide<F: Float>(row: &mut [F], run: Run) {
    let vectors = run.vectors();
    row[..vectors.start].fill(F::ZERO);
    row[vectors.end..].fill(F::ZERO);
    if !run.is_empty() {
        row[vectors.start..run.first].fill(F::LOWEST);
        row[run.end..vectors.end].fill(F::LOWEST);
    }
}

#[inline(always)]
fn larger<F: Float>(a: F, b: F) -> F {
    if b > a { b } else { a }
}

/// What the softmax of each row knows so far.
pub(super) struct Running<'a, F> {
    /// Largest score.
    pub(super) peak: &'a mut [F],
    /// Sum of `exp(score - peak)`.
    pub(super) total: &'a mut [F],
    /// `exp(old peak - new peak)` after a block: what earlier sums have to be multiplied by.
    pub(super) rescale: &'a mut [F],
}

multiversion! {
    /// Replaces scores by `exp(score - peak)`, zero where hidden, and carries peak and sum on.
    fn exponentials<F: Float>(
        scores: &mut [F],
        width: usize,
        runs: &[Run],
        running: &mut Running<'_, F>,
    ) {
        for (index, (row, &run)) in scores.chunks_exact_mut(width).zip(runs).enumerate() {
            hide(row, run);
            running.rescale[index] = F::ONE;
            if run.is_empty() {
                continue;
            }
            let (vectors, _) = row[run.vectors()].as_chunks_mut::<LANES>();
            let mut lanes = [F::LOWEST; LANES];
            for vector in vectors.iter() {
                for lane in 0..LANES {
                    lanes[lane] = larger(lanes[lane], vector[lane]);
                }
            }
            let old = running.peak[index];
            let peak = lanes.into_iter().fold(old, larger);
            let mut sums = [F::ZERO; LANES];
            for vector in vectors {
                for lane in 0..LANES {
                    vector[lane] = (vector[lane] - peak).exp();
                    sums[lane] += vector[lane];
                }
            }
            // No score yet, or still the same peak: nothing to multiply.
            let rescale = if old == peak || old == F::LOWEST { F::ONE } else { (old - peak).exp() };
            running.total[index] = running.total[index] * rescale + sum_of(sums);
            running.rescale[index] = rescale;
            running.peak[index] = peak;
        }
    }
}

/// What backward knows of each row from forward.
pub(super) struct Finished<'a, F> {
    /// Largest score.
    pub(super) peak: &'a [F],
    /// `1 / sum exp(score - peak)`, or zero when the query sees no key.
    pub(super) inverse: &'a [F],
    /// The product of the output's row with its gradient.
    pub(super) dot: &'a [F],
}

multiversion! {
    /// Replaces scores by weights `w = exp(score - peak) / total`, and their gradients `g` by those of
    /// the scores, `w (g - dot)`; both zero where hidden.
    fn score_gradients<F: Float>(
        scores: &mut [F],
        gradients: &mut [F],
        width: usize,
        runs: &[Run],
        finished: &Finished<'_, F>,
    ) {
        let rows = scores.chunks_exact_mut(width).zip(gradients.chunks_exact_mut(width));
        for (index, ((row, gradient), &run)) in rows.zip(runs).enumerate() {
            hide(row, run);
            let range = run.vectors();
            gradient[..range.start].fill(F::ZERO);
            gradient[range.end..].fill(F::ZERO);
            if run.is_empty() {
                continue;
            }
            // What the product left in hidden columns may be anything, NaN included.
            gradient[range.start..run.first].fill(F::ZERO);
            gradient[run.end..range.end].fill(F::ZERO);
            let (peak, inverse) = (finished.peak[index], finished.inverse[index]);
            let dot = finished.dot[index];
            let (vectors, _) = row[range.clone()].as_chunks_mut::<LANES>();
            let (gradients, _) = gradient[range].as_chunks_mut::<LANES>();
            for (vector, gradient) in vectors.iter_mut().zip(gradients) {
                for lane in 0..LANES {
                    let weight = (vector[lane] - peak).exp() * inverse;
                    vector[lane] = weight;
                    gradient[lane] = weight * (gradient[lane] - dot);
                }
            }
        }
    }
}

multiversion! {
    /// Multiplies each row of `width` elements by its factor.
    fn scale_rows<F: Float>(rows: &mut [F], width: usize, factors: &[F]) {
        for (row, &factor) in rows.chunks_exact_mut(width).zip(factors) {
            if factor != F::ONE {
                for value in row {
                    *value *= factor;
                }
            }
        }
    }
}
