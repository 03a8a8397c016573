//! `unroll eval`: one model with given weights on given inputs, for other programs to compare with.
//!
//! Files are safetensors under PyTorch's names. See [`run`] for what is read and written.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use serde_json::{Map, Value};
use unroll_core::architecture::LARGEST_SIZE;
use unroll_core::model::last_step;
use unroll_core::weights::{self, TensorFile};
use unroll_core::{
    BuildContext, Error, Form, ForwardArgs, Init, Lengths, Probe, Result, SequenceModel, State,
    StateTensor, Stream, memory,
};

use crate::experiment::plan::nearest;
use crate::registry;

/// What to compute.
#[derive(Debug, Clone)]
pub struct EvalRequest {
    /// Registry name; `None` takes the weights file's `arch` metadata.
    pub arch: Option<String>,
    /// What stands before the parameters' names in the file; `None` takes its `prefix` metadata, if it has some.
    pub prefix: Option<String>,
    /// Options of the architecture; `None` takes the weights file's `config` metadata.
    pub config: Option<Map<String, Value>>,
    /// Element type of the computation.
    pub dtype: DType,
    /// Where to compute.
    pub device: Device,
    /// The implementation.
    pub form: Form,
    /// Whether to write gradients of `sum(output * grad_output)`.
    pub grad: bool,
    /// Whether to write `grad_h` of the loss `0.5 * sum(h_T^2)` instead.
    pub probe_last: bool,
}

/// Reads parameters from `weights`, and `x`, `h0`, `c0`, `lengths`, `grad_output` from `input`; gives
/// `output`, `h_n`, `c_n`, `attn`, and the gradients asked for as `grad.<name>`.
///
/// # Errors
/// When a tensor is missing, has a wrong shape or holds NaN, when there are weights that the model does not
/// have, and when the options do not fit.
pub fn run(request: &EvalRequest, weights: &TensorFile, input: &TensorFile) -> Result<TensorFile> {
    let arch = request.arch.as_ref().or_else(|| weights.metadata.get("arch"));
    let arch = arch.ok_or_else(|| {
        Error::option("arch", "give --arch: the weights file has no `arch` metadata")
    })?;
    let architecture = registry::find(arch).ok_or_else(|| {
        let help = nearest(arch, &registry::names());
        Error::option("arch", format!("there is no architecture `{arch}`: {help}"))
    })?;
    let under = under(request, weights)?;
    let weights = under.as_ref().unwrap_or(weights);
    let place = |tensor: &Tensor| -> Result<Tensor> {
        Ok(tensor.to_dtype(request.dtype)?.to_device(&request.device)?)
    };
    let x = input.get("x")?;
    weights::check_finite("x", x)?;
    let (batch, seq_len, features) =
        x.dims3().map_err(|_| Error::shape("x", x.dims(), "(batch, time, features)"))?;
    let options = options(request, architecture, weights, features)?;
    let stream = Stream::new(0, "eval");
    let context = BuildContext::new(request.dtype, &request.device, Init::default(), stream);
    let model = architecture.build(&options, &context).map_err(|error| match error {
        Error::UnknownOption { option, known, .. } => {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let help = nearest(&option, &known);
            Error::option("config", format!("`{arch}` has no option `{option}`: {help}"))
        }
        other => other,
    })?;
    let outputs =
        memory::product(&[batch, seq_len, model.output_size(), request.dtype.size_in_bytes()]);
    memory::require(format!("the output of {batch} sequences of {seq_len} steps"), outputs)?;
    let stems: Vec<String> = model.parameters().iter().map(|p| stem(&p.name)).collect();
    weights::import_beside(model.parameters(), weights, |name| {
        !is_parameter(name) && !stems.contains(&stem(name))
    })
    .map_err(|error| match error {
        Error::Prefixed { name, prefix } => Error::option(
            "prefix",
            format!(
                "the file holds `{prefix}{name}` in the place of `{name}`: give --prefix {prefix}"
            ),
        ),
        other => other,
    })?;

    let x = Var::from_tensor(&place(x)?)?;
    let lengths = match input.tensors.get("lengths") {
        Some(lengths) => {
            let lengths = whole_lengths(lengths)?;
            Some(Lengths::new(lengths, batch, seq_len)?)
        }
        None => None,
    };
    let initial = initial_state(model.as_ref(), input, batch, &place)?;
    let probe = if request.probe_last {
        let layout = model.probe_layout();
        if layout.hidden == 0 {
            return Err(Error::Unsupported(format!(
                "architecture `{arch}` has no recurrent hidden states to probe"
            )));
        }
        Some(layout.zeros(batch, seq_len, request.dtype, &request.device)?)
    } else {
        None
    };
    let args = ForwardArgs {
        lengths: lengths.as_ref(),
        state: initial.as_ref().map(|(state, _)| state),
        probe: probe.as_ref(),
        form: request.form,
        attention: true,
        ..ForwardArgs::new(x.as_tensor())
    };
    let result = model.forward(&args)?;

    let mut out = BTreeMap::new();
    let mut put = |name: String, tensor: &Tensor| -> Result<()> {
        out.insert(name, tensor.detach().to_device(&Device::Cpu)?.contiguous()?);
        Ok(())
    };
    put("output".into(), &result.output)?;
    for tensor in result.state.tensors() {
        put(format!("{}_n", tensor.name), &tensor.tensor)?;
    }
    for (layer, attention) in result.attention.iter().enumerate() {
        let name = if layer == 0 { "attn".to_owned() } else { format!("attn.{layer}") };
        put(name, attention)?;
    }
    if let Some(probe) = &probe {
        let last = last_step(&result.output, lengths.as_ref())?;
        let grads = (last.sqr()?.sum_all()? * 0.5)?.backward()?;
        put_probe(&mut put, probe, &grads)?;
    }
    if request.grad {
        let weight = input.get("grad_output")?;
        weights::check_finite("grad_output", weight)?;
        if weight.dims() != result.output.dims() {
            let expected = format!("{:?}, as the output", result.output.dims());
            return Err(Error::shape("grad_output", weight.dims(), expected));
        }
        let grads = (&result.output * place(weight)?)?.sum_all()?.backward()?;
        let mut put_grad = |name: &str, var: &Var| -> Result<()> {
            let grad = gradient(&grads, var)?;
            put(format!("grad.{name}"), &grad)
        };
        for parameter in model.parameters().iter() {
            put_grad(&parameter.name, &parameter.var)?;
        }
        put_grad("x", &x)?;
        for (name, var) in initial.iter().flat_map(|(_, vars)| vars) {
            put_grad(name, var)?;
        }
    }
    let metadata = [
        ("arch".to_owned(), arch.clone()),
        ("config".to_owned(), Value::Object(options).to_string()),
        ("form".to_owned(), result.form.to_owned()),
    ];
    Ok(TensorFile { tensors: out, metadata: metadata.into() })
}

/// The part of a file that is the layer's, where its names have something before them; `None` where not.
fn under(request: &EvalRequest, weights: &TensorFile) -> Result<Option<TensorFile>> {
    let prefix = request.prefix.as_ref().or_else(|| weights.metadata.get("prefix"));
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Ok(None) };
    let under = weights.under(prefix);
    if under.tensors.is_empty() {
        let names: Vec<&str> = weights.tensors.keys().map(String::as_str).collect();
        let message =
            format!("no tensor's name begins with `{prefix}`; there are: {}", names.join(", "));
        return Err(Error::option("prefix", message));
    }
    Ok(Some(under))
}

/// Whether a name is a layer's parameter in PyTorch. A file may hold inputs, expected outputs and gradients
/// beside its weights, but weights that the model does not read would give other outputs than their
/// model's without a word.
fn is_parameter(name: &str) -> bool {
    const PROJECTIONS: [&str; 4] =
        ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"];
    let recurrent = name.starts_with("weight_") || name.starts_with("bias_");
    PROJECTIONS.contains(&name) || recurrent && !name.contains("grad")
}

/// A parameter's name without numbers: the same in every layer.
fn stem(name: &str) -> String {
    name.chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Lengths as a file has them, in any type.
fn whole_lengths(lengths: &Tensor) -> Result<Vec<usize>> {
    let values: Vec<f64> = lengths.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    values
        .into_iter()
        .map(|value| {
            if value.fract() == 0.0 && (0.0..=LARGEST_SIZE as f64).contains(&value) {
                return Ok(value as usize);
            }
            let message = format!("a length is a whole number of steps, not {value}");
            Err(Error::option("lengths", message))
        })
        .collect()
}

/// The gradient of a variable; zeros when the loss does not depend on it.
fn gradient(grads: &GradStore, var: &Var) -> Result<Tensor> {
    match grads.get(var.as_tensor()) {
        Some(grad) => Ok(grad.clone()),
        None => Ok(var.as_tensor().zeros_like()?),
    }
}

/// Writes `grad_h` (and `grad_c`) of the topmost layer, and `grad_h.<index>` of the others in
/// PyTorch's order of layers and directions.
fn put_probe(
    put: &mut impl FnMut(String, &Tensor) -> Result<()>,
    probe: &Probe,
    grads: &GradStore,
) -> Result<()> {
    for (name, vars) in [("grad_h", &probe.hidden), ("grad_c", &probe.cell)] {
        for (index, var) in vars.iter().enumerate() {
            let top = index + 1 == vars.len();
            let name = if top { name.to_owned() } else { format!("{name}.{index}") };
            put(name, &gradient(grads, var)?)?;
        }
    }
    Ok(())
}

/// The initial state from `h0`, `c0`, ... and the variables behind it; `None` when the input has none.
type InitialState = Option<(State, Vec<(String, Var)>)>;

fn initial_state(
    model: &dyn SequenceModel,
    input: &TensorFile,
    batch: usize,
    place: &impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<InitialState> {
    let zero = model.zero_state(batch)?;
    let mut vars = Vec::new();
    let mut tensors = Vec::new();
    for tensor in zero.tensors() {
        let name = format!("{}0", tensor.name);
        let Some(given) = input.tensors.get(&name) else {
            tensors.push(tensor.clone());
            continue;
        };
        weights::check_finite(&name, given)?;
        if given.dims() != tensor.tensor.dims() {
            return Err(Error::shape(name, given.dims(), format!("{:?}", tensor.tensor.dims())));
        }
        let var = Var::from_tensor(&place(given)?)?;
        tensors.push(StateTensor { tensor: var.as_tensor().clone(), ..tensor.clone() });
        vars.push((name, var));
    }
    Ok((!vars.is_empty()).then(|| (State::new(tensors, 0), vars)))
}

/// Keys that describe how a file was made and configure nothing.
const DESCRIPTIVE: [&str; 4] = ["arch", "batch", "seq_len", "loss"];

/// The architecture's options from the request or the file's metadata.
fn options(
    request: &EvalRequest,
    architecture: &dyn unroll_core::Architecture,
    weights: &TensorFile,
    features: usize,
) -> Result<Map<String, Value>> {
    let mut options = match (&request.config, weights.metadata.get("config")) {
        (Some(config), _) => config.clone(),
        (None, Some(text)) => match serde_json::from_str(text) {
            Ok(Value::Object(map)) => map,
            _ => {
                return Err(Error::option(
                    "config",
                    "the weights file's metadata is not a JSON object",
                ));
            }
        },
        (None, None) => {
            return Err(Error::option(
                "config",
                "give --config: the weights file has no `config` metadata",
            ));
        }
    };
    if let Some(Value::String(arch)) = options.get("arch")
        && arch != architecture.name()
    {
        let asked = architecture.name();
        return Err(Error::option(
            "arch",
            format!("the configuration is of `{arch}`, but `{asked}` was asked for"),
        ));
    }
    options.retain(|key, _| !DESCRIPTIVE.contains(&key.as_str()));
    // PyTorch's multi-head attention has one size for all.
    if let Some(size) = options.remove("embed_dim") {
        options.insert("input_size".into(), size.clone());
        options.insert("hidden_size".into(), size);
    }
    // Gated cells have no choice here: a configuration may still state the fact.
    let known = architecture.options();
    if !known.iter().any(|(doc, _)| doc.name == "nonlinearity")
        && options.get("nonlinearity").is_some_and(|value| value == "tanh")
    {
        options.remove("nonlinearity");
    }
    options.entry("input_size").or_insert_with(|| features.into());
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_whole_numbers() {
        let of = |values: &[f32]| whole_lengths(&Tensor::new(values, &Device::Cpu).unwrap());
        assert_eq!(of(&[3.0, 0.0]).unwrap(), [3, 0]);
        for wrong in [6.5, -1.0, f32::NAN, f32::INFINITY] {
            let error = of(&[3.0, wrong]).unwrap_err().to_string();
            assert!(error.contains("whole number of steps"), "{wrong}: {error}");
        }
    }
}
