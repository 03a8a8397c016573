//! Stacks of pre-norm residual blocks: `transformer`, `local_transformer`, `linear_transformer`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::parameters::Role;
use unroll_core::{
    AttentionLayout, BuildContext, Cost, Error, Family, Form, ForwardArgs, ForwardOutput, Mode,
    ModelConfig, OptionDoc, ParameterSet, Result, SequenceModel, State, cost, ops,
};

use crate::layer::add_input_proj;
use crate::positions::{self, Positions, Rotation};
use crate::self_attention::{
    Kind, Pass, SelfAttention, SelfAttentionConfig, memories, not_causal, state_after,
};

/// Added to the variance in layer normalisation, as in PyTorch.
const NORM_EPSILON: f64 = 1e-5;

/// Standard deviation of learned positions at the start (that of GPT-2).
const POSITION_STD: f64 = 0.02;

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

    fn mlp_size(&self) -> usize {
        self.mlp_ratio * self.hidden_size
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
        match self.positions {
            Positions::Learned => require_positive("max_length", self.max_length),
            Positions::Rotary if !attention.head_size().is_multiple_of(2) => Err(Error::option(
                "positions",
                format!(
                    "rotary turns pairs of features: hidden_size / num_heads must be even, not {}",
                    attention.head_size()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Ok(Box::new(Transformer::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let rows = (batch * seq_len) as u64;
        let (hidden, mlp) = (self.hidden_size as u64, self.mlp_size() as u64);
        let norm =
            Cost { parameters: 2 * hidden, activation_elements: rows * hidden, ..Cost::default() };
        let learned = match self.positions {
            Positions::Learned => self.max_length as u64 * hidden,
            _ => 0,
        };
        let mut total = cost::linear(rows, self.input_size as u64, hidden, true) + norm;
        total.parameters += learned;
        for _ in 0..self.num_layers {
            total = total
                + norm
                + self.attention().cost(batch, seq_len)
                + norm
                + cost::linear(rows, hidden, mlp, true)
                + cost::linear(rows, mlp, hidden, true);
        }
        total
    }
}

/// Scale and shift of a layer normalisation.
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(
        parameters: &mut ParameterSet,
        name: &str,
        hidden: usize,
        context: &BuildContext,
    ) -> Result<Self> {
        Ok(Self {
            weight: parameters.add(format!("{name}.weight"), hidden, Role::Scale, context)?,
            bias: parameters.add(format!("{name}.bias"), hidden, Role::Zero, context)?,
        })
    }

    fn apply(&self, x: &Tensor, fused: bool) -> Result<Tensor> {
        if fused {
            return Ok(unroll_kernels::layer_norm(x, &self.weight, &self.bias, NORM_EPSILON)?);
        }
        ops::layer_norm(x, &self.weight, &self.bias, NORM_EPSILON)
    }
}

/// Weight and bias of a linear map.
struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn new(
        parameters: &mut ParameterSet,
        name: &str,
        (inputs, outputs): (usize, usize),
        context: &BuildContext,
    ) -> Result<Self> {
        let weight = format!("{name}.weight");
        let role = Role::Bias { fan_in: inputs };
        Ok(Self {
            weight: parameters.add(weight, (outputs, inputs), Role::Weight, context)?,
            bias: parameters.add(format!("{name}.bias"), outputs, role, context)?,
        })
    }

    fn apply(&self, x: &Tensor, fused: bool) -> Result<Tensor> {
        if fused {
            return Ok(unroll_kernels::linear(x, &self.weight, &self.bias)?);
        }
        ops::linear(x, &self.weight, Some(&self.bias))
    }
}

struct Block {
    norm1: Norm,
    self_attn: SelfAttention,
    norm2: Norm,
    linear1: Linear,
    linear2: Linear,
}

/// `x Phi(x)` with the normal distribution function (Hendrycks & Gimpel 2016), exact: candle's own
/// `gelu_erf` rounds a constant of its gradient to six digits.
fn gelu(x: &Tensor, fused: bool) -> Result<Tensor> {
    if fused {
        return Ok(unroll_kernels::gelu(x)?);
    }
    let double_phi = x.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(1.0, 1.0)?;
    Ok((x.affine(0.5, 0.0)? * double_phi)?)
}

/// The model that [`TransformerConfig`] describes. Outputs are zero on padding.
///
/// The form that it reports is `fused` when normalisation and MLP are: the attention then is too,
/// except a linear one, one with dropout on its weights, and one whose weights are asked for.
pub struct Transformer {
    config: TransformerConfig,
    input_proj: (Tensor, Tensor),
    positions: Option<Tensor>,
    blocks: Vec<Block>,
    norm: Norm,
    parameters: ParameterSet,
}

impl Transformer {
    /// A stack with freshly initialised parameters under the names of PyTorch's
    /// `TransformerEncoder` over `TransformerEncoderLayer(norm_first=True)`:
    /// `layers.0.self_attn.in_proj_weight`, `layers.0.linear1.weight`, ..., `norm.weight`; before
    /// them `input_proj.weight`, `input_proj.bias` and `positions.weight`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &TransformerConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut set = ParameterSet::new(context.dtype, &context.device);
        let (hidden, mlp) = (config.hidden_size, config.mlp_size());
        let input_proj = add_input_proj(&mut set, config.input_size, hidden, context)?;
        let positions = match config.positions {
            Positions::Learned => {
                let role = Role::Embedding { std: POSITION_STD };
                Some(set.add("positions.weight", (config.max_length, hidden), role, context)?)
            }
            _ => None,
        };
        let mut blocks = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let name = |part: &str| format!("layers.{layer}.{part}");
            let attention = config.attention();
            blocks.push(Block {
                self_attn: SelfAttention::new(attention, &mut set, &name("self_attn."), context)?,
                linear1: Linear::new(&mut set, &name("linear1"), (hidden, mlp), context)?,
                linear2: Linear::new(&mut set, &name("linear2"), (mlp, hidden), context)?,
                norm1: Norm::new(&mut set, &name("norm1"), hidden, context)?,
                norm2: Norm::new(&mut set, &name("norm2"), hidden, context)?,
            });
        }
        let norm = Norm::new(&mut set, "norm", hidden, context)?;
        Ok(Self { config: config.clone(), input_proj, positions, blocks, norm, parameters: set })
    }

    /// `(B, T, I)` to `(B, T, H)` with added positions, which count from `steps`.
    fn embed(&self, input: &Tensor, steps: usize) -> Result<Tensor> {
        let seq_len = input.dim(1)?;
        let (weight, bias) = &self.input_proj;
        let x = ops::linear(input, weight, Some(bias))?;
        let added = match (&self.positions, self.config.positions) {
            (Some(learned), _) => {
                let last = steps + seq_len;
                if last > self.config.max_length {
                    return Err(Error::option(
                        "max_length",
                        format!(
                            "there are learned positions for {} steps, and step {last} was asked for",
                            self.config.max_length
                        ),
                    ));
                }
                learned.narrow(0, steps, seq_len)?
            }
            (None, Positions::Sinusoidal) => {
                let hidden = self.config.hidden_size;
                positions::sinusoidal(steps, seq_len, hidden, self.dtype(), self.device())?
            }
            (None, _) => return Ok(x),
        };
        Ok(x.broadcast_add(&added)?)
    }

    fn drop(&self, x: Tensor, mode: Mode<'_>, name: &str) -> Result<Tensor> {
        match mode {
            Mode::Train(stream) if self.config.dropout > 0.0 => {
                let (shape, p) = (x.shape(), self.config.dropout);
                let mask = stream.child(name).dropout_mask(shape, p, x.dtype(), x.device())?;
                Ok((x * mask)?)
            }
            _ => Ok(x),
        }
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
        let (batch, seq_len, _) = args.dims(self.config.input_size)?;
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
        let mut x = self.embed(args.input, steps)?;
        let mut attention = Vec::new();
        let mut present = Vec::with_capacity(self.blocks.len());
        for (layer, (block, past)) in self.blocks.iter().zip(&past).enumerate() {
            let normal = block.norm1.apply(&x, pass.fused)?;
            let mixed = block.self_attn.forward(&normal, past.as_ref(), &pass)?;
            let name = format!("layers.{layer}.dropout");
            x = (x + self.drop(mixed.output, args.mode, &format!("{name}1"))?)?;
            let normal = block.norm2.apply(&x, pass.fused)?;
            let wide = gelu(&block.linear1.apply(&normal, pass.fused)?, pass.fused)?;
            let mlp = block.linear2.apply(&wide, pass.fused)?;
            x = (x + self.drop(mlp, args.mode, &format!("{name}2"))?)?;
            attention.extend(mixed.weights);
            present.extend(mixed.memory);
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
            form: if pass.fused { "fused" } else { "reference" },
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
