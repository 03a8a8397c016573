//! Gates that a forward pass returns, against the equations computed by hand from the weights, over every
//! registered architecture that has recurrent layers.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Case, assert_close, cases, max_difference, random};
use unroll_core::{
    Direction, Error, Form, ForwardArgs, Gate, GateName, Keeps, Lengths, SequenceModel,
};

const BATCH: usize = 3;
const STEPS: usize = 7;

/// Numbers of one sequence: a vector for each step.
type Steps = Vec<Vec<f64>>;

/// Gates of one sequence: each a vector for each step, in the order of the weights.
type Gates = Vec<Steps>;

fn input(case: &Case) -> Tensor {
    random(&[BATCH, STEPS, case.inputs], 31)
}

fn ask<'a>(x: &'a Tensor, lengths: Option<&'a Lengths>, form: Form) -> ForwardArgs<'a> {
    ForwardArgs { gates: true, lengths, form, ..ForwardArgs::new(x) }
}

/// The recurrent layers of a case: `rnn`, `gru`, `lstm`, or none.
fn cell_of(case: &Case) -> &str {
    match case.architecture.name() {
        name @ ("rnn" | "gru" | "lstm") => name,
        _ if case.architecture.options().iter().any(|(doc, _)| doc.name == "base") => {
            case.options.get("base").map_or("gru", |base| base.as_str().unwrap())
        }
        _ => "none",
    }
}

fn option<'a>(case: &'a Case, name: &str) -> Option<&'a str> {
    case.options.get(name).and_then(|value| value.as_str())
}

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A matrix times a vector, and a bias; rows `from..from + rows`.
fn rows(weight: &[Vec<f64>], bias: &[f64], from: usize, count: usize, x: &[f64]) -> Vec<f64> {
    let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    (from..from + count).map(|row| dot(&weight[row]) + bias[row]).collect()
}

/// One layer in one direction over one sequence in the order in which it reads it.
fn layer_by_hand(
    case: &Case,
    model: &dyn SequenceModel,
    suffix: &str,
    x: &Steps,
) -> (Steps, Gates) {
    let prefix = if model.parameters().get("weight_ih_l0").is_ok() { "" } else { "base." };
    let get = |name: &str| model.parameters().get(&format!("{prefix}{name}_l{suffix}"));
    let matrix = |name: &str| -> Vec<Vec<f64>> { get(name).unwrap().to_vec2().unwrap() };
    let (w, u) = (matrix("weight_ih"), matrix("weight_hh"));
    let bias = |name: &str| -> Vec<f64> {
        get(name).map_or(vec![0.0; w.len()], |bias| bias.to_vec1().unwrap())
    };
    let (b, c) = (bias("bias_ih"), bias("bias_hh"));
    let size = u[0].len();
    let (mut h, mut cell) = (vec![0.0; size], vec![0.0; size]);
    let (mut outputs, mut gates) = (Steps::new(), Gates::new());
    for x in x {
        let sum = |gate: usize, h: &[f64]| -> Vec<f64> {
            let new = rows(&w, &b, gate * size, size, x);
            let old = rows(&u, &c, gate * size, size, h);
            new.iter().zip(old).map(|(a, b)| a + b).collect()
        };
        let squash = |x: Vec<f64>, f: fn(f64) -> f64| x.into_iter().map(f).collect::<Vec<f64>>();
        let now: Vec<Vec<f64>>;
        match cell_of(case) {
            "lstm" => {
                now = vec![
                    squash(sum(0, &h), sigma),
                    squash(sum(1, &h), sigma),
                    squash(sum(2, &h), f64::tanh),
                    squash(sum(3, &h), sigma),
                ];
                for j in 0..size {
                    cell[j] = now[1][j] * cell[j] + now[0][j] * now[2][j];
                    h[j] = now[3][j] * cell[j].tanh();
                }
            }
            "gru" => {
                let (r, z) = (squash(sum(0, &h), sigma), squash(sum(1, &h), sigma));
                let new = rows(&w, &b, 2 * size, size, x);
                let n: Vec<f64> = if option(case, "reset") == Some("before") {
                    let seen: Vec<f64> = r.iter().zip(&h).map(|(r, h)| r * h).collect();
                    let old = rows(&u, &c, 2 * size, size, &seen);
                    new.iter().zip(old).map(|(a, b)| (a + b).tanh()).collect()
                } else {
                    let old = rows(&u, &c, 2 * size, size, &h);
                    (0..size).map(|j| (new[j] + r[j] * old[j]).tanh()).collect()
                };
                for j in 0..size {
                    let keep = if option(case, "update_gate") == Some("take_new") {
                        1.0 - z[j]
                    } else {
                        z[j]
                    };
                    h[j] = (1.0 - keep) * n[j] + keep * h[j];
                }
                now = vec![r, z, n];
            }
            other => panic!("{other} has no gates"),
        }
        gates.resize(now.len(), Steps::new());
        gates.iter_mut().zip(now).for_each(|(all, one)| all.push(one));
        outputs.push(h.clone());
    }
    (outputs, gates)
}

/// All layers and directions over one sequence: their gates in the order of the forward pass.
fn by_hand(case: &Case, model: &dyn SequenceModel, x: &Steps) -> Vec<Gates> {
    let layers = case.options.get("num_layers").map_or(1, |l| l.as_u64().unwrap());
    let both = case.options.get("bidirectional").is_some_and(|b| b.as_bool().unwrap());
    let mut below = x.clone();
    let mut all = Vec::new();
    for layer in 0..layers {
        let (mut outputs, gates) = layer_by_hand(case, model, &layer.to_string(), &below);
        all.push(gates);
        if both {
            let reversed = below.iter().rev().cloned().collect();
            let suffix = format!("{layer}_reverse");
            let (back, mut gates) = layer_by_hand(case, model, &suffix, &reversed);
            gates.iter_mut().for_each(|steps| steps.reverse());
            all.push(gates);
            for (output, back) in outputs.iter_mut().zip(back.iter().rev()) {
                output.extend(back);
            }
        }
        below = outputs;
    }
    all
}

/// Names and places of the gates that a case must have, in order.
fn expected(case: &Case) -> Vec<(usize, Direction, GateName, Option<Keeps>)> {
    use GateName::{Candidate, Forget, Input, Output, Reset, Update};
    let update = if option(case, "update_gate") == Some("take_new") {
        Keeps::WhenClosed
    } else {
        Keeps::WhenOpen
    };
    let names: &[(GateName, Option<Keeps>)] = match cell_of(case) {
        "lstm" => {
            &[(Input, None), (Forget, Some(Keeps::WhenOpen)), (Candidate, None), (Output, None)]
        }
        "gru" => &[(Reset, None), (Update, Some(update)), (Candidate, None)],
        _ => &[],
    };
    let layers = case.options.get("num_layers").map_or(1, |l| l.as_u64().unwrap()) as usize;
    let both = case.options.get("bidirectional").is_some_and(|b| b.as_bool().unwrap());
    let directions: &[Direction] =
        if both { &[Direction::Forward, Direction::Reverse] } else { &[Direction::Forward] };
    let mut all = Vec::new();
    for layer in 0..layers {
        for &direction in directions {
            all.extend(names.iter().map(|&(name, keeps)| (layer, direction, name, keeps)));
        }
    }
    all
}

fn places(gates: &[Gate]) -> Vec<(usize, Direction, GateName, Option<Keeps>)> {
    gates.iter().map(|gate| (gate.layer, gate.direction, gate.name, gate.keeps)).collect()
}

fn each(law: impl Fn(&Case, &dyn SequenceModel)) {
    let mut with_gates = 0;
    for case in cases() {
        law(&case, case.build(DType::F64).as_ref());
        with_gates += usize::from(!expected(&case).is_empty());
    }
    assert!(with_gates > 40, "{with_gates} cases with gates");
}

#[test]
fn gates_are_those_of_the_equations() {
    let lengths = Lengths::new(vec![5, STEPS, 1], BATCH, STEPS).unwrap();
    each(|case, model| {
        let x = input(case);
        let steps: Vec<Steps> = x.to_vec3().unwrap();
        for form in [Form::Auto, Form::Reference] {
            for lengths in [None, Some(&lengths)] {
                let gates = model.forward(&ask(&x, lengths, form)).unwrap().gates;
                assert_eq!(places(&gates), expected(case), "{case} {form:?}");
                if gates.is_empty() {
                    continue;
                }
                for (b, x) in steps.iter().enumerate() {
                    let length = lengths.map_or(STEPS, |l| l.as_slice()[b]);
                    let hand = by_hand(case, model, &x[..length].to_vec());
                    for (gate, hand) in gates.iter().zip(hand.iter().flatten()) {
                        let what = format!("{case} {form:?} {:?} {:?}", gate.layer, gate.name);
                        let values: Vec<Steps> = gate.values.to_vec3().unwrap();
                        let raw: Vec<Steps> = gate.preactivation.to_vec3().unwrap();
                        for t in 0..STEPS {
                            for (j, &value) in values[b][t].iter().enumerate() {
                                if t >= length {
                                    assert_eq!((value, raw[b][t][j]), (0.0, 0.0), "{what}");
                                    continue;
                                }
                                let error = (value - hand[t][j]).abs();
                                assert!(error < 1e-13, "{what} at {t}: {error:e}");
                                let squashed = match gate.name {
                                    GateName::Candidate => raw[b][t][j].tanh(),
                                    _ => sigma(raw[b][t][j]),
                                };
                                assert!((value - squashed).abs() < 1e-15, "{what} at {t}");
                            }
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn asking_for_gates_changes_nothing_else() {
    let lengths = Lengths::new(vec![5, STEPS, 1], BATCH, STEPS).unwrap();
    each(|case, model| {
        let x = input(case);
        for form in [Form::Auto, Form::Reference] {
            let args = ask(&x, Some(&lengths), form);
            let with = model.forward(&args).unwrap();
            let without = model.forward(&ForwardArgs { gates: false, ..args }).unwrap();
            assert!(without.gates.is_empty(), "{case}");
            assert_eq!(with.form, without.form, "{case}");
            assert_eq!(max_difference(&with.output, &without.output), 0.0, "{case} {form:?}");
            for (a, b) in with.state.tensors().iter().zip(without.state.tensors()) {
                assert_eq!(max_difference(&a.tensor, &b.tensor), 0.0, "{case} {}", a.name);
            }
            let last = model.forward_last(&args).unwrap();
            let plain = model.forward_last(&ForwardArgs { gates: false, ..args }).unwrap();
            assert_eq!(max_difference(&last, &plain), 0.0, "{case}");
        }
    });
}

#[test]
fn carried_states_give_the_same_gates() {
    each(|case, model| {
        if !model.is_causal() {
            return;
        }
        let x = input(case);
        let whole = model.forward(&ask(&x, None, Form::Auto)).unwrap().gates;
        for split in [1, 4, STEPS - 1] {
            let head = x.narrow(1, 0, split).unwrap();
            let tail = x.narrow(1, split, STEPS - split).unwrap();
            let first = model.forward(&ask(&head, None, Form::Auto)).unwrap();
            let args = ForwardArgs { state: Some(&first.state), ..ask(&tail, None, Form::Auto) };
            let second = model.forward(&args).unwrap();
            for ((whole, a), b) in whole.iter().zip(&first.gates).zip(&second.gates) {
                let joined = Tensor::cat(&[&a.values, &b.values], 1).unwrap();
                assert_close(&whole.values, &joined, 1e-13, &format!("{case} at {split}"));
            }
        }
    });
}

/// What stands on padding, NaN included, reaches no gate.
#[test]
fn padding_is_not_read() {
    each(|case, model| {
        // The attention above multiplies padding by 0, which keeps NaN: recurrent layers alone.
        if !["rnn", "gru", "lstm"].contains(&case.architecture.name()) {
            return;
        }
        let x = input(case);
        let lengths = Lengths::new(vec![5, 6, 1], BATCH, STEPS).unwrap();
        let real = lengths.mask(STEPS, DType::U8, &Device::Cpu).unwrap().unsqueeze(2).unwrap();
        let nan = x.affine(0.0, f64::NAN).unwrap();
        let spoilt = real.broadcast_as(x.shape()).unwrap().where_cond(&x, &nan).unwrap();
        let clean = model.forward(&ask(&x, Some(&lengths), Form::Auto)).unwrap().gates;
        let found = model.forward(&ask(&spoilt, Some(&lengths), Form::Auto)).unwrap().gates;
        for (a, b) in clean.iter().zip(&found) {
            for (a, b) in [(&a.values, &b.values), (&a.preactivation, &b.preactivation)] {
                let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                assert_eq!(bits(a), bits(b), "{case}");
            }
        }
    });
}

#[test]
fn the_unrolled_form_has_none() {
    each(|case, model| {
        let x = input(case);
        let refused = model.forward(&ask(&x, None, Form::Unrolled));
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{case}");
    });
}
