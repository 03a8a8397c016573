//! Faults on purpose, in test builds alone (the feature `planted`): what benchmarks and gates have to
//! find. Nothing of this is in the product.
//!
//! | variable | does |
//! |---|---|
//! | `UNROLL_PLANTED_SLOWDOWN=0.05` | the forward pass of recurrent layers takes 5 % longer |
//! | `UNROLL_PLANTED_PASS=1` | and reads as many numbers as there are gates once more |

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::Instant;

fn variable(name: &'static str, value: &'static OnceLock<f64>) -> f64 {
    *value
        .get_or_init(|| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0))
}

/// Waits, busily, until the asked share of the time since `begin` has passed on top.
pub(crate) fn slow_down(begin: Instant) {
    static SHARE: OnceLock<f64> = OnceLock::new();
    let share = variable("UNROLL_PLANTED_SLOWDOWN", &SHARE);
    let end = begin.elapsed().mul_f64(1.0 + share.max(0.0));
    while begin.elapsed() < end {
        std::hint::spin_loop();
    }
}

/// Reads `output` four times, as often as an LSTM has gates.
pub(crate) fn extra_pass(output: &[f32]) {
    static WANTED: OnceLock<f64> = OnceLock::new();
    if variable("UNROLL_PLANTED_PASS", &WANTED) > 0.0 {
        for _ in 0..4 {
            black_box(black_box(output).iter().map(|value| value * value).sum::<f32>());
        }
    }
}
