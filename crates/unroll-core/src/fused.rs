//! From the shared layer arguments to the kernels' recurrent operation.

use candle_core::{DType, Device, Tensor};
use unroll_kernels::{CellKind, Layer};

use crate::Result;
use crate::recurrent::{CellState, LayerArgs};

/// Whether one-pass operations written for the CPU may be used: see [`unroll_kernels::supports`].
pub fn supports(device: &Device, dtype: DType) -> bool {
    unroll_kernels::supports(device, dtype)
}

/// Runs a layer as one fused operation; `None` where the kernels do not support the device or type.
pub fn run(kind: CellKind, args: &LayerArgs<'_>) -> Result<Option<(Tensor, CellState)>> {
    if !unroll_kernels::supports_layer(args.input.device(), args.input.dtype(), kind) {
        return Ok(None);
    }
    let output = unroll_kernels::layer(&Layer {
        kind,
        input: args.input,
        weight_ih: &args.weights.weight_ih,
        weight_hh: &args.weights.weight_hh,
        bias_ih: args.weights.bias_ih.as_ref(),
        bias_hh: args.weights.bias_hh.as_ref(),
        hidden: &args.initial.hidden,
        cell: args.initial.cell.as_ref(),
        probe_hidden: args.probe_hidden,
        probe_cell: args.probe_cell,
        lengths: args.lengths.map(crate::Lengths::as_slice),
        reverse: args.reverse,
    })?;
    Ok(Some((output.output, CellState { hidden: output.hidden, cell: output.cell })))
}
