//! The registry lines of this crate.

use unroll_core::{Architecture, Entry};

use crate::encoder_decoder::{CrossAttention, EncoderDecoderConfig};
use crate::encoder_decoder_transformer::EncoderDecoderTransformerConfig;
use crate::fusion::{Fusion, FusionConfig};
use crate::layer::AttentionConfig;
use crate::recurrent::{Combine, Query, RecurrentAttentionConfig, Score};
use crate::self_attention::Kind;
use crate::transformer::TransformerConfig;

static MHA: Entry<AttentionConfig> = Entry::variant(
    "mha",
    "one multi-head scaled dot-product attention layer (Vaswani 2017), PyTorch's MultiheadAttention",
    &["kind", "window"],
    |_| {},
);

static LOCAL: Entry<AttentionConfig> = Entry::variant(
    "local",
    "one multi-head attention layer over a causal sliding window",
    &["kind", "causal"],
    |config| {
        config.kind = Kind::Local;
        config.causal = true;
    },
);

static LINEAR: Entry<AttentionConfig> = Entry::variant(
    "linear",
    "one linear attention layer, phi = elu + 1 (Katharopoulos 2020)",
    &["kind", "window", "attention_dropout"],
    |config| {
        config.kind = Kind::Linear;
        config.causal = true;
    },
);

static TRANSFORMER: Entry<TransformerConfig> = Entry::variant(
    "transformer",
    "pre-norm Transformer: multi-head attention and MLP blocks (Vaswani 2017, Xiong 2020)",
    &["kind", "window"],
    |_| {},
);

static LOCAL_TRANSFORMER: Entry<TransformerConfig> = Entry::variant(
    "local_transformer",
    "pre-norm Transformer whose attention sees a causal sliding window",
    &["kind", "causal"],
    |config| config.kind = Kind::Local,
);

static LINEAR_TRANSFORMER: Entry<TransformerConfig> = Entry::variant(
    "linear_transformer",
    "pre-norm Transformer with linear attention (Katharopoulos 2020)",
    &["kind", "window", "attention_dropout"],
    |config| config.kind = Kind::Linear,
);

static ADDITIVE: Entry<RecurrentAttentionConfig> = Entry::variant(
    "additive",
    "recurrent layer with additive attention v^T tanh(W_q s + W_k h) over its states (Bahdanau 2015)",
    &["score", "num_heads", "window"],
    |_| {},
);

/// Options that a score between current states does not have.
const SCORED: &[&str] = &["score", "query", "num_heads", "window"];

fn scored(config: &mut RecurrentAttentionConfig, score: Score) {
    config.score = score;
    config.query = Query::Current;
}

static ADDITIVE_SCALAR: Entry<RecurrentAttentionConfig> = Entry::variant(
    "additive_scalar",
    "recurrent layer with attention of scalar score tanh(W_e [h_t; h_i] + b_e) over its states",
    SCORED,
    |config| {
        scored(config, Score::AdditiveScalar);
        config.combine = Combine::Context;
    },
);

static LUONG_DOT: Entry<RecurrentAttentionConfig> = Entry::variant(
    "luong_dot",
    "recurrent layer with attention of score s^T h over its states (Luong 2015)",
    SCORED,
    |config| scored(config, Score::LuongDot),
);

static LUONG_GENERAL: Entry<RecurrentAttentionConfig> = Entry::variant(
    "luong_general",
    "recurrent layer with attention of score s^T W h over its states (Luong 2015)",
    SCORED,
    |config| scored(config, Score::LuongGeneral),
);

static LUONG_CONCAT: Entry<RecurrentAttentionConfig> = Entry::variant(
    "luong_concat",
    "recurrent layer with attention of score v^T tanh(W [s; h]) over its states (Luong 2015)",
    SCORED,
    |config| scored(config, Score::LuongConcat),
);

static RECURRENT_MHA: Entry<RecurrentAttentionConfig> = Entry::variant(
    "recurrent_mha",
    "recurrent layer with multi-head self-attention over its states (Vaswani 2017)",
    &["score", "query", "window"],
    |config| scored(config, Score::Mha),
);

static RECURRENT_LOCAL: Entry<RecurrentAttentionConfig> = Entry::variant(
    "recurrent_local",
    "recurrent layer with self-attention over a causal sliding window of its states",
    &["score", "query", "causal"],
    |config| scored(config, Score::Local),
);

static RECURRENT_LINEAR: Entry<RecurrentAttentionConfig> = Entry::variant(
    "recurrent_linear",
    "recurrent layer with linear self-attention over its states (Katharopoulos 2020)",
    &["score", "query", "window", "attention_dropout"],
    |config| scored(config, Score::Linear),
);

static ENCDEC: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec",
    "recurrent encoder and decoder, joined by the last state alone (Sutskever et al. 2014)",
    &["attention", "num_heads"],
    |_| {},
);

static ENCDEC_ADDITIVE: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec_additive",
    "encoder and decoder with additive attention (score of Bahdanau 2015)",
    &["attention", "num_heads"],
    |config| config.attention = CrossAttention::Additive,
);

static ENCDEC_LUONG_DOT: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec_luong_dot",
    "encoder and decoder with dot-product attention (Luong 2015)",
    &["attention", "num_heads"],
    |config| config.attention = CrossAttention::LuongDot,
);

static ENCDEC_LUONG_GENERAL: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec_luong_general",
    "encoder and decoder with bilinear attention s^T W h (Luong 2015)",
    &["attention", "num_heads"],
    |config| config.attention = CrossAttention::LuongGeneral,
);

static ENCDEC_LUONG_CONCAT: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec_luong_concat",
    "encoder and decoder with attention v^T tanh(W [s; h]) (Luong 2015)",
    &["attention", "num_heads"],
    |config| config.attention = CrossAttention::LuongConcat,
);

static ENCDEC_MHA: Entry<EncoderDecoderConfig> = Entry::variant(
    "encdec_mha",
    "encoder and decoder with multi-head attention (Vaswani 2017)",
    &["attention"],
    |config| config.attention = CrossAttention::Mha,
);

static ENCDEC_TRANSFORMER: Entry<EncoderDecoderTransformerConfig> = Entry::new(
    "encdec_transformer",
    "encoder and decoder of pre-norm Transformer blocks (Vaswani 2017, Xiong 2020)",
);

static LATE_FUSION: Entry<FusionConfig> = Entry::variant(
    "late_fusion",
    "a recurrent encoder for each of two sequences, which meet in the answer",
    &["fusion", "num_heads"],
    |_| {},
);

static CROSS_ATTENTION_FUSION: Entry<FusionConfig> = Entry::variant(
    "cross_attention_fusion",
    "a recurrent encoder for each of two sequences, each attending over the other (after Tsai et al. 2019)",
    &["fusion"],
    |config| config.fusion = Fusion::CrossAttention,
);

/// Architectures that read two sequences at once.
pub static FUSION_ARCHITECTURES: &[&dyn Architecture] = &[&LATE_FUSION, &CROSS_ATTENTION_FUSION];

/// Architectures from one sequence to another.
pub static PAIR_ARCHITECTURES: &[&dyn Architecture] = &[
    &ENCDEC,
    &ENCDEC_ADDITIVE,
    &ENCDEC_LUONG_DOT,
    &ENCDEC_LUONG_GENERAL,
    &ENCDEC_LUONG_CONCAT,
    &ENCDEC_MHA,
    &ENCDEC_TRANSFORMER,
];

/// Every architecture of this crate for single sequences.
pub static ARCHITECTURES: &[&dyn Architecture] = &[
    &MHA,
    &LOCAL,
    &LINEAR,
    &TRANSFORMER,
    &LOCAL_TRANSFORMER,
    &LINEAR_TRANSFORMER,
    &ADDITIVE,
    &ADDITIVE_SCALAR,
    &LUONG_DOT,
    &LUONG_GENERAL,
    &LUONG_CONCAT,
    &RECURRENT_MHA,
    &RECURRENT_LOCAL,
    &RECURRENT_LINEAR,
];
