//! Denormal numbers as zeros while the kernels run.
//!
//! States and gradients that decay to nothing pass through denormal numbers, on which processors
//! are many times slower. What is lost is below 1.2e-38.

/// Flushes denormals to zero on this thread until it is dropped.
pub(super) struct FlushToZero {
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
    before: u64,
}

impl FlushToZero {
    #[cfg(target_arch = "x86_64")]
    pub(super) fn begin() -> Self {
        /// Flush results to zero, and take denormal operands as zero.
        const FLUSH: u32 = 1 << 15 | 1 << 6;
        let mut before = 0u32;
        // SAFETY: stores the control register to, and loads it from, a local variable; SSE is part
        // of x86-64. Rounding and exception masks stay as they are.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack));
            let flushing = before | FLUSH;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const flushing, options(nostack));
        }
        Self { before: before.into() }
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn begin() -> Self {
        let before: u64;
        // SAFETY: reads and writes this thread's floating-point control register; only its
        // flush-to-zero bit changes.
        unsafe {
            std::arch::asm!("mrs {}, fpcr", out(reg) before, options(nomem, nostack));
            std::arch::asm!("msr fpcr, {}", in(reg) before | 1 << 24, options(nomem, nostack));
        }
        Self { before }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn begin() -> Self {
        Self { before: 0 }
    }
}

impl Drop for FlushToZero {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            let before = self.before as u32;
            // SAFETY: loads the value that the register had before.
            unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const before, options(nostack)) };
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: writes the value that the register had before.
        unsafe {
            std::arch::asm!("msr fpcr, {}", in(reg) self.before, options(nomem, nostack));
        }
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn denormals_are_zero_only_inside() {
        let half = |x: f32| black_box(black_box(x) * 0.5);
        assert!(half(f32::MIN_POSITIVE) > 0.0);
        {
            let _flush = FlushToZero::begin();
            assert_eq!(half(f32::MIN_POSITIVE), 0.0);
        }
        assert!(half(f32::MIN_POSITIVE) > 0.0);
    }
}
