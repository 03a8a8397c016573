//! The trait of models that read two sequences at once.

use std::fmt;

use candle_core::{DType, Device, Tensor};

use crate::model::write_model;
use crate::{Cost, Error, Form, Lengths, Mode, ParameterSet, Result};

/// One of the two sequences.
#[derive(Debug, Clone, Copy)]
pub struct Modality<'a> {
    /// `(B, T, I)`.
    pub input: &'a Tensor,
    /// Real lengths of a padded batch; `None` when all steps are real.
    pub lengths: Option<&'a Lengths>,
}

/// Arguments of [`FusionModel::forward`].
#[derive(Debug, Clone, Copy)]
pub struct FusionArgs<'a> {
    /// What is read. The two may have other lengths and other numbers of features.
    pub modalities: [Modality<'a>; 2],
    /// Dropout.
    pub mode: Mode<'a>,
    /// Which implementation to use.
    pub form: Form,
    /// Whether to return the attention weights.
    pub attention: bool,
}

impl<'a> FusionArgs<'a> {
    /// A pass over two sequences without dropout.
    pub fn new(modalities: [Modality<'a>; 2]) -> Self {
        Self { modalities, mode: Mode::Eval, form: Form::Auto, attention: false }
    }

    /// Checks that both sequences are as many as one another: `B`.
    ///
    /// # Errors
    /// When they are not, or have not three axes.
    pub fn batch(&self) -> Result<usize> {
        let [first, second] = self.modalities.map(|modality| modality.input.dims3());
        let ((first, ..), (second, ..)) = (first?, second?);
        if first != second {
            let found = self.modalities[1].input.dims();
            return Err(Error::shape("second", found, format!("{first} sequences")));
        }
        Ok(first)
    }
}

/// Result of [`FusionModel::forward`].
#[derive(Debug, Clone)]
pub struct FusionOutput {
    /// `(B, output_size)`: one vector for both sequences.
    pub output: Tensor,
    /// Weights of the first sequence's queries over the second `(B, N, Q, T_2)` and of the second's over the
    /// first `(B, N, Q, T_1)` when asked for; none for models that do not attend.
    pub attention: Vec<Tensor>,
    /// The implementation that ran.
    pub form: &'static str,
}

/// A model of two sequences that come together, such as an image and a sound: `(B, T_1, I_1)` and `(B, T_2,
/// I_2)` to one vector `(B, output_size)`.
///
/// Laws: padding of either sequence changes nothing; a batch equals its examples alone; both sequences
/// matter.
pub trait FusionModel: Send + Sync {
    /// Features per step of both sequences (`I_1`, `I_2`).
    fn input_sizes(&self) -> [usize; 2];

    /// Features that the model gives.
    fn output_size(&self) -> usize;

    /// The trainable parameters.
    fn parameters(&self) -> &ParameterSet;

    /// Both sequences, whole.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn forward(&self, args: &FusionArgs<'_>) -> Result<FusionOutput>;

    /// Cost of a batch whose sequences have so many steps.
    fn cost(&self, batch: usize, steps: [usize; 2]) -> Cost;

    /// Type of the parameters.
    fn dtype(&self) -> DType {
        self.parameters().dtype()
    }

    /// Device of the parameters.
    fn device(&self) -> &Device {
        self.parameters().device()
    }
}

impl fmt::Debug for dyn FusionModel + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_model(f, "FusionModel", self.parameters())
    }
}
