//! Gated recurrent units, in both published forms and both conventions of the update gate.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{BuildContext, Family, ModelConfig, OptionDoc};
use unroll_core::parameters::MemoryGate;
use unroll_core::recurrent::{
    Cell, CellState, LayerArgs, LayerWeights, RecurrentStack, STACK_OPTIONS, StackConfig,
};
use unroll_core::{Cost, Error, GateName, Result, SequenceModel, ops};
use unroll_kernels::{CellKind, GruReset, GruUpdate};

/// Where the reset gate is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// `n = tanh(W x + b_in + r * (U h + b_hn))`: PyTorch, cuDNN, version 1 of the paper.
    #[default]
    After,
    /// `n = tanh(W x + U (r * h) + b)`: version 3 of the paper, Keras `reset_after=False`.
    Before,
}

/// What an open update gate does. Negating `W_z`, `U_z` and `b_z` turns one into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateGate {
    /// `h' = (1 - z) n + z h`: PyTorch, Cho et al. (2014).
    #[default]
    KeepOld,
    /// `h' = (1 - z) h + z n`: Chung et al. (2014).
    TakeNew,
}

/// The cell of Cho et al. (2014), arXiv 1406.1078: `r = sigma(W_r x + U_r h + b_r)`,
/// `z = sigma(W_z x + U_z h + b_z)`, then as [`Reset`] and [`UpdateGate`] say. Gates in PyTorch's
/// order r, z, n.
#[derive(Debug, Clone, Copy)]
pub struct GruCell {
    /// Where the reset gate is applied.
    pub reset: Reset,
    /// What an open update gate does.
    pub update_gate: UpdateGate,
}

impl Cell for GruCell {
    const GATES: usize = 3;
    const HAS_CELL_STATE: bool = false;
    const GATE_NAMES: &'static [GateName] =
        &[GateName::Reset, GateName::Update, GateName::Candidate];

    fn memory_gate(&self) -> Option<MemoryGate> {
        let sign = match self.update_gate {
            UpdateGate::KeepOld => 1.0,
            UpdateGate::TakeNew => -1.0,
        };
        Some(MemoryGate { gate: 1, sign, input_gate: None, bias: None })
    }

    fn preactivations(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        h: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let size = h.dim(D::Minus1)?;
        let gate = |x: &Tensor, index: usize| x.narrow(D::Minus1, index * size, size);
        let weight =
            |index: usize, count: usize| weights.weight_hh.narrow(0, index * size, count * size);
        let bias = |index: usize, count: usize| {
            weights.bias_hh.as_ref().map(|b| b.narrow(0, index * size, count * size)).transpose()
        };
        let recurrent = ops::linear(h, &weight(0, 2)?, bias(0, 2)?.as_ref())?;
        let reset = (gate(projected, 0)? + gate(&recurrent, 0)?)?;
        let update = (gate(projected, 1)? + gate(&recurrent, 1)?)?;
        let open = ops::sigmoid(&reset)?;
        let candidate = match self.reset {
            Reset::After => (open * ops::linear(h, &weight(2, 1)?, bias(2, 1)?.as_ref())?)?,
            Reset::Before => ops::linear(&(open * h)?, &weight(2, 1)?, bias(2, 1)?.as_ref())?,
        };
        let candidate = (gate(projected, 2)? + candidate)?;
        Ok(vec![reset, update, candidate])
    }

    fn step(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        state: &CellState,
        _probe_cell: Option<&Tensor>,
    ) -> Result<CellState> {
        let h = &state.hidden;
        let gates = self.preactivations(projected, weights, h)?;
        let [_, update, candidate] = gates.as_slice() else {
            return Err(Error::shape("gates", [gates.len()], "three of a GRU"));
        };
        let (update, candidate) = (ops::sigmoid(update)?, candidate.tanh()?);
        let closed = update.affine(-1.0, 1.0)?;
        let hidden = match self.update_gate {
            UpdateGate::KeepOld => ((closed * candidate)? + (update * h)?)?,
            UpdateGate::TakeNew => ((update * candidate)? + (closed * h)?)?,
        };
        Ok(CellState { hidden, cell: None })
    }

    fn fused(&self, args: &LayerArgs<'_>) -> Result<Option<(Tensor, CellState)>> {
        let reset = match self.reset {
            Reset::After => GruReset::After,
            Reset::Before => GruReset::Before,
        };
        let update = match self.update_gate {
            UpdateGate::KeepOld => GruUpdate::KeepOld,
            UpdateGate::TakeNew => GruUpdate::TakeNew,
        };
        unroll_core::fused::run(CellKind::Gru(reset, update), args)
    }
}

/// Options of the architecture `gru`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GruConfig {
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
    /// Where the reset gate is applied.
    pub reset: Reset,
    /// What an open update gate does.
    pub update_gate: UpdateGate,
}

impl Default for GruConfig {
    fn default() -> Self {
        let StackConfig { input_size, hidden_size, num_layers, bidirectional, bias, dropout } =
            StackConfig::default();
        Self {
            input_size,
            hidden_size,
            num_layers,
            bidirectional,
            bias,
            dropout,
            reset: Reset::After,
            update_gate: UpdateGate::KeepOld,
        }
    }
}

impl GruConfig {
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

const RESET: OptionDoc = OptionDoc {
    name: "reset",
    help: "reset gate after (PyTorch) or before the recurrent product: after or before",
};
const UPDATE_GATE: OptionDoc = OptionDoc {
    name: "update_gate",
    help: "an open update gate keeps the old state (PyTorch) or takes the new: keep_old or take_new",
};

impl ModelConfig for GruConfig {
    const FAMILY: Family = Family::Recurrent;

    const OPTIONS: &'static [OptionDoc] = &{
        let [a, b, c, d, e, f] = STACK_OPTIONS;
        [a, b, c, d, e, f, RESET, UPDATE_GATE]
    };

    fn validate(&self) -> Result<()> {
        self.stack().validate()
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        self.validate()?;
        let cell = GruCell { reset: self.reset, update_gate: self.update_gate };
        Ok(Box::new(RecurrentStack::new(cell, self.stack(), context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.stack().cost(3, 1, batch, seq_len)
    }
}
