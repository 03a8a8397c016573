//! Fusion of two sequences of different kinds: `late_fusion` and `cross_attention_fusion`.
//!
//! ```text
//! a_1 .. a_S = recurrent encoder over the first sequence,  b_1 .. b_T = over the second
//! a'_i = a_i + W_o [softmax(q(a_i) k(b)^T / sqrt(d)) v(b)],  b'_j the same the other way round
//! o = [r(a'); r(b')],   r: the last real step or the mean over the real steps
//! ```
//!
//! Late fusion leaves the middle line out: each encoder knows nothing of the other sequence. With it, each
//! asks the other's states by multi-head attention (the states that `r` reads ask) and adds what it gets, as
//! in the crossmodal blocks of the Multimodal Transformer (Tsai et al. 2019), of which this has one in each
//! direction, over recurrent encoders, without normalisation, feed-forward layers and self-attention behind.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::fusion::{FusionArgs, FusionModel, FusionOutput, Modality};
use unroll_core::model::last_step;
use unroll_core::{
    BuildContext, Cost, Error, Family, Form, ForwardArgs, Lengths, ModelConfig, OptionDoc,
    ParameterSet, Result, SequenceModel,
};

use crate::cross::{Memory, pairs_flops, projections_cost};
use crate::encoder_decoder::{mode, streams};
use crate::projections::Projections;
use crate::recurrent::{Base, RecurrentAttentionConfig};
use crate::softmax;

/// Where the two sequences meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// In the answer alone.
    #[default]
    Late,
    /// Each encoder's states attend over the other's.
    CrossAttention,
}

/// What of a sequence's states goes into the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The last real one.
    #[default]
    Last,
    /// The mean of the real ones.
    Mean,
}

/// An encoder for each of two sequences, and their fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FusionConfig {
    /// Features per step of the first sequence (`I_1`).
    pub input_size: usize,
    /// Features per step of the second (`I_2`).
    pub second_input_size: usize,
    /// Hidden size (`H`) of both encoders; the output has `2H` features.
    pub hidden_size: usize,
    /// Recurrent layers of each encoder; attention reads the top ones.
    pub num_layers: usize,
    /// Kind of recurrent layer.
    pub base: Base,
    /// Whether recurrent layers and the projections of attention have biases.
    pub bias: bool,
    /// Dropout between recurrent layers, and on the output.
    pub dropout: f64,
    /// Where the sequences meet.
    pub fusion: Fusion,
    /// What of a sequence's states goes into the answer.
    pub pooling: Pooling,
    /// Heads of [`Fusion::CrossAttention`].
    pub num_heads: usize,
}

impl Default for FusionConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            second_input_size: 1,
            hidden_size: 64,
            num_layers: 1,
            base: Base::default(),
            bias: true,
            dropout: 0.0,
            fusion: Fusion::default(),
            pooling: Pooling::default(),
            num_heads: 4,
        }
    }
}

impl FusionConfig {
    /// The encoder of the sequence with so many features.
    fn encoder(&self, input_size: usize) -> RecurrentAttentionConfig {
        RecurrentAttentionConfig {
            input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            base: self.base,
            bias: self.bias,
            dropout: self.dropout,
            ..RecurrentAttentionConfig::default()
        }
    }

    fn input_sizes(&self) -> [usize; 2] {
        [self.input_size, self.second_input_size]
    }

    /// Cost of attention from `asking` steps of a sequence over `asked` steps of the other.
    fn attention_cost(&self, batch: usize, asking: usize, asked: usize) -> Cost {
        let hidden = self.hidden_size as u64;
        let queries = match self.pooling {
            Pooling::Last => 1,
            Pooling::Mean => asking,
        };
        let (asking, asked) = ((batch * queries) as u64, (batch * asked) as u64);
        let pairs = asking * asked / (batch as u64).max(1);
        let flops = pairs_flops(pairs, 2 * hidden, hidden, self.num_heads as u64);
        let core = Cost {
            parameters: 0,
            forward_flops: flops,
            backward_flops: 2 * flops,
            state_elements: 0,
            activation_elements: asking * hidden,
        };
        projections_cost(asked, asking, hidden, self.bias) + core
    }

    fn cost_of(&self, batch: usize, steps: [usize; 2]) -> Cost {
        let [first, second] = steps;
        let encoders = self.encoder(self.input_size).base_cost(batch, first)
            + self.encoder(self.second_input_size).base_cost(batch, second);
        let total = match self.fusion {
            Fusion::Late => encoders,
            Fusion::CrossAttention => {
                encoders
                    + self.attention_cost(batch, first, second)
                    + self.attention_cost(batch, second, first)
            }
        };
        // It reads whole sequences: there is no state to go on from.
        Cost { state_elements: 0, ..total }
    }
}

impl ModelConfig for FusionConfig {
    const FAMILY: Family = Family::Fusion;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "input_size",
            help: "features per step of the first sequence; set by the task",
        },
        OptionDoc {
            name: "second_input_size",
            help: "features per step of the second sequence; set by the task",
        },
        OptionDoc { name: "hidden_size", help: "hidden size of both encoders" },
        OptionDoc { name: "num_layers", help: "recurrent layers of each encoder" },
        OptionDoc { name: "base", help: "recurrent layer: rnn, gru or lstm" },
        OptionDoc { name: "bias", help: "biases: true or false" },
        OptionDoc {
            name: "dropout",
            help: "dropout between recurrent layers and on what comes out, 0 <= p < 1",
        },
        OptionDoc { name: "fusion", help: "where the sequences meet: late or cross_attention" },
        OptionDoc {
            name: "pooling",
            help: "what of the states goes into the answer: last (real step) or mean",
        },
        OptionDoc { name: "num_heads", help: "attention heads" },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("second_input_size", self.second_input_size)?;
        require_positive("hidden_size", self.hidden_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_positive("num_heads", self.num_heads)?;
        require_probability("dropout", self.dropout)?;
        let (hidden, heads) = (self.hidden_size, self.num_heads);
        if self.fusion == Fusion::CrossAttention && !hidden.is_multiple_of(heads) {
            let message = format!("{heads} does not divide hidden_size {hidden}");
            return Err(Error::option("num_heads", message));
        }
        Ok(())
    }

    fn build(&self, _: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Err(Error::Unsupported(
            "reads two sequences at once: `build_fusion` makes it, and a task such as \
             digits_seen_and_heard needs it"
                .into(),
        ))
    }

    fn build_fusion(&self, context: &BuildContext) -> Result<Box<dyn FusionModel>> {
        Ok(Box::new(FusedEncoders::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.cost_of(batch, [seq_len, seq_len])
    }

    fn fusion_cost(&self, batch: usize, steps: [usize; 2]) -> Result<Cost> {
        Ok(self.cost_of(batch, steps))
    }
}

/// The model that [`FusionConfig`] describes.
pub struct FusedEncoders {
    config: FusionConfig,
    encoders: [Box<dyn SequenceModel>; 2],
    /// What the first sequence asks the second with, and the second the first.
    attention: Option<[Projections; 2]>,
    parameters: ParameterSet,
}

/// A sequence that has been read.
struct Read<'a> {
    /// `(B, T, H)`.
    states: Tensor,
    lengths: Option<&'a Lengths>,
}

impl FusedEncoders {
    /// A model with freshly initialised parameters: the encoders' after `first_encoder.` and
    /// `second_encoder.`, those of the attention of each over the other after `first_attn.` and
    /// `second_attn.`.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(config: &FusionConfig, context: &BuildContext) -> Result<Self> {
        config.validate()?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let mut encoder = |name: &str, input_size: usize| -> Result<_> {
            // Streams of their own: parameters of the same name would be drawn alike.
            let prefix = format!("{name}.");
            let stream = context.stream.child(name);
            let context = BuildContext { stream, ..context.within(&prefix) };
            let network = config.encoder(input_size).build_base(&context)?;
            parameters.extend(&prefix, network.parameters());
            Ok(network)
        };
        let encoders = [
            encoder("first_encoder", config.input_size)?,
            encoder("second_encoder", config.second_input_size)?,
        ];
        let mut projections = |prefix: &str| {
            let sizes = (config.hidden_size, config.num_heads);
            Projections::new(&mut parameters, prefix, sizes, config.bias, context)
        };
        let attention = match config.fusion {
            Fusion::Late => None,
            Fusion::CrossAttention => {
                Some([projections("first_attn.")?, projections("second_attn.")?])
            }
        };
        context.check_taken(&parameters)?;
        Ok(Self { config: config.clone(), encoders, attention, parameters })
    }

    /// The states of a sequence that ask and are pooled: `(B, Q, H)`.
    fn asking(&self, read: &Read<'_>) -> Result<Tensor> {
        match self.config.pooling {
            Pooling::Last => Ok(last_step(&read.states, read.lengths)?.unsqueeze(1)?),
            Pooling::Mean => Ok(read.states.clone()),
        }
    }

    /// `(B, Q, H)` to `(B, H)`.
    fn pool(&self, states: &Tensor, lengths: Option<&Lengths>) -> Result<Tensor> {
        match (self.config.pooling, lengths) {
            (Pooling::Last, _) => Ok(states.squeeze(1)?),
            (Pooling::Mean, None) => Ok(states.mean(1)?),
            (Pooling::Mean, Some(lengths)) => {
                let mask = lengths.mask(states.dim(1)?, self.dtype(), self.device())?;
                let shares = mask.broadcast_div(&mask.sum_keepdim(1)?)?;
                Ok(states.broadcast_mul(&shares.unsqueeze(2)?)?.sum(1)?)
            }
        }
    }

    /// What states `(B, Q, H)` get from the other sequence, `(B, Q, H)`, and the weights if asked for.
    fn attend(
        &self,
        projections: &Projections,
        states: &Tensor,
        other: &Read<'_>,
        (form, keep): (Form, bool),
    ) -> Result<(Tensor, Option<Tensor>)> {
        let queries = projections.queries(states)?;
        let (keys, values) = projections.keys_and_values(&other.states)?;
        let memory = Memory { keys: &keys, values: &values, lengths: other.lengths };
        let head_size = self.config.hidden_size / self.config.num_heads;
        let scale = softmax::scale(head_size);
        let fused = softmax::may_attend(form, self.dtype(), self.device(), head_size);
        let (context, weights) = memory.attend(&queries, scale, None, (fused, keep))?;
        Ok((projections.merge(&context)?, weights))
    }
}

impl FusionModel for FusedEncoders {
    fn input_sizes(&self) -> [usize; 2] {
        self.config.input_sizes()
    }

    fn output_size(&self) -> usize {
        2 * self.config.hidden_size
    }

    fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    fn forward(&self, args: &FusionArgs<'_>) -> Result<FusionOutput> {
        args.batch()?;
        let mut ran = "";
        let mut read = |index: usize, part: &str| -> Result<_> {
            let stream = streams(args.mode, part);
            let Modality { input, lengths } = args.modalities[index];
            let output = self.encoders[index].forward(&ForwardArgs {
                lengths,
                mode: mode(stream.as_ref()),
                form: args.form,
                ..ForwardArgs::new(input)
            })?;
            ran = output.form;
            Ok(Read { states: output.output, lengths })
        };
        let both = [read(0, "first")?, read(1, "second")?];
        let mut parts = Vec::with_capacity(2);
        let mut attention = Vec::new();
        for (index, own) in both.iter().enumerate() {
            let mut states = self.asking(own)?;
            if let Some(projections) = &self.attention {
                let other = &both[1 - index];
                let how = (args.form, args.attention);
                let (context, weights) = self.attend(&projections[index], &states, other, how)?;
                states = (states + context)?;
                attention.extend(weights);
            }
            parts.push(self.pool(&states, own.lengths)?);
        }
        let mut output = Tensor::cat(&parts, 1)?;
        if let Some(stream) = streams(args.mode, "output")
            && self.config.dropout > 0.0
        {
            let (shape, dtype) = (output.shape().clone(), output.dtype());
            let probability = self.config.dropout;
            output = (&output * stream.dropout_mask(&shape, probability, dtype, self.device())?)?;
        }
        Ok(FusionOutput { output, attention, form: ran })
    }

    fn cost(&self, batch: usize, steps: [usize; 2]) -> Cost {
        self.config.cost_of(batch, steps)
    }
}
