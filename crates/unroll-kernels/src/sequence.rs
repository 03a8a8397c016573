//! The loop over time, forward and backward, written once for all cells.

use rayon::prelude::*;

use crate::buffers::{Dims, TimeOrder};
use crate::product::{Matrix, Threads, multiply, transposed};
use crate::real::Real;

/// A layer's parameters as they are stored, row by row.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a, F> {
    /// `(G*H, I)`.
    pub(crate) weight_ih: &'a [F],
    /// `(G*H, H)`.
    pub(crate) weight_hh: &'a [F],
    /// `(G*H,)`, or empty.
    pub(crate) bias_ih: &'a [F],
    /// `(G*H,)`, or empty.
    pub(crate) bias_hh: &'a [F],
}

/// The recurrent weights as the steps use them.
pub(crate) struct Recurrent<'a, F> {
    /// `(G*H, H)`.
    pub(crate) weight: &'a [F],
    /// `(H, G*H)`: its transpose, so that forward products read rows.
    pub(crate) transposed: Vec<F>,
    /// `(G*H,)`, or empty.
    pub(crate) bias: &'a [F],
    /// `H`.
    pub(crate) hidden: usize,
}

/// What a cell reads and writes at one forward step of one chunk.
pub(crate) struct ForwardStep<'a, F> {
    pub(crate) step: usize,
    /// Real length of each row's sequence.
    pub(crate) lengths: &'a [usize],
    /// `(rows, G*H)`: holds the projected input and the biases; becomes the activated gates.
    pub(crate) gates: &'a mut [F],
    /// `(rows, H)`: what else backward needs.
    pub(crate) extra: &'a mut [F],
    pub(crate) hidden_before: &'a [F],
    pub(crate) hidden: &'a mut [F],
    pub(crate) cell_before: &'a [F],
    pub(crate) cell: &'a mut [F],
    /// `(rows, H)` added to the cell state, or empty.
    pub(crate) probe_cell: &'a [F],
}

/// What a cell reads and writes at one backward step of one chunk.
pub(crate) struct BackwardStep<'a, F> {
    pub(crate) step: usize,
    pub(crate) lengths: &'a [usize],
    /// `(rows, G*H)`: activated gates; become the gradients of their pre-activations.
    pub(crate) gates: &'a mut [F],
    pub(crate) extra: &'a mut [F],
    pub(crate) hidden_before: &'a [F],
    pub(crate) cell_before: &'a [F],
    /// `(rows, H)`: total gradient at this step's hidden state; becomes that at the one before.
    pub(crate) grad_hidden: &'a mut [F],
    /// `(rows, H)`: the same for the cell state.
    pub(crate) grad_cell: &'a mut [F],
    /// `(rows, H)`: receives the total gradient at this step's cell state; or empty.
    pub(crate) probe_cell: &'a mut [F],
    /// `(rows, H)` of scratch.
    pub(crate) scratch: &'a mut [F],
}

/// One recurrent cell on blocks of rows. Rows whose sequence has ended keep their state.
pub(crate) trait SequenceCell<F: Real>: Sync {
    /// Gates `G`.
    const GATES: usize;
    /// Whether `extra` is used.
    const EXTRA: bool;
    /// Whether there is a cell state.
    const CELL: bool;

    /// Whether the recurrent bias of this gate may be added to the projected input.
    fn merges_bias(&self, gate: usize) -> bool;

    fn forward(&self, weights: &Recurrent<'_, F>, step: ForwardStep<'_, F>);

    fn backward(&self, weights: &Recurrent<'_, F>, step: BackwardStep<'_, F>);

    /// Adds a chunk's part of the gradient of the recurrent weights. `gates` and `extra` are as
    /// [`backward`](Self::backward) left them, `rows` is steps times sequences.
    fn weight_gradient(&self, out: &mut [F], gates: &[F], extra: &[F], before: &[F], hidden: usize);

    /// The gradient of the recurrent bias from the column sums of `gates` and `extra`.
    fn bias_gradient(&self, gates: &[F], _extra: &[F]) -> Vec<F> {
        gates.to_vec()
    }
}

/// What goes into a layer besides its weights.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a, F> {
    /// `(B, T, I)`.
    pub(crate) x: &'a [F],
    /// `(B, H)`.
    pub(crate) hidden: &'a [F],
    /// `(B, H)`, or empty.
    pub(crate) cell: &'a [F],
    /// `(B, T, H)`, or empty.
    pub(crate) probe_hidden: &'a [F],
    /// `(B, T, H)`, or empty.
    pub(crate) probe_cell: &'a [F],
}

/// What forward keeps for backward: the input in the layer's order, the activated gates, and the
/// states of all steps. `tanh(c)` is kept, pre-activations are not.
pub(crate) struct Saved<F> {
    inputs: Vec<F>,
    gates: Vec<F>,
    extra: Vec<F>,
    hidden: Vec<F>,
    cell: Vec<F>,
}

/// Gradients of a layer; empty where not asked for.
pub(crate) struct Gradients<F> {
    pub(crate) x: Vec<F>,
    pub(crate) weight_ih: Vec<F>,
    pub(crate) weight_hh: Vec<F>,
    pub(crate) bias_ih: Vec<F>,
    pub(crate) bias_hh: Vec<F>,
    pub(crate) hidden: Vec<F>,
    pub(crate) cell: Vec<F>,
    pub(crate) probe_hidden: Vec<F>,
    pub(crate) probe_cell: Vec<F>,
}

/// Gradients that arrive from above: of the outputs, the last hidden and the last cell state.
#[derive(Clone, Copy)]
pub(crate) struct OutputGradients<'a, F> {
    pub(crate) output: &'a [F],
    pub(crate) hidden: &'a [F],
    pub(crate) cell: &'a [F],
}

/// Runs a layer. Gives outputs `(B, T, H)`, last hidden state and last cell state `(B, H)` one after
/// the other, and what backward needs.
pub(crate) fn forward<F: Real, C: SequenceCell<F>>(
    cell: &C,
    dims: &Dims,
    order: &TimeOrder,
    weights: &Weights<'_, F>,
    inputs: &Inputs<'_, F>,
) -> (Vec<F>, Saved<F>) {
    let (batch, steps, hidden) = (dims.batch, dims.steps, dims.hidden);
    let width = C::GATES * hidden;
    let x = order.gather(dims, inputs.x, dims.inputs);
    let gather_probe = |probe: &[F]| {
        if probe.is_empty() { Vec::new() } else { order.gather(dims, probe, hidden) }
    };
    let probe_hidden = gather_probe(inputs.probe_hidden);
    let probe_cell = gather_probe(inputs.probe_cell);

    // The input projection of all steps is one product, begun from the biases.
    let mut gates = vec![F::ZERO; batch * steps * width];
    let bias = merged_bias(cell, weights, hidden);
    if !bias.is_empty() {
        gates.par_chunks_mut(width).for_each(|row| row.copy_from_slice(&bias));
    }
    multiply(
        &mut gates,
        width,
        Matrix::new(&x, batch * steps, dims.inputs),
        Matrix::new(weights.weight_ih, width, dims.inputs).t(),
        true,
        Threads::All,
    );

    let recurrent = Recurrent {
        weight: weights.weight_hh,
        transposed: transposed(weights.weight_hh, width, hidden),
        bias: weights.bias_hh,
        hidden,
    };
    let extra_size = if C::EXTRA { hidden } else { 0 };
    let cell_size = if C::CELL { hidden } else { 0 };
    let mut extra = vec![F::ZERO; batch * steps * extra_size];
    let mut states = vec![F::ZERO; batch * (steps + 1) * hidden];
    let mut cells = vec![F::ZERO; batch * (steps + 1) * cell_size];

    let gates_parts = dims.split_mut(&mut gates, steps * width);
    let extra_parts = dims.split_mut(&mut extra, steps * extra_size);
    let state_parts = dims.split_mut(&mut states, (steps + 1) * hidden);
    let cell_parts = dims.split_mut(&mut cells, (steps + 1) * cell_size);
    let tasks: Vec<_> =
        dims.chunks().zip(gates_parts).zip(extra_parts).zip(state_parts).zip(cell_parts).collect();
    tasks.into_par_iter().for_each(|((((chunk, gates), extra), states), cells)| {
        let rows = chunk.rows;
        let (block, extra_block, cell_block) = (rows * hidden, rows * extra_size, rows * cell_size);
        let sequences = chunk.first..chunk.first + rows;
        let lengths = &order.lengths[sequences];
        let of_rows = chunk.first * hidden..chunk.first * hidden + block;
        states[..block].copy_from_slice(&inputs.hidden[of_rows.clone()]);
        if C::CELL {
            cells[..cell_block].copy_from_slice(&inputs.cell[of_rows]);
        }
        for step in 0..steps {
            let probe_at = (chunk.first * steps + step * rows) * hidden;
            let probe = |probe: &'_ [F]| -> std::ops::Range<usize> {
                if probe.is_empty() { 0..0 } else { probe_at..probe_at + block }
            };
            let (before, after) = states.split_at_mut((step + 1) * block);
            let (cell_before, cell_after) = cells.split_at_mut((step + 1) * cell_block);
            let hidden_after = &mut after[..block];
            cell.forward(
                &recurrent,
                ForwardStep {
                    step,
                    lengths,
                    gates: &mut gates[step * rows * width..(step + 1) * rows * width],
                    extra: &mut extra[step * extra_block..(step + 1) * extra_block],
                    hidden_before: &before[step * block..],
                    hidden: hidden_after,
                    cell_before: &cell_before[step * cell_block..],
                    cell: &mut cell_after[..cell_block],
                    probe_cell: &probe_cell[probe(&probe_cell)],
                },
            );
            let added = &probe_hidden[probe(&probe_hidden)];
            add_active(hidden_after, added, lengths, step, hidden);
        }
    });

    let mut out = vec![F::ZERO; batch * steps * hidden + batch * (hidden + cell_size)];
    let (outputs, last) = out.split_at_mut(batch * steps * hidden);
    order.scatter(dims, &states, hidden, 1, outputs);
    let (last_hidden, last_cell) = last.split_at_mut(batch * hidden);
    copy_last(dims, &states, hidden, last_hidden);
    copy_last(dims, &cells, cell_size, last_cell);
    (out, Saved { inputs: x, gates, extra, hidden: states, cell: cells })
}

/// Runs a layer backwards. `saved` is used up.
pub(crate) fn backward<F: Real, C: SequenceCell<F>>(
    cell: &C,
    dims: &Dims,
    order: &TimeOrder,
    weights: &Weights<'_, F>,
    mut saved: Saved<F>,
    grads: &OutputGradients<'_, F>,
    wants_x: bool,
    probes: (bool, bool),
) -> Gradients<F> {
    let (batch, steps, hidden) = (dims.batch, dims.steps, dims.hidden);
    let width = C::GATES * hidden;
    let extra_size = if C::EXTRA { hidden } else { 0 };
    let cell_size = if C::CELL { hidden } else { 0 };
    let recurrent =
        Recurrent { weight: weights.weight_hh, transposed: Vec::new(), bias: &[], hidden };
    let output = order.gather(dims, grads.output, hidden);
    let probe_size = |wanted: bool| if wanted { hidden } else { 0 };
    let mut grad_hidden = grads.hidden.to_vec();
    let mut grad_cell = grads.cell.to_vec();
    let mut probe_hidden = vec![F::ZERO; batch * steps * probe_size(probes.0)];
    let mut probe_cell = vec![F::ZERO; batch * steps * probe_size(probes.1)];

    let tasks: Vec<_> = dims
        .chunks()
        .zip(dims.split_mut(&mut saved.gates, steps * width))
        .zip(dims.split_mut(&mut saved.extra, steps * extra_size))
        .zip(dims.split_mut(&mut grad_hidden, hidden))
        .zip(dims.split_mut(&mut grad_cell, cell_size))
        .zip(dims.split_mut(&mut probe_hidden, steps * probe_size(probes.0)))
        .zip(dims.split_mut(&mut probe_cell, steps * probe_size(probes.1)))
        .zip(dims.split(&saved.hidden, (steps + 1) * hidden))
        .zip(dims.split(&saved.cell, (steps + 1) * cell_size))
        .zip(dims.split(&output, steps * hidden))
        .collect();
    let sums: Vec<(Vec<F>, Vec<F>)> = tasks
        .into_par_iter()
        .map(|task| {
            let (rest, output) = task;
            let (rest, cells) = rest;
            let (rest, states) = rest;
            let (((rest, probe_hidden), probe_cell), lengths) = {
                let ((rest, probe_hidden), probe_cell) = rest;
                let chunk: crate::buffers::ChunkRows = rest.0.0.0.0;
                let lengths = &order.lengths[chunk.first..chunk.first + chunk.rows];
                (((rest, probe_hidden), probe_cell), lengths)
            };
            let ((((chunk, gates), extra), grad_hidden), grad_cell) = rest;
            let rows = chunk.rows;
            let block = rows * hidden;
            let (extra_block, cell_block) = (rows * extra_size, rows * cell_size);
            let mut scratch = vec![F::ZERO; block];
            for step in (0..steps).rev() {
                let now = step * block..(step + 1) * block;
                add_active(grad_hidden, &output[now.clone()], lengths, step, hidden);
                if !probe_hidden.is_empty() {
                    let probe = &mut probe_hidden[now.clone()];
                    add_active(probe, grad_hidden, lengths, step, hidden);
                }
                let probe_range = if probe_cell.is_empty() { 0..0 } else { now.clone() };
                cell.backward(
                    &recurrent,
                    BackwardStep {
                        step,
                        lengths,
                        gates: &mut gates[step * rows * width..(step + 1) * rows * width],
                        extra: &mut extra[step * extra_block..(step + 1) * extra_block],
                        hidden_before: &states[now],
                        cell_before: &cells[step * cell_block..(step + 1) * cell_block],
                        grad_hidden,
                        grad_cell,
                        probe_cell: &mut probe_cell[probe_range],
                        scratch: &mut scratch,
                    },
                );
            }
            (column_sums(gates, width), column_sums(extra, extra_size))
        })
        .collect();

    let mut weight_hh = vec![F::ZERO; width * hidden];
    let gates_parts = dims.split(&saved.gates, steps * width);
    let extra_parts = dims.split(&saved.extra, steps * extra_size);
    let state_parts = dims.split(&saved.hidden, (steps + 1) * hidden);
    for (((chunk, gates), extra), states) in
        dims.chunks().zip(gates_parts).zip(extra_parts).zip(state_parts)
    {
        let before = &states[..steps * chunk.rows * hidden];
        cell.weight_gradient(&mut weight_hh, gates, extra, before, hidden);
    }
    let rows = batch * steps;
    let grad_gates = Matrix::new(&saved.gates, rows, width);
    let mut weight_ih = vec![F::ZERO; width * dims.inputs];
    let x = Matrix::new(&saved.inputs, rows, dims.inputs);
    multiply(&mut weight_ih, dims.inputs, grad_gates.t(), x, false, Threads::All);

    let mut grad_x = Vec::new();
    if wants_x {
        let mut ordered = vec![F::ZERO; rows * dims.inputs];
        let weight = Matrix::new(weights.weight_ih, width, dims.inputs);
        multiply(&mut ordered, dims.inputs, grad_gates, weight, false, Threads::All);
        grad_x = vec![F::ZERO; ordered.len()];
        order.scatter(dims, &ordered, dims.inputs, 0, &mut grad_x);
    }
    let (bias_ih, bias_hh) = if weights.bias_ih.is_empty() {
        (Vec::new(), Vec::new())
    } else {
        let (mut gate_sums, mut extra_sums) = (vec![F::ZERO; width], vec![F::ZERO; extra_size]);
        for (gates, extra) in &sums {
            add(&mut gate_sums, gates);
            add(&mut extra_sums, extra);
        }
        let bias_hh = cell.bias_gradient(&gate_sums, &extra_sums);
        (gate_sums, bias_hh)
    };
    let scatter_probe = |ordered: Vec<F>| {
        let mut out = vec![F::ZERO; ordered.len()];
        if !ordered.is_empty() {
            order.scatter(dims, &ordered, hidden, 0, &mut out);
        }
        out
    };
    Gradients {
        x: grad_x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        hidden: grad_hidden,
        cell: grad_cell,
        probe_hidden: scatter_probe(probe_hidden),
        probe_cell: scatter_probe(probe_cell),
    }
}

/// The biases that can be added before the loop over time.
fn merged_bias<F: Real, C: SequenceCell<F>>(
    cell: &C,
    weights: &Weights<'_, F>,
    hidden: usize,
) -> Vec<F> {
    let mut bias = weights.bias_ih.to_vec();
    if !bias.is_empty() {
        for gate in (0..C::GATES).filter(|&gate| cell.merges_bias(gate)) {
            let part = gate * hidden..(gate + 1) * hidden;
            add(&mut bias[part.clone()], &weights.bias_hh[part]);
        }
    }
    bias
}

/// The last state of every sequence, from chunks of `(T + 1, rows, size)`: ended sequences have
/// kept theirs.
fn copy_last<F: Real>(dims: &Dims, states: &[F], size: usize, out: &mut [F]) {
    let parts = dims.split(states, (dims.steps + 1) * size);
    let outs = dims.split_mut(out, size);
    for ((chunk, part), out) in dims.chunks().zip(parts).zip(outs) {
        out.copy_from_slice(&part[dims.steps * chunk.rows * size..]);
    }
}

/// `out += values` for rows whose sequence has not ended; nothing when `values` is empty.
fn add_active<F: Real>(out: &mut [F], values: &[F], lengths: &[usize], step: usize, size: usize) {
    if values.is_empty() {
        return;
    }
    let rows = out.chunks_exact_mut(size).zip(values.chunks_exact(size)).zip(lengths);
    for ((out, values), &length) in rows {
        if step < length {
            add(out, values);
        }
    }
}

pub(crate) fn add<F: Real>(out: &mut [F], values: &[F]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out += value;
    }
}

fn column_sums<F: Real>(matrix: &[F], columns: usize) -> Vec<F> {
    let mut sums = vec![F::ZERO; columns];
    if columns > 0 {
        for row in matrix.chunks_exact(columns) {
            add(&mut sums, row);
        }
    }
    sums
}
