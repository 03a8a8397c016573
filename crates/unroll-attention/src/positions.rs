//! Where a step stands: attention itself sees a set, not a sequence.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::Result;

/// How a model is told the position of each step. Positions count from the first step of the
/// sequence, also when a state is carried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Not at all. A causal mask still gives some order away.
    None,
    /// Sines and cosines of geometric wavelengths added to the input (Vaswani 2017, section 3.5).
    #[default]
    Sinusoidal,
    /// A trained vector per position added to the input; ends at `max_length`.
    Learned,
    /// Queries and keys rotated by angles proportional to the position (Su 2021): scores depend on
    /// the distance alone.
    Rotary,
}

/// The longest wavelength is `2 pi` times this.
const BASE: f64 = 10_000.0;

/// Angle of feature pair `pair` of `pairs` at `position`.
fn angle(position: usize, pair: usize, features: usize) -> f64 {
    position as f64 / BASE.powf(2.0 * pair as f64 / features as f64)
}

fn from_f64(
    values: Vec<f64>,
    shape: (usize, usize),
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
}

/// `(T, H)`: features `2i` and `2i + 1` are the sine and cosine of `position / 10000^(2i / H)`.
pub(crate) fn sinusoidal(
    first: usize,
    seq_len: usize,
    hidden_size: usize,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let value = |position, feature: usize| {
        let angle = angle(position, feature / 2, hidden_size);
        if feature.is_multiple_of(2) { angle.sin() } else { angle.cos() }
    };
    let values = (first..first + seq_len)
        .flat_map(|position| (0..hidden_size).map(move |feature| value(position, feature)))
        .collect();
    from_f64(values, (seq_len, hidden_size), dtype, device)
}

/// Rotations of a run of positions.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `(T, d/2)`.
    cos: Tensor,
    /// `(T, d/2)`.
    sin: Tensor,
}

impl Rotation {
    /// Rotations for positions `first..first + seq_len` and heads of even size `d`.
    pub(crate) fn new(
        first: usize,
        seq_len: usize,
        head_size: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let pairs = head_size / 2;
        let table = |value: fn(f64) -> f64| {
            let values = (first..first + seq_len)
                .flat_map(|t| (0..pairs).map(move |pair| value(angle(t, pair, head_size))))
                .collect();
            from_f64(values, (seq_len, pairs), dtype, device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)? })
    }

    /// Rotates `x` `(B, N, T, d)`: feature `i` pairs with feature `i + d/2` (the order of GPT-NeoX;
    /// Su pairs neighbours, which is the same up to a permutation of the features).
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(3)? / 2;
        let (first, second) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
        let times = |x: &Tensor, factor: &Tensor| x.broadcast_mul(factor);
        let rotated = [
            (times(&first, &self.cos)? - times(&second, &self.sin)?)?,
            (times(&first, &self.sin)? + times(&second, &self.cos)?)?,
        ];
        Ok(Tensor::cat(&rotated, 3)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unroll_core::Stream;

    #[test]
    fn rotary_scores_depend_on_the_distance_alone() {
        let (cpu, dtype, steps) = (Device::Cpu, DType::F64, 6);
        let draw = |name| Stream::new(0, name).normal((1, 1, 1, 8), 1.0, dtype, &cpu).unwrap();
        let everywhere = |x: Tensor| x.broadcast_as((1, 1, steps, 8)).unwrap();
        let (q, k) = (everywhere(draw("q")), everywhere(draw("k")));
        let scores = |first| -> Vec<Vec<f64>> {
            let rotation = Rotation::new(first, steps, 8, dtype, &cpu).unwrap();
            let (q, k) = (rotation.apply(&q).unwrap(), rotation.apply(&k).unwrap());
            let scores = q.matmul(&k.transpose(2, 3).unwrap().contiguous().unwrap()).unwrap();
            scores.reshape((steps, steps)).unwrap().to_vec2().unwrap()
        };
        let (near, far) = (scores(0), scores(1000));
        for i in 0..steps {
            for j in 0..steps {
                assert!((near[i][j] - far[i][j]).abs() < 1e-11);
                if i > 0 && j > 0 {
                    assert!((near[i][j] - near[i - 1][j - 1]).abs() < 1e-13);
                }
            }
        }
        assert!((near[0][0] - near[0][1]).abs() > 1e-3, "the distance matters");
    }

    #[test]
    fn sinusoids_start_at_zero_and_one_and_continue() {
        let table = |first, steps| -> Vec<Vec<f64>> {
            sinusoidal(first, steps, 5, DType::F64, &Device::Cpu).unwrap().to_vec2().unwrap()
        };
        let whole = table(0, 7);
        assert_eq!(whole[0], [0.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(whole[3][0], 3f64.sin());
        assert!((whole[3][4] - (3.0 / 10_000f64.powf(4.0 / 5.0)).sin()).abs() < 1e-15);
        assert_eq!(table(3, 4), whole[3..]);
    }
}
