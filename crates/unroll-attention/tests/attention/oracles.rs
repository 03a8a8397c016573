//! Naive loops in plain Rust beside the tensors.

use serde_json::json;
use unroll_core::{BuildContext, ForwardArgs, ModelConfig, SequenceModel};
use unroll_gru::GruConfig;

use crate::common::{Case, assert_close, input, values, worst};

/// A matrix as rows.
type Rows = Vec<Vec<f64>>;

fn rows(x: &candle_core::Tensor) -> Rows {
    x.to_vec2().unwrap()
}

fn parameter(model: &dyn SequenceModel, name: &str) -> Rows {
    let tensor = model.parameters().get(name).unwrap();
    let columns = tensor.dims().last().copied().unwrap();
    rows(&tensor.reshape(((), columns)).unwrap())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn apply(weight: &Rows, x: &[f64]) -> Vec<f64> {
    weight.iter().map(|row| dot(row, x)).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / total).collect()
}

fn mean(weights: &[f64], values: &[&[f64]]) -> Vec<f64> {
    let mut sum = vec![0.0; values[0].len()];
    for (weight, value) in weights.iter().zip(values) {
        for (sum, value) in sum.iter_mut().zip(*value) {
            *sum += weight * value;
        }
    }
    sum
}

#[track_caller]
fn assert_rows(found: &candle_core::Tensor, expected: &Rows, what: &str) {
    let difference = worst(&rows(&found.get(0).unwrap()).concat(), &expected.concat());
    assert!(difference < 1e-11, "{what}: {difference:e}");
}

/// Multi-head attention of one sequence: who sees whom is `visible(i, j)`.
fn naive_mha(
    model: &dyn SequenceModel,
    x: &Rows,
    heads: usize,
    visible: impl Fn(usize, usize) -> bool,
) -> Rows {
    let weight = parameter(model, "in_proj_weight");
    let bias = parameter(model, "in_proj_bias").concat();
    let out_weight = parameter(model, "out_proj.weight");
    let out_bias = parameter(model, "out_proj.bias").concat();
    let hidden = out_bias.len();
    let size = hidden / heads;
    let packed: Rows = x
        .iter()
        .map(|x| apply(&weight, x).iter().zip(&bias).map(|(a, b)| a + b).collect())
        .collect();
    let part = |t: usize, block: usize, head: usize| {
        let start = block * hidden + head * size;
        &packed[t][start..start + size]
    };
    let mut outputs = Vec::new();
    for i in 0..x.len() {
        let mut joined = Vec::new();
        for head in 0..heads {
            let seen: Vec<usize> = (0..x.len()).filter(|&j| visible(i, j)).collect();
            let scores: Vec<f64> = seen
                .iter()
                .map(|&j| dot(part(i, 0, head), part(j, 1, head)) / (size as f64).sqrt())
                .collect();
            let values: Vec<&[f64]> = seen.iter().map(|&j| part(j, 2, head)).collect();
            joined.extend(mean(&softmax(&scores), &values));
        }
        outputs
            .push(apply(&out_weight, &joined).iter().zip(&out_bias).map(|(a, b)| a + b).collect());
    }
    outputs
}

#[test]
fn multi_head_attention_is_its_loops() {
    let options = json!({"input_size": 8, "hidden_size": 8, "num_heads": 2});
    // Longer than one block of queries.
    for seq_len in [1, 6, 150] {
        let check = |case: Case, visible: &dyn Fn(usize, usize) -> bool| {
            let model = case.build();
            let x = input(&*model, 1, seq_len);
            let found = model.forward(&ForwardArgs::new(&x)).unwrap().output;
            let expected = naive_mha(&*model, &rows(&x.get(0).unwrap()), 2, visible);
            assert_rows(&found, &expected, &format!("{case:?}, T = {seq_len}"));
        };
        let mha = Case::new("mha", options.clone());
        check(mha.clone(), &|_, _| true);
        check(mha.with("causal", true), &|i, j| j <= i);
        for window in [1, 5, 40] {
            let local = Case::new("local", options.clone()).with("window", window);
            check(local, &|i, j| j <= i && i - j < window);
        }
    }
}

#[test]
fn a_wide_window_is_causal_attention() {
    let options = json!({"input_size": 3, "hidden_size": 8, "num_heads": 2});
    let (local, causal) = (Case::new("local", options.clone()), Case::new("mha", options));
    for (window, seq_len) in [(7, 7), (200, 150), (9, 1)] {
        let local = local.with("window", window).build();
        let causal = causal.with("causal", true).build();
        let x = input(&*local, 2, seq_len);
        let outputs = [&local, &causal].map(|m| m.forward(&ForwardArgs::new(&x)).unwrap().output);
        assert_close(&outputs[0], &outputs[1], 1e-12, "window");
    }
}

#[test]
fn linear_attention_is_its_recurrence() {
    let options = json!({"input_size": 4, "hidden_size": 4, "num_heads": 1, "bias": false});
    let model = Case::new("linear", options).build();
    let (weight, out) =
        (parameter(&*model, "in_proj_weight"), parameter(&*model, "out_proj.weight"));
    let phi = |x: &[f64]| -> Vec<f64> {
        x.iter().map(|&x| if x > 0.0 { x + 1.0 } else { x.exp() }).collect()
    };
    // Longer than one block.
    let x = input(&*model, 1, 130);
    let (mut s, mut z) = (vec![vec![0.0; 4]; 4], [0.0; 4]);
    let mut expected = Vec::new();
    for x in rows(&x.get(0).unwrap()) {
        let packed = apply(&weight, &x);
        let (q, k, v) = (phi(&packed[..4]), phi(&packed[4..8]), &packed[8..]);
        for i in 0..4 {
            z[i] += k[i];
            for j in 0..4 {
                s[i][j] += k[i] * v[j];
            }
        }
        let denominator = dot(&q, &z) + 1e-6;
        let context: Vec<f64> =
            (0..4).map(|j| (0..4).map(|i| q[i] * s[i][j]).sum::<f64>() / denominator).collect();
        expected.push(apply(&out, &context));
    }
    let found = model.forward(&ForwardArgs::new(&x)).unwrap();
    assert_rows(&found.output, &expected, "linear");
    assert_eq!(found.state.get("s").unwrap().dims(), [1, 1, 1, 4, 4]);
}

/// A model over GRU states, and those states of one sequence.
fn with_states(case: &Case, seq_len: usize) -> (Box<dyn SequenceModel>, Rows, Rows) {
    let model = case.build();
    let config = GruConfig {
        input_size: model.input_size(),
        hidden_size: model.output_size(),
        ..GruConfig::default()
    };
    let base = config.build(&BuildContext::cpu(model.dtype(), 0)).unwrap();
    for parameter in base.parameters().iter() {
        let value = model.parameters().get(&format!("base.{}", parameter.name)).unwrap();
        parameter.var.set(&value.copy().unwrap()).unwrap();
    }
    let x = input(&*model, 1, seq_len);
    let states = base.forward(&ForwardArgs::new(&x)).unwrap().output;
    let output = model.forward(&ForwardArgs::new(&x)).unwrap().output;
    let states = rows(&states.get(0).unwrap());
    (model, states, rows(&output.get(0).unwrap()))
}

/// Attention over states with any score, one query after the other.
fn naive_over_states(
    model: &dyn SequenceModel,
    states: &Rows,
    (causal, previous, attentional): (bool, bool, bool),
    score: impl Fn(&[f64], &[f64]) -> f64,
) -> Rows {
    let zero = vec![0.0; states[0].len()];
    (0..states.len())
        .map(|t| {
            let query = match (previous, t) {
                (false, _) => &states[t],
                (true, 0) => &zero,
                (true, _) => &states[t - 1],
            };
            let end = if causal { t + 1 } else { states.len() };
            let scores: Vec<f64> = states[..end].iter().map(|h| score(query, h)).collect();
            let seen: Vec<&[f64]> = states[..end].iter().map(Vec::as_slice).collect();
            let context = mean(&softmax(&scores), &seen);
            if !attentional {
                return context;
            }
            let both = [context, states[t].clone()].concat();
            let combine = parameter(model, "combine.weight");
            apply(&combine, &both).into_iter().map(f64::tanh).collect()
        })
        .collect()
}

fn check_over_states<F: Fn(&[f64], &[f64]) -> f64>(
    name: &'static str,
    previous: bool,
    score: impl Fn(&dyn SequenceModel) -> F,
) {
    let base = Case::new(name, json!({"input_size": 3, "hidden_size": 5}));
    for (causal, combine) in [(true, "attentional"), (false, "context")] {
        let mut case = base.with("causal", causal).with("combine", combine);
        if name == "additive" {
            case = case.with("query", if previous { "previous" } else { "current" });
        }
        // Longer than one block of queries.
        for seq_len in [1, 7, 70] {
            let (model, states, found) = with_states(&case, seq_len);
            let kind = (causal, previous, combine == "attentional");
            let expected = naive_over_states(&*model, &states, kind, score(&*model));
            let difference = worst(&found.concat(), &expected.concat());
            assert!(difference < 1e-11, "{case:?}, T = {seq_len}: {difference:e}");
        }
    }
}

#[test]
fn additive_attention_is_its_loops() {
    for previous in [true, false] {
        check_over_states("additive", previous, |model| {
            let query = parameter(model, "attention.query.weight");
            let key = parameter(model, "attention.key.weight");
            let v = parameter(model, "attention.score.weight").concat();
            move |s: &[f64], h: &[f64]| {
                let sums: Vec<f64> = apply(&query, s)
                    .iter()
                    .zip(apply(&key, h))
                    .map(|(a, b)| (a + b).tanh())
                    .collect();
                dot(&v, &sums)
            }
        });
    }
}

#[test]
fn scalar_additive_attention_is_its_loops() {
    check_over_states("additive_scalar", false, |model| {
        let weight = parameter(model, "attention.energy.weight").concat();
        let bias = values(model.parameters().get("attention.energy.bias").unwrap())[0];
        move |s: &[f64], h: &[f64]| (dot(&weight, &[s, h].concat()) + bias).tanh()
    });
}

#[test]
fn luong_attention_is_its_loops() {
    check_over_states("luong_dot", false, |_| dot);
    check_over_states("luong_general", false, |model| {
        let weight = parameter(model, "attention.general.weight");
        move |s: &[f64], h: &[f64]| dot(s, &apply(&weight, h))
    });
    check_over_states("luong_concat", false, |model| {
        let weight = parameter(model, "attention.concat.weight");
        let v = parameter(model, "attention.score.weight").concat();
        move |s: &[f64], h: &[f64]| {
            let wide: Vec<f64> =
                apply(&weight, &[s, h].concat()).into_iter().map(f64::tanh).collect();
            dot(&v, &wide)
        }
    });
}

#[test]
fn the_scalar_form_gives_the_context_by_default() {
    let case = Case::new("additive_scalar", json!({"input_size": 3, "hidden_size": 5}));
    assert!(case.build().parameters().get("combine.weight").is_err());
    let case = Case::new("luong_dot", json!({"input_size": 3, "hidden_size": 5}));
    assert!(case.build().parameters().get("combine.weight").is_ok());
}

#[test]
fn a_transformer_block_is_its_parts() {
    // One block without positions, written out: x + attention(norm(x)), then x + mlp(norm(x)).
    let options = json!({
        "input_size": 3, "hidden_size": 4, "num_heads": 1, "num_layers": 1, "mlp_ratio": 2,
        "positions": "none", "causal": false
    });
    let model = Case::new("transformer", options).build();
    let get = |name: &str| parameter(&*model, name);
    let add = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
    let linear = |name: &str, x: &[f64]| {
        add(&apply(&get(&format!("{name}.weight")), x), &get(&format!("{name}.bias")).concat())
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let (scale, shift) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        x.iter()
            .zip(scale.concat())
            .zip(shift.concat())
            .map(|((x, a), b)| (x - mean) / (variance + 1e-5).sqrt() * a + b)
            .collect()
    };
    let x = input(&*model, 1, 5);
    let found = model.forward(&ForwardArgs::new(&x)).unwrap().output;
    let embedded: Rows = rows(&x.get(0).unwrap()).iter().map(|x| linear("input_proj", x)).collect();
    let weight = get("layers.0.self_attn.in_proj_weight");
    let bias = get("layers.0.self_attn.in_proj_bias").concat();
    let packed: Rows =
        embedded.iter().map(|x| add(&apply(&weight, &norm("layers.0.norm1", x)), &bias)).collect();
    let values: Vec<&[f64]> = packed.iter().map(|p| &p[8..]).collect();
    let expected: Rows = embedded
        .iter()
        .zip(&packed)
        .map(|(x, own)| {
            let scores: Vec<f64> = packed.iter().map(|p| dot(&own[..4], &p[4..8]) / 2.0).collect();
            let context = mean(&softmax(&scores), &values);
            let x = add(x, &linear("layers.0.self_attn.out_proj", &context));
            let wide = linear("layers.0.linear1", &norm("layers.0.norm2", &x));
            let wide: Vec<f64> = wide.into_iter().map(gelu).collect();
            norm("norm", &add(&x, &linear("layers.0.linear2", &wide)))
        })
        .collect();
    assert_rows(&found, &expected, "block");
}

/// `x Phi(x)`, the distribution function integrated by Simpson's rule.
fn gelu(x: f64) -> f64 {
    let (steps, width) = (2000, x / 2000.0);
    let density = |u: f64| (-u * u / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let sum: f64 = (0..=steps)
        .map(|i| {
            let factor = if i == 0 || i == steps {
                1.0
            } else if i % 2 == 1 {
                4.0
            } else {
                2.0
            };
            factor * density(f64::from(i) * width)
        })
        .sum();
    x * (0.5 + sum * width / 3.0)
}
