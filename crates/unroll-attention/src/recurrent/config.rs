//! Options of attention over recurrent states.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::{require_positive, require_probability};
use unroll_core::{
    BuildContext, Cost, Error, Family, ModelConfig, OptionDoc, Result, SequenceModel, cost,
};
use unroll_gru::GruConfig;
use unroll_lstm::LstmConfig;
use unroll_rnn::RnnConfig;

use super::model::RecurrentAttention;
use crate::pattern::{Pattern, pairs};
use crate::self_attention::{Kind, SelfAttentionConfig};
use crate::softmax::SOFTMAX_FLOPS;

/// Queries per block of a score between states; additive scores hold `H` numbers for each pair.
pub(super) const STATE_BLOCK: usize = 32;

/// The recurrent layer below the attention, with its own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Vanilla RNN.
    Rnn,
    /// Gated recurrent unit.
    #[default]
    Gru,
    /// Long short-term memory.
    Lstm,
}

/// How states are scored against a query `s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `v^T tanh(W_q s + W_k h)` (Bahdanau 2015).
    #[default]
    Additive,
    /// `tanh(W_e [s; h] + b_e)` with `W_e` of one row.
    AdditiveScalar,
    /// `s^T h` (Luong 2015).
    LuongDot,
    /// `s^T W h` (Luong 2015).
    LuongGeneral,
    /// `v^T tanh(W [s; h])` (Luong 2015).
    LuongConcat,
    /// A multi-head self-attention layer over the states (Vaswani 2017).
    Mha,
    /// A sliding-window self-attention layer over the states.
    Local,
    /// A linear self-attention layer over the states (Katharopoulos 2020).
    Linear,
}

/// Which state asks at step `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// `h_{t-1}`, as in Bahdanau 2015; the initial state at the first step.
    #[default]
    Previous,
    /// `h_t`, as in Luong 2015.
    Current,
}

/// What the model gives at step `t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// `tanh(W_c [c_t; h_t])`: Luong's attentional vector.
    #[default]
    Attentional,
    /// The context `c_t` alone.
    Context,
}

/// A recurrent layer with attention over its states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecurrentAttentionConfig {
    /// Input features per step (`I`).
    pub input_size: usize,
    /// Hidden size (`H`) of the recurrent layer and of the output.
    pub hidden_size: usize,
    /// Recurrent layers; attention reads the top one.
    pub num_layers: usize,
    /// Kind of recurrent layer.
    pub base: Base,
    /// Whether the recurrent layers and the projections of self-attention have biases.
    pub bias: bool,
    /// Dropout between recurrent layers.
    pub dropout: f64,
    /// How states are scored.
    pub score: Score,
    /// Which state asks; only [`Score::Additive`] leaves the choice.
    pub query: Query,
    /// Whether step `t` reads states `1..=t` only, or all.
    pub causal: bool,
    /// What is made of the context.
    pub combine: Combine,
    /// Heads of a self-attention layer.
    pub num_heads: usize,
    /// States that a query of [`Score::Local`] sees, its own included.
    pub window: usize,
    /// Dropout on the attention weights.
    pub attention_dropout: f64,
}

impl Default for RecurrentAttentionConfig {
    fn default() -> Self {
        Self {
            input_size: 1,
            hidden_size: 64,
            num_layers: 1,
            base: Base::default(),
            bias: true,
            dropout: 0.0,
            score: Score::default(),
            query: Query::default(),
            causal: true,
            combine: Combine::default(),
            num_heads: 4,
            window: 32,
            attention_dropout: 0.0,
        }
    }
}

impl RecurrentAttentionConfig {
    /// The self-attention layer over the states, if the score is one.
    pub(super) fn self_attention(&self) -> Option<SelfAttentionConfig> {
        let kind = match self.score {
            Score::Mha => Kind::Mha,
            Score::Local => Kind::Local,
            Score::Linear => Kind::Linear,
            _ => return None,
        };
        Some(SelfAttentionConfig {
            kind,
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            bias: self.bias,
            causal: self.causal,
            window: self.window,
            attention_dropout: self.attention_dropout,
        })
    }

    /// Which states a scored query sees.
    pub(super) fn pattern(&self) -> Pattern {
        if self.causal { Pattern::Causal } else { Pattern::Full }
    }

    pub(crate) fn build_base(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        match self.base {
            Base::Rnn => self.rnn().build(context),
            Base::Gru => self.gru().build(context),
            Base::Lstm => self.lstm().build(context),
        }
    }

    pub(crate) fn base_cost(&self, batch: usize, seq_len: usize) -> Cost {
        match self.base {
            Base::Rnn => self.rnn().cost(batch, seq_len),
            Base::Gru => self.gru().cost(batch, seq_len),
            Base::Lstm => self.lstm().cost(batch, seq_len),
        }
    }

    fn rnn(&self) -> RnnConfig {
        RnnConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            bias: self.bias,
            dropout: self.dropout,
            ..RnnConfig::default()
        }
    }

    fn gru(&self) -> GruConfig {
        GruConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            bias: self.bias,
            dropout: self.dropout,
            ..GruConfig::default()
        }
    }

    fn lstm(&self) -> LstmConfig {
        LstmConfig {
            input_size: self.input_size,
            hidden_size: self.hidden_size,
            num_layers: self.num_layers,
            bias: self.bias,
            dropout: self.dropout,
            ..LstmConfig::default()
        }
    }

    /// Cost of the attention alone. Every pair that is computed counts, also those that the mask
    /// hides in a block of 32 queries.
    fn attention_cost(&self, batch: usize, seq_len: usize) -> Cost {
        if let Some(attention) = self.self_attention() {
            return attention.cost(batch, seq_len);
        }
        let (rows, hidden) = ((batch * seq_len) as u64, self.hidden_size as u64);
        let square = cost::linear(rows, hidden, hidden, false);
        // FLOPs and kept elements of each pair, apart from softmax and context.
        let (projections, per_pair, kept) = match self.score {
            Score::Additive | Score::LuongConcat => {
                let v = Cost { parameters: hidden, ..Cost::default() };
                (square + square + v, 4 * hidden, 2 * hidden)
            }
            Score::AdditiveScalar => (cost::linear(rows, 2 * hidden, 1, true), 2, 2),
            Score::LuongGeneral => (square, 2 * hidden, 1),
            _ => (Cost::default(), 2 * hidden, 1),
        };
        let pairs = batch as u64 * pairs(self.pattern(), seq_len, STATE_BLOCK);
        let flops = pairs * (per_pair + 2 * hidden + SOFTMAX_FLOPS);
        let core = Cost {
            parameters: 0,
            forward_flops: flops,
            backward_flops: 2 * flops,
            state_elements: rows * hidden,
            activation_elements: rows * hidden + pairs * (kept + 1),
        };
        projections + core
    }
}

impl ModelConfig for RecurrentAttentionConfig {
    const FAMILY: Family = Family::AttentionOverStates;

    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "input_size", help: "input features per step; set by the task" },
        OptionDoc { name: "hidden_size", help: "hidden size" },
        OptionDoc { name: "num_layers", help: "recurrent layers below the attention" },
        OptionDoc { name: "base", help: "recurrent layer: rnn, gru or lstm" },
        OptionDoc { name: "bias", help: "biases: true or false" },
        OptionDoc { name: "dropout", help: "dropout between recurrent layers, 0 <= p < 1" },
        OptionDoc { name: "score", help: "how states are scored" },
        OptionDoc { name: "query", help: "which state asks at step t: previous or current" },
        OptionDoc { name: "causal", help: "read states 1..t only, or all: true or false" },
        OptionDoc { name: "combine", help: "attentional (tanh(W_c [c; h])) or context (c)" },
        OptionDoc { name: "num_heads", help: "attention heads" },
        OptionDoc { name: "window", help: "states that a query sees, its own included" },
        OptionDoc {
            name: "attention_dropout",
            help: "dropout on the attention weights, 0 <= p < 1",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_positive("input_size", self.input_size)?;
        require_positive("hidden_size", self.hidden_size)?;
        require_positive("num_layers", self.num_layers)?;
        require_probability("dropout", self.dropout)?;
        require_probability("attention_dropout", self.attention_dropout)?;
        if let Some(attention) = self.self_attention() {
            attention.validate()?;
        }
        if self.score != Score::Additive && self.query == Query::Previous {
            return Err(Error::option(
                "query",
                "this score asks with the current state: must be `current`",
            ));
        }
        Ok(())
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>> {
        Ok(Box::new(RecurrentAttention::new(self, context)?))
    }

    fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        let mut total = self.base_cost(batch, seq_len) + self.attention_cost(batch, seq_len);
        if self.combine == Combine::Attentional {
            let (rows, hidden) = ((batch * seq_len) as u64, self.hidden_size as u64);
            total = total + cost::linear(rows, 2 * hidden, hidden, false);
        }
        if !self.causal {
            total.state_elements = 0;
        }
        total
    }
}
