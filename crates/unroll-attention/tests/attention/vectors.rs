//! PyTorch's `MultiheadAttention` in float64: outputs, weights and all gradients.

use std::path::Path;

use candle_core::{DType, Var};
use serde_json::{Value, json};
use unroll_core::ForwardArgs;
use unroll_core::weights::{TensorFile, import_beside};

use crate::common::{Case, assert_close, gradient, gradients, lengths};

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    let file = TensorFile::read(&path).unwrap();
    let config: Value = serde_json::from_str(&file.metadata["config"]).unwrap();
    let options = json!({
        "input_size": config["embed_dim"],
        "hidden_size": config["embed_dim"],
        "num_heads": config["num_heads"],
        "causal": config["causal"],
    });
    let model = Case::new("mha", options).build();
    import_beside(model.parameters(), &file, |_| true).unwrap();
    let x = Var::from_tensor(file.get("x").unwrap()).unwrap();
    let lengths = file.get("lengths").ok().map(|tensor| {
        let values: Vec<i64> = tensor.to_dtype(DType::I64).unwrap().to_vec1().unwrap();
        let values: Vec<usize> = values.into_iter().map(|l| l as usize).collect();
        lengths(&values, x.dim(1).unwrap())
    });
    let args = ForwardArgs {
        lengths: lengths.as_ref(),
        attention: true,
        ..ForwardArgs::new(x.as_tensor())
    };
    let result = model.forward(&args).unwrap();
    assert_close(&result.output, file.get("output").unwrap(), 1e-10, "output");
    assert_eq!(result.attention.len(), 1);
    assert_close(&result.attention[0], file.get("attn").unwrap(), 1e-10, "weights");

    let store = gradients(&result.output, file.get("grad_output").unwrap());
    assert_close(&gradient(&store, &x), file.get("grad.x").unwrap(), 1e-10, "x");
    let mut compared = 0;
    for parameter in model.parameters().iter() {
        let expected = file.get(&format!("grad.{}", parameter.name)).unwrap();
        assert_close(&gradient(&store, &parameter.var), expected, 1e-10, &parameter.name);
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn four_heads_without_mask() {
    check("mha_h4.safetensors");
}

#[test]
fn causal_and_padded() {
    check("mha_causal_pad.safetensors");
}
