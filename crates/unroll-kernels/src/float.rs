//! What the attention, normalisation and activation loops need of an element type beyond [`Real`].

use crate::real::Real;

/// Elements per vector that the loops are written for: one AVX-512 register of `f32`. Narrower
/// instruction sets use several registers, so that sums add up in the same order on all of them.
pub(crate) const LANES: usize = 16;

/// `f32` or `f64` with division, exponential, square root and error function.
pub(crate) trait Float:
    Real + std::ops::Div<Output = Self> + std::ops::MulAssign + candle_core::WithDType
{
    /// Minus infinity.
    const LOWEST: Self;
    /// `exp(x)` for `x <= 0` or near it; exactly 0 where the result would be below the normal
    /// numbers, and for minus infinity.
    fn exp(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Error function.
    fn erf(self) -> Self;
    /// The nearest value.
    fn from_double(value: f64) -> Self;
}

impl Float for f64 {
    const LOWEST: Self = Self::NEG_INFINITY;

    #[inline(always)]
    fn exp(self) -> Self {
        Self::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self::sqrt(self)
    }

    #[inline(always)]
    fn erf(self) -> Self {
        candle_core::cpu::erf::erf_f64(self)
    }

    fn from_double(value: f64) -> Self {
        value
    }
}

impl Float for f32 {
    const LOWEST: Self = Self::NEG_INFINITY;

    /// Without a branch, so that loops over it vectorise; within 2 ulp where the result is normal.
    /// NaN stays NaN; above 88 it saturates.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOG2_E: f32 = std::f32::consts::LOG2_E;
        // ln 2 in two parts: the first has zeros at its end, so its product with n is exact.
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        const SMALLEST: f32 = -87.33;
        let clamped = if self < SMALLEST { SMALLEST } else { self };
        let clamped = if clamped > 88.37 { 88.37 } else { clamped };
        let shifted = clamped * LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
        // Cephes' expf.
        let polynomial =
            ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r
                + 1.666_666_5e-1)
                * r
                + 0.5;
        let mantissa = polynomial * r * r + r + 1.0;
        // 2^n from its exponent bits: the shift drops all of `shifted` but n.
        let power = Self::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if self < SMALLEST { 0.0 } else { mantissa * power }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self::sqrt(self)
    }

    /// A rational function without a branch (that of Eigen and XLA), within 6e-7 everywhere.
    #[inline(always)]
    fn erf(self) -> Self {
        let clamped = if self < -4.0 { -4.0 } else { self };
        let x = if clamped > 4.0 { 4.0 } else { clamped };
        let z = x * x;
        let numerator = (((((-2.726_142_3e-10 * z + 2.770_681_4e-8) * z - 2.101_024e-6) * z
            - 5.692_506_5e-5)
            * z
            - 7.349_906_3e-4)
            * z
            - 2.954_6e-3)
            * z
            - 1.609_603_3e-2;
        let denominator =
            (((-1.456_607_2e-5 * z - 2.133_740_6e-4) * z - 1.682_827e-3) * z - 7.373_329e-3) * z
                - 1.426_473_9e-2;
        x * numerator / denominator
    }

    fn from_double(value: f64) -> Self {
        value as Self
    }
}

/// Sum of lanes, always in the same order.
#[inline(always)]
pub(crate) fn sum_of<F: Float>(mut lanes: [F; LANES]) -> F {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_exact_to_two_ulps_and_flushes_to_zero() {
        let mut worst = 0.0f64;
        for i in 0..1_000_000u32 {
            let x = -87.0 * (i as f32 / 1e6);
            let exact = f64::from(x).exp();
            let nearest = exact as f32;
            let ulp = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
            worst = worst.max((f64::from(Float::exp(x)) - exact).abs() / ulp);
        }
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(Float::exp(0.0f32), 1.0);
        assert_eq!(Float::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Float::exp(-1e4f32), 0.0);
        assert!(Float::exp(f32::NAN).is_nan());
    }

    #[test]
    fn error_function_is_exact_to_rounding() {
        for i in -600_000..600_000 {
            let x = i as f32 / 1e5;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            let error = (f64::from(Float::erf(x)) - exact).abs();
            assert!(error <= 6e-7, "erf({x}): {error:e}");
            // Relative where erf is small.
            assert!(error <= 1e-6 * exact.abs().max(1e-30), "erf({x}): {error:e}");
        }
        assert!(Float::erf(f32::NAN).is_nan());
    }
}
