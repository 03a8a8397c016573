//! Where attention looks: how spread its weights are, and how far back they go.
//!
//! A query at step `t` gives the keys that it sees weights `a_s`, which sum to 1. Of each query:
//!
//! | measure | formula | unit | source |
//! |---|---|---|---|
//! | entropy | `H = -sum_s a_s ln a_s`, from 0 (one key) to `ln n` (all `n` visible keys alike) | nats | Shannon 1948; of attention heads: Voita, Talbot, Moiseev, Sennrich & Titov 2019; Clark, Khandelwal, Levy & Manning 2019 |
//! | normalised entropy | `H / ln n` | 1 | |
//! | attended distance | `sum_s a_s \|t - s\|` | steps | Vig & Belinkov 2019 |
//!
//! Queries that see one key have no choice and are left out of these means. [`DistanceWeight`] is the
//! profile of weights over distance, [`VisibleEntropy`] the entropy as more keys come into view (for a
//! causal layer without window: at position `n - 1`).
//!
//! Distances are `|t - s|`: without a causal mask, steps ahead and behind count alike, and a query sees up
//! to two keys at each distance. Distances and numbers of keys are kept one by one below 64, then in 16 bins
//! of equal width per octave: 144 up to 2047.
//!
//! Attention over recurrent states attends to states, not to inputs: a state at distance `d` also holds
//! what the recurrence brought along.

mod bins;
mod heads;

use candle_core::Tensor;
use unroll_core::{AttentionLayout, ForwardArgs, Lengths, SequenceModel, State, StateTensor};
use unroll_tasks::Batch;
use unroll_train::TaskModel;

use self::heads::Head;
use crate::{Error, Result};

/// The weights of one head over all examples and real queries. Means are over queries: all count alike.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionProfile {
    /// Layer among those with attention, the lowest first.
    pub layer: usize,
    /// Head of the layer.
    pub head: usize,
    /// Queries that see more than one key: those of the means.
    pub queries: u64,
    /// Whether every query's weights are a distribution: none is negative, and not all are 0. Linear
    /// attention under rotary positions gives weights of both signs (Su 2021, equation 19).
    ///
    /// Weights that are are divided by their sum, to which linear attention's `eps` leaves a little less
    /// than 1. Others enter the profile as they are; then there is no entropy and no mean distance.
    pub proper: bool,
    /// Mean entropy in nats; `None` without queries, or when not proper.
    pub entropy: Option<f64>,
    /// Mean of the entropy over `ln n` of the query's own `n` visible keys, from 0 to 1.
    pub normalised_entropy: Option<f64>,
    /// Mean attended distance in steps.
    pub mean_distance: Option<f64>,
    /// What the mean attended distance would be if every query weighed all its keys alike.
    pub uniform_distance: Option<f64>,
    /// Weight by distance, the nearest first.
    pub by_distance: Vec<DistanceWeight>,
    /// Entropy by number of visible keys, from 2; empty when not proper.
    pub by_visible: Vec<VisibleEntropy>,
}

/// The mean weight of keys at distances `first..=last` from the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistanceWeight {
    /// Smallest distance `|t - s|` in steps.
    pub first: usize,
    /// Largest distance.
    pub last: usize,
    /// Pairs of a query and a key that it sees at such a distance, also of queries that see one key.
    pub pairs: u64,
    /// Mean weight of these keys.
    pub mean_weight: f64,
}

/// The mean entropy of queries that see `first..=last` keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VisibleEntropy {
    /// Smallest number of visible keys, at least 2.
    pub first: usize,
    /// Largest number of visible keys.
    pub last: usize,
    /// Queries.
    pub queries: u64,
    /// Mean entropy in nats.
    pub entropy: f64,
    /// Mean entropy over `ln n`.
    pub normalised_entropy: f64,
}

/// Measures the attention of a model over inputs `(B, T, I)`, without dropout: one profile for each layer
/// and head, layer by layer; nothing for a model without attention. `state`, if given, is where the inputs
/// go on from: keys that it holds are seen and count, queries are those of the inputs alone.
///
/// Examples are run one at a time, causal softmax attention also 256 queries at a time, with the keys carried
/// on in the state: memory grows with the length, not with its square. Linear attention and attention
/// without a causal mask give the `N T T` weights of an example at once.
///
/// # Errors
/// When the model cannot run on the input or from the state; when the state holds the past as sums (linear
/// attention), which weigh no key; when a weight is not finite.
pub fn attention_profile(
    body: &dyn SequenceModel,
    input: &Tensor,
    lengths: Option<&Lengths>,
    state: Option<&State>,
) -> Result<Vec<AttentionProfile>> {
    let (batch, seq_len, _) =
        ForwardArgs { lengths, ..ForwardArgs::new(input) }.dims(body.input_size())?;
    let Some(layout) = body.attention_layout() else { return Ok(Vec::new()) };
    let mut layers = vec![vec![Head::default(); layout.heads]; layout.layers];
    let input = input.detach();
    // Keys that a state holds can be asked by later queries: not all weights are needed at once.
    let grows = body.is_causal()
        && body.zero_state(1)?.tensors().iter().any(|part| part.time_axis.is_some());
    let queries = if grows { QUERIES } else { seq_len };
    for example in 0..batch {
        let length = lengths.map_or(seq_len, |lengths| lengths.as_slice()[example]);
        let mut state = state.map(|state| state_of(state, example, batch)).transpose()?;
        for first in (0..length).step_by(queries) {
            let count = queries.min(length - first);
            let x = input.narrow(0, example, 1)?.narrow(1, first, count)?.contiguous()?;
            let args =
                ForwardArgs { state: state.as_ref(), attention: true, ..ForwardArgs::new(&x) };
            let output = body.forward(&args)?;
            let steps = state.as_ref().map_or(0, State::steps);
            add(&output.attention, &layout, (steps, count), &mut layers)?;
            state = Some(output.state.detach());
        }
    }
    let profiles = layers.into_iter().enumerate().flat_map(|(layer, heads)| {
        heads.into_iter().enumerate().map(move |(head, sums)| sums.profile((layer, head)))
    });
    Ok(profiles.collect())
}

/// Queries of one forward pass of a model that can carry its keys on.
const QUERIES: usize = 256;

/// Adds the weights `(1, N, T, S)` of each layer, of `count` queries after `steps` earlier steps.
fn add(
    attention: &[Tensor],
    layout: &AttentionLayout,
    (steps, count): (usize, usize),
    layers: &mut [Vec<Head>],
) -> Result<()> {
    let cached = layout.visibility.cached(steps);
    let expected = [1, layout.heads, count, cached + count];
    if attention.len() != layers.len() {
        let expected = format!("the weights of {} layers", layers.len());
        return Err(unroll_core::Error::shape("attention", [attention.len()], expected).into());
    }
    for (layer, (heads, weights)) in layers.iter_mut().zip(attention).enumerate() {
        let name = format!("attention.{layer}");
        if weights.dims() == [1, layout.heads, count, count] && cached > 0 {
            return Err(Error::Unsupported(
                "the state holds the past as sums, not as keys: linear attention has no weights for \
                 steps before the input; start from the zero state"
                    .into(),
            ));
        }
        if weights.dims() != expected {
            let expected = format!("{expected:?}");
            return Err(unroll_core::Error::shape(name, weights.dims(), expected).into());
        }
        for (head, sums) in heads.iter_mut().enumerate() {
            sums.add(&name, &weights.get(0)?.get(head)?, cached, layout.visibility)?;
        }
    }
    Ok(())
}

/// [`attention_profile`] of the sequence model within a whole model, on the inputs of a task's batch as its
/// input layer gives them, from the zero state.
///
/// # Errors
/// As [`attention_profile`]; when the batch does not fit the model.
pub fn attention_profile_of_task(
    model: &TaskModel,
    batch: &Batch,
) -> Result<Vec<AttentionProfile>> {
    let batch = model.tensors(batch)?;
    let input = model.features(&batch)?;
    attention_profile(model.body()?, &input, batch.lengths.as_ref(), None)
}

/// One example's part of a state, cut off from the graph.
fn state_of(state: &State, example: usize, batch: usize) -> Result<State> {
    let tensors = state.tensors().iter().map(|part| {
        let found = part.tensor.dims().get(part.batch_axis).copied();
        if found != Some(batch) {
            let what = format!("state `{}`", part.name);
            let expected = format!("{batch} sequences along axis {}", part.batch_axis);
            return Err(unroll_core::Error::shape(what, part.tensor.dims(), expected).into());
        }
        let tensor = part.tensor.detach().narrow(part.batch_axis, example, 1)?;
        Ok(StateTensor { tensor, ..part.clone() })
    });
    Ok(State::new(tensors.collect::<Result<_>>()?, state.steps()))
}
