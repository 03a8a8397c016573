//! Long short-term memory.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{BuildContext, Family, ModelConfig, OptionDoc};
use unroll_core::parameters::MemoryGate;
use unroll_core::recurrent::{
    Cell, CellState, LayerArgs, LayerWeights, RecurrentStack, STACK_OPTIONS, StackConfig,
};
use unroll_core::{Cost, Error, GateName, Result, SequenceModel, ops};
use unroll_kernels::CellKind;

/// The cell of Hochreiter & Schmidhuber (1997) with the forget gate of Gers (2000):
/// `i, f, o = sigma(.)`, `g = tanh(.)`, `c' = f * c + i * g`, `h' = o * tanh(c')`. Gates in PyTorch's
/// order i, f, g, o.
#[derive(Debug, Clone, Copy)]
pub struct LstmCell {
    /// Total forget bias at initialisation, over the initialiser's.
    pub forget_bias: Option<f64>,
}

impl Cell for LstmCell {
    const GATES: usize = 4;
    const HAS_CELL_STATE: bool = true;
    const GATE_NAMES: &'static [GateName] =
        &[GateName::Input, GateName::Forget, GateName::Candidate, GateName::Output];

    fn memory_gate(&self) -> Option<MemoryGate> {
        #[cfg(feature = "planted")]
        if std::env::var_os("UNROLL_PLANTED_NO_FORGET_BIAS").is_some() {
            return None;
        }
        Some(MemoryGate { gate: 1, sign: 1.0, input_gate: Some(0), bias: self.forget_bias })
    }

    fn preactivations(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        hidden: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let recurrent = ops::linear(hidden, &weights.weight_hh, weights.bias_hh.as_ref())?;
        let gates = (projected + recurrent)?;
        let size = hidden.dim(D::Minus1)?;
        (0..Self::GATES).map(|i| Ok(gates.narrow(D::Minus1, i * size, size)?)).collect()
    }

    fn step(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        state: &CellState,
        probe_cell: Option<&Tensor>,
    ) -> Result<CellState> {
        let before = state.cell.as_ref().ok_or_else(|| {
            Error::Unsupported("an LSTM step needs a cell state beside the hidden state".into())
        })?;
        let gates = self.preactivations(projected, weights, &state.hidden)?;
        let [input, forget, candidate, output] = gates.as_slice() else {
            return Err(Error::shape("gates", [gates.len()], "four of an LSTM"));
        };
        let (input, forget) = (ops::sigmoid(input)?, ops::sigmoid(forget)?);
        let (candidate, output) = (candidate.tanh()?, ops::sigmoid(output)?);
        let mut cell = ((forget * before)? + (input * candidate)?)?;
        if let Some(probe) = probe_cell {
            cell = (cell + probe)?;
        }
        Ok(CellState { hidden: (output * cell.tanh()?)?, cell: Some(cell) })
    }

    fn fused(&self, args: &LayerArgs<'_>) -> Result<Option<(Tensor, CellState)>> {
        unroll_core::fused::run(CellKind::Lstm, args)
    }
}

/// Options of the architecture `lstm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LstmConfig {
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
    /// Total bias of the forget gate at initialisation; `None` leaves it to the initialiser.
    pub forget_bias: Option<f64>,
}

impl Default for LstmConfig {
    fn default() -> Self {
        let StackConfig { input_size, hidden_size, num_layers, bidirectional, bias, dropout } =
            StackConfig::default();
        let forget_bias = None;
        Self { input_size, hidden_size, num_layers, bidirectional, bias, dropout, forget_bias }
    }
}

impl LstmConfig {
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

const FORGET_BIAS: OptionDoc = OptionDoc {
    name: "forget_bias",
    help: "total bias of the forget gate at initialisation (both biases together); unset leaves it \
           to the initialiser",
};

impl ModelConfig for LstmConfig {
    const FAMILY: Family = Family::Recurrent;

    const OPTIONS: &'static [OptionDoc] = &{
        let [a, b, c, d, e, f] = STACK_OPTIONS;
        [a, b, c, d, e, f, FORGET_BIAS]
    };

    fn validate(&self) -> Result<()> {
        if self.forget_bias.is_some_and(|bias| !bias.is_finite()) {
            return Err(Error::option("forget_bias", "must be a finite number"));
        }
        if self.forget_bias.is_some() && !self.bias {
            return Err(Error::option("forget_bias", "a layer without biases has no forget bias"));
        }
        self.stack().validate()
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        self.validate()?;
        let cell = LstmCell { forget_bias: self.forget_bias };
        Ok(Box::new(RecurrentStack::new(cell, self.stack(), context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.stack().cost(4, 2, batch, seq_len)
    }
}
