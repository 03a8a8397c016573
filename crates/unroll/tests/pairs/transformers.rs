//! Encoder and decoder of Transformer blocks against PyTorch's.

use super::*;

/// Outputs, and gradients of every parameter and of both inputs, as PyTorch's `nn.Transformer` has them
/// (`scripts/pair_vectors.py`).
#[test]
fn transformers_are_pytorchs() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pair_vectors");
    let file =
        unroll_core::weights::TensorFile::read(&folder.join("encdec_transformer.safetensors"));
    let file = file.unwrap();
    let mut options = map(serde_json::from_str(&file.metadata["config"]).unwrap());
    let arch = options.remove("arch").unwrap();
    let architecture = unroll::registry::find(arch.as_str().unwrap()).unwrap();
    for (dtype, form, tolerance) in [
        (DType::F64, Form::Auto, 1e-10),
        (DType::F64, Form::Reference, 1e-10),
        (DType::F32, Form::Auto, 1e-4),
        (DType::F32, Form::Reference, 1e-4),
    ] {
        let model = architecture.build_pair(&options, &BuildContext::cpu(dtype, 0)).unwrap();
        import_beside(model.parameters(), &file, |_| true).unwrap();
        let input = |name: &str| {
            candle_core::Var::from_tensor(&file.get(name).unwrap().to_dtype(dtype).unwrap())
                .unwrap()
        };
        let lengths = |name: &str, longest: usize| {
            let values: Vec<i64> = file.get(name).unwrap().to_vec1().unwrap();
            let values = values.into_iter().map(|length| length as usize).collect();
            Lengths::new(values, BATCH, longest).unwrap()
        };
        let (source, target) = (input("source"), input("target"));
        let of_source = lengths("source_lengths", source.dim(1).unwrap());
        let of_target = lengths("target_lengths", target.dim(1).unwrap());
        let (reads, writes) =
            ((source.as_tensor(), Some(&of_source)), (target.as_tensor(), Some(&of_target)));
        let output = run(model.as_ref(), reads, writes, form, false).output;
        let check = |name: &str, found: &Tensor| {
            let expected = file.get(name).unwrap();
            let error = common::relative_error(found, expected);
            assert!(error <= tolerance, "{name} {dtype:?} {form:?}: {error:e}");
        };
        check("output", &output);
        let weight = file.get("grad_output").unwrap().to_dtype(dtype).unwrap();
        let gradients = (output * weight).unwrap().sum_all().unwrap().backward().unwrap();
        check("grad.source", gradients.get(&source).unwrap());
        check("grad.target", gradients.get(&target).unwrap());
        let mut checked = 0;
        for parameter in model.parameters().iter() {
            if !parameter.name.contains("input_proj") {
                check(&format!("grad.{}", parameter.name), gradients.get(&parameter.var).unwrap());
                checked += 1;
            }
        }
        assert_eq!(checked, 2 * 12 + 2 * 18 + 4);
    }
}

/// What is kept after a source of `S` steps and an answer of `T`.
#[test]
fn the_state_of_transformers_is_as_large_as_their_cost_says() {
    let (source, target) = inputs();
    for (name, model) in models().into_iter().filter(|(name, _)| name.contains("transformer")) {
        let encoded = model.encode(&source, None).unwrap();
        let mut state = encoded.state.clone();
        for t in 0..TARGET {
            let input = target.get_on_dim(1, t).unwrap();
            state = model.step(&input, &encoded, &state).unwrap().1;
        }
        let kept = encoded.states.elem_count() + encoded.memory.elements() + state.elements();
        assert_eq!(model.cost(BATCH, SOURCE, TARGET).state_elements, kept as u64, "{name}");
    }
}
