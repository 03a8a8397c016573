//! What a model carries from one step to the next.

use candle_core::Tensor;

use crate::{Error, Result};

/// One named tensor of a [`State`].
#[derive(Debug, Clone)]
pub struct StateTensor {
    /// Name: `h`, `c`, `k`, `v`, ...; PyTorch's where it has one.
    pub name: &'static str,
    /// The values.
    pub tensor: Tensor,
    /// Which axis runs over the batch.
    pub batch_axis: usize,
    /// Which axis grows by one each step (key-value caches); `None` for a state of fixed size.
    pub time_axis: Option<usize>,
}

/// The recurrent state `(h, c)` of a recurrent model, the key-value cache of an attention model,
/// or both. A model's state after `n` steps is all that it needs to go on.
#[derive(Debug, Clone, Default)]
pub struct State {
    tensors: Vec<StateTensor>,
    steps: usize,
}

impl State {
    /// A state from its tensors after `steps` steps.
    pub fn new(tensors: Vec<StateTensor>, steps: usize) -> Self {
        Self { tensors, steps }
    }

    /// How many steps the model has seen: the position of the next one.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The tensors in the model's order.
    pub fn tensors(&self) -> &[StateTensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// When this is another architecture's state.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.iter().find(|t| t.name == name).map(|t| &t.tensor).ok_or_else(|| {
            Error::MissingTensor {
                name: name.to_owned(),
                place: "the state",
                available: self.tensors.iter().map(|t| t.name.to_owned()).collect(),
            }
        })
    }

    /// Elements of all tensors: what [`Cost::state_elements`](crate::Cost) predicts.
    pub fn elements(&self) -> usize {
        self.tensors.iter().map(|t| t.tensor.elem_count()).sum()
    }

    /// Whether it grows with each step.
    pub fn grows(&self) -> bool {
        self.tensors.iter().any(|one| one.time_axis.is_some())
    }

    /// The state cut off from the graph: truncated back-propagation, streaming.
    #[must_use]
    pub fn detach(&self) -> Self {
        let tensors =
            self.tensors.iter().map(|t| StateTensor { tensor: t.tensor.detach(), ..t.clone() });
        Self::new(tensors.collect(), self.steps)
    }
}
