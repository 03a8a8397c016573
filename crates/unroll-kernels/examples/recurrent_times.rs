//! Times of recurrent layers, as a caller sees them: one layer through candle tensors, a training
//! step (forward, sum of the outputs, backward to the weights) and inference.
//!
//! Prints the fastest of several runs in milliseconds. Arguments select shapes by position (0 to 4)
//! and cells by name; without any, everything runs.

use std::time::{Duration, Instant};

use candle_core::{Device, Result, Tensor, Var};
use unroll_kernels::{CellKind, GruReset, GruUpdate, Layer, Nonlinearity, layer};

/// `(B, T, I, H)`.
const SHAPES: [(usize, usize, usize, usize); 5] = [
    (32, 128, 128, 256),
    (16, 64, 32, 64),
    (64, 256, 128, 512),
    (1, 512, 128, 256),
    (32, 512, 16, 128),
];

const CELLS: [(&str, CellKind, usize); 3] = [
    ("lstm", CellKind::Lstm, 4),
    ("gru", CellKind::Gru(GruReset::After, GruUpdate::KeepOld), 3),
    ("rnn", CellKind::Rnn(Nonlinearity::Tanh), 1),
];

fn fastest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 5 || (begin.elapsed() < Duration::from_millis(700) && runs < 400) {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        runs += 1;
    }
    Ok(best)
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |name: &str, all: &[&str]| {
        !wanted.iter().any(|w| all.contains(&w.as_str())) || wanted.iter().any(|w| w == name)
    };
    for (index, (batch, steps, inputs, hidden)) in SHAPES.into_iter().enumerate() {
        if !chosen(&index.to_string(), &["0", "1", "2", "3", "4"]) {
            continue;
        }
        for (name, kind, gates) in CELLS {
            if !chosen(name, &["lstm", "gru", "rnn"]) {
                continue;
            }
            let device = Device::Cpu;
            let scale = 1.0 / (hidden as f64).sqrt();
            let var = |shape: (usize, usize)| {
                Var::rand_f64(-scale, scale, shape, candle_core::DType::F32, &device)
            };
            let bias =
                || Var::rand_f64(-scale, scale, gates * hidden, candle_core::DType::F32, &device);
            let (weight_ih, weight_hh) =
                (var((gates * hidden, inputs))?, var((gates * hidden, hidden))?);
            let (bias_ih, bias_hh) = (bias()?, bias()?);
            let input = Tensor::randn(0f32, 1.0, (batch, steps, inputs), &device)?;
            let state = Tensor::zeros((batch, hidden), candle_core::DType::F32, &device)?;
            let detached =
                [&weight_ih, &weight_hh, &bias_ih, &bias_hh].map(|v| v.as_tensor().detach());
            let run = |weights: [&Tensor; 4]| {
                layer(&Layer {
                    kind,
                    input: &input,
                    weight_ih: weights[0],
                    weight_hh: weights[1],
                    bias_ih: Some(weights[2]),
                    bias_hh: Some(weights[3]),
                    hidden: &state,
                    cell: (kind == CellKind::Lstm).then_some(&state),
                    probe_hidden: None,
                    probe_cell: None,
                    lengths: None,
                    reverse: false,
                })
            };
            let train = fastest(|| {
                let out = run([&weight_ih, &weight_hh, &bias_ih, &bias_hh])?;
                out.output.sum_all()?.backward()?;
                Ok(())
            })?;
            let infer = fastest(|| {
                run(detached.each_ref())?;
                Ok(())
            })?;
            println!(
                "{batch:3} {steps:4} {inputs:4} {hidden:4} {name:5} train {train:8.2} infer {infer:8.2}"
            );
        }
    }
    Ok(())
}
