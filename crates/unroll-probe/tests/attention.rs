//! Profiles of attention against closed forms and against sums over the weights themselves.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use unroll_attention::ARCHITECTURES;
use unroll_core::{BuildContext, ForwardArgs, Lengths, SequenceModel, State};
use unroll_probe::{AttentionProfile, Error, attention_profile, gaussian_input};
use unroll_rnn::RnnConfig;

const INPUTS: usize = 4;

fn input(batch: usize, seq_len: usize) -> Tensor {
    gaussian_input((batch, seq_len, INPUTS), 5, DType::F64, &Device::Cpu).unwrap()
}

/// An architecture with the options that it knows among `wanted`.
fn build(name: &str, wanted: Value) -> Box<dyn SequenceModel> {
    let architecture = ARCHITECTURES.iter().find(|a| a.name() == name).unwrap();
    let known: Vec<&str> = architecture.options().iter().map(|(doc, _)| doc.name).collect();
    let mut options = Map::new();
    options.insert("input_size".into(), json!(INPUTS));
    options.insert("hidden_size".into(), json!(8));
    let Value::Object(wanted) = wanted else { unreachable!("an object") };
    options.extend(wanted.into_iter().filter(|(key, _)| known.contains(&key.as_str())));
    architecture.build(&options, &BuildContext::cpu(DType::F64, 3)).unwrap()
}

fn set(body: &dyn SequenceModel, name: &str, values: Vec<f64>) {
    let parameter = body.parameters().iter().find(|p| p.name == name).unwrap();
    let tensor = Tensor::from_vec(values, parameter.var.shape(), &Device::Cpu).unwrap();
    parameter.var.set(&tensor).unwrap();
}

fn clear(body: &dyn SequenceModel) {
    for parameter in body.parameters().iter() {
        set(body, &parameter.name, vec![0.0; parameter.var.elem_count()]);
    }
}

fn measure(body: &dyn SequenceModel, x: &Tensor) -> Vec<AttentionProfile> {
    attention_profile(body, x, None, None).unwrap()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-12, "{what}: {found} instead of {expected}");
}

/// Without parameters every visible key weighs the same: `ln n` nats of `n` keys.
#[test]
fn uniform_attention() {
    let steps = 9;
    for (name, causal, window) in [
        ("mha", true, steps),
        ("mha", false, steps),
        ("linear", true, steps),
        ("linear", false, steps),
        ("local", true, 4),
        ("transformer", true, steps),
        ("local_transformer", true, 2),
        ("additive", true, steps),
        ("luong_dot", false, steps),
        ("recurrent_local", true, 3),
    ] {
        let body = build(name, json!({"causal": causal, "window": window, "num_heads": 2}));
        clear(body.as_ref());
        let sees = |t: usize, s: usize| !causal || (s <= t && t - s < window);
        let all = || (0..steps).flat_map(|t| (0..steps).map(move |s| (t, s)));
        let counts: Vec<usize> =
            (0..steps).map(|t| (0..steps).filter(|&s| sees(t, s)).count()).collect();
        let choosing: Vec<f64> = counts.iter().filter(|&&n| n > 1).map(|&n| n as f64).collect();
        let entropy = choosing.iter().map(|n| n.ln()).sum::<f64>() / choosing.len() as f64;
        let layout = body.attention_layout().unwrap();
        let profiles = measure(body.as_ref(), &input(3, steps));
        assert_eq!(profiles.len(), layout.layers * layout.heads, "{name}");
        for profile in profiles {
            assert!(profile.proper, "{name}");
            assert_eq!(profile.queries, 3 * choosing.len() as u64, "{name}");
            assert_close(profile.entropy.unwrap(), entropy, name);
            assert_close(profile.normalised_entropy.unwrap(), 1.0, name);
            assert_close(profile.mean_distance.unwrap(), profile.uniform_distance.unwrap(), name);
            for point in &profile.by_visible {
                assert_eq!(point.first, point.last, "{name}");
                assert_close(point.entropy, (point.first as f64).ln(), name);
                let with = counts.iter().filter(|&&n| n == point.first).count();
                assert_eq!(point.queries, 3 * with as u64, "{name}");
            }
            for (distance, point) in profile.by_distance.iter().enumerate() {
                assert_eq!((point.first, point.last), (distance, distance), "{name}");
                let at: Vec<(usize, usize)> =
                    all().filter(|&(t, s)| sees(t, s) && t.abs_diff(s) == distance).collect();
                assert_eq!(point.pairs, 3 * at.len() as u64, "{name} {distance}");
                let mean =
                    at.iter().map(|&(t, _)| 1.0 / counts[t] as f64).sum::<f64>() / at.len() as f64;
                assert_close(point.mean_weight, mean, name);
            }
        }
    }
}

/// A head that looks one step back, and one that looks at its own step.
#[test]
fn heads_that_look_at_one_key() {
    let steps = 6;
    // Two heads of 6 features: the input is the position, one-hot, twice.
    let architecture = ARCHITECTURES.iter().find(|a| a.name() == "mha").unwrap();
    let Value::Object(options) = json!({
        "input_size": 12, "hidden_size": 12, "num_heads": 2, "causal": true, "bias": false,
    }) else {
        unreachable!("an object")
    };
    let body = architecture.build(&options, &BuildContext::cpu(DType::F64, 0)).unwrap();
    let mut weights = vec![0.0; 36 * 12];
    for feature in 0..6 {
        if feature + 1 < 6 {
            weights[feature * 12 + feature + 1] = 100.0; // Query of head 0: the step before.
        }
        weights[(6 + feature) * 12 + 6 + feature] = 100.0; // Query of head 1: the step itself.
        weights[(12 + feature) * 12 + feature] = 100.0; // Keys: the steps.
        weights[(18 + feature) * 12 + 6 + feature] = 100.0;
    }
    set(body.as_ref(), "in_proj_weight", weights);
    let row = |t: usize| (0..12).map(move |f| if f % 6 == t { 1.0 } else { 0.0 });
    let x: Vec<f64> = (0..steps).flat_map(row).collect();
    let x = Tensor::from_vec(x, (1, steps, 12), &Device::Cpu).unwrap();
    let profiles = measure(body.as_ref(), &x);
    for (head, distance) in [(0, 1), (1, 0)] {
        let profile = &profiles[head];
        assert_eq!((profile.layer, profile.head, profile.queries), (0, head, 5));
        assert_close(profile.entropy.unwrap(), 0.0, "entropy");
        assert_close(profile.mean_distance.unwrap(), distance as f64, "distance");
        // Queries at 1..=5 see on average half of 1..=5 steps back.
        assert_close(profile.uniform_distance.unwrap(), 1.5, "uniform distance");
        assert_close(profile.by_distance[distance].mean_weight, 1.0, "weight");
        assert_close(profile.by_distance[3].mean_weight, 0.0, "weight");
    }
    // The first query sees itself alone.
    assert_close(profiles[0].by_distance[0].mean_weight, 1.0 / 6.0, "weight");
}

/// Long sequences: few points, and nothing is lost in them.
#[test]
fn distances_are_binned() {
    let body = build("local", json!({"window": 300}));
    clear(body.as_ref());
    let profile = &measure(body.as_ref(), &input(1, 700))[0];
    assert_eq!(profile.by_distance.len(), 64 + 32 + 3);
    assert_eq!(profile.by_distance.last().unwrap().last, 299);
    assert_eq!(profile.by_visible.last().unwrap().last, 300);
    let mut next = 0;
    for point in &profile.by_distance {
        assert_eq!(point.first, next);
        next = point.last + 1;
        let pairs: usize = (point.first..=point.last).map(|distance| 700 - distance).sum();
        assert_eq!(point.pairs, pairs as u64);
    }
    let queries: u64 = profile.by_visible.iter().map(|point| point.queries).sum();
    assert_eq!((queries, profile.queries), (699, 699));
}

#[test]
fn a_window_of_one_has_no_choice() {
    let body = build("local", json!({"window": 1}));
    let profile = &measure(body.as_ref(), &input(2, 5))[0];
    assert_eq!((profile.queries, profile.entropy, profile.mean_distance), (0, None, None));
    assert_eq!((profile.by_distance.len(), profile.by_visible.len()), (1, 0));
    assert_eq!(profile.by_distance[0].mean_weight, 1.0);
}

/// Rotated features give weights of both signs: no entropy, but a profile.
#[test]
fn signed_weights_have_no_entropy() {
    let body = build("linear_transformer", json!({"positions": "rotary", "num_heads": 2}));
    let x = (input(2, 40) * 3.0).unwrap();
    let profiles = measure(body.as_ref(), &x);
    let improper: Vec<&AttentionProfile> = profiles.iter().filter(|p| !p.proper).collect();
    assert!(!improper.is_empty(), "none of the weights is negative");
    for profile in improper {
        assert_eq!((profile.entropy, profile.normalised_entropy), (None, None));
        assert_eq!((profile.mean_distance, profile.by_visible.len()), (None, 0));
        assert_eq!(profile.by_distance.len(), 40);
    }
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let x = input(2, 6);
    let rnn = RnnConfig { input_size: INPUTS, hidden_size: 4, ..RnnConfig::default() };
    let rnn = unroll_core::ModelConfig::build(&rnn, &BuildContext::cpu(DType::F64, 0)).unwrap();
    assert!(measure(rnn.as_ref(), &x).is_empty(), "no attention, no profile");

    let body = build("mha", json!({"causal": true}));
    let wrong = input(2, 6).narrow(2, 0, 3).unwrap();
    let found = attention_profile(body.as_ref(), &wrong, None, None);
    assert!(matches!(found, Err(Error::Model(unroll_core::Error::Shape { .. }))));
    let nan = x.affine(f64::NAN, 0.0).unwrap();
    let found = attention_profile(body.as_ref(), &nan, None, None);
    assert!(matches!(found, Err(Error::Model(unroll_core::Error::NotFinite { .. }))));
    let state = body.forward(&ForwardArgs::new(&input(3, 6))).unwrap().state;
    let found = attention_profile(body.as_ref(), &x, None, Some(&state));
    assert!(matches!(found, Err(Error::Model(unroll_core::Error::Shape { .. }))));

    for name in ["linear", "linear_transformer", "recurrent_linear"] {
        let body = build(name, json!({}));
        let state = body.forward(&ForwardArgs::new(&x)).unwrap().state;
        let found = attention_profile(body.as_ref(), &x, None, Some(&state));
        assert!(matches!(found, Err(Error::Unsupported(_))), "{name}");
        let zero = body.zero_state(2).unwrap();
        assert!(attention_profile(body.as_ref(), &x, None, Some(&zero)).is_ok(), "{name}");
    }
}

/// What a profile holds, from the weights `(B, N, T, S)` of one layer by plain sums.
fn by_sums(
    weights: &[Vec<Vec<f64>>],
    lengths: &[usize],
    sees: impl Fn(usize, usize) -> bool,
) -> (f64, f64, f64, Vec<f64>) {
    let (mut entropy, mut normalised, mut distance, mut queries) = (0.0, 0.0, 0.0, 0.0);
    let mut profile: Vec<(f64, f64)> = Vec::new();
    for (rows, &length) in weights.iter().zip(lengths) {
        let cached = rows[0].len() - rows.len();
        for (t, row) in rows.iter().take(length).enumerate() {
            let at = cached + t;
            let seen: Vec<usize> = (0..cached + length).filter(|&s| sees(at, s)).collect();
            let total: f64 = seen.iter().map(|&s| row[s]).sum();
            for &s in &seen {
                let d = at.abs_diff(s);
                profile.resize(profile.len().max(d + 1), (0.0, 0.0));
                profile[d].0 += row[s] / total;
                profile[d].1 += 1.0;
            }
            if seen.len() > 1 {
                queries += 1.0;
                let own: f64 = seen
                    .iter()
                    .map(|&s| row[s] / total)
                    .filter(|&p| p > 0.0)
                    .map(|p| -p * p.ln())
                    .sum();
                entropy += own;
                normalised += own / (seen.len() as f64).ln();
                distance +=
                    seen.iter().map(|&s| row[s] / total * at.abs_diff(s) as f64).sum::<f64>();
            }
        }
    }
    let profile = profile.into_iter().map(|(sum, count)| sum / count).collect();
    (entropy / queries, normalised / queries, distance / queries, profile)
}

/// Long sequences are asked piece by piece: the profile is that of all weights at once.
#[test]
fn pieces_are_the_whole() {
    for (name, wanted) in [
        ("mha", json!({"causal": true})),
        ("local_transformer", json!({"window": 40})),
        ("luong_general", json!({"causal": true})),
        ("linear", json!({"causal": true})),
        ("mha", json!({"causal": false})),
    ] {
        let body = build(name, wanted);
        let x = (input(2, 530) * 2.0).unwrap();
        let lengths = Lengths::new(vec![530, 257], 2, 530).unwrap();
        let profiles = attention_profile(body.as_ref(), &x, Some(&lengths), None).unwrap();
        let args = ForwardArgs { lengths: Some(&lengths), ..ForwardArgs::new(&x) };
        let attention = body.forward(&ForwardArgs { attention: true, ..args }).unwrap().attention;
        let visibility = body.attention_layout().unwrap().visibility;
        for profile in &profiles {
            let weights = attention[profile.layer].narrow(1, profile.head, 1).unwrap();
            let weights: Vec<Vec<Vec<f64>>> = weights.squeeze(1).unwrap().to_vec3().unwrap();
            let sees = |t, s| visibility.sees(t, s);
            let (entropy, normalised, distance, by_distance) =
                by_sums(&weights, lengths.as_slice(), sees);
            let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-10, "{name}: {a} {b}");
            close(profile.entropy.unwrap(), entropy);
            close(profile.normalised_entropy.unwrap(), normalised);
            close(profile.mean_distance.unwrap(), distance);
            for (point, expected) in profile.by_distance.iter().zip(&by_distance) {
                if point.last < 64 {
                    close(point.mean_weight, *expected);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Profiles are sums over the weights that a forward pass gives, over padded batches and after
    /// cached steps.
    #[test]
    fn profiles_are_those_of_the_weights(
        index in 0..ARCHITECTURES.len(),
        causal in any::<bool>(),
        window in 1..6usize,
        lengths in prop::collection::vec(1..9usize, 1..4),
        longer in 0..3usize,
        past in 0..7usize,
        scale in 0.5..4.0f64,
    ) {
        let name = ARCHITECTURES[index].name();
        let body = build(name, json!({"causal": causal, "window": window, "num_heads": 2}));
        let local = name.contains("local");
        let causal = body.is_causal();
        let window = if local { window } else { usize::MAX };
        let (batch, seq_len) = (lengths.len(), lengths.iter().max().unwrap() + longer);
        let lengths = Lengths::new(lengths, batch, seq_len).unwrap();
        let x = (input(batch, seq_len) * scale).unwrap();
        let state: Option<State> = (past > 0 && causal && !name.contains("linear")).then(|| {
            let earlier = gaussian_input((batch, past, INPUTS), 6, DType::F64, &Device::Cpu);
            body.forward(&ForwardArgs::new(&earlier.unwrap())).unwrap().state
        });
        let profiles =
            attention_profile(body.as_ref(), &x, Some(&lengths), state.as_ref()).unwrap();
        let args = ForwardArgs {
            lengths: Some(&lengths), state: state.as_ref(), attention: true, ..ForwardArgs::new(&x)
        };
        let attention = body.forward(&args).unwrap().attention;
        let heads = attention[0].dim(1).unwrap();
        prop_assert_eq!(profiles.len(), attention.len() * heads);
        let sees = |t: usize, s: usize| !causal || (s <= t && t - s < window);
        for profile in &profiles {
            prop_assert!(profile.proper);
            let weights = attention[profile.layer].narrow(1, profile.head, 1).unwrap();
            let weights: Vec<Vec<Vec<f64>>> = weights.squeeze(1).unwrap().to_vec3().unwrap();
            let (entropy, normalised, distance, by_distance) =
                by_sums(&weights, lengths.as_slice(), sees);
            let close = |a: f64, b: f64| (a - b).abs() < 1e-11;
            if profile.queries > 0 {
                prop_assert!(close(profile.entropy.unwrap(), entropy), "{name}");
                prop_assert!(close(profile.normalised_entropy.unwrap(), normalised));
                prop_assert!(close(profile.mean_distance.unwrap(), distance));
                prop_assert!((0.0..=1.0 + 1e-12).contains(&profile.normalised_entropy.unwrap()));
            } else {
                prop_assert!(entropy.is_nan() && profile.entropy.is_none());
            }
            prop_assert_eq!(profile.by_distance.len(), by_distance.len());
            let mut total = 0.0;
            for (point, expected) in profile.by_distance.iter().zip(&by_distance) {
                prop_assert!(close(point.mean_weight, *expected), "{name}");
                total += point.mean_weight * point.pairs as f64;
            }
            // Every query spends a weight of 1.
            let all: usize = lengths.as_slice().iter().sum();
            prop_assert!((total - all as f64).abs() < 1e-10);
            // Entropy by visible keys is the same mean, cut up.
            let parts = profile.by_visible.iter().map(|p| p.entropy * p.queries as f64);
            let whole = profile.entropy.unwrap_or(0.0) * profile.queries as f64;
            prop_assert!((parts.sum::<f64>() - whole).abs() < 1e-10);
        }
    }
}
