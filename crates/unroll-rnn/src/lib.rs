//! Vanilla (Elman) recurrent networks.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{BuildContext, Family, ModelConfig, OptionDoc};
use unroll_core::parameters::MemoryGate;
use unroll_core::recurrent::{
    Cell, CellState, LayerArgs, LayerWeights, RecurrentStack, STACK_OPTIONS, StackConfig,
};
use unroll_core::{Cost, Result, SequenceModel, ops};
use unroll_kernels::CellKind;

/// Activation of the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    #[default]
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// None: a linear recurrence, whose gradients have closed forms.
    Identity,
}

/// The cell of Elman (1990): `h' = phi(W_ih x + b_ih + W_hh h + b_hh)`.
#[derive(Debug, Clone, Copy)]
pub struct RnnCell {
    /// `phi`.
    pub nonlinearity: Nonlinearity,
}

impl Cell for RnnCell {
    const GATES: usize = 1;
    const HAS_CELL_STATE: bool = false;

    fn memory_gate(&self) -> Option<MemoryGate> {
        None
    }

    fn step(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        state: &CellState,
        _probe_cell: Option<&Tensor>,
    ) -> Result<CellState> {
        let recurrent = ops::linear(&state.hidden, &weights.weight_hh, weights.bias_hh.as_ref())?;
        let sum = (projected + recurrent)?;
        let hidden = match self.nonlinearity {
            Nonlinearity::Tanh => sum.tanh()?,
            Nonlinearity::Relu => sum.relu()?,
            Nonlinearity::Identity => sum,
        };
        Ok(CellState { hidden, cell: None })
    }

    fn fused(&self, args: &LayerArgs<'_>) -> Result<Option<(Tensor, CellState)>> {
        unroll_core::fused::run(
            CellKind::Rnn(match self.nonlinearity {
                Nonlinearity::Tanh => unroll_kernels::Nonlinearity::Tanh,
                Nonlinearity::Relu => unroll_kernels::Nonlinearity::Relu,
                Nonlinearity::Identity => unroll_kernels::Nonlinearity::Identity,
            }),
            args,
        )
    }
}

/// Options of the architecture `rnn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RnnConfig {
    /// Input features per step (`I`).
    pub input_size: usize,
    /// Hidden size (`H`).
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Whether each layer also reads backwards.
    pub bidirectional: bool,
    /// Whether layers have biases.
    pub bias: bool,
    /// Dropout between layers.
    pub dropout: f64,
    /// Activation.
    pub nonlinearity: Nonlinearity,
}

impl Default for RnnConfig {
    fn default() -> Self {
        let StackConfig { input_size, hidden_size, num_layers, bidirectional, bias, dropout } =
            StackConfig::default();
        let nonlinearity = Nonlinearity::Tanh;
        Self { input_size, hidden_size, num_layers, bidirectional, bias, dropout, nonlinearity }
    }
}

impl RnnConfig {
    fn stack(&self) -> StackConfig {
        StackConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            bidirectional: self.bidirectional,
            bias: self.bias,
            dropout: self.dropout,
        }
    }
}

const NONLINEARITY: OptionDoc = OptionDoc { name: "nonlinearity", help: "tanh, relu or identity" };

impl ModelConfig for RnnConfig {
    const FAMILY: Family = Family::Recurrent;

    const OPTIONS: &'static [OptionDoc] = &{
        let [a, b, c, d, e, f] = STACK_OPTIONS;
        [a, b, c, d, e, f, NONLINEARITY]
    };

    fn validate(&self) -> Result<()> {
        self.stack().validate()
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        self.validate()?;
        let cell = RnnCell { nonlinearity: self.nonlinearity };
        Ok(Box::new(RecurrentStack::new(cell, self.stack(), context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.stack().cost(1, 1, batch, seq_len)
    }
}
