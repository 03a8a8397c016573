//! Times of fused attention: `cargo run --release -p unroll-kernels --example attention_speed`.
//!
//! Prints, for some shapes, the shortest of many forward passes and of many training steps (forward
//! and backward) in milliseconds.

use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor, Var};
use unroll_kernels::attention::{AttentionArgs, Mask, attention};

/// The shortest of as many runs as fit into a second and a half.
fn shortest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < Duration::from_millis(1500) {
        let run_start = Instant::now();
        run()?;
        best = best.min(run_start.elapsed().as_secs_f64());
    }
    Ok(best * 1e3)
}

fn main() -> Result<()> {
    println!(
        "{:>4} {:>3} {:>5} {:>4} {:>7} {:>9} {:>9}",
        "B", "N", "T", "d", "mask", "forward", "training"
    );
    let shapes = [
        (8, 4, 512, 64, Mask::None),
        (2, 4, 2048, 64, Mask::None),
        (2, 4, 2048, 64, Mask::Causal),
        (50, 4, 64, 4, Mask::Causal),
        (50, 4, 64, 8, Mask::Causal),
        (50, 4, 64, 16, Mask::Causal),
        (50, 4, 64, 16, Mask::None),
        (50, 4, 256, 16, Mask::Causal),
    ];
    for (batch, heads, steps, size, mask) in shapes {
        let draw = || Var::randn(0f32, 1.0, (batch, heads, steps, size), &Device::Cpu);
        let (queries, keys, values) = (draw()?, draw()?, draw()?);
        let weights = Tensor::randn(0f32, 1.0, (batch, heads, steps, size), &Device::Cpu)?;
        let args = AttentionArgs {
            queries: &queries,
            keys: &keys,
            values: &values,
            scale: 1.0 / (size as f64).sqrt(),
            mask,
            lengths: None,
        };
        let forward = shortest(|| attention(&args).map(drop))?;
        let training = shortest(|| {
            let loss = (attention(&args)? * &weights)?.sum_all()?;
            loss.backward().map(drop)
        })?;
        let name = format!("{mask:?}").to_lowercase();
        println!(
            "{batch:>4} {heads:>3} {steps:>5} {size:>4} {name:>7} {forward:>9.2} {training:>9.2}"
        );
    }
    Ok(())
}
