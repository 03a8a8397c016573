//! The Transformer from one sequence to another: `encdec_transformer` (Vaswani et al. 2017), with the
//! normalisation before each branch (Xiong et al. 2020).
//!
//! ```text
//! encoder block: x = x + self_attention(norm1(x));          x = x + mlp(norm2(x))
//! decoder block: y = y + causal_self_attention(norm1(y));
//!                y = y + attention(norm2(y), encoder);      y = y + mlp(norm3(y))
//! ```
//!
//! After each stack a last normalisation; before it a linear map from the input, and the positions.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::pair::{Encoded, PairArgs, PairModel, PairOutput};
use unroll_core::{
    BuildContext, Cost, Error, Family, Form, ForwardArgs, Lengths, Mode, ModelConfig, OptionDoc,
    ParameterSet, Result, SequenceModel, State, StateTensor,
};

use crate::block::{Block, BlockConfig, Embedding, Mlp, Norm, drop};
use crate::cross;
use crate::encoder_decoder::{mode, streams};
use crate::memory::Memory;
use crate::positions::{Positions, Rotation};
use crate::projections::Projections;
use crate::self_attention::{Kind, Pass, SelfAttention, SelfAttentionConfig, memories};
use crate::softmax::{self, WeightDropout};

/// An encoder and a decoder of Transformer blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderDecoderTransformerConfig {
    /// Features per step of both sequences (`I`).
    pub input_size: usize,
    /// Hidden size (`H`).
    pub hidden_size: usize,
    /// Blocks (`L`) of the encoder, and of the decoder.
    pub num_layers: usize,
    /// Heads (`N`) of every attention, each of `H / N` features.
    pub num_heads: usize,
    /// Width of the blocks' MLP over the hidden size.
    pub mlp_ratio: usize,
    /// Where steps stand, in either sequence.
    pub positions: Positions,
    /// Positions that [`Positions::Learned`] knows.
    pub max_length: usize,
    /// Dropout on what each branch adds to the residual.
    pub dropout: f64,
    /// Dropout on the attention weights.
    pub attention_dropout: f64,
}

impl Default for EncoderDecoderTransformerConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_layers: 2,
            num_heads: 4,
            mlp_ratio: 4,
            positions: Positions::default(),
            max_length: 1024,
            dropout: 0.0,
            attention_dropout: 0.0,
        }
    }
}

impl EncoderDecoderTransformerConfig {
    fn attention(&self, causal: bool) -> SelfAttentionConfig {
        SelfAttentionConfig {
            kind: Kind::Mha,
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            bias: true,
            causal,
            window: 1,
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

    fn cross_cost(&self, batch: usize, source_len: usize, target_len: usize) -> Cost {
        let (hidden, heads) = (self.hidden_size as u64, self.num_heads as u64);
        let (sources, targets) = ((batch * source_len) as u64, (batch * target_len) as u64);
        let pairs = (batch * source_len * target_len) as u64;
        let flops = cross::pairs_flops(pairs, 2 * hidden, hidden, heads);
        let core = Cost {
            parameters: 0,
            forward_flops: flops,
            backward_flops: 2 * flops,
            // Keys and values of the source.
            state_elements: 2 * sources * hidden,
            activation_elements: targets * hidden + 2 * heads * pairs,
        };
        cross::projections_cost(sources, targets, hidden, true) + core
    }

    fn cost_of(&self, batch: usize, source_len: usize, target_len: usize) -> Cost {
        let block = self.block();
        let (sources, targets) = ((batch * source_len) as u64, (batch * target_len) as u64);
        let encoder = Cost {
            // What the encoder gives is kept.
            state_elements: sources * self.hidden_size as u64,
            ..block.embedding_cost(sources) + block.norm_cost(sources)
        };
        let mut total = encoder + block.embedding_cost(targets) + block.norm_cost(targets);
        for _ in 0..self.num_layers {
            let (of_source, of_target) = (block.norm_cost(sources), block.norm_cost(targets));
            let reads = of_source + self.attention(false).cost(batch, source_len) + of_source;
            let writes = of_target + self.attention(true).cost(batch, target_len) + of_target;
            let looks = of_target + self.cross_cost(batch, source_len, target_len);
            total =
                total + reads + block.mlp_cost(sources) + writes + looks + block.mlp_cost(targets);
        }
        total
    }
}

impl ModelConfig for EncoderDecoderTransformerConfig {
    const FAMILY: Family = Family::EncoderDecoder;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "input_size", help: "features per step; set by the task" },
        OptionDoc { name: "hidden_size", help: "hidden size, a multiple of num_heads" },
        OptionDoc { name: "num_layers", help: "blocks of encoder and of decoder" },
        OptionDoc { name: "num_heads", help: "attention heads" },
        OptionDoc { name: "mlp_ratio", help: "width of the MLP over the hidden size" },
        OptionDoc { name: "positions", help: "none, sinusoidal, learned or rotary" },
        OptionDoc { name: "max_length", help: "longest sequence with learned positions" },
        OptionDoc { name: "dropout", help: "dropout on the residual branches, 0 <= p < 1" },
        OptionDoc {
            name: "attention_dropout",
            help: "dropout on the attention weights, 0 <= p < 1",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_positive("mlp_ratio", self.mlp_ratio)?;
        require_probability("dropout", self.dropout)?;
        let attention = self.attention(true);
        attention.validate()?;
        self.block().validate_positions(attention.head_size())
    }

    fn build(&self, _: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Err(Error::Unsupported(
            "reads one sequence and writes another: `build_pair` makes it, and a task such as g2p or \
             translation needs it"
                .into(),
        ))
    }

    fn build_pair(&self, context: &BuildContext) -> Result<Box<dyn PairModel>> {
        Ok(Box::new(EncoderDecoderTransformer::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.cost_of(batch, seq_len, seq_len)
    }
}

/// A block of the decoder.
struct DecoderBlock {
    self_attn: SelfAttention,
    multihead_attn: Projections,
    mlp: Mlp,
    norms: [Norm; 3],
    /// What its parameters' names begin with.
    prefix: String,
}

impl DecoderBlock {
    /// Parameters under the names of PyTorch's `TransformerDecoderLayer`, with `prefix` before them.
    fn new(
        config: &EncoderDecoderTransformerConfig,
        set: &mut ParameterSet,
        prefix: String,
        context: &BuildContext,
    ) -> Result<Self> {
        let name = |part: &str| format!("{prefix}{part}");
        let (hidden, heads) = (config.hidden_size, config.num_heads);
        let attention = config.attention(true);
        let self_attn = SelfAttention::new(attention, set, &name("self_attn."), context)?;
        let cross = name("multihead_attn.");
        let multihead_attn = Projections::new(set, &cross, (hidden, heads), true, context)?;
        let mlp = Mlp::new(&config.block(), set, &prefix, context)?;
        let mut norm = |part: &str| Norm::new(set, &name(part), hidden, context);
        let norms = [norm("norm1")?, norm("norm2")?, norm("norm3")?];
        Ok(Self { self_attn, multihead_attn, mlp, norms, prefix })
    }
}

/// Keys and values `(B, N, S, d)` of the source, for each block of the decoder.
type CrossMemory = Vec<(Tensor, Tensor)>;

/// What the decoder goes over.
struct Writing<'a> {
    args: ForwardArgs<'a>,
    memory: &'a CrossMemory,
    source_lengths: Option<&'a Lengths>,
    attention: bool,
}

/// What the decoder gives.
struct Written {
    output: Tensor,
    attention: Option<Tensor>,
    present: Vec<Memory>,
    form: &'static str,
}

/// The model that [`EncoderDecoderTransformerConfig`] describes.
///
/// Decoding keeps keys and values: those of the source once, in [`Encoded::memory`] (`cross_k`, `cross_v` `(L,
/// B, N, S, d)`), those of the answer in the state (`k`, `v` `(L, B, N, T, d)`). The weights that it returns
/// are those of the last block's attention to the source.
pub struct EncoderDecoderTransformer {
    config: EncoderDecoderTransformerConfig,
    source_embedding: Embedding,
    encoder: Vec<Block>,
    encoder_norm: Norm,
    target_embedding: Embedding,
    decoder: Vec<DecoderBlock>,
    decoder_norm: Norm,
    parameters: ParameterSet,
}

impl EncoderDecoderTransformer {
    /// A model with freshly initialised parameters under the names of PyTorch's `Transformer` with
    /// `norm_first=True` (`encoder.layers.0.self_attn.in_proj_weight`, ...,
    /// `decoder.layers.0.multihead_attn.in_proj_weight`, ..., `decoder.norm.bias`), and before each stack's
    /// `input_proj.weight`, `input_proj.bias` and `positions.weight`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &EncoderDecoderTransformerConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut set = ParameterSet::new(context.dtype, &context.device);
        let (block, hidden) = (config.block(), config.hidden_size);
        let source_embedding = Embedding::new(block, &mut set, "encoder.", context)?;
        let mut encoder = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let prefix = format!("encoder.layers.{layer}.");
            let attention = config.attention(false);
            encoder.push(Block::new(&block, attention, &mut set, &prefix, context)?);
        }
        let encoder_norm = Norm::new(&mut set, "encoder.norm", hidden, context)?;
        let target_embedding = Embedding::new(block, &mut set, "decoder.", context)?;
        let mut decoder = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let prefix = format!("decoder.layers.{layer}.");
            decoder.push(DecoderBlock::new(config, &mut set, prefix, context)?);
        }
        let decoder_norm = Norm::new(&mut set, "decoder.norm", hidden, context)?;
        context.check_taken(&set)?;
        Ok(Self {
            config: config.clone(),
            source_embedding,
            encoder,
            encoder_norm,
            target_embedding,
            decoder,
            decoder_norm,
            parameters: set,
        })
    }

    /// What self-attention layers share in a pass after `steps` earlier steps.
    fn pass<'a>(&self, causal: bool, args: &ForwardArgs<'a>, steps: usize) -> Result<Pass<'a>> {
        let (_, seq_len, _) = args.checked(self.config.input_size, &self.parameters)?;
        let (dtype, device) = (self.dtype(), self.device());
        let config = self.config.attention(causal);
        let mut pass = Pass::new(&config, args, (steps, seq_len), dtype, device)?;
        if self.config.positions == Positions::Rotary {
            let head_size = config.head_size();
            pass.rotation = Some(Rotation::new(steps, seq_len, head_size, dtype, device)?);
        }
        Ok(pass)
    }

    /// The encoder's outputs `(B, S, H)`, zero on padding.
    fn read(&self, args: &ForwardArgs<'_>) -> Result<Tensor> {
        let pass = self.pass(false, args, 0)?;
        let mut x = self.source_embedding.apply(&args.real_input()?, 0)?;
        for block in &self.encoder {
            x = block.forward(x, None, &pass)?.output;
        }
        pass.hide_padding(self.encoder_norm.apply(&x, pass.fused)?)
    }

    fn cross_memory(&self, states: &Tensor) -> Result<CrossMemory> {
        self.decoder.iter().map(|block| block.multihead_attn.keys_and_values(states)).collect()
    }

    fn write(&self, writing: &Writing<'_>) -> Result<Written> {
        let args = &writing.args;
        let config = self.config.attention(true);
        let layout = config.memory(self.decoder.len());
        let (batch, ..) = args.checked(self.config.input_size, &self.parameters)?;
        let steps = args.state.map_or(0, State::steps);
        let past = memories(&layout, true, args.state, batch)?;
        let pass = self.pass(true, args, steps)?;
        let head_size = config.head_size();
        let fused = softmax::may_attend(args.form, self.dtype(), self.device(), head_size);
        let (scale, dropout) = (softmax::scale(head_size), self.config.dropout);
        let mut x = self.target_embedding.apply(&args.real_input()?, steps)?;
        let mut present = Vec::with_capacity(self.decoder.len());
        let mut attention = None;
        for (layer, block) in self.decoder.iter().enumerate() {
            let dropped = |x: Tensor, number: usize| {
                drop(x, dropout, args.mode, &format!("{}dropout{number}", block.prefix))
            };
            let normal = block.norms[0].apply(&x, pass.fused)?;
            let mixed = block.self_attn.forward(&normal, past[layer].as_ref(), &pass)?;
            present.extend(mixed.memory);
            x = (x + dropped(mixed.output, 1)?)?;

            let queries = block.multihead_attn.queries(&block.norms[1].apply(&x, pass.fused)?)?;
            let (keys, values) = &writing.memory[layer];
            let source = cross::Memory { keys, values, lengths: writing.source_lengths };
            let stream = match args.mode {
                Mode::Train(stream) if self.config.attention_dropout > 0.0 => {
                    Some(stream.child(&format!("{}multihead_attn.dropout", block.prefix)))
                }
                _ => None,
            };
            let probability = self.config.attention_dropout;
            let of_weights = stream.as_ref().map(|stream| WeightDropout { probability, stream });
            let keep = writing.attention && layer + 1 == self.decoder.len();
            let (context, weights) = source.attend(&queries, scale, of_weights, (fused, keep))?;
            attention = weights;
            x = (x + dropped(block.multihead_attn.merge(&context)?, 2)?)?;

            let mlp = block.mlp.apply(&block.norms[2].apply(&x, pass.fused)?, pass.fused)?;
            x = (x + dropped(mlp, 3)?)?;
        }
        let output = pass.hide_padding(self.decoder_norm.apply(&x, pass.fused)?)?;
        Ok(Written { output, attention, present, form: pass.form() })
    }
}

impl PairModel for EncoderDecoderTransformer {
    fn input_size(&self) -> usize {
        self.config.input_size
    }

    fn output_size(&self) -> usize {
        self.config.hidden_size
    }

    fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    fn forward(&self, args: &PairArgs<'_>) -> Result<PairOutput> {
        args.check_batches()?;
        // Attention has a reference form and a fused one; unrolled it is decoded.
        let form = if args.form == Form::Unrolled { Form::Reference } else { args.form };
        let (of_encoder, of_decoder) =
            (streams(args.mode, "encoder"), streams(args.mode, "decoder"));
        let states = self.read(&ForwardArgs {
            lengths: args.source_lengths,
            mode: mode(of_encoder.as_ref()),
            form,
            ..ForwardArgs::new(args.source)
        })?;
        let written = self.write(&Writing {
            args: ForwardArgs {
                lengths: args.target_lengths,
                mode: mode(of_decoder.as_ref()),
                form,
                ..ForwardArgs::new(args.target)
            },
            memory: &self.cross_memory(&states)?,
            source_lengths: args.source_lengths,
            attention: args.attention,
        })?;
        let Written { output, attention, form, .. } = written;
        Ok(PairOutput { output, attention, form })
    }

    fn encode(&self, source: &Tensor, lengths: Option<&Lengths>) -> Result<Encoded> {
        let states = self.read(&ForwardArgs { lengths, ..ForwardArgs::new(source) })?;
        let (keys, values): (Vec<_>, Vec<_>) = self.cross_memory(&states)?.into_iter().unzip();
        let stacked = |name, parts: &[Tensor]| -> Result<StateTensor> {
            let tensor = Tensor::stack(parts, 0)?;
            Ok(StateTensor { name, tensor, batch_axis: 1, time_axis: None })
        };
        let memory = State::new(vec![stacked("cross_k", &keys)?, stacked("cross_v", &values)?], 0);
        let layout = self.config.attention(true).memory(self.decoder.len());
        let state = layout.zeros(states.dim(0)?, self.dtype(), self.device())?;
        let state = State::new(state, 0);
        Ok(Encoded { states, lengths: lengths.cloned(), memory, state })
    }

    fn step(&self, input: &Tensor, encoded: &Encoded, state: &State) -> Result<(Tensor, State)> {
        let (keys, values) = (encoded.memory.get("cross_k")?, encoded.memory.get("cross_v")?);
        let layer = |layer: usize| -> Result<_> { Ok((keys.get(layer)?, values.get(layer)?)) };
        let memory = (0..self.decoder.len()).map(layer).collect::<Result<CrossMemory>>()?;
        let input = input.unsqueeze(1)?;
        let written = self.write(&Writing {
            args: ForwardArgs { state: Some(state), ..ForwardArgs::new(&input) },
            memory: &memory,
            source_lengths: encoded.lengths.as_ref(),
            attention: false,
        })?;
        let layout = self.config.attention(true).memory(self.decoder.len());
        let (dtype, device) = (self.dtype(), self.device());
        let tensors = layout.pack(&written.present, input.dim(0)?, dtype, device)?;
        Ok((written.output.squeeze(1)?, State::new(tensors, state.steps() + 1)))
    }

    fn cost(&self, batch: usize, source_len: usize, target_len: usize) -> Cost {
        self.config.cost_of(batch, source_len, target_len)
    }
}
