//! Attention over the states of a recurrent layer: `additive`, `additive_scalar`, `luong_dot`,
//! `luong_general`, `luong_concat`, `recurrent_mha`, `recurrent_local`, `recurrent_linear`.
//!
//! ```text
//! h_1 .. h_T = recurrent layer over x_1 .. x_T
//! c_t        = sum_j softmax_j(score(query_t, h_j)) h_j
//! y_t        = tanh(W_c [c_t; h_t])   or   c_t
//! ```

mod config;
mod model;
pub(crate) mod score;

pub use config::{Base, Combine, Query, RecurrentAttentionConfig, Score};
pub use model::RecurrentAttention;
