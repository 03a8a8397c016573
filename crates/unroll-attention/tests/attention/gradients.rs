//! Gradients: finite differences, padding, probes, closed forms.

use candle_core::{DType, Tensor, Var};
use serde_json::json;
use unroll_core::{ForwardArgs, SequenceModel, Stream};

use crate::common::{
    CPU, Case, assert_close, cases, gradient, gradients, input, lengths, normal, values,
};

fn loss_weights(model: &dyn SequenceModel, batch: usize, seq_len: usize) -> Tensor {
    normal("loss", &[batch, seq_len, model.output_size()])
}

#[test]
fn every_parameter_gets_a_gradient() {
    for case in cases() {
        let model = case.build();
        let x = input(&*model, 2, 6);
        let output = model.forward(&ForwardArgs::new(&x)).unwrap().output;
        let store = gradients(&output, &loss_weights(&*model, 2, 6));
        for parameter in model.parameters().iter() {
            let gradient = gradient(&store, &parameter.var);
            let gradient = values(&gradient);
            assert!(gradient.iter().all(|g| g.is_finite()), "{case:?}: {}", parameter.name);
            let moves = gradient.iter().any(|g| g.abs() > 1e-8);
            assert!(moves, "{case:?}: {}", parameter.name);
        }
    }
}

/// `var` with one entry moved.
fn bumped(original: &Tensor, index: usize, by: f64) -> Tensor {
    let mut entries = values(original);
    entries[index] += by;
    Tensor::from_vec(entries, original.shape(), &CPU).unwrap()
}

#[test]
fn gradients_match_finite_differences() {
    let (batch, seq_len, epsilon) = (2, 5, 1e-5);
    for case in cases() {
        let model = case.build();
        let x = Var::from_tensor(&input(&*model, batch, seq_len)).unwrap();
        let weights = loss_weights(&*model, batch, seq_len);
        let loss = || -> f64 {
            let output = model.forward(&ForwardArgs::new(x.as_tensor())).unwrap().output;
            values(&(output * &weights).unwrap().sum_all().unwrap())[0]
        };
        let output = model.forward(&ForwardArgs::new(x.as_tensor())).unwrap().output;
        let store = gradients(&output, &weights);
        let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.var.clone()));
        for (name, var) in parameters.chain([("x".to_owned(), x.clone())]) {
            let analytic = values(&gradient(&store, &var));
            let original = var.as_tensor().copy().unwrap();
            let mut rng = Stream::new(2, name.as_str()).rng();
            for _ in 0..4 {
                let index = rng.below(analytic.len());
                let at = |by| {
                    var.set(&bumped(&original, index, by)).unwrap();
                    loss()
                };
                let numeric = (at(epsilon) - at(-epsilon)) / (2.0 * epsilon);
                let error = (numeric - analytic[index]).abs();
                assert!(
                    error < 1e-7 * (1.0 + numeric.abs()),
                    "{case:?}: {name}[{index}]: {numeric} and {}",
                    analytic[index]
                );
            }
            var.set(&original).unwrap();
        }
    }
}

#[test]
fn a_padded_batch_is_its_sequences_alone() {
    let (seq_len, real) = (6, [6, 2, 4]);
    let lengths = lengths(&real, seq_len);
    let mask = lengths.mask(seq_len, DType::F64, &CPU).unwrap().unsqueeze(2).unwrap();
    for case in cases() {
        let model = case.build();
        let clean = input(&*model, 3, seq_len);
        // Large numbers in the padding: nothing of them may leak.
        let noise = normal("noise", clean.dims()).affine(50.0, 0.0).unwrap();
        let hidden = noise.broadcast_mul(&mask.affine(-1.0, 1.0).unwrap()).unwrap();
        let x = Var::from_tensor(&(clean.broadcast_mul(&mask).unwrap() + hidden).unwrap()).unwrap();
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(x.as_tensor()) };
        let output = model.forward(&args).unwrap().output;
        let weights = loss_weights(&*model, 3, seq_len).broadcast_mul(&mask).unwrap();
        let store = gradients(&output, &weights);
        let mut sums: Vec<Tensor> =
            model.parameters().iter().map(|p| p.var.zeros_like().unwrap()).collect();
        for (b, length) in real.into_iter().enumerate() {
            let what = format!("{case:?}, sequence {b}");
            let cut = |t: &Tensor| t.narrow(0, b, 1).unwrap().narrow(1, 0, length).unwrap();
            let alone = Var::from_tensor(&cut(&x).contiguous().unwrap()).unwrap();
            let single = model.forward(&ForwardArgs::new(alone.as_tensor())).unwrap().output;
            assert_close(&cut(&output), &single, 1e-11, &what);
            if case.name != "mha" && length < seq_len {
                let tail = output.get(b).unwrap().narrow(0, length, seq_len - length).unwrap();
                assert!(values(&tail).into_iter().all(|y| y == 0.0), "{what}: padding");
            }
            let own = gradients(&single, &cut(&weights));
            assert_close(
                &cut(&gradient(&store, &x)),
                &gradient(&own, &alone),
                1e-10,
                &format!("{what}: x"),
            );
            let in_padding = gradient(&store, &x).get(b).unwrap();
            let in_padding = in_padding.narrow(0, length, seq_len - length).unwrap();
            assert!(values(&in_padding).into_iter().all(|g| g == 0.0), "{what}: x in padding");
            for (sum, parameter) in sums.iter_mut().zip(model.parameters().iter()) {
                *sum = (&*sum + gradient(&own, &parameter.var)).unwrap();
            }
        }
        for (sum, parameter) in sums.iter().zip(model.parameters().iter()) {
            let together = gradient(&store, &parameter.var);
            assert_close(&together, sum, 1e-10, &format!("{case:?}: {}", parameter.name));
        }
    }
}

#[test]
fn forward_last_has_the_gradients_of_forward() {
    let (seq_len, real) = (5, [5, 3]);
    let lengths = lengths(&real, seq_len);
    for case in cases() {
        let model = case.build();
        let x = Var::from_tensor(&input(&*model, 2, seq_len)).unwrap();
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(x.as_tensor()) };
        let weights = normal("last", &[2, model.output_size()]);
        let pooled = gradients(&model.forward_last(&args).unwrap(), &weights);
        let output = model.forward(&args).unwrap().output;
        let last = unroll_core::model::last_step(&output, Some(&lengths)).unwrap();
        let whole = gradients(&last, &weights);
        for var in model.parameters().iter().map(|p| &p.var).chain([&x]) {
            let what = format!("{case:?}");
            assert_close(&gradient(&pooled, var), &gradient(&whole, var), 1e-11, &what);
        }
    }
}

#[test]
fn a_probe_reads_total_derivatives_through_the_attention() {
    for case in cases() {
        let model = case.build();
        let layout = model.probe_layout();
        let x = input(&*model, 2, 5);
        let run = |probe: &unroll_core::Probe| {
            let args = ForwardArgs { probe: Some(probe), ..ForwardArgs::new(&x) };
            model.forward_last(&args).unwrap()
        };
        let probe = layout.zeros(2, 5, DType::F64, &CPU).unwrap();
        let weights = normal("last", &[2, model.output_size()]);
        let store = gradients(&run(&probe), &weights);
        for var in &probe.hidden {
            let analytic = values(&gradient(&store, var));
            let loss = |by: f64| -> f64 {
                var.set(&bumped(&var.zeros_like().unwrap(), 11, by)).unwrap();
                values(&(run(&probe) * &weights).unwrap().sum_all().unwrap())[0]
            };
            let numeric = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            assert!((numeric - analytic[11]).abs() < 1e-8, "{case:?}");
            assert!(numeric != 0.0, "{case:?}: every state is read at the last step");
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        assert_eq!(layout.hidden == 0, !case.has_base(), "{case:?}");
    }
}

impl Case {
    /// Whether there is a recurrent layer to probe.
    fn has_base(&self) -> bool {
        self.architecture().options().iter().any(|(doc, _)| doc.name == "base")
    }
}

#[test]
fn uniform_attention_gives_each_value_one_over_t() {
    // Query and key weights zero: every score is 0, every weight 1/T. Value and output maps the
    // identity: the output is the mean over the sequence and its gradient 1/T at each step.
    let seq_len = 40;
    let case =
        Case::new("mha", json!({"input_size": 2, "hidden_size": 2, "num_heads": 2, "bias": false}));
    let model = case.build();
    let set = |name: &str, entries: &[f64]| {
        let var = &model.parameters().iter().find(|p| p.name == name).unwrap().var;
        var.set(&Tensor::new(entries, &CPU).unwrap().reshape(var.shape()).unwrap()).unwrap();
    };
    let identity = [1.0, 0.0, 0.0, 1.0];
    set("in_proj_weight", &[&[0.0; 8], &identity[..]].concat());
    set("out_proj.weight", &identity);
    let x = Var::from_tensor(&normal("x", &[1, seq_len, 2])).unwrap();
    let args = ForwardArgs { attention: true, ..ForwardArgs::new(x.as_tensor()) };
    let result = model.forward(&args).unwrap();
    let expected = 1.0 / seq_len as f64;
    assert!(values(&result.attention[0]).into_iter().all(|w| (w - expected).abs() < 1e-16));
    let last = result.output.narrow(1, seq_len - 1, 1).unwrap();
    let mean = x.as_tensor().mean_keepdim(1).unwrap();
    assert_close(&last, &mean, 1e-14, "mean");
    let store = last.sum_all().unwrap().backward().unwrap();
    let gradient = values(&gradient(&store, &x));
    assert!(gradient.into_iter().all(|g| (g - expected).abs() < 1e-16));
}
