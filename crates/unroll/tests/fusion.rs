//! The laws of `FusionModel`, over every one, and two modalities as one sequence.
//!
//! All in f64, where exactness is the point.

mod common;

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use common::{assert_close, max_difference, random};
use serde_json::{Map, Value, json};
use unroll_core::fusion::{FusionArgs, FusionModel, FusionOutput, Modality};
use unroll_core::weights::{export, import};
use unroll_core::{BuildContext, Form, Lengths, Mode, Stream};
use unroll_tasks::{Batch, Inputs, ModalityInputs, Split, Targets, Task, TaskRequest};
use unroll_train::{Checkpoint, InputLayer, Progress, TaskModel, TrainConfig, Trainer, model_cost};

const BATCH: usize = 3;
const STEPS: [usize; 2] = [4, 7];
const FEATURES: [usize; 2] = [5, 3];
/// Real lengths.
const REAL: [[usize; BATCH]; 2] = [[4, 1, 3], [2, 7, 5]];

fn map(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("a table") };
    map
}

/// Every architecture with every recurrent layer, with both poolings, with one layer and with two.
fn models() -> Vec<(String, Box<dyn FusionModel>)> {
    let mut models = Vec::new();
    for architecture in unroll_attention::FUSION_ARCHITECTURES {
        for (base, layers, pooling) in
            [("rnn", 1, "last"), ("gru", 2, "mean"), ("lstm", 1, "mean"), ("gru", 1, "last")]
        {
            let mut options = map(json!({
                "input_size": FEATURES[0], "second_input_size": FEATURES[1], "hidden_size": 8,
                "base": base, "num_layers": layers, "pooling": pooling,
            }));
            if architecture.name() == "cross_attention_fusion" {
                options.insert("num_heads".into(), 2.into());
            }
            let context = BuildContext::cpu(DType::F64, 3);
            let model = architecture.build_fusion(&options, &context).unwrap();
            // Biases that start at zero would hide mistakes.
            for (index, parameter) in model.parameters().iter().enumerate() {
                let bump = (random(parameter.var.dims(), 100 + index as u64) * 0.1).unwrap();
                parameter.var.set(&(parameter.var.as_tensor() + bump).unwrap()).unwrap();
            }
            let cost = architecture.fusion_cost(&options, BATCH, STEPS).unwrap();
            assert_eq!(cost, model.cost(BATCH, STEPS));
            assert_eq!(cost.parameters as usize, model.parameters().elements());
            assert_eq!(model.output_size(), 16);
            models.push((format!("{} {base} {layers} {pooling}", architecture.name()), model));
        }
    }
    models
}

fn inputs() -> [Tensor; 2] {
    [0, 1].map(|which| random(&[BATCH, STEPS[which], FEATURES[which]], 1 + which as u64))
}

fn lengths() -> [Lengths; 2] {
    [0, 1].map(|which| Lengths::new(REAL[which].to_vec(), BATCH, STEPS[which]).unwrap())
}

fn run(
    model: &dyn FusionModel,
    [first, second]: &[Tensor; 2],
    lengths: Option<&[Lengths; 2]>,
    form: Form,
    attention: bool,
) -> FusionOutput {
    let length = |which: usize| lengths.map(|lengths| &lengths[which]);
    let modalities = [
        Modality { input: first, lengths: length(0) },
        Modality { input: second, lengths: length(1) },
    ];
    let args = FusionArgs { form, attention, ..FusionArgs::new(modalities) };
    model.forward(&args).unwrap()
}

#[test]
fn padding_of_either_changes_nothing_and_a_batch_is_its_examples() {
    let (inputs, lengths) = (inputs(), lengths());
    let example = |which: usize, row: usize| {
        let one = inputs[which].narrow(0, row, 1).unwrap();
        one.narrow(1, 0, REAL[which][row]).unwrap().contiguous().unwrap()
    };
    for (name, model) in models() {
        let padded = run(model.as_ref(), &inputs, Some(&lengths), Form::Auto, false).output;
        for row in 0..BATCH {
            let alone = [0, 1].map(|which| example(which, row));
            let alone = run(model.as_ref(), &alone, None, Form::Auto, false).output;
            assert_close(&alone, &padded.narrow(0, row, 1).unwrap(), 1e-12, &name);
        }
        let mask = |which: usize| {
            let mask = lengths[which].mask(STEPS[which], DType::F64, model.device()).unwrap();
            mask.unsqueeze(2).unwrap()
        };
        for which in [0, 1] {
            // Other numbers where nothing is real.
            let noise = random(inputs[which].dims(), 9);
            let hidden = noise.broadcast_mul(&mask(which).affine(-1.0, 1.0).unwrap()).unwrap();
            let mut other = inputs.clone();
            other[which] = (&other[which] + hidden).unwrap();
            let other = run(model.as_ref(), &other, Some(&lengths), Form::Auto, false).output;
            assert_close(&other, &padded, 1e-12, &name);
        }
    }
}

/// Each half of the output is of one sequence; attention brings the other one in.
#[test]
fn both_sequences_matter_where_they_should() {
    let (inputs, lengths) = (inputs(), lengths());
    for (name, model) in models() {
        let whole = run(model.as_ref(), &inputs, Some(&lengths), Form::Auto, false).output;
        for which in [0, 1] {
            let mut other = inputs.clone();
            other[which] = random(other[which].dims(), 8);
            let other = run(model.as_ref(), &other, Some(&lengths), Form::Auto, false).output;
            let half = |x: &Tensor, of: usize| x.narrow(1, 8 * of, 8).unwrap();
            let change = |of: usize| max_difference(&half(&whole, of), &half(&other, of));
            assert!(change(which) > 1e-3, "{name}");
            let meets = name.starts_with("cross");
            let across = change(1 - which);
            assert!(if meets { across > 1e-3 } else { across == 0.0 }, "{name}: {across}");
        }
    }
}

#[test]
fn forms_agree_and_weights_are_a_distribution_over_the_real_steps() {
    let (inputs, lengths) = (inputs(), lengths());
    for (name, model) in models() {
        let fused = run(model.as_ref(), &inputs, Some(&lengths), Form::Auto, false);
        let plain = run(model.as_ref(), &inputs, Some(&lengths), Form::Reference, true);
        assert_eq!((fused.form, plain.form), ("fused", "reference"), "{name}");
        assert_close(&fused.output, &plain.output, 1e-12, &name);
        assert!(fused.attention.is_empty());
        if name.starts_with("late") {
            assert!(plain.attention.is_empty());
            continue;
        }
        for (which, weights) in plain.attention.iter().enumerate() {
            let asking = if name.ends_with("last") { 1 } else { STEPS[which] };
            let other = 1 - which;
            assert_eq!(weights.dims(), [BATCH, 2, asking, STEPS[other]], "{name}");
            for (row, &length) in REAL[other].iter().enumerate() {
                let rows = weights.get(row).unwrap().flatten_to(1).unwrap();
                for row in rows.to_vec2::<f64>().unwrap() {
                    assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{name}");
                    assert!(row[..length].iter().all(|&weight| weight > 0.0), "{name}");
                    assert!(row[length..].iter().all(|&weight| weight == 0.0), "{name}");
                }
            }
        }
    }
}

/// One head of cross-attention by hand, from the encoders' states.
#[test]
fn attention_is_that_of_the_equations() {
    let options = map(json!({
        "input_size": FEATURES[0], "second_input_size": FEATURES[1], "hidden_size": 4,
        "num_heads": 1, "pooling": "mean",
    }));
    let context = BuildContext::cpu(DType::F64, 5);
    let build = |arch: &str, pooling: &str| {
        let mut options = options.clone();
        options.insert("pooling".into(), pooling.into());
        if arch == "late_fusion" {
            options.remove("num_heads");
        }
        unroll::registry::find(arch).unwrap().build_fusion(&options, &context).unwrap()
    };
    let (cross, late) = (build("cross_attention_fusion", "mean"), build("late_fusion", "last"));
    let inputs = inputs();
    // States are what late fusion gives of the beginnings of a sequence.
    let states = [0, 1].map(|which| {
        let steps = (1..=STEPS[which]).map(|end| {
            let mut cut = inputs.clone();
            cut[which] = cut[which].narrow(1, 0, end).unwrap().contiguous().unwrap();
            let output = run(late.as_ref(), &cut, None, Form::Auto, false).output;
            output.narrow(1, 4 * which, 4).unwrap()
        });
        Tensor::stack(&steps.collect::<Vec<_>>(), 1).unwrap()
    });
    let found = run(cross.as_ref(), &inputs, None, Form::Auto, false).output;
    for which in [0, 1] {
        let prefix = ["first_attn", "second_attn"][which];
        let parameter = |name: &str| {
            let name = format!("{prefix}.{name}");
            let found = cross.parameters().iter().find(|p| p.name == name);
            found.unwrap_or_else(|| panic!("{name}")).var.as_tensor().clone()
        };
        let map = |x: &Tensor, block: usize| {
            let weight = parameter("in_proj_weight").narrow(0, 4 * block, 4).unwrap();
            x.broadcast_matmul(&weight.t().unwrap()).unwrap()
        };
        let (own, other) = (&states[which], &states[1 - which]);
        let scores = map(own, 0).matmul(&map(other, 1).transpose(1, 2).unwrap()).unwrap();
        let weights = softmax(&(scores / 2.0).unwrap());
        let got = weights.matmul(&map(other, 2)).unwrap();
        let got = got.broadcast_matmul(&parameter("out_proj.weight").t().unwrap()).unwrap();
        let expected = (own + got).unwrap().mean(1).unwrap();
        assert_close(&found.narrow(1, 4 * which, 4).unwrap(), &expected, 1e-12, prefix);
    }
}

/// Softmax over the last axis.
fn softmax(scores: &Tensor) -> Tensor {
    let powers = scores.exp().unwrap();
    powers.broadcast_div(&powers.sum_keepdim(2).unwrap()).unwrap()
}

/// Every parameter, by central differences of a loss over all outputs.
#[test]
fn gradients_are_those_of_finite_differences() {
    let (inputs, lengths) = (inputs(), lengths());
    for (name, model) in models() {
        let loss = || {
            let output = run(model.as_ref(), &inputs, Some(&lengths), Form::Auto, false).output;
            let weights = random(output.dims(), 5);
            (output * weights).unwrap().sum_all().unwrap()
        };
        let gradients = loss().backward().unwrap();
        for parameter in model.parameters().iter() {
            let what = format!("{name} {}", parameter.name);
            let values = parameter.var.as_tensor().copy().unwrap();
            let gradient = gradients.get(&parameter.var).unwrap_or_else(|| panic!("{what}"));
            let size: f64 = gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap();
            assert!(size > 1e-6, "{what}: {size}");
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
            let tolerance = 1e-7 * (1.0 + expected.abs());
            assert!((found - expected).abs() < tolerance, "{what}: {found} {expected}");
        }
    }
}

#[test]
fn weights_come_back_and_dropout_is_the_streams() {
    let options = map(json!({
        "input_size": FEATURES[0], "second_input_size": FEATURES[1], "hidden_size": 8,
        "dropout": 0.5,
    }));
    let [first_input, second_input] = inputs();
    let modalities = [&first_input, &second_input].map(|input| Modality { input, lengths: None });
    for architecture in unroll_attention::FUSION_ARCHITECTURES {
        let name = architecture.name();
        let build = |seed| {
            architecture.build_fusion(&options, &BuildContext::cpu(DType::F64, seed)).unwrap()
        };
        let (first, second) = (build(1), build(2));
        let forward = |model: &dyn FusionModel, mode: Mode<'_>| {
            model.forward(&FusionArgs { mode, ..FusionArgs::new(modalities) }).unwrap().output
        };
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
fn what_does_not_fit_is_an_error() {
    let architecture = unroll::registry::find("cross_attention_fusion").unwrap();
    let context = BuildContext::cpu(DType::F64, 0);
    let build = |options: Value| architecture.build_fusion(&map(options), &context);
    let error = build(json!({"hidden_size": 6})).err().unwrap().to_string();
    assert!(error.contains("num_heads"), "{error}");
    let error = build(json!({"second_input_size": 0})).err().unwrap().to_string();
    assert!(error.contains("second_input_size"), "{error}");
    assert!(architecture.build(&Map::new(), &context).is_err());
    assert!(unroll::registry::find("gru").unwrap().build_fusion(&Map::new(), &context).is_err());
    let model = build(json!({"input_size": 5, "second_input_size": 3})).unwrap();
    let [first, second] = [random(&[2, 4, 5], 1), random(&[3, 4, 3], 1)];
    let modalities = [&first, &second].map(|input| Modality { input, lengths: None });
    assert!(model.forward(&FusionArgs::new(modalities)).is_err());
}

fn seen_and_heard(options: &Value) -> Box<dyn Task> {
    let options = map(options.clone());
    let entry = unroll_tasks::find("digits_seen_and_heard").unwrap();
    (entry.build)(&TaskRequest { length: 92, seed: 1, options: &options }).unwrap()
}

fn task_model(task: &dyn Task, arch: &str) -> TaskModel {
    let architecture = unroll::registry::find(arch).unwrap();
    let options = map(json!({"hidden_size": 8}));
    let model =
        TaskModel::build(task, architecture, &options, None, &BuildContext::cpu(DType::F64, 1))
            .unwrap();
    let resolved = {
        let mut options = options;
        unroll_train::set_input_sizes(&mut options, architecture, task.input(), 8, None);
        options
    };
    let cost = model_cost(architecture, &resolved, task, 4).unwrap();
    assert_eq!(cost, model.cost(4, task.seq_len()), "{arch}");
    assert_eq!(cost.parameters as usize, model.parameters().elements(), "{arch}");
    model
}

/// The first steps of two examples, small enough to write down: 2 and 1 steps of one feature, 1 and 3 of
/// two.
#[test]
fn early_fusion_puts_the_modalities_side_by_side() {
    let task = seen_and_heard(&json!({}));
    let model = task_model(task.as_ref(), "gru");
    assert_eq!(model.input_layer(), InputLayer::Joined { features: [28, 13] });
    let marked = |value: f32, features: usize| {
        let mut step = vec![0.0; features];
        step[0] = value;
        step
    };
    let first = ModalityInputs {
        values: [1.0, 2.0, 3.0, 0.0].map(|value| marked(value, 28)).concat(),
        seq_len: 2,
        lengths: Some(vec![2, 1]),
    };
    let second = ModalityInputs {
        values: [4.0, 0.0, 0.0, 5.0, 6.0, 7.0].map(|value| marked(value, 13)).concat(),
        seq_len: 3,
        lengths: Some(vec![1, 3]),
    };
    let batch = Batch {
        batch_size: 2,
        seq_len: 3,
        inputs: Inputs::Modalities(Box::new([first, second])),
        targets: Targets::Classes(vec![0, 1]),
        weights: None,
        lengths: Some(vec![2, 3]),
        continues: false,
    };
    let tensors = model.tensors(&batch).unwrap();
    assert_eq!(tensors.input.dims(), [2, 3, 43]);
    assert_eq!(tensors.lengths.as_ref().map(Lengths::as_slice), Some(&[2, 3][..]));
    assert_eq!(tensors.tokens, 5);
    let input = tensors.input.to_vec3::<f64>().unwrap();
    // First feature of each modality, and the two marks.
    let seen: Vec<Vec<[f64; 4]>> = input
        .iter()
        .map(|row| row.iter().map(|step| [step[0], step[28], step[41], step[42]]).collect())
        .collect();
    let expected = [
        [[1.0, 4.0, 1.0, 1.0], [2.0, 0.0, 1.0, 0.0], [0.0; 4]],
        [[3.0, 5.0, 1.0, 1.0], [0.0, 6.0, 0.0, 1.0], [0.0, 7.0, 0.0, 1.0]],
    ];
    assert_eq!(seen, expected.map(Vec::from));
    let rest: f64 = input.iter().flatten().flatten().sum();
    assert_eq!(rest, 28.0 + 7.0, "nothing else stands anywhere");
    let mut wrong = batch.clone();
    wrong.lengths = Some(vec![3, 3]);
    let error = model.tensors(&wrong).err().unwrap().to_string();
    assert!(error.contains("longer modality"), "{error}");
    let Inputs::Modalities(both) = &mut wrong.inputs else { unreachable!("as above") };
    both[1].values.pop();
    let error = model.tensors(&wrong).err().unwrap().to_string();
    assert!(error.contains("is not 2 sequences of 3 steps"), "{error}");
}

/// Answers of a batch are those of its examples, whatever reads them.
#[test]
fn answers_do_not_depend_on_how_a_split_is_cut() {
    let task = seen_and_heard(&json!({}));
    let batches = |size| task.evaluation(Split::Test, size);
    for arch in
        ["rnn", "gru", "lstm", "transformer", "luong_dot", "late_fusion", "cross_attention_fusion"]
    {
        let model = task_model(task.as_ref(), arch);
        let answers = |batch: &Batch| {
            let tensors = model.tensors(batch).unwrap();
            model.forward(&tensors, Mode::Eval).unwrap()
        };
        let together = answers(&batches(8)[0]);
        let alone: Vec<Tensor> = batches(1)[..8].iter().map(answers).collect();
        assert_close(&together, &Tensor::cat(&alone, 0).unwrap(), 1e-10, arch);
    }
}

#[test]
fn models_of_one_kind_and_tasks_of_the_other_do_not_meet() {
    let context = BuildContext::cpu(DType::F32, 0);
    let build = |task: &dyn Task, arch: &str| {
        let architecture = unroll::registry::find(arch).unwrap();
        TaskModel::build(task, architecture, &Map::new(), None, &context)
    };
    let image = seen_and_heard(&json!({"modalities": "image"}));
    let error = build(image.as_ref(), "late_fusion").err().unwrap().to_string();
    assert!(error.contains("two sequences"), "{error}");
    let both = seen_and_heard(&json!({}));
    assert!(build(both.as_ref(), "encdec").is_err());
    let model = build(both.as_ref(), "late_fusion").unwrap();
    let error = model.body().err().unwrap().to_string();
    assert!(error.contains("quality"), "{error}");
}

/// A run that is put down after three steps and taken up by another process ends with the same bits.
#[test]
fn inference_records_nothing_and_gives_the_same_bits() {
    let task = seen_and_heard(&json!({}));
    let batches = task.evaluation(Split::Test, 5);
    for architecture in unroll_attention::FUSION_ARCHITECTURES {
        let model = task_model(task.as_ref(), architecture.name());
        common::assert_inference_records_nothing(&model, &batches[0], architecture.name());
    }
}

#[test]
fn checkpoints_go_on_to_the_same_bits() {
    let task = seen_and_heard(&json!({}));
    let config = TrainConfig { steps: 6, eval_every: 6, batch_size: 8, ..TrainConfig::default() };
    let mut observe = |_: &Progress<'_>| ControlFlow::Continue(());
    for arch in ["late_fusion", "cross_attention_fusion"] {
        let weights = |model: &TaskModel| export(model.parameters()).unwrap().to_bytes().unwrap();
        let whole = task_model(task.as_ref(), arch);
        Trainer::new(&whole, task.as_ref(), &config).unwrap().run(&mut observe).unwrap();
        let begun = task_model(task.as_ref(), arch);
        let untrained = weights(&begun);
        let mut trainer = Trainer::new(&begun, task.as_ref(), &config).unwrap();
        trainer.run_to(3, &mut observe).unwrap();
        let bytes = trainer.checkpoint().unwrap().to_bytes().unwrap();
        let resumed = task_model(task.as_ref(), arch);
        let mut trainer = Trainer::new(&resumed, task.as_ref(), &config).unwrap();
        trainer.restore(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        trainer.run(&mut observe).unwrap();
        assert_ne!(weights(&whole), untrained, "{arch}");
        assert!(weights(&resumed) == weights(&whole), "{arch}");
    }
}

fn experiment(measure: &str, task: &str, length: &str, architectures: &str, more: &str) -> String {
    format!(
        r#"
name = "modalities"
question = "Does it run?"
measure = {measure}

[axes]
task = ["{task}"]
{length}
arch = {architectures}
seed = [0]
{more}

[model]
hidden_size = 8

[match]
by = "parameters"
reference = "gru"

[train]
batch_size = 4
steps = 3
eval_every = 3
"#
    )
}

fn program(folder: &std::path::Path, text: &str) -> assert_cmd::Command {
    let file = folder.join("modalities.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("unroll").unwrap();
    command.arg("run").arg(file).arg("--out").arg(folder.join("out"));
    command
}

const EXCLUDE: &str = r#""task.digits_seen_and_heard.modalities" = ["both", "speech"]
[[exclude]]
arch = ["late_fusion", "cross_attention_fusion"]
"task.digits_seen_and_heard.modalities" = "speech""#;

#[test]
fn experiments_have_fused_and_single_modalities_side_by_side_and_replay() {
    let folder = tempfile::tempdir().unwrap();
    let architectures = r#"["gru", "late_fusion", "cross_attention_fusion"]"#;
    let text = experiment(r#"["quality"]"#, "digits_seen_and_heard", "", architectures, EXCLUDE);
    program(folder.path(), &text).assert().success();
    let out = folder.path().join("out");
    let report = std::fs::read_to_string(out.join("REPORT.md")).unwrap();
    for series in [
        "gru, modalities=both",
        "gru, modalities=speech",
        "late_fusion, modalities=both",
        "cross_attention_fusion, modalities=both",
    ] {
        assert!(report.contains(series), "{report}");
    }
    assert!(!report.contains("late_fusion, modalities=speech"), "{report}");
    assert!(report.contains("ridge regression on both"), "{report}");
    let mut replay = assert_cmd::Command::cargo_bin("unroll").unwrap();
    replay.arg("replay").arg(&out).assert().success();
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (both, adding) = ("digits_seen_and_heard", "adding");
    let image = r#""task.digits_seen_and_heard.modalities" = ["image"]"#;
    for (measure, task, length, architectures, more, words) in [
        ("quality", adding, "length = [8]", r#"["late_fusion"]"#, "", "one sequence: take rnn"),
        ("quality", both, "", r#"["encdec"]"#, "", "two sequences at once: take rnn"),
        ("quality", both, "", r#"["gru", "late_fusion"]"#, image, "one sequence: take rnn"),
        ("quality", "g2p", "length = [8]", r#"["late_fusion"]"#, "", "to another: take encdec"),
        ("gradient", both, "", r#"["late_fusion"]"#, "", "measure = [\"quality\"]"),
    ] {
        let measure = format!("[\"{measure}\"]");
        let text = experiment(&measure, task, length, architectures, more);
        let output = program(folder.path(), &text).assert().code(2).get_output().stderr.clone();
        // The message may be broken into lines anywhere.
        let text: String = String::from_utf8(output).unwrap().replace(['│', '\n'], " ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{words}: {text}");
        assert!(!folder.path().join("out").exists());
    }
}
