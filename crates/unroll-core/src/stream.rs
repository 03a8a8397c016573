//! Named streams of random numbers.
//!
//! A stream is a pure function of `(seed, purpose, step)`. Nothing else enters: not the clock, not
//! the number of threads, not how many numbers another stream has given. A run can therefore be
//! split, resumed or replayed and draws the same numbers.

use candle_core::{DType, Device, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::Result;

/// A named source of random numbers, from which [`Stream::rng`] makes generators.
///
/// ```
/// use unroll_core::Stream;
/// let stream = Stream::new(7, "train/batches");
/// assert_eq!(stream.at(3).rng().uniform(), stream.at(3).rng().uniform());
/// assert_ne!(stream.at(3).rng().uniform(), stream.at(4).rng().uniform());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    seed: u64,
    purpose: String,
    step: u64,
}

impl Stream {
    /// The stream named `purpose` under `seed`, at step 0.
    pub fn new(seed: u64, purpose: impl Into<String>) -> Self {
        Self { seed, purpose: purpose.into(), step: 0 }
    }

    /// The same stream at another step (training step, epoch, example, ...).
    #[must_use]
    pub fn at(&self, step: u64) -> Self {
        Self { step, ..self.clone() }
    }

    /// A stream below this one: its name is this stream's name, `/` and `purpose`.
    #[must_use]
    pub fn child(&self, purpose: &str) -> Self {
        Self { purpose: format!("{}/{purpose}", self.purpose), ..self.clone() }
    }

    /// The seed that the stream was made with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A generator at the beginning of the stream.
    pub fn rng(&self) -> StreamRng {
        let mut hasher = blake3::Hasher::new_derive_key("unroll random stream v1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.step.to_le_bytes());
        hasher.update(self.purpose.as_bytes());
        StreamRng {
            inner: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()),
            spare_normal: None,
        }
    }

    /// A tensor with independent entries uniform in `[low, high)`.
    pub fn uniform(
        &self,
        shape: impl Into<Shape>,
        low: f64,
        high: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut rng = self.rng();
        filled(shape, dtype, device, || rng.uniform_in(low, high))
    }

    /// A tensor with independent normal entries of mean 0 and standard deviation `std`.
    pub fn normal(
        &self,
        shape: impl Into<Shape>,
        std: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut rng = self.rng();
        filled(shape, dtype, device, || rng.normal() * std)
    }

    /// A dropout mask: 0 with probability `p`, else `1 / (1 - p)`.
    pub fn dropout_mask(
        &self,
        shape: impl Into<Shape>,
        p: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut rng = self.rng();
        let keep = 1.0 / (1.0 - p);
        filled(shape, dtype, device, || if rng.uniform() < p { 0.0 } else { keep })
    }
}

fn filled(
    shape: impl Into<Shape>,
    dtype: DType,
    device: &Device,
    mut draw: impl FnMut() -> f64,
) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.elem_count();
    // f32 values are drawn in f64 and rounded, so that both types follow the same path.
    let tensor = match dtype {
        DType::F64 => Tensor::from_vec((0..count).map(|_| draw()).collect(), shape, device)?,
        _ => {
            let values: Vec<f32> = (0..count).map(|_| draw() as f32).collect();
            Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?
        }
    };
    Ok(tensor)
}

/// Generator of one stream. Every method draws from the same sequence of 64-bit words.
#[derive(Debug, Clone)]
pub struct StreamRng {
    inner: ChaCha8Rng,
    spare_normal: Option<f64>,
}

impl StreamRng {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..bound`, without bias (Lemire 2019). `bound` 0 gives 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        if bound == 0 {
            return 0;
        }
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as usize;
            }
        }
    }

    /// Standard normal (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Permutes the items, every order equally likely (Fisher & Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// `count` distinct numbers of `0..bound` in random order; all of them when `count >= bound`.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut pool: Vec<usize> = (0..bound).collect();
        let count = count.min(bound);
        for index in 0..count {
            let other = index + self.below(bound - index);
            pool.swap(index, other);
        }
        pool.truncate(count);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are part of every published result: they must never change.
    #[test]
    fn streams_are_golden() {
        let words: Vec<u64> = {
            let mut rng = Stream::new(1, "golden").at(2).rng();
            (0..3).map(|_| rng.bits()).collect()
        };
        assert_eq!(words, GOLDEN, "the definition of the random streams changed");
    }
    const GOLDEN: [u64; 3] = [4599787258999496301, 13148226454091023085, 12504476355126827422];

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let mut rng = Stream::new(0, "moments").rng();
        let n = 200_000;
        let uniform: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
        let mean = uniform.iter().sum::<f64>() / f64::from(n);
        assert!((mean - 0.5).abs() < 3e-3, "{mean}");
        let normal: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = normal.iter().sum::<f64>() / f64::from(n);
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 1e-2 && (variance - 1.0).abs() < 2e-2);
    }

    #[test]
    fn below_is_even_and_distinct_is_distinct() {
        let mut rng = Stream::new(0, "below").rng();
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[rng.below(7)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
        let mut drawn = rng.distinct(10, 12);
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn.len(), 10);
        assert_eq!(rng.distinct(5, 3).len(), 3);
    }
}
