//! Norms against closed forms and against differences of the loss.

use candle_core::{DType, Device, Tensor};
use unroll_core::{BuildContext, Form, Init, Lengths, ModelConfig, SequenceModel, WeightInit};
use unroll_lstm::LstmConfig;
use unroll_probe::{
    Derivative, GradientDecay, GradientLoss, f64_body, gaussian_input, gradient_decay,
};
use unroll_rnn::{Nonlinearity, RnnConfig};

const HIDDEN: usize = 8;

/// A linear RNN whose recurrent weight is `rho` times an orthogonal matrix.
fn linear(rho: f64, num_layers: usize) -> Box<dyn SequenceModel> {
    let init = Init { weight: WeightInit::Orthogonal, gain: rho, ..Init::default() };
    let context = BuildContext { init, ..BuildContext::cpu(DType::F64, 7) };
    let config = RnnConfig {
        input_size: 3,
        hidden_size: HIDDEN,
        num_layers,
        nonlinearity: Nonlinearity::Identity,
        ..RnnConfig::default()
    };
    config.build(&context).unwrap()
}

fn input(batch: usize, seq_len: usize) -> Tensor {
    gaussian_input((batch, seq_len, 3), 11, DType::F64, &Device::Cpu).unwrap()
}

fn lns(decay: &GradientDecay, of: Derivative, layer: usize) -> &[Vec<f64>] {
    &decay.get(of, layer).unwrap().ln_by_distance
}

/// `||dL/dh_(T-d)|| = rho^d ||dL/dh_T||` for every example, with either loss and form.
#[test]
fn linear_recurrence_decays_exactly() {
    for rho in [0.9, 1.0, 1.1] {
        for form in [Form::Auto, Form::Reference] {
            for loss in [GradientLoss::HalfSquaredNorm, GradientLoss::RandomProjection { seed: 1 }]
            {
                let decay =
                    gradient_decay(linear(rho, 1).as_ref(), &input(4, 60), None, loss, form)
                        .unwrap();
                let hidden = lns(&decay, Derivative::Hidden, 0);
                assert_eq!((hidden.len(), hidden[0].len()), (60, 4));
                for (distance, lns) in hidden.iter().enumerate() {
                    for (ln, last) in lns.iter().zip(&hidden[0]) {
                        let expected = last + distance as f64 * f64::ln(rho);
                        assert!((ln - expected).abs() < 1e-11, "{rho} {distance}");
                    }
                }
                if loss != GradientLoss::HalfSquaredNorm {
                    assert!(hidden[0].iter().all(|ln| ln.abs() < 1e-12));
                }
            }
        }
    }
}

/// Far beyond f32, and beyond what squares in f64 could hold.
#[test]
fn small_gradients_are_told_apart_from_none() {
    let body = linear(0.1, 1);
    let loss = GradientLoss::RandomProjection { seed: 0 };
    let decay = gradient_decay(body.as_ref(), &input(2, 3001), None, loss, Form::Auto).unwrap();
    let last = decay.get(Derivative::Hidden, 0).unwrap().points().pop().unwrap();
    assert_eq!((last.distance, last.zeros), (3000, 0));
    let expected = 3000.0 * 0.1f64.ln();
    assert!((last.mean_ln_norm.unwrap() / expected - 1.0).abs() < 1e-12);
    assert!((last.ln_mean_norm / expected - 1.0).abs() < 1e-12);
    // dL/dx_t = W_ih^T dL/dh_t: no smaller than the smallest singular value of W_ih makes it.
    let input = decay.get(Derivative::Input, 0).unwrap().points().pop().unwrap();
    assert!((input.mean_ln_norm.unwrap() - expected).abs() < 5.0, "{input:?}");
}

/// Segments and one backward pass over the whole sequence give the same, in stacks too.
#[test]
fn segments_change_nothing() {
    for num_layers in [1, 3] {
        let config =
            LstmConfig { input_size: 3, hidden_size: HIDDEN, num_layers, ..LstmConfig::default() };
        let body = config.build(&BuildContext::cpu(DType::F64, 5)).unwrap();
        for seq_len in [1, 2, 15, 16, 17, 33, 50] {
            let x = input(2, seq_len);
            let loss = GradientLoss::RandomProjection { seed: 3 };
            let decay = gradient_decay(body.as_ref(), &x, None, loss, Form::Auto).unwrap();
            // By definition: one graph over all steps.
            let x = candle_core::Var::from_tensor(&x).unwrap();
            let layout = body.probe_layout();
            let probe = layout.zeros(2, seq_len, DType::F64, &Device::Cpu).unwrap();
            let args = unroll_core::ForwardArgs {
                probe: Some(&probe),
                ..unroll_core::ForwardArgs::new(&x)
            };
            let last = body.forward_last(&args).unwrap();
            // The direction of the loss, read off its own gradient at the last step.
            let direction = unroll_core::Stream::new(3, "probe/projection")
                .normal((1, HIDDEN), 1.0, DType::F64, &Device::Cpu)
                .unwrap();
            let size = direction.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
            let unit = direction.broadcast_div(&size).unwrap();
            let loss = last.broadcast_mul(&unit).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let vars = probe.hidden.iter().chain(&probe.cell).chain([&x]);
            for (norms, var) in decay.norms.iter().zip(vars) {
                let gradient = gradients.get(var).unwrap().sqr().unwrap().sum(2).unwrap();
                let exact: Vec<Vec<f64>> = gradient.to_vec2().unwrap();
                for (example, squares) in exact.iter().enumerate() {
                    for (t, square) in squares.iter().enumerate() {
                        let found = norms.ln_by_distance[seq_len - 1 - t][example];
                        assert!((found - square.ln() / 2.0).abs() < 1e-9, "{norms:?} {t}");
                    }
                }
            }
        }
    }
}

/// In a stack of linear layers the upper one's own decay goes on below what f64 could hold beside the
/// lower one's.
#[test]
fn layers_that_part_by_more_than_the_range_of_f64_are_both_right() {
    let body = linear(0.9, 2);
    // The upper layer forgets within a step or so, the lower one does not.
    let parameter = body.parameters().iter().find(|p| p.name == "weight_hh_l1").unwrap();
    let small = (parameter.var.as_tensor() * 1e-3).unwrap();
    parameter.var.set(&small).unwrap();
    let loss = GradientLoss::RandomProjection { seed: 0 };
    let decay = gradient_decay(body.as_ref(), &input(1, 401), None, loss, Form::Auto).unwrap();
    let upper = lns(&decay, Derivative::Hidden, 1);
    let expected = 400.0 * 0.9e-3f64.ln();
    assert!((upper[400][0] / expected - 1.0).abs() < 1e-12, "{} {expected}", upper[400][0]);
    // 0.9 per step, but for what the upper layer adds at first.
    let lower = lns(&decay, Derivative::Hidden, 0);
    assert!((lower[400][0] - lower[100][0] - 300.0 * 0.9f64.ln()).abs() < 1e-9);
    assert!(upper[400][0] - lower[400][0] < -2000.0);
}

/// The loss belongs to each sequence's own last step: a padded batch gives what its sequences give
/// alone.
#[test]
fn padded_sequences_are_measured_from_their_own_end() {
    let body = linear(0.8, 2);
    let lengths = [5, 9, 2];
    let x = input(3, 9);
    let all = Lengths::new(lengths.to_vec(), 3, 9).unwrap();
    let loss = GradientLoss::HalfSquaredNorm;
    let together = gradient_decay(body.as_ref(), &x, Some(&all), loss, Form::Auto).unwrap();
    for (example, length) in lengths.into_iter().enumerate() {
        let own = x.narrow(0, example, 1).unwrap().narrow(1, 0, length).unwrap();
        let alone = gradient_decay(body.as_ref(), &own, None, loss, Form::Auto).unwrap();
        for (of, layer) in
            [(Derivative::Hidden, 0), (Derivative::Hidden, 1), (Derivative::Input, 0)]
        {
            let together = lns(&together, of, layer);
            for (distance, expected) in lns(&alone, of, layer).iter().enumerate() {
                // Entry: how many examples before this one are long enough.
                let entry = lengths[..example].iter().filter(|&&l| l > distance).count();
                let found = together[distance][entry];
                assert!((found - expected[0]).abs() <= 1e-12);
            }
        }
    }
    let examples: Vec<usize> = lns(&together, Derivative::Input, 0).iter().map(Vec::len).collect();
    assert_eq!(examples, [3, 3, 2, 2, 2, 1, 1, 1, 1]);
}

/// Input gradients are those of finite differences; cell states are measured too.
#[test]
fn lstm_input_gradients_match_differences() {
    let config =
        LstmConfig { input_size: 3, hidden_size: HIDDEN, num_layers: 2, ..LstmConfig::default() };
    let body = config.build(&BuildContext::cpu(DType::F64, 3)).unwrap();
    let x = input(1, 5);
    let loss = GradientLoss::HalfSquaredNorm;
    let decay = gradient_decay(body.as_ref(), &x, None, loss, Form::Auto).unwrap();
    let kinds: Vec<_> = decay.norms.iter().map(|n| (n.of, n.layer)).collect();
    let expected = [
        (Derivative::Hidden, 0),
        (Derivative::Hidden, 1),
        (Derivative::Cell, 0),
        (Derivative::Cell, 1),
        (Derivative::Input, 0),
    ];
    assert_eq!(kinds, expected);
    assert!(decay.norms.iter().all(|n| n.ln_by_distance.iter().flatten().all(|ln| ln.is_finite())));

    let values: Vec<f64> = x.flatten_all().unwrap().to_vec1().unwrap();
    let loss_at = |values: Vec<f64>| -> f64 {
        let x = Tensor::from_vec(values, (1, 5, 3), &Device::Cpu).unwrap();
        let last = body.forward_last(&unroll_core::ForwardArgs::new(&x)).unwrap();
        0.5 * last.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
    };
    for t in 0..5 {
        let squares: f64 = (0..3)
            .map(|feature| {
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[3 * t + feature] += by;
                    loss_at(values)
                };
                ((moved(1e-5) - moved(-1e-5)) / 2e-5).powi(2)
            })
            .sum();
        let found = lns(&decay, Derivative::Input, 0)[4 - t][0].exp();
        assert!((found - squares.sqrt()).abs() < 1e-9, "{t}: {found} {}", squares.sqrt());
    }
}

/// A trained f32 model's copy in f64 has exactly its weights.
#[test]
fn twins_have_the_same_weights() {
    use unroll_core::{Architecture, Entry};
    static RNN: Entry<RnnConfig> = Entry::new("rnn", "for tests");
    let options = serde_json::Map::new();
    let body = RNN.build(&options, &BuildContext::cpu(DType::F32, 9)).unwrap();
    let twin = f64_body(&RNN, &options, body.as_ref()).unwrap();
    assert_eq!(twin.dtype(), DType::F64);
    for (a, b) in body.parameters().iter().zip(twin.parameters().iter()) {
        let a: Vec<f32> = a.var.flatten_all().unwrap().to_vec1().unwrap();
        let b: Vec<f64> = b.var.flatten_all().unwrap().to_vec1().unwrap();
        assert!(a.iter().zip(&b).all(|(&a, &b)| f64::from(a) == b));
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let x = gaussian_input((2, 4, 5), 0, DType::F64, &Device::Cpu).unwrap();
    let loss = GradientLoss::default();
    assert!(gradient_decay(linear(0.9, 1).as_ref(), &x, None, loss, Form::Auto).is_err());
}
