//! The vanilla cell: `h' = phi(W_ih x + W_hh h + b)`.

use crate::isa::multiversion;
use crate::product::{Matrix, Threads, multiply};
use crate::real::Real;
use crate::recurrent::Nonlinearity;
use crate::sequence::{BackwardStep, ForwardStep, Recurrent, SequenceCell};

/// See the module.
pub(crate) struct Rnn(pub(crate) Nonlinearity);

impl<F: Real> SequenceCell<F> for Rnn {
    const GATES: usize = 1;
    const EXTRA: bool = false;
    const CELL: bool = false;

    fn merges_bias(&self, _gate: usize) -> bool {
        true
    }

    fn forward(&self, weights: &Recurrent<'_, F>, step: ForwardStep<'_, F>) {
        let hidden = weights.hidden;
        let rows = step.lengths.len();
        let before = Matrix::new(step.hidden_before, rows, hidden);
        let weight = Matrix::new(&weights.transposed, hidden, hidden);
        multiply(step.gates, hidden, before, weight, true, Threads::One);
        activate(self.0, step.gates);
        let blocks = step.gates.chunks_exact(hidden).zip(step.hidden_before.chunks_exact(hidden));
        let blocks = blocks.zip(step.hidden.chunks_exact_mut(hidden)).zip(step.lengths);
        for (((gates, before), out), &length) in blocks {
            out.copy_from_slice(if step.step < length { gates } else { before });
        }
    }

    fn backward(&self, weights: &Recurrent<'_, F>, step: BackwardStep<'_, F>) {
        let hidden = weights.hidden;
        let rows = step.lengths.len();
        let blocks = step.gates.chunks_exact_mut(hidden);
        let blocks = blocks.zip(step.grad_hidden.chunks_exact_mut(hidden)).zip(step.lengths);
        for ((gates, grad), &length) in blocks {
            if step.step < length {
                derive(self.0, gates, grad);
                grad.fill(F::ZERO);
            } else {
                gates.fill(F::ZERO);
            }
        }
        let gates = Matrix::new(step.gates, rows, hidden);
        let weight = Matrix::new(weights.weight, hidden, hidden);
        multiply(step.grad_hidden, hidden, gates, weight, true, Threads::One);
    }

    fn weight_gradient(&self, out: &mut [F], gates: &[F], _: &[F], before: &[F], hidden: usize) {
        let rows = before.len() / hidden;
        let gates = Matrix::new(gates, rows, hidden).t();
        multiply(out, hidden, gates, Matrix::new(before, rows, hidden), true, Threads::All);
    }
}

multiversion! {
    fn activate<F: Real>(nonlinearity: Nonlinearity, values: &mut [F]) {
        match nonlinearity {
            Nonlinearity::Tanh => values.iter_mut().for_each(|v| *v = v.tanh()),
            // Written so that NaN stays NaN.
            Nonlinearity::Relu => {
                values.iter_mut().for_each(|v| *v = if *v < F::ZERO { F::ZERO } else { *v });
            }
            Nonlinearity::Identity => {}
        }
    }
}

multiversion! {
    /// `activated` becomes the gradient of the pre-activation.
    fn derive<F: Real>(nonlinearity: Nonlinearity, activated: &mut [F], grad: &[F]) {
        let pairs = activated.iter_mut().zip(grad);
        match nonlinearity {
            Nonlinearity::Tanh => pairs.for_each(|(v, &g)| *v = g * (F::ONE - *v * *v)),
            Nonlinearity::Relu => {
                pairs.for_each(|(v, &g)| *v = if *v > F::ZERO { g } else { F::ZERO });
            }
            Nonlinearity::Identity => pairs.for_each(|(v, &g)| *v = g),
        }
    }
}
