//! Instruction sets, and loops that are compiled once for each of them.
//!
//! The widest set that the processor has is chosen at run time. The loops of `multiversion` are plain
//! Rust without fused multiply-add, so that they give the same bits on all sets; the products of
//! recurrent layers (`fused`) do fuse, and differ in the last bits from set to set.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the target always has (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, DQ and BW.
    Avx512,
}

/// 0: not chosen yet; else 1 + the choice.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// All instruction sets, narrowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Name for reports: `portable`, `avx2`, `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The instruction set in use: the one that was [forced](Self::force), else the one that the
    /// environment variable `UNROLL_ISA` names (`portable`, `avx2`, `avx512`) if the processor has it, else
    /// the widest.
    pub fn current() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Self::Portable,
            2 => Self::Avx2,
            3 => Self::Avx512,
            _ => {
                let named = std::env::var("UNROLL_ISA").ok();
                let asked = |isa: &Self| named.as_deref().is_none_or(|name| isa.name() == name);
                let mut widest_first = Self::ALL.into_iter().rev().filter(|isa| isa.is_available());
                let chosen = widest_first.clone().find(asked).or_else(|| widest_first.next());
                let chosen = chosen.unwrap_or(Self::Portable);
                CHOSEN.store(1 + chosen as u8, Ordering::Relaxed);
                chosen
            }
        }
    }

    /// Uses this instruction set from now on, in the whole process; `false` (and no change) when the
    /// processor does not have it.
    pub fn force(self) -> bool {
        let available = self.is_available();
        if available {
            CHOSEN.store(1 + self as u8, Ordering::Relaxed);
        }
        available
    }
}

/// Defines a function that runs its body compiled for the instruction set in use.
macro_rules! multiversion {
    ($(#[$meta:meta])* fn $name:ident<$f:ident: $bound:ident>(
        $($arg:ident: $ty:ty),* $(,)?
    ) $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$f: $bound>($($arg: $ty),*) {
            #[inline(always)]
            fn body<$f: $bound>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
            fn avx512<$f: $bound>($($arg: $ty),*) {
                body($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2<$f: $bound>($($arg: $ty),*) {
                body($($arg),*);
            }

            match crate::isa::Isa::current() {
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                // SAFETY: `current` gives only instruction sets that the processor has.
                crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                // SAFETY: as above.
                crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;
