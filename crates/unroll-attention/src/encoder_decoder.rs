//! Encoder and decoder: `encdec` and, with attention over the encoder's states, `encdec_additive`,
//! `encdec_luong_dot`, `encdec_luong_general`, `encdec_luong_concat`, `encdec_mha`.
//!
//! ```text
//! h_1 .. h_S = recurrent encoder over x_1 .. x_S
//! s_1 .. s_T = recurrent decoder over y_0 .. y_(T-1), from the encoder's last state
//! c_t        = sum_j softmax_j(score(s_t, h_j)) h_j
//! o_t        = tanh(W_c [c_t; s_t]),   s_t itself without attention (Sutskever et al. 2014)
//! ```
//!
//! The current state asks, and the context reaches the output and not the next input, as in Luong et al.
//! (2015, section 3.1, without input feeding), also for the additive score of Bahdanau et al. (2015). So
//! the decoder over a whole target is one call of the fused layer, and the attention one over all steps.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::pair::{Encoded, PairArgs, PairModel, PairOutput};
use unroll_core::parameters::Role;
use unroll_core::{
    BuildContext, Cost, Error, Family, Form, ForwardArgs, Lengths, Mode, ModelConfig, OptionDoc,
    ParameterSet, Result, SequenceModel, State, Stream, cost, ops,
};

use crate::cross;
use crate::projections::Projections;
use crate::recurrent::score::ScoreFunction;
use crate::recurrent::{Base, RecurrentAttentionConfig, Score};
use crate::softmax;

/// How the decoder looks at the encoder's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossAttention {
    /// Not at all: the last state is all it gets.
    #[default]
    None,
    /// `v^T tanh(W_q s + W_k h)` (Bahdanau 2015).
    Additive,
    /// `s^T h` (Luong 2015).
    LuongDot,
    /// `s^T W h` (Luong 2015).
    LuongGeneral,
    /// `v^T tanh(W [s; h])` (Luong 2015).
    LuongConcat,
    /// Multi-head scaled dot product (Vaswani 2017).
    Mha,
}

impl CrossAttention {
    fn score(self) -> Option<Score> {
        match self {
            Self::None | Self::Mha => None,
            Self::Additive => Some(Score::Additive),
            Self::LuongDot => Some(Score::LuongDot),
            Self::LuongGeneral => Some(Score::LuongGeneral),
            Self::LuongConcat => Some(Score::LuongConcat),
        }
    }
}

/// A recurrent encoder and a recurrent decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderDecoderConfig {
    /// Features per step of both sequences (`I`).
    pub input_size: usize,
    /// Hidden size (`H`) of encoder, decoder and output.
    pub hidden_size: usize,
    /// Recurrent layers of encoder and of decoder; attention reads the top ones.
    pub num_layers: usize,
    /// Kind of recurrent layer.
    pub base: Base,
    /// Whether recurrent layers and the projections of multi-head attention have biases.
    pub bias: bool,
    /// Dropout between recurrent layers, and on what the decoder gives.
    pub dropout: f64,
    /// How the decoder looks at the encoder's states.
    pub attention: CrossAttention,
    /// Heads of [`CrossAttention::Mha`].
    pub num_heads: usize,
}

impl Default for EncoderDecoderConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_layers: 1,
            base: Base::default(),
            bias: true,
            dropout: 0.0,
            attention: CrossAttention::default(),
            num_heads: 4,
        }
    }
}

impl EncoderDecoderConfig {
    /// Encoder or decoder: a recurrent network.
    fn recurrent(&self) -> RecurrentAttentionConfig {
        RecurrentAttentionConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            base: self.base,
            bias: self.bias,
            dropout: self.dropout,
            ..RecurrentAttentionConfig::default()
        }
    }

    fn cost_of(&self, batch: usize, source_len: usize, target_len: usize) -> Cost {
        let recurrent = self.recurrent();
        let both = recurrent.base_cost(batch, source_len) + recurrent.base_cost(batch, target_len);
        let hidden = self.hidden_size as u64;
        let (sources, targets) = ((batch * source_len) as u64, (batch * target_len) as u64);
        let of_queries = cost::linear(targets, hidden, hidden, false);
        let of_keys = cost::linear(sources, hidden, hidden, false);
        // FLOPs and kept elements of each pair, apart from softmax and context.
        let (projections, per_pair, kept) = match self.attention {
            CrossAttention::None => return both,
            CrossAttention::Additive | CrossAttention::LuongConcat => {
                let v = Cost { parameters: hidden, ..Cost::default() };
                (of_queries + of_keys + v, 4 * hidden, 1)
            }
            CrossAttention::LuongDot => (Cost::default(), 2 * hidden, 0),
            CrossAttention::LuongGeneral => (of_keys, 2 * hidden, 0),
            CrossAttention::Mha => {
                (cross::projections_cost(sources, targets, hidden, self.bias), 2 * hidden, 0)
            }
        };
        let heads = if self.attention == CrossAttention::Mha { self.num_heads as u64 } else { 1 };
        let pairs = (batch * source_len * target_len) as u64;
        let flops = cross::pairs_flops(pairs, per_pair, hidden, heads);
        let core = Cost {
            parameters: 0,
            forward_flops: flops,
            backward_flops: 2 * flops,
            state_elements: sources * hidden,
            activation_elements: targets * hidden + pairs * kept,
        };
        both + projections + core + cost::linear(targets, 2 * hidden, hidden, false)
    }
}

impl ModelConfig for EncoderDecoderConfig {
    const FAMILY: Family = Family::EncoderDecoder;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "input_size", help: "features per step; set by the task" },
        OptionDoc { name: "hidden_size", help: "hidden size of encoder and decoder" },
        OptionDoc { name: "num_layers", help: "recurrent layers of encoder and of decoder" },
        OptionDoc { name: "base", help: "recurrent layer: rnn, gru or lstm" },
        OptionDoc { name: "bias", help: "biases: true or false" },
        OptionDoc {
            name: "dropout",
            help: "dropout between recurrent layers and on the decoder's output, 0 <= p < 1",
        },
        OptionDoc { name: "attention", help: "how the decoder looks at the encoder's states" },
        OptionDoc { name: "num_heads", help: "attention heads" },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("hidden_size", self.hidden_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_positive("num_heads", self.num_heads)?;
        require_probability("dropout", self.dropout)?;
        let (hidden, heads) = (self.hidden_size, self.num_heads);
        if self.attention == CrossAttention::Mha && !hidden.is_multiple_of(heads) {
            let message = format!("{heads} does not divide hidden_size {hidden}");
            return Err(Error::option("num_heads", message));
        }
        Ok(())
    }

    fn build(&self, _: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Err(Error::Unsupported(
            "reads one sequence and writes another: `build_pair` makes it, and a task such as g2p or \
             translation needs it"
                .into(),
        ))
    }

    fn build_pair(&self, context: &BuildContext) -> Result<Box<dyn PairModel>> {
        Ok(Box::new(EncoderDecoder::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.cost_of(batch, seq_len, seq_len)
    }
}

enum Attention {
    None,
    Scored(ScoreFunction),
    MultiHead(Projections),
}

/// The model that [`EncoderDecoderConfig`] describes.
pub struct EncoderDecoder {
    config: EncoderDecoderConfig,
    encoder: Box<dyn SequenceModel>,
    decoder: Box<dyn SequenceModel>,
    attention: Attention,
    /// `W_c`: `(H, 2H)`, the context's columns first.
    combine: Option<Tensor>,
    parameters: ParameterSet,
}

/// Keys and values of the encoder's states, and which of them are real.
struct Memory<'a> {
    states: &'a Tensor,
    lengths: Option<&'a Lengths>,
}

impl EncoderDecoder {
    /// A model with freshly initialised parameters: those after `encoder.` and `decoder.`, the score's
    /// after `attention.` or the layer's after `cross_attn.`, and `combine.weight`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &EncoderDecoderConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let hidden = config.hidden_size;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let mut part = |name: &str| -> Result<_> {
            // Streams of their own: parameters of the same name would be drawn alike.
            let prefix = format!("{name}.");
            let stream = context.stream.child(name);
            let context = BuildContext { stream, ..context.within(&prefix) };
            let network = config.recurrent().build_base(&context)?;
            parameters.extend(&prefix, network.parameters());
            Ok(network)
        };
        let (encoder, decoder) = (part("encoder")?, part("decoder")?);
        let attention = match (config.attention, config.attention.score()) {
            (CrossAttention::Mha, _) => {
                let sizes = (hidden, config.num_heads);
                let bias = config.bias;
                let prefix = "cross_attn.";
                Attention::MultiHead(Projections::new(
                    &mut parameters,
                    prefix,
                    sizes,
                    bias,
                    context,
                )?)
            }
            (_, Some(score)) => {
                match ScoreFunction::new(score, hidden, &mut parameters, context)? {
                    Some(score) => Attention::Scored(score),
                    None => Attention::None,
                }
            }
            (_, None) => Attention::None,
        };
        let combine = match attention {
            Attention::None => None,
            Attention::Scored(_) | Attention::MultiHead(_) => {
                let shape = (hidden, 2 * hidden);
                Some(parameters.add("combine.weight", shape, Role::Weight, context)?)
            }
        };
        context.check_taken(&parameters)?;
        Ok(Self { config: config.clone(), encoder, decoder, attention, combine, parameters })
    }

    /// Context `(B, T, H)` for the decoder's states `(B, T, H)`, and weights `(B, N, T, S)`.
    fn attend(
        &self,
        states: &Tensor,
        memory: &Memory<'_>,
        form: Form,
        keep: bool,
    ) -> Result<Option<(Tensor, Option<Tensor>)>> {
        let (queries, keys, values, scale) = match &self.attention {
            Attention::None => return Ok(None),
            Attention::Scored(score) => {
                let (queries, keys) = score.project(states, memory.states)?;
                (queries, keys, memory.states.unsqueeze(1)?, 1.0)
            }
            Attention::MultiHead(projections) => {
                let (keys, values) = projections.keys_and_values(memory.states)?;
                let head_size = self.config.hidden_size / self.config.num_heads;
                (projections.queries(states)?, keys, values, softmax::scale(head_size))
            }
        };
        let (dtype, device) = (self.dtype(), self.device());
        let size = softmax::widest(&queries, &values)?;
        let fused = softmax::may_attend(form, dtype, device, size);
        let attended = cross::Memory { keys: &keys, values: &values, lengths: memory.lengths };
        let (context, weights) = match &self.attention {
            Attention::Scored(score) if !score.is_product() => {
                let may_fuse = softmax::may_fuse(form, dtype, device);
                attended.weigh(&score.pairs(&queries, &keys, may_fuse)?, None, keep)?
            }
            _ => attended.attend(&queries, scale, None, (fused, keep))?,
        };
        let context = match &self.attention {
            Attention::MultiHead(projections) => projections.merge(&context)?,
            Attention::None | Attention::Scored(_) => context.squeeze(1)?,
        };
        Ok(Some((context, weights)))
    }

    /// Output `(B, T, H)` and weights of the decoder's states.
    fn output(
        &self,
        states: &Tensor,
        memory: &Memory<'_>,
        form: Form,
        keep: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (Some((context, weights)), Some(combine)) =
            (self.attend(states, memory, form, keep)?, &self.combine)
        else {
            return Ok((states.clone(), None));
        };
        let both = Tensor::cat(&[&context, states], 2)?;
        Ok((ops::linear(&both, combine, None)?.tanh()?, weights))
    }
}

/// The same pass with streams of its own for a part of the model.
pub(crate) fn streams(mode: Mode<'_>, part: &str) -> Option<Stream> {
    match mode {
        Mode::Train(stream) => Some(stream.child(part)),
        Mode::Eval => None,
    }
}

pub(crate) fn mode(stream: Option<&Stream>) -> Mode<'_> {
    stream.map_or(Mode::Eval, Mode::Train)
}

impl PairModel for EncoderDecoder {
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
        let of_encoder = streams(args.mode, "encoder");
        let read = self.encoder.forward(&ForwardArgs {
            lengths: args.source_lengths,
            mode: mode(of_encoder.as_ref()),
            form: args.form,
            ..ForwardArgs::new(args.source)
        })?;
        let of_decoder = streams(args.mode, "decoder");
        let written = self.decoder.forward(&ForwardArgs {
            lengths: args.target_lengths,
            state: Some(&read.state),
            mode: mode(of_decoder.as_ref()),
            form: args.form,
            ..ForwardArgs::new(args.target)
        })?;
        let memory = Memory { states: &read.output, lengths: args.source_lengths };
        let (mut output, attention) =
            self.output(&written.output, &memory, args.form, args.attention)?;
        if let Some(stream) = streams(args.mode, "output")
            && self.config.dropout > 0.0
        {
            let (shape, dtype) = (output.shape().clone(), output.dtype());
            let probability = self.config.dropout;
            output = (&output * stream.dropout_mask(&shape, probability, dtype, self.device())?)?;
        }
        if let Some(lengths) = args.target_lengths {
            let real = lengths.mask(output.dim(1)?, self.dtype(), self.device())?;
            output = output.broadcast_mul(&real.unsqueeze(2)?)?;
        }
        Ok(PairOutput { output, attention, form: written.form })
    }

    fn encode(&self, source: &Tensor, lengths: Option<&Lengths>) -> Result<Encoded> {
        let read = self.encoder.forward(&ForwardArgs { lengths, ..ForwardArgs::new(source) })?;
        Ok(Encoded {
            states: read.output,
            lengths: lengths.cloned(),
            memory: State::default(),
            state: read.state,
        })
    }

    fn step(&self, input: &Tensor, encoded: &Encoded, state: &State) -> Result<(Tensor, State)> {
        let (hidden, next) = self.decoder.step(input, state)?;
        let memory = Memory { states: &encoded.states, lengths: encoded.lengths.as_ref() };
        let (output, _) = self.output(&hidden.unsqueeze(1)?, &memory, Form::Auto, false)?;
        Ok((output.squeeze(1)?, next))
    }

    fn cost(&self, batch: usize, source_len: usize, target_len: usize) -> Cost {
        self.config.cost_of(batch, source_len, target_len)
    }
}
