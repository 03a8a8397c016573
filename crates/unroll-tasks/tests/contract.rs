//! What every registered task promises, whatever its length and options.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use unroll_tasks::{
    Batch, Better, Error, InputKind, Inputs, Readout, Split, TargetKind, Targets, Task, TaskEntry,
    TaskRequest, find, registry,
};

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

fn options(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().expect("options are a table")
}

/// Small evaluation splits where the task has the option; they are the same for any size.
fn small(entry: &TaskEntry) -> Map<String, Value> {
    let has_size = (entry.options)().iter().any(|(doc, _)| doc.name == "eval_examples");
    options(&if has_size { json!({ "eval_examples": 30 }) } else { json!({}) })
}

fn build(
    entry: &TaskEntry,
    length: usize,
    seed: u64,
    options: &Map<String, Value>,
) -> Box<dyn Task> {
    (entry.build)(&TaskRequest { length, seed, options })
        .unwrap_or_else(|error| panic!("{} at {length}: {error}", entry.name))
}

/// Whether the data of a task are there; says so where they are not: they are fetched when asked for.
fn is_there(entry: &TaskEntry) -> bool {
    let options = Map::new();
    match (entry.build)(&TaskRequest {
        length: length_of(entry, 64, &options),
        seed: 0,
        options: &options,
    }) {
        Err(error @ Error::NotFetched { .. }) => {
            eprintln!("{} is skipped: {error}", entry.name);
            false
        }
        _ => true,
    }
}

/// Whether examples are drawn at any length, and not read from files.
fn is_synthetic(entry: &TaskEntry) -> bool {
    entry.files.is_empty() && !["timeseries", "forecast"].contains(&entry.name)
}

/// A length that the task takes: its own, or `length`.
fn length_of(entry: &TaskEntry, length: usize, options: &Map<String, Value>) -> usize {
    (entry.fixed_length)(options).expect("valid options").unwrap_or(length)
}

/// A batch is as large as it says and holds nothing that its task does not announce.
fn check_batch(task: &dyn Task, batch: &Batch) {
    let name = task.name();
    let (sequences, steps) = (batch.batch_size, batch.batch_size * batch.seq_len);
    match &batch.inputs {
        // The swept length is that of the source.
        Inputs::Pairs(pairs) => assert!(pairs.source_len <= task.seq_len(), "{name}"),
        _ => assert!(batch.seq_len <= task.seq_len(), "{name}"),
    }
    match (task.input(), &batch.inputs) {
        (InputKind::Values { features }, Inputs::Values(values)) => {
            assert_eq!(values.len(), steps * features, "{name}");
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
        (InputKind::Tokens { vocabulary }, Inputs::Tokens(tokens)) => {
            assert_eq!(tokens.len(), steps, "{name}");
            assert!(tokens.iter().all(|&token| (token as usize) < vocabulary), "{name}");
        }
        (InputKind::Pairs { source, target, begin, .. }, Inputs::Pairs(pairs)) => {
            assert_eq!(pairs.source.len(), sequences * pairs.source_len, "{name}");
            assert!(pairs.source.iter().all(|&token| (token as usize) < source), "{name}");
            assert_eq!(pairs.target.len(), steps, "{name}");
            assert!(pairs.target.iter().all(|&token| (token as usize) < target), "{name}");
            let mut rows = pairs.target.chunks(batch.seq_len);
            assert!(rows.all(|row| row[0] == begin), "{name}");
            assert_eq!(pairs.examples.len(), sequences, "{name}");
            if let Some(lengths) = &pairs.source_lengths {
                assert_eq!(lengths.iter().max(), Some(&pairs.source_len), "{name}");
                assert!(lengths.iter().all(|&length| length >= 1), "{name}");
            }
        }
        (InputKind::Modalities { features, steps }, Inputs::Modalities(both)) => {
            for ((modality, features), most) in both.iter().zip(features).zip(steps) {
                let values = &modality.values;
                assert_eq!(values.len(), sequences * modality.seq_len * features, "{name}");
                assert!(values.iter().all(|value| value.is_finite()), "{name}");
                assert!(modality.seq_len <= most, "{name}");
                let longest = (0..sequences).map(|row| modality.length(row)).max();
                assert_eq!(longest, Some(modality.seq_len), "{name}");
            }
            for row in 0..sequences {
                let longer = both[0].length(row).max(both[1].length(row));
                let known = batch.lengths.as_ref().map_or(batch.seq_len, |lengths| lengths[row]);
                assert_eq!(longer, known, "{name}");
            }
        }
        (kind, _) => panic!("{name}: inputs are not {kind:?}"),
    }
    let answers = match task.readout() {
        Readout::Last => sequences,
        Readout::EveryStep => steps,
    };
    match (task.target(), &batch.targets) {
        (TargetKind::Values { outputs }, Targets::Values(values)) => {
            assert_eq!(values.len(), answers * outputs, "{name}");
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
        (TargetKind::Classes { classes }, Targets::Classes(targets)) => {
            assert_eq!(targets.len(), answers, "{name}");
            assert!(targets.iter().all(|&class| (class as usize) < classes), "{name}");
        }
        (kind, _) => panic!("{name}: targets are not {kind:?}"),
    }
    if let Some(weights) = &batch.weights {
        assert_eq!(task.readout(), Readout::EveryStep, "{name}");
        assert_eq!(weights.len(), steps, "{name}");
        assert!(weights.iter().all(|&weight| weight == 0.0 || weight == 1.0), "{name}");
        let answered = weights.chunks(batch.seq_len).all(|row| row.contains(&1.0));
        assert!(answered, "{name}: a sequence without any answer");
    }
    if let Some(lengths) = &batch.lengths {
        assert_eq!(lengths.len(), sequences, "{name}");
        assert_eq!(lengths.iter().max(), Some(&batch.seq_len), "{name}");
        assert!(lengths.iter().all(|&length| length >= 1), "{name}");
    }
}

/// All rows of all batches, each as the bits of its real steps, answers and weights.
fn rows(task: &dyn Task, batches: &[Batch]) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.batch_size {
            let length = batch.lengths.as_ref().map_or(batch.seq_len, |lengths| lengths[row]);
            let mut bits = match &batch.inputs {
                Inputs::Values(values) => {
                    let width = values.len() / batch.batch_size;
                    let real = width / batch.seq_len * length;
                    values[row * width..row * width + real].iter().map(|v| v.to_bits()).collect()
                }
                Inputs::Tokens(tokens) => tokens[row * batch.seq_len..][..length].to_vec(),
                Inputs::Pairs(pairs) => {
                    let lengths = pairs.source_lengths.as_ref();
                    let read = lengths.map_or(pairs.source_len, |lengths| lengths[row]);
                    let source = &pairs.source[row * pairs.source_len..][..read];
                    [source, &pairs.target[row * batch.seq_len..][..length]].concat()
                }
                Inputs::Modalities(both) => both
                    .iter()
                    .flat_map(|modality| {
                        let width = modality.values.len() / batch.batch_size;
                        let real = width / modality.seq_len * modality.length(row);
                        modality.values[row * width..][..real].iter().map(|v| v.to_bits())
                    })
                    .collect(),
            };
            let per_row = match task.readout() {
                Readout::Last => 1,
                // Padding is none of the example.
                Readout::EveryStep if matches!(batch.inputs, Inputs::Pairs(_)) => length,
                Readout::EveryStep => batch.seq_len,
            };
            let first = row * if task.readout() == Readout::Last { 1 } else { batch.seq_len };
            match &batch.targets {
                Targets::Values(values) => {
                    bits.extend(values[first..][..per_row].iter().map(|v| v.to_bits()));
                }
                Targets::Classes(classes) => bits.extend(&classes[first..][..per_row]),
            }
            if let Some(weights) = &batch.weights {
                bits.extend(weights[first..][..per_row].iter().map(|w| w.to_bits()));
            }
            rows.push(bits);
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn synthetic_tasks_keep_their_promises_at_any_length(
        length in 32usize..150, seed: u64, step: u64, batch_size in 1usize..9,
    ) {
        for entry in registry().iter().filter(|entry| is_synthetic(entry)) {
            let options = small(entry);
            let task = build(entry, length, seed, &options);
            let batch = task.train_batch(step, batch_size);
            prop_assert_eq!(batch.batch_size, batch_size);
            // Formal languages draw a length for each string.
            let varied = (entry.options)()
                .iter()
                .any(|(doc, value)| doc.name == "lengths" && *value == json!("uniform"));
            prop_assert!(varied || batch.seq_len == task.seq_len());
            check_batch(task.as_ref(), &batch);
            let again = build(entry, length, seed, &options);
            again.train_batch(step / 2, batch_size);
            prop_assert_eq!(&batch, &again.train_batch(step, batch_size));
            prop_assert_ne!(&batch, &again.train_batch(step ^ 1, batch_size));
            let other = build(entry, length, seed ^ 1, &options);
            prop_assert_ne!(&batch, &other.train_batch(step, batch_size));
            for split in SPLITS {
                let here = task.evaluation(split, batch_size);
                let there = other.evaluation(split, batch_size + 3);
                here.iter().for_each(|batch| check_batch(task.as_ref(), batch));
                let first = task.first_of(split, batch_size);
                prop_assert_eq!(first.as_ref(), here.first());
                prop_assert_eq!(rows(task.as_ref(), &here), rows(other.as_ref(), &there));
            }
        }
    }
}

#[test]
fn data_sets_keep_their_promises() {
    for entry in registry().iter().filter(|entry| !is_synthetic(entry) && is_there(entry)) {
        let options = options(&json!({}));
        let length = length_of(entry, 48, &options);
        let (task, other) = (build(entry, length, 1, &options), build(entry, length, 2, &options));
        for step in [0, 7, 1_000_000] {
            let batch = task.train_batch(step, 33);
            check_batch(task.as_ref(), &batch);
            assert_eq!(batch.batch_size, 33);
            assert_eq!(batch, build(entry, length, 1, &options).train_batch(step, 33));
            assert_ne!(batch, other.train_batch(step, 33), "{}", entry.name);
        }
        let [train, validation, test] = SPLITS.map(|split| {
            let (here, there) = (task.evaluation(split, 64), other.evaluation(split, 7));
            here.iter().for_each(|batch| check_batch(task.as_ref(), batch));
            let rows_here = rows(task.as_ref(), &here);
            assert_eq!(rows_here, rows(other.as_ref(), &there), "{}", entry.name);
            rows_here
        });
        assert_eq!(train.len(), validation.len(), "{}", entry.name);
        if ["text_classification", "fashion_mnist"].contains(&entry.name) {
            // Agencies send some stories twice, and shops show some shirts twice.
            continue;
        }
        // No example of one split is in another.
        for (a, b) in [(&train, &validation), (&train, &test), (&validation, &test)] {
            assert!(a.iter().all(|row| !b.contains(row)), "{}: splits overlap", entry.name);
        }
    }
}

/// One epoch of training batches has each training example, and none of the other splits.
#[test]
fn training_never_meets_the_evaluation_examples() {
    for (name, examples) in [("digits", 1797), ("japanese_vowels", 640), ("spoken_digits", 3000)] {
        let entry = find(name).unwrap();
        let options = options(&json!({}));
        let task = build(entry, length_of(entry, 0, &options), 5, &options);
        let held_out: Vec<Vec<u32>> = [Split::Validation, Split::Test]
            .iter()
            .flat_map(|&split| rows(task.as_ref(), &task.evaluation(split, 50)))
            .collect();
        let train = examples - held_out.len();
        let mut epoch = rows(task.as_ref(), &[task.train_batch(0, train)]);
        assert!(epoch.iter().all(|row| !held_out.contains(row)), "{name}");
        epoch.sort_unstable();
        epoch.dedup();
        assert_eq!(epoch.len(), train, "{name}");
    }
}

#[test]
fn names_options_and_files_are_consistent() {
    let names: Vec<&str> = registry().iter().map(|entry| entry.name).collect();
    // Names are in experiment files and records: none goes away or changes.
    for name in [
        "adding",
        "copy",
        "selective_copy",
        "mqar",
        "parity",
        "even_pairs",
        "modular_arithmetic",
        "cycle_navigation",
        "stack_manipulation",
        "reverse_string",
        "duplicate_string",
        "odds_first",
        "bucket_sort",
        "digits",
        "mnist",
        "fashion_mnist",
        "electricity",
        "japanese_vowels",
        "spoken_digits",
        "digits_seen_and_heard",
        "timeseries",
        "forecast",
        "pm25",
        "text",
        "text_classification",
        "g2p",
        "translation",
    ] {
        assert!(names.contains(&name), "there is no task called `{name}` any more");
    }
    for (index, name) in names.iter().enumerate() {
        assert!(!names[..index].contains(name), "two tasks are called `{name}`");
    }
    assert!(find("addition").is_none());
    for entry in registry() {
        assert_eq!(find(entry.name).map(|found| found.name), Some(entry.name));
        let mut listed: Map<String, Value> = (entry.options)()
            .into_iter()
            .map(|(doc, value)| (doc.name.to_owned(), value))
            .collect();
        let resolved = (entry.resolve)(&Map::new()).unwrap();
        // What is in the files, which only resolving reads.
        for (option, unread) in [("data_hash", json!("")), ("inputs", json!([]))] {
            if let Some(value) = listed.get_mut(option).filter(|value| !value.is_null()) {
                assert_eq!(*value, unread);
                *value = resolved[option].clone();
            }
        }
        // An option without a default is not there.
        listed.retain(|_, value| !value.is_null());
        assert_eq!(resolved, listed, "{}", entry.name);
        assert_eq!((entry.resolve)(&resolved).unwrap(), resolved, "{}", entry.name);
        if !is_there(entry) {
            continue;
        }
        let length = length_of(entry, 64, &resolved);
        let task = build(entry, length, 0, &resolved);
        assert_eq!(task.name(), entry.name);
        let expected = match entry.name {
            "copy" => length + 20,
            // Numbers and operators by turns: an odd number of symbols.
            "modular_arithmetic" => length - 1,
            // The answer comes after the input.
            "reverse_string" | "odds_first" | "bucket_sort" => 2 * length,
            "stack_manipulation" => 2 * length + 1,
            "duplicate_string" => 3 * length,
            _ => length,
        };
        assert_eq!(task.seq_len(), expected, "{}", entry.name);
    }
}

#[test]
fn wrong_lengths_are_errors_that_name_the_right_ones() {
    for entry in registry() {
        // One look-back step and a delay of 1 are short, but mean something.
        let short = [
            "electricity",
            "forecast",
            "pm25",
            "copy",
            "g2p",
            "translation",
            "text_classification",
        ];
        let shortest = if short.contains(&entry.name) { 1 } else { 2 };
        for length in (0..shortest).chain([usize::MAX, usize::MAX / 2]) {
            let options = Map::new();
            match (entry.build)(&TaskRequest { length, seed: 0, options: &options }) {
                Err(Error::Option { option, message }) => {
                    assert_eq!(option, "length", "{}", entry.name);
                    assert!(message.contains("must"), "{}: {message}", entry.name);
                }
                Err(error) => panic!("{} at {length}: {error}", entry.name),
                Ok(_) => panic!("{} takes the length {length}", entry.name),
            }
        }
    }
}

#[test]
fn wrong_options_are_errors_that_name_them() {
    for (task, given, culprit) in [
        ("adding", json!({ "markers": "both" }), "markers"),
        ("adding", json!({ "solved_below": 0.2 }), "solved_below"),
        ("adding", json!({ "solved_below": 0 }), "solved_below"),
        ("adding", json!({ "eval_examples": 0 }), "eval_examples"),
        ("copy", json!({ "eval_examples": -1 }), "eval_examples"),
        ("selective_copy", json!({ "symbols": 1 }), "symbols"),
        ("selective_copy", json!({ "count": 0 }), "count"),
        ("selective_copy", json!({ "count": 40 }), "length"),
        ("mqar", json!({ "vocabulary": 3 }), "vocabulary"),
        ("mqar", json!({ "vocabulary": 8 }), "vocabulary"),
        ("mqar", json!({ "pairs": 17 }), "length"),
        ("mqar", json!({ "pairs": u64::MAX }), "pairs"),
        ("mqar", json!({ "power": 0.0 }), "power"),
        ("mqar", json!({ "random_filler": 1 }), "random_filler"),
        ("parity", json!({ "answer": "first" }), "answer"),
        ("parity", json!({ "lengths": "some" }), "lengths"),
        ("reverse_string", json!({ "lengths": 3 }), "lengths"),
        ("bucket_sort", json!({ "eval_examples": 0 }), "eval_examples"),
        ("digits", json!({ "by": "column" }), "by"),
        ("mnist", json!({ "permuted": "yes" }), "permuted"),
        ("fashion_mnist", json!({ "examples": 59 }), "examples"),
        ("digits_seen_and_heard", json!({ "modalities": "none" }), "modalities"),
        ("digits_seen_and_heard", json!({ "pairs": "same" }), "pairs"),
        ("digits_seen_and_heard", json!({ "image_noise": -1.0 }), "image_noise"),
        ("digits_seen_and_heard", json!({ "speech_noise": 1e9 }), "speech_noise"),
        ("electricity", json!({ "horizon": 0 }), "horizon"),
        ("electricity", json!({ "eval_stride": 4 }), "eval_stride"),
        ("electricity", json!({ "calendar": null }), "calendar"),
        ("pm25", json!({ "horizon": 0 }), "horizon"),
        ("pm25", json!({ "metric": "mape" }), "metric"),
        ("pm25", json!({ "eval_stride": 3 }), "eval_stride"),
        ("text", json!({ "eval_stride": 0 }), "eval_stride"),
        ("text", json!({ "file": "" }), "file"),
        ("text", json!({ "data_hash": "00" }), "data_hash"),
        ("text_classification", json!({ "min_count": 0 }), "min_count"),
        ("text_classification", json!({ "max_words": 0 }), "max_words"),
        ("timeseries", json!({ "train": " " }), "train"),
        ("timeseries", json!({ "set": "Gunpoint" }), "set"),
        ("timeseries", json!({ "set": "reuters_r8" }), "set"),
        ("timeseries", json!({ "set": "GunPoint", "test": "own.ts" }), "test"),
        ("timeseries", json!({ "validation": 0.5 }), "validation"),
        ("timeseries", json!({ "data_hash": "00" }), "data_hash"),
        ("forecast", json!({ "data_hash": "00" }), "data_hash"),
        ("forecast", json!({ "target": "load" }), "target"),
        ("forecast", json!({ "horizon": 0 }), "horizon"),
    ] {
        let entry = find(task).unwrap();
        let options = options(&given);
        // The length may be what a wrong option decides: then that is where it is found.
        let error = match (entry.fixed_length)(&options) {
            Err(error) => Some(error),
            Ok(length) => (entry.build)(&TaskRequest {
                length: length.unwrap_or(64),
                seed: 0,
                options: &options,
            })
            .err(),
        };
        match error {
            Some(Error::Option { option, .. }) => assert_eq!(option, culprit, "{task}"),
            other => panic!("{task} with {options:?}: {other:?}"),
        }
    }
    for entry in registry() {
        let options = options(&json!({ "eval_exmaples": 10 }));
        for error in [
            (entry.resolve)(&options).err(),
            (entry.build)(&TaskRequest { length: 64, seed: 0, options: &options }).err(),
        ] {
            assert!(
                matches!(&error, Some(Error::UnknownOption { task, option, .. })
                    if task == entry.name && option == "eval_exmaples"),
                "{error:?}"
            );
        }
    }
}

#[test]
fn solved_is_better_than_every_baseline() {
    for entry in registry().iter().filter(|entry| is_there(entry)) {
        let options = Map::new();
        let task = build(entry, length_of(entry, 64, &options), 0, &options);
        let baselines = task.baselines();
        assert!(!baselines.is_empty(), "{}", entry.name);
        let better = |a: f64, b: f64| match task.metric().better() {
            Better::Lower => a < b,
            Better::Higher => a > b,
        };
        assert!(baselines.windows(2).all(|two| !better(two[1].value, two[0].value)));
        if let Some(solved) = task.solved_at() {
            assert!(better(solved, baselines[0].value), "{}", entry.name);
        }
    }
}

/// The data are part of every published result: they must never change.
#[test]
fn synthetic_batches_are_golden() {
    let mut wrong = Vec::new();
    for (name, expected) in GOLDEN {
        let entry = find(name).unwrap();
        let options = small(entry);
        let task = build(entry, 40, 7, &options);
        let batches = [vec![task.train_batch(3, 2)], task.evaluation(Split::Test, 8)].concat();
        // FNV-1a over the words.
        let hash = rows(task.as_ref(), &batches)
            .concat()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &word| {
                (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        if hash != expected {
            wrong.push(format!("{name}: {hash:#018x}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

const GOLDEN: [(&str, u64); 13] = [
    ("adding", 0xa716_3433_3b52_bc0d),
    ("copy", 0xbe14_6fef_6120_0ee1),
    ("selective_copy", 0x7a7c_a09e_57db_9403),
    ("mqar", 0x259f_565a_20eb_3de9),
    ("parity", 0xe030_d396_d069_4b91),
    ("even_pairs", 0x0c5c_ef78_8aee_8c92),
    ("modular_arithmetic", 0xf97f_a57f_67f0_346d),
    ("cycle_navigation", 0x0256_4eb9_31cf_5810),
    ("stack_manipulation", 0xb889_abb6_3ee5_b3eb),
    ("reverse_string", 0xfbda_67d9_ddad_5585),
    ("duplicate_string", 0x6845_2ad0_8e72_40ec),
    ("odds_first", 0xaa78_dd76_60ad_ba31),
    ("bucket_sort", 0xf794_e328_0daa_c17a),
];
