//! The full Jacobian, one step at a time.

use std::ops::Range;

use nalgebra::DMatrix;

use super::frame::{Frame, FrameStep, RankBound};
use super::scaled::RowScaledMatrix;
use super::trajectory::Trajectory;
use super::{Bounds, Estimate, Jacobian, JacobianMethod, JacobianPoint};
use crate::Result;

/// A block of the Jacobian between a part of the last state and the same part of an earlier one.
struct Block {
    of: Range<usize>,
    /// `(ds_T[of]/ds_(T-k))^T`.
    transposed: RowScaledMatrix,
}

impl Block {
    fn new(size: usize, of: Range<usize>) -> Self {
        Self { transposed: RowScaledMatrix::of_identity(size, of.clone()), of }
    }

    fn ln_largest(&self) -> Result<f64> {
        self.transposed.ln_largest_of_rows(self.of.clone())
    }
}

/// `distances` in ascending order.
pub(super) fn measure(trajectory: &Trajectory<'_>, distances: &[usize]) -> Result<Jacobian> {
    let size = trajectory.layout().size();
    let steps = distances.last().copied().unwrap_or(0);
    let block = |name| trajectory.layout().top_layer(name).map(|of| Block::new(size, of));
    let (mut hidden, mut cell) = (block("h"), block("c"));
    let mut frame = Frame::new(DMatrix::identity(size, size), true);
    let mut ln_det = 0.0;
    let mut points = Vec::with_capacity(distances.len());
    for distance in 1..=steps {
        let transposed = trajectory.transposed_step(distance)?;
        // One step per factor: rounding errors in the diagonal of R are relative to the condition
        // of the factor, and no shorter factor has a smaller one.
        let bound = RankBound::of_product(&transposed, frame.q());
        let z = &transposed * frame.q();
        frame.advance(&z, &bound, 1)?;
        for block in [&mut hidden, &mut cell].into_iter().flatten() {
            block.transposed.multiply_from_left(&transposed)?;
        }
        ln_det += frame.last_ln_volume();
        if distances.binary_search(&distance).is_ok() {
            let block = |block: &Option<Block>| block.as_ref().map(Block::ln_largest).transpose();
            points.push(JacobianPoint {
                distance,
                ln_largest: Bounds::exact(frame.product().ln_largest()?),
                ln_largest_hidden: block(&hidden)?,
                ln_largest_cell: block(&cell)?,
                ln_smallest: Some(frame.ln_smallest()?),
                log_det_rate: Estimate::exact(ln_det / distance as f64),
            });
        }
    }
    // Without a step there is no mean.
    let directions = if steps == 0 { 0 } else { size };
    let mut lyapunov: Vec<f64> = (0..directions)
        .map(|direction| {
            let logs = frame.history().iter().map(|step: &FrameStep| step.ln_diagonal[direction]);
            logs.sum::<f64>() / steps as f64
        })
        .collect();
    lyapunov.sort_by(|a, b| b.total_cmp(a));
    Ok(Jacobian {
        method: JacobianMethod::Exact,
        form: trajectory.form(),
        state_size: size,
        steps,
        lyapunov: lyapunov.into_iter().map(Estimate::exact).collect(),
        points,
    })
}
