//! The element-wise part of each cell, one vector of hidden units at a time.
//!
//! The equations are those of the generic cells (`crate::rnn`, `crate::gru`, `crate::lstm`).

use crate::recurrent::Nonlinearity;
use crate::simd::{Simd, Task};

/// Where one sequence's values lie at one forward step, each pointer at hidden unit 0.
#[derive(Clone, Copy)]
pub(super) struct ForwardRow {
    /// Gate `g` lies at `g * H`: pre-activations, then activations.
    pub(super) gates: *mut f32,
    pub(super) hidden_size: usize,
    /// See [`Cell::EXTRA`].
    pub(super) extra: *mut f32,
    /// What the second product of a step multiplies; see [`Cell::TWO_PHASES`].
    pub(super) kept: *mut f32,
    /// The cell state, updated in place.
    pub(super) cell: *mut f32,
    /// Where the cell state is kept for backward, or null.
    pub(super) cell_saved: *mut f32,
    pub(super) hidden_before: *const f32,
    pub(super) hidden: *mut f32,
    pub(super) output: *mut f32,
    /// Added to the hidden state, or null.
    pub(super) probe_hidden: *const f32,
    /// Added to the cell state, or null.
    pub(super) probe_cell: *const f32,
    /// Whether the sequence goes on at this step.
    pub(super) active: bool,
}

/// Where one sequence's values lie at one backward step, each pointer at hidden unit 0.
#[derive(Clone, Copy)]
pub(super) struct BackwardRow {
    /// Activated gates; become the gradients of their pre-activations.
    pub(super) gates: *mut f32,
    pub(super) hidden_size: usize,
    pub(super) extra: *mut f32,
    /// The gradients that the recurrent product multiplies, gate `g` at `g * H`.
    pub(super) recurrent: *mut f32,
    /// Gradient of [`ForwardRow::kept`].
    pub(super) kept: *const f32,
    pub(super) cell: *const f32,
    pub(super) cell_before: *const f32,
    pub(super) hidden_before: *const f32,
    pub(super) grad_output: *const f32,
    /// Gradient of the hidden state, from the steps after; becomes that of the state before, as far
    /// as it does not go through the product.
    pub(super) grad_hidden: *mut f32,
    pub(super) grad_cell: *mut f32,
    /// Sums of `gates`, then of `extra`: `(G + 1) * H`.
    pub(super) sums: *mut f32,
    /// Receives the total gradient of the hidden state, or null.
    pub(super) probe_hidden: *mut f32,
    /// Receives the total gradient of the cell state, or null.
    pub(super) probe_cell: *mut f32,
    pub(super) active: bool,
}

/// One cell. All methods compute the units `j .. j + count`, at most a vector.
///
/// Safety of all methods: the processor has `V`'s instructions; the row's pointers that the cell uses
/// are valid for its units, and no other thread uses them meanwhile.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Cell: Copy + Send + Sync {
    /// Gates `G`.
    const GATES: usize;
    /// Whether backward needs, or the step computes, one more value for each unit.
    const EXTRA: bool;
    /// Whether the last gate's recurrent product goes to `extra` and not to the gate.
    const PRODUCT_TO_EXTRA: bool;
    /// Whether there is a cell state.
    const CELL: bool;
    /// Whether the last gate's product multiplies `kept`, which the other gates yield.
    const TWO_PHASES: bool;

    /// From the other gates' products to `kept`.
    #[inline(always)]
    unsafe fn keep<V: Simd>(self, _row: &ForwardRow, _j: usize, _count: usize) {}

    /// From products to states.
    unsafe fn forward<V: Simd>(self, row: &ForwardRow, j: usize, count: usize);

    /// From the gradient of states to that of pre-activations.
    unsafe fn backward<V: Simd>(self, row: &BackwardRow, j: usize, count: usize);

    /// Goes on from the gradient of `kept`.
    #[inline(always)]
    unsafe fn backward_kept<V: Simd>(self, _row: &BackwardRow, _j: usize, _count: usize) {}
}

/// Vectors at a pointer.
macro_rules! at {
    ($pointer:expr, $j:expr, $count:expr) => {
        V::load_up_to($pointer.add($j), $count)
    };
}

/// Stores the new hidden state wherever it is needed.
///
/// Safety: see [`Cell`].
#[inline(always)]
unsafe fn put_hidden<V: Simd>(row: &ForwardRow, mut hidden: V, j: usize, count: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        if !row.probe_hidden.is_null() {
            hidden = hidden.add(at!(row.probe_hidden, j, count));
        }
        hidden.store_up_to(row.hidden.add(j), count);
        hidden.store_up_to(row.output.add(j), count);
    }
}

/// The total gradient of the hidden state.
///
/// Safety: see [`Cell`].
#[inline(always)]
unsafe fn total_hidden<V: Simd>(row: &BackwardRow, j: usize, count: usize) -> V {
    // SAFETY: the caller's contract.
    unsafe {
        let total = at!(row.grad_hidden, j, count).add(at!(row.grad_output, j, count));
        if !row.probe_hidden.is_null() {
            total.store_up_to(row.probe_hidden.add(j), count);
        }
        total
    }
}

/// Stores the gradient of gate `gate` and adds it to the bias sums.
///
/// Safety: see [`Cell`].
#[inline(always)]
unsafe fn put_gate<V: Simd>(row: &BackwardRow, gate: usize, grad: V, j: usize, count: usize) {
    let at = gate * row.hidden_size + j;
    // SAFETY: the caller's contract.
    unsafe {
        grad.store_up_to(row.gates.add(at), count);
        at!(row.sums, at, count).add(grad).store_up_to(row.sums.add(at), count);
    }
}

/// The vanilla cell.
#[derive(Clone, Copy)]
pub(super) struct Rnn(pub(super) Nonlinearity);

impl Cell for Rnn {
    const GATES: usize = 1;
    const EXTRA: bool = false;
    const PRODUCT_TO_EXTRA: bool = false;
    const CELL: bool = false;
    const TWO_PHASES: bool = false;

    #[inline(always)]
    unsafe fn forward<V: Simd>(self, row: &ForwardRow, j: usize, count: usize) {
        // SAFETY: see the trait.
        unsafe {
            let sum = at!(row.gates, j, count);
            let value = match self.0 {
                Nonlinearity::Tanh => sum.tanh(),
                Nonlinearity::Relu => sum.at_least(V::splat(0.0)),
                Nonlinearity::Identity => sum,
            };
            value.store_up_to(row.gates.add(j), count);
            put_hidden(row, value, j, count);
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(self, row: &BackwardRow, j: usize, count: usize) {
        // SAFETY: see the trait.
        unsafe {
            let (zero, one) = (V::splat(0.0), V::splat(1.0));
            let total = total_hidden::<V>(row, j, count);
            let value = at!(row.gates, j, count);
            let grad = match self.0 {
                Nonlinearity::Tanh => total.mul(one.sub(value.mul(value))),
                Nonlinearity::Relu => zero.where_below(value, total, zero),
                Nonlinearity::Identity => total,
            };
            put_gate(row, 0, grad, j, count);
            grad.store_up_to(row.recurrent.add(j), count);
            zero.store_up_to(row.grad_hidden.add(j), count);
        }
    }
}

/// The gated recurrent unit. With `BEFORE` the reset comes before the recurrent product, and `extra`
/// and `kept` are `r * h`; without it `extra` is `U_n h + b_hn`.
#[derive(Clone, Copy)]
pub(super) struct Gru<const BEFORE: bool> {
    /// Whether an open update gate keeps the old state.
    pub(super) keep_old: bool,
}

impl<const BEFORE: bool> Cell for Gru<BEFORE> {
    const GATES: usize = 3;
    const EXTRA: bool = true;
    const PRODUCT_TO_EXTRA: bool = !BEFORE;
    const CELL: bool = false;
    const TWO_PHASES: bool = BEFORE;

    #[inline(always)]
    unsafe fn keep<V: Simd>(self, row: &ForwardRow, j: usize, count: usize) {
        // SAFETY: see the trait.
        unsafe {
            let reset = at!(row.gates, j, count).sigmoid();
            reset.store_up_to(row.gates.add(j), count);
            let kept = reset.mul(at!(row.hidden_before, j, count));
            kept.store_up_to(row.extra.add(j), count);
            kept.store_up_to(row.kept.add(j), count);
        }
    }

    #[inline(always)]
    unsafe fn forward<V: Simd>(self, row: &ForwardRow, j: usize, count: usize) {
        let h = row.hidden_size;
        // SAFETY: see the trait.
        unsafe {
            let mut sum = at!(row.gates, 2 * h + j, count);
            if !BEFORE {
                let reset = at!(row.gates, j, count).sigmoid();
                reset.store_up_to(row.gates.add(j), count);
                sum = reset.mul_add(at!(row.extra, j, count), sum);
            }
            let candidate = sum.tanh();
            let update = at!(row.gates, h + j, count).sigmoid();
            update.store_up_to(row.gates.add(h + j), count);
            candidate.store_up_to(row.gates.add(2 * h + j), count);
            let other = V::splat(1.0).sub(update);
            let (keep, take) = if self.keep_old { (update, other) } else { (other, update) };
            let kept = keep.mul(at!(row.hidden_before, j, count));
            put_hidden(row, take.mul_add(candidate, kept), j, count);
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(self, row: &BackwardRow, j: usize, count: usize) {
        let h = row.hidden_size;
        // SAFETY: see the trait.
        unsafe {
            let one = V::splat(1.0);
            let total = total_hidden::<V>(row, j, count);
            let update = at!(row.gates, h + j, count);
            let candidate = at!(row.gates, 2 * h + j, count);
            let old = at!(row.hidden_before, j, count);
            let other = one.sub(update);
            let (keep, take) = if self.keep_old { (update, other) } else { (other, update) };
            let difference = if self.keep_old { old.sub(candidate) } else { candidate.sub(old) };
            let grad_update = total.mul(difference).mul(update).mul(other);
            let grad_candidate = total.mul(take).mul(one.sub(candidate.mul(candidate)));
            put_gate(row, 1, grad_update, j, count);
            put_gate(row, 2, grad_candidate, j, count);
            grad_update.store_up_to(row.recurrent.add(h + j), count);
            total.mul(keep).store_up_to(row.grad_hidden.add(j), count);
            if BEFORE {
                grad_candidate.store_up_to(row.recurrent.add(2 * h + j), count);
            } else {
                let reset = at!(row.gates, j, count);
                let product = at!(row.extra, j, count);
                let grad_reset = grad_candidate.mul(product).mul(reset).mul(one.sub(reset));
                let grad_product = grad_candidate.mul(reset);
                put_gate(row, 0, grad_reset, j, count);
                grad_reset.store_up_to(row.recurrent.add(j), count);
                grad_product.store_up_to(row.extra.add(j), count);
                grad_product.store_up_to(row.recurrent.add(2 * h + j), count);
                let sums = row.sums.add(3 * h + j);
                V::load_up_to(sums, count).add(grad_product).store_up_to(sums, count);
            }
        }
    }

    #[inline(always)]
    unsafe fn backward_kept<V: Simd>(self, row: &BackwardRow, j: usize, count: usize) {
        // SAFETY: see the trait.
        unsafe {
            let reset = at!(row.gates, j, count);
            let grad = at!(row.kept, j, count);
            let old = at!(row.hidden_before, j, count);
            let grad_reset = grad.mul(old).mul(reset).mul(V::splat(1.0).sub(reset));
            put_gate(row, 0, grad_reset, j, count);
            grad_reset.store_up_to(row.recurrent.add(j), count);
            let hidden = row.grad_hidden.add(j);
            grad.mul_add(reset, V::load_up_to(hidden, count)).store_up_to(hidden, count);
        }
    }
}

/// Long short-term memory. Backward computes `tanh(c)` again: cheaper than to store it.
#[derive(Clone, Copy)]
pub(super) struct Lstm;

impl Cell for Lstm {
    const GATES: usize = 4;
    const EXTRA: bool = false;
    const PRODUCT_TO_EXTRA: bool = false;
    const CELL: bool = true;
    const TWO_PHASES: bool = false;

    #[inline(always)]
    unsafe fn forward<V: Simd>(self, row: &ForwardRow, j: usize, count: usize) {
        let h = row.hidden_size;
        // SAFETY: see the trait.
        unsafe {
            let input = at!(row.gates, j, count).sigmoid();
            let forget = at!(row.gates, h + j, count).sigmoid();
            let candidate = at!(row.gates, 2 * h + j, count).tanh();
            let output = at!(row.gates, 3 * h + j, count).sigmoid();
            let mut cell = forget.mul_add(at!(row.cell, j, count), input.mul(candidate));
            if !row.probe_cell.is_null() {
                cell = cell.add(at!(row.probe_cell, j, count));
            }
            cell.store_up_to(row.cell.add(j), count);
            if !row.cell_saved.is_null() {
                input.store_up_to(row.gates.add(j), count);
                forget.store_up_to(row.gates.add(h + j), count);
                candidate.store_up_to(row.gates.add(2 * h + j), count);
                output.store_up_to(row.gates.add(3 * h + j), count);
                cell.store_up_to(row.cell_saved.add(j), count);
            }
            put_hidden(row, output.mul(cell.tanh()), j, count);
        }
    }

    #[inline(always)]
    unsafe fn backward<V: Simd>(self, row: &BackwardRow, j: usize, count: usize) {
        let h = row.hidden_size;
        // SAFETY: see the trait.
        unsafe {
            let one = V::splat(1.0);
            let total = total_hidden::<V>(row, j, count);
            let input = at!(row.gates, j, count);
            let forget = at!(row.gates, h + j, count);
            let candidate = at!(row.gates, 2 * h + j, count);
            let output = at!(row.gates, 3 * h + j, count);
            let tanh_cell = at!(row.cell, j, count).tanh();
            let through = total.mul(output).mul(one.sub(tanh_cell.mul(tanh_cell)));
            let grad = at!(row.grad_cell, j, count).add(through);
            if !row.probe_cell.is_null() {
                grad.store_up_to(row.probe_cell.add(j), count);
            }
            let before = at!(row.cell_before, j, count);
            let gates = [
                grad.mul(candidate).mul(input).mul(one.sub(input)),
                grad.mul(before).mul(forget).mul(one.sub(forget)),
                grad.mul(input).mul(one.sub(candidate.mul(candidate))),
                total.mul(tanh_cell).mul(output).mul(one.sub(output)),
            ];
            for (gate, value) in gates.into_iter().enumerate() {
                put_gate(row, gate, value, j, count);
                value.store_up_to(row.recurrent.add(gate * h + j), count);
            }
            grad.mul(forget).store_up_to(row.grad_cell.add(j), count);
            V::splat(0.0).store_up_to(row.grad_hidden.add(j), count);
        }
    }
}

/// Which of a cell's forward functions to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Keep,
    States,
}

/// One forward step of some rows and of the units `first .. end`, `first` being a multiple of the
/// vector's length.
pub(super) struct ForwardStep<'a, C> {
    pub(super) cell: C,
    pub(super) phase: Phase,
    pub(super) rows: &'a [ForwardRow],
    pub(super) first: usize,
    pub(super) end: usize,
}

impl<C: Cell> Task for ForwardStep<'_, C> {
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        for row in self.rows {
            let mut j = self.first;
            // SAFETY: the contract of `Cell`. Full vectors have a copy of their own without masks.
            unsafe {
                if !row.active {
                    let units = self.end - self.first;
                    let from = row.hidden_before.add(self.first);
                    row.hidden.add(self.first).copy_from_nonoverlapping(from, units);
                    if C::TWO_PHASES {
                        row.kept.add(self.first).write_bytes(0, units);
                    }
                    continue;
                }
                while j + V::LANES <= self.end {
                    match self.phase {
                        Phase::Keep => self.cell.keep::<V>(row, j, V::LANES),
                        Phase::States => self.cell.forward::<V>(row, j, V::LANES),
                    }
                    j += V::LANES;
                }
                if j < self.end {
                    match self.phase {
                        Phase::Keep => self.cell.keep::<V>(row, j, self.end - j),
                        Phase::States => self.cell.forward::<V>(row, j, self.end - j),
                    }
                }
            }
        }
    }
}

/// One backward step, as [`ForwardStep`]; [`Phase::Keep`] goes on from the gradient of `kept`.
pub(super) struct BackwardStep<'a, C> {
    pub(super) cell: C,
    pub(super) phase: Phase,
    pub(super) rows: &'a [BackwardRow],
    pub(super) first: usize,
    pub(super) end: usize,
}

impl<C: Cell> Task for BackwardStep<'_, C> {
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        for row in self.rows {
            let mut j = self.first;
            // SAFETY: the contract of `Cell`.
            unsafe {
                if !row.active {
                    for gate in 0..C::GATES {
                        let at = gate * row.hidden_size + self.first;
                        row.recurrent.add(at).write_bytes(0, self.end - self.first);
                    }
                    continue;
                }
                while j + V::LANES <= self.end {
                    match self.phase {
                        Phase::Keep => self.cell.backward_kept::<V>(row, j, V::LANES),
                        Phase::States => self.cell.backward::<V>(row, j, V::LANES),
                    }
                    j += V::LANES;
                }
                if j < self.end {
                    match self.phase {
                        Phase::Keep => self.cell.backward_kept::<V>(row, j, self.end - j),
                        Phase::States => self.cell.backward::<V>(row, j, self.end - j),
                    }
                }
            }
        }
    }
}
