//! What the integration tests share.

#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fmt;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use unroll::parity::variants;
use unroll_core::{Architecture, BuildContext, Cost, Mode, SequenceModel, Stream};
use unroll_tasks::Batch;
use unroll_train::TaskModel;

/// One configuration of one architecture.
pub struct Case {
    pub architecture: &'static dyn Architecture,
    pub options: Map<String, Value>,
    pub inputs: usize,
    /// Whether the options switch dropout on.
    pub has_dropout: bool,
    /// Parameters whose gradient is 0 by the equations (a bias that softmax cancels).
    pub zero_gradients: &'static [&'static str],
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.architecture.name(), Value::Object(self.options.clone()))
    }
}

impl Case {
    pub fn build(&self, dtype: DType) -> Box<dyn SequenceModel> {
        self.build_with_seed(dtype, 1)
    }

    pub fn build_with_seed(&self, dtype: DType, seed: u64) -> Box<dyn SequenceModel> {
        let model = self.architecture.build(&self.options, &BuildContext::cpu(dtype, seed));
        let model = model.unwrap_or_else(|error| panic!("{self}: {error}"));
        // Biases that PyTorch starts at zero would hide mistakes.
        for (index, parameter) in model.parameters().iter().enumerate() {
            let bump = random(parameter.var.dims(), 100 + index as u64 + seed);
            let bump = (bump * 0.1).unwrap().to_dtype(dtype).unwrap();
            parameter.var.set(&(parameter.var.as_tensor() + bump).unwrap()).unwrap();
        }
        model
    }

    /// The same model around the same parameters, without a graph.
    pub fn frozen(&self, model: &dyn SequenceModel) -> Box<dyn SequenceModel> {
        let context = BuildContext::cpu(model.dtype(), 0).frozen(model.parameters());
        self.architecture.build(&self.options, &context).unwrap()
    }

    pub fn cost(&self, batch: usize, seq_len: usize) -> Cost {
        self.architecture.cost(&self.options, batch, seq_len).unwrap()
    }
}

/// Every architecture with its defaults at a small size, and with the options that change its
/// equations.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for architecture in unroll::registry::architectures() {
        for options in variants::of_sequences(architecture, variants::SMALL) {
            let has_dropout = options
                .iter()
                .any(|(key, value)| key.contains("dropout") && value.as_f64() > Some(0.0));
            cases.push(Case {
                architecture,
                options,
                inputs: variants::SMALL.inputs,
                has_dropout,
                zero_gradients: &[],
            });
        }
    }
    cases
}

/// Reproducible normal numbers in f64.
pub fn random(shape: &[usize], seed: u64) -> Tensor {
    Stream::new(seed, "test").normal(shape, 1.0, DType::F64, &Device::Cpu).unwrap()
}

pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims(), "shapes differ");
    if a.elem_count() == 0 {
        return 0.0;
    }
    let to = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    (to(a) - to(b)).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

pub fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64, what: &str) {
    let difference = max_difference(a, b);
    assert!(difference <= tolerance, "{what}: differ by {difference:e}");
}

/// Norm of the difference over the norm of what is expected.
pub fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims(), "shapes differ");
    let to = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
    let norm = |t: &Tensor| -> f64 {
        t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    norm(&(to(found) - to(expected)).unwrap()) / norm(&to(expected)).max(f64::MIN_POSITIVE)
}

/// The PyTorch reference vectors.
pub fn vectors() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// A model in f64 gives the same bits for inference, and records nothing.
pub fn assert_inference_records_nothing(model: &TaskModel, batch: &Batch, what: &str) {
    let batch = model.tensors(batch).unwrap();
    let with = model.forward(&batch, Mode::Eval).unwrap();
    let without = model.for_inference().forward(&batch, Mode::Eval).unwrap();
    assert!(with.track_op() && !without.track_op(), "{what}");
    let bits = |answers: &Tensor| answers.to_vec2::<f64>().unwrap();
    assert_eq!(bits(&with), bits(&without), "{what}");
}
