//! The trait of models that read one sequence and write another.

use std::fmt;

use candle_core::{DType, Device, Tensor};

use crate::model::write_model;
use crate::{Cost, Error, Form, Lengths, Mode, ParameterSet, Result, State, StateTensor};

/// Arguments of [`PairModel::forward`].
#[derive(Debug, Clone, Copy)]
pub struct PairArgs<'a> {
    /// `(B, S, I)`: the sequence that is read.
    pub source: &'a Tensor,
    /// Its real lengths; `None` when all steps are real.
    pub source_lengths: Option<&'a Lengths>,
    /// `(B, T, I)`: what the decoder is given at each step, the right answer of the step before
    /// (teacher forcing, Williams & Zipser 1989).
    pub target: &'a Tensor,
    /// Its real lengths.
    pub target_lengths: Option<&'a Lengths>,
    /// Dropout.
    pub mode: Mode<'a>,
    /// Which implementation to use.
    pub form: Form,
    /// Whether to return the attention weights.
    pub attention: bool,
}

impl<'a> PairArgs<'a> {
    /// The whole of both sequences, without dropout, in the fastest form.
    pub fn new(source: &'a Tensor, target: &'a Tensor) -> Self {
        Self {
            source,
            source_lengths: None,
            target,
            target_lengths: None,
            mode: Mode::Eval,
            form: Form::Auto,
            attention: false,
        }
    }

    /// Refuses sources and targets of different batches.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn check_batches(&self) -> Result<()> {
        let (source, target) = (self.source.dims3()?.0, self.target.dims3()?.0);
        if source == target {
            return Ok(());
        }
        let expected = format!("{source} sequences, as many as there are sources");
        Err(Error::shape("target", self.target.dims(), expected))
    }
}

/// Result of [`PairModel::forward`].
#[derive(Debug, Clone)]
pub struct PairOutput {
    /// `(B, T, output_size)`; zero on padding.
    pub output: Tensor,
    /// `(B, N, T, S)` when asked for, for models that attend.
    pub attention: Option<Tensor>,
    /// The implementation that ran.
    pub form: &'static str,
}

/// A source that has been read.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `(B, S, H)`: the encoder's outputs.
    pub states: Tensor,
    /// Real lengths of the sources.
    pub lengths: Option<Lengths>,
    /// What the decoder reads besides, the same at every step: keys and values of the source.
    pub memory: State,
    /// Where the decoder begins.
    pub state: State,
}

impl Encoded {
    /// The sources at `rows` `(R,)` of u32, in that order: for beams.
    ///
    /// # Errors
    /// When a row is not there.
    pub fn select(&self, rows: &Tensor) -> Result<Self> {
        let (sources, steps, _) = self.states.dims3()?;
        let chosen = rows.to_vec1::<u32>()?;
        if let Some(row) = chosen.iter().find(|&&row| row as usize >= sources) {
            return Err(Error::option("rows", format!("there is no row {row} of {sources}")));
        }
        let lengths = match &self.lengths {
            Some(lengths) => {
                let all = lengths.as_slice();
                let of = |&row: &u32| all.get(row as usize).copied();
                let chosen: Vec<usize> = chosen.iter().filter_map(of).collect();
                let count = chosen.len();
                Some(Lengths::new(chosen, count, steps)?)
            }
            None => None,
        };
        Ok(Self {
            states: self.states.index_select(rows, 0)?,
            lengths,
            memory: select_state(&self.memory, rows)?,
            state: select_state(&self.state, rows)?,
        })
    }
}

/// The state of the sequences at `rows` `(R,)` of u32, in that order.
///
/// # Errors
/// When a row is not there.
pub fn select_state(state: &State, rows: &Tensor) -> Result<State> {
    let select = |one: &StateTensor| -> Result<StateTensor> {
        let tensor = if one.tensor.elem_count() == 0 {
            // A cache before the first step: candle does not select from nothing.
            let mut shape = one.tensor.dims().to_vec();
            shape[one.batch_axis] = rows.dim(0)?;
            Tensor::zeros(shape, one.tensor.dtype(), one.tensor.device())?
        } else {
            one.tensor.contiguous()?.index_select(rows, one.batch_axis)?
        };
        Ok(StateTensor { tensor, ..one.clone() })
    };
    let tensors = state.tensors().iter().map(select).collect::<Result<_>>()?;
    Ok(State::new(tensors, state.steps()))
}

/// A model from one sequence to another: an encoder reads `(B, S, I)`, a decoder writes `(B, T,
/// output_size)`, one step after the other or, where the right answers are known, all at once.
///
/// Laws: [`forward`](Self::forward) equals [`encode`](Self::encode) and a [`step`](Self::step) for each
/// step; padding of either sequence changes nothing; an output does not depend on later steps of the
/// target.
pub trait PairModel: Send + Sync {
    /// Features per step of both sequences (`I`).
    fn input_size(&self) -> usize;

    /// Features per step that the decoder gives.
    fn output_size(&self) -> usize;

    /// The trainable parameters.
    fn parameters(&self) -> &ParameterSet;

    /// All steps of the target at once.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn forward(&self, args: &PairArgs<'_>) -> Result<PairOutput>;

    /// Reads sources `(B, S, I)`, without dropout.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn encode(&self, source: &Tensor, lengths: Option<&Lengths>) -> Result<Encoded>;

    /// One step of the decoder, without dropout: input `(B, I)` to output `(B, output_size)` and the
    /// next state.
    ///
    /// # Errors
    /// When shapes do not fit.
    fn step(&self, input: &Tensor, encoded: &Encoded, state: &State) -> Result<(Tensor, State)>;

    /// Cost of a batch whose sources and targets have `source_len` and `target_len` steps.
    fn cost(&self, batch: usize, source_len: usize, target_len: usize) -> Cost;

    /// Type of the parameters.
    fn dtype(&self) -> DType {
        self.parameters().dtype()
    }

    /// Device of the parameters.
    fn device(&self) -> &Device {
        self.parameters().device()
    }
}

impl fmt::Debug for dyn PairModel + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_model(f, "PairModel", self.parameters())
    }
}
