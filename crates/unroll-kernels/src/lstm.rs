//! The LSTM cell: `i, f, o = sigma(.)`, `g = tanh(.)`, `c' = f c + i g`, `h' = o tanh(c')`; gates in
//! PyTorch's order i, f, g, o.

use crate::isa::multiversion;
use crate::product::{Matrix, Threads, multiply};
use crate::real::Real;
use crate::sequence::{BackwardStep, ForwardStep, Recurrent, SequenceCell, add};

/// See the module. `extra` holds `tanh(c')`.
pub(crate) struct Lstm;

impl<F: Real> SequenceCell<F> for Lstm {
    const GATES: usize = 4;
    const EXTRA: bool = true;
    const CELL: bool = true;

    fn merges_bias(&self, _gate: usize) -> bool {
        true
    }

    fn forward(&self, weights: &Recurrent<'_, F>, step: ForwardStep<'_, F>) {
        let hidden = weights.hidden;
        let before = Matrix::new(step.hidden_before, step.lengths.len(), hidden);
        let weight = Matrix::new(&weights.transposed, hidden, 4 * hidden);
        multiply(step.gates, 4 * hidden, before, weight, true, Threads::One);
        for (row, &length) in step.lengths.iter().enumerate() {
            let part = row * hidden..(row + 1) * hidden;
            let (cell, out) = (&mut step.cell[part.clone()], &mut step.hidden[part.clone()]);
            let cell_before = &step.cell_before[part.clone()];
            if step.step >= length {
                cell.copy_from_slice(cell_before);
                out.copy_from_slice(&step.hidden_before[part]);
                continue;
            }
            let gates = &mut step.gates[row * 4 * hidden..(row + 1) * 4 * hidden];
            new_cell(gates, cell_before, cell);
            if !step.probe_cell.is_empty() {
                add(cell, &step.probe_cell[part.clone()]);
            }
            new_hidden(gates, cell, &mut step.extra[part], out);
        }
    }

    fn backward(&self, weights: &Recurrent<'_, F>, step: BackwardStep<'_, F>) {
        let hidden = weights.hidden;
        for (row, &length) in step.lengths.iter().enumerate() {
            let part = row * hidden..(row + 1) * hidden;
            let gates = &mut step.gates[row * 4 * hidden..(row + 1) * 4 * hidden];
            if step.step >= length {
                gates.fill(F::ZERO);
                continue;
            }
            let grad_hidden = &mut step.grad_hidden[part.clone()];
            let grad_cell = &mut step.grad_cell[part.clone()];
            let tanh_cell = &step.extra[part.clone()];
            total_cell_gradient(gates, tanh_cell, grad_hidden, grad_cell);
            if !step.probe_cell.is_empty() {
                step.probe_cell[part.clone()].copy_from_slice(grad_cell);
            }
            derive(gates, tanh_cell, &step.cell_before[part], grad_hidden, grad_cell);
            grad_hidden.fill(F::ZERO);
        }
        let gates = Matrix::new(step.gates, step.lengths.len(), 4 * hidden);
        let weight = Matrix::new(weights.weight, 4 * hidden, hidden);
        multiply(step.grad_hidden, hidden, gates, weight, true, Threads::One);
    }

    fn weight_gradient(&self, out: &mut [F], gates: &[F], _: &[F], before: &[F], hidden: usize) {
        let rows = before.len() / hidden;
        let gates = Matrix::new(gates, rows, 4 * hidden).t();
        multiply(out, hidden, gates, Matrix::new(before, rows, hidden), true, Threads::All);
    }
}

/// The four gates of one row.
#[inline(always)]
fn quarters<F>(gates: &mut [F]) -> (&mut [F], &mut [F], &mut [F], &mut [F]) {
    let hidden = gates.len() / 4;
    let (input, rest) = gates.split_at_mut(hidden);
    let (forget, rest) = rest.split_at_mut(hidden);
    let (candidate, output) = rest.split_at_mut(hidden);
    (input, forget, candidate, output)
}

multiversion! {
    fn new_cell<F: Real>(gates: &mut [F], before: &[F], cell: &mut [F]) {
        let (input, forget, candidate, output) = quarters(gates);
        let n = cell.len();
        let (input, forget) = (&mut input[..n], &mut forget[..n]);
        let (candidate, output, before) = (&mut candidate[..n], &mut output[..n], &before[..n]);
        for j in 0..n {
            input[j] = input[j].sigmoid();
            forget[j] = forget[j].sigmoid();
            candidate[j] = candidate[j].tanh();
            output[j] = output[j].sigmoid();
            cell[j] = forget[j] * before[j] + input[j] * candidate[j];
        }
    }
}

multiversion! {
    fn new_hidden<F: Real>(gates: &mut [F], cell: &[F], tanh_cell: &mut [F], hidden: &mut [F]) {
        let n = hidden.len();
        let (_, _, _, output) = quarters(gates);
        let (output, cell, tanh_cell) = (&output[..n], &cell[..n], &mut tanh_cell[..n]);
        for j in 0..n {
            tanh_cell[j] = cell[j].tanh();
            hidden[j] = output[j] * tanh_cell[j];
        }
    }
}

multiversion! {
    /// Adds to `dL/dc` what comes through this step's hidden state.
    fn total_cell_gradient<F: Real>(
        gates: &mut [F], tanh_cell: &[F], grad_hidden: &[F], grad_cell: &mut [F],
    ) {
        let n = grad_cell.len();
        let (_, _, _, output) = quarters(gates);
        let (output, tanh_cell, grad_hidden) = (&output[..n], &tanh_cell[..n], &grad_hidden[..n]);
        for j in 0..n {
            grad_cell[j] += grad_hidden[j] * output[j] * (F::ONE - tanh_cell[j] * tanh_cell[j]);
        }
    }
}

multiversion! {
    /// Gates become the gradients of their pre-activations, `grad_cell` that of the cell before.
    fn derive<F: Real>(
        gates: &mut [F], tanh_cell: &[F], cell_before: &[F], grad_hidden: &[F], grad_cell: &mut [F],
    ) {
        let n = grad_cell.len();
        let (input, forget, candidate, output) = quarters(gates);
        let (input, forget) = (&mut input[..n], &mut forget[..n]);
        let (candidate, output) = (&mut candidate[..n], &mut output[..n]);
        let (tanh_cell, cell_before) = (&tanh_cell[..n], &cell_before[..n]);
        let grad_hidden = &grad_hidden[..n];
        for j in 0..n {
            let (i, f, g, o) = (input[j], forget[j], candidate[j], output[j]);
            let grad = grad_cell[j];
            input[j] = grad * g * i * (F::ONE - i);
            forget[j] = grad * cell_before[j] * f * (F::ONE - f);
            candidate[j] = grad * i * (F::ONE - g * g);
            output[j] = grad_hidden[j] * tanh_cell[j] * o * (F::ONE - o);
            grad_cell[j] = grad * f;
        }
    }
}
