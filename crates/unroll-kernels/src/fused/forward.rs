//! The loop over time, forward.

use super::cells::{Cell, ForwardRow, ForwardStep, Phase};
use super::product::{Panel, Rows, Start, multiply, pack_transposed, panel_width};
use super::scratch::Scratch;
use super::workers::{Barrier, Plan, Share};
use super::{Call, Forward, Saved, Shared, dispatch, padded, units};
use crate::isa::Isa;
use crate::recurrent::{CellKind, GruReset, GruUpdate};
use crate::simd::Simd;

/// Runs a layer; `keep` asks for what backward needs.
pub(crate) fn forward(call: &Call<'_>, keep: bool) -> Forward {
    dispatch!(call, run(call, keep))
}

/// All buffers of a call.
struct Context<'a, C> {
    cell: C,
    call: &'a Call<'a>,
    keep: bool,
    blocks: usize,
    /// Steps that the input projection runs ahead.
    ahead: usize,
    packed_ih: &'a [f32],
    packed_hh: &'a [f32],
    /// `(G*H,)`: all biases that lie outside of products with gates, or empty.
    bias: &'a [f32],
    gates: Shared,
    extra: Shared,
    cells: Shared,
    kept: Shared,
    /// Hidden states before and after a step, by turns.
    hidden: [Shared; 2],
    /// Elements from row to row of `hidden` and `kept`.
    stride: usize,
    cell_state: Shared,
    output: Shared,
}

fn run<V: Simd, C: Cell>(cell: C, call: &Call<'_>, keep: bool) -> Forward {
    let dims = &call.dims;
    let (batch, steps, hidden) = (dims.batch, dims.steps, dims.hidden);
    let (width, panel) = (C::GATES * hidden, panel_width::<V>());
    let blocks = hidden.div_ceil(panel);
    let plan = Plan::new(dims, width, blocks, rayon::current_num_threads());

    let mut packed_ih = Scratch::new(C::GATES * blocks * panel * dims.inputs);
    let mut packed_hh = Scratch::new(C::GATES * blocks * panel * hidden);
    for gate in 0..C::GATES {
        for (packed, weight, k) in [
            (&mut packed_ih, call.weights.weight_ih, dims.inputs),
            (&mut packed_hh, call.weights.weight_hh, hidden),
        ] {
            let size = blocks * panel * k;
            let weight = &weight[gate * hidden * k..][..hidden * k];
            pack_transposed(&mut packed[gate * size..][..size], panel, weight, k, hidden);
        }
    }
    let mut bias = call.weights.bias_ih.to_vec();
    let merged = if C::PRODUCT_TO_EXTRA { 2 * hidden } else { width };
    for (bias, &other) in
        bias.iter_mut().zip(&call.weights.bias_hh[..merged.min(call.weights.bias_hh.len())])
    {
        *bias += other;
    }

    let rows = plan.shares.iter().map(|share| share.rows.len()).max().unwrap_or(1).max(1);
    let ahead = (128 / rows).clamp(8, 96).min(steps.max(1));
    let positions = batch * if keep { steps } else { ahead };
    let mut gates = Scratch::new(positions * width);
    let mut extra =
        Scratch::new(if C::EXTRA { batch * if keep { steps } else { 1 } * hidden } else { 0 });
    let mut cells = Scratch::new(if C::CELL && keep { batch * steps * hidden } else { 0 });
    let stride = padded(hidden);
    let mut dense = [(); 2].map(|()| Scratch::new(batch * stride));
    let mut kept = Scratch::new(if C::TWO_PHASES { batch * stride } else { 0 });
    for (row, state) in call.inputs.hidden.chunks_exact(hidden.max(1)).enumerate() {
        dense[0][row * stride..][..hidden].copy_from_slice(state);
    }
    let mut last_cell = call.inputs.cell.to_vec();
    let mut output: Vec<f32> = Vec::with_capacity(batch * steps * hidden);

    let longest = call.order.lengths.iter().copied().max().unwrap_or(0);
    if hidden > 0 {
        let [before, after] = &mut dense;
        let context = Context {
            cell,
            call,
            keep,
            blocks,
            ahead,
            packed_ih: &packed_ih,
            packed_hh: &packed_hh,
            bias: &bias,
            gates: Shared::new(&mut gates),
            extra: Shared::new(&mut extra),
            cells: Shared::new(&mut cells),
            kept: Shared::new(&mut kept),
            hidden: [Shared::new(before), Shared::new(after)],
            stride,
            cell_state: Shared::new(&mut last_cell),
            output: Shared(output.as_mut_ptr()),
        };
        // SAFETY: `dispatch` checked the instruction set; the buffers above have the sizes that the
        // offsets in `Context` assume; shares are disjoint.
        #[allow(unsafe_code)]
        plan.run(|share, barrier| unsafe { context.work::<V>(share, barrier, longest) });
    }
    for (row, &length) in call.order.lengths.iter().enumerate() {
        let padding = row * steps * hidden + length * hidden..(row + 1) * steps * hidden;
        // SAFETY: within the capacity.
        #[allow(unsafe_code)]
        unsafe {
            output.as_mut_ptr().add(padding.start).write_bytes(0, padding.len());
        }
    }
    // SAFETY: the workers wrote all real steps of all sequences, the loop above the others.
    #[allow(unsafe_code)]
    unsafe {
        output.set_len(batch * steps * hidden);
    }
    let mut last_hidden = Vec::with_capacity(batch * hidden);
    for row in 0..batch {
        last_hidden.extend_from_slice(&dense[longest % 2][row * stride..][..hidden]);
    }
    Forward {
        output,
        hidden: last_hidden,
        cell: last_cell,
        saved: keep.then_some(Saved { gates, extra, cells }),
    }
}

#[allow(unsafe_code)]
impl<C: Cell> Context<'_, C> {
    /// Panels of the gates `gates` over the share's units; `output` and `start` give the first unit
    /// of gate 0.
    fn panels<V: Simd>(
        &self,
        share: &Share,
        gates: std::ops::Range<usize>,
        (packed, k): (&[f32], usize),
        output: Shared,
        gate_stride: usize,
        start: impl Fn(usize) -> Start,
    ) -> Vec<Panel> {
        let (hidden, width) = (self.call.dims.hidden, panel_width::<V>());
        let mut panels = Vec::with_capacity(gates.len() * share.blocks.len());
        for gate in gates {
            for block in share.blocks.clone() {
                let first = block * width;
                panels.push(Panel {
                    weights: packed[(gate * self.blocks + block) * width * k..].as_ptr(),
                    output: output.at(gate * gate_stride + first),
                    columns: width.min(hidden - first),
                    start: start(gate * hidden + first),
                });
            }
        }
        panels
    }

    /// Where row `row`'s gates lie at `step`.
    fn gates_at(&self, row: usize, step: usize) -> usize {
        let dims = &self.call.dims;
        let position = if self.keep {
            row * dims.steps + self.call.order.time(row, step)
        } else {
            row * self.ahead + step % self.ahead
        };
        position * C::GATES * dims.hidden
    }

    /// Computes a share over `longest` steps, the same for all shares: their last states then lie in
    /// the same one of the two buffers.
    ///
    /// Safety: the processor has `V`'s instructions; buffers have the sizes that `run` gives them;
    /// all shares are disjoint, and those by units run at the same time.
    unsafe fn work<V: Simd>(&self, share: &Share, barrier: &Barrier, longest: usize) {
        let dims = &self.call.dims;
        let (hidden, order) = (dims.hidden, self.call.order);
        let mine = units(&share.blocks, panel_width::<V>(), hidden);

        let project = self.panels::<V>(
            share,
            0..C::GATES,
            (self.packed_ih, dims.inputs),
            self.gates,
            hidden,
            |at| match self.bias.get(at..) {
                Some(bias) if !bias.is_empty() => Start::Bias(bias.as_ptr()),
                _ => Start::Zero,
            },
        );
        let separate = C::PRODUCT_TO_EXTRA || C::TWO_PHASES;
        let direct = if separate { C::GATES - 1 } else { C::GATES };
        let packed = (self.packed_hh, hidden);
        let first =
            self.panels::<V>(share, 0..direct, packed, self.gates, hidden, |_| Start::Output);
        let last = if C::PRODUCT_TO_EXTRA {
            self.panels::<V>(share, direct..C::GATES, packed, self.extra, 0, |at| {
                match self.call.weights.bias_hh.get(at..) {
                    Some(bias) if !bias.is_empty() => Start::Bias(bias.as_ptr()),
                    _ => Start::Zero,
                }
            })
        } else {
            let gates = direct..C::GATES;
            self.panels::<V>(share, gates, packed, self.gates, hidden, |_| Start::Output)
        };

        let rows = share.rows.len();
        let mut outputs = Vec::new();
        let mut step_rows: Vec<ForwardRow> = Vec::with_capacity(rows);
        let (mut gate_offsets, mut extra_offsets) = (vec![0; rows], vec![0; rows]);
        for step in 0..longest {
            if step % self.ahead == 0 {
                let end = (step + self.ahead).min(longest);
                outputs.clear();
                for row in share.rows.clone() {
                    outputs.extend((step..end).map(|step| self.gates_at(row, step)));
                }
                let tiles: Vec<Rows> = share
                    .rows
                    .clone()
                    .enumerate()
                    .map(|(index, row)| {
                        let at = (row * dims.steps + order.time(row, step)) * dims.inputs;
                        let inputs = dims.inputs as isize;
                        Rows {
                            data: self.call.inputs.x.as_ptr().wrapping_add(at),
                            stride: if order.reverse { -inputs } else { inputs },
                            count: order.lengths[row].min(end).saturating_sub(step),
                            outputs: outputs[index * (end - step)..].as_ptr(),
                        }
                    })
                    .filter(|rows| rows.count > 0)
                    .collect();
                // SAFETY: the run of each row's steps lies within `x`; outputs are this share's.
                unsafe { multiply::<V>(&tiles, &project, dims.inputs) };
            }

            let (before, after) = (self.hidden[step % 2], self.hidden[(step + 1) % 2]);
            step_rows.clear();
            for (index, row) in share.rows.clone().enumerate() {
                let position = row * dims.steps + order.time(row, step);
                gate_offsets[index] = self.gates_at(row, step);
                extra_offsets[index] = if self.keep { position } else { row } * hidden;
                let probe = |probe: &[f32]| Shared::read(probe).at(position * hidden).cast_const();
                step_rows.push(ForwardRow {
                    gates: self.gates.at(gate_offsets[index]),
                    hidden_size: hidden,
                    extra: self.extra.at(extra_offsets[index]),
                    kept: self.kept.at(row * self.stride),
                    cell: self.cell_state.at(row * hidden),
                    cell_saved: self.cells.at(position * hidden),
                    hidden_before: before.at(row * self.stride),
                    hidden: after.at(row * self.stride),
                    output: self.output.at(position * hidden),
                    probe_hidden: probe(self.call.inputs.probe_hidden),
                    probe_cell: probe(self.call.inputs.probe_cell),
                    active: step < order.lengths[row],
                });
            }
            let dense = |data: Shared, outputs: &[usize]| Rows {
                data: data.at(share.rows.start * self.stride),
                stride: self.stride as isize,
                count: rows,
                outputs: outputs.as_ptr(),
            };
            let pointwise = |phase, rows: &[ForwardRow]| {
                let (cell, first, end) = (self.cell, mine.start, mine.end);
                // SAFETY: the rows' pointers are valid for this share's units, which are its own.
                unsafe { V::enter(ForwardStep { cell, phase, rows, first, end }) };
            };
            // SAFETY: states have `hidden` elements; outputs are this share's own.
            unsafe {
                multiply::<V>(&[dense(before, &gate_offsets)], &first, hidden);
                if C::PRODUCT_TO_EXTRA {
                    multiply::<V>(&[dense(before, &extra_offsets)], &last, hidden);
                } else if C::TWO_PHASES {
                    pointwise(Phase::Keep, &step_rows);
                    barrier.wait();
                    multiply::<V>(&[dense(self.kept, &gate_offsets)], &last, hidden);
                }
            }
            pointwise(Phase::States, &step_rows);
            barrier.wait();
        }
    }
}
