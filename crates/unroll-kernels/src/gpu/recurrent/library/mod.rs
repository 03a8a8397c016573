//! Recurrent layers by cuDNN: the yardstick, and what tuning falls back to where nothing here is faster.
//!
//! cuDNN takes single layers in one direction over whole sequences, without probes. Its gates are those of
//! PyTorch, in the same order; it wants all weights in one buffer of its own layout.

mod layer;

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::cudnn::sys;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, bail};

pub(crate) use self::layer::Algorithm;
use self::layer::{Key, LAYERS, Layer, answered, call, key, layer};
use super::choice::{self, Policy, backward_by, forward_by};
use super::host::{Arguments, Gradients, Incoming, Lengths, Shape, Wanted};
use crate::gpu::machine::cuda::Gpu;
use crate::gpu::machine::{Machine, Place};
use crate::gpu::tuning::{TIMES, TOLERANCE, difference};
use crate::threads::lock;

/// What forward keeps for backward.
pub(crate) struct Reserve {
    layer: Arc<Layer>,
    weights: CudaSlice<f32>,
    reserve: CudaSlice<f32>,
}

/// What forward gives.
pub(crate) struct Forward {
    pub(crate) output: CudaSlice<f32>,
    pub(crate) hidden: CudaSlice<f32>,
    pub(crate) cell: Option<CudaSlice<f32>>,
    pub(crate) kept: Option<Reserve>,
}

/// Whether cuDNN knows such a layer.
pub(crate) fn knows(args: &Arguments) -> bool {
    let cell =
        matches!((args.cell.name, args.cell.variant), ("rnn", 0 | 1) | ("gru", 0) | ("lstm", _));
    let whole = matches!(args.lengths, Lengths::All) && !args.reverse;
    cell && whole && args.probe_hidden == Place::NULL && args.probe_cell == Place::NULL
}

fn pointer(place: Place) -> *const c_void {
    place.0 as *const c_void
}

fn pointer_mut(place: Place) -> *mut c_void {
    place.0 as *mut c_void
}

/// Numbers that so many bytes take.
fn numbers(bytes: usize) -> usize {
    bytes.div_ceil(4).max(1)
}

/// Runs a layer forward.
pub(crate) fn forward(
    gpu: &Gpu,
    args: &Arguments,
    algorithm: Algorithm,
    keep: bool,
) -> Result<Forward> {
    let layer = layer(gpu, args, algorithm)?;
    let Shape { batch, steps, hidden, .. } = args.shape;
    let weights = gpu.allocate(numbers(layer.weight_bytes))?;
    let ours = [args.weight_ih, args.weight_hh, args.bias_ih, args.bias_hh];
    let space = gpu.place(&weights);
    for piece in &layer.pieces {
        gpu.copy(ours[piece.part].offset(piece.from), space.offset(piece.to), piece.len)?;
    }
    let mode = if keep {
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_TRAINING
    } else {
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_INFERENCE
    };
    let (mut work_bytes, mut reserve_bytes) = (0, 0);
    let one_at_a_time = lock(&LAYERS);
    call!(cudnnGetRNNTempSpaceSizes(
        layer.library.0,
        layer.rnn.0,
        mode,
        layer.x.0,
        &raw mut work_bytes,
        &raw mut reserve_bytes,
    ))?;
    let work = gpu.allocate(numbers(work_bytes))?;
    let reserve = gpu.allocate(numbers(reserve_bytes))?;
    let output = gpu.allocate(batch * steps * hidden)?;
    let last = gpu.allocate(batch * hidden)?;
    let cell = if args.cell.has_cell { Some(gpu.allocate(batch * hidden)?) } else { None };
    let last_cell = cell.as_ref().map_or(Place::NULL, |cell| gpu.place(cell));
    let lengths = pointer(gpu.place_of(&layer.lengths, 0));
    gpu.bind()?;
    call!(cudnnRNNForward(
        layer.library.0,
        layer.rnn.0,
        mode,
        lengths.cast(),
        layer.x.0,
        pointer(args.input),
        layer.y.0,
        pointer_mut(gpu.place(&output)),
        layer.state.0,
        pointer(args.hidden),
        pointer_mut(gpu.place(&last)),
        layer.state.0,
        pointer(args.cell_state),
        pointer_mut(last_cell),
        layer.weight_bytes,
        pointer(space),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&reserve)),
    ))?;
    drop(one_at_a_time);
    let kept = keep.then_some(Reserve { layer, weights, reserve });
    Ok(Forward { output, hidden: last, cell, kept })
}

/// Runs a layer backward. Uses up what forward kept.
pub(crate) fn backward(
    gpu: &Gpu,
    args: &Arguments,
    kept: &Reserve,
    from: &Incoming,
    wanted: Wanted,
) -> Result<Gradients<CudaSlice<f32>>> {
    let layer = &kept.layer;
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let (mut work_bytes, mut reserve_bytes) = (0, 0);
    let one_at_a_time = lock(&LAYERS);
    call!(cudnnGetRNNTempSpaceSizes(
        layer.library.0,
        layer.rnn.0,
        sys::cudnnForwardMode_t::CUDNN_FWD_MODE_TRAINING,
        layer.x.0,
        &raw mut work_bytes,
        &raw mut reserve_bytes,
    ))?;
    let work = gpu.allocate(numbers(work_bytes))?;
    let grad_input = gpu.allocate(batch * steps * inputs)?;
    let grad_hidden = gpu.allocate(batch * hidden)?;
    let grad_cell = if args.cell.has_cell { Some(gpu.allocate(batch * hidden)?) } else { None };
    let to_cell = grad_cell.as_ref().map_or(Place::NULL, |cell| gpu.place(cell));
    let lengths = pointer(gpu.place_of(&layer.lengths, 0));
    gpu.bind()?;
    call!(cudnnRNNBackwardData_v8(
        layer.library.0,
        layer.rnn.0,
        lengths.cast(),
        layer.y.0,
        pointer(from.output),
        pointer(from.grad_output),
        layer.x.0,
        pointer_mut(gpu.place(&grad_input)),
        layer.state.0,
        pointer(args.hidden),
        pointer(from.grad_hidden),
        pointer_mut(gpu.place(&grad_hidden)),
        layer.state.0,
        pointer(args.cell_state),
        pointer(from.grad_cell),
        pointer_mut(to_cell),
        layer.weight_bytes,
        pointer(gpu.place(&kept.weights)),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&kept.reserve)),
    ))?;
    let mut found = Gradients {
        input: wanted.input.then_some(grad_input),
        weight_ih: None,
        weight_hh: None,
        bias_ih: None,
        bias_hh: None,
        hidden: grad_hidden,
        cell: grad_cell,
        probe_hidden: None,
        probe_cell: None,
    };
    if !(wanted.weight_ih || wanted.weight_hh || wanted.biases) {
        return Ok(found);
    }
    let sums = gpu.allocate(numbers(layer.weight_bytes))?;
    // cuDNN adds.
    gpu.zero(gpu.place(&sums), numbers(layer.weight_bytes))?;
    call!(cudnnRNNBackwardWeights_v8(
        layer.library.0,
        layer.rnn.0,
        sys::cudnnWgradMode_t::CUDNN_WGRAD_MODE_ADD,
        lengths.cast(),
        layer.x.0,
        pointer(args.input),
        layer.state.0,
        pointer(args.hidden),
        layer.y.0,
        pointer(from.output),
        layer.weight_bytes,
        pointer_mut(gpu.place(&sums)),
        work_bytes,
        pointer_mut(gpu.place(&work)),
        reserve_bytes,
        pointer_mut(gpu.place(&kept.reserve)),
    ))?;
    drop(one_at_a_time);
    let width = args.cell.gates * hidden;
    let collected = |part: usize, len: usize| -> Result<Option<CudaSlice<f32>>> {
        let to = gpu.allocate(len)?;
        for piece in layer.pieces.iter().filter(|piece| piece.part == part) {
            let (from, to) = (gpu.place(&sums).offset(piece.to), gpu.place(&to));
            gpu.copy(from, to.offset(piece.from), piece.len)?;
        }
        Ok(Some(to))
    };
    if wanted.weight_ih {
        found.weight_ih = collected(0, width * inputs)?;
    }
    if wanted.weight_hh {
        found.weight_hh = collected(1, width * hidden)?;
    }
    if wanted.biases && args.bias_ih != Place::NULL {
        found.bias_ih = collected(2, width)?;
        found.bias_hh = collected(3, width)?;
    }
    Ok(found)
}

/// What was measured, once in the process.
static MEASURED: Mutex<BTreeMap<(Key, bool), (Option<Algorithm>, String)>> =
    Mutex::new(BTreeMap::new());

/// How cuDNN runs a layer, if it does: where it knows it, and `UNROLL_GPU_RECURRENT` says so, or tuning found it
/// faster than what is here.
pub(crate) fn wins(gpu: &Gpu, args: &Arguments, keep: bool) -> Result<Option<Algorithm>> {
    match choice::policy()? {
        Policy::Library if knows(args) => Ok(Some(Algorithm::Standard)),
        Policy::Tuned if knows(args) => measured(gpu, args, keep),
        _ => Ok(None),
    }
}

/// What tuning found: one line for each layer, with microseconds per step.
pub(crate) fn findings() -> Vec<String> {
    lock(&MEASURED).values().map(|(_, line)| line.clone()).collect()
}

const ALL: Wanted = Wanted {
    input: true,
    weight_ih: true,
    weight_hh: true,
    biases: true,
    probe_hidden: false,
    probe_cell: false,
};

/// The output, and with backward the gradient of the weights.
type Found = [Option<CudaSlice<f32>>; 2];

/// Times ours and each algorithm of cuDNN's, forward alone or with backward. What cuDNN refuses or finds different
/// is not used.
fn measured(gpu: &Gpu, args: &Arguments, keep: bool) -> Result<Option<Algorithm>> {
    let key = (key(gpu, args, None), keep);
    if let Some((best, _)) = lock(&MEASURED).get(&key) {
        return Ok(*best);
    }
    // The output's gradient is the output: any will do.
    let incoming = |output: &CudaSlice<f32>| Incoming {
        output: gpu.place(output),
        grad_output: gpu.place(output),
        grad_hidden: Place::NULL,
        grad_cell: Place::NULL,
    };
    let ours = || -> Result<Found> {
        let found = forward_by(Policy::Tuned, gpu, args)?;
        if !keep {
            return Ok([Some(found.output), None]);
        }
        let from = incoming(&found.output);
        let back = backward_by(Policy::Tuned, gpu, args, found.kept, &from, ALL)?;
        Ok([Some(found.output), back.weight_hh])
    };
    let theirs = |algorithm: Algorithm| -> Result<Found> {
        let found = forward(gpu, args, algorithm, keep)?;
        let Some(kept) = &found.kept else { return Ok([Some(found.output), None]) };
        let back = backward(gpu, args, kept, &incoming(&found.output), ALL)?;
        Ok([Some(found.output), back.weight_hh])
    };
    let time = |run: &dyn Fn() -> Result<Found>| -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..TIMES {
            least = least.min(gpu.time(&|| run().map(|_| ()))?);
        }
        Ok(least / args.shape.steps as f64)
    };
    let expected = ours()?;
    let mut best = (time(&ours)?, None);
    let mut said = vec![format!("of ours {:.2} us", best.0 * 1e6)];
    for algorithm in Algorithm::ALL {
        let run = || theirs(algorithm);
        let seconds = run().and_then(|found| {
            for (expected, found) in expected.iter().zip(&found) {
                if let (Some(expected), Some(found)) = (expected, found)
                    && let Some(off) =
                        difference(&gpu.read(expected)?, &gpu.read(found)?, TOLERANCE)
                {
                    bail!("differs by {off}");
                }
            }
            time(&run)
        });
        said.push(match seconds {
            Ok(seconds) => {
                if seconds < best.0 {
                    best = (seconds, Some(algorithm));
                }
                format!("cudnn ({}) {:.2} us", algorithm.name(), seconds * 1e6)
            }
            Err(error) => {
                let reason = error.to_string();
                // After a fault nothing on this device can be believed.
                if let Err(error) = gpu.alive() {
                    bail!("cudnn cannot run ({reason}), and nothing after it: {error}");
                }
                let reason = reason.lines().next().unwrap_or_default();
                format!("cudnn ({}) not usable: {reason}", algorithm.name())
            }
        });
    }
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let line = format!(
        "{} {} B={batch} H={hidden}{}: {} at T={steps} I={inputs}, {}",
        args.cell.name,
        if keep { "training" } else { "inference" },
        if gpu.tf32() { " tf32" } else { "" },
        best.1.map_or_else(|| "ours".into(), |algorithm| format!("cudnn ({})", algorithm.name())),
        said.join("; "),
    );
    lock(&MEASURED).insert(key, (best.1, line));
    Ok(best.1)
}
