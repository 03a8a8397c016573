//! The laws of `PairModel`, over every encoder and decoder, and of the search for answers.
//!
//! All in f64, where exactness is the point.

#[path = "../common/mod.rs"]
mod common;
mod experiments;
mod transformers;

use candle_core::{DType, Device, Tensor};
use common::{assert_close, max_difference, random};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use unroll_core::pair::{PairArgs, PairModel, PairOutput};
use unroll_core::weights::{export, import, import_beside};
use unroll_core::{BuildContext, Error, Form, Lengths, Mode, ParameterSet, Stream};
use unroll_tasks::{
    AnswerScore, Baseline, Batch, Better, InputKind, Inputs, Metric, OtherMetric, PairInputs,
    Readout, Search, Split, TargetKind, Targets, Task,
};
use unroll_train::loss::mean_loss;
use unroll_train::{TaskModel, decode};

const BATCH: usize = 3;
const SOURCE: usize = 6;
const TARGET: usize = 5;
const FEATURES: usize = 4;

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("a table") };
    map
}

/// Every architecture with every recurrent layer or way to say positions, with one layer and with two.
fn models() -> Vec<(String, Box<dyn PairModel>)> {
    let mut models = Vec::new();
    for architecture in unroll_attention::PAIR_ARCHITECTURES {
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
        for (option, value, layers) in kinds {
            let mut options = map(json!({
                "input_size": FEATURES, "hidden_size": 8, "num_layers": layers,
            }));
            options.insert((*option).into(), (*value).into());
            for (option, value) in [("num_heads", 2), ("max_length", 7)] {
                if known.contains(&option) {
                    options.insert(option.into(), value.into());
                }
            }
            let model =
                architecture.build_pair(&options, &BuildContext::cpu(DType::F64, 3)).unwrap();
            let cost = architecture.cost(&options, BATCH, 5).unwrap();
            assert_eq!(cost, model.cost(BATCH, 5, 5));
            assert_eq!(cost.parameters as usize, model.parameters().elements());
            models.push((format!("{} {value} {layers}", architecture.name()), model));
        }
    }
    models
}

fn lengths(of: [usize; BATCH], longest: usize) -> Lengths {
    Lengths::new(of.to_vec(), BATCH, longest).unwrap()
}

fn run(
    model: &dyn PairModel,
    (source, source_lengths): (&Tensor, Option<&Lengths>),
    (target, target_lengths): (&Tensor, Option<&Lengths>),
    form: Form,
    attention: bool,
) -> PairOutput {
    let mode = Mode::Eval;
    let args = PairArgs { source, source_lengths, target, target_lengths, mode, form, attention };
    model.forward(&args).unwrap()
}

fn inputs() -> (Tensor, Tensor) {
    (random(&[BATCH, SOURCE, FEATURES], 1), random(&[BATCH, TARGET, FEATURES], 2))
}

#[test]
fn forced_decoding_equals_step_by_step() {
    let (source, target) = inputs();
    let read = lengths([6, 2, 4], SOURCE);
    for (name, model) in models() {
        let forced =
            run(model.as_ref(), (&source, Some(&read)), (&target, None), Form::Auto, false);
        let encoded = model.encode(&source, Some(&read)).unwrap();
        let mut state = encoded.state.clone();
        for t in 0..TARGET {
            let input = target.get_on_dim(1, t).unwrap();
            let (output, next) = model.step(&input, &encoded, &state).unwrap();
            state = next;
            assert_close(&output, &forced.output.get_on_dim(1, t).unwrap(), 1e-12, &name);
        }
        let plain =
            run(model.as_ref(), (&source, Some(&read)), (&target, None), Form::Reference, true);
        assert_close(&plain.output, &forced.output, 1e-12, &name);
    }
}

#[test]
fn padding_of_either_side_changes_nothing() {
    let (source, target) = inputs();
    let (read, written) = ([6, 2, 4], [1, 5, 3]);
    let (of_source, of_target) = (lengths(read, SOURCE), lengths(written, TARGET));
    for (name, model) in models() {
        let padded = run(
            model.as_ref(),
            (&source, Some(&of_source)),
            (&target, Some(&of_target)),
            Form::Auto,
            false,
        );
        for row in 0..BATCH {
            let one = |x: &Tensor, length: usize| {
                x.narrow(0, row, 1).unwrap().narrow(1, 0, length).unwrap().contiguous().unwrap()
            };
            let (source, target) = (one(&source, read[row]), one(&target, written[row]));
            let alone = run(model.as_ref(), (&source, None), (&target, None), Form::Auto, false);
            let found = one(&padded.output, written[row]);
            assert_close(&alone.output, &found, 1e-12, &name);
            let rest = padded.output.get(row).unwrap();
            let rest = rest.narrow(0, written[row], TARGET - written[row]).unwrap();
            assert_eq!(rest.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
        }
    }
}

#[test]
fn later_symbols_of_the_answer_do_not_matter_and_the_source_does() {
    let (source, target) = inputs();
    let other = random(&[BATCH, TARGET, FEATURES], 9);
    let mixed = Tensor::cat(&[target.narrow(1, 0, 3).unwrap(), other.narrow(1, 3, 2).unwrap()], 1);
    let mixed = mixed.unwrap();
    let elsewhere = random(&[BATCH, SOURCE, FEATURES], 8);
    for (name, model) in models() {
        let forward = |source: &Tensor, target: &Tensor| {
            run(model.as_ref(), (source, None), (target, None), Form::Auto, false).output
        };
        let first = |x: &Tensor| x.narrow(1, 0, 3).unwrap();
        let (a, b) = (forward(&source, &target), forward(&source, &mixed));
        assert_eq!(max_difference(&first(&a), &first(&b)), 0.0, "{name}");
        assert!(max_difference(&a, &forward(&elsewhere, &target)) > 1e-3, "{name}");
    }
}

#[test]
fn weights_are_a_distribution_over_the_real_source() {
    let (source, target) = inputs();
    let read = lengths([6, 2, 4], SOURCE);
    for (name, model) in models() {
        let output = run(model.as_ref(), (&source, Some(&read)), (&target, None), Form::Auto, true);
        if name.starts_with("encdec ") {
            assert!(output.attention.is_none());
            continue;
        }
        let weights = output.attention.unwrap();
        let has_heads =
            ["encdec_mha", "encdec_transformer"].iter().any(|arch| name.starts_with(arch));
        let heads = if has_heads { 2 } else { 1 };
        assert_eq!(weights.dims(), [BATCH, heads, TARGET, SOURCE], "{name}");
        for (row, &length) in read.as_slice().iter().enumerate() {
            let rows: Vec<Vec<f64>> =
                weights.get(row).unwrap().flatten_to(1).unwrap().to_vec2().unwrap();
            for row in rows {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{name}");
                assert!(row[length..].iter().all(|&weight| weight == 0.0), "{name}");
                assert!(row[..length].iter().all(|&weight| weight > 0.0), "{name}");
            }
        }
    }
}

/// Every parameter, by central differences of a loss over all outputs.
#[test]
fn gradients_are_those_of_finite_differences() {
    let (source, target) = inputs();
    let (read, written) = (lengths([6, 2, 4], SOURCE), lengths([1, 5, 3], TARGET));
    for (name, model) in models() {
        let loss = || {
            let output = run(
                model.as_ref(),
                (&source, Some(&read)),
                (&target, Some(&written)),
                Form::Auto,
                false,
            );
            let weights = random(output.output.dims(), 5);
            (output.output * weights).unwrap().sum_all().unwrap()
        };
        let gradients = loss().backward().unwrap();
        for parameter in model.parameters().iter() {
            let values = parameter.var.as_tensor().copy().unwrap();
            let gradient = gradients.get(&parameter.var).unwrap_or_else(|| panic!("{name}"));
            let direction = random(values.dims(), 6);
            let expected: f64 =
                (gradient * &direction).unwrap().sum_all().unwrap().to_scalar().unwrap();
            let at = |step: f64| -> f64 {
                let moved = (&values + (&direction * step).unwrap()).unwrap();
                parameter.var.set(&moved).unwrap();
                loss().to_scalar().unwrap()
            };
            let step = 1e-6;
            let found = (at(step) - at(-step)) / (2.0 * step);
            parameter.var.set(&values).unwrap();
            assert!(
                (found - expected).abs() < 1e-7 * (1.0 + expected.abs()),
                "{name} {}: {found} {expected}",
                parameter.name
            );
        }
    }
}

/// Two symbols and an end; answers are scored by their distance from the source.
struct Small {
    sources: Vec<Vec<u32>>,
}

const END: u32 = 0;
const SYMBOLS: usize = 4;

impl AnswerScore for Small {
    fn longest(&self) -> usize {
        4
    }

    fn search(&self) -> Search {
        Search { beam: 3, length_penalty: 0.6 }
    }

    fn sums(&self) -> usize {
        2
    }

    fn count(&self, example: usize, answer: &[u32], sums: &mut [f64]) -> unroll_tasks::Result<()> {
        sums[0] += unroll_tasks::edit_distance(answer, &self.sources[example]) as f64;
        sums[1] += 1.0;
        Ok(())
    }

    fn source_symbol(&self, symbol: u32) -> String {
        format!("s{symbol}")
    }

    fn answer_symbol(&self, symbol: u32) -> String {
        format!("a{symbol}")
    }

    fn metric(&self, sums: &[f64]) -> f64 {
        sums[0] / sums[1]
    }

    fn others(&self, sums: &[f64]) -> Vec<OtherMetric> {
        vec![OtherMetric { name: "answers".into(), value: sums[1] }]
    }
}

impl Small {
    fn new() -> Self {
        Self { sources: vec![vec![2, 3, 3], vec![3], vec![2, 2, 3, 2], vec![3, 2]] }
    }

    fn batch(&self, examples: &[usize]) -> Batch {
        let longest = examples.iter().map(|&e| self.sources[e].len()).max().unwrap_or(0);
        let padded = |with: &dyn Fn(&[u32]) -> Vec<u32>, width: usize| -> Vec<u32> {
            let row = |&example: &usize| {
                let mut row = with(&self.sources[example]);
                row.resize(width, END);
                row
            };
            examples.iter().flat_map(row).collect()
        };
        let lengths: Vec<usize> = examples.iter().map(|&e| self.sources[e].len()).collect();
        Batch {
            batch_size: examples.len(),
            seq_len: longest + 1,
            inputs: Inputs::Pairs(Box::new(PairInputs {
                source: padded(&<[u32]>::to_vec, longest),
                source_len: longest,
                source_lengths: Some(lengths.clone()),
                target: padded(&|source| [&[1], source].concat(), longest + 1),
                examples: examples.to_vec(),
            })),
            targets: Targets::Classes(padded(&|source| [source, &[END]].concat(), longest + 1)),
            weights: None,
            lengths: Some(lengths.iter().map(|length| length + 1).collect()),
            continues: false,
        }
    }
}

impl Task for Small {
    fn name(&self) -> &'static str {
        "small"
    }

    fn input(&self) -> InputKind {
        InputKind::Pairs { source: SYMBOLS, target: SYMBOLS, begin: 1, end: END }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: SYMBOLS }
    }

    fn readout(&self) -> Readout {
        Readout::EveryStep
    }

    fn seq_len(&self) -> usize {
        4
    }

    fn metric(&self) -> Metric {
        Metric::OfAnswers { name: "distance", better: Better::Lower }
    }

    fn baselines(&self) -> Vec<Baseline> {
        Vec::new()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, _: u64, batch_size: usize) -> Batch {
        let examples: Vec<usize> = (0..batch_size).map(|row| row % self.sources.len()).collect();
        self.batch(&examples)
    }

    fn evaluation(&self, _: Split, batch_size: usize) -> Vec<Batch> {
        let all: Vec<usize> = (0..self.sources.len()).collect();
        all.chunks(batch_size).map(|chunk| self.batch(chunk)).collect()
    }

    fn answers(&self) -> Option<&dyn AnswerScore> {
        Some(self)
    }
}

fn sharpen(parameters: &ParameterSet, factor: f64) {
    for parameter in parameters.iter() {
        let values = (parameter.var.as_tensor() * factor).unwrap();
        parameter.var.set(&values).unwrap();
    }
}

fn task_model(arch: &str, seed: u64) -> TaskModel {
    let architecture = unroll::registry::find(arch).unwrap();
    let options = map(json!({"hidden_size": 8}));
    let context = BuildContext::cpu(DType::F64, seed);
    let model = TaskModel::build(&Small::new(), architecture, &options, None, &context).unwrap();
    // So that probabilities differ by more than a little.
    sharpen(model.parameters(), 2.0);
    model
}

/// Logarithm of the probability of an answer of the first example, its end included if it has one, by
/// forced decoding.
fn ln_probability(model: &TaskModel, example: usize, answer: &[u32], ended: bool) -> f64 {
    let small = Small::new();
    let source = small.sources[example].clone();
    let mut right = answer.to_vec();
    if ended {
        right.push(END);
    }
    let steps = right.len();
    let mut target = vec![1];
    target.extend(&right[..steps - 1]);
    let batch = Batch {
        batch_size: 1,
        seq_len: steps,
        inputs: Inputs::Pairs(Box::new(PairInputs {
            source_len: source.len(),
            source,
            source_lengths: None,
            target,
            examples: vec![example],
        })),
        targets: Targets::Classes(right),
        weights: None,
        lengths: None,
        continues: false,
    };
    let batch = model.tensors(&batch).unwrap();
    let answers = model.forward(&batch, Mode::Eval).unwrap();
    let loss: f64 = mean_loss(&answers, &batch).unwrap().to_scalar().unwrap();
    -loss * steps as f64
}

/// All answers of at most four symbols.
fn every_answer() -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new()];
    let mut last: Vec<Vec<u32>> = all.clone();
    for _ in 0..4 {
        let longer = |answer: &Vec<u32>| {
            let answer = answer.clone();
            (1..SYMBOLS as u32).map(move |symbol| [&answer[..], &[symbol]].concat())
        };
        last = last.iter().flat_map(longer).collect();
        all.extend(last.clone());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A beam that holds everything finds what trying everything finds, and its probability is that of
    /// forced decoding.
    #[test]
    fn a_full_beam_is_exhaustive(seed in 0u64..1000, penalty in 0.0f64..1.5, arch in 0usize..7) {
        let model = task_model(unroll_attention::PAIR_ARCHITECTURES[arch].name(), seed);
        let small = Small::new();
        let batch = model.tensors(&small.batch(&[0, 1, 2, 3])).unwrap();
        let search = Search { beam: 200, length_penalty: penalty };
        let longest = 4;
        let found = decode(&model, &batch, search, longest).unwrap();
        for (example, found) in found.iter().enumerate() {
            let ended = every_answer().into_iter().filter(|answer| answer.len() < longest);
            let best = ended
                .map(|answer| {
                    let ln = ln_probability(&model, example, &answer, true);
                    (search.rank(ln, answer.len() + 1), answer, ln)
                })
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap();
            prop_assert_eq!(&found.symbols, &best.1);
            prop_assert!((found.ln_probability - best.2).abs() < 1e-10);
        }
    }

    /// Greedy takes the likeliest symbol each time, and a source's answer does not depend on the others.
    #[test]
    fn one_hypothesis_is_greedy(seed in 0u64..1000, arch in 0usize..7) {
        let model = task_model(unroll_attention::PAIR_ARCHITECTURES[arch].name(), seed);
        let small = Small::new();
        let batch = model.tensors(&small.batch(&[0, 1, 2, 3])).unwrap();
        let together = decode(&model, &batch, Search::GREEDY, 4).unwrap();
        for (example, found) in together.iter().enumerate() {
            let alone = model.tensors(&small.batch(&[example])).unwrap();
            let alone = decode(&model, &alone, Search::GREEDY, 4).unwrap();
            prop_assert_eq!(&alone[0].symbols, &found.symbols);
            let mut greedy: Vec<u32> = Vec::new();
            let mut ended = false;
            while greedy.len() < 4 && !ended {
                let of = |symbol: u32| {
                    let next = [&greedy[..], &[symbol]].concat();
                    ln_probability(&model, example, &next, false)
                };
                let best = (0..SYMBOLS as u32).max_by(|&a, &b| of(a).total_cmp(&of(b))).unwrap();
                ended = best == END;
                if !ended {
                    greedy.push(best);
                }
            }
            prop_assert_eq!(&found.symbols, &greedy);
            prop_assert!((found.ln_probability - ln_probability(&model, example, &greedy, ended)).abs() < 1e-10);
        }
    }
}

#[test]
fn answers_do_not_depend_on_how_a_split_is_cut() {
    for architecture in unroll_attention::PAIR_ARCHITECTURES {
        let model = task_model(architecture.name(), 4);
        let evaluate =
            |size| unroll_train::evaluate(&model, &Small::new(), Split::Test, size).unwrap();
        let (all, single) = (evaluate(4), evaluate(1));
        assert_eq!(all.metric, single.metric);
        assert_eq!(all.others, single.others);
        assert_eq!(all.others[0].value, 4.0);
        assert!((all.loss - single.loss).abs() < 1e-12);
    }
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let (source, target) = inputs();
    for (name, model) in models() {
        let fewer = target.narrow(0, 0, BATCH - 1).unwrap().contiguous().unwrap();
        let error = model.forward(&PairArgs::new(&source, &fewer)).unwrap_err();
        assert!(matches!(&error, Error::Shape { what, .. } if what == "target"), "{name}: {error}");
        let steps = source.dim(1).unwrap();
        for lengths in [None, Some(lengths([steps; BATCH], steps))] {
            let encoded = model.encode(&source, lengths.as_ref()).unwrap();
            let rows = Tensor::new(&[0u32, BATCH as u32], &Device::Cpu).unwrap();
            let error = encoded.select(&rows).unwrap_err();
            assert!(matches!(error, Error::Option { .. }), "{name}: {error}");
        }
        assert!(format!("{model:?}").starts_with("PairModel"), "{model:?}");
    }
}

#[test]
fn inference_records_nothing_and_gives_the_same_bits() {
    let task = Small::new();
    let batches = task.evaluation(Split::Test, 5);
    for architecture in unroll_attention::PAIR_ARCHITECTURES {
        let model = task_model(architecture.name(), 5);
        assert!(!std::ptr::eq(&model, model.for_inference()));
        common::assert_inference_records_nothing(&model, &batches[0], architecture.name());
    }
}

#[test]
fn weights_come_back_and_dropout_is_the_streams() {
    let options = map(json!({"input_size": FEATURES, "hidden_size": 8, "dropout": 0.5}));
    let (source, target) = inputs();
    for architecture in unroll_attention::PAIR_ARCHITECTURES {
        let build =
            |seed| architecture.build_pair(&options, &BuildContext::cpu(DType::F64, seed)).unwrap();
        let (first, second) = (build(1), build(2));
        let forward = |model: &dyn PairModel, mode: Mode<'_>| {
            let args = PairArgs {
                source: &source,
                source_lengths: None,
                target: &target,
                target_lengths: None,
                mode,
                form: Form::Auto,
                attention: false,
            };
            model.forward(&args).unwrap().output
        };
        let name = architecture.name();
        let expected = forward(first.as_ref(), Mode::Eval);
        assert!(max_difference(&expected, &forward(second.as_ref(), Mode::Eval)) > 1e-3, "{name}");
        import(second.parameters(), &export(first.parameters()).unwrap()).unwrap();
        assert_eq!(max_difference(&expected, &forward(second.as_ref(), Mode::Eval)), 0.0, "{name}");
        let stream = Stream::new(1, "dropout");
        let dropped = |step| forward(first.as_ref(), Mode::Train(&stream.at(step)));
        assert_eq!(max_difference(&dropped(0), &dropped(0)), 0.0, "{name}");
        assert!(max_difference(&dropped(0), &dropped(1)) > 1e-3, "{name}");
    }
}

#[test]
fn models_of_one_kind_and_tasks_of_the_other_do_not_meet() {
    let context = BuildContext::cpu(DType::F32, 0);
    let gru = unroll::registry::find("gru").unwrap();
    let error = TaskModel::build(&Small::new(), gru, &Map::new(), None, &context).err().unwrap();
    assert!(error.to_string().contains("encdec"), "{error}");
    let encdec = unroll::registry::find("encdec").unwrap();
    let entry = unroll_tasks::find("adding").unwrap();
    let options = Map::new();
    let request = unroll_tasks::TaskRequest { length: 10, seed: 0, options: &options };
    let adding = (entry.build)(&request).unwrap();
    let error = TaskModel::build(adding.as_ref(), encdec, &options, None, &context).err().unwrap();
    assert!(error.to_string().contains("g2p"), "{error}");
}
