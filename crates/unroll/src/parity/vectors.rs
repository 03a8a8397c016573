//! PyTorch's outputs, states and gradients, in the program: a machine with a GPU may have nothing else.

use std::path::Path;

use serde_json::{Map, Value};
use unroll_core::weights::TensorFile;
use unroll_core::{Error, Form, Result};

use super::case::{Case, Extent, Work};
use crate::registry;

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../tests/", $folder, "/", $name, ".safetensors")).as_slice())),*]
    };
}

static ONE: [(&str, &[u8]); 14] = files!("vectors":
    "rnn_tanh", "rnn_relu_l2", "gru", "gru_h48", "gru_l2_bi", "lstm", "lstm_h64", "lstm_l2_bi",
    "lstm_nobias_h17", "mha_h4", "mha_causal_pad", "hidden_grad_rnn", "hidden_grad_gru", "hidden_grad_lstm",
);
static PAIRS: [(&str, &[u8]); 1] = files!("pair_vectors": "encdec_transformer");

/// How dL/dh_t is looked at: these fall to 1e-55, which f64 alone holds.
pub(super) const IN_F64: &str = "hidden_grad";

/// A case for each file.
pub(super) fn cases() -> Result<Vec<Case>> {
    let one = ONE.iter().map(|file| (file, false));
    one.chain(PAIRS.iter().map(|file| (file, true))).map(|(file, pair)| case(file, pair)).collect()
}

fn case(&(name, bytes): &(&'static str, &[u8]), pair: bool) -> Result<Case> {
    let file = TensorFile::from_bytes(bytes, Path::new(name))?;
    let text = file.metadata.get("config").map_or("", String::as_str);
    let mut options: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| Error::option("config", format!("{name}: {error}")))?;
    let arch = match options.remove("arch") {
        Some(Value::String(arch)) => arch,
        _ => name.rsplit('_').next().unwrap_or(name).to_owned(),
    };
    let architecture = registry::find(&arch)
        .ok_or_else(|| Error::option("arch", format!("{name}: there is no `{arch}`")))?;
    let dims = file.get(if pair { "target" } else { "x" })?.dims3()?;
    Ok(Case {
        architecture,
        options,
        extent: Extent { batch: dims.0, steps: dims.1, padded: false, carried: false },
        work: if pair { Work::PairVectors(file) } else { Work::Vectors(file) },
        forms: &[Form::Auto, Form::Reference],
        vectors: Some(name),
    })
}
