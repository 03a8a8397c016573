//! Stochastic gradient descent.

use candle_core::{Result, Tensor};

use super::{Real, Rule, Step};

/// `torch.optim.SGD` with dampening 0: `g += decay p`, `v = momentum v + g`, `p -= lr v`; with
/// Nesterov's look-ahead `p -= lr (g + momentum v)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sgd {
    pub(super) momentum: f64,
    pub(super) nesterov: bool,
    pub(super) weight_decay: f64,
}

impl Rule for Sgd {
    fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &[] } else { &["momentum_buffer"] }
    }

    fn update_slice<R: Real>(
        &self,
        step: &Step,
        values: &mut [R],
        gradients: &[R],
        state: &mut [Vec<R>],
    ) {
        let clip = step.clip();
        let rate = R::from_f64(step.learning_rate);
        let (momentum, decay) = (R::from_f64(self.momentum), R::from_f64(self.weight_decay));
        let pairs = values.iter_mut().zip(gradients);
        let [velocities] = state else {
            for (value, &gradient) in pairs {
                *value = *value - rate * (clip(gradient) + decay * *value);
            }
            return;
        };
        for ((value, &gradient), velocity) in pairs.zip(velocities) {
            let gradient = clip(gradient) + decay * *value;
            *velocity = momentum * *velocity + gradient;
            let direction = if self.nesterov { gradient + momentum * *velocity } else { *velocity };
            *value = *value - rate * direction;
        }
    }

    fn update_tensor(
        &self,
        step: &Step,
        value: &Tensor,
        gradient: &Tensor,
        state: &mut [Tensor],
    ) -> Result<Tensor> {
        let gradient = (gradient + value.affine(self.weight_decay, 0.0)?)?;
        let direction = match state {
            [velocity] => {
                *velocity = (velocity.affine(self.momentum, 0.0)? + &gradient)?;
                if self.nesterov {
                    (gradient + velocity.affine(self.momentum, 0.0)?)?
                } else {
                    velocity.clone()
                }
            }
            _ => gradient,
        };
        value - direction.affine(step.learning_rate, 0.0)?
    }
}
