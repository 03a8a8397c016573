//! The loop over time, backward, and the gradients of the weights.

use super::cells::{BackwardRow, BackwardStep, Cell, Phase};
use super::product::{Panel, Rows, Start, multiply, pack, panel_width};
use super::scratch::Scratch;
use super::workers::{Barrier, Plan, Share, bias_group};
use super::{Call, OutputGradients, Saved, Shared, Wanted, dispatch, padded, units};
use crate::isa::Isa;
use crate::product::{Matrix, Threads, multiply as large_product};
use crate::recurrent::{CellKind, GruReset, GruUpdate};
use crate::sequence::Gradients;
use crate::simd::Simd;

/// Runs a layer backwards. `output` is forward's, `saved` is used up.
pub(crate) fn backward(
    call: &Call<'_>,
    output: &[f32],
    saved: Saved,
    grads: &OutputGradients<'_, f32>,
    wanted: Wanted,
) -> Gradients<f32> {
    dispatch!(call, run(call, output, saved, grads, wanted))
}

/// All buffers of a call.
struct Context<'a, C> {
    cell: C,
    call: &'a Call<'a>,
    by_units: bool,
    packed_hh: &'a [f32],
    output: Shared,
    grad_output: Shared,
    gates: Shared,
    extra: Shared,
    cells: Shared,
    /// Gradients that the recurrent product multiplies; by turns where workers share them.
    recurrent: [Shared; 2],
    recurrent_stride: usize,
    kept: Shared,
    grad_hidden: Shared,
    grad_cell: Shared,
    /// `(groups, (G + 1) * H)`.
    sums: Shared,
    probe_hidden: Shared,
    probe_cell: Shared,
}

fn run<V: Simd, C: Cell>(
    cell: C,
    call: &Call<'_>,
    output: &[f32],
    mut saved: Saved,
    grads: &OutputGradients<'_, f32>,
    wanted: Wanted,
) -> Gradients<f32> {
    let dims = &call.dims;
    let (batch, steps, hidden) = (dims.batch, dims.steps, dims.hidden);
    let (width, panel) = (C::GATES * hidden, panel_width::<V>());
    let blocks = hidden.div_ceil(panel);
    let plan = Plan::new(dims, width, blocks, rayon::current_num_threads());

    let mut packed_hh = Scratch::new(blocks * panel * width);
    pack(&mut packed_hh, panel, call.weights.weight_hh, width, hidden);
    let or_zeros = |grad: &[f32], size: usize| {
        if grad.is_empty() { vec![0.0; size] } else { grad.to_vec() }
    };
    let mut grad_hidden = or_zeros(grads.hidden, batch * hidden);
    let mut grad_cell = if C::CELL { or_zeros(grads.cell, batch * hidden) } else { Vec::new() };
    let probe = |wanted: bool| vec![0.0; if wanted { batch * steps * hidden } else { 0 }];
    let (mut probe_hidden, mut probe_cell) = (probe(wanted.probe_hidden), probe(wanted.probe_cell));
    let recurrent_stride = padded(width);
    let mut recurrent = [true, plan.by_units]
        .map(|used| Scratch::new(if used { batch * recurrent_stride } else { 0 }));
    let mut kept = Scratch::new(if C::TWO_PHASES { batch * hidden } else { 0 });
    let sums_size = width + hidden;
    let groups = batch.div_ceil(bias_group(batch));
    let mut sums = Scratch::zeros(groups * sums_size);

    if hidden > 0 {
        let [even, odd] = &mut recurrent;
        let context = Context {
            cell,
            call,
            by_units: plan.by_units,
            packed_hh: &packed_hh,
            output: Shared::read(output),
            grad_output: Shared::read(grads.output),
            gates: Shared::new(&mut saved.gates),
            extra: Shared::new(&mut saved.extra),
            cells: Shared::new(&mut saved.cells),
            recurrent: [Shared::new(even), Shared::new(odd)],
            recurrent_stride,
            kept: Shared::new(&mut kept),
            grad_hidden: Shared::new(&mut grad_hidden),
            grad_cell: Shared::new(&mut grad_cell),
            sums: Shared::new(&mut sums),
            probe_hidden: Shared::new(&mut probe_hidden),
            probe_cell: Shared::new(&mut probe_cell),
        };
        // SAFETY: `dispatch` checked the instruction set; the buffers above have the sizes that the
        // offsets in `Context` assume; shares are disjoint.
        #[allow(unsafe_code)]
        plan.run(|share, barrier| unsafe { context.work::<V>(share, barrier) });
    }
    let _flush = super::flush::FlushToZero::begin();
    for (row, &length) in call.order.lengths.iter().enumerate() {
        let padding = row * steps + length..(row + 1) * steps;
        saved.gates[padding.start * width..padding.end * width].fill(0.0);
        if C::EXTRA {
            saved.extra[padding.start * hidden..padding.end * hidden].fill(0.0);
        }
    }

    let rows = batch * steps;
    let gates = Matrix::new(&saved.gates, rows, width);
    let mut weight_ih = Vec::new();
    if wanted.weight_ih {
        weight_ih = vec![0.0; width * dims.inputs];
        let x = Matrix::new(call.inputs.x, rows, dims.inputs);
        large_product(&mut weight_ih, dims.inputs, gates.t(), x, false, Threads::All);
    }
    let mut x = Vec::new();
    if wanted.x {
        x = vec![0.0; rows * dims.inputs];
        let weight = Matrix::new(call.weights.weight_ih, width, dims.inputs);
        large_product(&mut x, dims.inputs, gates, weight, false, Threads::All);
    }
    let mut weight_hh = Vec::new();
    if wanted.weight_hh {
        weight_hh = recurrent_gradient::<C>(call, output, &mut saved);
    }

    let (mut bias_ih, mut bias_hh) = (Vec::new(), Vec::new());
    if !call.weights.bias_ih.is_empty() {
        let mut total = vec![0.0; sums_size];
        for group in sums.chunks_exact(sums_size.max(1)) {
            total.iter_mut().zip(group).for_each(|(total, &part)| *total += part);
        }
        bias_ih = total[..width].to_vec();
        bias_hh = bias_ih.clone();
        if C::PRODUCT_TO_EXTRA {
            bias_hh[width - hidden..].copy_from_slice(&total[width..]);
        }
    }
    Gradients {
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        hidden: grad_hidden,
        cell: grad_cell,
        probe_hidden,
        probe_cell,
    }
}

/// The gradient of `weight_hh`: gates' gradients times the states before them, which are the
/// outputs one row further up (or down, in reverse), except at each sequence's first step. Those
/// rows are taken out of the large product and multiply the initial states instead.
fn recurrent_gradient<C: Cell>(call: &Call<'_>, output: &[f32], saved: &mut Saved) -> Vec<f32> {
    let dims = &call.dims;
    let (hidden, rows) = (dims.hidden, dims.batch * dims.steps);
    let width = C::GATES * hidden;
    let mut out = vec![0.0; width * hidden];
    let separate = C::PRODUCT_TO_EXTRA || C::TWO_PHASES;
    let direct = if separate { width - hidden } else { width };

    let firsts: Vec<(usize, usize)> = (0..dims.batch)
        .filter(|&row| call.order.lengths[row] > 0)
        .map(|row| (row, row * dims.steps + call.order.time(row, 0)))
        .collect();
    let states: Vec<f32> = firsts
        .iter()
        .flat_map(|&(row, _)| &call.inputs.hidden[row * hidden..(row + 1) * hidden])
        .copied()
        .collect();
    let states = Matrix::new(&states, firsts.len(), hidden);
    let shifted = |out: &mut [f32], grads: &mut [f32], stride: usize, columns: usize| {
        let mut initial = Vec::with_capacity(firsts.len() * columns);
        for &(_, position) in &firsts {
            let grads = &mut grads[position * stride..][..columns];
            initial.extend_from_slice(grads);
            grads.fill(0.0);
        }
        let initial_grads = Matrix::new(&initial, firsts.len(), columns).t();
        large_product(out, hidden, initial_grads, states, false, Threads::All);
        if rows > 1 {
            let (grads, states) = if call.order.reverse {
                (&*grads, &output[hidden..])
            } else {
                (&grads[stride..], output)
            };
            let grads = Matrix::strided(grads, rows - 1, columns, stride).t();
            let states = Matrix::new(states, rows - 1, hidden);
            large_product(out, hidden, grads, states, true, Threads::All);
        }
    };
    let (main, last) = out.split_at_mut(direct * hidden);
    shifted(main, &mut saved.gates, width, direct);
    if C::PRODUCT_TO_EXTRA {
        shifted(last, &mut saved.extra, hidden, hidden);
    } else if C::TWO_PHASES {
        let grads = Matrix::strided(&saved.gates[direct..], rows, hidden, width).t();
        let kept = Matrix::new(&saved.extra, rows, hidden);
        large_product(last, hidden, grads, kept, false, Threads::All);
    }
    out
}

#[allow(unsafe_code)]
impl<C: Cell> Context<'_, C> {
    /// Computes a share.
    ///
    /// Safety: the processor has `V`'s instructions; buffers have the sizes that `run` gives them;
    /// all shares are disjoint, and those by units run at the same time.
    unsafe fn work<V: Simd>(&self, share: &Share, barrier: &Barrier) {
        let dims = &self.call.dims;
        let (hidden, order) = (dims.hidden, self.call.order);
        let (width, panel) = (C::GATES * hidden, panel_width::<V>());
        let mine = units(&share.blocks, panel, hidden);
        let group = bias_group(dims.batch);
        let panels = |output: Shared, from: usize, start: Start| -> Vec<Panel> {
            let one = |block: usize| Panel {
                weights: self.packed_hh[(block * width + from) * panel..].as_ptr(),
                output: output.at(block * panel),
                columns: panel.min(hidden - block * panel),
                start,
            };
            share.blocks.clone().map(one).collect()
        };
        // With two phases the last gate's product comes first, alone.
        let last = width - hidden;
        let main_depth = if C::TWO_PHASES { last } else { width };
        let main = panels(self.grad_hidden, 0, Start::Output);
        let kept = panels(self.kept, last, Start::Zero);

        let count = share.rows.len();
        let offsets: Vec<usize> = share.rows.clone().map(|row| row * hidden).collect();
        let mut rows: Vec<BackwardRow> = Vec::with_capacity(count);
        let longest = order.lengths[share.rows.clone()].iter().copied().max().unwrap_or(0);
        for step in (0..longest).rev() {
            let recurrent = self.recurrent[if self.by_units { step % 2 } else { 0 }];
            rows.clear();
            for row in share.rows.clone() {
                let position = row * dims.steps + order.time(row, step);
                let active = step < order.lengths[row];
                let before = |states: Shared, initial: &[f32]| {
                    if step == 0 {
                        Shared::read(initial).at(row * hidden)
                    } else {
                        let position = row * dims.steps + order.time(row, step - 1);
                        states.at(position * hidden)
                    }
                };
                rows.push(BackwardRow {
                    gates: self.gates.at(position * width),
                    hidden_size: hidden,
                    extra: self.extra.at(position * hidden),
                    recurrent: recurrent.at(row * self.recurrent_stride),
                    kept: self.kept.at(row * hidden),
                    cell: self.cells.at(position * hidden),
                    cell_before: before(self.cells, self.call.inputs.cell),
                    hidden_before: before(self.output, self.call.inputs.hidden),
                    grad_output: self.grad_output.at(position * hidden),
                    grad_hidden: self.grad_hidden.at(row * hidden),
                    grad_cell: self.grad_cell.at(row * hidden),
                    sums: self.sums.at(row / group * (width + hidden)),
                    probe_hidden: self.probe_hidden.at(position * hidden),
                    probe_cell: self.probe_cell.at(position * hidden),
                    active,
                });
            }
            let pointwise = |phase, rows: &[BackwardRow]| {
                let (cell, first, end) = (self.cell, mine.start, mine.end);
                // SAFETY: the rows' pointers are valid for this share's units, which are its own.
                unsafe { V::enter(BackwardStep { cell, phase, rows, first, end }) };
            };
            let product = |from: usize, panels: &[Panel], depth: usize| {
                let rows = Rows {
                    data: recurrent.at(share.rows.start * self.recurrent_stride + from),
                    stride: self.recurrent_stride as isize,
                    count,
                    outputs: offsets.as_ptr(),
                };
                // SAFETY: rows have `width` elements; outputs are this share's own.
                unsafe { multiply::<V>(&[rows], panels, depth) };
            };
            pointwise(Phase::States, &rows);
            barrier.wait();
            if C::TWO_PHASES {
                product(last, &kept, hidden);
                pointwise(Phase::Keep, &rows);
                barrier.wait();
            }
            product(0, &main, main_depth);
        }
    }
}
