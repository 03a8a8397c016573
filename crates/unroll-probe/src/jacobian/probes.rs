//! Random adjoints in place of the full Jacobian, for states that are too large for it.

use std::f64::consts::{LN_10, PI};

use candle_core::{DType, Device};
use nalgebra::DMatrix;
use unroll_core::Stream;

use super::frame::{Frame, FrameStep, RankBound, factorise};
use super::trajectory::Trajectory;
use super::{Bounds, Estimate, Jacobian, JacobianMethod, JacobianOptions, JacobianPoint};
use crate::Result;
use crate::statistics::mean;

/// Steps that one factor of the product spans. One QR decomposition for several steps spares calls
/// of the model.
const STEPS_PER_FACTOR: usize = 4;

/// A factor whose diagonal spreads more than this is computed again step by step: the rounding
/// errors of its smallest entry would exceed 1e-8.
const LARGEST_SPREAD: f64 = 1e8;

/// Blocks of time behind a standard error.
const BLOCKS: usize = 16;

/// `distances` in ascending order.
pub(super) fn measure(
    trajectory: &Trajectory<'_>,
    distances: &[usize],
    options: &JacobianOptions,
    example: usize,
) -> Result<Jacobian> {
    let size = trajectory.layout().size();
    let probes = options.probes.min(size);
    let steps = distances.last().copied().unwrap_or(0);
    let start = Start::draw(size, probes, options.seed, example)?;
    let mut frame = Frame::new(start.q, false);
    let mut points = Vec::with_capacity(distances.len());
    let mut strata = Vec::with_capacity(distances.len());
    let mut done = 0;
    for &distance in distances {
        strata.push(Stratum::sample(trajectory, done, distance, options.log_det_samples)?);
        while done < distance {
            done += advance(&mut frame, trajectory, done, distance)?;
        }
        points.push(JacobianPoint {
            distance,
            ln_largest: largest(&frame, &start.r, probes)?,
            ln_largest_hidden: None,
            ln_largest_cell: None,
            ln_smallest: None,
            log_det_rate: stratified_mean(&strata),
        });
    }
    // Without a step there is no mean.
    let directions = if steps == 0 { 0 } else { probes };
    let mut lyapunov: Vec<Estimate> =
        (0..directions).map(|direction| batch_means(frame.history(), direction, steps)).collect();
    lyapunov.sort_by(|a, b| b.value.total_cmp(&a.value));
    Ok(Jacobian {
        method: JacobianMethod::RandomProbes { probes },
        form: trajectory.form(),
        state_size: size,
        steps,
        lyapunov,
        points,
    })
}

/// Gaussian vectors `W = Q R` at the last step.
struct Start {
    q: DMatrix<f64>,
    r: DMatrix<f64>,
}

impl Start {
    fn draw(size: usize, probes: usize, seed: u64, example: usize) -> Result<Self> {
        let stream = Stream::new(seed, "probe/jacobian").at(example as u64);
        let values = stream.normal((probes, size), 1.0, DType::F64, &Device::Cpu)?;
        let qr = DMatrix::from_vec(size, probes, values.flatten_all()?.to_vec1()?).qr();
        Ok(Self { q: qr.q(), r: qr.r() })
    }
}

/// Takes in the next few steps, at most up to `distance`; gives how many.
fn advance(
    frame: &mut Frame,
    trajectory: &Trajectory<'_>,
    done: usize,
    distance: usize,
) -> Result<usize> {
    let count = STEPS_PER_FACTOR.min(distance - done);
    let z = trajectory.pull_back(done + count, count, frame.q())?;
    let bound = RankBound::of_columns(&z);
    if count > 1 && !well_conditioned(&z, &bound) {
        for step in done + 1..=done + count {
            let z = trajectory.pull_back(step, 1, frame.q())?;
            let bound = RankBound::of_columns(&z);
            frame.advance(&z, &bound, 1)?;
        }
    } else {
        frame.advance(&z, &bound, count)?;
    }
    Ok(count)
}

fn well_conditioned(z: &DMatrix<f64>, bound: &RankBound) -> bool {
    let logs = factorise(z, bound).ln_diagonal;
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.len() == z.ncols() && logs.iter().all(|&ln| largest - ln <= LARGEST_SPREAD.ln())
}

/// `||A^T Q||` from below, `10 sqrt(2/pi) max ||A^T w||` from above.
fn largest(frame: &Frame, start: &DMatrix<f64>, probes: usize) -> Result<Bounds> {
    let lower = frame.product().ln_largest()?;
    let upper = LN_10 + 0.5 * (2.0 / PI).ln() + frame.product().ln_largest_column(start);
    // What the probes have seen is certain.
    Ok(Bounds { lower, upper: upper.max(lower), probability: 1.0 - 0.1f64.powi(probes as i32) })
}

/// `ln |det|` at some of the steps between two distances.
struct Stratum {
    steps: usize,
    samples: Vec<f64>,
}

impl Stratum {
    /// At most `samples` steps from distance `after + 1` to `upto`, evenly spaced.
    fn sample(
        trajectory: &Trajectory<'_>,
        after: usize,
        upto: usize,
        samples: usize,
    ) -> Result<Self> {
        let steps = upto - after;
        let samples = samples.min(steps);
        let samples = (0..samples)
            .map(|sample| {
                let offset = (2 * sample + 1) * steps / (2 * samples);
                ln_det(&trajectory.transposed_step(after + 1 + offset)?)
            })
            .collect::<Result<_>>()?;
        Ok(Self { steps, samples })
    }

    fn mean(&self) -> f64 {
        mean(&self.samples)
    }

    /// Squared standard error of the mean: that of a sample without replacement, so that a stratum
    /// which was measured at every step has none.
    fn variance_of_mean(&self) -> f64 {
        let left_out = 1.0 - self.samples.len() as f64 / self.steps as f64;
        if left_out <= 0.0 { 0.0 } else { left_out * variance_of_mean(&self.samples) }
    }
}

fn ln_det(transposed: &DMatrix<f64>) -> Result<f64> {
    let size = transposed.nrows();
    let mut frame = Frame::new(DMatrix::identity(size, size), false);
    let bound = RankBound::of_product(transposed, frame.q());
    frame.advance(transposed, &bound, 1)?;
    Ok(frame.last_ln_volume())
}

/// Mean over all steps of all strata (Cochran 1977, chapter 5).
fn stratified_mean(strata: &[Stratum]) -> Estimate {
    let steps: usize = strata.iter().map(|stratum| stratum.steps).sum();
    let weight = |stratum: &Stratum| stratum.steps as f64 / steps as f64;
    let value = strata.iter().map(|s| weight(s) * s.mean()).sum::<f64>();
    if value == f64::NEG_INFINITY {
        // One singular step is enough.
        return Estimate::exact(value);
    }
    let variance = strata.iter().map(|s| weight(s).powi(2) * s.variance_of_mean()).sum::<f64>();
    Estimate { value, standard_error: variance.sqrt() }
}

/// Squared standard error of the mean of independent values; infinite for fewer than two.
fn variance_of_mean(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::INFINITY;
    }
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    squares / ((values.len() - 1) * values.len()) as f64
}

/// The mean of `ln |R_ii|` per step, its error from the means over blocks of time: within a block
/// the steps depend on each other, the blocks hardly.
fn batch_means(history: &[FrameStep], direction: usize, steps: usize) -> Estimate {
    let total: f64 = history.iter().map(|step| step.ln_diagonal[direction]).sum();
    let value = total / steps as f64;
    if value == f64::NEG_INFINITY {
        return Estimate::exact(value);
    }
    let blocks = BLOCKS.min(history.len());
    let means: Vec<f64> = (0..blocks)
        .map(|block| {
            let of = block * history.len() / blocks..(block + 1) * history.len() / blocks;
            let block = &history[of];
            let logs: f64 = block.iter().map(|step| step.ln_diagonal[direction]).sum();
            logs / block.iter().map(|step| step.steps).sum::<usize>() as f64
        })
        .collect();
    Estimate { value, standard_error: variance_of_mean(&means).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strata_measured_whole_have_no_error() {
        let whole = Stratum { steps: 2, samples: vec![-1.0, -3.0] };
        let part = Stratum { steps: 6, samples: vec![-2.0, -4.0, -3.0] };
        assert_eq!(stratified_mean(&[whole]), Estimate { value: -2.0, standard_error: 0.0 });
        let whole = Stratum { steps: 2, samples: vec![-1.0, -3.0] };
        let both = stratified_mean(&[whole, part]);
        assert!((both.value - -2.75).abs() < 1e-15);
        // Half of the stratum, variance 1, three samples, three quarters of all steps.
        assert!((both.standard_error - 0.75 * (0.5f64 / 3.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn single_samples_have_no_known_error() {
        let one = Stratum { steps: 4, samples: vec![-1.0] };
        assert_eq!(stratified_mean(&[one]).standard_error, f64::INFINITY);
    }

    #[test]
    fn factors_of_different_lengths_weigh_by_their_steps() {
        let step = |steps: usize, rate: f64| FrameStep {
            steps,
            ln_diagonal: vec![rate * steps as f64, f64::NEG_INFINITY],
        };
        let history = [step(4, -1.0), step(4, -1.0), step(2, -1.0)];
        let steady = batch_means(&history, 0, 10);
        assert_eq!(steady, Estimate { value: -1.0, standard_error: 0.0 });
        assert_eq!(batch_means(&history, 1, 10), Estimate::exact(f64::NEG_INFINITY));
        let varied = batch_means(&[step(1, -1.0), step(1, -3.0)], 0, 2);
        assert_eq!(varied, Estimate { value: -2.0, standard_error: 1.0 });
    }
}
