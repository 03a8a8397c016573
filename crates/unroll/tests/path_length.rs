//! The path length that an architecture states, against the gradients that it has.
//!
//! In f64, at distances where no gradient underflows: it is exactly 0 where there is no way.

mod common;

use candle_core::{DType, Var};
use common::random;
use serde_json::{Map, Value, json};
use unroll_core::model::last_step;
use unroll_core::{Architecture, BuildContext, ForwardArgs, SequenceModel};

const STEPS: usize = 13;

/// Every architecture with 1 and 3 layers and with windows, where it has them.
fn models() -> Vec<(String, &'static dyn Architecture, Map<String, Value>)> {
    let mut all = Vec::new();
    for architecture in unroll::registry::architectures() {
        let known = |name: &str| architecture.options().iter().any(|(doc, _)| doc.name == name);
        let choices = |name: &str, values: &[Value]| {
            if known(name) { values.to_vec() } else { vec![Value::Null] }
        };
        for layers in choices("num_layers", &[json!(1), json!(3)]) {
            for window in choices("window", &[1, 2, 3, 4, 6, 20].map(|w| json!(w))) {
                for causal in choices("causal", &[json!(true), json!(false)]) {
                    for both in choices("bidirectional", &[json!(false), json!(true)]) {
                        let mut options = Map::new();
                        options.insert("input_size".into(), json!(3));
                        options.insert("hidden_size".into(), json!(4));
                        for (name, value) in [
                            ("num_layers", &layers),
                            ("window", &window),
                            ("causal", &causal),
                            ("bidirectional", &both),
                            ("num_heads", &json!(2)),
                        ] {
                            if known(name) && !value.is_null() {
                                options.insert(name.into(), value.clone());
                            }
                        }
                        let name = architecture.name();
                        let what = format!("{name} {}", Value::Object(options.clone()));
                        all.push((what, architecture, options));
                    }
                }
            }
        }
    }
    all
}

fn build(architecture: &dyn Architecture, options: &Map<String, Value>) -> Box<dyn SequenceModel> {
    architecture.build(options, &BuildContext::cpu(DType::F64, 2)).unwrap()
}

/// For each distance, whether the gradient of a loss at the last output is not exactly 0 there.
fn reached(model: &dyn SequenceModel) -> Vec<bool> {
    let x = Var::from_tensor(&random(&[1, STEPS, 3], 41)).unwrap();
    let output = model.forward(&ForwardArgs::new(x.as_tensor())).unwrap().output;
    let last = last_step(&output, None).unwrap();
    let loss = (last * random(&[1, model.output_size()], 42)).unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let dx: Vec<Vec<Vec<f64>>> = gradients.get(x.as_tensor()).unwrap().to_vec3().unwrap();
    dx[0].iter().rev().map(|step| step.iter().any(|&value| value != 0.0)).collect()
}

#[test]
fn there_is_a_way_exactly_where_there_is_a_gradient() {
    let mut cut_off = 0;
    for (what, architecture, options) in models() {
        let model = build(architecture, &options);
        let reached = reached(model.as_ref());
        assert_eq!(model.path_length(0), Some(0), "{what}");
        let mut longest = 0;
        for (distance, &reached) in reached.iter().enumerate() {
            let length = model.path_length(distance);
            assert_eq!(length.is_some(), reached, "{what} at distance {distance}");
            cut_off += usize::from(length.is_none());
            if let Some(length) = length {
                assert!(length <= distance, "{what}: {length} hops over {distance} steps");
                assert!(length > 0 || distance == 0, "{what} at distance {distance}");
                assert!(length >= longest, "{what}: shorter from further away");
                longest = length;
            }
        }
    }
    assert!(cut_off > 50, "windows cut {cut_off} ways");
}

/// A way of `n` hops through windows exists with `n` blocks and not with one fewer.
#[test]
fn hops_are_the_blocks_that_are_needed() {
    for (what, architecture, mut options) in models() {
        if architecture.name() != "local_transformer" || options["num_layers"] != 3 {
            continue;
        }
        let by_blocks: Vec<Vec<bool>> = (1..=3)
            .map(|blocks| {
                options.insert("num_layers".into(), json!(blocks));
                reached(build(architecture, &options).as_ref())
            })
            .collect();
        options.insert("num_layers".into(), json!(3));
        let model = build(architecture, &options);
        for distance in 1..STEPS {
            let needed = by_blocks.iter().position(|reached| reached[distance]).map(|i| i + 1);
            assert_eq!(model.path_length(distance), needed, "{what} at distance {distance}");
        }
    }
}

#[test]
fn lengths_of_known_ways() {
    let at = |name: &str, options: Value, distances: [usize; 4]| {
        let Value::Object(options) = options else { unreachable!("an object") };
        let model = build(unroll::registry::find(name).unwrap(), &options);
        distances.map(|distance| model.path_length(distance))
    };
    let far = usize::MAX;
    for name in ["rnn", "gru", "lstm"] {
        let found = at(name, json!({"num_layers": 3}), [0, 1, 9, far]);
        assert_eq!(found, [Some(0), Some(1), Some(9), Some(far)], "{name}");
    }
    for name in ["mha", "linear", "transformer", "linear_transformer", "additive", "luong_dot"] {
        let found = at(name, json!({}), [0, 1, 9, far]);
        assert_eq!(found, [Some(0), Some(1), Some(1), Some(1)], "{name}");
    }
    let found = at("local", json!({"window": 32}), [0, 31, 32, far]);
    assert_eq!(found, [Some(0), Some(1), None, None]);
    let found = at("local_transformer", json!({"window": 32, "num_layers": 3}), [31, 32, 93, 94]);
    assert_eq!(found, [Some(1), Some(2), Some(3), None]);
    let found = at("recurrent_local", json!({"window": 32}), [1, 31, 32, 100]);
    assert_eq!(found, [Some(1), Some(1), Some(2), Some(70)]);
    let found = at("recurrent_local", json!({"window": 1}), [0, 1, 31, 100]);
    assert_eq!(found, [Some(0), Some(1), Some(31), Some(100)]);
    let found = at("recurrent_local", json!({"window": 2}), [0, 1, 2, far]);
    assert_eq!(found, [Some(0), Some(1), Some(2), Some(far)]);
}
