//! `unroll eval` against PyTorch's outputs, states and gradients on every reference vector.

mod common;

use candle_core::{DType, Device};
use common::{relative_error, vectors};
use unroll::eval::{EvalRequest, run};
use unroll_core::Form;
use unroll_core::weights::TensorFile;

fn check(form: Form, dtype: DType, tolerance: f64) {
    let mut checked = 0;
    for entry in std::fs::read_dir(vectors()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_vector = path.extension().is_some_and(|e| e == "safetensors");
        if !is_vector || name.starts_with("hidden_grad") {
            continue;
        }
        let file = TensorFile::read(&path).unwrap();
        let config: serde_json::Value = serde_json::from_str(&file.metadata["config"]).unwrap();
        let request = EvalRequest {
            arch: Some(config["arch"].as_str().unwrap().to_owned()),
            prefix: None,
            config: None,
            dtype,
            device: Device::Cpu,
            form,
            grad: true,
            probe_last: false,
        };
        let out = run(&request, &file, &file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (key, expected) in &file.tensors {
            let is_result = key.starts_with("grad.")
                || ["output", "h_n", "c_n", "attn"].contains(&key.as_str());
            if is_result {
                let error = relative_error(out.get(key).unwrap(), expected);
                assert!(error <= tolerance, "{name} {key} {form:?} {dtype:?}: {error:e}");
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "only {checked} tensors were compared");
}

#[test]
fn f64_is_exact_to_1e_10() {
    check(Form::Auto, DType::F64, 1e-10);
    check(Form::Reference, DType::F64, 1e-10);
}

#[test]
fn f32_is_exact_to_1e_4() {
    check(Form::Auto, DType::F32, 1e-4);
    check(Form::Reference, DType::F32, 1e-4);
}

/// dL/dh_t falls to 1e-55 here: every single step must be right, not only the large ones.
#[test]
fn hidden_gradients_are_exact_at_every_step() {
    for arch in ["rnn", "gru", "lstm"] {
        let file =
            TensorFile::read(&vectors().join(format!("hidden_grad_{arch}.safetensors"))).unwrap();
        for form in [Form::Auto, Form::Reference] {
            let request = EvalRequest {
                arch: Some(arch.into()),
                prefix: None,
                config: None,
                dtype: DType::F64,
                device: Device::Cpu,
                form,
                grad: false,
                probe_last: true,
            };
            let out = run(&request, &file, &file).unwrap();
            let (found, expected) = (out.get("grad_h").unwrap(), file.get("grad_h").unwrap());
            let steps = expected.dim(1).unwrap();
            let mut smallest = f64::INFINITY;
            for t in 0..steps {
                let at = |tensor: &candle_core::Tensor| -> Vec<f64> {
                    let step = tensor.narrow(1, t, 1).unwrap().flatten_all().unwrap();
                    step.to_vec1().unwrap()
                };
                // Scaled by hand: squares of 1e-200 would underflow.
                let (found, expected) = (at(found), at(expected));
                let scale = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let norm = |v: &mut dyn Iterator<Item = f64>| -> f64 {
                    v.map(|v| (v / scale).powi(2)).sum::<f64>().sqrt()
                };
                let error = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b))
                    / norm(&mut expected.iter().copied());
                assert!(error <= 1e-8, "{arch} {form:?} step {t}: {error:e}");
                smallest = smallest.min(scale);
            }
            assert!(smallest < 1e-35, "{arch}: the vectors reach down to {smallest:e} only");
        }
    }
}

/// Expected outputs and gradients may stand beside the weights; weights that the model does not read may not.
#[test]
fn weights_that_are_not_read_are_refused() {
    let path = |name: &str| format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| TensorFile::read(path(name).as_ref()).unwrap();
    let eval = |file: &TensorFile, config: serde_json::Value| {
        let request = EvalRequest {
            arch: Some(config["arch"].as_str().unwrap().to_owned()),
            prefix: None,
            config: config.as_object().cloned(),
            dtype: DType::F32,
            device: Device::Cpu,
            form: Form::Auto,
            grad: false,
            probe_last: false,
        };
        run(&request, file, file)
    };
    let refused = |file: &TensorFile, config, expected: &str| {
        let text = eval(file, config).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    let config = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };

    let relu = r#"{"arch": "rnn", "input_size": 4, "hidden_size": 8, "nonlinearity": "relu""#;
    let mut two = read("rnn_relu_l2.safetensors");
    eval(&two, config(&format!("{relu}, \"num_layers\": 2}}"))).unwrap();
    two.tensors.remove("h0");
    refused(
        &two,
        config(&format!("{relu}}}")),
        "has no `bias_hh_l1`, `bias_ih_l1`, `weight_hh_l1`",
    );

    let gru = r#"{"arch": "gru", "input_size": 5, "hidden_size": 6"#;
    let mut one = read("gru.safetensors");
    refused(&one, config(&format!("{gru}, \"bias\": false}}")), "has no `bias_hh_l0`");
    one.tensors.insert("weight_grad".into(), one.tensors["x"].clone());
    one.tensors.insert("fc.weight".into(), one.tensors["x"].clone());
    eval(&one, config(&format!("{gru}}}"))).unwrap();
    let prefixed = one.tensors.iter().map(|(name, tensor)| {
        let prefix = if name.contains("_l0") { "rnn." } else { "" };
        (format!("{prefix}{name}"), tensor.clone())
    });
    let prefixed = TensorFile { tensors: prefixed.collect(), ..TensorFile::default() };
    refused(&prefixed, config(&format!("{gru}}}")), "give --prefix rnn.");
}
