//! What stands between a task's inputs and a model.

use serde_json::{Map, Value};
use unroll_core::architecture::Architecture;
use unroll_core::{Cost, Error as ModelError, Family};
use unroll_tasks::InputKind;

use crate::batch::joined_features;

/// Largest vocabulary whose tokens are one-hot by default; larger ones are embedded.
pub const LARGEST_ONE_HOT_VOCABULARY: usize = 64;

/// Features that a body has to read for a task's inputs: those of the task (of two modalities as one
/// sequence: of both, and two marks), the vocabulary of one-hot tokens, or the size of the embedding.
///
/// `embedding_size` asks for an embedding of that size for tokens; `None` and 0 choose: one-hot up
/// to a vocabulary of [`LARGEST_ONE_HOT_VOCABULARY`], else an embedding of `hidden_size`.
pub fn body_input_size(
    input: InputKind,
    hidden_size: usize,
    embedding_size: Option<usize>,
) -> usize {
    match (input, embedding_size) {
        (InputKind::Values { features }, _) => features,
        (InputKind::Modalities { features, .. }, _) => joined_features(features),
        (InputKind::Tokens { .. } | InputKind::Pairs { .. }, Some(size)) if size > 0 => size,
        (InputKind::Tokens { vocabulary }, _) if vocabulary <= LARGEST_ONE_HOT_VOCABULARY => {
            vocabulary
        }
        (InputKind::Tokens { .. } | InputKind::Pairs { .. }, _) => hidden_size,
    }
}

/// Sets the sizes of what an architecture reads to those of a task's inputs: `input_size` as
/// [`body_input_size`] gives it, and for fusion models one for each modality.
pub fn set_input_sizes(
    options: &mut Map<String, Value>,
    architecture: &dyn Architecture,
    input: InputKind,
    hidden_size: usize,
    embedding_size: Option<usize>,
) {
    let mut set = |name: &str, size: usize| options.insert(name.into(), size.into());
    match (architecture.family(), input) {
        (Family::Fusion, InputKind::Modalities { features: [first, second], .. }) => {
            set("input_size", first);
            set("second_input_size", second);
        }
        _ => {
            set("input_size", body_input_size(input, hidden_size, embedding_size));
        }
    }
}

/// How a task's inputs become the features that the body reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputLayer {
    /// Real features as they are.
    Values {
        /// Features per step.
        features: usize,
    },
    /// Tokens as rows of the identity.
    OneHot {
        /// Vocabulary size.
        vocabulary: usize,
    },
    /// Tokens as learned vectors `embedding.weight` `(vocabulary, size)`.
    Embedding {
        /// Vocabulary size.
        vocabulary: usize,
        /// Features of a vector.
        size: usize,
    },
    /// Tokens of both sides as learned vectors: `source_embedding.weight` `(source, size)` and
    /// `embedding.weight` `(target, size)`.
    Pairs {
        /// Vocabulary size of the source.
        source: usize,
        /// Vocabulary size of the target.
        target: usize,
        /// Features of a vector.
        size: usize,
    },
    /// Two modalities as one sequence, side by side (early fusion): each step has the features of both, zeros
    /// where one has ended, and two marks that say which goes on.
    Joined {
        /// Features per step of each.
        features: [usize; 2],
    },
    /// Two modalities as they are, each to its own encoder.
    Apart {
        /// Features per step of each.
        features: [usize; 2],
    },
}

impl InputLayer {
    /// The layer between a task's inputs and a body that reads `body_inputs` features: one-hot when
    /// these are as many as a small vocabulary has tokens, else an embedding.
    ///
    /// # Errors
    /// When real features are not as many as the body reads.
    pub fn between(input: InputKind, body_inputs: usize) -> unroll_core::Result<Self> {
        match input {
            InputKind::Values { features } if features != body_inputs => Err(ModelError::option(
                "input_size",
                format!("the task has {features} features per step, the model reads {body_inputs}"),
            )),
            InputKind::Values { features } => Ok(Self::Values { features }),
            InputKind::Tokens { vocabulary }
                if vocabulary == body_inputs && vocabulary <= LARGEST_ONE_HOT_VOCABULARY =>
            {
                Ok(Self::OneHot { vocabulary })
            }
            InputKind::Tokens { vocabulary } => {
                Ok(Self::Embedding { vocabulary, size: body_inputs })
            }
            InputKind::Pairs { source, target, .. } => {
                Ok(Self::Pairs { source, target, size: body_inputs })
            }
            InputKind::Modalities { features, .. } if joined_features(features) == body_inputs => {
                Ok(Self::Joined { features })
            }
            InputKind::Modalities { features: [first, second], .. } => Err(ModelError::option(
                "input_size",
                format!(
                    "the task has {first} and {second} features per step and two marks, the model \
                     reads {body_inputs}"
                ),
            )),
        }
    }

    /// The layer between a task's inputs and a fusion model that reads sequences of so many features.
    ///
    /// # Errors
    /// When the task has no two sequences, or others.
    pub fn apart(input: InputKind, read: [usize; 2]) -> unroll_core::Result<Self> {
        match input {
            InputKind::Modalities { features, .. } if features == read => {
                Ok(Self::Apart { features })
            }
            InputKind::Modalities { features, .. } => Err(ModelError::option(
                "input_size",
                format!("the task has {features:?} features per step, the model reads {read:?}"),
            )),
            _ => Err(ModelError::Unsupported(
                "a fusion model reads two sequences at once, and the task has one".into(),
            )),
        }
    }

    /// Cost of `rows` steps. A look-up is no arithmetic; it only moves.
    pub(crate) fn cost(self, rows: u64) -> Cost {
        match self {
            Self::Values { .. }
            | Self::OneHot { .. }
            | Self::Joined { .. }
            | Self::Apart { .. } => Cost::default(),
            Self::Embedding { vocabulary, size } => Cost {
                parameters: (vocabulary * size) as u64,
                activation_elements: rows * size as u64,
                ..Cost::default()
            },
            // As many steps are read as are written.
            Self::Pairs { source, target, size } => Cost {
                parameters: ((source + target) * size) as u64,
                activation_elements: 2 * rows * size as u64,
                ..Cost::default()
            },
        }
    }
}
