//! The shared trait's laws, over every registered architecture.

use candle_core::{DType, Tensor};
use unroll_core::{Form, ForwardArgs, Mode, State, Stream};

use crate::common::{
    CPU, Case, assert_close, cases, causal_cases, input, largest_difference, lengths, normal,
    values,
};

fn assert_same_state(a: &State, b: &State, what: &str) {
    assert_eq!(a.steps(), b.steps(), "{what}");
    let names = |s: &State| s.tensors().iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(names(a), names(b), "{what}");
    for (a, b) in a.tensors().iter().zip(b.tensors()) {
        assert_close(&a.tensor, &b.tensor, 1e-11, &format!("{what}: state {}", a.name));
    }
}

#[test]
fn forward_is_the_unrolled_step() {
    for (case, model) in causal_cases() {
        // More steps than the block of every kind: the default blocks are 128 queries at most.
        for (batch, seq_len) in [(2, 9), (1, 1), (1, 140)] {
            let x = input(&*model, batch, seq_len);
            let whole = model.forward(&ForwardArgs::new(&x)).unwrap();
            let args = ForwardArgs { form: Form::Unrolled, ..ForwardArgs::new(&x) };
            let steps = model.forward(&args).unwrap();
            let what = format!("{case:?}, T = {seq_len}");
            assert_close(&whole.output, &steps.output, 1e-11, &what);
            assert_same_state(&whole.state, &steps.state, &what);
            assert_eq!(steps.form, "unrolled");
            assert_eq!(whole.output.dims(), [batch, seq_len, model.output_size()], "{what}");
        }
    }
}

#[test]
fn carrying_the_state_changes_nothing() {
    for (case, model) in causal_cases() {
        let x = input(&*model, 2, 9);
        let whole = model.forward(&ForwardArgs::new(&x)).unwrap();
        for cut in [1, 4, 8] {
            let (left, right) = (x.narrow(1, 0, cut).unwrap(), x.narrow(1, cut, 9 - cut).unwrap());
            let first = model.forward(&ForwardArgs::new(&left)).unwrap();
            let args = ForwardArgs { state: Some(&first.state), ..ForwardArgs::new(&right) };
            let second = model.forward(&args).unwrap();
            let joined = Tensor::cat(&[&first.output, &second.output], 1).unwrap();
            assert_close(&whole.output, &joined, 1e-11, &format!("{case:?}, cut at {cut}"));
            assert_same_state(&whole.state, &second.state, &format!("{case:?}, cut at {cut}"));
            let last = model.forward_last(&args).unwrap();
            let expected = whole.output.narrow(1, 8, 1).unwrap().squeeze(1).unwrap();
            assert_close(&last, &expected, 1e-11, &format!("{case:?}: last, cut at {cut}"));
        }
    }
}

#[test]
fn the_zero_state_is_no_state() {
    for case in cases() {
        let model = case.build();
        let x = input(&*model, 2, 5);
        let zero = model.zero_state(2).unwrap();
        let args = ForwardArgs { state: Some(&zero), ..ForwardArgs::new(&x) };
        let with = model.forward(&args).unwrap().output;
        let without = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        assert_eq!(values(&with), values(&without), "{case:?}");
    }
}

#[test]
fn causal_outputs_ignore_later_inputs_and_others_do_not() {
    for case in cases() {
        let model = case.build();
        let (seq_len, changed) = (7, 4);
        let x = input(&*model, 1, seq_len);
        let bump = normal("bump", &[1, 1, model.input_size()])
            .pad_with_zeros(1, changed, seq_len - changed - 1)
            .unwrap();
        let before = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let after = model.forward(&ForwardArgs::new(&(&x + bump).unwrap())).unwrap().output;
        let difference = |t: usize| {
            let (a, b) = (before.narrow(1, t, 1).unwrap(), after.narrow(1, t, 1).unwrap());
            largest_difference(&a, &b)
        };
        assert!(difference(changed) > 1e-6, "{case:?}");
        for t in 0..changed {
            let moved = difference(t);
            assert!(if model.is_causal() { moved == 0.0 } else { moved > 1e-9 }, "{case:?} at {t}");
        }
    }
}

#[test]
fn costs_are_the_real_sizes() {
    for case in cases() {
        let model = case.build();
        for (batch, seq_len) in [(1, 1), (3, 5), (2, 11)] {
            let cost = case.architecture().cost(&case.options, batch, seq_len).unwrap();
            assert_eq!(cost, model.cost(batch, seq_len));
            assert_eq!(cost.parameters, model.parameters().elements() as u64, "{case:?}");
            assert_eq!(cost.backward_flops, 2 * cost.forward_flops);
            let x = input(&*model, batch, seq_len);
            let state = model.forward(&ForwardArgs::new(&x)).unwrap().state;
            assert_eq!(cost.state_elements, state.elements() as u64, "{case:?}, T = {seq_len}");
            assert!(cost.forward_flops > 0 && cost.activation_elements > 0);
        }
        for tensor in model.zero_state(2).unwrap().tensors() {
            assert_eq!(tensor.tensor.dims()[tensor.batch_axis], 2, "{case:?}");
        }
    }
}

#[test]
fn caches_hold_what_later_steps_can_see() {
    // B = 3, T = 20, H = 8 in two heads of 4.
    let options = serde_json::json!({"input_size": 2, "hidden_size": 8, "num_heads": 2});
    let elements = |case: Case| case.build().cost(3, 20).state_elements;
    let case = |name| Case::new(name, options.clone());
    assert_eq!(elements(case("mha").with("causal", true)), 2 * 3 * 20 * 8);
    assert_eq!(elements(case("mha")), 0);
    assert_eq!(elements(case("local").with("window", 6)), 2 * 3 * 5 * 8);
    assert_eq!(elements(case("local").with("window", 50)), 2 * 3 * 20 * 8);
    assert_eq!(elements(case("linear")), 3 * 2 * (4 * 4 + 4));
    assert_eq!(elements(case("transformer").with("num_layers", 3)), 3 * 2 * 3 * 20 * 8);
    let over_states = Case::new("additive", serde_json::json!({"hidden_size": 8}));
    assert_eq!(elements(over_states.with("base", "lstm")), 2 * 3 * 8 + 3 * 20 * 8);
}

#[test]
fn flops_of_one_layer_follow_the_formula() {
    // T = 8, H = 8, N = 2: one block. Projections 4 H^2 and two products of H per pair, each two
    // FLOPs, and five per score in the softmax.
    let case = Case::new("mha", serde_json::json!({"input_size": 8, "hidden_size": 8}));
    let cost = case.with("num_heads", 2).build().cost(3, 8);
    assert_eq!(cost.forward_flops, 3 * (2 * 4 * 8 * 64 + 64 * (4 * 8 + 5 * 2)));
    // A causal mask saves nearly half at length, a window nearly all.
    let flops = |name, options| Case::new(name, options).build().cost(1, 8192).forward_flops;
    let full = flops("mha", serde_json::json!({}));
    let causal = flops("mha", serde_json::json!({"causal": true}));
    let local = flops("local", serde_json::json!({"window": 64}));
    assert!(causal * 100 < full * 53 && local * 20 < full);
}

#[test]
fn attention_rows_sum_to_one_and_respect_masks() {
    for case in cases() {
        let model = case.build();
        let (seq_len, real) = (7, [7, 2, 5]);
        let x = input(&*model, 3, seq_len);
        let lengths = lengths(&real, seq_len);
        let args = ForwardArgs { lengths: Some(&lengths), attention: true, ..ForwardArgs::new(&x) };
        let attention = model.forward(&args).unwrap().attention;
        let layers = match case.name.ends_with("transformer") {
            true => case.options.get("num_layers").map_or(2, |l| l.as_u64().unwrap() as usize),
            false => 1,
        };
        assert_eq!(attention.len(), layers, "{case:?}");
        let window = match case.name.contains("local") {
            true => case.options["window"].as_u64().unwrap() as usize,
            false => usize::MAX,
        };
        // Under rotary positions linear attention's weights need not sum to 1 nor be positive.
        let signed = case.name.contains("linear")
            && case.options.get("positions").is_some_and(|p| p == "rotary");
        // `eps` in the denominator takes a little off.
        let slack = if case.name.contains("linear") { 1e-4 } else { 1e-12 };
        for weights in &attention {
            let (batch, heads, queries, keys) = weights.dims4().unwrap();
            assert_eq!((batch, queries, keys), (3, seq_len, seq_len), "{case:?}");
            let weights = values(weights);
            for (b, &real) in real.iter().enumerate() {
                for row in 0..heads * seq_len {
                    let t = row % seq_len;
                    let start = (b * heads * seq_len + row) * keys;
                    let row = &weights[start..start + keys];
                    for (s, &weight) in row.iter().enumerate() {
                        let hidden = s >= real || model.is_causal() && (s > t || t - s >= window);
                        if hidden {
                            assert_eq!(weight, 0.0, "{case:?}");
                        } else if !signed {
                            assert!(weight > 0.0, "{case:?}");
                        }
                    }
                    let total: f64 = row.iter().sum();
                    let sees_none = window != usize::MAX && t >= real + window - 1;
                    if sees_none {
                        assert_eq!(total, 0.0, "{case:?}");
                    } else if !signed {
                        assert!((total - 1.0).abs() < slack, "{case:?}: {total}");
                    }
                }
            }
        }
    }
}

#[test]
fn attention_counts_the_cached_steps() {
    for (case, model) in causal_cases().into_iter().filter(|(c, _)| !c.name.contains("linear")) {
        let x = input(&*model, 2, 9);
        let state = model.forward(&ForwardArgs::new(&x.narrow(1, 0, 5).unwrap())).unwrap().state;
        let rest = x.narrow(1, 5, 4).unwrap();
        let with = |x, state| ForwardArgs { state, attention: true, ..ForwardArgs::new(x) };
        let carried = model.forward(&with(&rest, Some(&state))).unwrap().attention;
        let whole = model.forward(&with(&x, None)).unwrap().attention;
        for (carried, whole) in carried.iter().zip(&whole) {
            let keys = carried.dim(3).unwrap();
            let part = whole.narrow(2, 5, 4).unwrap().narrow(3, 9 - keys, keys).unwrap();
            assert_close(carried, &part, 1e-12, &format!("{case:?}"));
            assert!(keys > 4 || case.name.contains("local"), "{case:?}");
        }
    }
}

#[test]
fn forward_last_is_the_last_step_of_forward() {
    for case in cases() {
        let model = case.build();
        let x = input(&*model, 3, 6);
        for real in [[6, 6, 6], [1, 6, 4], [2, 2, 2]] {
            let lengths = lengths(&real, 6);
            let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&x) };
            let output = model.forward(&args).unwrap().output;
            let last = model.forward_last(&args).unwrap();
            for (b, length) in real.into_iter().enumerate() {
                let (a, b) =
                    (last.get(b).unwrap(), output.get(b).unwrap().get(length - 1).unwrap());
                assert_close(&a, &b, 1e-12, &format!("{case:?}"));
            }
        }
    }
}

#[test]
fn a_batch_of_one_shorter_length_can_be_carried_on() {
    for (case, model) in causal_cases() {
        let x = input(&*model, 2, 9);
        let padded = Tensor::cat(
            &[x.narrow(1, 0, 4).unwrap(), normal("pad", &[2, 3, model.input_size()])],
            1,
        )
        .unwrap();
        let lengths = lengths(&[4, 4], 7);
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&padded) };
        let state = model.forward(&args).unwrap().state;
        assert_eq!(state.steps(), 4, "{case:?}");
        let rest = x.narrow(1, 4, 5).unwrap();
        let args = ForwardArgs { state: Some(&state), ..ForwardArgs::new(&rest) };
        let whole = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let carried = model.forward(&args).unwrap().output;
        assert_close(&carried, &whole.narrow(1, 4, 5).unwrap(), 1e-11, &format!("{case:?}"));
    }
}

#[test]
fn dropout_is_reproducible_and_off_in_evaluation() {
    for case in cases() {
        let options = case.architecture().options();
        for option in ["dropout", "attention_dropout"] {
            if !options.iter().any(|(doc, _)| doc.name == option) {
                continue;
            }
            let mut dropped = case.with(option, 0.5);
            if option == "dropout" {
                // Recurrent layers drop between layers only.
                dropped = dropped.with("num_layers", 2);
            }
            let model = dropped.build();
            let x = input(&*model, 2, 6);
            let run = |mode| {
                let args = ForwardArgs { mode, attention: true, ..ForwardArgs::new(&x) };
                let output = model.forward(&args).unwrap();
                let last = model.forward_last(&args).unwrap();
                let expected = output.output.narrow(1, 5, 1).unwrap().squeeze(1).unwrap();
                assert_close(&last, &expected, 1e-12, "the pooled form drops the same");
                values(&output.output)
            };
            let stream = Stream::new(1, "train");
            let (first, second) = (stream.at(1), stream.at(2));
            assert_eq!(run(Mode::Train(&first)), run(Mode::Train(&first)), "{dropped:?}");
            assert_ne!(run(Mode::Train(&first)), run(Mode::Train(&second)), "{dropped:?}");
            let without = dropped.with(option, 0.0).build();
            // Asking for weights takes the reference form, which rounds differently.
            let args = ForwardArgs { attention: true, ..ForwardArgs::new(&x) };
            let expected = values(&without.forward(&args).unwrap().output);
            assert_eq!(run(Mode::Eval), expected, "{dropped:?}");
            let args = ForwardArgs { mode: Mode::Train(&first), ..args };
            assert_eq!(values(&without.forward(&args).unwrap().output), expected);
        }
    }
}

#[test]
fn dropped_weights_keep_their_mean() {
    // With out_proj the identity and all queries zero, an output is the mean of the values; dropout
    // on the weights must leave that mean in expectation.
    let case = Case::new(
        "mha",
        serde_json::json!({
            "input_size": 1, "hidden_size": 1, "num_heads": 1, "bias": false, "attention_dropout": 0.3
        }),
    );
    let model = case.build();
    let set = |name: &str, rows: &[f64]| {
        let var = &model.parameters().iter().find(|p| p.name == name).unwrap().var;
        var.set(&Tensor::new(rows, &CPU).unwrap().reshape(var.shape()).unwrap()).unwrap();
    };
    set("in_proj_weight", &[0.0, 0.0, 1.0]);
    set("out_proj.weight", &[1.0]);
    let x = Tensor::ones((40, 50, 1), DType::F64, &CPU).unwrap();
    let stream = Stream::new(3, "train");
    let args = ForwardArgs { mode: Mode::Train(&stream), ..ForwardArgs::new(&x) };
    let output = values(&model.forward(&args).unwrap().output);
    let mean = output.iter().sum::<f64>() / output.len() as f64;
    // 100,000 draws of variance 3/7.
    assert!((mean - 1.0).abs() < 4.0 * (0.3f64 / 0.7 / 100_000.0).sqrt(), "{mean}");
}

#[test]
fn single_precision_follows_double() {
    for case in cases() {
        let (double, single) = (case.build(), case.build_as(DType::F32));
        let x = input(&*double, 2, 6);
        let expected = double.forward(&ForwardArgs::new(&x)).unwrap().output;
        let x = x.to_dtype(DType::F32).unwrap();
        let found = single.forward(&ForwardArgs::new(&x)).unwrap();
        assert_eq!(found.output.dtype(), DType::F32);
        assert_close(&found.output, &expected, 2e-4, &format!("{case:?}"));
    }
}
