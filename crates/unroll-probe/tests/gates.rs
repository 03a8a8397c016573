//! Statistics of gates against closed forms and against sums over the gates themselves.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use unroll_attention::{AttentionConfig, Base, RecurrentAttentionConfig};
use unroll_core::{
    BuildContext, Direction, ForwardArgs, GateName, Keeps, Lengths, ModelConfig, SequenceModel,
};
use unroll_gru::{GruConfig, UpdateGate};
use unroll_lstm::LstmConfig;
use unroll_probe::{Error, GateStatistics, gate_statistics, gaussian_input};
use unroll_rnn::RnnConfig;

const INPUTS: usize = 3;

fn input(batch: usize, seq_len: usize) -> Tensor {
    gaussian_input((batch, seq_len, INPUTS), 11, DType::F64, &Device::Cpu).unwrap()
}

fn context() -> BuildContext {
    BuildContext::cpu(DType::F64, 7)
}

fn lstm(hidden_size: usize) -> Box<dyn SequenceModel> {
    LstmConfig { input_size: INPUTS, hidden_size, ..LstmConfig::default() }
        .build(&context())
        .unwrap()
}

fn gru(hidden_size: usize, update_gate: UpdateGate) -> Box<dyn SequenceModel> {
    GruConfig { input_size: INPUTS, hidden_size, update_gate, ..GruConfig::default() }
        .build(&context())
        .unwrap()
}

/// Sets every parameter to zero, then those in `values`.
fn clear(body: &dyn SequenceModel, values: &[(&str, Vec<f64>)]) {
    for parameter in body.parameters().iter() {
        let given = values.iter().find(|(name, _)| *name == parameter.name);
        let zeros = || vec![0.0; parameter.var.elem_count()];
        let values = given.map_or_else(zeros, |(_, values)| values.clone());
        let tensor = Tensor::from_vec(values, parameter.var.shape(), &Device::Cpu).unwrap();
        parameter.var.set(&tensor).unwrap();
    }
}

fn measure(body: &dyn SequenceModel, x: &Tensor) -> Vec<GateStatistics> {
    gate_statistics(body, x, None).unwrap()
}

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    if found == expected {
        return; // Infinities.
    }
    let error = ((found - expected) / expected).abs();
    assert!(error < 1e-12, "{what}: {found} instead of {expected}");
}

/// A gate of bias `b` alone stands at `sigma(b)` whatever the input: the times are `1 + e^b` and
/// `1 / ln(1 + e^-b)`, from less than a step to beyond the range of f64.
#[test]
fn gates_of_biases_alone() {
    let biases = [-800.0, -3.0, 0.0, 1.0, 5.0, 40.0, 300.0, 700.0, 800.0];
    let units = biases.len();
    let forget = |b: f64| if b < 709.0 { 1.0 + b.exp() } else { f64::INFINITY };
    let decay = |b: f64| 1.0 / if b < 0.0 { -b + b.exp().ln_1p() } else { (-b).exp().ln_1p() };
    let zeros = || vec![0.0; units];
    let times = |body: &dyn SequenceModel, gate: GateName, keeps: Keeps, what: &str| {
        let all = measure(body, &input(4, 300));
        let found = all.iter().find(|found| found.gate == gate).unwrap();
        let memory = found.memory.as_ref().unwrap();
        assert_eq!(memory.keeps, keeps, "{what}");
        assert_eq!((found.units, found.steps), (units, 1200), "{what}");
        for (unit, &bias) in biases.iter().enumerate() {
            assert_close(memory.forget[unit], forget(bias), &format!("{what} forget {bias}"));
            assert_close(memory.decay[unit], decay(bias), &format!("{what} decay {bias}"));
        }
        assert_close(memory.forget_quantiles()[1], forget(5.0), "median");
        assert_close(memory.decay_quantiles()[1], decay(5.0), "median");
        assert_eq!(memory.forget_quantiles()[2], f64::INFINITY);
        assert_eq!(all.iter().filter(|found| found.memory.is_some()).count(), 1, "{what}");
        found.clone()
    };
    let body = lstm(units);
    let bias = [zeros(), biases.to_vec(), zeros(), zeros()].concat();
    clear(body.as_ref(), &[("bias_ih_l0", bias)]);
    let found = times(body.as_ref(), GateName::Forget, Keeps::WhenOpen, "lstm");
    let values = biases.map(sigma);
    let mean = values.iter().sum::<f64>() / units as f64;
    assert_close(found.mean, mean, "mean");
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / units as f64;
    assert_close(found.standard_deviation, variance.sqrt(), "standard deviation");
    assert_close(found.quantiles[1], sigma(5.0), "median");
    assert_eq!(found.quantiles[2], 1.0);
    assert_eq!((found.closed, found.open), (Some(2.0 / 9.0), Some(5.0 / 9.0)));
    assert_eq!(found.saturated, None);

    let body = gru(units, UpdateGate::KeepOld);
    clear(body.as_ref(), &[("bias_hh_l0", [zeros(), biases.to_vec(), zeros()].concat())]);
    times(body.as_ref(), GateName::Update, Keeps::WhenOpen, "gru that keeps the old");

    let body = gru(units, UpdateGate::TakeNew);
    let closed: Vec<f64> = biases.iter().map(|bias| -bias).collect();
    clear(body.as_ref(), &[("bias_hh_l0", [zeros(), closed, zeros()].concat())]);
    times(body.as_ref(), GateName::Update, Keeps::WhenClosed, "gru that takes the new");
}

/// Gates that the input moves from step to step: the means are taken before the reciprocals, and every
/// real step of every example counts alike.
#[test]
fn gates_that_move() {
    let body = lstm(2);
    // Forget gates: x_0 and -2 x_1; candidates: 3 x_2.
    let mut weights = vec![0.0; 8 * INPUTS];
    weights[2 * INPUTS] = 1.0;
    weights[3 * INPUTS + 1] = -2.0;
    weights[4 * INPUTS + 2] = 3.0;
    clear(body.as_ref(), &[("weight_ih_l0", weights)]);
    let x = input(3, 5);
    let lengths = Lengths::new(vec![5, 1, 3], 3, 5).unwrap();
    let found = gate_statistics(body.as_ref(), &x, Some(&lengths)).unwrap();
    let x: Vec<Vec<Vec<f64>>> = x.to_vec3().unwrap();
    let real: Vec<&Vec<f64>> =
        x.iter().zip(lengths.as_slice()).flat_map(|(x, &length)| &x[..length]).collect();
    let mean = |f: &dyn Fn(&[f64]) -> f64| real.iter().map(|x| f(x)).sum::<f64>() / 9.0;
    let forget = &found[1];
    assert_eq!((forget.gate, forget.steps), (GateName::Forget, 9));
    let memory = forget.memory.as_ref().unwrap();
    assert_close(memory.forget[0], 1.0 / (1.0 - mean(&|x| sigma(x[0]))), "forget");
    assert_close(memory.forget[1], 1.0 / (1.0 - mean(&|x| sigma(-2.0 * x[1]))), "forget");
    assert_close(memory.decay[0], -1.0 / mean(&|x| sigma(x[0]).ln()), "decay");
    assert_close(memory.decay[1], -1.0 / mean(&|x| sigma(-2.0 * x[1]).ln()), "decay");
    let candidate = &found[2];
    let second = mean(&|x| f64::from(u8::from((3.0 * x[2]).tanh().abs() > 0.9)));
    assert_close(candidate.saturated.unwrap(), second / 2.0, "saturated");
    assert_close(candidate.mean, mean(&|x| (3.0 * x[2]).tanh()) / 2.0, "mean");
    assert_eq!((candidate.closed, candidate.open), (None, None));
    assert_eq!(candidate.memory, None);
}

/// f32 models are measured as precisely as their gates are.
#[test]
fn f32_is_enough() {
    let config = LstmConfig { input_size: INPUTS, hidden_size: 4, ..LstmConfig::default() };
    let body = config.build(&BuildContext::cpu(DType::F32, 7)).unwrap();
    clear_f32(body.as_ref(), 30.0);
    let x = input(2, 9).to_dtype(DType::F32).unwrap();
    for gate in gate_statistics(body.as_ref(), &x, None).unwrap() {
        if let Some(memory) = gate.memory {
            // In f32, sigma(30) is 1.
            memory.forget.iter().for_each(|&time| assert_close(time, 1.0 + 30f64.exp(), "f32"));
        }
    }
}

fn clear_f32(body: &dyn SequenceModel, forget_bias: f32) {
    for parameter in body.parameters().iter() {
        let mut values = vec![0f32; parameter.var.elem_count()];
        if parameter.name == "bias_ih_l0" {
            values[4..8].fill(forget_bias);
        }
        let tensor = Tensor::from_vec(values, parameter.var.shape(), &Device::Cpu).unwrap();
        parameter.var.set(&tensor).unwrap();
    }
}

#[test]
fn layers_and_directions_stand_in_order() {
    let config = GruConfig {
        input_size: INPUTS,
        hidden_size: 4,
        num_layers: 2,
        bidirectional: true,
        ..GruConfig::default()
    };
    let found = measure(config.build(&context()).unwrap().as_ref(), &input(2, 6));
    let places: Vec<_> = found.iter().map(|f| (f.layer, f.direction, f.gate)).collect();
    let mut expected = Vec::new();
    for layer in 0..2 {
        for direction in [Direction::Forward, Direction::Reverse] {
            for gate in [GateName::Reset, GateName::Update, GateName::Candidate] {
                expected.push((layer, direction, gate));
            }
        }
    }
    assert_eq!(places, expected);
}

#[test]
fn models_without_gates_have_no_statistics() {
    let x = input(2, 6);
    let rnn = RnnConfig { input_size: INPUTS, hidden_size: 4, ..RnnConfig::default() };
    let mha = AttentionConfig { input_size: INPUTS, hidden_size: 4, ..AttentionConfig::default() };
    assert!(measure(rnn.build(&context()).unwrap().as_ref(), &x).is_empty());
    assert!(measure(mha.build(&context()).unwrap().as_ref(), &x).is_empty());
    let above = RecurrentAttentionConfig {
        input_size: INPUTS,
        hidden_size: 4,
        base: Base::Lstm,
        ..RecurrentAttentionConfig::default()
    };
    assert_eq!(measure(above.build(&context()).unwrap().as_ref(), &x).len(), 4);
}

#[test]
fn wrong_inputs_are_errors() {
    let body = lstm(4);
    let wrong = gaussian_input((2, 4, 5), 0, DType::F64, &Device::Cpu).unwrap();
    assert!(matches!(gate_statistics(body.as_ref(), &wrong, None), Err(Error::Model(_))));
    let x = input(2, 4);
    let short = Lengths::new(vec![1], 1, 4).unwrap();
    assert!(matches!(gate_statistics(body.as_ref(), &x, Some(&short)), Err(Error::Model(_))));
    let nan = x.affine(f64::NAN, 0.0).unwrap();
    let found = gate_statistics(body.as_ref(), &nan, None);
    assert!(matches!(found, Err(Error::Model(unroll_core::Error::NotFinite { .. }))));
}

fn body() -> impl Strategy<Value = (bool, usize, usize, bool)> {
    (any::<bool>(), 1..5usize, 1..3usize, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The statistics are those of the gates that the forward pass gives, padding left out.
    #[test]
    fn statistics_are_those_of_the_gates(
        (is_lstm, hidden_size, num_layers, bidirectional) in body(),
        lengths in prop::collection::vec(1..9usize, 1..5),
        longer in 0..3usize,
        scale in 0.1..8.0f64,
    ) {
        let input_size = INPUTS;
        let body = if is_lstm {
            let config = LstmConfig {
                input_size, hidden_size, num_layers, bidirectional, ..LstmConfig::default()
            };
            config.build(&context()).unwrap()
        } else {
            let config = GruConfig {
                input_size, hidden_size, num_layers, bidirectional, ..GruConfig::default()
            };
            config.build(&context()).unwrap()
        };
        let (batch, seq_len) = (lengths.len(), lengths.iter().max().unwrap() + longer);
        let x = (input(batch, seq_len) * scale).unwrap();
        let lengths = Lengths::new(lengths, batch, seq_len).unwrap();
        let args = ForwardArgs { gates: true, lengths: Some(&lengths), ..ForwardArgs::new(&x) };
        let gates = body.forward(&args).unwrap().gates;
        let found = gate_statistics(body.as_ref(), &x, Some(&lengths)).unwrap();
        prop_assert_eq!(found.len(), gates.len());
        for (found, gate) in found.iter().zip(&gates) {
            prop_assert_eq!((found.layer, found.direction, found.gate),
                (gate.layer, gate.direction, gate.name));
            let values: Vec<Vec<Vec<f64>>> = gate.values.to_vec3().unwrap();
            let rows: Vec<&Vec<f64>> = values.iter().zip(lengths.as_slice())
                .flat_map(|(steps, &length)| &steps[..length]).collect();
            prop_assert_eq!((found.steps, found.units), (rows.len(), hidden_size));
            let mut all: Vec<f64> = rows.iter().copied().flatten().copied().collect();
            all.sort_by(f64::total_cmp);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
            prop_assert!(close(found.mean, mean));
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            prop_assert!(close(found.standard_deviation, variance.sqrt()));
            for (found, q) in found.quantiles.iter().zip([0.1, 0.5, 0.9]) {
                let at = q * (all.len() - 1) as f64;
                let (low, high) = (all[at.floor() as usize], all[at.ceil() as usize]);
                prop_assert!(close(*found, low + (high - low) * at.fract()));
            }
            let fraction = |holds: &dyn Fn(f64) -> bool| {
                all.iter().filter(|&&v| holds(v)).count() as f64 / all.len() as f64
            };
            if gate.name == GateName::Candidate {
                prop_assert_eq!(found.saturated, Some(fraction(&|v| v.abs() > 0.9)));
                prop_assert_eq!((found.closed, found.open), (None, None));
            } else {
                prop_assert_eq!(found.closed, Some(fraction(&|v| v < 0.1)));
                prop_assert_eq!(found.open, Some(fraction(&|v| v > 0.9)));
                prop_assert_eq!(found.saturated, None);
            }
            prop_assert_eq!(found.memory.is_some(), gate.keeps.is_some());
            let Some(memory) = &found.memory else { continue };
            for unit in 0..hidden_size {
                let kept = rows.iter().map(|row| row[unit]).sum::<f64>() / rows.len() as f64;
                let ln = rows.iter().map(|row| row[unit].ln()).sum::<f64>() / rows.len() as f64;
                let (forget, decay) = (memory.forget[unit], memory.decay[unit]);
                prop_assert!((forget * (1.0 - kept) - 1.0).abs() < 1e-10);
                prop_assert!((decay * ln + 1.0).abs() < 1e-10);
                // Jensen's inequality, twice.
                let between = -1.0 / kept.ln();
                prop_assert!(decay <= between * (1.0 + 1e-9) && between <= forget * (1.0 + 1e-9));
                prop_assert!(forget >= 1.0);
            }
        }
    }
}
