//! Scores between a query state and the states it looks at.

use candle_core::Tensor;
use unroll_core::parameters::Role;
use unroll_core::{BuildContext, ParameterSet, Result, ops};

use super::config::Score;

/// A score with its parameters. Each splits into a part per query, a part per key, and what is left
/// to do for each pair.
#[derive(Debug, Clone)]
pub(crate) enum ScoreFunction {
    /// `v^T tanh(W_q s + W_k h)`.
    Additive {
        /// `(H, H)`.
        query: Tensor,
        /// `(H, H)`.
        key: Tensor,
        /// `v`: `(1, H)`.
        score: Tensor,
    },
    /// `tanh(W_e [s; h] + b_e)`.
    Scalar {
        /// `(1, 2H)`, the query's columns first.
        weight: Tensor,
        /// `(1,)`.
        bias: Tensor,
    },
    /// `s^T h`.
    Dot,
    /// `s^T W h`.
    General {
        /// `(H, H)`.
        weight: Tensor,
    },
    /// `v^T tanh(W [s; h])`.
    Concat {
        /// `(H, 2H)`, the query's columns first.
        weight: Tensor,
        /// `v`: `(1, H)`.
        score: Tensor,
    },
}

impl ScoreFunction {
    /// Adds the parameters; `None` when the score is a self-attention layer.
    pub(crate) fn new(
        score: Score,
        hidden: usize,
        parameters: &mut ParameterSet,
        context: &BuildContext,
    ) -> Result<Option<Self>> {
        let mut weight = |name: &str, rows: usize, columns: usize| {
            let name = format!("attention.{name}.weight");
            parameters.add(name, (rows, columns), Role::Weight, context)
        };
        Ok(Some(match score {
            Score::Additive => Self::Additive {
                query: weight("query", hidden, hidden)?,
                key: weight("key", hidden, hidden)?,
                score: weight("score", 1, hidden)?,
            },
            Score::AdditiveScalar => {
                let weight = weight("energy", 1, 2 * hidden)?;
                let role = Role::Bias { fan_in: 2 * hidden };
                let bias = parameters.add("attention.energy.bias", 1, role, context)?;
                Self::Scalar { weight, bias }
            }
            Score::LuongDot => Self::Dot,
            Score::LuongGeneral => Self::General { weight: weight("general", hidden, hidden)? },
            Score::LuongConcat => Self::Concat {
                weight: weight("concat", hidden, 2 * hidden)?,
                score: weight("score", 1, hidden)?,
            },
            Score::Mha | Score::Local | Score::Linear => return Ok(None),
        }))
    }

    /// The part per query `(B, 1, Q, A)` and per key `(B, 1, S, A)`, from states `(B, Q, H)` and
    /// `(B, S, H)`.
    pub(crate) fn project(&self, queries: &Tensor, keys: &Tensor) -> Result<(Tensor, Tensor)> {
        let halves = |weight: &Tensor, bias: Option<&Tensor>| -> Result<_> {
            let hidden = weight.dim(1)? / 2;
            // A linear map of [s; h] is the sum of a map of s and a map of h.
            let of_query = ops::linear(queries, &weight.narrow(1, 0, hidden)?, bias)?;
            let of_key = ops::linear(keys, &weight.narrow(1, hidden, hidden)?, None)?;
            Ok((of_query, of_key))
        };
        let (queries, keys) = match self {
            Self::Additive { query, key, .. } => {
                (ops::linear(queries, query, None)?, ops::linear(keys, key, None)?)
            }
            Self::Scalar { weight, bias } => halves(weight, Some(bias))?,
            Self::Concat { weight, .. } => halves(weight, None)?,
            Self::Dot => (queries.clone(), keys.clone()),
            Self::General { weight } => (queries.clone(), ops::linear(keys, weight, None)?),
        };
        Ok((queries.unsqueeze(1)?, keys.unsqueeze(1)?))
    }

    /// Whether [`pairs`](Self::pairs) is the product of the projections and nothing else.
    pub(crate) fn is_product(&self) -> bool {
        matches!(self, Self::Dot | Self::General { .. })
    }

    /// Scores `(B, 1, Q, S)` of all pairs of projected queries and keys. `fused`: without the sums of all
    /// pairs in memory, where that makes a difference.
    pub(crate) fn pairs(&self, queries: &Tensor, keys: &Tensor, fused: bool) -> Result<Tensor> {
        match self {
            Self::Additive { score, .. } | Self::Concat { score, .. } if fused => {
                let (queries, keys) = (queries.squeeze(1)?, keys.squeeze(1)?);
                let scores =
                    unroll_kernels::additive_scores(&queries, &keys, &score.flatten_all()?)?;
                Ok(scores.unsqueeze(1)?)
            }
            Self::Additive { score, .. } | Self::Concat { score, .. } => {
                let sums = queries.unsqueeze(3)?.broadcast_add(&keys.unsqueeze(2)?)?;
                Ok(ops::linear(&sums.tanh()?, score, None)?.squeeze(4)?)
            }
            Self::Scalar { .. } => Ok(queries.broadcast_add(&keys.transpose(2, 3)?)?.tanh()?),
            Self::Dot | Self::General { .. } => Ok(queries.matmul(&keys.transpose(2, 3)?)?),
        }
    }
}
