//! How architectures are listed, configured and built by name.

use std::collections::BTreeSet;
use std::marker::PhantomData;

use candle_core::{DType, Device, Var};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    Cost, Error, FusionModel, Init, PairModel, ParameterSet, Result, SequenceModel, Stream,
};

/// What a model is built with besides its own configuration.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// Type of the parameters.
    pub dtype: DType,
    /// Device of the parameters.
    pub device: Device,
    /// Initialiser.
    pub init: Init,
    /// Where the initial values come from; each parameter has its own stream below this one.
    pub stream: Stream,
    /// Parameters that are there already and are taken instead of new ones: see
    /// [`frozen`](Self::frozen).
    pub shared: Option<Shared>,
}

/// Parameters of another model that a model is built around.
#[derive(Debug, Clone)]
pub struct Shared {
    parameters: ParameterSet,
    /// What stands before the names of the part that is being built.
    prefix: String,
}

impl Shared {
    /// The tensor called `name` in the part that is being built, as a variable.
    pub(crate) fn get(&self, name: &str) -> Result<&Var> {
        self.parameters.var(&format!("{}{name}", self.prefix))
    }
}

impl BuildContext {
    /// With new parameters.
    pub fn new(dtype: DType, device: &Device, init: Init, stream: Stream) -> Self {
        Self { dtype, device: device.clone(), init, stream, shared: None }
    }

    /// To build the same model a second time, for inference: its parameters are those of
    /// `parameters`, in the same memory, but no variables of a graph.
    ///
    /// candle has no switch that stops it from recording what a variable goes into; what is recorded is kept
    /// until the result is gone, and layers keep what backward would need. The model that is built here records
    /// nothing, follows the other one when that is trained, and gives the same bits.
    ///
    /// ```
    /// # use candle_core::{DType, Device, Tensor};
    /// # use unroll_core::{Architecture, BuildContext, ForwardArgs, Result, SequenceModel};
    /// # fn run(architecture: &dyn Architecture, options: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    /// let context = BuildContext::cpu(DType::F32, 0);
    /// let model = architecture.build(options, &context)?;
    /// let frozen = architecture.build(options, &context.frozen(model.parameters()))?;
    /// # let x = Tensor::zeros((1, 5, model.input_size()), DType::F32, &Device::Cpu)?;
    /// let output = frozen.forward(&ForwardArgs::new(&x))?.output;
    /// assert!(!output.track_op());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn frozen(&self, parameters: &ParameterSet) -> Self {
        let shared = Shared { parameters: parameters.clone(), prefix: String::new() };
        Self { shared: Some(shared), ..self.clone() }
    }

    /// What a model's constructor ends with: nothing that is [shared](Self::frozen) may be left over.
    ///
    /// # Errors
    /// [`Error::NotTaken`] when the other model has parameters that this one does not.
    pub fn check_taken(&self, parameters: &ParameterSet) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let taken: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        let all = shared.parameters.iter().map(|p| p.name.as_str());
        let own = all.filter_map(|name| name.strip_prefix(shared.prefix.as_str()));
        let names: Vec<String> = own.filter(|name| !taken.contains(name)).map(Into::into).collect();
        if names.is_empty() { Ok(()) } else { Err(Error::NotTaken { names }) }
    }

    /// For a part of a model whose parameters are taken over with `prefix` before their names
    /// ([`ParameterSet::extend`]).
    #[must_use]
    pub fn within(&self, prefix: &str) -> Self {
        let mut context = self.clone();
        if let Some(shared) = &mut context.shared {
            shared.prefix.push_str(prefix);
        }
        context
    }

    /// PyTorch's initialiser on the CPU.
    pub fn cpu(dtype: DType, seed: u64) -> Self {
        Self::new(dtype, &Device::Cpu, Init::default(), Stream::new(seed, "init"))
    }
}

/// Name and meaning of one option of an architecture.
#[derive(Debug, Clone, Copy)]
pub struct OptionDoc {
    /// The key in an experiment file or `--config`.
    pub name: &'static str,
    /// What it does, with its values.
    pub help: &'static str,
}

/// How an architecture carries information along a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// From each step to the next alone, through a state of fixed size.
    Recurrent,
    /// From every visible step at once.
    Attention,
    /// Both: attention over the states of a recurrent network.
    AttentionOverStates,
    /// From one sequence to another: an encoder and a decoder.
    EncoderDecoder,
    /// From two sequences of different kinds to one answer: an encoder for each.
    Fusion,
}

impl Family {
    /// Name in records and plots.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recurrent => "recurrent",
            Self::Attention => "attention",
            Self::AttentionOverStates => "attention over recurrent states",
            Self::EncoderDecoder => "encoder and decoder",
            Self::Fusion => "fusion of two sequences",
        }
    }
}

/// Configuration of an architecture; its fields are the options that users set.
///
/// Implementations derive `Serialize` and `Deserialize` with `deny_unknown_fields` and `default`.
/// All have `input_size` and `hidden_size`.
pub trait ModelConfig: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// How models of this configuration carry information along a sequence.
    const FAMILY: Family;

    /// One line for each field.
    const OPTIONS: &'static [OptionDoc];

    /// Checks that a model can be built.
    ///
    /// # Errors
    /// [`Error::Option`] for the first option that is wrong.
    fn validate(&self) -> Result<()>;

    /// Builds the model, after [`validate`](Self::validate): a program that uses the library calls this alone.
    ///
    /// # Errors
    /// What `validate` finds; [`Error::Unsupported`] for configurations of pair models.
    fn build(&self, context: &BuildContext) -> Result<Box<dyn SequenceModel>>;

    /// Builds a model from one sequence to another.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for all others.
    fn build_pair(&self, context: &BuildContext) -> Result<Box<dyn PairModel>> {
        let _ = context;
        Err(Error::Unsupported(
            "reads one sequence alone; tasks from one sequence to another need an encoder and a \
             decoder: encdec or its variants with attention"
                .into(),
        ))
    }

    /// Builds a model of two sequences at once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for all others.
    fn build_fusion(&self, context: &BuildContext) -> Result<Box<dyn FusionModel>> {
        let _ = context;
        Err(Error::Unsupported("reads no two sequences apart; fusion models do".into()))
    }

    /// Cost of the model, without building it. Pair models: sources and targets of `seq_len` steps; fusion
    /// models: both sequences.
    fn cost(&self, batch: usize, seq_len: usize) -> Cost;

    /// Cost of a model of two sequences at once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for all others.
    fn fusion_cost(&self, batch: usize, steps: [usize; 2]) -> Result<Cost> {
        let _ = (batch, steps);
        Err(Error::Unsupported("reads no two sequences apart; fusion models do".into()))
    }
}

/// An architecture in the registry: a named configuration type.
pub trait Architecture: Send + Sync {
    /// The `--arch` name.
    fn name(&self) -> &'static str;

    /// What it is, with the paper that defines it.
    fn summary(&self) -> &'static str;

    /// How it carries information along a sequence.
    fn family(&self) -> Family;

    /// Options that can be set, with their defaults, in order.
    fn options(&self) -> Vec<(OptionDoc, Value)>;

    /// All options with `given` over the defaults, checked.
    ///
    /// # Errors
    /// [`Error::UnknownOption`] or [`Error::Option`].
    fn resolve(&self, given: &Map<String, Value>) -> Result<Map<String, Value>>;

    /// Builds the model from options.
    fn build(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn SequenceModel>>;

    /// Builds the model from one sequence to another.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is none.
    fn build_pair(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn PairModel>>;

    /// Builds the model of two sequences at once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is none.
    fn build_fusion(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn FusionModel>>;

    /// Cost of the model from options, without building it.
    fn cost(&self, given: &Map<String, Value>, batch: usize, seq_len: usize) -> Result<Cost>;

    /// Cost of the model of two sequences of so many steps.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it is none.
    fn fusion_cost(
        &self,
        given: &Map<String, Value>,
        batch: usize,
        steps: [usize; 2],
    ) -> Result<Cost>;
}

/// A registry line: a name for a configuration type, or for one variant of it.
pub struct Entry<C> {
    name: &'static str,
    summary: &'static str,
    fixed: &'static [&'static str],
    preset: fn(&mut C),
    config: PhantomData<fn() -> C>,
}

impl<C: ModelConfig> Entry<C> {
    /// The configuration with its own defaults.
    pub const fn new(name: &'static str, summary: &'static str) -> Self {
        Self::variant(name, summary, &[], |_| {})
    }

    /// A variant: `preset` changes the defaults; the options in `fixed` then belong to the name and
    /// can no longer be set.
    pub const fn variant(
        name: &'static str,
        summary: &'static str,
        fixed: &'static [&'static str],
        preset: fn(&mut C),
    ) -> Self {
        Self { name, summary, fixed, preset, config: PhantomData }
    }

    /// What a model cannot do by its nature, with the name of the model before it.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Unsupported(message) => Error::Unsupported(format!("`{}` {message}", self.name)),
            other => other,
        }
    }

    fn docs(&self) -> impl Iterator<Item = OptionDoc> {
        C::OPTIONS.iter().copied().filter(|doc| !self.fixed.contains(&doc.name))
    }

    fn defaults(&self) -> Result<Map<String, Value>> {
        let mut config = C::default();
        (self.preset)(&mut config);
        to_map(&config)
    }

    fn config(&self, given: &Map<String, Value>) -> Result<C> {
        let mut options = self.defaults()?;
        // One key at a time: a wrong value is then reported under its name.
        for (key, value) in given {
            // `arch` may stand in a configuration that names its own architecture.
            if self.fixed.contains(&key.as_str()) && options.get(key) == Some(value) {
                continue;
            }
            if !self.docs().any(|doc| doc.name == key) {
                return Err(Error::UnknownOption {
                    architecture: self.name.to_owned(),
                    option: key.clone(),
                    known: self.docs().map(|doc| doc.name.to_owned()).collect(),
                });
            }
            options.insert(key.clone(), value.clone());
            serde_json::from_value::<C>(Value::Object(options.clone()))
                .map_err(|error| Error::option(key, error.to_string()))?;
        }
        let config: C = serde_json::from_value(Value::Object(options))
            .map_err(|error| Error::option(self.name, error.to_string()))?;
        config.validate()?;
        Ok(config)
    }
}

fn to_map<C: Serialize>(config: &C) -> Result<Map<String, Value>> {
    match serde_json::to_value(config) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::option("config", format!("{other} is not a table of options"))),
        Err(error) => Err(Error::option("config", error.to_string())),
    }
}

impl<C: ModelConfig> Architecture for Entry<C> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn summary(&self) -> &'static str {
        self.summary
    }

    fn family(&self) -> Family {
        C::FAMILY
    }

    fn options(&self) -> Vec<(OptionDoc, Value)> {
        let defaults = self.defaults().unwrap_or_default();
        self.docs()
            .map(|doc| (doc, defaults.get(doc.name).cloned().unwrap_or(Value::Null)))
            .collect()
    }

    fn resolve(&self, given: &Map<String, Value>) -> Result<Map<String, Value>> {
        to_map(&self.config(given)?)
    }

    fn build(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn SequenceModel>> {
        context.init.validate()?;
        self.config(given)?.build(context).map_err(|error| self.named(error))
    }

    fn build_pair(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn PairModel>> {
        context.init.validate()?;
        self.config(given)?.build_pair(context).map_err(|error| self.named(error))
    }

    fn build_fusion(
        &self,
        given: &Map<String, Value>,
        context: &BuildContext,
    ) -> Result<Box<dyn FusionModel>> {
        context.init.validate()?;
        self.config(given)?.build_fusion(context).map_err(|error| self.named(error))
    }

    fn cost(&self, given: &Map<String, Value>, batch: usize, seq_len: usize) -> Result<Cost> {
        Ok(self.config(given)?.cost(batch, seq_len))
    }

    fn fusion_cost(
        &self,
        given: &Map<String, Value>,
        batch: usize,
        steps: [usize; 2],
    ) -> Result<Cost> {
        self.config(given)?.fusion_cost(batch, steps).map_err(|error| self.named(error))
    }
}

/// The largest size: products of it with a number of gates, heads or directions do not overflow.
pub const LARGEST_SIZE: usize = i32::MAX as usize;

/// The most layers: each has tensors of its own, however small.
pub const MOST_LAYERS: usize = 10_000;

/// Checks shared by the configurations: `value` must be positive, and no larger than [`LARGEST_SIZE`]
/// (`num_layers`: [`MOST_LAYERS`]).
pub fn require_positive(option: &str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::option(option, "must be at least 1, not 0"));
    }
    let most = if option == "num_layers" { MOST_LAYERS } else { LARGEST_SIZE };
    if value > most {
        return Err(Error::option(option, format!("must be at most {most}, not {value}")));
    }
    Ok(())
}

/// Checks shared by the configurations: `value` must be a dropout probability.
pub fn require_probability(option: &str, value: f64) -> Result<()> {
    if !(0.0..1.0).contains(&value) {
        return Err(Error::option(option, format!("must lie in 0 <= p < 1, not {value}")));
    }
    Ok(())
}
