//! The options of every architecture that change its equations.

use serde_json::{Map, Value, json};
use unroll_core::Architecture;

/// Sizes that options are written for.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Input features.
    pub inputs: usize,
    /// Hidden size.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Steps that a sliding window sees.
    pub window: usize,
    /// Steps for which learned positions are there.
    pub longest: usize,
}

/// Sizes that are odd enough to show mistakes and small enough for finite differences.
pub const SMALL: Sizes = Sizes { inputs: 4, hidden: 8, heads: 2, window: 3, longest: 16 };

/// An architecture of one sequence with its defaults, then with each choice that changes its equations.
pub fn of_sequences(architecture: &dyn Architecture, sizes: Sizes) -> Vec<Map<String, Value>> {
    let known: Vec<&str> = architecture.options().iter().map(|(doc, _)| doc.name).collect();
    let mut all = Vec::new();
    let mut add = |extra: Value| all.push(with_sizes(&known, sizes, extra));
    add(json!({}));
    let own: &[Value] = &match architecture.name() {
        "rnn" => vec![
            json!({"nonlinearity": "relu"}),
            json!({"nonlinearity": "identity", "num_layers": 2}),
            json!({"bidirectional": true, "num_layers": 2, "dropout": 0.3}),
            json!({"bias": false}),
        ],
        "gru" => vec![
            json!({"reset": "before"}),
            json!({"reset": "before", "update_gate": "take_new", "num_layers": 2}),
            json!({"update_gate": "take_new", "bias": false}),
            json!({"bidirectional": true, "num_layers": 2, "dropout": 0.3}),
            json!({"reset": "before", "bias": false}),
        ],
        "lstm" => vec![
            json!({"forget_bias": 1.5, "num_layers": 2}),
            json!({"bidirectional": true, "num_layers": 2, "dropout": 0.3}),
            json!({"bias": false}),
        ],
        // Whatever else is recurrent.
        _ if known.contains(&"bidirectional") => vec![
            json!({"bidirectional": true, "num_layers": 2, "dropout": 0.3}),
            json!({"bias": false}),
        ],
        _ => Vec::new(),
    };
    own.iter().cloned().for_each(&mut add);
    if known.contains(&"causal") {
        add(json!({"causal": false}));
        add(json!({"causal": true}));
    }
    for (key, values) in [
        ("positions", ["none", "sinusoidal", "learned", "rotary"].as_slice()),
        ("base", &["rnn", "gru", "lstm"]),
        ("combine", &["attentional", "context"]),
        ("query", &["previous", "current"]),
    ] {
        if known.contains(&key) {
            values.iter().for_each(|value| add(json!({key: value})));
        }
    }
    for key in ["attention_dropout", "dropout"] {
        let takes_effect = !["rnn", "gru", "lstm"].contains(&architecture.name());
        if known.contains(&key) && takes_effect {
            // Dropout between layers needs two.
            if known.contains(&"num_layers") {
                add(json!({key: 0.3, "num_layers": 2}));
            } else {
                add(json!({key: 0.3}));
            }
        }
    }
    all
}

/// An encoder and decoder with every recurrent layer or way to say positions, with one layer and with two.
pub fn of_pairs(architecture: &dyn Architecture, sizes: Sizes) -> Vec<Map<String, Value>> {
    let known: Vec<&str> = architecture.options().iter().map(|(doc, _)| doc.name).collect();
    let kinds: &[(&str, &str, usize)] = if known.contains(&"base") {
        &[("base", "rnn", 1), ("base", "gru", 2), ("base", "lstm", 1), ("base", "lstm", 2)]
    } else {
        &[
            ("positions", "none", 1),
            ("positions", "sinusoidal", 2),
            ("positions", "learned", 1),
            ("positions", "rotary", 2),
        ]
    };
    let one = |&(option, value, layers): &(&str, &str, usize)| {
        with_sizes(&known, sizes, json!({option: value, "num_layers": layers}))
    };
    kinds.iter().map(one).collect()
}

/// A fusion with every recurrent layer, with both poolings, with one layer and with two.
pub fn of_fusions(
    architecture: &dyn Architecture,
    sizes: Sizes,
    second_inputs: usize,
) -> Vec<Map<String, Value>> {
    let known: Vec<&str> = architecture.options().iter().map(|(doc, _)| doc.name).collect();
    let kinds = [("rnn", 1, "last"), ("gru", 2, "mean"), ("lstm", 1, "mean"), ("gru", 1, "last")];
    let one = |(base, layers, pooling)| {
        let extra = json!({
            "base": base, "num_layers": layers, "pooling": pooling,
            "second_input_size": second_inputs,
        });
        with_sizes(&known, sizes, extra)
    };
    kinds.into_iter().map(one).collect()
}

/// Options with the sizes that the architecture knows.
fn with_sizes(known: &[&str], sizes: Sizes, extra: Value) -> Map<String, Value> {
    let mut options = Map::new();
    for (key, value) in [
        ("input_size", sizes.inputs),
        ("hidden_size", sizes.hidden),
        ("num_heads", sizes.heads),
        ("window", sizes.window),
        ("max_length", sizes.longest),
    ] {
        if known.contains(&key) {
            options.insert(key.into(), value.into());
        }
    }
    if let Value::Object(extra) = extra {
        options.extend(extra);
    }
    options
}
