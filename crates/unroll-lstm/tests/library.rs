//! The layer as a dependency: what a program that uses the crates by themselves relies on.

#[path = "../examples/library.rs"]
mod example;

use candle_core::{DType, Device, Tensor};
use unroll_core::weights::{TensorFile, export, import, import_beside};
use unroll_core::{
    BuildContext, Error, ForwardArgs, Lengths, ModelConfig, SequenceModel, State, StateTensor,
};
use unroll_lstm::LstmConfig;

fn config() -> LstmConfig {
    LstmConfig { input_size: 3, hidden_size: 4, ..Default::default() }
}

fn build(config: &LstmConfig) -> Box<dyn SequenceModel> {
    config.build(&BuildContext::cpu(DType::F32, 1)).unwrap()
}

fn zeros(shape: &[usize], dtype: DType) -> Tensor {
    Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("this is wrong").to_string()
}

/// What README.md shows runs, and is what stands there.
#[test]
fn the_readme_has_the_example() {
    example::main().unwrap();
    let example = include_str!("../examples/library.rs");
    let shown = example.split_once("// README: begin\n").unwrap().1;
    let shown = shown.split_once("// README: end").unwrap().0.replace("pub(crate) fn", "fn");
    let readme = include_str!("../../../README.md");
    assert!(readme.contains(&format!("```rust\n{shown}```")), "README.md has other code");
    assert!(readme.contains(&format!("candle-core = \"{}\"", candle_version())), "another candle");
}

/// The version that the workspace names.
fn candle_version() -> &'static str {
    let manifest = include_str!("../../../Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("candle-core = ")).unwrap();
    line.split('"').nth(1).unwrap()
}

#[test]
fn an_export_is_a_snapshot() {
    let lstm = build(&config());
    let before = export(lstm.parameters()).unwrap();
    let bytes = before.to_bytes().unwrap();
    for var in lstm.parameters().vars() {
        var.set(&(var.as_tensor() + 1.0).unwrap()).unwrap();
    }
    assert!(before.to_bytes().unwrap() == bytes, "it changed with the model");
    assert!(export(lstm.parameters()).unwrap().to_bytes().unwrap() != bytes);
    import(lstm.parameters(), &before).unwrap();
    assert!(export(lstm.parameters()).unwrap().to_bytes().unwrap() == bytes);
    // Tensors that share the variables' memory go in as well.
    let own = lstm.parameters().iter().map(|p| (p.name.clone(), p.var.as_detached_tensor()));
    import(lstm.parameters(), &TensorFile { tensors: own.collect(), ..before }).unwrap();
}

#[test]
fn files_are_written_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lstm.safetensors");
    let lstm = build(&config());
    let file = export(lstm.parameters()).unwrap();
    file.write(&path).unwrap();
    file.write(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == file.to_bytes().unwrap());
    assert!(matches!(file.write(folder.path()), Err(Error::Io { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let beside = folder
        .path()
        .parent()
        .unwrap()
        .join(format!("{}.new", folder.path().file_name().unwrap().to_str().unwrap()));
    assert!(!beside.exists());
}

#[test]
fn weights_of_another_model_are_refused() {
    let lstm = build(&config());
    let before = export(lstm.parameters()).unwrap().to_bytes().unwrap();

    let two = export(build(&LstmConfig { num_layers: 2, ..config() }).parameters()).unwrap();
    let text = message(import(lstm.parameters(), &two));
    assert!(text.contains("has no `bias_hh_l1`, `bias_ih_l1`, `weight_hh_l1`"), "{text}");
    import_beside(lstm.parameters(), &two, |name| name.ends_with("_l1")).unwrap();
    let restored = TensorFile::from_bytes(&before, "before".as_ref()).unwrap();
    import(lstm.parameters(), &restored).unwrap();

    let without = build(&LstmConfig { bias: false, ..config() });
    let text = message(import(without.parameters(), &export(lstm.parameters()).unwrap()));
    assert!(text.contains("has no `bias_hh_l0`, `bias_ih_l0`"), "{text}");

    let mut whole = export(lstm.parameters()).unwrap();
    whole.tensors.insert("bias_hh_l0".into(), zeros(&[16], DType::U32));
    let text = message(import(lstm.parameters(), &whole));
    assert_eq!(text, "`bias_hh_l0` has type u32, expected a floating-point type");

    let mut prefixed = TensorFile::default();
    for (name, tensor) in restored.tensors {
        prefixed.tensors.insert(format!("rnn.{name}"), tensor);
    }
    let text = message(import(lstm.parameters(), &prefixed));
    assert!(text.contains("take away the prefix `rnn.`"), "{text}");
    assert!(
        export(lstm.parameters()).unwrap().to_bytes().unwrap() == before,
        "a refusal set weights"
    );
    prefixed.tensors.insert("head.weight".into(), zeros(&[1, 4], DType::F32));
    import(lstm.parameters(), &prefixed.under("rnn.")).unwrap();
}

#[test]
fn configurations_are_checked_when_built() {
    let context = BuildContext::cpu(DType::F32, 1);
    let wrong = [
        LstmConfig { bias: false, forget_bias: Some(1.0), ..config() },
        LstmConfig { forget_bias: Some(f64::NAN), ..config() },
    ];
    for config in wrong {
        let text = message(config.build(&context));
        assert!(text.starts_with("option `forget_bias`"), "{text}");
    }
}

#[test]
fn inputs_of_another_type_or_batch_are_named() {
    let lstm = build(&config());
    let wide = zeros(&[2, 5, 3], DType::F64);
    let expected = "`x` has type f64, expected f32, as the model's parameters";
    assert_eq!(message(lstm.forward(&ForwardArgs::new(&wide))), expected);
    let state = lstm.zero_state(2).unwrap();
    assert_eq!(message(lstm.step(&zeros(&[2, 3], DType::F64), &state)), expected);
    let text = message(lstm.step(&zeros(&[2, 4], DType::F32), &state));
    assert_eq!(text, "`x` has shape [2, 4], expected (batch > 0, 3 features)");

    let x = zeros(&[2, 5, 3], DType::F32);
    let lengths = Lengths::new(vec![3, 7], 2, 7).unwrap();
    let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&x) };
    let text = message(lstm.forward(&args));
    assert!(text.contains("length 7; lengths must lie in 1..=5"), "{text}");
}

#[test]
fn a_state_of_another_model_is_named() {
    let lstm = build(&config());
    let x = zeros(&[2, 5, 3], DType::F32);
    let of = |name, dtype| StateTensor {
        name,
        tensor: zeros(&[1, 2, 4], dtype),
        batch_axis: 1,
        time_axis: None,
    };
    let run = |tensors| {
        let state = State::new(tensors, 0);
        message(lstm.forward(&ForwardArgs { state: Some(&state), ..ForwardArgs::new(&x) }))
    };
    let text = run(vec![of("h", DType::F32)]);
    assert_eq!(text, "tensor `c` is missing; the state holds: h");
    let text = run(vec![of("h", DType::F64), of("c", DType::F32)]);
    assert_eq!(text, "`h0` has type f64, expected f32, as the model's parameters");
}
