//! Stacks of recurrent layers: layers, directions, dropout and lengths, written once for all cells.

mod config;

use candle_core::{Tensor, Var};

use crate::architecture::BuildContext;
use crate::gates::{self, GateName};
use crate::model::check_place;
use crate::parameters::{MemoryGate, Role};
use crate::probe::ProbeLayout;
use crate::{
    Cost, Error, Form, ForwardArgs, ForwardOutput, Mode, ParameterSet, Result, SequenceModel,
    State, StateTensor, memory, ops,
};

pub use config::{STACK_OPTIONS, StackConfig};

/// The parameters of one layer in one direction.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// `(G*H, I)`.
    pub weight_ih: Tensor,
    /// `(G*H, H)`.
    pub weight_hh: Tensor,
    /// `(G*H,)`.
    pub bias_ih: Option<Tensor>,
    /// `(G*H,)`.
    pub bias_hh: Option<Tensor>,
}

/// Hidden state, and cell state where the cell has one.
#[derive(Debug, Clone)]
pub struct CellState {
    /// `(B, H)`.
    pub hidden: Tensor,
    /// `(B, H)`.
    pub cell: Option<Tensor>,
}

/// Arguments of one layer over the whole sequence in one direction.
#[derive(Debug, Clone, Copy)]
pub struct LayerArgs<'a> {
    /// `(B, T, I)`.
    pub input: &'a Tensor,
    /// The layer's parameters.
    pub weights: &'a LayerWeights,
    /// State before the first step.
    pub initial: &'a CellState,
    /// `(B, T, H)` added to the hidden states.
    pub probe_hidden: Option<&'a Tensor>,
    /// `(B, T, H)` added to the cell states.
    pub probe_cell: Option<&'a Tensor>,
    /// Real lengths.
    pub lengths: Option<&'a crate::Lengths>,
    /// Whether to read each sequence from its last real step to its first.
    pub reverse: bool,
}

/// A recurrent cell: one step. The loop over time, layers and directions is [`RecurrentStack`]'s.
pub trait Cell: Send + Sync + 'static {
    /// Gates `G`: blocks of `H` rows in the weights.
    const GATES: usize;

    /// Names of the blocks that are gates, in the weights' order; empty for a cell without.
    const GATE_NAMES: &'static [GateName] = &[];

    /// Whether there is a cell state beside the hidden state.
    const HAS_CELL_STATE: bool;

    /// The gate that keeps the old state, if there is one.
    fn memory_gate(&self) -> Option<MemoryGate>;

    /// What is squashed to the gates' values, one tensor for each of [`GATE_NAMES`](Self::GATE_NAMES).
    /// `projected` is `W_ih x_t + b_ih`, `(.., G*H)`; `hidden` is `h_{t-1}`, `(.., H)`: one step or, with
    /// an axis of time, many.
    fn preactivations(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        hidden: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let _ = (projected, weights, hidden);
        Ok(Vec::new())
    }

    /// One step. `projected` is `W_ih x_t + b_ih`, `(B, G*H)`; `probe_cell` `(B, H)` is added to the
    /// new cell state before anything reads it.
    fn step(
        &self,
        projected: &Tensor,
        weights: &LayerWeights,
        state: &CellState,
        probe_cell: Option<&Tensor>,
    ) -> Result<CellState>;

    /// The whole sequence at once: outputs `(B, T, H)` and the last state; `None` when there is no
    /// fused form for this device and type, as by default: [`step`](Self::step) is then called step
    /// by step.
    fn fused(&self, args: &LayerArgs<'_>) -> Result<Option<(Tensor, CellState)>> {
        let _ = args;
        Ok(None)
    }
}

/// Layers of one kind of cell, in one or two directions.
pub struct RecurrentStack<C> {
    cell: C,
    config: StackConfig,
    layers: Vec<LayerWeights>,
    parameters: ParameterSet,
}

impl<C: Cell> RecurrentStack<C> {
    /// A stack with freshly initialised parameters, named `weight_ih_l0`, `weight_hh_l0`,
    /// `bias_ih_l0`, `bias_hh_l0`, then `..._l0_reverse`, `..._l1` and so on, as PyTorch does.
    pub fn new(cell: C, config: StackConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let mut layers = Vec::new();
        let (gates, hidden) = (C::GATES, config.hidden_size);
        let memory = cell.memory_gate();
        for layer in 0..config.num_layers {
            for suffix in ["", "_reverse"].iter().take(config.directions()) {
                let inputs = config.layer_inputs(layer);
                let mut add = |name: &str, shape: &[usize], role| {
                    parameters.add(format!("{name}_l{layer}{suffix}"), shape, role, context)
                };
                let rows = gates * hidden;
                let weight_ih = add("weight_ih", &[rows, inputs], Role::InputWeight { gates })?;
                let weight_hh = add("weight_hh", &[rows, hidden], Role::RecurrentWeight { gates })?;
                let (mut bias_ih, mut bias_hh) = (None, None);
                if config.bias {
                    bias_ih = Some(add("bias_ih", &[rows], Role::InputBias { gates, memory })?);
                    bias_hh = Some(add("bias_hh", &[rows], Role::RecurrentBias { gates, memory })?);
                }
                layers.push(LayerWeights { weight_ih, weight_hh, bias_ih, bias_hh });
            }
        }
        context.check_taken(&parameters)?;
        Ok(Self { cell, config, layers, parameters })
    }

    fn pack_state(&self, states: &[CellState], steps: usize) -> Result<State> {
        let stack = |tensors: Vec<&Tensor>| Tensor::stack(&tensors, 0);
        let mut tensors = vec![StateTensor {
            name: "h",
            tensor: stack(states.iter().map(|s| &s.hidden).collect())?,
            batch_axis: 1,
            time_axis: None,
        }];
        if C::HAS_CELL_STATE {
            tensors.push(StateTensor {
                name: "c",
                tensor: stack(states.iter().filter_map(|s| s.cell.as_ref()).collect())?,
                batch_axis: 1,
                time_axis: None,
            });
        }
        Ok(State::new(tensors, steps))
    }

    /// The state `(L*D, B, H)` cut into one per layer and direction.
    fn unpack_state(&self, state: &State, batch: usize) -> Result<Vec<CellState>> {
        let expected = [self.layers.len(), batch, self.config.hidden_size];
        let read = |name: &str| -> Result<Tensor> {
            let tensor = state.get(name)?;
            if tensor.dims() != expected {
                return Err(Error::shape(
                    format!("{name}0"),
                    tensor.dims(),
                    format!("{expected:?}"),
                ));
            }
            check_place(&format!("{name}0"), tensor, &self.parameters)?;
            Ok(tensor.clone())
        };
        let hidden = read("h")?;
        let cell = if C::HAS_CELL_STATE { Some(read("c")?) } else { None };
        (0..self.layers.len())
            .map(|index| {
                Ok(CellState {
                    hidden: hidden.get(index)?,
                    cell: cell.as_ref().map(|c| c.get(index)).transpose()?,
                })
            })
            .collect()
    }

    fn run_layer(
        &self,
        args: &LayerArgs<'_>,
        form: Form,
    ) -> Result<(Tensor, CellState, &'static str)> {
        if form == Form::Auto
            && let Some((output, state)) = self.cell.fused(args)?
        {
            return Ok((output, state, "fused"));
        }
        let (output, state) = reference_layer(&self.cell, args)?;
        Ok((output, state, "reference"))
    }
}

/// The definition: one direction of one layer, step by step, in plain tensor operations.
fn reference_layer<C: Cell>(cell: &C, args: &LayerArgs<'_>) -> Result<(Tensor, CellState)> {
    let seq_len = args.input.dim(1)?;
    // A layer that reads backwards is a layer that reads a reversed sequence.
    let flip = |x: &Tensor| {
        if args.reverse { ops::reverse_time(x, args.lengths) } else { Ok(x.clone()) }
    };
    let weights = args.weights;
    let projected = ops::linear(&flip(args.input)?, &weights.weight_ih, weights.bias_ih.as_ref())?;
    let probe_hidden = args.probe_hidden.map(flip).transpose()?;
    let probe_cell = args.probe_cell.map(flip).transpose()?;
    let mask = match args.lengths {
        Some(lengths) => Some(lengths.mask(seq_len, projected.dtype(), projected.device())?),
        None => None,
    };
    let at = |x: &Tensor, t: usize| -> Result<Tensor> { Ok(x.narrow(1, t, 1)?.squeeze(1)?) };
    let at_opt = |x: &Option<Tensor>, t: usize| x.as_ref().map(|x| at(x, t)).transpose();

    let mut state = args.initial.clone();
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let probe = at_opt(&probe_cell, t)?;
        let mut next = cell.step(&at(&projected, t)?, weights, &state, probe.as_ref())?;
        if let Some(probe) = at_opt(&probe_hidden, t)? {
            next.hidden = (next.hidden + probe)?;
        }
        if let Some(mask) = &mask {
            let real = mask.narrow(1, t, 1)?;
            let padding = real.affine(-1.0, 1.0)?;
            outputs.push(next.hidden.broadcast_mul(&real)?);
            let hold = |new: &Tensor, old: &Tensor| -> Result<Tensor> {
                Ok((new.broadcast_mul(&real)? + old.broadcast_mul(&padding)?)?)
            };
            next.hidden = hold(&next.hidden, &state.hidden)?;
            if let (Some(new), Some(old)) = (&next.cell, &state.cell) {
                next.cell = Some(hold(new, old)?);
            }
        } else {
            outputs.push(next.hidden.clone());
        }
        state = next;
    }
    Ok((flip(&Tensor::stack(&outputs, 1)?)?, state))
}

impl<C: Cell> SequenceModel for RecurrentStack<C> {
    fn input_size(&self) -> usize {
        self.config.input_size
    }

    fn output_size(&self) -> usize {
        self.config.hidden_size * self.config.directions()
    }

    fn is_causal(&self) -> bool {
        !self.config.bidirectional
    }

    fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    fn zero_state(&self, batch: usize) -> Result<State> {
        let shape = (self.layers.len(), batch, self.config.hidden_size);
        if self.device().is_cpu() {
            let tensors = 1 + usize::from(C::HAS_CELL_STATE);
            let element = self.dtype().size_in_bytes();
            let bytes = memory::product(&[tensors, shape.0, shape.1, shape.2, element]);
            memory::require(format!("the state of {batch} sequences"), bytes)?;
        }
        let zeros = |name| -> Result<StateTensor> {
            Ok(StateTensor {
                name,
                tensor: Tensor::zeros(shape, self.dtype(), self.device())?,
                batch_axis: 1,
                time_axis: None,
            })
        };
        let mut tensors = vec![zeros("h")?];
        if C::HAS_CELL_STATE {
            tensors.push(zeros("c")?);
        }
        Ok(State::new(tensors, 0))
    }

    fn step(&self, input: &Tensor, state: &State) -> Result<(Tensor, State)> {
        if !self.is_causal() {
            return Err(Error::Unsupported(
                "a bidirectional layer reads the whole sequence: it has no step".into(),
            ));
        }
        let batch = match *input.dims() {
            [batch, features] if batch > 0 && features == self.config.input_size => batch,
            _ => {
                let expected = format!("(batch > 0, {} features)", self.config.input_size);
                return Err(Error::shape("x", input.dims(), expected));
            }
        };
        check_place("x", input, &self.parameters)?;
        let mut below = input.clone();
        let mut states = self.unpack_state(state, batch)?;
        for (weights, state) in self.layers.iter().zip(&mut states) {
            let projected = ops::linear(&below, &weights.weight_ih, weights.bias_ih.as_ref())?;
            *state = self.cell.step(&projected, weights, state, None)?;
            below = state.hidden.clone();
        }
        Ok((below, self.pack_state(&states, state.steps() + 1)?))
    }

    fn forward(&self, args: &ForwardArgs<'_>) -> Result<ForwardOutput> {
        if args.form == Form::Unrolled {
            return crate::model::unroll_steps(self, args);
        }
        let (batch, seq_len, _) = args.checked(self.config.input_size, &self.parameters)?;
        let zero;
        let state = match args.state {
            Some(state) => state,
            None => {
                zero = self.zero_state(batch)?;
                &zero
            }
        };
        let initial = self.unpack_state(state, batch)?;
        if let Some(probe) = args.probe {
            let layout = self.probe_layout();
            for (what, found, expected) in [
                ("probe of hidden states", probe.hidden.len(), layout.hidden),
                ("probe of cell states", probe.cell.len(), layout.cell),
            ] {
                // None at all asks nothing.
                if found != 0 && found != expected {
                    let expected = format!("{expected} tensors, one for each layer and direction");
                    return Err(Error::shape(what, [found], expected));
                }
            }
        }
        let directions = self.config.directions();
        let mut below = args.real_input()?;
        let mut last = Vec::with_capacity(self.layers.len());
        let mut form = "fused";
        let mut gates = Vec::new();
        for (layer, weights) in self.layers.chunks(directions).enumerate() {
            if layer > 0
                && let Mode::Train(stream) = args.mode
                && self.config.dropout > 0.0
            {
                let mask = stream.child(&format!("dropout_l{layer}")).dropout_mask(
                    below.shape(),
                    self.config.dropout,
                    below.dtype(),
                    below.device(),
                )?;
                below = (below * mask)?;
            }
            let mut outputs = Vec::with_capacity(directions);
            for (direction, weights) in weights.iter().enumerate() {
                let index = layer * directions + direction;
                let probe = args.probe;
                let layer_args = LayerArgs {
                    input: &below,
                    weights,
                    initial: &initial[index],
                    probe_hidden: probe.and_then(|p| p.hidden.get(index)).map(Var::as_tensor),
                    probe_cell: probe.and_then(|p| p.cell.get(index)).map(Var::as_tensor),
                    lengths: args.lengths,
                    reverse: direction == 1,
                };
                let (output, state, ran) = self.run_layer(&layer_args, args.form)?;
                if args.gates {
                    gates.extend(gates::of_layer(&self.cell, &layer_args, &output, layer)?);
                }
                outputs.push(output);
                last.push(state);
                form = ran;
            }
            below = match outputs.as_slice() {
                [one] => one.clone(),
                _ => Tensor::cat(&outputs, 2)?,
            };
        }
        Ok(ForwardOutput {
            output: below,
            state: self.pack_state(&last, state.steps() + seq_len)?,
            attention: Vec::new(),
            gates,
            form,
        })
    }

    fn probe_layout(&self) -> ProbeLayout {
        ProbeLayout {
            hidden: self.layers.len(),
            cell: if C::HAS_CELL_STATE { self.layers.len() } else { 0 },
            hidden_size: self.config.hidden_size,
        }
    }

    /// One state transition for each step, in whatever layer.
    fn path_length(&self, distance: usize) -> Option<usize> {
        Some(distance)
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let states = if C::HAS_CELL_STATE { 2 } else { 1 };
        self.config.cost(C::GATES, states, batch, seq_len)
    }
}
