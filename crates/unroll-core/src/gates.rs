//! The gates of recurrent layers, as a forward pass opened them.
//!
//! A gate's values are functions of a layer's input and of its hidden state one step earlier. Both are
//! known after a forward pass in any form, so that gates are computed from them afterwards, all steps in
//! one product, with the same function that the cell's [`step`](crate::recurrent::Cell::step) uses: asking
//! for them changes no output, and the fused form keeps its speed.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::recurrent::{Cell, LayerArgs};
use crate::{Error, Result, ops};

/// Which way a recurrent layer reads its sequences.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From the last real step to the first.
    Reverse,
}

impl Direction {
    /// Name in tables: `forward`, `reverse`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// What a gate is for. The candidate is no gate in the strict sense, but has a block of weights like one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// LSTM `i`: how much of the candidate enters the cell state.
    Input,
    /// LSTM `f`: how much of the cell state stays.
    Forget,
    /// LSTM `g`, GRU `n`: what would be new.
    Candidate,
    /// LSTM `o`: how much of the cell state shows.
    Output,
    /// GRU `r`: how much of the old state the candidate sees.
    Reset,
    /// GRU `z`: how state and candidate are mixed.
    Update,
}

impl GateName {
    /// Name in tables: `input`, `forget`, `candidate`, `output`, `reset`, `update`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forget => "forget",
            Self::Candidate => "candidate",
            Self::Output => "output",
            Self::Reset => "reset",
            Self::Update => "update",
        }
    }

    /// What takes the pre-activation to the value.
    pub fn squash(self) -> Squash {
        match self {
            Self::Candidate => Squash::Tanh,
            Self::Input | Self::Forget | Self::Output | Self::Reset | Self::Update => {
                Squash::Sigmoid
            }
        }
    }
}

/// What takes a gate's pre-activation to its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Squash {
    /// `1 / (1 + exp(-x))`, in (0, 1): 0 is closed, 1 is open.
    Sigmoid,
    /// Hyperbolic tangent, in (-1, 1).
    Tanh,
}

/// How a gate that remembers does so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// An open gate keeps the old state: its factor is the gate's value (LSTM `f`; GRU `z` of PyTorch
    /// and Cho 2014).
    WhenOpen,
    /// A closed gate keeps it: the factor is 1 minus the gate's value (GRU `z` of Chung 2014).
    WhenClosed,
}

/// One gate of one layer in one direction over a whole forward pass.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Layer, the lowest first.
    pub layer: usize,
    /// Direction of the layer.
    pub direction: Direction,
    /// Which gate.
    pub name: GateName,
    /// How this gate keeps the old state; `None` when another one does.
    pub keeps: Option<Keeps>,
    /// `(B, T, H)`: values at the step of the input that they belong to, also when the layer reads
    /// backwards; 0 on padding.
    pub values: Tensor,
    /// `(B, T, H)`: what was squashed to give the values; 0 on padding. Where a gate is all but open or
    /// closed only this tells by how much: the sigmoid of 40 is 1 in f64.
    pub preactivation: Tensor,
}

/// The gates of one layer, from its output `(B, T, H)` in any form; none for a cell without.
pub(crate) fn of_layer<C: Cell>(
    cell: &C,
    args: &LayerArgs<'_>,
    output: &Tensor,
    layer: usize,
) -> Result<Vec<Gate>> {
    if C::GATE_NAMES.is_empty() {
        return Ok(Vec::new());
    }
    // A layer that reads backwards is a layer that reads a reversed sequence.
    let flip = |x: &Tensor| {
        if args.reverse { ops::reverse_time(x, args.lengths) } else { Ok(x.clone()) }
    };
    let seq_len = output.dim(1)?;
    let first = args.initial.hidden.unsqueeze(1)?;
    let previous = match seq_len {
        1 => first,
        _ => Tensor::cat(&[first, flip(output)?.narrow(1, 0, seq_len - 1)?], 1)?,
    };
    let weights = args.weights;
    let projected = ops::linear(&flip(args.input)?, &weights.weight_ih, weights.bias_ih.as_ref())?;
    let preactivations = cell.preactivations(&projected, weights, &previous)?;
    if preactivations.len() != C::GATE_NAMES.len() {
        return Err(Error::shape(
            "gates",
            [preactivations.len()],
            format!("one pre-activation for each of {} gates", C::GATE_NAMES.len()),
        ));
    }
    let memory = cell.memory_gate();
    let hide_padding = |x: &Tensor| match args.lengths {
        Some(lengths) => lengths.zero_padding(x),
        None => Ok(x.clone()),
    };
    let gates = C::GATE_NAMES.iter().zip(preactivations).enumerate();
    let gates = gates.map(|(index, (&name, preactivation))| {
        let preactivation = flip(&preactivation)?;
        let values = match name.squash() {
            Squash::Sigmoid => ops::sigmoid(&preactivation)?,
            Squash::Tanh => preactivation.tanh()?,
        };
        let keeps = memory
            .filter(|memory| memory.gate == index)
            .map(|memory| if memory.sign < 0.0 { Keeps::WhenClosed } else { Keeps::WhenOpen });
        Ok(Gate {
            layer,
            direction: if args.reverse { Direction::Reverse } else { Direction::Forward },
            name,
            keeps,
            values: hide_padding(&values)?,
            preactivation: hide_padding(&preactivation)?,
        })
    });
    gates.collect()
}
