//! The two element types, and their exponential functions.

use candle_core::{CpuStorage, Result};

/// `f32` or `f64`.
pub(crate) trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// `1 / (1 + exp(-x))`.
    fn sigmoid(self) -> Self;
    /// The values of a CPU tensor.
    fn slice(storage: &CpuStorage) -> Result<&[Self]>;
    /// A CPU tensor's storage.
    fn storage(values: Vec<Self>) -> CpuStorage;
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    #[inline(always)]
    fn tanh(self) -> Self {
        Self::tanh(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + (-self).exp())
    }

    fn slice(storage: &CpuStorage) -> Result<&[Self]> {
        storage.as_slice()
    }

    fn storage(values: Vec<Self>) -> CpuStorage {
        CpuStorage::F64(values)
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;

    /// Within 3 ulp everywhere; odd, monotone to rounding, and `x` itself near 0.
    #[inline(always)]
    fn tanh(self) -> Self {
        let magnitude = self.abs();
        // Near 0 the quotient below cancels: the odd polynomial of Cephes' tanhf instead.
        let z = self * self;
        let series =
            (((-5.704_988_7e-3 * z + 2.063_909e-2) * z - 5.373_971_6e-2) * z + 0.133_314_42) * z
                - 0.333_332_8;
        let small = series * z * magnitude + magnitude;
        let decay = exp_f32(-2.0 * magnitude);
        let large = (1.0 - decay) / (1.0 + decay);
        (if magnitude < 0.625 { small } else { large }).copysign(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + exp_f32(-self))
    }

    fn slice(storage: &CpuStorage) -> Result<&[Self]> {
        storage.as_slice()
    }

    fn storage(values: Vec<Self>) -> CpuStorage {
        CpuStorage::F32(values)
    }
}

/// `exp(x)` without a branch, so that loops over it vectorise; within 2 ulp where the result is
/// normal, saturating at `exp(-87.33)` and `exp(88.37)` outside. NaN stays NaN.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts: the first has zeros at its end, so its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -87.33 { -87.33 } else { x };
    let clamped = if clamped > 88.37 { 88.37 } else { clamped };
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let polynomial =
        ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
            + 1.666_666_5e-1)
            * r
            + 0.5;
    let mantissa = polynomial * r * r + r + 1.0;
    // 2^n from its exponent bits; n lies in -126..=127.
    let power = f32::from_bits((((n + 127.0) as i32) << 23) as u32);
    mantissa * power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of the exact value.
    fn ulps(found: f32, exact: f64) -> f64 {
        let nearest = exact as f32;
        let ulp = f64::from(f32::from_bits(nearest.abs().to_bits() + 1)) - f64::from(nearest.abs());
        (f64::from(found) - exact).abs() / ulp
    }

    /// Every 4,099th float of the whole range, and every one near the branch of tanh.
    fn samples() -> impl Iterator<Item = f32> {
        let sparse = (0..u32::MAX / 4099).map(|i| f32::from_bits(i * 4099));
        let edge = 0.625f32.to_bits();
        sparse.chain((edge - 1000..edge + 1000).map(f32::from_bits)).filter(|x| x.is_finite())
    }

    #[test]
    fn tanh_and_sigmoid_are_exact_to_a_few_ulps() {
        let (mut worst_tanh, mut worst_sigmoid) = (0.0f64, 0.0f64);
        for x in samples() {
            worst_tanh = worst_tanh.max(ulps(Real::tanh(x), f64::from(x).tanh()));
            if x > -86.0 {
                let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
                worst_sigmoid = worst_sigmoid.max(ulps(Real::sigmoid(x), exact));
            } else {
                assert!((0.0..5e-38).contains(&Real::sigmoid(x)), "sigmoid({x})");
            }
        }
        assert!(worst_tanh <= 3.0, "tanh: {worst_tanh} ulp");
        assert!(worst_sigmoid <= 3.0, "sigmoid: {worst_sigmoid} ulp");
    }

    #[test]
    fn special_values() {
        assert!(Real::tanh(f32::NAN).is_nan() && Real::sigmoid(f32::NAN).is_nan());
        assert_eq!(Real::tanh(f32::INFINITY), 1.0);
        assert_eq!(Real::tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(Real::sigmoid(f32::INFINITY), 1.0);
        assert_eq!(Real::tanh(1e-30f32), 1e-30);
        assert!(Real::tanh(-0.0f32).is_sign_negative());
    }
}
