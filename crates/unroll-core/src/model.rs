//! The trait that every architecture implements.

use std::fmt;

use candle_core::{D, DType, Device, Tensor};

use crate::probe::ProbeLayout;
use crate::{
    AttentionLayout, Cost, Error, Gate, Lengths, ParameterSet, Probe, Result, State, StateTensor,
    Stream,
};

/// Whether dropout is active, and where its random numbers come from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Mode<'a> {
    /// No dropout.
    #[default]
    Eval,
    /// Dropout drawn from this stream (set it to the training step with [`Stream::at`]).
    Train(&'a Stream),
}

/// Which implementation computes a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// The fastest one that supports the device and type.
    #[default]
    Auto,
    /// The definition: plain tensor operations, any device and type.
    Reference,
    /// `step` called once for each time step.
    Unrolled,
}

impl Form {
    /// Name in tables: `auto`, `reference`, `unrolled`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Reference => "reference",
            Self::Unrolled => "unrolled",
        }
    }
}

/// Arguments of [`SequenceModel::forward`]. Only the input is needed:
/// `ForwardArgs::new(&x)`, then set what differs.
#[derive(Debug, Clone, Copy)]
pub struct ForwardArgs<'a> {
    /// `(B, T, I)`.
    pub input: &'a Tensor,
    /// Real lengths of a padded batch; `None` when all steps are real.
    pub lengths: Option<&'a Lengths>,
    /// Where to start from; `None` is the zero state.
    pub state: Option<&'a State>,
    /// Zeros added to the hidden states.
    pub probe: Option<&'a Probe>,
    /// Dropout.
    pub mode: Mode<'a>,
    /// Which implementation to use.
    pub form: Form,
    /// Whether to return the attention weights.
    pub attention: bool,
    /// Whether to return the gates of recurrent layers.
    pub gates: bool,
}

impl<'a> ForwardArgs<'a> {
    /// A forward pass from the zero state without dropout.
    pub fn new(input: &'a Tensor) -> Self {
        Self {
            input,
            lengths: None,
            state: None,
            probe: None,
            mode: Mode::Eval,
            form: Form::Auto,
            attention: false,
            gates: false,
        }
    }

    /// `(B, T, I)` of the input after checking it against the model's input size, and the lengths against it.
    ///
    /// # Errors
    /// When the input has not three axes, another feature count or no step, and when lengths are of another
    /// batch.
    pub fn dims(&self, input_size: usize) -> Result<(usize, usize, usize)> {
        let found = self.input.dims();
        match *found {
            [batch, seq_len, features] if features == input_size && batch * seq_len > 0 => {
                if let Some(lengths) = self.lengths {
                    lengths.check(batch, seq_len)?;
                }
                Ok((batch, seq_len, features))
            }
            _ => Err(Error::shape(
                "x",
                found,
                format!("(batch > 0, time > 0, {input_size} features)"),
            )),
        }
    }

    /// The input with zeros on padding, whatever stood there: what a model reads, so that it matters to no output
    /// and no gradient.
    pub fn real_input(&self) -> Result<Tensor> {
        match self.lengths {
            Some(lengths) => lengths.zero_padding(self.input),
            None => Ok(self.input.clone()),
        }
    }

    /// [`dims`](Self::dims), for an input that must be of the parameters' type and on their device: what a
    /// model's `forward` begins with.
    ///
    /// # Errors
    /// As `dims`; [`Error::Type`] and [`Error::Device`].
    pub fn checked(
        &self,
        input_size: usize,
        parameters: &ParameterSet,
    ) -> Result<(usize, usize, usize)> {
        let (batch, seq_len, features) = self.dims(input_size)?;
        check_place("x", self.input, parameters)?;
        let states = self.state.iter().flat_map(|state| state.tensors());
        // A cache before the first step has nothing in it, and is on the CPU.
        for one in states.filter(|one| one.tensor.elem_count() > 0) {
            check_place(&format!("{}0", one.name), &one.tensor, parameters)?;
        }
        for probe in self.probe.iter().flat_map(|probe| probe.hidden.iter().chain(&probe.cell)) {
            check_place("probe", probe, parameters)?;
            if !probe.dims().starts_with(&[batch, seq_len]) {
                let expected = format!("({batch}, {seq_len}, hidden size)");
                return Err(Error::shape("probe", probe.dims(), expected));
            }
        }
        Ok((batch, seq_len, features))
    }
}

/// Refuses a tensor of another type, or on another device, than the parameters.
///
/// # Errors
/// [`Error::Type`] and [`Error::Device`].
pub fn check_place(what: &str, tensor: &Tensor, parameters: &ParameterSet) -> Result<()> {
    if tensor.dtype() != parameters.dtype() {
        return Err(Error::Type {
            what: what.to_owned(),
            found: tensor.dtype(),
            expected: format!("{}, as the model's parameters", parameters.dtype().as_str()),
        });
    }
    if !tensor.device().same_device(parameters.device()) {
        return Err(Error::Device {
            what: what.to_owned(),
            found: format!("{:?}", tensor.device().location()),
            expected: format!("{:?}", parameters.device().location()),
        });
    }
    Ok(())
}

/// Result of [`SequenceModel::forward`].
#[derive(Debug, Clone)]
pub struct ForwardOutput {
    /// `(B, T, output_size)`; zero on padding.
    pub output: Tensor,
    /// State after each sequence's last real step.
    pub state: State,
    /// `(B, N, T, S)` for each attention layer when asked for, first layer first; `S` counts the
    /// cached steps too.
    pub attention: Vec<Tensor>,
    /// Gates of the recurrent layers when asked for: layer by layer, forward before reverse, each in the
    /// order of its weights (LSTM: input, forget, candidate, output; GRU: reset, update, candidate).
    /// None for models without gates.
    pub gates: Vec<Gate>,
    /// The implementation that ran: `fused`, `fused attention` (a Transformer on a GPU), `reference`,
    /// `unrolled`.
    pub form: &'static str,
}

/// A sequence architecture: a map from `(B, T, I)` to `(B, T, output_size)` that can be run whole or
/// step by step, trained, probed and priced.
///
/// The laws that every implementation keeps are the conformance suite of this workspace
/// (`crates/unroll/tests/conformance.rs`): `forward` equals the unrolled `step`; splitting a
/// sequence and carrying the state changes nothing; a causal model's outputs do not depend on later
/// inputs; a padded batch equals its sequences alone; every parameter gets a gradient; costs are
/// the real sizes; export and import give the same bits.
pub trait SequenceModel: Send + Sync {
    /// Features per step that the model reads (`I`).
    fn input_size(&self) -> usize;

    /// Features per step that the model gives (`H`, times two when bidirectional).
    fn output_size(&self) -> usize;

    /// Whether the output at a step depends on no later step. Only causal models can [`step`](Self::step).
    fn is_causal(&self) -> bool;

    /// The trainable parameters under PyTorch's names.
    fn parameters(&self) -> &ParameterSet;

    /// The state before the first step.
    fn zero_state(&self, batch: usize) -> Result<State>;

    /// One step: input `(B, I)` to output `(B, output_size)` and the next state, without dropout.
    ///
    /// Of a model whose parameters are variables, the next state holds the graph of all steps before it. A stream
    /// without end needs a [frozen](crate::BuildContext::frozen) model, or `state.detach()` after each step.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the model is not causal.
    fn step(&self, input: &Tensor, state: &State) -> Result<(Tensor, State)>;

    /// The whole sequence. The default unrolls [`step`](Self::step).
    fn forward(&self, args: &ForwardArgs<'_>) -> Result<ForwardOutput> {
        unroll_steps(self, args)
    }

    /// The output at each sequence's last real step, `(B, output_size)`: what a classifier reads.
    /// Architectures for which this is cheaper than [`forward`](Self::forward) override it.
    fn forward_last(&self, args: &ForwardArgs<'_>) -> Result<Tensor> {
        let output = self.forward(args)?.output;
        last_step(&output, args.lengths)
    }

    /// What can be probed; nothing for models without recurrent hidden states.
    fn probe_layout(&self) -> ProbeLayout {
        ProbeLayout::default()
    }

    /// The attention layers, whose weights [`ForwardArgs::attention`] asks for; `None` for models
    /// without.
    fn attention_layout(&self) -> Option<AttentionLayout> {
        None
    }

    /// Path length: the fewest hops along time between the input at step `T - distance` and the output
    /// at the last step `T`. A hop is what moves information from one step to another: a state
    /// transition of a recurrent layer or a read by attention, over any distance that it sees; layers
    /// without either move nothing. `Some(0)` at distance 0; `None` where there is no way, and `dL/dx` of
    /// a loss at the last output is exactly 0.
    ///
    /// The maximum over distances is the "maximum path length" of Vaswani et al. 2017 (table 1), which
    /// takes the argument that gradients fade with the length of the way, not with time itself, from
    /// Hochreiter, Bengio, Frasconi & Schmidhuber 2001.
    fn path_length(&self, distance: usize) -> Option<usize>;

    /// Cost at this batch size and length.
    fn cost(&self, batch: usize, seq_len: usize) -> Cost;

    /// Type of the parameters.
    fn dtype(&self) -> DType {
        self.parameters().dtype()
    }

    /// Device of the parameters.
    fn device(&self) -> &Device {
        self.parameters().device()
    }
}

impl fmt::Debug for dyn SequenceModel + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_model(f, "SequenceModel", self.parameters())
    }
}

pub(crate) fn write_model(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    parameters: &ParameterSet,
) -> fmt::Result {
    f.debug_struct(kind)
        .field("parameters", &parameters.elements())
        .field("dtype", &parameters.dtype())
        .finish_non_exhaustive()
}

/// `(B, T, F)` to `(B, F)`: each sequence's last real step.
pub fn last_step(output: &Tensor, lengths: Option<&Lengths>) -> Result<Tensor> {
    let (batch, seq_len, features) = output.dims3()?;
    match lengths {
        None => Ok(output.narrow(1, seq_len - 1, 1)?.squeeze(1)?),
        Some(lengths) => {
            let index = lengths
                .last_indices(output.device())?
                .reshape((batch, 1, 1))?
                .broadcast_as((batch, 1, features))?
                .contiguous()?;
            Ok(output.contiguous()?.gather(&index, 1)?.squeeze(1)?)
        }
    }
}

/// [`SequenceModel::forward`] by calling `step` once per time step.
///
/// # Errors
/// [`Error::Unsupported`] for what only a whole-sequence form can do: probes, dropout, attention
/// weights, gates, and padded batches of models whose state grows.
pub fn unroll_steps<M: SequenceModel + ?Sized>(
    model: &M,
    args: &ForwardArgs<'_>,
) -> Result<ForwardOutput> {
    let (batch, seq_len, _) = args.checked(model.input_size(), model.parameters())?;
    let asks_more = args.probe.is_some() || args.attention || args.gates;
    if asks_more || matches!(args.mode, Mode::Train(_)) {
        return Err(Error::Unsupported(
            "the unrolled form has no probes, dropout, attention weights or gates; use the reference \
             form"
                .into(),
        ));
    }
    let mut state = match args.state {
        Some(state) => state.clone(),
        None => model.zero_state(batch)?,
    };
    let mask = match args.lengths {
        Some(lengths) => Some(lengths.mask(seq_len, model.dtype(), model.device())?),
        None => None,
    };
    let x = args.real_input()?;
    let mut outputs = Vec::with_capacity(seq_len);
    for t in 0..seq_len {
        let input = x.narrow(1, t, 1)?.squeeze(1)?;
        let (mut output, mut next) = model.step(&input, &state)?;
        if let Some(mask) = &mask {
            let real = mask.narrow(1, t, 1)?;
            output = output.broadcast_mul(&real)?;
            next = hold_padded(&next, &state, &real.squeeze(1)?)?;
        }
        outputs.push(output);
        state = next;
    }
    Ok(ForwardOutput {
        output: Tensor::stack(&outputs, 1)?,
        state,
        attention: Vec::new(),
        gates: Vec::new(),
        form: "unrolled",
    })
}

/// `next` where `real` (`(B,)`) is 1, `previous` where it is 0.
fn hold_padded(next: &State, previous: &State, real: &Tensor) -> Result<State> {
    let tensors = next.tensors().iter().zip(previous.tensors());
    let tensors = tensors.map(|(new, old)| {
        if new.time_axis.is_some() {
            return Err(Error::Unsupported(
                "the unrolled form cannot hold a growing cache for padded sequences".into(),
            ));
        }
        let mut shape = vec![1; new.tensor.rank()];
        shape[new.batch_axis] = real.dim(D::Minus1)?;
        let real = real.reshape(shape)?;
        let held = old.tensor.broadcast_mul(&real.affine(-1.0, 1.0)?)?;
        Ok(StateTensor { tensor: (new.tensor.broadcast_mul(&real)? + held)?, ..new.clone() })
    });
    Ok(State::new(tensors.collect::<Result<_>>()?, next.steps()))
}
