//! One self-attention layer as a model of its own: `mha`, `local`, `linear`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::require_positive;
use unroll_core::parameters::Role;
use unroll_core::{
    AttentionLayout, BuildContext, Cost, Family, Form, ForwardArgs, ForwardOutput, ModelConfig,
    OptionDoc, ParameterSet, Result, SequenceModel, State, cost, ops,
};

use crate::self_attention::{
    Kind, Pass, SelfAttention, SelfAttentionConfig, memories, not_causal, state_after,
};

/// A self-attention layer without positions, residual or normalisation.
///
/// With `hidden_size == input_size` it is PyTorch's `MultiheadAttention(hidden_size, num_heads,
/// batch_first=True)` on `query = key = value = x`; otherwise a linear map `input_proj` comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConfig {
    /// Input features per step (`I`).
    pub input_size: usize,
    /// Hidden size (`H`): PyTorch's `embed_dim`.
    pub hidden_size: usize,
    /// Heads (`N`), each of `H / N` features.
    pub num_heads: usize,
    /// Whether projections have biases.
    pub bias: bool,
    /// Whether a step sees no later step.
    pub causal: bool,
    /// Dropout on the attention weights.
    pub attention_dropout: f64,
    /// Steps that a query of [`Kind::Local`] sees, its own included.
    pub window: usize,
    /// Kind of attention.
    pub kind: Kind,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_heads: 4,
            bias: true,
            causal: false,
            attention_dropout: 0.0,
            window: 32,
            kind: Kind::Mha,
        }
    }
}

impl AttentionConfig {
    fn attention(&self) -> SelfAttentionConfig {
        SelfAttentionConfig {
            kind: self.kind,
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            bias: self.bias,
            causal: self.causal,
            window: self.window,
            attention_dropout: self.attention_dropout,
        }
    }
}

impl ModelConfig for AttentionConfig {
    const FAMILY: Family = Family::Attention;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "input_size", help: "input features per step; set by the task" },
        OptionDoc { name: "hidden_size", help: "hidden size, a multiple of num_heads" },
        OptionDoc { name: "num_heads", help: "attention heads" },
        OptionDoc { name: "bias", help: "biases of the projections: true or false" },
        OptionDoc { name: "causal", help: "whether a step sees no later step: true or false" },
        OptionDoc {
            name: "attention_dropout",
            help: "dropout on the attention weights, 0 <= p < 1",
        },
        OptionDoc { name: "window", help: "steps that a query sees, its own included" },
        OptionDoc { name: "kind", help: "kind of attention: mha, local or linear" },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        self.attention().validate()
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Ok(Box::new(AttentionLayer::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let layer = self.attention().cost(batch, seq_len);
        if self.input_size == self.hidden_size {
            return layer;
        }
        let rows = (batch as u64).saturating_mul(seq_len as u64);
        cost::linear(rows, self.input_size as u64, self.hidden_size as u64, true) + layer
    }
}

/// The model that [`AttentionConfig`] describes.
///
/// On padding, `mha` gives what PyTorch's layer gives with a `key_padding_mask`: a padded step is
/// never a key, but as a query it gets an output (and gradient, if the loss reads it), so that what stands there
/// must be finite. `local` and `linear` give zeros there, whatever it is, as every other architecture does.
pub struct AttentionLayer {
    config: AttentionConfig,
    input_proj: Option<(Tensor, Tensor)>,
    attention: SelfAttention,
    parameters: ParameterSet,
}

impl AttentionLayer {
    /// A layer with freshly initialised parameters: `in_proj_weight`, `in_proj_bias`,
    /// `out_proj.weight`, `out_proj.bias`, after `input_proj.weight` and `input_proj.bias` if the
    /// sizes differ.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &AttentionConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let (inputs, hidden) = (config.input_size, config.hidden_size);
        let input_proj = if inputs == hidden {
            None
        } else {
            Some(add_input_proj(&mut parameters, "", inputs, hidden, context)?)
        };
        let attention = SelfAttention::new(config.attention(), &mut parameters, "", context)?;
        context.check_taken(&parameters)?;
        Ok(Self { config: config.clone(), input_proj, attention, parameters })
    }
}

/// `input_proj.weight` `(H, I)` and `input_proj.bias` `(H,)`, with `prefix` before their names.
pub(crate) fn add_input_proj(
    parameters: &mut ParameterSet,
    prefix: &str,
    inputs: usize,
    hidden: usize,
    context: &BuildContext,
) -> Result<(Tensor, Tensor)> {
    let name = |part: &str| format!("{prefix}input_proj.{part}");
    let weight = parameters.add(name("weight"), (hidden, inputs), Role::Weight, context)?;
    let role = Role::Bias { fan_in: inputs };
    Ok((weight, parameters.add(name("bias"), hidden, role, context)?))
}

impl SequenceModel for AttentionLayer {
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

    /// `k` and `v` `(1, B, N, S, d)`, or `s` `(1, B, N, d, d)` and `z` `(1, B, N, d)`; nothing
    /// without a causal mask.
    fn zero_state(&self, batch: usize) -> Result<State> {
        if !self.config.causal {
            return Ok(State::default());
        }
        let layout = self.config.attention().memory(1);
        Ok(State::new(layout.zeros(batch, self.dtype(), self.device())?, 0))
    }

    fn step(&self, input: &Tensor, state: &State) -> Result<(Tensor, State)> {
        if !self.config.causal {
            return Err(not_causal());
        }
        let input = input.unsqueeze(1)?;
        let next = self.forward(&ForwardArgs { state: Some(state), ..ForwardArgs::new(&input) })?;
        Ok((next.output.squeeze(1)?, next.state))
    }

    fn forward(&self, args: &ForwardArgs<'_>) -> Result<ForwardOutput> {
        if args.form == Form::Unrolled {
            return unroll_core::model::unroll_steps(self, args);
        }
        let (batch, seq_len, _) = args.checked(self.config.input_size, &self.parameters)?;
        let (dtype, device) = (self.dtype(), self.device());
        let config = self.config.attention();
        let layout = config.memory(1);
        let past = memories(&layout, config.causal, args.state, batch)?;
        let steps = args.state.map_or(0, State::steps);
        let pass = Pass::new(&config, args, (steps, seq_len), dtype, device)?;
        let input = match config.kind {
            // As a query, a padded step is answered.
            Kind::Mha => args.input.clone(),
            Kind::Local | Kind::Linear => args.real_input()?,
        };
        let x = match &self.input_proj {
            Some((weight, bias)) => ops::linear(&input, weight, Some(bias))?,
            None => input,
        };
        let layer = self.attention.forward(&x, past.first().and_then(Option::as_ref), &pass)?;
        let output = match config.kind {
            Kind::Mha => layer.output,
            Kind::Local | Kind::Linear => pass.hide_padding(layer.output)?,
        };
        let tensors = match layer.memory {
            Some(memory) => layout.pack(&[memory], batch, dtype, device)?,
            None => Vec::new(),
        };
        // The sums of linear attention know no position and can always go on.
        let has_positions = config.kind != Kind::Linear;
        let counts = (steps, seq_len);
        Ok(ForwardOutput {
            output,
            state: state_after(tensors, counts, args.lengths, has_positions, dtype, device)?,
            attention: layer.weights.into_iter().collect(),
            gates: Vec::new(),
            form: if pass.fuses_attention() { "fused" } else { "reference" },
        })
    }

    fn attention_layout(&self) -> Option<AttentionLayout> {
        Some(self.config.attention().layout(1))
    }

    /// At most one hop; nothing beyond a window.
    fn path_length(&self, distance: usize) -> Option<usize> {
        self.config.attention().path_length(distance, 1)
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.config.cost(batch, seq_len)
    }
}
