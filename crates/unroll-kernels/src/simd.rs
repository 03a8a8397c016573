//! Vectors of f32, one type per instruction set, and how code is compiled for each of them.
//!
//! A [`Task`] is written once over [`Simd`]; [`Simd::enter`] runs it in a function that is compiled
//! for the instruction set, into which all of it is inlined.

/// A computation over vectors of any width.
pub(crate) trait Task {
    /// Runs it. Implementations are `#[inline(always)]`, so that [`Simd::enter`] compiles them for
    /// its instruction set.
    ///
    /// # Safety
    /// The processor has `V`'s instruction set, and the task's own pointers are as it says.
    unsafe fn run<V: Simd>(self);
}

/// A vector of f32. All methods need the type's instruction set on this processor.
#[allow(clippy::missing_safety_doc)] // Said once, above.
pub(crate) trait Simd: Copy {
    /// Elements.
    const LANES: usize;
    /// Runs a task compiled for this instruction set.
    unsafe fn enter<T: Task>(task: T);
    unsafe fn splat(value: f32) -> Self;
    /// Reads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` elements.
    unsafe fn store(self, to: *mut f32);
    /// Reads the first `count < LANES` elements; the others are zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    /// Writes the first `count < LANES` elements.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once where the instruction set can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger one; `self` when it is NaN.
    unsafe fn at_least(self, low: Self) -> Self;
    /// The smaller one; `self` when it is NaN.
    unsafe fn at_most(self, high: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn with_sign_of(self, sign: Self) -> Self;
    /// Where `self < bound` the element of `yes`, else of `no`.
    unsafe fn where_below(self, bound: Self, yes: Self, no: Self) -> Self;
    /// `2^n` for whole `n` from -126 to 127.
    unsafe fn power_of_two(n: Self) -> Self;
    /// The sum of all elements, always in the same order.
    unsafe fn sum(self) -> f32;

    /// Reads `count <= LANES` elements.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's contract is the callees'.
        unsafe {
            if count == Self::LANES { Self::load(from) } else { Self::load_part(from, count) }
        }
    }

    /// Writes `count <= LANES` elements.
    #[inline(always)]
    unsafe fn store_up_to(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's contract is the callees'.
        unsafe { if count == Self::LANES { self.store(to) } else { self.store_part(to, count) } }
    }

    /// `exp(x)` within 2 ulp, saturating at `exp(-87.33)` and `exp(88.37)`; NaN stays NaN.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // SAFETY: the caller's contract is the callees'.
        unsafe {
            let c = |value| Self::splat(value);
            // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
            let round = c(12_582_912.0);
            let x = self.at_least(c(-87.33)).at_most(c(88.37));
            let n = x.mul_add(c(std::f32::consts::LOG2_E), round).sub(round);
            // ln 2 in two parts: the first has zeros at its end, so its product with n is exact.
            let r = n.mul_add(c(-0.693_359_4), x);
            let r = n.mul_add(c(2.121_944_4e-4), r);
            let p = c(1.987_569_1e-4).mul_add(r, c(1.398_199_9e-3));
            let p = p.mul_add(r, c(8.333_452e-3));
            let p = p.mul_add(r, c(4.166_579_6e-2));
            let p = p.mul_add(r, c(1.666_666_5e-1));
            let p = p.mul_add(r, c(0.5));
            let mantissa = p.mul_add(r.mul(r), r).add(c(1.0));
            mantissa.mul(Self::power_of_two(n))
        }
    }

    /// `1 / (1 + exp(-x))` within 3 ulp.
    #[inline(always)]
    unsafe fn sigmoid(self) -> Self {
        // SAFETY: the caller's contract is the callees'.
        unsafe {
            let one = Self::splat(1.0);
            one.div(one.add(Self::splat(0.0).sub(self).exp()))
        }
    }

    /// `tanh(x)` within 3 ulp; odd.
    #[inline(always)]
    unsafe fn tanh(self) -> Self {
        // SAFETY: the caller's contract is the callees'.
        unsafe {
            let c = |value| Self::splat(value);
            let magnitude = self.abs();
            // Near 0 the quotient below cancels: the odd polynomial of Cephes' tanhf instead.
            let z = self.mul(self);
            let series = c(-5.704_988_7e-3).mul_add(z, c(2.063_909e-2));
            let series = series.mul_add(z, c(-5.373_971_6e-2));
            let series = series.mul_add(z, c(0.133_314_42));
            let series = series.mul_add(z, c(-0.333_332_8));
            let small = series.mul(z).mul_add(magnitude, magnitude);
            let decay = c(-2.0).mul(magnitude).exp();
            let large = c(1.0).sub(decay).div(c(1.0).add(decay));
            magnitude.where_below(c(0.625), small, large).with_sign_of(self)
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Simd, Task};

    /// 16 lanes; needs AVX-512 F and DQ.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    /// 8 lanes; needs AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    // SAFETY of all blocks below: the trait's contract gives the instruction set, and pointers with
    // as many elements as are read or written.
    impl Simd for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn enter<T: Task>(task: T) {
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
            unsafe fn compiled<T: Task>(task: T) {
                // SAFETY: see the head of this implementation.
                unsafe { task.run::<Avx512>() }
            }
            // SAFETY: as above.
            unsafe { compiled(task) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Self(_mm512_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm512_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            unsafe { Self(_mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, from)) }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Self(_mm512_div_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn at_least(self, low: Self) -> Self {
            // The instruction gives its second operand when either is NaN.
            unsafe { Self(_mm512_max_ps(low.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm512_min_ps(high.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            unsafe { Self(_mm512_abs_ps(self.0)) }
        }
        #[inline(always)]
        unsafe fn with_sign_of(self, sign: Self) -> Self {
            unsafe {
                let bit = _mm512_set1_ps(-0.0);
                Self(_mm512_or_ps(_mm512_andnot_ps(bit, self.0), _mm512_and_ps(bit, sign.0)))
            }
        }
        #[inline(always)]
        unsafe fn where_below(self, bound: Self, yes: Self, no: Self) -> Self {
            unsafe {
                let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
                Self(_mm512_mask_blend_ps(below, no.0, yes.0))
            }
        }
        #[inline(always)]
        unsafe fn power_of_two(n: Self) -> Self {
            unsafe {
                let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.0), _mm512_set1_epi32(127));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(self.0);
                Avx2(_mm256_add_ps(_mm512_castps512_ps256(self.0), high)).sum()
            }
        }
    }

    /// A mask of the first `count` lanes.
    #[inline(always)]
    unsafe fn first_lanes(count: usize) -> __m256i {
        static ONES_THEN_ZEROS: [i32; 16] =
            [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: `count <= 8`, so that 8 elements follow element `8 - count`.
        unsafe { _mm256_loadu_si256(ONES_THEN_ZEROS.as_ptr().add(8 - count).cast()) }
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn enter<T: Task>(task: T) {
            #[target_feature(enable = "avx2,fma")]
            unsafe fn compiled<T: Task>(task: T) {
                // SAFETY: see the head of the implementation for AVX-512.
                unsafe { task.run::<Avx2>() }
            }
            // SAFETY: as above.
            unsafe { compiled(task) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Self(_mm256_set1_ps(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(from)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> Self {
            unsafe { Self(_mm256_maskload_ps(from, first_lanes(count))) }
        }
        #[inline(always)]
        unsafe fn store_part(self, to: *mut f32, count: usize) {
            unsafe { _mm256_maskstore_ps(to, first_lanes(count), self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(_mm256_add_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn sub(self, other: Self) -> Self {
            unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Self(_mm256_div_ps(self.0, other.0)) }
        }
        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
        }
        #[inline(always)]
        unsafe fn at_least(self, low: Self) -> Self {
            // The instruction gives its second operand when either is NaN.
            unsafe { Self(_mm256_max_ps(low.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn at_most(self, high: Self) -> Self {
            unsafe { Self(_mm256_min_ps(high.0, self.0)) }
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            unsafe { Self(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)) }
        }
        #[inline(always)]
        unsafe fn with_sign_of(self, sign: Self) -> Self {
            unsafe {
                let bit = _mm256_set1_ps(-0.0);
                Self(_mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0)))
            }
        }
        #[inline(always)]
        unsafe fn where_below(self, bound: Self, yes: Self, no: Self) -> Self {
            unsafe {
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
                Self(_mm256_blendv_ps(no.0, yes.0, below))
            }
        }
        #[inline(always)]
        unsafe fn power_of_two(n: Self) -> Self {
            unsafe {
                let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let high = _mm256_extractf128_ps::<1>(self.0);
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), high);
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }
}

/// Four lanes of plain Rust, which every target's compiler turns into vectors.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY of all blocks below: the trait's contract gives pointers with as many elements as are read
// or written. No instruction set beyond the target's is used.
impl Simd for Portable {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) {
        #[inline(never)]
        unsafe fn compiled<T: Task>(task: T) {
            // SAFETY: see the head of this implementation.
            unsafe { task.run::<Portable>() }
        }
        // SAFETY: as above.
        unsafe { compiled(task) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(from.cast::<[f32; 4]>().read()) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; 4]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        Self(std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        for (i, value) in self.0.into_iter().enumerate().take(count) {
            unsafe { *to.add(i) = value }
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Without the instruction `f32::mul_add` is a slow call.
        Self(std::array::from_fn(|i| {
            if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                self.0[i].mul_add(factor.0[i], addend.0[i])
            } else {
                self.0[i] * factor.0[i] + addend.0[i]
            }
        }))
    }
    #[inline(always)]
    unsafe fn at_least(self, low: Self) -> Self {
        self.zip(low, |x, low| if x < low { low } else { x })
    }
    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        self.zip(high, |x, high| if x > high { high } else { x })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn with_sign_of(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    unsafe fn where_below(self, bound: Self, yes: Self, no: Self) -> Self {
        Self(std::array::from_fn(|i| if self.0[i] < bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    unsafe fn power_of_two(n: Self) -> Self {
        // `as` saturates, which the compiler cannot turn into one instruction; adding 1.5 * 2^23
        // leaves the integer in the low bits instead.
        Self(n.0.map(|n| f32::from_bits(((n + (12_582_912.0 + 127.0)).to_bits()) << 23)))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }
}
