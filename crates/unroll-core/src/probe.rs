//! Zero tensors added to hidden states, to read total derivatives from.

use candle_core::{DType, Device, Var};

use crate::Result;

/// Zeros added to every hidden state of a model: `h_t = f(...) + probe_t`. The gradient of a loss
/// with respect to the probe at `t` is the total derivative `dL/dh_t`, through all later steps.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// One `(B, T, H)` per layer and direction, in PyTorch's order (layer 0, layer 0 reverse,
    /// layer 1, ...).
    pub hidden: Vec<Var>,
    /// The same for cell states (LSTM); empty for models without.
    pub cell: Vec<Var>,
}

/// Which hidden states a model can be probed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbeLayout {
    /// Layers times directions.
    pub hidden: usize,
    /// Layers times directions that hold a cell state.
    pub cell: usize,
    /// Hidden size `H`.
    pub hidden_size: usize,
}

impl ProbeLayout {
    /// A probe of zeros for a batch of `batch` sequences of `seq_len` steps.
    pub fn zeros(
        &self,
        batch: usize,
        seq_len: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Probe> {
        let shape = (batch, seq_len, self.hidden_size);
        let zeros = |count: usize| -> Result<Vec<Var>> {
            (0..count).map(|_| Ok(Var::zeros(shape, dtype, device)?)).collect()
        };
        Ok(Probe { hidden: zeros(self.hidden)?, cell: zeros(self.cell)? })
    }
}
