//! The model: a recurrent layer, attention over its states, and what is made of both.

use candle_core::Tensor;
use unroll_core::model::{last_step, unroll_steps};
use unroll_core::parameters::Role;
use unroll_core::probe::ProbeLayout;
use unroll_core::{
    AttentionLayout, BuildContext, Cost, Form, ForwardArgs, ForwardOutput, Lengths, Mode,
    ModelConfig, ParameterSet, Result, SequenceModel, State, StateTensor, Visibility, ops,
};

use super::config::{Combine, Query, RecurrentAttentionConfig, STATE_BLOCK, Score};
use super::score::ScoreFunction;
use crate::memory::{self, MemoryLayout};
use crate::pattern::{Plan, Visible};
use crate::self_attention::{Pass, SelfAttention, memories, not_causal, real_steps, state_after};
use crate::softmax::{self, Attended, WeightDropout};

/// The attention over the states.
enum Attention {
    Scored(ScoreFunction),
    SelfAttention(SelfAttention, MemoryLayout),
}

/// The model that [`RecurrentAttentionConfig`] describes. Outputs are zero on padding.
///
/// The form that it reports is the recurrent layer's; the attention is fused with it when
/// its score is a scaled or plain product, without dropout on the weights or weights asked for.
pub struct RecurrentAttention {
    config: RecurrentAttentionConfig,
    base: Box<dyn SequenceModel>,
    attention: Attention,
    /// `W_c`: `(H, 2H)`, the context's columns first.
    combine: Option<Tensor>,
    parameters: ParameterSet,
}

/// Context and weights over one forward pass, and the state's tensors for the next.
struct Read {
    /// `(B, T, H)`.
    context: Tensor,
    /// `(B, N, T, S)`.
    weights: Option<Tensor>,
    cache: Vec<StateTensor>,
}

/// Name of the cached states in a [`State`]: `(B, S, H)`.
const STATES: &str = "states";

impl RecurrentAttention {
    /// A model with freshly initialised parameters: the recurrent layer's after `base.`, the
    /// score's after `attention.` or the layer's after `self_attn.`, and `combine.weight`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &RecurrentAttentionConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let hidden = config.hidden_size;
        let base = config.build_base(&context.within("base."))?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        parameters.extend("base.", base.parameters());
        let scored = ScoreFunction::new(config.score, hidden, &mut parameters, context)?;
        let attention = match (scored, config.self_attention()) {
            (None, Some(layer)) => Attention::SelfAttention(
                SelfAttention::new(layer, &mut parameters, "self_attn.", context)?,
                layer.memory(1),
            ),
            (scored, _) => Attention::Scored(scored.unwrap_or(ScoreFunction::Dot)),
        };
        let combine = match config.combine {
            Combine::Attentional => {
                let shape = (hidden, 2 * hidden);
                Some(parameters.add("combine.weight", shape, Role::Weight, context)?)
            }
            Combine::Context => None,
        };
        context.check_taken(&parameters)?;
        Ok(Self { config: config.clone(), base, attention, combine, parameters })
    }

    /// The recurrent layer over the input.
    fn base_forward(&self, args: &ForwardArgs<'_>) -> Result<ForwardOutput> {
        match args.state {
            Some(state) if !self.config.causal && state.steps() > 0 => return Err(not_causal()),
            _ => {}
        }
        // Without a causal mask there is no state, and the empty one is not the recurrent layer's.
        let state = args.state.filter(|_| self.config.causal);
        self.base.forward(&ForwardArgs { state, attention: false, ..*args })
    }

    /// The top layer's state before the first step, `(B, 1, H)`.
    fn initial(&self, state: Option<&State>, states: &Tensor) -> Result<Tensor> {
        match state.filter(|_| self.config.causal) {
            Some(state) => Ok(state.get("h")?.get(self.config.num_layers - 1)?.unsqueeze(1)?),
            None => Ok(states.narrow(1, 0, 1)?.zeros_like()?),
        }
    }

    /// The state that asks at each step, `(B, T, H)`.
    fn queries(&self, states: &Tensor, state: Option<&State>) -> Result<Tensor> {
        let seq_len = states.dim(1)?;
        match self.config.query {
            Query::Current => Ok(states.clone()),
            Query::Previous if seq_len == 1 => self.initial(state, states),
            Query::Previous => {
                let earlier = states.narrow(1, 0, seq_len - 1)?;
                Ok(Tensor::cat(&[self.initial(state, states)?, earlier], 1)?)
            }
        }
    }

    /// Cached states, if there are any.
    fn past_states<'a>(
        &self,
        state: Option<&'a State>,
        batch: usize,
    ) -> Result<Option<&'a Tensor>> {
        let Some(state) = state.filter(|_| self.config.causal) else { return Ok(None) };
        memory::refuse_ragged(state)?;
        let shape = [batch, state.steps(), self.config.hidden_size];
        let states = memory::shaped(state, STATES, &shape)?;
        Ok((state.steps() > 0).then_some(states))
    }

    /// Attention at every step.
    fn read(&self, states: &Tensor, args: &ForwardArgs<'_>) -> Result<Read> {
        let (batch, seq_len, _) = states.dims3()?;
        let (dtype, device) = (self.dtype(), self.device());
        let steps = args.state.map_or(0, State::steps);
        let score = match &self.attention {
            Attention::Scored(score) => score,
            Attention::SelfAttention(layer, layout) => {
                let past = memories(layout, self.config.causal, args.state, batch)?;
                let pass = Pass::new(layer.config(), args, (steps, seq_len), dtype, device)?;
                let out = layer.forward(states, past.first().and_then(Option::as_ref), &pass)?;
                let cache = match out.memory {
                    Some(memory) => layout.pack(&[memory], batch, dtype, device)?,
                    None => Vec::new(),
                };
                return Ok(Read { context: out.output, weights: out.weights, cache });
            }
        };
        let keys = memory::with_past(self.past_states(args.state, batch)?, states, 1)?;
        let cached = keys.dim(1)? - seq_len;
        let pattern = self.config.pattern();
        let sizes = (cached, seq_len, STATE_BLOCK);
        let (asked, scored) = score.project(&self.queries(states, args.state)?, &keys)?;
        let stream = match args.mode {
            Mode::Train(stream) if self.drops_weights() => {
                Some(stream.child("attention.attention_dropout"))
            }
            _ => None,
        };
        let probability = self.config.attention_dropout;
        let dropout = stream.as_ref().map(|stream| WeightDropout { probability, stream });
        let tensors = (&asked, &scored, &keys.unsqueeze(1)?);
        let may_fuse = softmax::may_fuse(args.form, dtype, device);
        let may_attend =
            softmax::may_attend(args.form, dtype, device, softmax::widest(tensors.0, tensors.2)?);
        let fused = score.is_product() && dropout.is_none() && !args.attention && may_attend;
        let attended = if fused {
            let visible = Visible::new(pattern, cached, args.lengths);
            Attended { context: softmax::attend_fused(tensors, &visible, 1.0)?, weights: None }
        } else {
            let plan = Plan::new(pattern, sizes, args.lengths, dtype, device)?;
            let pairs = |q: &Tensor, k: &Tensor| score.pairs(q, k, may_fuse);
            softmax::attend(tensors, &plan, dropout, args.attention, pairs)?
        };
        let cache = if self.config.causal {
            let end = cached + memory::common_length(args.lengths, seq_len).unwrap_or(seq_len);
            let tensor = memory::entries_before(&keys, 1, end, end)?;
            vec![StateTensor { name: STATES, tensor, batch_axis: 0, time_axis: Some(1) }]
        } else {
            Vec::new()
        };
        let context = attended.context.squeeze(1)?;
        Ok(Read { context, weights: attended.weights, cache })
    }

    /// Attention at each sequence's last real step alone: context `(B, 1, H)`.
    fn read_last(
        &self,
        states: &Tensor,
        last: &Tensor,
        lengths: Option<&Lengths>,
        state: Option<&State>,
        form: Form,
    ) -> Result<Tensor> {
        let (batch, seq_len, _) = states.dims3()?;
        let score = match &self.attention {
            Attention::Scored(score) => score,
            Attention::SelfAttention(layer, layout) => {
                let past = memories(layout, self.config.causal, state, batch)?;
                let past = past.first().and_then(Option::as_ref);
                let steps = state.map_or(0, State::steps);
                return layer.last(states, last, lengths, past, steps, form);
            }
        };
        let keys = memory::with_past(self.past_states(state, batch)?, states, 1)?;
        let sizes = (keys.dim(1)? - seq_len, seq_len);
        let pattern = self.config.pattern();
        let query = match self.config.query {
            Query::Current => last.clone(),
            Query::Previous => last_step(&self.queries(states, state)?, lengths)?.unsqueeze(1)?,
        };
        let (asked, scored) = score.project(&query, &keys)?;
        let tensors = (&asked, &scored, &keys.unsqueeze(1)?);
        let (dtype, device) = (self.dtype(), self.device());
        let may_fuse = softmax::may_fuse(form, dtype, device);
        let may_attend =
            softmax::may_attend(form, dtype, device, softmax::widest(tensors.0, tensors.2)?);
        let visible =
            Visible::last(pattern, sizes, lengths).filter(|_| score.is_product() && may_attend);
        let context = match visible {
            Some(visible) => softmax::attend_fused(tensors, &visible, 1.0)?,
            None => {
                let plan = Plan::last(pattern, sizes, lengths, dtype, device)?;
                let pairs = |q: &Tensor, k: &Tensor| score.pairs(q, k, may_fuse);
                softmax::attend(tensors, &plan, None, false, pairs)?.context
            }
        };
        Ok(context.squeeze(1)?)
    }

    /// The output from context and state, both `(B, T, H)`.
    fn output(&self, context: Tensor, states: &Tensor) -> Result<Tensor> {
        match &self.combine {
            Some(weight) => {
                let both = Tensor::cat(&[&context, states], 2)?;
                Ok(ops::linear(&both, weight, None)?.tanh()?)
            }
            None => Ok(context),
        }
    }

    fn drops_weights(&self) -> bool {
        self.config.attention_dropout > 0.0
    }
}

impl SequenceModel for RecurrentAttention {
    fn input_size(&self) -> usize {
        self.config.input_size
    }

    fn output_size(&self) -> usize {
        self.config.hidden_size
    }

    fn is_causal(&self) -> bool {
        self.config.causal
    }

    fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    /// The recurrent layer's state, then `states` `(B, S, H)`, or the tensors of the self-attention
    /// layer; nothing without a causal mask.
    fn zero_state(&self, batch: usize) -> Result<State> {
        if !self.config.causal {
            return Ok(State::default());
        }
        let mut tensors = self.base.zero_state(batch)?.tensors().to_vec();
        match &self.attention {
            Attention::Scored(_) => {
                let shape = (batch, 0, self.config.hidden_size);
                let tensor = memory::empty(shape, self.dtype())?;
                tensors.push(StateTensor {
                    name: STATES,
                    tensor,
                    batch_axis: 0,
                    time_axis: Some(1),
                });
            }
            Attention::SelfAttention(_, layout) => {
                tensors.extend(layout.zeros(batch, self.dtype(), self.device())?);
            }
        }
        Ok(State::new(tensors, 0))
    }

    fn step(&self, input: &Tensor, state: &State) -> Result<(Tensor, State)> {
        if !self.config.causal {
            return Err(not_causal());
        }
        let (hidden, next) = self.base.step(input, state)?;
        let states = hidden.unsqueeze(1)?;
        let read =
            self.read(&states, &ForwardArgs { state: Some(state), ..ForwardArgs::new(&states) })?;
        let tensors = next.tensors().iter().cloned().chain(read.cache).collect();
        let output = self.output(read.context, &states)?.squeeze(1)?;
        Ok((output, State::new(tensors, state.steps() + 1)))
    }

    fn forward(&self, args: &ForwardArgs<'_>) -> Result<ForwardOutput> {
        if args.form == Form::Unrolled {
            return unroll_steps(self, args);
        }
        let (_, seq_len, _) = args.checked(self.config.input_size, &self.parameters)?;
        let (dtype, device) = (self.dtype(), self.device());
        let base = self.base_forward(args)?;
        let read = self.read(&base.output, args)?;
        let mut output = self.output(read.context, &base.output)?;
        if let Some(real) = real_steps(args.lengths, seq_len, dtype, device)? {
            output = output.broadcast_mul(&real.unsqueeze(2)?)?;
        }
        let tensors = if self.config.causal {
            base.state.tensors().iter().cloned().chain(read.cache).collect()
        } else {
            Vec::new()
        };
        let has_positions = self.config.score != Score::Linear;
        let counts = (args.state.map_or(0, State::steps), seq_len);
        Ok(ForwardOutput {
            output,
            state: state_after(tensors, counts, args.lengths, has_positions, dtype, device)?,
            attention: read.weights.into_iter().collect(),
            gates: base.gates,
            form: base.form,
        })
    }

    /// Scores the last real step's query alone: linear in the length where [`forward`] is quadratic.
    /// (Under dropout on the weights it goes through `forward`, to draw the same numbers.)
    ///
    /// [`forward`]: SequenceModel::forward
    fn forward_last(&self, args: &ForwardArgs<'_>) -> Result<Tensor> {
        let drops = matches!(args.mode, Mode::Train(_)) && self.drops_weights();
        if args.form == Form::Unrolled || drops {
            return last_step(&self.forward(args)?.output, args.lengths);
        }
        args.checked(self.config.input_size, &self.parameters)?;
        // Nobody would see the gates.
        let args = &ForwardArgs { gates: false, ..*args };
        let states = self.base_forward(args)?.output;
        let last = last_step(&states, args.lengths)?.unsqueeze(1)?;
        let context = self.read_last(&states, &last, args.lengths, args.state, args.form)?;
        Ok(self.output(context, &last)?.squeeze(1)?)
    }

    fn probe_layout(&self) -> ProbeLayout {
        self.base.probe_layout()
    }

    fn attention_layout(&self) -> Option<AttentionLayout> {
        Some(match self.config.self_attention() {
            Some(layer) => layer.layout(1),
            None => {
                AttentionLayout { layers: 1, heads: 1, visibility: self.config.pattern().into() }
            }
        })
    }

    /// The shorter of two ways: by state transitions alone, or by one read of the attention as far back
    /// as it sees, and transitions for what is left.
    fn path_length(&self, distance: usize) -> Option<usize> {
        let seen = match self.attention_layout().map(|layout| layout.visibility) {
            Some(Visibility::Window(window)) => distance.min(window.saturating_sub(1)),
            _ => distance,
        };
        let read = if seen > 0 { 1 + (distance - seen) } else { distance };
        Some(distance.min(read))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.config.cost(batch, seq_len)
    }
}
