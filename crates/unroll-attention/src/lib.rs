//! Attention: additive, Luong, multi-head, sliding-window and linear.
//!
//! Five families, each with one configuration:
//!
//! | configuration | registry names | what it is |
//! |---|---|---|
//! | [`AttentionConfig`] | `mha`, `local`, `linear` | one bare self-attention layer |
//! | [`TransformerConfig`] | `transformer`, `local_transformer`, `linear_transformer` | pre-norm residual blocks with positions |
//! | [`RecurrentAttentionConfig`] | `additive`, `additive_scalar`, `luong_dot`, `luong_general`, `luong_concat`, `recurrent_mha`, `recurrent_local`, `recurrent_linear` | attention over the states of a recurrent layer |
//! | [`EncoderDecoderTransformerConfig`] | `encdec_transformer` | from one sequence to another by Transformers |
//! | [`EncoderDecoderConfig`] | `encdec`, `encdec_additive`, `encdec_luong_dot`, `encdec_luong_general`, `encdec_luong_concat`, `encdec_mha` | from one sequence to another, with attention over the encoder's states |
//! | [`FusionConfig`] | `late_fusion`, `cross_attention_fusion` | two sequences of different kinds to one answer |
//!
//! # State
//!
//! A causal model steps. Its state is the past: keys `k` and values `v` `(L, B, N, S, d)` (at most
//! `window - 1` entries under a sliding window), the sums `s` and `z` of linear attention, or the
//! recurrent layer's state with the `states` `(B, S, H)` seen so far. A state after a padded batch
//! whose sequences end at different steps can be carried on only by models whose past has no
//! positions (linear attention without positions, alone or over recurrent states); others mark the
//! state with a tensor `ragged` and return [`Error::Unsupported`](unroll_core::Error::Unsupported).
//!
//! # Padding
//!
//! A padded step is never a key. Its output is zero, except in `mha`, which gives what PyTorch's
//! layer gives: the padded query's own attention over the real keys.

mod block;
mod cross;
mod encoder_decoder;
mod encoder_decoder_transformer;
mod fusion;
mod layer;
mod linear;
mod memory;
mod pattern;
mod positions;
mod projections;
mod recurrent;
mod registry;
mod self_attention;
mod softmax;
mod transformer;

pub use encoder_decoder::{CrossAttention, EncoderDecoder, EncoderDecoderConfig};
pub use encoder_decoder_transformer::{EncoderDecoderTransformer, EncoderDecoderTransformerConfig};
pub use fusion::{FusedEncoders, Fusion, FusionConfig, Pooling};
pub use layer::{AttentionConfig, AttentionLayer};
pub use positions::Positions;
pub use recurrent::{Base, Combine, Query, RecurrentAttention, RecurrentAttentionConfig, Score};
pub use registry::{ARCHITECTURES, FUSION_ARCHITECTURES, PAIR_ARCHITECTURES};
pub use self_attention::Kind;
pub use transformer::{Transformer, TransformerConfig};
