//! `unroll eval`.

use super::*;

fn eval(weights: &Path, out: &Path, extra: &[&str]) -> assert_cmd::assert::Assert {
    unroll()
        .args(["eval", "--arch", "lstm", "--weights"])
        .arg(weights)
        .arg("--input")
        .arg(weights)
        .arg("--output")
        .arg(out)
        .args(extra)
        .assert()
}

#[test]
fn eval_writes_what_the_contract_says() {
    let folder = Folder::new();
    let (file, out) = (vectors().join("lstm.safetensors"), folder.0.path().join("y.safetensors"));
    eval(&file, &out, &["--grad", "--dtype", "f64"]).success();
    let y = TensorFile::read(&out).unwrap();
    let expected = TensorFile::read(&file).unwrap();
    for name in ["output", "h_n", "c_n", "grad.x", "grad.h0", "grad.c0", "grad.bias_hh_l0"] {
        assert!(common::relative_error(y.get(name).unwrap(), expected.get(name).unwrap()) < 1e-10);
    }
    eval(&file, &out, &["--probe", "last", "--reference"]).success();
    assert_eq!(TensorFile::read(&out).unwrap().get("grad_h").unwrap().dims(), [3, 7, 6]);
}

#[test]
fn eval_refuses_bad_files() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.path().join(name);
    let good = std::fs::read(vectors().join("lstm.safetensors")).unwrap();
    let out = path("y.safetensors");

    let truncated = path("truncated.safetensors");
    std::fs::write(&truncated, &good[..good.len() / 2]).unwrap();
    eval(&truncated, &out, &[]).code(2).stderr(predicate::str::contains("truncated.safetensors"));

    let mut file = TensorFile::read(&vectors().join("lstm.safetensors")).unwrap();
    let bias = file.tensors["bias_ih_l0"].clone();
    file.tensors.insert("bias_ih_l0".into(), (&bias * f64::NAN).unwrap());
    let nan = path("nan.safetensors");
    std::fs::write(&nan, file.to_bytes().unwrap()).unwrap();
    eval(&nan, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    file.tensors.insert("bias_ih_l0".into(), bias.narrow(0, 0, 5).unwrap());
    let shape = path("shape.safetensors");
    std::fs::write(&shape, file.to_bytes().unwrap()).unwrap();
    eval(&shape, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    file.tensors.remove("bias_ih_l0");
    let missing = path("missing.safetensors");
    std::fs::write(&missing, file.to_bytes().unwrap()).unwrap();
    eval(&missing, &out, &[]).code(2).stderr(predicate::str::contains("bias_ih_l0"));

    let good = vectors().join("lstm.safetensors");
    eval(&good, &out, &["--config", "{\"hidden_size\": 7}"]).code(2);
    // Long lines are wrapped on output.
    let wrong = eval(&good, &out, &["--config", "{\"hidden_sise\": 7}"]).code(2);
    wrong
        .stderr(predicate::str::contains("no option `hidden_sise`: did you mean"))
        .stderr(predicate::str::contains("`hidden_size`? The names are: "));
    let parity = ["parity", "--quick", "--arch", "lstn"];
    unroll().args(parity).assert().code(2).stderr(predicate::str::contains("did you mean `lstm`?"));
    eval(&good, &out, &["--config", "nonsense"]).code(2).stderr(predicate::str::contains("JSON"));
    eval(&good, &out, &["--device", "tpu"]).code(2).stderr(predicate::str::contains("tpu"));
    eval(&path("none.safetensors"), &out, &[]).code(2);
    eval(&vectors().join("gru.safetensors"), &out, &[])
        .code(2)
        .stderr(predicate::str::contains("`gru`"));
    assert!(!out.exists());
}
