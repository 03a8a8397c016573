//! What Transformers are built of: input with positions, normalisation, MLP, blocks.

use candle_core::{DType, Device, Tensor};
use unroll_core::architecture::require_positive;
use unroll_core::parameters::Role;
use unroll_core::{BuildContext, Cost, Error, Mode, ParameterSet, Result, cost, ops};

use crate::layer::add_input_proj;
use crate::memory::Memory;
use crate::positions::{self, Positions};
use crate::self_attention::{LayerOutput, Pass, SelfAttention, SelfAttentionConfig};

/// Added to the variance in layer normalisation, as in PyTorch.
const NORM_EPSILON: f64 = 1e-5;

/// Standard deviation of learned positions at the start (that of GPT-2).
const POSITION_STD: f64 = 0.02;

/// Sizes of blocks and of what comes before them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockConfig {
    pub(crate) input_size: usize,
    pub(crate) hidden_size: usize,
    /// Width of the MLP.
    pub(crate) mlp_size: usize,
    pub(crate) positions: Positions,
    pub(crate) max_length: usize,
    /// Probability of dropout on what each branch adds to the residual.
    pub(crate) dropout: f64,
}

impl BlockConfig {
    /// Checks the positions, for heads of this size.
    pub(crate) fn validate_positions(&self, head_size: usize) -> Result<()> {
        match self.positions {
            Positions::Learned => require_positive("max_length", self.max_length),
            Positions::Rotary if !head_size.is_multiple_of(2) => Err(Error::option(
                "positions",
                format!(
                    "rotary turns pairs of features: hidden_size / num_heads must be even, not \
                     {head_size}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Cost of the normalisation of `rows` steps.
    pub(crate) fn norm_cost(&self, rows: u64) -> Cost {
        let hidden = self.hidden_size as u64;
        Cost { parameters: 2 * hidden, activation_elements: rows * hidden, ..Cost::default() }
    }

    /// Cost of input map and positions.
    pub(crate) fn embedding_cost(&self, rows: u64) -> Cost {
        let hidden = self.hidden_size as u64;
        let mut cost = cost::linear(rows, self.input_size as u64, hidden, true);
        if self.positions == Positions::Learned {
            cost.parameters += self.max_length as u64 * hidden;
        }
        cost
    }

    /// Cost of a block's MLP.
    pub(crate) fn mlp_cost(&self, rows: u64) -> Cost {
        let (hidden, mlp) = (self.hidden_size as u64, self.mlp_size as u64);
        cost::linear(rows, hidden, mlp, true) + cost::linear(rows, mlp, hidden, true)
    }
}

/// The linear map from the input, and where steps stand.
pub(crate) struct Embedding {
    config: BlockConfig,
    input_proj: (Tensor, Tensor),
    positions: Option<Tensor>,
}

impl Embedding {
    /// Adds `input_proj.weight`, `input_proj.bias` and `positions.weight`, if those are learned, with
    /// `prefix` before their names.
    pub(crate) fn new(
        config: BlockConfig,
        set: &mut ParameterSet,
        prefix: &str,
        context: &BuildContext,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        let input_proj = add_input_proj(set, prefix, config.input_size, hidden, context)?;
        let positions = match config.positions {
            Positions::Learned => {
                let role = Role::Embedding { std: POSITION_STD };
                let name = format!("{prefix}positions.weight");
                Some(set.add(name, (config.max_length, hidden), role, context)?)
            }
            _ => None,
        };
        Ok(Self { config, input_proj, positions })
    }

    /// `(B, T, I)` to `(B, T, H)` with added positions, which count from `steps`.
    pub(crate) fn apply(&self, input: &Tensor, steps: usize) -> Result<Tensor> {
        let seq_len = input.dim(1)?;
        let (weight, bias) = &self.input_proj;
        let x = ops::linear(input, weight, Some(bias))?;
        let added = match (&self.positions, self.config.positions) {
            (Some(learned), _) => {
                let (last, max_length) = (steps + seq_len, self.config.max_length);
                if last > max_length {
                    return Err(Error::option(
                        "max_length",
                        format!(
                            "there are learned positions for {max_length} steps, and step {last} was \
                             asked for"
                        ),
                    ));
                }
                learned.narrow(0, steps, seq_len)?
            }
            (None, Positions::Sinusoidal) => {
                let (dtype, device): (DType, &Device) = (x.dtype(), x.device());
                positions::sinusoidal(steps, seq_len, self.config.hidden_size, dtype, device)?
            }
            (None, _) => return Ok(x),
        };
        Ok(x.broadcast_add(&added)?)
    }
}

/// Dropout in training, from the stream below the mode's of this name.
pub(crate) fn drop(x: Tensor, probability: f64, mode: Mode<'_>, name: &str) -> Result<Tensor> {
    match mode {
        Mode::Train(stream) if probability > 0.0 => {
            let (shape, dtype) = (x.shape(), x.dtype());
            let mask = stream.child(name).dropout_mask(shape, probability, dtype, x.device())?;
            Ok((x * mask)?)
        }
        _ => Ok(x),
    }
}

/// Scale and shift of a layer normalisation.
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    /// `name.weight` and `name.bias`.
    pub(crate) fn new(
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

    pub(crate) fn apply(&self, x: &Tensor, fused: bool) -> Result<Tensor> {
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

/// The MLP of a block.
pub(crate) struct Mlp {
    linear1: Linear,
    linear2: Linear,
}

impl Mlp {
    /// `linear1` and `linear2`, with `prefix` before their names.
    pub(crate) fn new(
        config: &BlockConfig,
        set: &mut ParameterSet,
        prefix: &str,
        context: &BuildContext,
    ) -> Result<Self> {
        let (hidden, mlp) = (config.hidden_size, config.mlp_size);
        Ok(Self {
            linear1: Linear::new(set, &format!("{prefix}linear1"), (hidden, mlp), context)?,
            linear2: Linear::new(set, &format!("{prefix}linear2"), (mlp, hidden), context)?,
        })
    }

    pub(crate) fn apply(&self, x: &Tensor, fused: bool) -> Result<Tensor> {
        let wide = gelu(&self.linear1.apply(x, fused)?, fused)?;
        self.linear2.apply(&wide, fused)
    }
}

/// `x + attention(norm1(x))`, then `x + mlp(norm2(x))`.
pub(crate) struct Block {
    self_attn: SelfAttention,
    mlp: Mlp,
    norm1: Norm,
    norm2: Norm,
    dropout: f64,
    /// Name of the streams of its dropout.
    dropout_name: String,
}

impl Block {
    /// Parameters under the names of PyTorch's `TransformerEncoderLayer`, with `prefix` before them.
    pub(crate) fn new(
        config: &BlockConfig,
        attention: SelfAttentionConfig,
        set: &mut ParameterSet,
        prefix: &str,
        context: &BuildContext,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}{part}");
        let hidden = config.hidden_size;
        Ok(Self {
            self_attn: SelfAttention::new(attention, set, &name("self_attn."), context)?,
            mlp: Mlp::new(config, set, prefix, context)?,
            norm1: Norm::new(set, &name("norm1"), hidden, context)?,
            norm2: Norm::new(set, &name("norm2"), hidden, context)?,
            dropout: config.dropout,
            dropout_name: name("dropout"),
        })
    }

    /// The block over `x` `(B, T, H)`: what its attention gives, with the block's output in place of the
    /// attention's.
    pub(crate) fn forward(
        &self,
        x: Tensor,
        past: Option<&Memory>,
        pass: &Pass<'_>,
    ) -> Result<LayerOutput> {
        let drop = |x: Tensor, number: usize| {
            drop(x, self.dropout, pass.mode, &format!("{}{number}", self.dropout_name))
        };
        let normal = self.norm1.apply(&x, pass.fused)?;
        let mixed = self.self_attn.forward(&normal, past, pass)?;
        let x = (x + drop(mixed.output, 1)?)?;
        let mlp = self.mlp.apply(&self.norm2.apply(&x, pass.fused)?, pass.fused)?;
        Ok(LayerOutput { output: (x + drop(mlp, 2)?)?, ..mixed })
    }
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
