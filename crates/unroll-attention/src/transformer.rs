//! Stacks of pre-norm residual blocks: `transformer`, `local_transformer`, `linear_transformer`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::{
    AttentionLayout, BuildContext, Cost, Family, Form, ForwardArgs, ForwardOutput, ModelConfig,
    OptionDoc, ParameterSet, Result, SequenceModel, State,
};

use crate::block::{Block, BlockConfig, Embedding, Norm};
use crate::positions::{Positions, Rotation};
use crate::self_attention::{Kind, Pass, SelfAttentionConfig, memories, not_causal, state_after};

/// A stack of `x + attention(norm(x))`, `x + mlp(norm(x))` and a last norm (the pre-norm order of
/// Xiong 2020), after a linear map from the input and the positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// Input features per step (`I`).
    pub input_size: usize,
    /// Hidden size (`H`).
    pub hidden_size: usize,
    /// Blocks (`L`).
    pub num_layers: usize,
    /// Heads (`N`), each of `H / N` features.
    pub num_heads: usize,
    /// Width of the block's MLP over the hidden size.
    pub mlp_ratio: usize,
    /// Where steps stand.
    pub positions: Positions,
    /// Positions that [`Positions::Learned`] knows.
    pub max_length: usize,
    /// Whether a step sees no later step.
    pub causal: bool,
    /// Dropout on what each attention and each MLP adds to the residual.
    pub dropout: f64,
    /// Dropout on the attention weights.
    pub attention_dropout: f64,
    /// Steps that a query of [`Kind::Local`] sees, its own included.
    pub window: usize,
    /// Kind of attention.
    pub kind: Kind,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_layers: 2,
            num_heads: 4,
            mlp_ratio: 4,
            positions: Positions::default(),
            max_length: 1024,
            causal: true,
            dropout: 0.0,
            attention_dropout: 0.0,
            window: 32,
            kind: Kind::Mha,
        }
    }
}

impl TransformerConfig {
    fn attention(&self) -> SelfAttentionConfig {
        SelfAttentionConfig {
            kind: self.kind,
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            bias: true,
            causal: self.causal,
            window: self.window,
            attention_dropout: self.attention_dropout,
        }
    }

    fn block(&self) -> BlockConfig {
        BlockConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            mlp_size: self.mlp_ratio * self.hidden_size,
            positions: self.positions,
            max_length: self.max_length,
            dropout: self.dropout,
        }
    }
}

impl ModelConfig for TransformerConfig {
    const FAMILY: Family = Family::Attention;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "input_size", help: "input features per step; set by the task" },
        OptionDoc { name: "hidden_size", help: "hidden size, a multiple of num_heads" },
        OptionDoc { name: "num_layers", help: "blocks" },
        OptionDoc { name: "num_heads", help: "attention heads" },
        OptionDoc { name: "mlp_ratio", help: "width of the MLP over the hidden size" },
        OptionDoc { name: "positions", help: "none, sinusoidal, learned or rotary" },
        OptionDoc { name: "max_length", help: "longest sequence with learned positions" },
        OptionDoc { name: "causal", help: "whether a step sees no later step: true or false" },
        OptionDoc { name: "dropout", help: "dropout on the residual branches, 0 <= p < 1" },
        OptionDoc {
            name: "attention_dropout",
            help: "dropout on the attention weights, 0 <= p < 1",
        },
        OptionDoc { name: "window", help: "steps that a query sees, its own included" },
        OptionDoc { name: "kind", help: "kind of attention: mha, local or linear" },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_positive("mlp_ratio", self.mlp_ratio)?;
        require_probability("dropout", self.dropout)?;
        let attention = self.attention();
        attention.validate()?;
        self.block().validate_positions(attention.head_size())
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Ok(Box::new(Transformer::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let rows = (batch * seq_len) as u64;
        let block = self.block();
        let norm = block.norm_cost(rows);
        let mut total = block.embedding_cost(rows) + norm;
        for _ in 0..self.num_layers {
            let attention = self.attention().cost(batch, seq_len);
            total = total + norm + attention + norm + block.mlp_cost(rows);
        }
        total
    }
}

/// The model that [`TransformerConfig`] describes. Outputs are zero on padding.
///
/// The form that it reports is `fused` when normalisation and MLP are: the attention then is too,
/// except a linear one, one with dropout on its weights, and one whose weights are asked for.
pub struct Transformer {
    config: TransformerConfig,
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: Norm,
    parameters: ParameterSet,
}

impl Transformer {
    /// A stack with freshly initialised parameters under the names of PyTorch's
    /// `TransformerEncoder` over `TransformerEncoderLayer(norm_first=True, activation="gelu")` (exact GELU; weights that
    /// were trained with PyTorch's default, ReLU, have the same names and shapes, and give something else here):
    /// `layers.0.self_attn.in_proj_weight`, `layers.0.linear1.weight`, ..., `norm.weight`; before
    /// them `input_proj.weight`, `input_proj.bias` and `positions.weight`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &TransformerConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut set = ParameterSet::new(context.dtype, &context.device);
        let block = config.block();
        let embedding = Embedding::new(block, &mut set, "", context)?;
        let mut blocks = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let prefix = format!("layers.{layer}.");
            blocks.push(Block::new(&block, config.attention(), &mut set, &prefix, context)?);
        }
        let norm = Norm::new(&mut set, "norm", config.hidden_size, context)?;
        context.check_taken(&set)?;
        Ok(Self { config: config.clone(), embedding, blocks, norm, parameters: set })
    }
}

impl SequenceModel for Transformer {
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

    /// `k` and `v` `(L, B, N, S, d)`, or `s` `(L, B, N, d, d)` and `z` `(L, B, N, d)`; nothing
    /// without a causal mask.
    fn zero_state(&self, batch: usize) -> Result<State> {
        if !self.config.causal {
            return Ok(State::default());
        }
        let layout = self.config.attention().memory(self.blocks.len());
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
        let layout = config.memory(self.blocks.len());
        let past = memories(&layout, config.causal, args.state, batch)?;
        let steps = args.state.map_or(0, State::steps);
        let mut pass = Pass::new(&config, args, (steps, seq_len), dtype, device)?;
        if self.config.positions == Positions::Rotary {
            let head_size = config.head_size();
            pass.rotation = Some(Rotation::new(steps, seq_len, head_size, dtype, device)?);
        }
        let mut x = self.embedding.apply(&args.real_input()?, steps)?;
        let mut attention = Vec::new();
        let mut present = Vec::with_capacity(self.blocks.len());
        for (block, past) in self.blocks.iter().zip(&past) {
            let after = block.forward(x, past.as_ref(), &pass)?;
            x = after.output;
            attention.extend(after.weights);
            present.extend(after.memory);
        }
        let tensors =
            if config.causal { layout.pack(&present, batch, dtype, device)? } else { Vec::new() };
        let has_positions = config.kind != Kind::Linear || self.config.positions != Positions::None;
        let counts = (steps, seq_len);
        Ok(ForwardOutput {
            output: pass.hide_padding(self.norm.apply(&x, pass.fused)?)?,
            state: state_after(tensors, counts, args.lengths, has_positions, dtype, device)?,
            attention,
            gates: Vec::new(),
            form: pass.form(),
        })
    }

    fn attention_layout(&self) -> Option<AttentionLayout> {
        Some(self.config.attention().layout(self.blocks.len()))
    }

    /// One hop through all the past; under a window `w`, `distance / (w - 1)` rounded up, if there are as
    /// many blocks.
    fn path_length(&self, distance: usize) -> Option<usize> {
        self.config.attention().path_length(distance, self.blocks.len())
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.config.cost(batch, seq_len)
    }
}
