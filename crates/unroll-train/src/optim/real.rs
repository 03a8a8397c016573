//! The element types of the CPU passes.

use std::ops::{Add, Div, Mul, Sub};

/// `f32` or `f64`.
pub(crate) trait Real:
    Copy
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    const ZERO: Self;
    const ONE: Self;
    const NEGATIVE_INFINITY: Self;
    const NAN: Self;

    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    /// `-bound` to `bound`.
    fn bounded(self, bound: Self) -> Self;
}

macro_rules! real {
    ($type:ty) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEGATIVE_INFINITY: Self = Self::NEG_INFINITY;
            const NAN: Self = Self::NAN;

            fn from_f64(value: f64) -> Self {
                value as Self
            }

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn sqrt(self) -> Self {
                self.sqrt()
            }

            fn exp(self) -> Self {
                self.exp()
            }

            fn bounded(self, bound: Self) -> Self {
                // Not `clamp` or `min`, which lose NaN or panic on a NaN bound.
                if self > bound {
                    bound
                } else if self < -bound {
                    -bound
                } else {
                    self
                }
            }
        }
    };
}

real!(f32);
real!(f64);
