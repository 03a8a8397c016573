//! Jacobians of the state against closed forms, powers of matrices and differences of the state.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, SVD};
use unroll_attention::{AttentionConfig, TransformerConfig};
use unroll_core::{
    BiasInit, BuildContext, Form, ForwardArgs, Init, Lengths, ModelConfig, SequenceModel, State,
    StateTensor, WeightInit,
};
use unroll_gru::{GruConfig, Reset, UpdateGate};
use unroll_lstm::LstmConfig;
use unroll_probe::{
    Estimate, Jacobian, JacobianMethod, JacobianOptions, JacobianPoint, gaussian_input, jacobian,
};
use unroll_rnn::{Nonlinearity, RnnConfig};

const INPUTS: usize = 3;

fn options(distances: &[usize]) -> JacobianOptions {
    JacobianOptions { distances: distances.to_vec(), ..JacobianOptions::default() }
}

fn input(batch: usize, seq_len: usize) -> Tensor {
    gaussian_input((batch, seq_len, INPUTS), 11, DType::F64, &Device::Cpu).unwrap()
}

fn zeros(seq_len: usize) -> Tensor {
    Tensor::zeros((1, seq_len, INPUTS), DType::F64, &Device::Cpu).unwrap()
}

fn measure(body: &dyn SequenceModel, x: &Tensor, options: &JacobianOptions) -> Jacobian {
    jacobian(body, x, None, options, Form::Auto).unwrap().remove(0)
}

fn context(init: Init) -> BuildContext {
    BuildContext { init, ..BuildContext::cpu(DType::F64, 7) }
}

fn rnn(hidden_size: usize, nonlinearity: Nonlinearity, init: Init) -> Box<dyn SequenceModel> {
    let config =
        RnnConfig { input_size: INPUTS, hidden_size, nonlinearity, ..RnnConfig::default() };
    config.build(&context(init)).unwrap()
}

/// Sets the parameters named in `values`, leaving the others.
fn set(body: &dyn SequenceModel, values: &[(&str, &[f64])]) {
    for (name, values) in values {
        let parameter = body.parameters().iter().find(|p| p.name == *name).unwrap();
        let tensor =
            Tensor::from_vec(values.to_vec(), parameter.var.shape(), &Device::Cpu).unwrap();
        parameter.var.set(&tensor).unwrap();
    }
}

/// Sets every parameter to zero, then those in `values`.
fn clear(body: &dyn SequenceModel, values: &[(&str, &[f64])]) {
    for parameter in body.parameters().iter() {
        parameter.var.set(&parameter.var.zeros_like().unwrap()).unwrap();
    }
    set(body, values);
}

fn matrix_of(body: &dyn SequenceModel, name: &str) -> DMatrix<f64> {
    let rows: Vec<Vec<f64>> = body.parameters().get(name).unwrap().to_vec2().unwrap();
    DMatrix::from_fn(rows.len(), rows[0].len(), |row, column| rows[row][column])
}

fn singular_values(matrix: DMatrix<f64>) -> Vec<f64> {
    SVD::new(matrix, false, false).singular_values.iter().copied().collect()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, relative: f64, what: &str) {
    let error = (found - expected).abs() / expected.abs().max(1e-300);
    assert!(error <= relative, "{what}: {found} instead of {expected}, relative error {error}");
}

fn exact(point: &JacobianPoint) -> f64 {
    assert_eq!(
        (point.ln_largest.lower, point.ln_largest.probability),
        (point.ln_largest.upper, 1.0)
    );
    point.ln_largest.lower
}

/// All singular values of `(rho Q)^k` are `rho^k`, from `0.9^10000 = 1e-458` to `1.1^10000 = 1e414`.
#[test]
fn linear_orthogonal_recurrence() {
    let distances = [1, 7, 100, 1000, 10_000];
    for rho in [0.9, 1.0, 1.1] {
        let init = Init {
            weight: WeightInit::Orthogonal,
            gain: rho,
            bias: BiasInit::Zero,
            ..Init::default()
        };
        let body = rnn(8, Nonlinearity::Identity, init);
        // Without input the state stays at 0: at 1.1 it would leave f64 itself.
        let found = measure(body.as_ref(), &zeros(10_000), &options(&distances));
        assert_eq!((found.method, found.form), (JacobianMethod::Exact, "fused"));
        assert_eq!((found.state_size, found.steps, found.lyapunov.len()), (8, 10_000, 8));
        let check = |value: f64, steps: usize, what: &str| {
            if rho == 1.0 {
                assert!(value.abs() < 1e-9, "{what} at {steps}: {value}");
            } else {
                assert_close(value, steps as f64 * f64::ln(rho), 1e-9, what);
            }
        };
        assert_eq!(found.points.iter().map(|p| p.distance).collect::<Vec<_>>(), distances);
        for point in &found.points {
            check(exact(point), point.distance, "largest");
            check(point.ln_smallest.unwrap(), point.distance, "smallest");
            check(point.ln_largest_hidden.unwrap(), point.distance, "hidden");
            assert_eq!(point.ln_largest_cell, None);
            check(point.log_det_rate.value, 8, "determinant");
        }
        for Estimate { value, standard_error } in &found.lyapunov {
            check(*value, 1, "exponent");
            assert_eq!(*standard_error, 0.0);
        }
    }
}

/// A matrix that is not normal: singular values of the powers are not powers of singular values.
#[test]
fn powers_of_a_given_matrix() {
    let values = [0.9, 1.3, -0.4, 0.0, 0.5, 0.8, 0.2, -0.1, 0.7];
    let body = rnn(3, Nonlinearity::Identity, Init::default());
    set(body.as_ref(), &[("weight_hh_l0", &values)]);
    let w = DMatrix::from_row_slice(3, 3, &values);
    let distances = [1, 2, 3, 5, 8, 13, 21];
    for form in [Form::Auto, Form::Reference, Form::Unrolled] {
        let found = jacobian(body.as_ref(), &input(1, 30), None, &options(&distances), form);
        let found = found.unwrap().remove(0);
        for point in &found.points {
            let k = point.distance;
            let powers = singular_values(w.pow(k as u32));
            assert_close(exact(point), powers[0].ln(), 1e-10, "largest");
            assert_close(point.ln_largest_hidden.unwrap(), powers[0].ln(), 1e-10, "hidden");
            // The power itself has lost digits of the smallest: checked against the inverse's.
            let inverse = singular_values(w.clone().try_inverse().unwrap().pow(k as u32));
            assert_close(point.ln_smallest.unwrap(), -inverse[0].ln(), 1e-9, "smallest");
            let rate = w.determinant().abs().ln();
            assert_close(point.log_det_rate.value, rate, 1e-12, "determinant");
        }
        let sum: f64 = found.lyapunov.iter().map(|exponent| exponent.value).sum();
        assert_close(sum, w.determinant().abs().ln(), 1e-12, "sum of the exponents");
    }
}

/// The exponents of a diagonal matrix are the logarithms of its entries, in descending order; the
/// smallest singular value is not lost behind the largest, `1e4000` times as large.
#[test]
fn diagonal_recurrence() {
    let body = rnn(3, Nonlinearity::Identity, Init::default());
    let diagonal = [0.4, 0.0, 0.0, 0.0, -1.01, 0.0, 0.0, 0.0, 0.9];
    set(body.as_ref(), &[("weight_hh_l0", &diagonal)]);
    let found = measure(body.as_ref(), &input(1, 10_000), &options(&[10, 10_000]));
    for (exponent, entry) in found.lyapunov.iter().zip([1.01f64, 0.9, 0.4]) {
        assert_close(exponent.value, entry.ln(), 1e-10, "exponent");
    }
    for point in &found.points {
        let k = point.distance as f64;
        assert_close(exact(point), k * 1.01f64.ln(), 1e-10, "largest");
        assert_close(point.ln_smallest.unwrap(), k * 0.4f64.ln(), 1e-10, "smallest");
    }
    let probed = JacobianOptions { exact_up_to: 0, ..options(&[10, 10_000]) };
    let probed = measure(body.as_ref(), &input(1, 10_000), &probed);
    for (exponent, entry) in probed.lyapunov.iter().zip([1.01f64, 0.9, 0.4]) {
        let bias = 10.0 / 10_000.0;
        let error = (exponent.value - entry.ln()).abs();
        assert!(error <= 4.0 * exponent.standard_error + bias, "{exponent:?} {}", entry.ln());
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Without weights an LSTM's cell state keeps `sigma(b)` of itself at each step, and nothing else
/// depends on the past: half of all directions are lost.
#[test]
fn lstm_forgets_by_its_bias_alone() {
    let hidden = 4;
    let config = LstmConfig { input_size: INPUTS, hidden_size: hidden, ..LstmConfig::default() };
    let body = config.build(&context(Init::default())).unwrap();
    let distances = [1, 2, 50, 1000, 10_000];
    for bias in [0.0, 1.0, 2.0, 5.0] {
        let mut biases = vec![0.0; 4 * hidden];
        biases[hidden..2 * hidden].fill(bias);
        clear(body.as_ref(), &[("bias_ih_l0", &biases)]);
        let found = measure(body.as_ref(), &input(1, 10_000), &options(&distances));
        let keep = sigmoid(bias).ln();
        for point in &found.points {
            let k = point.distance as f64;
            assert_close(point.ln_largest_cell.unwrap(), k * keep, 1e-9, "cell");
            // The last output is sigma(0) tanh(c) with c = 0: half the cell state.
            let largest = k * keep + 0.5 * 1.25f64.ln();
            assert!((exact(point) - largest).abs() < 1e-9 * k, "{} {largest}", exact(point));
            assert_eq!(point.ln_largest_hidden, Some(f64::NEG_INFINITY));
            assert_eq!(point.ln_smallest, Some(f64::NEG_INFINITY));
            assert_eq!(point.log_det_rate, Estimate::exact(f64::NEG_INFINITY));
        }
        for (direction, exponent) in found.lyapunov.iter().enumerate() {
            if direction < hidden {
                // The first factor also has the step from the cell state to the output.
                let expected = keep + 0.5 * 1.25f64.ln() / 10_000.0;
                let tolerance = (0.5f64.ln() - 0.5 * 1.25f64.ln()).abs() / 10_000.0 + 1e-9;
                assert!((exponent.value - expected).abs() < tolerance, "{exponent:?} {expected}");
            } else {
                assert_eq!(exponent.value, f64::NEG_INFINITY);
            }
        }
    }
}

/// Without weights a GRU keeps `z` or `1 - z` of its state.
#[test]
fn gru_forgets_by_its_bias_alone() {
    let hidden = 4;
    for (update_gate, sign) in [(UpdateGate::KeepOld, 1.0), (UpdateGate::TakeNew, -1.0)] {
        let config = GruConfig {
            input_size: INPUTS,
            hidden_size: hidden,
            update_gate,
            ..GruConfig::default()
        };
        let body = config.build(&context(Init::default())).unwrap();
        for bias in [0.0, 1.0, 2.0, 5.0] {
            let mut biases = vec![0.0; 3 * hidden];
            biases[hidden..2 * hidden].fill(bias);
            clear(body.as_ref(), &[("bias_ih_l0", &biases)]);
            let found = measure(body.as_ref(), &input(1, 10_000), &options(&[3, 10_000]));
            let keep = sigmoid(sign * bias).ln();
            for point in &found.points {
                let expected = point.distance as f64 * keep;
                assert_close(exact(point), expected, 1e-9, "largest");
                assert_close(point.ln_smallest.unwrap(), expected, 1e-9, "smallest");
                assert_close(point.ln_largest_hidden.unwrap(), expected, 1e-9, "hidden");
            }
            assert!(found.lyapunov.iter().all(|e| (e.value / keep - 1.0).abs() < 1e-9));
        }
    }
}

/// `||ds_T/ds_(T-k)|| <= ||W||^k`, as `|tanh'| <= 1` (Pascanu 2013), and strictly where the states
/// are not 0.
#[test]
fn tanh_recurrence_is_bounded_by_its_weight() {
    let init = Init { weight: WeightInit::Orthogonal, gain: 1.2, ..Init::default() };
    let body = rnn(16, Nonlinearity::Tanh, init);
    let weight = singular_values(matrix_of(body.as_ref(), "weight_hh_l0"))[0];
    assert_close(weight, 1.2, 1e-12, "weight");
    let found = measure(body.as_ref(), &input(1, 300), &options(&[1, 10, 100, 300]));
    for point in &found.points {
        let bound = point.distance as f64 * weight.ln();
        assert!(exact(point) < bound, "{} {bound}", exact(point));
        assert!(point.ln_smallest.unwrap() < exact(point));
        let mean = point.log_det_rate.value * point.distance as f64 / 16.0;
        assert!(point.ln_smallest.unwrap() < mean && mean < exact(point));
    }
    // The block of the hidden state is the whole, by another way: the product itself.
    let long = measure(body.as_ref(), &input(1, 10_000), &options(&[100, 10_000]));
    for point in &long.points {
        assert_close(point.ln_largest_hidden.unwrap(), exact(point), 1e-11, "explicit product");
    }
    assert!(found.lyapunov.is_sorted_by(|a, b| a.value >= b.value));
    let sum: f64 = found.lyapunov.iter().map(|exponent| exponent.value).sum();
    assert_close(sum, found.points[3].log_det_rate.value, 1e-12, "sum of the exponents");
}

/// The state after `steps` as one row per example, tensor by tensor and layer by layer.
fn flat(state: &State) -> Vec<f64> {
    let values = |t: &StateTensor| t.tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    state.tensors().iter().flat_map(values).collect()
}

/// `ds_T/ds_(T-k)` by central differences of the state at `T - k`.
fn by_differences(body: &dyn SequenceModel, x: &Tensor, k: usize) -> DMatrix<f64> {
    let steps = x.dim(1).unwrap();
    let zero = body.zero_state(1).unwrap();
    let start = if k == steps {
        zero
    } else {
        body.forward(&ForwardArgs::new(&x.narrow(1, 0, steps - k).unwrap())).unwrap().state
    };
    let rest = x.narrow(1, steps - k, k).unwrap();
    let size = start.elements();
    let end = |moved: usize, by: f64| -> Vec<f64> {
        let mut offset = 0;
        let tensors = start.tensors().iter().map(|t| {
            let mut values: Vec<f64> = t.tensor.flatten_all().unwrap().to_vec1().unwrap();
            if let Some(value) = moved.checked_sub(offset).and_then(|at| values.get_mut(at)) {
                *value += by;
            }
            offset += values.len();
            let tensor = Tensor::from_vec(values, t.tensor.shape(), &Device::Cpu).unwrap();
            StateTensor { tensor, ..t.clone() }
        });
        let state = State::new(tensors.collect(), start.steps());
        let args = ForwardArgs { state: Some(&state), ..ForwardArgs::new(&rest) };
        flat(&body.forward(&args).unwrap().state)
    };
    let step = 1e-5;
    let columns: Vec<Vec<f64>> = (0..size)
        .map(|moved| {
            let (up, down) = (end(moved, step), end(moved, -step));
            up.iter().zip(&down).map(|(up, down)| (up - down) / (2.0 * step)).collect()
        })
        .collect();
    DMatrix::from_fn(size, size, |row, column| columns[column][row])
}

fn small_models() -> Vec<(&'static str, Box<dyn SequenceModel>)> {
    let (input_size, hidden_size) = (INPUTS, 4);
    let context = context(Init::default());
    let lstm =
        |num_layers| LstmConfig { input_size, hidden_size, num_layers, ..LstmConfig::default() };
    let gru = |reset| GruConfig { input_size, hidden_size, reset, ..GruConfig::default() };
    let rnn = RnnConfig { input_size, hidden_size, num_layers: 2, ..RnnConfig::default() };
    vec![
        ("lstm", lstm(1).build(&context).unwrap()),
        ("lstm of two layers", lstm(2).build(&context).unwrap()),
        ("gru", gru(Reset::After).build(&context).unwrap()),
        ("gru, reset before", gru(Reset::Before).build(&context).unwrap()),
        ("rnn of two layers", rnn.build(&context).unwrap()),
    ]
}

#[test]
fn small_models_match_differences() {
    for (name, body) in small_models() {
        let x = input(2, 6);
        let found = jacobian(body.as_ref(), &x, None, &options(&[1, 2, 5, 6]), Form::Auto).unwrap();
        assert_eq!(found.len(), 2);
        for (example, found) in found.iter().enumerate() {
            for point in &found.points {
                let x = x.narrow(0, example, 1).unwrap();
                let expected = by_differences(body.as_ref(), &x, point.distance);
                let size = expected.nrows();
                assert_eq!(found.state_size, size);
                let values = singular_values(expected.clone());
                let near = |found: f64, expected: f64, what: &str| {
                    let error = (found.exp() - expected).abs();
                    assert!(error < 1e-8, "{name}, {what} at {}: {error}", point.distance);
                };
                near(exact(point), values[0], "largest");
                near(point.ln_smallest.unwrap(), values[size - 1], "smallest");
                let ln_det = point.log_det_rate.value * point.distance as f64;
                near(ln_det, expected.determinant().abs(), "determinant");
                let has_cell = name.starts_with("lstm");
                let end = if has_cell { size / 2 } else { size };
                let block = |end: usize| {
                    singular_values(expected.view((end - 4, end - 4), (4, 4)).into_owned())[0]
                };
                near(point.ln_largest_hidden.unwrap(), block(end), "hidden");
                assert_eq!(point.ln_largest_cell.is_some(), has_cell);
                if let Some(cell) = point.ln_largest_cell {
                    near(cell, block(size), "cell");
                }
            }
        }
    }
}

/// A top layer that forgets faster than the one below: its block is far below f64's range when it
/// is measured beside the whole.
#[test]
fn blocks_keep_their_own_scale() {
    let config = RnnConfig {
        input_size: INPUTS,
        hidden_size: 2,
        num_layers: 2,
        nonlinearity: Nonlinearity::Identity,
        ..RnnConfig::default()
    };
    let body = config.build(&context(Init::default())).unwrap();
    let diagonal = |value: f64| [value, 0.0, 0.0, value];
    set(
        body.as_ref(),
        &[("weight_hh_l0", &diagonal(0.99)), ("weight_hh_l1", &[0.1, 0.05, 0.0, 0.1])],
    );
    let found = measure(body.as_ref(), &input(1, 5000), &options(&[5000]));
    let point = &found.points[0];
    assert_close(exact(point), 5000.0 * 0.99f64.ln(), 0.1, "largest");
    // ((0.1, 0.05), (0, 0.1))^k = 0.1^k ((1, k/2), (0, 1)), whose norm is about k/2.
    let expected = 5000.0 * 0.1f64.ln() + 2500f64.ln();
    assert_close(point.ln_largest_hidden.unwrap(), expected, 1e-9, "hidden");
    assert_eq!(found.lyapunov.len(), 4);
    let sum = 2.0 * (0.99f64.ln() + 0.1f64.ln());
    assert_close(point.log_det_rate.value, sum, 1e-9, "determinant");
}

/// ReLU units that are off cut directions off; the largest singular value stays right.
#[test]
fn dead_units_make_the_jacobian_singular() {
    let body = rnn(8, Nonlinearity::Relu, Init { gain: 1.0, ..Init::default() });
    let x = input(1, 12);
    let found = measure(body.as_ref(), &x, &options(&[1, 3, 6]));
    let weight = matrix_of(body.as_ref(), "weight_hh_l0");
    let output = body.forward(&ForwardArgs::new(&x)).unwrap().output;
    let mut product = DMatrix::identity(8, 8);
    for k in 1..=6 {
        let h: Vec<f64> = output.get(0).unwrap().get(12 - k).unwrap().to_vec1().unwrap();
        let on = |row: usize| if h[row] > 0.0 { 1.0 } else { 0.0 };
        product *= DMatrix::from_fn(8, 8, |row, column| on(row) * weight[(row, column)]);
        let Some(point) = found.points.iter().find(|point| point.distance == k) else { continue };
        assert_close(exact(point), singular_values(product.clone())[0].ln(), 1e-12, "largest");
        assert_eq!(point.ln_smallest, Some(f64::NEG_INFINITY));
        assert_eq!(point.log_det_rate.value, f64::NEG_INFINITY);
    }
    assert!(found.lyapunov[0].value.is_finite());
    assert_eq!(found.lyapunov[7].value, f64::NEG_INFINITY);
    let lost = found.lyapunov.iter().filter(|e| e.value == f64::NEG_INFINITY).count();
    let rank = singular_values(product).iter().filter(|&&value| value > 1e-14).count();
    assert_eq!(8 - lost, rank);

    let body = rnn(8, Nonlinearity::Tanh, Init::default());
    set(body.as_ref(), &[("weight_hh_l0", &[0.0; 64])]);
    for exact_up_to in [0, 128] {
        let found = JacobianOptions { exact_up_to, ..options(&[1, 6]) };
        let found = measure(body.as_ref(), &x, &found);
        assert!(found.lyapunov.iter().all(|e| *e == Estimate::exact(f64::NEG_INFINITY)));
        for point in &found.points {
            assert_eq!(point.ln_largest.upper, f64::NEG_INFINITY);
            assert_eq!(point.log_det_rate, Estimate::exact(f64::NEG_INFINITY));
        }
    }
}

/// Random probes against the exact method on the same models.
#[test]
fn probes_agree_with_the_exact_method() {
    let (input_size, hidden_size) = (INPUTS, 24);
    let context = context(Init::default());
    let chaotic = Init { weight: WeightInit::Orthogonal, gain: 1.5, ..Init::default() };
    let models = [
        LstmConfig { input_size, hidden_size, ..LstmConfig::default() }.build(&context).unwrap(),
        GruConfig { input_size, hidden_size, ..GruConfig::default() }.build(&context).unwrap(),
        rnn(hidden_size, Nonlinearity::Tanh, chaotic),
    ];
    let distances = [1, 3, 10, 100, 1000];
    let x = input(1, 1010);
    for body in models {
        let whole = measure(body.as_ref(), &x, &options(&distances));
        for seed in 0..3 {
            let options =
                JacobianOptions { exact_up_to: 0, probes: 8, seed, ..options(&distances) };
            let found = measure(body.as_ref(), &x, &options);
            assert_eq!(found.method, JacobianMethod::RandomProbes { probes: 8 });
            assert_eq!(found.lyapunov.len(), 8);
            for (point, whole) in found.points.iter().zip(&whole.points) {
                let (bounds, truth) = (point.ln_largest, exact(whole));
                assert!(
                    bounds.lower <= truth + 1e-9 && truth <= bounds.upper,
                    "{bounds:?} {truth}"
                );
                assert!(bounds.upper - bounds.lower < 5.0, "{bounds:?}");
                assert!((bounds.probability - (1.0 - 1e-8)).abs() < 1e-15);
                assert_eq!(point.ln_smallest, None);
                let (rate, truth) = (point.log_det_rate, whole.log_det_rate.value);
                let error = (rate.value - truth).abs();
                assert!(error <= 4.0 * rate.standard_error + 1e-9, "{rate:?} {truth}");
                // Up to a distance of 10 every step is taken.
                assert_eq!(rate.standard_error > 0.0, point.distance > 10, "{rate:?}");
            }
            // Both start from frames that are not aligned yet: some e-folds over all steps.
            let bias = 5.0 / 1000.0;
            for (estimate, whole) in found.lyapunov.iter().zip(&whole.lyapunov) {
                let error = (estimate.value - whole.value).abs();
                assert!(estimate.standard_error > 0.0 && estimate.standard_error < 0.1);
                assert!(error <= 4.0 * estimate.standard_error + bias, "{estimate:?} {whole:?}");
            }
        }
    }
}

#[test]
fn probes_are_reproducible_and_differ_by_seed() {
    let body = rnn(16, Nonlinearity::Tanh, Init::default());
    let run = |seed| {
        let options = JacobianOptions { exact_up_to: 0, probes: 4, seed, ..options(&[5, 20]) };
        jacobian(body.as_ref(), &input(2, 20), None, &options, Form::Auto).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// Padding changes nothing; distances that an example is too short for are left out of its own.
#[test]
fn padded_sequences_are_measured_to_their_own_end() {
    let body = rnn(6, Nonlinearity::Tanh, Init::default());
    let x = input(3, 9);
    let lengths = [5, 9, 2];
    let all = Lengths::new(lengths.to_vec(), 3, 9).unwrap();
    let options = options(&[8, 3, 5, 3]);
    let found = jacobian(body.as_ref(), &x, Some(&all), &options, Form::Auto).unwrap();
    let distances = |found: &Jacobian| found.points.iter().map(|p| p.distance).collect::<Vec<_>>();
    assert_eq!(
        found.iter().map(distances).collect::<Vec<_>>(),
        [vec![3, 5], vec![3, 5, 8], vec![]]
    );
    assert_eq!((found[2].steps, found[2].lyapunov.len()), (0, 0));
    for (example, length) in lengths.into_iter().enumerate().take(2) {
        let own = x.narrow(0, example, 1).unwrap().narrow(1, 0, length).unwrap();
        let distances = distances(&found[example]);
        let alone = measure(body.as_ref(), &own, &JacobianOptions { distances, ..options.clone() });
        assert_eq!(alone, found[example]);
    }
}

/// A state of fixed size that is no recurrent layer's: the sums of linear attention only add up.
#[test]
fn linear_attention_keeps_all_of_its_state() {
    let config = AttentionConfig {
        input_size: INPUTS,
        hidden_size: 4,
        num_heads: 2,
        kind: unroll_attention::Kind::Linear,
        causal: true,
        ..AttentionConfig::default()
    };
    let body = config.build(&context(Init::default())).unwrap();
    let found = measure(body.as_ref(), &input(1, 20), &options(&[1, 20]));
    assert_eq!(found.state_size, 2 * (2 * 2 + 2));
    for point in &found.points {
        assert!(exact(point).abs() < 1e-12 && point.ln_smallest.unwrap().abs() < 1e-12);
        assert_eq!((point.ln_largest_hidden, point.ln_largest_cell), (None, None));
    }
}

#[track_caller]
fn assert_refused(body: &dyn SequenceModel, x: &Tensor, options: &JacobianOptions, reason: &str) {
    let error = jacobian(body, x, None, options, Form::Auto).unwrap_err().to_string();
    assert!(error.contains(reason), "{error}");
}

#[test]
fn models_without_a_square_jacobian_are_refused() {
    let (x, some) = (input(1, 8), options(&[1, 4]));
    let (input_size, hidden_size, causal) = (INPUTS, 4, true);
    let transformer = TransformerConfig {
        input_size,
        hidden_size,
        num_heads: 2,
        causal,
        ..TransformerConfig::default()
    };
    let body = transformer.build(&context(Init::default())).unwrap();
    assert_refused(body.as_ref(), &x, &some, "grows with every step");
    let bidirectional =
        LstmConfig { input_size, hidden_size, bidirectional: true, ..LstmConfig::default() };
    let body = bidirectional.build(&context(Init::default())).unwrap();
    assert_refused(body.as_ref(), &x, &some, "reads backwards");
    let single = RnnConfig { input_size, hidden_size, ..RnnConfig::default() };
    let body = single.build(&BuildContext::cpu(DType::F32, 0)).unwrap();
    let x = x.to_dtype(DType::F32).unwrap();
    assert_refused(body.as_ref(), &x, &some, "f64_body");
}

#[test]
fn wrong_arguments_are_refused() {
    let body = rnn(4, Nonlinearity::Tanh, Init::default());
    let (body, x, some) = (body.as_ref(), input(1, 8), options(&[1, 8]));
    let wide = gaussian_input((2, 4, 5), 0, DType::F64, &Device::Cpu).unwrap();
    assert_refused(body, &wide, &some, "expected (batch > 0, time > 0, 3 features)");
    assert_refused(body, &x.squeeze(0).unwrap(), &some, "expected");
    assert_refused(body, &x, &options(&[]), "at least one distance");
    assert_refused(body, &x, &options(&[0, 3]), "must lie in 1..=8");
    assert_refused(body, &x, &options(&[9]), "must lie in 1..=8");
    assert_refused(body, &x, &JacobianOptions { probes: 0, ..some.clone() }, "probes");
    let few = JacobianOptions { log_det_samples: 1, ..some.clone() };
    assert_refused(body, &x, &few, "log_det_samples");
    let lengths = Lengths::new(vec![3, 3], 2, 8).unwrap();
    assert!(jacobian(body, &x, Some(&lengths), &some, Form::Auto).is_err());
}

/// A state that leaves f64 is no trajectory.
#[test]
fn diverging_states_are_refused() {
    let init = Init { weight: WeightInit::Identity, gain: 1e10, ..Init::default() };
    let body = rnn(4, Nonlinearity::Identity, init);
    assert_refused(body.as_ref(), &input(1, 60), &options(&[40]), "not finite");
}
