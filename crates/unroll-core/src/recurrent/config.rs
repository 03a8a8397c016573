//! Options of a stack of recurrent layers, and its cost.

use serde::{Deserialize, Serialize};

use crate::architecture::{OptionDoc, require_positive, require_probability};
use crate::{Cost, Result};

/// Options that every recurrent architecture has. Each architecture's own configuration repeats
/// these fields, so that one flat table configures it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StackConfig {
    /// Input features per step (`I`).
    pub input_size: usize,
    /// Hidden size (`H`).
    pub hidden_size: usize,
    /// Layers (`L`), each on the outputs of the one below.
    pub num_layers: usize,
    /// Whether each layer also reads backwards; outputs are then `2 H` wide.
    pub bidirectional: bool,
    /// Whether layers have biases.
    pub bias: bool,
    /// Dropout on the outputs of each layer but the last.
    pub dropout: f64,
}

impl Default for StackConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_layers: 1,
            bidirectional: false,
            bias: true,
            dropout: 0.0,
        }
    }
}

/// Documentation of [`StackConfig`]'s fields.
pub const STACK_OPTIONS: [OptionDoc; 6] = [
    OptionDoc { name: "input_size", help: "input features per step; set by the task" },
    OptionDoc { name: "hidden_size", help: "hidden size" },
    OptionDoc { name: "num_layers", help: "layers" },
    OptionDoc { name: "bidirectional", help: "also read backwards: true or false" },
    OptionDoc { name: "bias", help: "biases: true or false" },
    OptionDoc { name: "dropout", help: "dropout between layers, 0 <= p < 1" },
];

impl StackConfig {
    /// Checks the sizes.
    ///
    /// # Errors
    /// When a size is 0 or `dropout` is no probability.
    pub fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("hidden_size", self.hidden_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_probability("dropout", self.dropout)
    }

    pub(super) fn directions(&self) -> usize {
        if self.bidirectional { 2 } else { 1 }
    }

    pub(super) fn layer_inputs(&self, layer: usize) -> usize {
        if layer == 0 { self.input_size } else { self.hidden_size * self.directions() }
    }

    /// Cost of a stack whose cells have `gates` gates and `states` state vectors.
    pub fn cost(&self, gates: usize, states: usize, batch: usize, seq_len: usize) -> Cost {
        let (gates, hidden) = (gates as u64, self.hidden_size as u64);
        let (batch, rows) = (batch as u64, batch.saturating_mul(seq_len) as u64);
        let mut total = Cost::default();
        for layer in 0..self.num_layers {
            let inputs = self.layer_inputs(layer) as u64;
            let biases = if self.bias { 2 * gates * hidden } else { 0 };
            let weights = (gates * hidden).saturating_mul(inputs + hidden);
            let forward_flops = rows.saturating_mul(weights).saturating_mul(2);
            let one = Cost {
                parameters: weights.saturating_add(biases),
                forward_flops,
                backward_flops: forward_flops.saturating_mul(2),
                state_elements: batch.saturating_mul(states as u64 * hidden),
                activation_elements: rows.saturating_mul(inputs + hidden * (gates + states as u64)),
            };
            for _ in 0..self.directions() {
                total = total + one;
            }
        }
        total
    }
}
