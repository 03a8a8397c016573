//! The GRU cell, gates in PyTorch's order r, z, n; reset before or after the recurrent product, and
//! both conventions of the update gate.

use crate::isa::multiversion;
use crate::product::{Matrix, Threads, multiply};
use crate::real::Real;
use crate::recurrent::{GruReset, GruUpdate};
use crate::sequence::{BackwardStep, ForwardStep, Recurrent, SequenceCell};

/// See the module. With the reset after the product, `extra` holds `U_n h + b_hn` and after backward
/// the gradient of it; with the reset before, it holds `r * h`.
pub(crate) struct Gru {
    pub(crate) reset: GruReset,
    pub(crate) update: GruUpdate,
}

impl<F: Real> SequenceCell<F> for Gru {
    const GATES: usize = 3;
    const EXTRA: bool = true;
    const CELL: bool = false;

    fn merges_bias(&self, gate: usize) -> bool {
        // b_hn sits inside `r * (...)` when the reset comes after the product.
        gate < 2 || self.reset == GruReset::Before
    }

    fn forward(&self, weights: &Recurrent<'_, F>, step: ForwardStep<'_, F>) {
        let (hidden, rows) = (weights.hidden, step.lengths.len());
        let width = 3 * hidden;
        let before = Matrix::new(step.hidden_before, rows, hidden);
        let reset_update = Matrix::strided(&weights.transposed, hidden, 2 * hidden, width);
        let candidate = Matrix::strided(&weights.transposed[2 * hidden..], hidden, hidden, width);
        multiply(step.gates, width, before, reset_update, true, Threads::One);
        match self.reset {
            GruReset::After => {
                for row in step.extra.chunks_exact_mut(hidden) {
                    match weights.bias.get(2 * hidden..) {
                        Some(bias) => row.copy_from_slice(bias),
                        None => row.fill(F::ZERO),
                    }
                }
                multiply(step.extra, hidden, before, candidate, true, Threads::One);
                open_gates(step.gates, hidden);
                reset_after(step.gates, step.extra, hidden);
            }
            GruReset::Before => {
                open_gates(step.gates, hidden);
                reset_before(step.gates, step.hidden_before, step.extra, hidden);
                let kept = Matrix::new(step.extra, rows, hidden);
                let out = &mut step.gates[2 * hidden..];
                multiply(out, width, kept, candidate, true, Threads::One);
            }
        }
        candidate_tanh(step.gates, hidden);
        let keep_old = self.update == GruUpdate::KeepOld;
        for (row, &length) in step.lengths.iter().enumerate() {
            let part = row * hidden..(row + 1) * hidden;
            let (old, out) = (&step.hidden_before[part.clone()], &mut step.hidden[part]);
            if step.step < length {
                mix(keep_old, &step.gates[row * width..(row + 1) * width], old, out);
            } else {
                out.copy_from_slice(old);
            }
        }
    }

    fn backward(&self, weights: &Recurrent<'_, F>, step: BackwardStep<'_, F>) {
        let (hidden, rows) = (weights.hidden, step.lengths.len());
        let width = 3 * hidden;
        let keep_old = self.update == GruUpdate::KeepOld;
        for (row, &length) in step.lengths.iter().enumerate() {
            let part = row * hidden..(row + 1) * hidden;
            let gates = &mut step.gates[row * width..(row + 1) * width];
            if step.step < length {
                let grad = &mut step.grad_hidden[part.clone()];
                derive_mix(keep_old, gates, &step.hidden_before[part.clone()], grad);
                if self.reset == GruReset::After {
                    derive_reset_after(gates, &mut step.extra[part]);
                }
            } else {
                gates.fill(F::ZERO);
                step.extra[part].fill(F::ZERO);
            }
        }
        let candidate = Matrix::new(&weights.weight[2 * hidden * hidden..], hidden, hidden);
        match self.reset {
            GruReset::After => {
                let grad = Matrix::new(step.extra, rows, hidden);
                multiply(step.grad_hidden, hidden, grad, candidate, true, Threads::One);
            }
            GruReset::Before => {
                let grad = Matrix::strided(&step.gates[2 * hidden..], rows, hidden, width);
                multiply(step.scratch, hidden, grad, candidate, false, Threads::One);
                for (row, _) in step.lengths.iter().enumerate() {
                    let part = row * hidden..(row + 1) * hidden;
                    derive_reset_before(
                        &mut step.gates[row * width..(row + 1) * width],
                        &step.scratch[part.clone()],
                        &step.hidden_before[part.clone()],
                        &mut step.grad_hidden[part],
                    );
                }
            }
        }
        let gates = Matrix::strided(step.gates, rows, 2 * hidden, width);
        let weight = Matrix::new(weights.weight, 2 * hidden, hidden);
        multiply(step.grad_hidden, hidden, gates, weight, true, Threads::One);
    }

    fn weight_gradient(
        &self,
        out: &mut [F],
        gates: &[F],
        extra: &[F],
        before: &[F],
        hidden: usize,
    ) {
        let (rows, width) = (before.len() / hidden, 3 * hidden);
        let (reset_update, candidate) = out.split_at_mut(2 * hidden * hidden);
        let before = Matrix::new(before, rows, hidden);
        let grad = Matrix::strided(gates, rows, 2 * hidden, width).t();
        multiply(reset_update, hidden, grad, before, true, Threads::All);
        let extra = Matrix::new(extra, rows, hidden);
        let (grad, factor) = match self.reset {
            GruReset::After => (extra, before),
            GruReset::Before => (Matrix::strided(&gates[2 * hidden..], rows, hidden, width), extra),
        };
        multiply(candidate, hidden, grad.t(), factor, true, Threads::All);
    }

    fn bias_gradient(&self, gates: &[F], extra: &[F]) -> Vec<F> {
        let mut bias = gates.to_vec();
        if self.reset == GruReset::After {
            bias[2 * extra.len()..].copy_from_slice(extra);
        }
        bias
    }
}

/// The three gates of one row.
#[inline(always)]
fn thirds<F>(gates: &mut [F]) -> (&mut [F], &mut [F], &mut [F]) {
    let hidden = gates.len() / 3;
    let (reset, rest) = gates.split_at_mut(hidden);
    let (update, candidate) = rest.split_at_mut(hidden);
    (reset, update, candidate)
}

multiversion! {
    fn open_gates<F: Real>(gates: &mut [F], hidden: usize) {
        for row in gates.chunks_exact_mut(3 * hidden) {
            row[..2 * hidden].iter_mut().for_each(|v| *v = v.sigmoid());
        }
    }
}

multiversion! {
    fn candidate_tanh<F: Real>(gates: &mut [F], hidden: usize) {
        for row in gates.chunks_exact_mut(3 * hidden) {
            row[2 * hidden..].iter_mut().for_each(|v| *v = v.tanh());
        }
    }
}

multiversion! {
    fn reset_after<F: Real>(gates: &mut [F], product: &[F], hidden: usize) {
        for (row, product) in gates.chunks_exact_mut(3 * hidden).zip(product.chunks_exact(hidden)) {
            let (reset, _, candidate) = thirds(row);
            for ((n, &r), &p) in candidate.iter_mut().zip(&*reset).zip(product) {
                *n += r * p;
            }
        }
    }
}

multiversion! {
    fn reset_before<F: Real>(gates: &mut [F], before: &[F], kept: &mut [F], hidden: usize) {
        let rows = gates.chunks_exact(3 * hidden).zip(before.chunks_exact(hidden));
        for ((row, before), kept) in rows.zip(kept.chunks_exact_mut(hidden)) {
            for ((k, &r), &h) in kept.iter_mut().zip(row).zip(before) {
                *k = r * h;
            }
        }
    }
}

multiversion! {
    fn mix<F: Real>(keep_old: bool, gates: &[F], old: &[F], out: &mut [F]) {
        let n = out.len();
        let (update, candidate, old) = (&gates[n..2 * n], &gates[2 * n..3 * n], &old[..n]);
        for j in 0..n {
            let (z, new) = (update[j], candidate[j]);
            let keep = if keep_old { z } else { F::ONE - z };
            let take = if keep_old { F::ONE - z } else { z };
            out[j] = take * new + keep * old[j];
        }
    }
}

multiversion! {
    /// `z` and `n` become the gradients of their pre-activations; `grad` the part of it that goes
    /// straight to the state before.
    fn derive_mix<F: Real>(keep_old: bool, gates: &mut [F], old: &[F], grad: &mut [F]) {
        let n = grad.len();
        let (_, update, candidate) = thirds(gates);
        let (update, candidate, old) = (&mut update[..n], &mut candidate[..n], &old[..n]);
        for j in 0..n {
            let (z, new, g) = (update[j], candidate[j], grad[j]);
            let keep = if keep_old { z } else { F::ONE - z };
            let take = if keep_old { F::ONE - z } else { z };
            let difference = if keep_old { old[j] - new } else { new - old[j] };
            update[j] = g * difference * z * (F::ONE - z);
            candidate[j] = g * take * (F::ONE - new * new);
            grad[j] = g * keep;
        }
    }
}

multiversion! {
    /// `r` becomes the gradient of its pre-activation, `product` the gradient of itself.
    fn derive_reset_after<F: Real>(gates: &mut [F], product: &mut [F]) {
        let n = product.len();
        let (reset, _, candidate) = thirds(gates);
        let (reset, candidate) = (&mut reset[..n], &candidate[..n]);
        for j in 0..n {
            let (r, g) = (reset[j], candidate[j]);
            reset[j] = g * product[j] * r * (F::ONE - r);
            product[j] = g * r;
        }
    }
}

multiversion! {
    /// From the gradient of `r * h`: `r` becomes the gradient of its pre-activation, and `grad` gains
    /// the part of `h`.
    fn derive_reset_before<F: Real>(
        gates: &mut [F], grad_kept: &[F], old: &[F], grad: &mut [F],
    ) {
        let n = grad.len();
        let (reset, _, _) = thirds(gates);
        let (reset, grad_kept, old) = (&mut reset[..n], &grad_kept[..n], &old[..n]);
        for j in 0..n {
            let (r, g) = (reset[j], grad_kept[j]);
            reset[j] = g * old[j] * r * (F::ONE - r);
            grad[j] += g * r;
        }
    }
}
