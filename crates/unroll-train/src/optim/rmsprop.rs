//! RMSprop.

use candle_core::{Result, Tensor};

use super::{Real, Rule, Step};

/// `torch.optim.RMSprop`, not centred: `g += decay p`, `s = alpha s + (1 - alpha) g^2`,
/// `d = g / (sqrt(s) + epsilon)`; `p -= lr d`, or with momentum `v = momentum v + d`, `p -= lr v`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RmsProp {
    pub(super) alpha: f64,
    pub(super) epsilon: f64,
    pub(super) momentum: f64,
    pub(super) weight_decay: f64,
}

impl Rule for RmsProp {
    fn slots(&self) -> &'static [&'static str] {
        if self.momentum == 0.0 { &["square_avg"] } else { &["square_avg", "momentum_buffer"] }
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
        let (alpha, rest) = (R::from_f64(self.alpha), R::from_f64(1.0 - self.alpha));
        let epsilon = R::from_f64(self.epsilon);
        let direction = |value: R, gradient: R, square: &mut R| {
            let gradient = clip(gradient) + decay * value;
            *square = alpha * *square + rest * gradient * gradient;
            gradient / (square.sqrt() + epsilon)
        };
        let pairs = values.iter_mut().zip(gradients);
        match state {
            [squares] => {
                for ((value, &gradient), square) in pairs.zip(squares) {
                    *value = *value - rate * direction(*value, gradient, square);
                }
            }
            [squares, velocities] => {
                for (((value, &gradient), square), velocity) in pairs.zip(squares).zip(velocities) {
                    *velocity = momentum * *velocity + direction(*value, gradient, square);
                    *value = *value - rate * *velocity;
                }
            }
            _ => {}
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
        let [square, velocity @ ..] = state else { return Ok(value.clone()) };
        let new = gradient.sqr()?.affine(1.0 - self.alpha, 0.0)?;
        *square = (square.affine(self.alpha, 0.0)? + new)?;
        let mut direction = (gradient / (square.sqrt()? + self.epsilon)?)?;
        if let [velocity] = velocity {
            *velocity = (velocity.affine(self.momentum, 0.0)? + direction)?;
            direction = velocity.clone();
        }
        value - direction.affine(step.learning_rate, 0.0)?
    }
}
