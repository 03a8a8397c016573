//! Recurrent layers as one operation each.

use candle_core::{Result, Tensor, bail};

use crate::buffers::{Dims, TimeOrder};
use crate::isa::Isa;
use crate::operation;

/// Activation of a vanilla RNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// None: a linear recurrence.
    Identity,
}

/// Where a GRU applies its reset gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GruReset {
    /// `n = tanh(W x + b_in + r * (U h + b_hn))` (PyTorch, cuDNN).
    After,
    /// `n = tanh(W x + U (r * h) + b)` (Cho et al. 2014).
    Before,
}

/// What an open update gate of a GRU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GruUpdate {
    /// `h' = (1 - z) n + z h` (PyTorch).
    KeepOld,
    /// `h' = (1 - z) h + z n` (Chung et al. 2014).
    TakeNew,
}

/// Which cell a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Vanilla RNN.
    Rnn(Nonlinearity),
    /// Gated recurrent unit.
    Gru(GruReset, GruUpdate),
    /// Long short-term memory.
    Lstm,
}

impl CellKind {
    pub(crate) fn gates(self) -> usize {
        match self {
            Self::Rnn(_) => 1,
            Self::Gru(..) => 3,
            Self::Lstm => 4,
        }
    }
}

/// One layer in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The cell.
    pub kind: CellKind,
    /// `(B, T, I)`.
    pub input: &'a Tensor,
    /// `(G*H, I)`.
    pub weight_ih: &'a Tensor,
    /// `(G*H, H)`.
    pub weight_hh: &'a Tensor,
    /// `(G*H,)`; both biases or none.
    pub bias_ih: Option<&'a Tensor>,
    /// `(G*H,)`.
    pub bias_hh: Option<&'a Tensor>,
    /// `(B, H)`.
    pub hidden: &'a Tensor,
    /// `(B, H)`; LSTM only.
    pub cell: Option<&'a Tensor>,
    /// `(B, T, H)` added to the hidden states.
    pub probe_hidden: Option<&'a Tensor>,
    /// `(B, T, H)` added to the cell states; LSTM only.
    pub probe_cell: Option<&'a Tensor>,
    /// Real steps of each sequence; `None` when all steps are real.
    pub lengths: Option<&'a [usize]>,
    /// Whether to read each sequence from its last real step to its first.
    pub reverse: bool,
}

/// Result of [`layer`].
#[derive(Debug, Clone)]
pub struct LayerOutput {
    /// `(B, T, H)`; zero on padding.
    pub output: Tensor,
    /// `(B, H)` after each sequence's last step.
    pub hidden: Tensor,
    /// `(B, H)`; LSTM only.
    pub cell: Option<Tensor>,
}

/// Runs a layer over the whole sequence as one node of the graph. In bf16 and f16, states and sums are f32 from
/// the first step to the last; what comes out is rounded.
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn layer(layer: &Layer<'_>) -> Result<LayerOutput> {
    let (batch, steps, inputs) = layer.input.dims3()?;
    let hidden = layer.weight_hh.dim(1)?;
    let width = layer.kind.gates() * hidden;
    let expect = |what: &str, tensor: Option<&Tensor>, shape: &[usize]| -> Result<()> {
        match tensor {
            Some(tensor) if tensor.dims() != shape => {
                bail!("{what} has shape {:?}, expected {shape:?}", tensor.dims())
            }
            _ => Ok(()),
        }
    };
    expect("weight_ih", Some(layer.weight_ih), &[width, inputs])?;
    expect("weight_hh", Some(layer.weight_hh), &[width, hidden])?;
    expect("bias_ih", layer.bias_ih, &[width])?;
    expect("bias_hh", layer.bias_hh, &[width])?;
    expect("h0", Some(layer.hidden), &[batch, hidden])?;
    expect("c0", layer.cell, &[batch, hidden])?;
    expect("hidden probe", layer.probe_hidden, &[batch, steps, hidden])?;
    expect("cell probe", layer.probe_cell, &[batch, steps, hidden])?;
    let is_lstm = layer.kind == CellKind::Lstm;
    if layer.bias_ih.is_some() != layer.bias_hh.is_some() {
        bail!("a recurrent layer has both biases or none");
    }
    if layer.cell.is_some() != is_lstm || (layer.probe_cell.is_some() && !is_lstm) {
        bail!("an LSTM, and nothing else, has a cell state");
    }
    let lengths = match layer.lengths {
        Some(lengths) if lengths.len() != batch || lengths.iter().any(|&l| l > steps) => {
            bail!("lengths {lengths:?} do not fit {batch} sequences of {steps} steps")
        }
        Some(lengths) => lengths.to_vec(),
        None => vec![steps; batch],
    };

    let dims = Dims { batch, steps, inputs, hidden };
    let order = TimeOrder { lengths, reverse: layer.reverse };
    operation::apply(layer, dims, order, Isa::current())
}
