//! Models, inputs and comparisons for the tests.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Map, Value, json};
use unroll_attention::ARCHITECTURES;
use unroll_core::{Architecture, BuildContext, Lengths, SequenceModel, Stream};

pub(crate) const CPU: Device = Device::Cpu;

/// An architecture with options.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) options: Map<String, Value>,
}

impl Case {
    pub(crate) fn new(name: &'static str, options: Value) -> Self {
        let Value::Object(options) = options else { panic!("{options} is not an object") };
        Self { name, options }
    }

    /// The same with one more option.
    pub(crate) fn with(&self, key: &str, value: impl Into<Value>) -> Self {
        let mut case = self.clone();
        case.options.insert(key.into(), value.into());
        case
    }

    pub(crate) fn architecture(&self) -> &'static dyn Architecture {
        *ARCHITECTURES.iter().find(|a| a.name() == self.name).unwrap()
    }

    /// The model in `dtype`, with every parameter drawn from a normal distribution: biases and
    /// norms that start at 0 or 1 would hide mistakes.
    pub(crate) fn build_as(&self, dtype: DType) -> Box<dyn SequenceModel> {
        let context = BuildContext::cpu(dtype, 11);
        let model = self
            .architecture()
            .build(&self.options, &context)
            .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        for parameter in model.parameters().iter() {
            let stream = Stream::new(5, format!("test/{}", parameter.name));
            let value = stream.normal(parameter.var.shape(), 0.4, dtype, &CPU).unwrap();
            parameter.var.set(&value).unwrap();
        }
        model
    }

    pub(crate) fn build(&self) -> Box<dyn SequenceModel> {
        self.build_as(DType::F64)
    }
}

/// Every registered architecture, small, with the options that change its computation.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ARCHITECTURES
        .iter()
        .map(|a| Case::new(a.name(), json!({"input_size": 3, "hidden_size": 8})))
        .map(|case| match case.architecture().options().iter().any(|o| o.0.name == "num_heads") {
            true => case.with("num_heads", 2),
            false => case,
        })
        .map(|case| match case.architecture().options().iter().any(|o| o.0.name == "window") {
            true => case.with("window", 3),
            false => case,
        })
        .collect();
    let case = |name| cases.iter().find(|c: &&Case| c.name == name).unwrap().clone();
    let mut more = vec![
        case("mha").with("causal", true),
        case("mha").with("causal", true).with("input_size", 8).with("bias", false),
        case("local").with("window", 1),
        case("linear").with("causal", false),
        case("transformer").with("causal", false),
        case("local_transformer").with("positions", "rotary"),
        case("additive").with("query", "current").with("combine", "context"),
        case("additive").with("base", "rnn").with("num_layers", 2),
        case("additive").with("causal", false),
        case("additive_scalar").with("base", "lstm").with("causal", false),
        case("luong_general").with("base", "lstm").with("combine", "context"),
        case("recurrent_mha").with("causal", false),
        case("recurrent_linear").with("causal", false),
        case("recurrent_local").with("window", 1),
    ];
    for positions in ["none", "learned", "rotary"] {
        more.push(case("transformer").with("positions", positions).with("num_layers", 3));
        more.push(case("linear_transformer").with("positions", positions).with("mlp_ratio", 2));
    }
    cases.append(&mut more);
    cases
}

pub(crate) fn causal_cases() -> Vec<(Case, Box<dyn SequenceModel>)> {
    let built = cases().into_iter().map(|case| (case.clone(), case.build()));
    built.filter(|(_, model)| model.is_causal()).collect()
}

pub(crate) fn normal(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(7, name).normal(shape, 1.0, DType::F64, &CPU).unwrap()
}

pub(crate) fn input(model: &dyn SequenceModel, batch: usize, seq_len: usize) -> Tensor {
    normal("input", &[batch, seq_len, model.input_size()])
}

pub(crate) fn lengths(values: &[usize], seq_len: usize) -> Lengths {
    Lengths::new(values.to_vec(), values.len(), seq_len).unwrap()
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest distance between two lists of equal length; infinite if one holds a NaN.
pub(crate) fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |worst, x| {
        // `max` would drop a NaN.
        if x.is_nan() { f64::INFINITY } else { worst.max(x) }
    })
}

pub(crate) fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    worst(&values(a), &values(b))
}

#[track_caller]
pub(crate) fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64, what: &str) {
    let difference = largest_difference(a, b);
    assert!(difference <= tolerance, "{what}: differs by {difference:e}, over {tolerance:e}");
}

/// Gradients of `sum(output * weights)`.
pub(crate) fn gradients(output: &Tensor, weights: &Tensor) -> GradStore {
    (output * weights).unwrap().sum_all().unwrap().backward().unwrap()
}

/// The gradient of a variable; zeros when the loss does not depend on it.
pub(crate) fn gradient(store: &GradStore, var: &Var) -> Tensor {
    match store.get(var.as_tensor()) {
        Some(gradient) => gradient.clone(),
        None => var.zeros_like().unwrap(),
    }
}
