//! Models that go on: from the state after a window, from their own answers, from a text.

use candle_core::{DType, Tensor};
use unroll_core::model::last_step;
use unroll_core::{Error as ModelError, ForwardArgs, Mode, State};
use unroll_tasks::{OwnAnswers, Readout};

use crate::batch::TensorBatch;
use crate::input_layer::InputLayer;
use crate::model::{answered, look_up};
use crate::{Error, Result, TaskModel};

impl TaskModel {
    /// [`forward`](Self::forward) at every step of a window that goes on from `state` (`None`: the empty
    /// one), and the state after it, cut off from the graph: what is learned from a window reaches no
    /// further back (truncated back-propagation through time, Williams & Peng 1990).
    ///
    /// # Errors
    /// When the batch does not fit; [`unroll_core::Error::Unsupported`] for models whose state grows with
    /// every step or that look ahead.
    pub fn forward_from(
        &self,
        batch: &TensorBatch,
        state: Option<&State>,
        mode: Mode<'_>,
    ) -> Result<(Tensor, State)> {
        let body = self.body()?;
        let grows = body.zero_state(1)?.grows();
        if !body.is_causal() || self.shape().readout == Readout::Last || grows {
            return Err(Error::Model(ModelError::Unsupported(
                "a state can be carried from window to window by causal models whose state has a fixed \
                 size: recurrent ones that are not bidirectional"
                    .into(),
            )));
        }
        let input = self.features(batch)?;
        let (lengths, form) = (batch.lengths.as_ref(), self.form());
        let args = ForwardArgs { lengths, state, mode, form, ..ForwardArgs::new(&input) };
        let after = body.forward(&args)?;
        Ok((self.head(&answered(batch, &after.output)?)?, after.state.detach()))
    }

    /// The answers of a model that goes on from its own: from a step on, one of its inputs is its answer to
    /// the step before. Without dropout.
    ///
    /// # Errors
    /// When the batch does not fit; [`unroll_core::Error::Unsupported`] for models that look ahead.
    pub fn forward_on_own(&self, batch: &TensorBatch, own: OwnAnswers) -> Result<Tensor> {
        let body = self.body()?;
        let (_, steps, features) = batch.input.dims3()?;
        let OwnAnswers { from, feature } = own;
        if !(1..=steps).contains(&from) || feature >= features || batch.lengths.is_some() {
            return Err(Error::Batch {
                task: self.shape().name.clone(),
                message: format!(
                    "no answers go into feature {feature} of {features} from step {from}"
                ),
            });
        }
        if !body.is_causal() {
            return Err(Error::Model(ModelError::Unsupported(
                "a model that looks ahead cannot go on from its own answers: causal = true, or no \
                 bidirectional layers"
                    .into(),
            )));
        }
        let known = batch.input.narrow(1, 0, from)?.contiguous()?;
        let read = body.forward(&ForwardArgs { form: self.form(), ..ForwardArgs::new(&known) })?;
        let (sequences, _, hidden) = read.output.dims3()?;
        let mut state = read.state.detach();
        let rows = self.head(&read.output.reshape((sequences * from, hidden))?)?.detach();
        let first = rows.reshape((sequences, from, ()))?;
        let mut latest = first.narrow(1, from - 1, 1)?.squeeze(1)?;
        let mut answers = vec![first];
        for step in from..steps {
            let given = batch.input.narrow(1, step, 1)?.squeeze(1)?;
            // candle does not join tensors without elements.
            let other = |begin: usize, end: usize| -> Result<Option<Tensor>> {
                Ok(if begin < end { Some(given.narrow(1, begin, end - begin)?) } else { None })
            };
            let own = latest.to_dtype(self.dtype())?;
            let parts = [other(0, feature)?, Some(own), other(feature + 1, features)?];
            let input = Tensor::cat(&parts.into_iter().flatten().collect::<Vec<_>>(), 1)?;
            let (output, next) = body.step(&input, &state)?;
            latest = self.head(&output)?.detach();
            state = next.detach();
            answers.push(latest.unsqueeze(1)?);
        }
        answered(batch, &Tensor::cat(&answers, 1)?)
    }

    /// Logits of what follows `tokens`, which are read from `state` on, and the state after them.
    pub(crate) fn logits_after(
        &self,
        tokens: &[u32],
        state: Option<&State>,
    ) -> Result<(Vec<f64>, State)> {
        let body = self.body()?;
        let device = self.device();
        let index = Tensor::from_slice(tokens, (1, tokens.len()), device)?;
        let input = match (&self.embedding(), self.input_layer()) {
            (Some(embedding), _) => look_up(embedding, &index)?,
            (None, InputLayer::OneHot { vocabulary }) => {
                let identity = Tensor::eye(vocabulary, self.dtype(), device)?;
                look_up(&identity, &index)?
            }
            (None, _) => {
                return Err(Error::Model(ModelError::Unsupported(
                    "the inputs are no tokens".into(),
                )));
            }
        };
        let (hidden, after) = match (state, tokens) {
            (Some(state), [_]) => body.step(&input.squeeze(1)?, state)?,
            _ => {
                let after = body.forward(&ForwardArgs {
                    state,
                    form: self.form(),
                    ..ForwardArgs::new(&input)
                })?;
                (last_step(&after.output, None)?, after.state)
            }
        };
        let logits = self.head(&hidden)?.squeeze(0)?.to_dtype(DType::F64)?;
        Ok((logits.to_vec1()?, after.detach()))
    }
}
