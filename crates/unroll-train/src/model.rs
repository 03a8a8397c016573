//! A sequence model between a task's inputs and its answers.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use unroll_core::architecture::Architecture;
use unroll_core::fusion::{FusionArgs, Modality};
use unroll_core::pair::{Encoded, PairArgs};
use unroll_core::{
    BuildContext, Cost, Error as ModelError, Family, Form, ForwardArgs, FusionModel, Lengths, Mode,
    PairModel, ParameterSet, Role, SequenceModel, State, cost, ops,
};
use unroll_tasks::{Batch, InputKind, Readout, TargetKind, Task};

use crate::batch::{self, TensorBatch};
use crate::input_layer::{InputLayer, set_input_sizes};
use crate::{Error, Result};

/// What stands before the names of the sequence model's parameters in those of a whole model.
pub const BODY: &str = "body.";

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

    /// Steps of the longest sequence of each modality.
    fn modality_steps(&self) -> [usize; 2] {
        match self.input {
            InputKind::Modalities { steps, .. } => steps,
            _ => [self.seq_len, 0],
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
/// model. `options` are the architecture's, with the sizes of inputs as [`set_input_sizes`] gives them.
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
    let shape = TaskShape::of(task).map_err(into_model_error)?;
    let seq_len = task.seq_len();
    if architecture.family() == Family::Fusion {
        let sizes = [size("input_size"), size("second_input_size")];
        let input = InputLayer::apart(shape.input, sizes)?;
        let body = architecture.fusion_cost(&options, batch_size, shape.modality_steps())?;
        return Ok(body + shape.cost_around(input, 2 * size("hidden_size"), batch_size, seq_len));
    }
    let input = InputLayer::between(shape.input, size("input_size"))?;
    let directions = match options.get("bidirectional") {
        Some(Value::Bool(true)) => 2,
        _ => 1,
    };
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

/// What is between input layer and head.
enum Body {
    Sequence(Box<dyn SequenceModel>),
    Pair(Box<dyn PairModel>),
    Fusion(Box<dyn FusionModel>),
}

impl Body {
    fn parameters(&self) -> &ParameterSet {
        match self {
            Self::Sequence(model) => model.parameters(),
            Self::Pair(model) => model.parameters(),
            Self::Fusion(model) => model.parameters(),
        }
    }

    /// What is between a task's inputs and this.
    fn input_layer(&self, input: InputKind) -> unroll_core::Result<InputLayer> {
        match self {
            Self::Sequence(model) => InputLayer::between(input, model.input_size()),
            Self::Pair(model) => InputLayer::between(input, model.input_size()),
            Self::Fusion(model) => InputLayer::apart(input, model.input_sizes()),
        }
    }

    fn output_size(&self) -> usize {
        match self {
            Self::Sequence(model) => model.output_size(),
            Self::Pair(model) => model.output_size(),
            Self::Fusion(model) => model.output_size(),
        }
    }
}

/// Input layer, body and linear head: a model that answers a task.
///
/// Parameters are named `embedding.weight` (learned token vectors, standard normal at the start, as
/// PyTorch's; for tasks of pairs `source_embedding.weight` too), `body.` and the body's own names, `head.weight` `(O, H)` and `head.bias` `(O,)`.
pub struct TaskModel {
    shape: TaskShape,
    input: InputLayer,
    embedding: Option<Tensor>,
    source_embedding: Option<Tensor>,
    body: Body,
    head_weight: Tensor,
    head_bias: Tensor,
    parameters: ParameterSet,
    form: Form,
    seed: u64,
    /// The same model without a graph, around the same parameters.
    frozen: Option<Box<Self>>,
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
        if let InputKind::Pairs { .. } = task.input() {
            return Err(Error::Model(ModelError::Unsupported(format!(
                "{} is a task from one sequence to another: it needs an encoder and a decoder",
                task.name()
            ))));
        }
        Self::around(TaskShape::of(task)?, Body::Sequence(body), context)
    }

    /// Puts a model from one sequence to another between a task's sources and answers.
    ///
    /// # Errors
    /// When the task has no sources.
    pub fn of_pairs(
        task: &dyn Task,
        body: Box<dyn PairModel>,
        context: &BuildContext,
    ) -> Result<Self> {
        let InputKind::Pairs { .. } = task.input() else {
            return Err(Error::Model(ModelError::Unsupported(format!(
                "{} gives one sequence; an encoder and a decoder need a task such as g2p or \
                 translation",
                task.name()
            ))));
        };
        Self::around(TaskShape::of(task)?, Body::Pair(body), context)
    }

    /// Puts a model of two sequences between a task's modalities and answers.
    ///
    /// # Errors
    /// When the task has no two modalities.
    pub fn of_modalities(
        task: &dyn Task,
        body: Box<dyn FusionModel>,
        context: &BuildContext,
    ) -> Result<Self> {
        Self::around(TaskShape::of(task)?, Body::Fusion(body), context)
    }

    fn around(shape: TaskShape, body: Body, context: &BuildContext) -> Result<Self> {
        let input = body.input_layer(shape.input)?;
        let mut parameters = ParameterSet::new(context.dtype, &context.device);
        let mut embed = |name: &str, vocabulary: usize, size: usize| {
            parameters.add(name, (vocabulary, size), Role::Embedding { std: 1.0 }, context)
        };
        let (embedding, source_embedding) = match input {
            InputLayer::Embedding { vocabulary, size } => {
                (Some(embed("embedding.weight", vocabulary, size)?), None)
            }
            InputLayer::Pairs { source, target, size } => {
                let of_source = embed("source_embedding.weight", source, size)?;
                (Some(embed("embedding.weight", target, size)?), Some(of_source))
            }
            InputLayer::Values { .. }
            | InputLayer::OneHot { .. }
            | InputLayer::Joined { .. }
            | InputLayer::Apart { .. } => (None, None),
        };
        parameters.extend(BODY, body.parameters());
        let (outputs, hidden) = (shape.outputs(), body.output_size());
        let head_weight =
            parameters.add("head.weight", (outputs, hidden), Role::Weight, context)?;
        let role = Role::Bias { fan_in: hidden };
        let head_bias = parameters.add("head.bias", outputs, role, context)?;
        let (form, seed) = (Form::Auto, context.stream.seed());
        Ok(Self {
            shape,
            input,
            embedding,
            source_embedding,
            body,
            head_weight,
            head_bias,
            parameters,
            form,
            seed,
            frozen: None,
        })
    }

    /// Builds body and layers around it from an architecture's options; `input_size` among them is
    /// replaced by what the task needs (see [`set_input_sizes`]).
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
        set_input_sizes(&mut options, architecture, task.input(), hidden, embedding_size);
        let mut model = if architecture.family() == Family::Fusion {
            Self::of_modalities(task, architecture.build_fusion(&options, context)?, context)?
        } else if let InputKind::Pairs { .. } = task.input() {
            Self::of_pairs(task, architecture.build_pair(&options, context)?, context)?
        } else {
            Self::new(task, architecture.build(&options, context)?, context)?
        };
        let of_body = context.frozen(model.body.parameters());
        let body = match &model.body {
            Body::Sequence(_) => Body::Sequence(architecture.build(&options, &of_body)?),
            Body::Pair(_) => Body::Pair(architecture.build_pair(&options, &of_body)?),
            Body::Fusion(_) => Body::Fusion(architecture.build_fusion(&options, &of_body)?),
        };
        let frozen = Self::around(model.shape.clone(), body, &context.frozen(&model.parameters))?;
        model.frozen = Some(Box::new(frozen));
        Ok(model)
    }

    /// The same model computed by another implementation of the body.
    #[must_use]
    pub fn with_form(mut self, form: Form) -> Self {
        self.form = form;
        self.frozen = self.frozen.map(|frozen| Box::new(frozen.with_form(form)));
        self
    }

    /// The model to use where nothing is differentiated: the same parameters, the same answers, and no graph
    /// that keeps every intermediate result ([`BuildContext::frozen`]). A model that was not made by
    /// [`build`](Self::build) is this one itself.
    pub fn for_inference(&self) -> &Self {
        self.frozen.as_deref().unwrap_or(self)
    }

    /// The implementation that computes the body here: `fused`, `fused attention` (a Transformer on a GPU), `reference`,
    /// `unrolled`.
    ///
    /// # Errors
    /// When the body cannot run.
    pub fn form_name(&self) -> Result<&'static str> {
        let zeros = |size| Tensor::zeros((1, 1, size), self.dtype(), self.device());
        match &self.body {
            Body::Sequence(body) => {
                let input = zeros(body.input_size())?;
                let args = ForwardArgs { form: self.form, ..ForwardArgs::new(&input) };
                Ok(body.forward(&args)?.form)
            }
            Body::Pair(body) => {
                let input = zeros(body.input_size())?;
                let args = self.pair_args((&input, None), (&input, None), Mode::Eval);
                Ok(body.forward(&args)?.form)
            }
            Body::Fusion(body) => {
                let [first, second] = body.input_sizes();
                let (first, second) = (zeros(first)?, zeros(second)?);
                let modality = |input| Modality { input, lengths: None };
                let modalities = [modality(&first), modality(&second)];
                let args = FusionArgs { form: self.form, ..FusionArgs::new(modalities) };
                Ok(body.forward(&args)?.form)
            }
        }
    }

    /// What the model knows of its task.
    pub fn shape(&self) -> &TaskShape {
        &self.shape
    }

    /// The implementation asked for.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Token vectors, where they are learned.
    pub(crate) fn embedding(&self) -> Option<&Tensor> {
        self.embedding.as_ref()
    }

    /// How inputs reach the body.
    pub fn input_layer(&self) -> InputLayer {
        self.input
    }

    /// The sequence model within.
    ///
    /// # Errors
    /// When the model goes from one sequence to another or reads two: what looks into a sequence model does
    /// not look into those.
    pub fn body(&self) -> unroll_core::Result<&dyn SequenceModel> {
        match &self.body {
            Body::Sequence(body) => Ok(body.as_ref()),
            Body::Pair(_) => Err(ModelError::Unsupported(
                "an encoder and a decoder have no gradients, gates or phases of their own to measure: \
                 measure = [\"quality\"]"
                    .into(),
            )),
            Body::Fusion(_) => Err(ModelError::Unsupported(
                "a fusion model has no gradients, gates or phases of its own to measure: measure = \
                 [\"quality\"]"
                    .into(),
            )),
        }
    }

    /// The model from one sequence to another within, if it is one.
    pub fn pair(&self) -> Option<&dyn PairModel> {
        match &self.body {
            Body::Sequence(_) | Body::Fusion(_) => None,
            Body::Pair(body) => Some(body.as_ref()),
        }
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
        let body = match &self.body {
            Body::Sequence(body) => body.cost(batch, seq_len),
            Body::Pair(body) => body.cost(batch, seq_len, seq_len),
            // Its tasks have one length.
            Body::Fusion(body) => body.cost(batch, self.shape.modality_steps()),
        };
        body + self.shape.cost_around(self.input, self.body.output_size(), batch, seq_len)
    }

    /// A batch as tensors in the model's type and on its device.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch does not fit the task's description.
    pub fn tensors(&self, batch: &Batch) -> Result<TensorBatch> {
        TensorBatch::new(batch, &self.shape, self.input, self.dtype(), self.device())
    }

    /// What the body reads: `(B, T, I)`; of a pair, what the decoder is given.
    pub fn features(&self, batch: &TensorBatch) -> Result<Tensor> {
        match &self.embedding {
            Some(embedding) => look_up(embedding, &batch.input),
            None => Ok(batch.input.clone()),
        }
    }

    fn misfit(&self, message: &str) -> Error {
        Error::Batch { task: self.shape.name.clone(), message: message.into() }
    }

    fn pair_args<'a>(
        &self,
        (source, source_lengths): (&'a Tensor, Option<&'a Lengths>),
        (target, target_lengths): (&'a Tensor, Option<&'a Lengths>),
        mode: Mode<'a>,
    ) -> PairArgs<'a> {
        let (form, attention) = (self.form, false);
        PairArgs { source, source_lengths, target, target_lengths, mode, form, attention }
    }

    /// What the encoder reads: `(B, S, I)` and the real lengths.
    fn source<'a>(&self, batch: &'a TensorBatch) -> Result<(Tensor, Option<&'a Lengths>)> {
        match (&self.source_embedding, &batch.source) {
            (Some(embedding), Some(source)) => {
                Ok((look_up(embedding, &source.tokens)?, source.lengths.as_ref()))
            }
            _ => Err(self.misfit("the batch has no sources")),
        }
    }

    /// Logits `(B, O)` of the symbols after `tokens` `(B,)` in answers that are being written.
    pub(crate) fn next_symbols(
        &self,
        body: &dyn PairModel,
        tokens: &[u32],
        encoded: &Encoded,
        state: &State,
    ) -> Result<(Tensor, State)> {
        let Some(embedding) = &self.embedding else {
            return Err(Error::Model(ModelError::Unsupported(
                "a pair model has embeddings".into(),
            )));
        };
        let tokens = Tensor::from_slice(tokens, tokens.len(), self.device())?;
        let (output, next) = body.step(&embedding.index_select(&tokens, 0)?, encoded, state)?;
        let logits = ops::linear(&output, &self.head_weight, Some(&self.head_bias))?;
        // Nobody differentiates a search.
        Ok((logits.detach(), next.detach()))
    }

    /// The sources of a batch, read.
    pub(crate) fn encode(&self, body: &dyn PairModel, batch: &TensorBatch) -> Result<Encoded> {
        let (source, lengths) = self.source(batch)?;
        let encoded = body.encode(&source, lengths)?;
        let (memory, state) = (encoded.memory.detach(), encoded.state.detach());
        Ok(Encoded { states: encoded.states.detach(), memory, state, ..encoded })
    }

    /// Attention weights `(B, N, T, S)` of a pair model, if it attends.
    ///
    /// # Errors
    /// When the batch does not fit.
    pub fn cross_attention(&self, batch: &TensorBatch) -> Result<Option<Tensor>> {
        let Body::Pair(body) = &self.body else { return Ok(None) };
        let (source, lengths) = self.source(batch)?;
        let target = self.features(batch)?;
        let target = (&target, batch.lengths.as_ref());
        let args = self.pair_args((&source, lengths), target, Mode::Eval);
        Ok(body.forward(&PairArgs { attention: true, ..args })?.attention)
    }

    /// The answers `(N, O)`: numbers, or one logit for each class. Only steps that count are
    /// answered: the head never runs on the others.
    ///
    /// # Errors
    /// When the batch does not fit.
    pub fn forward(&self, batch: &TensorBatch, mode: Mode<'_>) -> Result<Tensor> {
        let input = self.features(batch)?;
        let lengths = batch.lengths.as_ref();
        let hidden = match &self.body {
            Body::Sequence(body) => {
                let form = self.form;
                let args = ForwardArgs { lengths, mode, form, ..ForwardArgs::new(&input) };
                match self.shape.readout {
                    Readout::Last => body.forward_last(&args)?,
                    Readout::EveryStep => answered(batch, &body.forward(&args)?.output)?,
                }
            }
            Body::Pair(body) => {
                let (source, source_lengths) = self.source(batch)?;
                let args = self.pair_args((&source, source_lengths), (&input, lengths), mode);
                answered(batch, &body.forward(&args)?.output)?
            }
            Body::Fusion(body) => {
                let Some(second) = &batch.second else {
                    return Err(self.misfit("the batch has no second modality"));
                };
                let modalities = [
                    Modality { input: &input, lengths },
                    Modality { input: &second.input, lengths: second.lengths.as_ref() },
                ];
                let form = self.form;
                body.forward(&FusionArgs { mode, form, ..FusionArgs::new(modalities) })?.output
            }
        };
        self.head(&hidden)
    }

    /// Answers in the type that losses are summed in.
    pub(crate) fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        let answers = ops::linear(hidden, &self.head_weight, Some(&self.head_bias))?;
        Ok(answers.to_dtype(ops::summing_type(self.dtype()))?)
    }
}

/// The steps `(N, H)` of outputs `(B, T, H)` that are answered.
pub(crate) fn answered(batch: &TensorBatch, output: &Tensor) -> Result<Tensor> {
    let output = output.flatten_to(1)?;
    match &batch.rows {
        Some(rows) => Ok(output.index_select(rows, 0)?),
        None => Ok(output),
    }
}

/// Rows of an embedding `(V, I)` for tokens `(B, T)`: `(B, T, I)`.
pub(crate) fn look_up(embedding: &Tensor, tokens: &Tensor) -> Result<Tensor> {
    let (sequences, seq_len) = tokens.dims2()?;
    let rows = embedding.index_select(&tokens.flatten_all()?, 0)?;
    Ok(rows.reshape((sequences, seq_len, embedding.dim(1)?))?)
}
