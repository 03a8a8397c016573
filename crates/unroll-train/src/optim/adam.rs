//! Adam and AdamW.

use candle_core::{Result, Tensor};

use super::{Real, Rule, Step};

/// `torch.optim.Adam` and `AdamW`: `m += (1 - b1)(g - m)`, `v = b2 v + (1 - b2) g^2`,
/// `p -= lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + epsilon)`. Weight decay is added to the
/// gradient (`g += decay p`) or, decoupled, taken from the parameter first (`p *= 1 - lr decay`).
#[derive(Debug, Clone, Copy)]
pub(super) struct Adam {
    pub(super) betas: [f64; 2],
    pub(super) epsilon: f64,
    pub(super) weight_decay: f64,
    pub(super) decoupled: bool,
}

/// Factors of one step, in f64.
struct Factors {
    /// Of the parameter, before the step.
    shrink: f64,
    /// Of the parameter, in the gradient.
    decay: f64,
    /// `lr / (1 - b1^t)`.
    rate: f64,
    /// `sqrt(1 - b2^t)`.
    correction: f64,
}

impl Adam {
    fn factors(&self, step: &Step) -> Factors {
        let power = |beta: f64| beta.powf(step.number as f64);
        let [beta1, beta2] = self.betas;
        let decoupled = if self.decoupled { self.weight_decay } else { 0.0 };
        Factors {
            shrink: 1.0 - step.learning_rate * decoupled,
            decay: self.weight_decay - decoupled,
            rate: step.learning_rate / (1.0 - power(beta1)),
            correction: (1.0 - power(beta2)).sqrt(),
        }
    }
}

impl Rule for Adam {
    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn update_slice<R: Real>(
        &self,
        step: &Step,
        values: &mut [R],
        gradients: &[R],
        state: &mut [Vec<R>],
    ) {
        let [means, squares] = state else { return };
        let factors = self.factors(step);
        let clip = step.clip();
        let (shrink, decay) = (R::from_f64(factors.shrink), R::from_f64(factors.decay));
        let (rate, correction) = (R::from_f64(factors.rate), R::from_f64(factors.correction));
        let [beta1, beta2] = self.betas;
        let (rest1, rest2) = (R::from_f64(1.0 - beta1), R::from_f64(1.0 - beta2));
        let (beta2, epsilon) = (R::from_f64(beta2), R::from_f64(self.epsilon));
        let entries = values.iter_mut().zip(gradients).zip(means.iter_mut().zip(squares));
        for ((value, &gradient), (mean, square)) in entries {
            let gradient = clip(gradient) + decay * *value;
            *mean = *mean + rest1 * (gradient - *mean);
            *square = beta2 * *square + rest2 * gradient * gradient;
            let root = square.sqrt() / correction + epsilon;
            *value = shrink * *value - rate * (*mean / root);
        }
    }

    fn update_tensor(
        &self,
        step: &Step,
        value: &Tensor,
        gradient: &Tensor,
        state: &mut [Tensor],
    ) -> Result<Tensor> {
        let [mean, square] = state else { return Ok(value.clone()) };
        let factors = self.factors(step);
        let [beta1, beta2] = self.betas;
        let gradient = if factors.decay == 0.0 {
            gradient.clone()
        } else {
            (gradient + value.affine(factors.decay, 0.0)?)?
        };
        *mean = (&*mean + (&gradient - &*mean)?.affine(1.0 - beta1, 0.0)?)?;
        *square = (square.affine(beta2, 0.0)? + gradient.sqr()?.affine(1.0 - beta2, 0.0)?)?;
        let root = square.sqrt()?.affine(1.0 / factors.correction, self.epsilon)?;
        let change = (&*mean / root)?.affine(factors.rate, 0.0)?;
        value.affine(factors.shrink, 0.0)? - change
    }
}
