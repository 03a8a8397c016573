//! Baselines against the rules that they stand for, played on the batches as a model sees them.

use serde_json::{Map, Value, json};
use unroll_tasks::{
    Answers, Batch, InputKind, Inputs, Score, Split, Targets, Task, TaskRequest, find,
};

fn task(name: &str, length: usize, options: &Value) -> Box<dyn Task> {
    let options: Map<String, Value> = options.as_object().cloned().unwrap();
    (find(name).unwrap().build)(&TaskRequest { length, seed: 0, options: &options }).unwrap()
}

/// The test metric of a rule that answers batch by batch.
fn play(task: &dyn Task, mut rule: impl FnMut(&Batch) -> Answers) -> f64 {
    let mut score = Score::new(task);
    for batch in task.evaluation(Split::Test, 100) {
        score.add(&batch, &rule(&batch)).unwrap();
    }
    score.value().unwrap()
}

fn baseline(task: &dyn Task, name: &str) -> f64 {
    let baselines = task.baselines();
    baselines.iter().find(|b| b.name == name).unwrap_or_else(|| panic!("{baselines:?}")).value
}

fn tokens(batch: &Batch) -> &[u32] {
    match &batch.inputs {
        Inputs::Tokens(tokens) => tokens,
        _ => panic!("tokens expected"),
    }
}

fn classes(batch: &Batch) -> &[u32] {
    match &batch.targets {
        Targets::Classes(classes) => classes,
        Targets::Values(_) => panic!("classes expected"),
    }
}

/// Answering 1: 1/6 in expectation, for both ways to mark.
#[test]
fn adding() {
    for markers in ["halves", "any"] {
        let task = task("adding", 30, &json!({ "markers": markers, "eval_examples": 40_000 }));
        assert_eq!(baseline(task.as_ref(), "always answer 1"), 1.0 / 6.0);
        let found = play(task.as_ref(), |batch| Answers::Values(vec![1.0; batch.batch_size]));
        assert!((found - 1.0 / 6.0).abs() < 3e-3, "{found}");
    }
}

/// Sure of the blank, at a loss among the eight symbols: equal at every example.
#[test]
fn copy() {
    let task = task("copy", 100, &json!({ "eval_examples": 200 }));
    let found = play(task.as_ref(), |batch| {
        let mut log_probabilities = Vec::new();
        for _ in 0..batch.batch_size {
            for step in 0..batch.seq_len {
                if step < batch.seq_len - 10 {
                    log_probabilities.extend([f32::NEG_INFINITY; 8]);
                    log_probabilities.push(0.0);
                } else {
                    log_probabilities.extend([-(8f32.ln()); 8]);
                    log_probabilities.push(f32::NEG_INFINITY);
                }
            }
        }
        Answers::LogProbabilities(log_probabilities)
    });
    let expected = baseline(task.as_ref(), "no memory: guess each symbol");
    assert!((found - expected).abs() < 1e-7, "{found} for {expected}");
}

#[test]
fn selective_copy() {
    let task = task("selective_copy", 40, &json!({ "symbols": 5, "count": 4 }));
    let found = play(task.as_ref(), |batch| Answers::Classes(vec![2; classes(batch).len()]));
    let expected = baseline(task.as_ref(), "guess a symbol");
    assert_eq!(expected, 0.2);
    assert!((found - expected).abs() < 0.02, "{found}");
}

/// Answering the first value that was shown.
#[test]
fn mqar() {
    let task = task("mqar", 64, &json!({ "pairs": 8 }));
    let found = play(task.as_ref(), |batch| {
        let rows = tokens(batch).chunks(batch.seq_len);
        Answers::Classes(rows.flat_map(|row| vec![row[1]; row.len()]).collect())
    });
    // Each sequence asks for each value once: exact, not on average.
    assert_eq!(found, 1.0 / 8.0);
    assert_eq!(baseline(task.as_ref(), "guess one of the shown values"), found);
    assert_eq!(baseline(task.as_ref(), "guess any token"), 1.0 / 8192.0);
}

#[test]
fn parity() {
    for answer in ["last", "every"] {
        let task = task("parity", 20, &json!({ "answer": answer, "eval_examples": 20_000 }));
        let found = play(task.as_ref(), |batch| Answers::Classes(vec![0; classes(batch).len()]));
        assert!((found - baseline(task.as_ref(), "chance")).abs() < 0.015, "{found}");
    }
    let task = task("parity", 5, &json!({ "answer": "every", "eval_examples": 20_000 }));
    let found = play(task.as_ref(), |batch| Answers::Classes(tokens(batch).to_vec()));
    let expected = baseline(task.as_ref(), "answer the current bit");
    assert_eq!(expected, 0.6);
    assert!((found - expected).abs() < 0.01, "{found}");
}

/// The best answer that does not look at the input is as good as the baseline says.
#[test]
fn formal_languages() {
    for (name, baseline_name, class) in [
        ("even_pairs", "chance", 1),
        ("modular_arithmetic", "most frequent value", 0),
        ("cycle_navigation", "most frequent place", 0),
        ("reverse_string", "chance", 0),
        ("duplicate_string", "chance", 1),
        ("odds_first", "chance", 0),
    ] {
        let task = task(name, 9, &json!({ "eval_examples": 20_000 }));
        let found =
            play(task.as_ref(), |batch| Answers::Classes(vec![class; classes(batch).len()]));
        let expected = baseline(task.as_ref(), baseline_name);
        assert!((found - expected).abs() < 0.015, "{name}: {found} for {expected}");
    }
    let task = task("stack_manipulation", 9, &json!({}));
    let constants = (0..3).map(|class| {
        play(task.as_ref(), |batch| Answers::Classes(vec![class; classes(batch).len()]))
    });
    assert_eq!(constants.fold(0.0, f64::max), baseline(task.as_ref(), "best constant answer"));
}

/// The scaled load of `back` steps before the end of each window, in the metric's unit.
#[test]
fn electricity() {
    for horizon in [1, 24] {
        let task = task("electricity", 168, &json!({ "horizon": horizon }));
        let lagged = |back: usize| {
            play(task.as_ref(), |batch| {
                let Inputs::Values(inputs) = &batch.inputs else { panic!("numbers expected") };
                let windows = inputs.chunks(batch.seq_len * 5);
                Answers::Values(windows.map(|w| w[(batch.seq_len - back) * 5]).collect())
            })
        };
        for (name, lag) in
            [("persistence", horizon), ("seasonal, 24 h", 24), ("seasonal, 168 h", 168)]
        {
            let (found, expected) = (lagged(lag + 1 - horizon), baseline(task.as_ref(), name));
            // The batches hold f32.
            assert!((found - expected).abs() < 1e-3, "{name} at {horizon}: {found}, {expected}");
        }
    }
}

/// The last filled dust of each window, under every metric.
#[test]
fn pm25() {
    for (horizon, metric) in [(6, "rmse"), (6, "mae"), (24, "mase")] {
        let task = task("pm25", 48, &json!({ "horizon": horizon, "metric": metric }));
        let InputKind::Values { features } = task.input() else { panic!("numbers expected") };
        let found = play(task.as_ref(), |batch| {
            let Inputs::Values(inputs) = &batch.inputs else { panic!("numbers expected") };
            let windows = inputs.chunks(batch.seq_len * features);
            Answers::Values(windows.map(|w| w[(batch.seq_len - 1) * features]).collect())
        });
        let expected = baseline(task.as_ref(), "persistence");
        assert!((found - expected).abs() < 1e-3, "{metric} at {horizon}: {found}, {expected}");
    }
}

/// The last value of each window, under every metric, in a file of one column.
#[test]
fn forecast() {
    for (horizon, metric) in [(1, "rmse"), (24, "mae"), (24, "mase")] {
        let options = json!({ "horizon": horizon, "metric": metric, "eval_stride": 5 });
        let task = task("forecast", 48, &options);
        let found = play(task.as_ref(), |batch| {
            let Inputs::Values(inputs) = &batch.inputs else { panic!("numbers expected") };
            Answers::Values(inputs.chunks(batch.seq_len).map(|w| w[batch.seq_len - 1]).collect())
        });
        let expected = baseline(task.as_ref(), "persistence");
        assert!((found - expected).abs() < 1e-3, "{metric} at {horizon}: {found}, {expected}");
    }
}

/// The figures that the data folder's README gives, measured on splits like ours.
#[test]
fn images() {
    for (name, length, ridge) in [("digits", 64, 0.947), ("mnist", 28, 0.839)] {
        let task = task(name, length, &json!({}));
        let found = baseline(task.as_ref(), "ridge regression on all pixels");
        assert!((found - ridge).abs() < 0.02, "{name}: {found}");
        most_frequent_class(task.as_ref(), 0.1);
    }
    // Neither the kind of step nor the order of the pixels says more about the image at once.
    let plain = task("digits", 64, &json!({}));
    for options in [json!({ "permuted": true }), json!({ "by": "row" })] {
        let length = if options.get("by").is_some() { 8 } else { 64 };
        let other = task("digits", length, &options);
        let [a, b] = [&plain, &other].map(|t| t.baselines()[0].value);
        assert!((a - b).abs() < 1e-9, "{a}, {b}");
    }
}

#[test]
fn japanese_vowels() {
    let task = task("japanese_vowels", 29, &json!({}));
    let found = baseline(task.as_ref(), "1-NN DTW, whole official training set");
    assert!((found - 0.949).abs() < 5e-4, "{found}");
    // All speakers are equally frequent in training; the first said 31 of the 370 test vowels.
    most_frequent_class(task.as_ref(), 31.0 / 370.0);
}

/// The data folder's README gives 0.827 for a larger training split.
#[test]
fn spoken_digits() {
    let task = task("spoken_digits", 92, &json!({}));
    let name = "ridge regression on mean and deviation of each channel, order ignored";
    let found = baseline(task.as_ref(), name);
    assert!((found - 0.827).abs() < 0.03, "{found}");
    most_frequent_class(task.as_ref(), 0.1);
}

/// What one modality says, two say better, and a random utterance adds nothing.
#[test]
fn digits_seen_and_heard() {
    let (pixels, moments, both) = (
        "ridge regression on all pixels",
        "ridge regression on mean and deviation of each coefficient",
        "ridge regression on both",
    );
    let name = "digits_seen_and_heard";
    let same = task(name, 92, &json!({}));
    let [seen, heard, fused] = [pixels, moments, both].map(|name| baseline(same.as_ref(), name));
    assert!(fused > seen.max(heard) + 0.05, "{seen}, {heard}, {fused}");
    most_frequent_class(same.as_ref(), 0.1);
    let random = task(name, 92, &json!({ "pairs": "random" }));
    let [seen_too, noise, with_noise] =
        [pixels, moments, both].map(|name| baseline(random.as_ref(), name));
    assert_eq!(seen, seen_too);
    assert!((noise - 0.1).abs() < 0.04 && with_noise < seen + 0.01, "{noise}, {with_noise}");
    // Without noise they are those of the two sets alone.
    let clean = task(name, 92, &json!({ "image_noise": 0, "speech_noise": 0 }));
    let images = baseline(task("mnist", 28, &json!({})).as_ref(), pixels);
    assert_eq!(baseline(clean.as_ref(), pixels), images);
    let speech = baseline(clean.as_ref(), moments);
    assert!((speech - 0.82).abs() < 0.03, "{speech}");
}

/// The baseline is that of some constant answer, and near what it should be.
fn most_frequent_class(task: &dyn Task, expected: f64) {
    let value = baseline(task, "most frequent class");
    assert!((value - expected).abs() < 0.01, "{}: {value}", task.name());
    let constants =
        (0..10).map(|class| play(task, |batch| Answers::Classes(vec![class; batch.batch_size])));
    assert!(constants.into_iter().any(|found| (found - value).abs() < 1e-12), "{value}");
}

#[test]
fn permutation_moves_the_same_pixels_everywhere() {
    let (plain, permuted) =
        (task("digits", 64, &json!({})), task("digits", 64, &json!({ "permuted": true })));
    let columns = |task: &dyn Task| -> Vec<Vec<u32>> {
        let batches = task.evaluation(Split::Test, 64);
        let images: Vec<&[f32]> = batches
            .iter()
            .flat_map(|batch| match &batch.inputs {
                Inputs::Values(values) => values.chunks(64),
                _ => panic!("numbers expected"),
            })
            .collect();
        (0..64).map(|step| images.iter().map(|image| image[step].to_bits()).collect()).collect()
    };
    let (mut before, mut after) = (columns(plain.as_ref()), columns(permuted.as_ref()));
    assert_ne!(before, after);
    before.sort_unstable();
    after.sort_unstable();
    assert_eq!(before, after);
}

#[test]
fn answers_that_do_not_fit_are_errors() {
    let task = task("adding", 10, &json!({ "eval_examples": 10 }));
    let batch = &task.evaluation(Split::Test, 10)[0];
    let mut score = Score::new(task.as_ref());
    assert_eq!(score.value(), None);
    assert!(score.add(batch, &Answers::Values(vec![1.0; 9])).is_err());
    assert!(score.add(batch, &Answers::Classes(vec![1; 10])).is_err());
    assert_eq!(score.value(), None);
}
