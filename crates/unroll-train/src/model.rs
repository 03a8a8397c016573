//! A sequence model between a task's inputs and its answers.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use unroll_core::architecture::Architecture;
use unroll_core::{
    BuildContext, Cost, Error as ModelError, Form, ForwardArgs, Lengths, Mode, ParameterSet, Role,
    SequenceModel, cost, ops,
};
use unroll_tasks::{Batch, InputKind, Readout, TargetKind, Task};

use crate::batch::{self, TensorBatch};
use crate::{Error, Result};

/// Largest vocabulary whose tokens are one-hot by default; larger ones are embedded.
pub const LARGEST_ONE_HOT_VOCABULARY: usize = 64;

/// Features that a body has to read for a task's inputs: those of the task, the vocabulary of
/// one-hot tokens, or the size of the embedding.
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
        (InputKind::Tokens { .. }, Some(size)) if size > 0 => size,
        (InputKind::Tokens { vocabulary }, _) if vocabulary <= LARGEST_ONE_HOT_VOCABULARY => {
            vocabulary
        }
        (InputKind::Tokens { .. }, _) => hidden_size,
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
        }
    }

    /// Cost of `rows` steps. A look-up is no arithmetic; it only moves.
    fn cost(self, rows: u64) -> Cost {
        match self {
            Self::Values { .. } | Self::OneHot { .. } => Cost::default(),
            Self::Embedding { vocabulary, size } => Cost {
                parameters: (vocabulary * size) as u64,
                activation_elements: rows * size as u64,
                ..Cost::default()
            },
        }
    }
}

/// What a model needs to know of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskShape {
    /// Registry name of the task.
    pub name: String,
    /// Kind of the inputs.
    pub input: InputKind,
    /// Kind of the answers.
    pub target: TargetKind,
    /// Where the model answers.
    pub readout: Readout,
    /// Steps of the longest sequence.
    pub seq_len: usize,
    /// Answers per sequence, counted in the first training example: 1 for [`Readout::Last`], the
    /// steps that count for [`Readout::EveryStep`].
    pub answers: usize,
}

impl TaskShape {
    /// Reads the shape from a task.
    ///
    /// # Errors
    /// When the task's first batch does not fit its own description.
    pub fn of(task: &dyn Task) -> Result<Self> {
        let mut shape = Self {
            name: task.name().to_owned(),
            input: task.input(),
            target: task.target(),
            readout: task.readout(),
            seq_len: task.seq_len(),
            answers: 1,
        };
        if shape.readout == Readout::EveryStep {
            shape.answers = batch::answers(&shape, &task.train_batch(0, 1))?.len();
        }
        Ok(shape)
    }

    /// Numbers of one answer: `O` outputs, or one logit for each class.
    pub fn outputs(&self) -> usize {
        match self.target {
            TargetKind::Values { outputs } => outputs,
            TargetKind::Classes { classes } => classes,
        }
    }

    /// Answers of one sequence of `seq_len` steps: all steps where all count, else the same number
    /// at every length.
    fn answers_at(&self, seq_len: usize) -> u64 {
        let all = self.readout == Readout::EveryStep && self.answers == self.seq_len;
        (if all { seq_len } else { self.answers }) as u64
    }

    /// Cost of input layer and head around a body, at a batch of sequences.
    fn cost_around(
        &self,
        input: InputLayer,
        body_outputs: usize,
        batch: usize,
        seq_len: usize,
    ) -> Cost {
        let head_rows = batch as u64 * self.answers_at(seq_len);
        input.cost((batch * seq_len) as u64)
            + cost::linear(head_rows, body_outputs as u64, self.outputs() as u64, true)
    }
}

/// Cost of the whole model (input layer, body, head) for a batch of a task, without keeping the
/// model. `options` are the architecture's, with `input_size` as [`body_input_size`] gives it.
///
/// # Errors
/// What the architecture says about its options.
pub fn model_cost(
    architecture: &dyn Architecture,
    options: &Map<String, Value>,
    task: &dyn Task,
    batch_size: usize,
) -> unroll_core::Result<Cost> {
    let options = architecture.resolve(options)?;
    let size = |name: &str| options.get(name).and_then(Value::as_u64).unwrap_or(1) as usize;
    let input = InputLayer::between(task.input(), size("input_size"))?;
    let directions = match options.get("bidirectional") {
        Some(Value::Bool(true)) => 2,
        _ => 1,
    };
    let shape = TaskShape::of(task).map_err(into_model_error)?;
    let seq_len = task.seq_len();
    let body = architecture.cost(&options, batch_size, seq_len)?;
    let outputs = directions * size("hidden_size");
    Ok(body + shape.cost_around(input, outputs, batch_size, seq_len))
}

fn into_model_error(error: Error) -> ModelError {
    match error {
        Error::Model(error) => error,
        other => ModelError::Unsupported(other.to_string()),
    }
}

/// Input layer, body and linear head: a model that answers a task.
///
/// Parameters are named `embedding.weight` (learned token vectors, standard normal at the start, as
/// PyTorch's), `body.` and the body's own names, `head.weight` `(O, H)` and `head.bias` `(O,)`.
pub struct TaskModel {
    shape: TaskShape,
    input: InputLayer,
    embedding: Option<Tensor>,
    body: Box<dyn SequenceModel>,
    head_weight: Tensor,
    head_bias: Tensor,
    parameters: ParameterSet,
    form: Form,
    seed: u64,
}

impl TaskModel {
    /// Puts a body between a task's inputs and answers. The new parameters are drawn from streams
    /// below the context's, whose type and device must be the body's.
    ///
    /// # Errors
    /// When the body does not read as many features as the task gives.
    pub fn new(
        task: &dyn Task,
        body: Box<dyn SequenceModel>,
        context: &BuildContext,
    ) -> Result<Self> {
        let shape = TaskShape::of(task)?;
        let input = InputLayer::between(shape.input, body.input_size())?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let embedding = match input {
            InputLayer::Embedding { vocabulary, size } => Some(parameters.add(
                "embedding.weight",
                (vocabulary, size),
                Role::Embedding { std: 1.0 },
                context,
            )?),
            InputLayer::Values { .. } | InputLayer::OneHot { .. } => None,
        };
        parameters.extend("body.", body.parameters());
        let (outputs, hidden) = (shape.outputs(), body.output_size());
        let head_weight =
            parameters.add("head.weight", (outputs, hidden), Role::Weight, context)?;
        let role = Role::Bias { fan_in: hidden };
        let head_bias = parameters.add("head.bias", outputs, role, context)?;
        let (form, seed) = (Form::Auto, context.stream.seed());
        Ok(Self { shape, input, embedding, body, head_weight, head_bias, parameters, form, seed })
    }

    /// Builds body and layers around it from an architecture's options; `input_size` among them is
    /// replaced by what the task needs (see [`body_input_size`]).
    ///
    /// # Errors
    /// What the architecture says about its options.
    pub fn build(
        task: &dyn Task,
        architecture: &dyn Architecture,
        options: &Map<String, Value>,
        embedding_size: Option<usize>,
        context: &BuildContext,
    ) -> Result<Self> {
        let resolved = architecture.resolve(options)?;
        let hidden = resolved.get("hidden_size").and_then(Value::as_u64).unwrap_or(1) as usize;
        let mut options = options.clone();
        let input_size = body_input_size(task.input(), hidden, embedding_size);
        options.insert("input_size".into(), input_size.into());
        Self::new(task, architecture.build(&options, context)?, context)
    }

    /// The same model computed by another implementation of the body.
    #[must_use]
    pub fn with_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// The implementation that computes the body here: `fused`, `reference`, `unrolled`.
    ///
    /// # Errors
    /// When the body cannot run.
    pub fn form_name(&self) -> Result<&'static str> {
        let size = (1, 1, self.body.input_size());
        let input = Tensor::zeros(size, self.parameters.dtype(), self.parameters.device())?;
        let args = ForwardArgs { form: self.form, ..ForwardArgs::new(&input) };
        Ok(self.body.forward(&args)?.form)
    }

    /// What the model knows of its task.
    pub fn shape(&self) -> &TaskShape {
        &self.shape
    }

    /// How inputs reach the body.
    pub fn input_layer(&self) -> InputLayer {
        self.input
    }

    /// The sequence model within.
    pub fn body(&self) -> &dyn SequenceModel {
        self.body.as_ref()
    }

    /// All trainable parameters.
    pub fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    /// Type of the parameters.
    pub fn dtype(&self) -> DType {
        self.parameters.dtype()
    }

    /// Device of the parameters.
    pub fn device(&self) -> &Device {
        self.parameters.device()
    }

    /// Seed that the model was drawn from; its dropout follows the same seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Cost of the whole model for a batch of sequences of `seq_len` steps.
    pub fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.body.cost(batch, seq_len)
            + self.shape.cost_around(self.input, self.body.output_size(), batch, seq_len)
    }

    /// A batch as tensors in the model's type and on its device.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch does not fit the task's description.
    pub fn tensors(&self, batch: &Batch) -> Result<TensorBatch> {
        TensorBatch::new(batch, &self.shape, self.input, self.dtype(), self.device())
    }

    /// What the body reads: `(B, T, I)`.
    pub fn features(&self, batch: &TensorBatch) -> Result<Tensor> {
        let Some(embedding) = &self.embedding else { return Ok(batch.input.clone()) };
        let (sequences, seq_len) = batch.input.dims2()?;
        let rows = embedding.index_select(&batch.input.flatten_all()?, 0)?;
        Ok(rows.reshape((sequences, seq_len, embedding.dim(1)?))?)
    }

    /// The answers `(N, O)`: numbers, or one logit for each class. Only steps that count are
    /// answered: the head never runs on the others.
    pub fn forward(&self, batch: &TensorBatch, mode: Mode<'_>) -> Result<Tensor> {
        let input = self.features(batch)?;
        self.forward_features(&input, batch.lengths.as_ref(), batch.rows.as_ref(), mode)
    }

    fn forward_features(
        &self,
        input: &Tensor,
        lengths: Option<&Lengths>,
        rows: Option<&Tensor>,
        mode: Mode<'_>,
    ) -> Result<Tensor> {
        let args = ForwardArgs { lengths, mode, form: self.form, ..ForwardArgs::new(input) };
        let hidden = match self.shape.readout {
            Readout::Last => self.body.forward_last(&args)?,
            Readout::EveryStep => {
                let output = self.body.forward(&args)?.output.flatten_to(1)?;
                match rows {
                    Some(rows) => output.index_select(rows, 0)?,
                    None => output,
                }
            }
        };
        Ok(ops::linear(&hidden, &self.head_weight, Some(&self.head_bias))?)
    }
}
