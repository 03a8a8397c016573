//! One computation that can be done on any device, in any type, in any form.

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use serde_json::{Map, Value};
use unroll_core::fusion::{FusionArgs, Modality};
use unroll_core::pair::PairArgs;
use unroll_core::weights::{self, TensorFile};
use unroll_core::{
    Architecture, BuildContext, Error, Form, ForwardArgs, Init, Lengths, Mode, ParameterSet,
    Result, State, StateTensor, Stream,
};

use super::What;
use crate::eval::{self, EvalRequest};

/// Where and how a case is computed.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) dtype: DType,
    pub(super) device: Device,
    pub(super) form: Form,
    /// Type that weights and inputs are rounded to first, wherever they are computed with afterwards: what
    /// is compared is the computation alone.
    pub(super) rounded_to: DType,
}

/// What came out: named tensors in f64 on the processor.
#[derive(Debug, Clone)]
pub(super) struct Computed {
    /// The implementation that ran.
    pub(super) form: String,
    pub(super) tensors: Vec<(What, String, Tensor)>,
}

/// Sizes of the inputs of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) batch: usize,
    pub(super) steps: usize,
    /// Sequences of unequal length.
    pub(super) padded: bool,
    /// Going on from the state after some earlier steps.
    pub(super) carried: bool,
}

/// What is computed.
pub(super) enum Work {
    /// A model of one sequence.
    Sequence,
    /// A model from one sequence to another; the source is two steps longer.
    Pair,
    /// A model of two sequences; the second is three steps longer.
    Fusion {
        /// Features of the second.
        second_inputs: usize,
    },
    /// PyTorch's tensors of one sequence.
    Vectors(TensorFile),
    /// PyTorch's tensors of a pair.
    PairVectors(TensorFile),
}

/// One architecture with options on inputs of one extent.
pub(super) struct Case {
    pub(super) architecture: &'static dyn Architecture,
    pub(super) options: Map<String, Value>,
    pub(super) extent: Extent,
    pub(super) work: Work,
    pub(super) forms: &'static [Form],
    /// Name of the vectors, where there are.
    pub(super) vectors: Option<&'static str>,
}

impl Case {
    /// What tells it from the others: options that are no sizes, and the shape.
    pub(super) fn name(&self) -> String {
        if let Some(name) = self.vectors {
            return format!("PyTorch {name}");
        }
        let sizes =
            ["input_size", "hidden_size", "num_heads", "window", "max_length", "second_input_size"];
        let options = self.options.iter().filter(|(key, _)| !sizes.contains(&key.as_str()));
        let options = options.map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            other => format!("{key}={other}"),
        });
        let Extent { batch, steps, padded, carried } = self.extent;
        let size = |key: &str| self.options.get(key).and_then(Value::as_u64).unwrap_or(0);
        let mut words: Vec<String> = options.collect();
        words.push(format!(
            "B={batch} T={steps} I={} H={}",
            size("input_size"),
            size("hidden_size")
        ));
        words.extend(padded.then(|| "padded".to_owned()));
        words.extend(carried.then(|| "carried".to_owned()));
        words.join(" ")
    }

    /// What is expected of it: PyTorch's tensors, or `None` when the processor in f64 says it.
    pub(super) fn expected(&self) -> Result<Option<Computed>> {
        let (Work::Vectors(file) | Work::PairVectors(file)) = &self.work else { return Ok(None) };
        let mut tensors = Vec::new();
        for (name, tensor) in &file.tensors {
            if let Some(what) = what(name) {
                tensors.push((what, name.clone(), tensor.to_dtype(DType::F64)?));
            }
        }
        Ok(Some(Computed { form: "PyTorch".to_owned(), tensors }))
    }

    /// Computes it.
    pub(super) fn run(&self, place: &Place) -> Result<Computed> {
        match &self.work {
            Work::Sequence => self.sequence(place),
            Work::Pair => self.pair(place),
            Work::Fusion { second_inputs } => self.fusion(place, *second_inputs),
            Work::Vectors(file) => self.vectors(place, file),
            Work::PairVectors(file) => self.pair_vectors(place, file),
        }
    }

    fn context(&self, place: &Place) -> BuildContext {
        BuildContext::new(place.dtype, &place.device, Init::default(), stream("weights"))
    }

    /// Weights that are the same everywhere. Biases that start at zero and scales that start at one would
    /// hide mistakes; matrices start at random.
    fn set_weights(&self, parameters: &ParameterSet, place: &Place) -> Result<()> {
        for parameter in parameters.iter() {
            let mut value = parameter.var.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            if value.rank() < 2 {
                let bump =
                    stream(&parameter.name).normal(value.dims(), 0.1, DType::F32, &Device::Cpu)?;
                value = (value + bump)?;
            }
            // A copy: a variable cannot be set to itself.
            parameter.var.set(&put(&value, place)?.copy()?)?;
        }
        Ok(())
    }

    fn input(&self, name: &str, dims: &[usize], place: &Place) -> Result<Var> {
        let values = stream(name).normal(dims, 1.0, DType::F32, &Device::Cpu)?;
        Ok(Var::from_tensor(&put(&values, place)?)?)
    }

    fn lengths(&self, steps: usize) -> Result<Option<Lengths>> {
        let batch = self.extent.batch;
        if !self.extent.padded {
            return Ok(None);
        }
        // The whole length, one step, and others between.
        let length = |row: usize| match row {
            0 => steps,
            1 => 1,
            _ => 1 + (row * 5 + 2) % steps,
        };
        Lengths::new((0..batch).map(length).collect(), batch, steps).map(Some)
    }

    fn sequence(&self, place: &Place) -> Result<Computed> {
        let model = self.architecture.build(&self.options, &self.context(place))?;
        self.set_weights(model.parameters(), place)?;
        let Extent { batch, steps, carried, .. } = self.extent;
        let inputs = model.input_size();
        let x = self.input("x", &[batch, steps, inputs], place)?;
        let lengths = self.lengths(steps)?;
        let mut states: Vec<(String, Var)> = Vec::new();
        let state = if carried {
            let before = self.input("before", &[batch, 3, inputs], place)?;
            let before = before.as_detached_tensor();
            let args = ForwardArgs { form: place.form, ..ForwardArgs::new(&before) };
            let reached = model.forward(&args)?.state;
            let mut tensors = Vec::new();
            for one in reached.tensors() {
                let var = Var::from_tensor(&one.tensor.detach())?;
                tensors.push(StateTensor { tensor: var.as_tensor().clone(), ..one.clone() });
                states.push((format!("{}0", one.name), var));
            }
            Some(State::new(tensors, reached.steps()))
        } else {
            None
        };
        let dropout = stream("dropout");
        let drops = |(key, value): (&String, &Value)| {
            key.contains("dropout") && value.as_f64().is_some_and(|share| share > 0.0)
        };
        let args = ForwardArgs {
            lengths: lengths.as_ref(),
            state: state.as_ref(),
            form: place.form,
            mode: if self.options.iter().any(drops) { Mode::Train(&dropout) } else { Mode::Eval },
            ..ForwardArgs::new(x.as_tensor())
        };
        let result = model.forward(&args)?;
        let mut out = Out::new(result.form);
        out.put(What::Output, "output", &result.output)?;
        let mut loss = weighed("output", &result.output)?;
        for one in result.state.tensors() {
            let name = format!("{}_n", one.name);
            out.put(What::State, &name, &one.tensor)?;
            loss = (loss + weighed(&name, &one.tensor)?)?;
        }
        let frozen = self.context(place).frozen(model.parameters());
        let input = x.as_detached_tensor();
        let state = state.as_ref().map(State::detach);
        let args = ForwardArgs { input: &input, state: state.as_ref(), ..args };
        let inference = self.architecture.build(&self.options, &frozen)?.forward(&args)?;
        out.put(What::Output, INFERENCE, &inference.output)?;
        let gradients = loss.backward()?;
        out.put_gradients(model.parameters(), &gradients)?;
        out.put_gradient("x", &x, &gradients)?;
        for (name, var) in &states {
            out.put_gradient(name, var, &gradients)?;
        }
        Ok(out.0)
    }

    fn pair(&self, place: &Place) -> Result<Computed> {
        let model = self.architecture.build_pair(&self.options, &self.context(place))?;
        self.set_weights(model.parameters(), place)?;
        let Extent { batch, steps, .. } = self.extent;
        let inputs = model.input_size();
        let source = self.input("source", &[batch, steps + 2, inputs], place)?;
        let target = self.input("target", &[batch, steps, inputs], place)?;
        let (of_source, of_target) = (self.lengths(steps + 2)?, self.lengths(steps)?);
        let args = PairArgs {
            source: source.as_tensor(),
            source_lengths: of_source.as_ref(),
            target: target.as_tensor(),
            target_lengths: of_target.as_ref(),
            mode: Mode::Eval,
            form: place.form,
            attention: false,
        };
        let result = model.forward(&args)?;
        let mut out = Out::new(result.form);
        out.put(What::Output, "output", &result.output)?;
        let frozen = self.context(place).frozen(model.parameters());
        let (source_only, target_only) = (source.as_detached_tensor(), target.as_detached_tensor());
        let args = PairArgs { source: &source_only, target: &target_only, ..args };
        let inference = self.architecture.build_pair(&self.options, &frozen)?.forward(&args)?;
        out.put(What::Output, INFERENCE, &inference.output)?;
        let gradients = weighed("output", &result.output)?.backward()?;
        out.put_gradients(model.parameters(), &gradients)?;
        out.put_gradient("source", &source, &gradients)?;
        out.put_gradient("target", &target, &gradients)?;
        Ok(out.0)
    }

    fn fusion(&self, place: &Place, second_inputs: usize) -> Result<Computed> {
        let model = self.architecture.build_fusion(&self.options, &self.context(place))?;
        self.set_weights(model.parameters(), place)?;
        let Extent { batch, steps, .. } = self.extent;
        let [inputs, _] = model.input_sizes();
        let first = self.input("first", &[batch, steps, inputs], place)?;
        let second = self.input("second", &[batch, steps + 3, second_inputs], place)?;
        let lengths = [self.lengths(steps)?, self.lengths(steps + 3)?];
        let modalities = [
            Modality { input: first.as_tensor(), lengths: lengths[0].as_ref() },
            Modality { input: second.as_tensor(), lengths: lengths[1].as_ref() },
        ];
        let args = FusionArgs { form: place.form, ..FusionArgs::new(modalities) };
        let result = model.forward(&args)?;
        let mut out = Out::new(result.form);
        out.put(What::Output, "output", &result.output)?;
        let frozen = self.context(place).frozen(model.parameters());
        let inputs = [first.as_detached_tensor(), second.as_detached_tensor()];
        let modalities = [0, 1].map(|i| Modality { input: &inputs[i], ..modalities[i] });
        let args = FusionArgs { form: place.form, ..FusionArgs::new(modalities) };
        let inference = self.architecture.build_fusion(&self.options, &frozen)?.forward(&args)?;
        out.put(What::Output, INFERENCE, &inference.output)?;
        let gradients = weighed("output", &result.output)?.backward()?;
        out.put_gradients(model.parameters(), &gradients)?;
        out.put_gradient("first", &first, &gradients)?;
        out.put_gradient("second", &second, &gradients)?;
        Ok(out.0)
    }

    fn vectors(&self, place: &Place, file: &TensorFile) -> Result<Computed> {
        let probe_last = file.tensors.contains_key("grad_h");
        let request = EvalRequest {
            arch: Some(self.architecture.name().to_owned()),
            prefix: None,
            config: None,
            dtype: place.dtype,
            device: place.device.clone(),
            form: place.form,
            grad: !probe_last,
            probe_last,
        };
        let result = eval::run(&request, file, file)?;
        let mut out = Out::new(result.metadata.get("form").map_or("", String::as_str));
        for name in file.tensors.keys() {
            if let Some(what) = what(name) {
                out.put(what, name, result.get(name)?)?;
            }
        }
        Ok(out.0)
    }

    fn pair_vectors(&self, place: &Place, file: &TensorFile) -> Result<Computed> {
        let model = self.architecture.build_pair(&self.options, &self.context(place))?;
        weights::import_beside(model.parameters(), file, |_| true)?;
        let input = |name: &str| Ok::<_, Error>(Var::from_tensor(&put(file.get(name)?, place)?)?);
        let (source, target) = (input("source")?, input("target")?);
        let lengths = |name: &str, of: &Var| -> Result<Lengths> {
            let values: Vec<i64> = file.get(name)?.to_vec1()?;
            let values = values.into_iter().map(|length| usize::try_from(length).unwrap_or(0));
            Lengths::new(values.collect(), of.dim(0)?, of.dim(1)?)
        };
        let of_source = lengths("source_lengths", &source)?;
        let of_target = lengths("target_lengths", &target)?;
        let result = model.forward(&PairArgs {
            source: source.as_tensor(),
            source_lengths: Some(&of_source),
            target: target.as_tensor(),
            target_lengths: Some(&of_target),
            mode: Mode::Eval,
            form: place.form,
            attention: false,
        })?;
        let mut out = Out::new(result.form);
        out.put(What::Output, "output", &result.output)?;
        let weight = put(file.get("grad_output")?, place)?;
        let gradients = (&result.output * weight)?.sum_all()?.backward()?;
        out.put_gradient("source", &source, &gradients)?;
        out.put_gradient("target", &target, &gradients)?;
        for parameter in model.parameters().iter() {
            // The maps before the stacks are ours alone.
            if file.tensors.contains_key(&format!("grad.{}", parameter.name)) {
                out.put_gradient(&parameter.name, &parameter.var, &gradients)?;
            }
        }
        Ok(out.0)
    }
}

/// The output of the model without a graph, which keeps nothing for a way back.
const INFERENCE: &str = "output without a graph";

/// What a tensor of a file with vectors is, if it is a result.
fn what(name: &str) -> Option<What> {
    match name {
        "output" | "attn" => Some(What::Output),
        "h_n" | "c_n" => Some(What::State),
        "grad_h" => Some(What::Gradient),
        _ if name.starts_with("grad.") => Some(What::Gradient),
        _ => None,
    }
}

fn stream(purpose: &str) -> Stream {
    Stream::new(0, "parity").child(purpose)
}

fn put(tensor: &Tensor, place: &Place) -> Result<Tensor> {
    let rounded = tensor.to_dtype(place.rounded_to)?;
    Ok(rounded.to_dtype(place.dtype)?.to_device(&place.device)?)
}

/// A tensor's inner product with fixed random numbers, in f32 at least. States are weighed too: a layer's
/// gradient also comes in through them.
fn weighed(name: &str, tensor: &Tensor) -> Result<Tensor> {
    let weight = stream("loss").child(name).normal(tensor.dims(), 1.0, DType::F32, &Device::Cpu)?;
    let sums = if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let weight = weight.to_dtype(sums)?.to_device(tensor.device())?;
    Ok((tensor.to_dtype(sums)? * weight)?.sum_all()?)
}

struct Out(Computed);

impl Out {
    fn new(form: &str) -> Self {
        Self(Computed { form: form.to_owned(), tensors: Vec::new() })
    }

    fn put(&mut self, what: What, name: &str, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        self.0.tensors.push((what, name.to_owned(), tensor));
        Ok(())
    }

    /// Zeros where the loss does not depend on it.
    fn put_gradient(&mut self, name: &str, var: &Var, gradients: &GradStore) -> Result<()> {
        let name = format!("grad.{name}");
        match gradients.get(var.as_tensor()) {
            Some(gradient) => self.put(What::Gradient, &name, gradient),
            None => self.put(What::Gradient, &name, &var.as_tensor().zeros_like()?),
        }
    }

    fn put_gradients(&mut self, parameters: &ParameterSet, gradients: &GradStore) -> Result<()> {
        for parameter in parameters.iter() {
            self.put_gradient(&parameter.name, &parameter.var, gradients)?;
        }
        Ok(())
    }
}
