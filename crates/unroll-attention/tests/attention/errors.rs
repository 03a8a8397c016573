//! What cannot be done says so.

use candle_core::Tensor;
use serde_json::json;
use unroll_core::{BuildContext, Error, ForwardArgs};

use crate::common::{CPU, Case, cases, causal_cases, input, lengths};

#[test]
fn a_ragged_state_is_refused_or_right() {
    let mut allowed = Vec::new();
    for (case, model) in causal_cases() {
        let x = input(&*model, 2, 5);
        let lengths = lengths(&[5, 2], 5);
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&x) };
        let state = model.forward(&args).unwrap().state;
        let more = input(&*model, 2, 3);
        let args = ForwardArgs { state: Some(&state), ..ForwardArgs::new(&more) };
        let step = model.step(&more.get_on_dim(1, 0).unwrap(), &state);
        match model.forward(&args) {
            Err(Error::Unsupported(message)) => {
                assert!(message.contains("different lengths"));
                assert!(matches!(step, Err(Error::Unsupported(_))), "{case:?}");
                assert!(matches!(model.forward_last(&args), Err(Error::Unsupported(_))));
            }
            Err(other) => panic!("{case:?}: {other}"),
            Ok(found) => {
                // The short sequence alone, carried on.
                let row = |t: &Tensor, len| t.narrow(0, 1, 1).unwrap().narrow(1, 0, len).unwrap();
                let both = Tensor::cat(&[row(&x, 2), row(&more, 3)], 1).unwrap();
                let alone = model.forward(&ForwardArgs::new(&both)).unwrap().output;
                crate::common::assert_close(
                    &row(&found.output, 3),
                    &alone.narrow(1, 2, 3).unwrap(),
                    1e-11,
                    &format!("{case:?}"),
                );
                allowed.push(case.name);
            }
        }
    }
    assert_eq!(allowed, ["linear", "recurrent_linear", "linear_transformer"]);
}

#[test]
fn models_that_see_the_future_do_not_step() {
    let mut seen = 0;
    for case in cases() {
        let model = case.build();
        if model.is_causal() {
            continue;
        }
        seen += 1;
        let x = input(&*model, 2, 3);
        let state = model.forward(&ForwardArgs::new(&x)).unwrap().state;
        assert_eq!(state.elements(), 0);
        let step = model.step(&x.get_on_dim(1, 0).unwrap(), &model.zero_state(2).unwrap());
        assert!(matches!(step, Err(Error::Unsupported(_))), "{case:?}");
        let args = ForwardArgs { state: Some(&state), ..ForwardArgs::new(&x) };
        assert!(matches!(model.forward(&args), Err(Error::Unsupported(_))), "{case:?}");
    }
    assert!(seen >= 6);
}

#[test]
fn learned_positions_end() {
    let case = Case::new(
        "transformer",
        json!({"hidden_size": 4, "positions": "learned", "max_length": 4}),
    );
    let model = case.build();
    let x = input(&*model, 1, 4);
    let state = model.forward(&ForwardArgs::new(&x)).unwrap().state;
    let next = model.step(&x.get_on_dim(1, 0).unwrap(), &state);
    match next {
        Err(Error::Option { option, message }) => {
            assert_eq!(option, "max_length");
            assert!(message.contains('4') && message.contains('5'), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_options_are_named() {
    let refused = |name: &'static str, options: serde_json::Value, expected: &str| {
        let case = Case::new(name, options);
        let context = BuildContext::cpu(candle_core::DType::F64, 0);
        match case.architecture().build(&case.options, &context).map(|_| ()) {
            Err(Error::Option { option, .. }) | Err(Error::UnknownOption { option, .. }) => {
                assert_eq!(option, expected);
            }
            other => panic!("{case:?}: {other:?}"),
        }
    };
    refused("mha", json!({"hidden_size": 10, "num_heads": 4}), "num_heads");
    refused("mha", json!({"num_heads": 0}), "num_heads");
    refused("mha", json!({"window": 3}), "window");
    refused("mha", json!({"kind": "linear"}), "kind");
    refused("local", json!({"window": 0}), "window");
    refused("local", json!({"causal": false}), "causal");
    refused("linear", json!({"attention_dropout": 0.1}), "attention_dropout");
    refused("mha", json!({"attention_dropout": 1.0}), "attention_dropout");
    refused("transformer", json!({"positions": "absolute"}), "positions");
    refused(
        "transformer",
        json!({"positions": "rotary", "hidden_size": 6, "num_heads": 2}),
        "positions",
    );
    refused("transformer", json!({"positions": "learned", "max_length": 0}), "max_length");
    refused("additive", json!({"base": "mamba"}), "base");
    refused("luong_dot", json!({"query": "previous"}), "query");
    refused("recurrent_mha", json!({"hidden_size": 10, "num_heads": 4}), "num_heads");
}

#[test]
fn a_wrong_state_or_input_is_an_error() {
    let other = Case::new("linear", json!({})).build().zero_state(2).unwrap();
    for (case, model) in causal_cases() {
        let x = input(&*model, 3, 4);
        let state = model.forward(&ForwardArgs::new(&x)).unwrap().state;
        let two = input(&*model, 2, 4);
        for state in [&state, &other] {
            let args = ForwardArgs { state: Some(state), ..ForwardArgs::new(&two) };
            assert!(model.forward(&args).is_err(), "{case:?}");
        }
        let wide = Tensor::cat(&[&x, &x], 2).unwrap();
        assert!(matches!(model.forward(&ForwardArgs::new(&wide)), Err(Error::Shape { .. })));
        let none = Tensor::zeros((2, 0, model.input_size()), model.dtype(), &CPU).unwrap();
        assert!(model.forward(&ForwardArgs::new(&none)).is_err());
    }
}
