//! What a model costs, counted and not measured.

use serde::{Deserialize, Serialize};

/// Cost of one model at a given batch size and sequence length.
///
/// A multiply-add counts as two FLOPs. Products dominate every architecture here; element-wise
/// work is counted where it grows with the sequence squared (softmax) and left out elsewhere. What is
/// beyond 64 bits stays at their largest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Trainable parameters (elements).
    pub parameters: u64,
    /// FLOPs of one forward pass over `(B, T)`.
    pub forward_flops: u64,
    /// FLOPs of the backward pass to parameters and input.
    pub backward_flops: u64,
    /// Elements of the state after `T` steps, for the whole batch.
    pub state_elements: u64,
    /// Elements kept from forward to backward by the form that runs, for the whole batch.
    pub activation_elements: u64,
}

impl Cost {
    /// FLOPs of a training step: forward and backward.
    pub fn training_flops(&self) -> u64 {
        self.forward_flops.saturating_add(self.backward_flops)
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    /// Two parts of one model, run one after the other.
    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters.saturating_add(other.parameters),
            forward_flops: self.forward_flops.saturating_add(other.forward_flops),
            backward_flops: self.backward_flops.saturating_add(other.backward_flops),
            state_elements: self.state_elements.saturating_add(other.state_elements),
            activation_elements: self.activation_elements.saturating_add(other.activation_elements),
        }
    }
}

/// Cost of `linear(in -> out)` applied to `rows` rows.
pub fn linear(rows: u64, inputs: u64, outputs: u64, bias: bool) -> Cost {
    let weights = inputs.saturating_mul(outputs);
    let flops = rows.saturating_mul(weights).saturating_mul(2);
    Cost {
        parameters: weights.saturating_add(if bias { outputs } else { 0 }),
        forward_flops: flops,
        backward_flops: flops.saturating_mul(2),
        state_elements: 0,
        activation_elements: rows.saturating_mul(outputs),
    }
}
