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
            arch: config["arch"].as_str().unwrap().to_owned(),
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
                arch: arch.into(),
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
