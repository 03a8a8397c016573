//! Writing on from a prompt, token by token.

use unroll_core::stream::StreamRng;
use unroll_core::{Error as ModelError, State, Stream};
use unroll_tasks::{InputKind, Readout, TargetKind};

use crate::{Error, Result, TaskModel};

/// How the next token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits: towards 0 the likeliest token alone (which is what 0 means), 1 as the model says.
    pub temperature: f64,
    /// Only the fewest likeliest tokens that together have at least this probability (nucleus sampling,
    /// Holtzman et al. 2020).
    pub top_p: f64,
    /// Steps that a state is kept for that grows with each step; then half of them are read anew. States
    /// of fixed size know no such end.
    pub context: usize,
}

impl Sampling {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`unroll_core::Error::Option`] for the first that is wrong.
    pub fn validate(&self) -> Result<()> {
        let refuse =
            |name: &str, message: String| Err(Error::Model(ModelError::option(name, message)));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let message = format!("must be finite and not negative, not {}", self.temperature);
            return refuse("temperature", message);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", format!("must lie in 0 < p <= 1, not {}", self.top_p));
        }
        if self.context < 2 {
            return refuse("context", format!("must be at least 2, not {}", self.context));
        }
        Ok(())
    }

    /// What may come next and how probably, likeliest first; of equals the smaller token.
    ///
    /// ```
    /// use unroll_train::Sampling;
    /// let sampling = Sampling { temperature: 0.5, top_p: 0.9, context: 64 };
    /// // Probabilities 0.1, 0.2 and 0.7 have the squares 0.01, 0.04 and 0.49.
    /// let next = sampling.next(&[0.1f64.ln(), 0.2f64.ln(), 0.7f64.ln()]);
    /// assert_eq!(next.len(), 1);
    /// assert_eq!(next[0].0, 2);
    /// ```
    pub fn next(&self, logits: &[f64]) -> Vec<(u32, f64)> {
        let mut order: Vec<(u32, f64)> = (0..).zip(logits.iter().copied()).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.temperature == 0.0 {
            order.truncate(1);
        }
        let Some(&(_, largest)) = order.first() else { return order };
        let temperature = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        for (_, logit) in &mut order {
            *logit = ((*logit - largest) / temperature).exp();
        }
        let total: f64 = order.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let before = order.iter().position(|(_, weight)| {
            sum += weight / total;
            sum >= self.top_p
        });
        // Rounding may keep the sum of all below 1.
        let kept = before.map_or(order.len(), |last| last + 1);
        order.truncate(kept);
        let total: f64 = order.iter().map(|(_, weight)| weight).sum();
        order.iter_mut().for_each(|(_, weight)| *weight /= total);
        order
    }

    fn draw(&self, logits: &[f64], rng: &mut StreamRng) -> u32 {
        let next = self.next(logits);
        let mut left = rng.uniform();
        let drawn = next.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        drawn.or(next.last()).map_or(0, |&(token, _)| token)
    }
}

/// Writes `count` tokens on from a prompt; `each` is told each of them at once. What is drawn at which
/// place is a pure function of `stream` and the place.
///
/// The prompt is read at once; then each token is one step from the state so far (a key-value cache, for
/// attention), nothing is read twice.
///
/// # Errors
/// [`unroll_core::Error::Unsupported`] when the model does not say what the next token is, or looks ahead;
/// [`unroll_core::Error::Option`] for wrong settings and prompts that are empty or have unknown tokens.
pub fn sample(
    model: &TaskModel,
    prompt: &[u32],
    count: usize,
    sampling: Sampling,
    stream: &Stream,
    each: &mut dyn FnMut(u32),
) -> Result<Vec<u32>> {
    sampling.validate()?;
    let model = model.for_inference();
    let vocabulary = match (model.shape().input, model.shape().target, model.shape().readout) {
        (InputKind::Tokens { vocabulary }, TargetKind::Classes { classes }, Readout::EveryStep)
            if vocabulary == classes && model.body()?.is_causal() =>
        {
            vocabulary
        }
        _ => {
            return Err(Error::Model(ModelError::Unsupported(format!(
                "a model of `{}` does not write: only causal models of a task whose answer is the next \
                 token do",
                model.shape().name
            ))));
        }
    };
    let refuse = |message: String| Err(Error::Model(ModelError::option("prompt", message)));
    if let Some(unknown) = prompt.iter().find(|&&token| token as usize >= vocabulary) {
        return refuse(format!("token {unknown} of a vocabulary of {vocabulary}"));
    }
    if prompt.is_empty() {
        return refuse("must have at least one token".into());
    }
    let mut written = prompt.to_vec();
    let mut next = None;
    for place in 0..count {
        let (logits, state) = match next.take() {
            Some(state) if !is_full(&state, sampling.context) => {
                model.logits_after(&written[written.len() - 1..], Some(&state))?
            }
            before => {
                // All of the prompt, or what a full cache is begun anew with.
                let grows = before.is_some() || model.body()?.zero_state(1)?.grows();
                let keep = if grows { sampling.context / 2 } else { written.len() };
                model.logits_after(&written[written.len().saturating_sub(keep.max(1))..], None)?
            }
        };
        let token = sampling.draw(&logits, &mut stream.at(place as u64).rng());
        each(token);
        written.push(token);
        next = Some(state);
    }
    Ok(written.split_off(prompt.len()))
}

/// Whether a state that grows has no room for another step.
fn is_full(state: &State, context: usize) -> bool {
    state.grows() && state.steps() >= context
}
