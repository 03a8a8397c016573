//! Gradient decay where theory gives it exactly. No training; f64.

mod common;

use candle_core::{DType, Device, Tensor};
use common::random;
use serde_json::{Value, json};
use unroll_core::{BuildContext, Form, ForwardArgs, Init, SequenceModel, WeightInit};
use unroll_probe::{Derivative, GradientLoss, gradient_decay};

const HIDDEN: usize = 12;
const STEPS: usize = 101;

fn build(arch: &str, options: Value, init: Init) -> Box<dyn SequenceModel> {
    let Value::Object(mut options) = options else { unreachable!("an object") };
    options.insert("input_size".into(), 3.into());
    options.insert("hidden_size".into(), HIDDEN.into());
    let context = BuildContext { init, ..BuildContext::cpu(DType::F64, 4) };
    unroll::registry::find(arch).unwrap().build(&options, &context).unwrap()
}

/// Sets all parameters to 0, then the biases given as (name, gate, value).
fn only_biases(model: &dyn SequenceModel, biases: &[(&str, usize, f64)]) {
    for parameter in model.parameters().iter() {
        parameter.var.set(&parameter.var.zeros_like().unwrap()).unwrap();
    }
    for &(name, gate, value) in biases {
        let parameter = model.parameters().iter().find(|p| p.name == name).unwrap();
        let mut values: Vec<f64> = parameter.var.to_vec1().unwrap();
        values[gate * HIDDEN..(gate + 1) * HIDDEN].fill(value);
        parameter
            .var
            .set(&Tensor::from_vec(values, parameter.var.shape(), &Device::Cpu).unwrap())
            .unwrap();
    }
}

/// Norms of dL/dh_t and dL/dc_t over t, for L = u . h_T with a fixed u, one example.
fn decay(model: &dyn SequenceModel, form: Form) -> (Vec<f64>, Vec<f64>) {
    let x = random(&[1, STEPS, 3], 21);
    let probe = model.probe_layout().zeros(1, STEPS, DType::F64, &Device::Cpu).unwrap();
    let args = ForwardArgs { probe: Some(&probe), form, ..ForwardArgs::new(&x) };
    let last = model.forward_last(&args).unwrap();
    let loss = (last * random(&[1, HIDDEN], 22)).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let norms = |vars: &[candle_core::Var]| -> Vec<f64> {
        let Some(var) = vars.first() else { return Vec::new() };
        let grad = grads.get(var.as_tensor()).unwrap();
        grad.sqr().unwrap().sum(2).unwrap().sqrt().unwrap().get(0).unwrap().to_vec1().unwrap()
    };
    (norms(&probe.hidden), norms(&probe.cell))
}

/// Ratio of the norm at distance k to that at distance 0 against `rate^k`.
fn assert_exponential(norms: &[f64], rate: f64, what: &str) {
    let last = norms[norms.len() - 1];
    for (distance, norm) in norms.iter().rev().enumerate() {
        let expected = rate.powi(distance as i32);
        let error = (norm / last / expected - 1.0).abs();
        assert!(error < 1e-11, "{what} at distance {distance}: {} vs {expected}", norm / last);
    }
}

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Asserts that `ln norm` falls by `ln rate` per step up to a distance of 10,000, where `rate^k` has
/// left the range of f64: to 1e-9, relative.
fn assert_far(model: &dyn SequenceModel, of: Derivative, rate: f64, what: &str) {
    const FAR: usize = 10_000;
    let x = random(&[1, FAR + 1, 3], 21);
    let loss = GradientLoss::RandomProjection { seed: 3 };
    let decay = gradient_decay(model, &x, None, loss, Form::Auto).unwrap();
    let norms = &decay.get(of, 0).unwrap().ln_by_distance;
    assert_eq!(norms.len(), FAR + 1);
    for (distance, ln) in norms.iter().enumerate() {
        let (found, expected) = (ln[0] - norms[0][0], distance as f64 * rate.ln());
        let error = (found - expected).abs();
        assert!(
            error <= 1e-9 * expected.abs().max(1.0),
            "{what} at {distance}: {found} {expected}"
        );
    }
}

#[test]
fn linear_rnns_are_exact_to_a_distance_of_10_000() {
    for rho in [0.5, 0.9, 0.95, 1.0, 1.1] {
        let init = Init { weight: WeightInit::Orthogonal, gain: rho, ..Init::default() };
        let model = build("rnn", json!({"nonlinearity": "identity"}), init);
        assert_far(model.as_ref(), Derivative::Hidden, rho, &format!("rho {rho}"));
    }
}

#[test]
fn forget_gates_are_exact_to_a_distance_of_10_000() {
    for bias in [0.0, 1.0, 2.0, 5.0] {
        let model = build("lstm", json!({}), Init::default());
        only_biases(model.as_ref(), &[("bias_ih_l0", 1, bias), ("bias_hh_l0", 3, 0.3)]);
        assert_far(model.as_ref(), Derivative::Cell, sigma(bias), &format!("forget bias {bias}"));
        for (update, rate) in [("keep_old", sigma(bias)), ("take_new", sigma(-bias))] {
            let model = build("gru", json!({"update_gate": update}), Init::default());
            only_biases(model.as_ref(), &[("bias_ih_l0", 1, bias), ("bias_ih_l0", 2, 0.2)]);
            assert_far(model.as_ref(), Derivative::Hidden, rate, &format!("{update} {bias}"));
        }
    }
}

const FORMS: [Form; 2] = [Form::Auto, Form::Reference];

#[test]
fn linear_rnn_decays_as_the_spectral_radius() {
    for rho in [0.9, 0.95, 1.0, 1.1] {
        let init = Init { weight: WeightInit::Orthogonal, gain: rho, ..Init::default() };
        let model = build("rnn", json!({"nonlinearity": "identity"}), init);
        for form in FORMS {
            let (hidden, _) = decay(model.as_ref(), form);
            assert_exponential(&hidden, rho, &format!("rho {rho} {form:?}"));
        }
    }
    // The published figures.
    assert!((0.9f64.powi(100) - 2.656e-5).abs() < 1e-8);
    assert!((1.1f64.powi(100) - 1.378e4).abs() < 1.0);
}

#[test]
fn tanh_rnn_stays_below_the_largest_singular_value() {
    let init = Init { weight: WeightInit::Orthogonal, gain: 0.97, ..Init::default() };
    let model = build("rnn", json!({}), init);
    let (hidden, _) = decay(model.as_ref(), Form::Auto);
    for (distance, norm) in hidden.iter().rev().enumerate() {
        let bound = 0.97f64.powi(distance as i32) * hidden[STEPS - 1];
        assert!(*norm <= bound * (1.0 + 1e-12), "distance {distance}: {norm} > {bound}");
    }
    assert!(hidden[0] > 0.0);
}

#[test]
fn lstm_cell_decays_as_the_forget_gate() {
    for (bias, half_life) in [(0.0, 1.0), (1.0, 2.21), (2.0, 5.46), (5.0, 103.0)] {
        let model = build("lstm", json!({}), Init::default());
        only_biases(model.as_ref(), &[("bias_ih_l0", 1, bias), ("bias_hh_l0", 3, 0.3)]);
        for form in FORMS {
            let (_, cell) = decay(model.as_ref(), form);
            assert_exponential(&cell, sigma(bias), &format!("forget bias {bias} {form:?}"));
        }
        let exact = -(2f64.ln()) / sigma(bias).ln();
        assert!((exact / half_life - 1.0).abs() < 5e-3, "half-life {exact} at bias {bias}");
    }
}

#[test]
fn gru_decays_as_the_update_gate_in_both_conventions_and_forms() {
    for bias in [-1.0, 0.0, 2.0] {
        for reset in ["after", "before"] {
            for (update, rate) in [("keep_old", sigma(bias)), ("take_new", sigma(-bias))] {
                let options = json!({"reset": reset, "update_gate": update});
                let model = build("gru", options, Init::default());
                only_biases(model.as_ref(), &[("bias_ih_l0", 1, bias), ("bias_ih_l0", 2, 0.2)]);
                for form in FORMS {
                    let (hidden, _) = decay(model.as_ref(), form);
                    assert_exponential(&hidden, rate, &format!("{reset} {update} {bias} {form:?}"));
                }
            }
        }
    }
}

#[test]
fn uniform_attention_gives_every_value_an_equal_share() {
    let options = json!({"input_size": 8, "hidden_size": 8, "num_heads": 2, "causal": true});
    let Value::Object(options) = options else { unreachable!("an object") };
    let mha = unroll::registry::find("mha").unwrap();
    let model = mha.build(&options, &BuildContext::cpu(DType::F64, 4)).unwrap();
    // Zero queries and keys: all scores are 0. Identity values and output.
    for parameter in model.parameters().iter() {
        let eye = Tensor::eye(8, DType::F64, &Device::Cpu).unwrap();
        let values = match parameter.name.as_str() {
            "in_proj_weight" => {
                let zeros = Tensor::zeros((16, 8), DType::F64, &Device::Cpu).unwrap();
                Tensor::cat(&[&zeros, &eye], 0).unwrap()
            }
            "out_proj.weight" => eye,
            _ => parameter.var.zeros_like().unwrap(),
        };
        parameter.var.set(&values).unwrap();
    }
    for steps in [1usize, 10, 100] {
        let x = candle_core::Var::from_tensor(&random(&[1, steps, 8], 5)).unwrap();
        let last = model.forward_last(&ForwardArgs::new(x.as_tensor())).unwrap();
        let mean = x.as_tensor().mean(1).unwrap();
        assert!(common::max_difference(&last, &mean) < 1e-14);
        let grads = last.sum_all().unwrap().backward().unwrap();
        let grad: Vec<f64> =
            grads.get(x.as_tensor()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let share = 1.0 / steps as f64;
        assert!(grad.iter().all(|g| (g - share).abs() < 1e-15), "T = {steps}");
    }
}
