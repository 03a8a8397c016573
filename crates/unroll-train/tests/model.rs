//! Input layers, heads, costs, losses and metrics of whole models.

mod common;

use candle_core::DType;
use common::{EVALUATION_EXAMPLES, SmallTask};
use proptest::prelude::*;
use unroll_core::{Architecture, Entry, Mode, Stream};
use unroll_gru::GruConfig;
use unroll_tasks::{InputKind, Inputs, Metric, Score, Split, Targets, Task};
use unroll_train::loss::mean_loss;
use unroll_train::{
    Error, InputLayer, TaskModel, TensorTargets, body_input_size, evaluate, model_cost,
};

static GRU: Entry<GruConfig> = Entry::new("gru", "for tests");

fn options(hidden_size: usize) -> serde_json::Map<String, serde_json::Value> {
    [("hidden_size".to_owned(), hidden_size.into())].into_iter().collect()
}

fn build(task: &SmallTask, embedding_size: Option<usize>) -> TaskModel {
    let context = unroll_core::BuildContext::cpu(DType::F32, 3);
    TaskModel::build(task, &GRU, &options(9), embedding_size, &context).unwrap()
}

#[test]
fn input_sizes() {
    let tokens = |vocabulary| InputKind::Tokens { vocabulary };
    assert_eq!(body_input_size(InputKind::Values { features: 3 }, 50, Some(9)), 3);
    assert_eq!(body_input_size(tokens(64), 50, None), 64);
    assert_eq!(body_input_size(tokens(65), 50, None), 50);
    assert_eq!(body_input_size(tokens(65), 50, Some(0)), 50);
    assert_eq!(body_input_size(tokens(10), 50, Some(7)), 7);
}

#[test]
fn models_are_named_priced_and_trainable_whole() {
    for (task, embedding, first) in [
        (SmallTask::mean(), None, "body.weight_ih_l0"),
        (SmallTask::previous(5), None, "body.weight_ih_l0"),
        (SmallTask::previous(5), Some(4), "embedding.weight"),
        (SmallTask::previous(100), None, "embedding.weight"),
    ] {
        let model = build(&task, embedding);
        let names: Vec<&str> = model.parameters().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names[0], first);
        assert_eq!(&names[names.len() - 2..], ["head.weight", "head.bias"]);
        let cost = model.cost(8, task.seq_len);
        assert_eq!(cost.parameters as usize, model.parameters().elements());

        let mut all = options(9);
        all.insert("input_size".into(), model.body().unwrap().input_size().into());
        assert_eq!(model_cost(&GRU, &all, &task, 8).unwrap(), cost);

        let batch = model.tensors(&task.train_batch(0, 8)).unwrap();
        let answers = model.forward(&batch, Mode::Eval).unwrap();
        let gradients = mean_loss(&answers, &batch).unwrap().backward().unwrap();
        for parameter in model.parameters().iter() {
            let gradient = gradients.get(parameter.var.as_tensor()).expect(&parameter.name);
            let total = gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(total > 0.0, "{}", parameter.name);
        }
        assert_eq!(model.form_name().unwrap(), "fused");
    }
}

/// The head is priced and run for the five answers of a sequence of six steps.
#[test]
fn only_steps_that_count_are_answered() {
    let task = SmallTask::previous(5);
    let model = build(&task, None);
    let batch = model.tensors(&task.train_batch(0, 8)).unwrap();
    assert_eq!(batch.answers(), 40);
    assert_eq!(model.forward(&batch, Mode::Eval).unwrap().dims(), [40, 5]);
    let around = model.cost(8, 6).forward_flops - model.body().unwrap().cost(8, 6).forward_flops;
    assert_eq!(around, 2 * 40 * 9 * 5);
    let TensorTargets::Classes(classes) = &batch.targets else { panic!("classes") };
    let Inputs::Tokens(tokens) = task.train_batch(0, 8).inputs else { panic!("tokens") };
    assert_eq!(classes[..5], tokens[..5]);
    assert_eq!(classes[5..10], tokens[6..11]);
}

/// Where a one-hot row has its 1, the embedding has that row of its table.
#[test]
fn embedded_and_one_hot_tokens_are_the_same_tokens() {
    let task = SmallTask::previous(5);
    let one_hot = build(&task, None);
    assert_eq!(one_hot.input_layer(), InputLayer::OneHot { vocabulary: 5 });
    let embedded = build(&task, Some(6));
    let tokens = embedded.tensors(&task.train_batch(0, 3)).unwrap();
    let features = embedded.features(&tokens).unwrap();
    assert_eq!(features.dims(), [3, 6, 6]);
    let table: Vec<Vec<f32>> =
        embedded.parameters().get("embedding.weight").unwrap().to_vec2().unwrap();
    let one_hot_rows: Vec<Vec<f32>> = one_hot
        .features(&one_hot.tensors(&task.train_batch(0, 3)).unwrap())
        .unwrap()
        .flatten_to(1)
        .unwrap()
        .to_vec2()
        .unwrap();
    let rows: Vec<Vec<f32>> = features.flatten_to(1).unwrap().to_vec2().unwrap();
    for (row, hot) in rows.iter().zip(&one_hot_rows) {
        assert_eq!(hot.iter().sum::<f32>(), 1.0);
        let token = hot.iter().position(|&x| x == 1.0).unwrap();
        assert_eq!(row, &table[token]);
    }
}

#[test]
fn batches_that_do_not_fit_are_errors() {
    let task = SmallTask::previous(5);
    let model = build(&task, None);
    let batch = task.train_batch(0, 2);
    let spoiled = |spoil: &dyn Fn(&mut unroll_tasks::Batch)| {
        let mut batch = batch.clone();
        spoil(&mut batch);
        match model.tensors(&batch) {
            Err(Error::Batch { message, .. }) => message,
            other => panic!("{other:?}"),
        }
    };
    let message = spoiled(&|b| b.inputs = Inputs::Tokens(vec![5; 12]));
    assert_eq!(message, "token 5 of a vocabulary of 5");
    spoiled(&|b| b.inputs = Inputs::Tokens(vec![0; 11]));
    spoiled(&|b| b.inputs = Inputs::Values(vec![0.0; 12]));
    spoiled(&|b| b.targets = Targets::Classes(vec![9; 12]));
    spoiled(&|b| b.targets = Targets::Values(vec![0.0; 12]));
    spoiled(&|b| b.weights = Some(vec![0.0; 12]));
    spoiled(&|b| b.weights = Some(vec![f32::NAN; 12]));
    spoiled(&|b| b.weights = Some(vec![1.0; 3]));
    spoiled(&|b| b.lengths = Some(vec![6]));
    spoiled(&|b| b.batch_size = 0);
}

#[test]
fn a_body_of_the_wrong_width_is_an_error() {
    let task = SmallTask::mean();
    let context = unroll_core::BuildContext::cpu(DType::F32, 0);
    let body = GRU.build(&options(4), &context).unwrap();
    assert!(TaskModel::new(&task, body, &context).is_err());
}

/// The accumulated metrics are those of the tasks' own definition on the host.
#[test]
fn metrics_are_the_tasks_own() {
    use unroll_tasks::Answers;
    let tasks = [
        SmallTask::mean(),
        SmallTask {
            metric: Metric::RootMeanSquaredError { scale: 3.0, unit: "kW".into() },
            ..SmallTask::mean()
        },
        SmallTask::previous(5),
        SmallTask { metric: Metric::MacroF1, ..SmallTask::previous(5) },
        SmallTask { metric: Metric::CrossEntropy, ..SmallTask::previous(5) },
        SmallTask {
            metric: Metric::MeanAbsoluteError { scale: 3.0, unit: "kW".into() },
            ..SmallTask::mean()
        },
        SmallTask { metric: Metric::MeanAbsoluteScaledError { scale: 0.5 }, ..SmallTask::mean() },
        SmallTask {
            metric: Metric::BitsPerCharacter { characters: None },
            ..SmallTask::previous(5)
        },
        SmallTask {
            metric: Metric::BitsPerCharacter { characters: Some([1, 2, 3, 4, 5].into()) },
            ..SmallTask::previous(5)
        },
    ];
    for task in tasks {
        let model = build(&task, None);
        let found = evaluate(&model, &task, Split::Test, 7).unwrap();
        let mut score = Score::new(&task);
        for batch in task.evaluation(Split::Test, EVALUATION_EXAMPLES) {
            // Answer every step, so that positions are those of the targets.
            let mut all = batch.clone();
            all.weights = None;
            let answers = model.forward(&model.tensors(&all).unwrap(), Mode::Eval).unwrap();
            let rows: Vec<Vec<f32>> = answers.to_vec2().unwrap();
            let largest = |row: &Vec<f32>| {
                (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
            };
            let answers = match task.metric {
                Metric::Accuracy | Metric::MacroF1 => {
                    Answers::Classes(rows.iter().map(largest).collect())
                }
                Metric::CrossEntropy | Metric::BitsPerCharacter { .. } => {
                    Answers::LogProbabilities(
                        rows.iter()
                            .flat_map(|row| {
                                let total: f32 = row.iter().map(|x| x.exp()).sum();
                                row.iter().map(move |x| x - total.ln())
                            })
                            .collect(),
                    )
                }
                _ => Answers::Values(rows.concat()),
            };
            score.add(&batch, &answers).unwrap();
        }
        let expected = score.value().unwrap();
        assert!((found.metric - expected).abs() < 1e-5 * expected, "{:?}", task.metric);
    }
}

/// Each target's error is that of its own number, and the task's that of all.
#[test]
fn errors_of_several_targets_are_told_apart() {
    let options = serde_json::json!({
        "file": "beijing_pm25_hourly.csv.gz", "target": ["TEMP", "pm2.5"], "inputs": "TEMP",
        "eval_stride": 41,
    });
    let options = options.as_object().unwrap();
    let request = unroll_tasks::TaskRequest { length: 4, seed: 1, options };
    let task = (unroll_tasks::find("forecast").unwrap().build)(&request).unwrap();
    let context = unroll_core::BuildContext::cpu(DType::F32, 3);
    let model = TaskModel::build(task.as_ref(), &GRU, &self::options(9), None, &context).unwrap();
    let found = evaluate(&model, task.as_ref(), Split::Test, 7).unwrap();
    let mut errors = [0.0, 0.0];
    let mut count = 0.0;
    for batch in task.evaluation(Split::Test, 100) {
        let answers = model.forward(&model.tensors(&batch).unwrap(), Mode::Eval).unwrap();
        let Targets::Values(targets) = &batch.targets else { panic!("numbers") };
        for (answer, target) in answers.to_vec2::<f32>().unwrap().iter().zip(targets.chunks(2)) {
            for output in 0..2 {
                errors[output] += f64::from(answer[output] - target[output]).powi(2);
            }
            count += 1.0;
        }
    }
    let all = ((errors[0] + errors[1]) / (2.0 * count)).sqrt();
    assert!((found.metric - all).abs() < 1e-5 * all, "{found:?}, not {all}");
    let others = task.other_metrics();
    for (output, name) in ["RMSE of TEMP", "RMSE of pm2.5"].into_iter().enumerate() {
        let at = others.iter().position(|other| other.name() == name).unwrap();
        let Metric::RootMeanSquaredErrorOf { scale, .. } = others[at] else { panic!("{name}") };
        let expected = scale * (errors[output] / count).sqrt();
        let value = found.others[at].value;
        assert_eq!(found.others[at].name, name);
        assert!((value - expected).abs() < 1e-5 * expected, "{name}: {value}, not {expected}");
    }
}

#[test]
fn metrics_that_do_not_fit_are_errors() {
    let second =
        Metric::RootMeanSquaredErrorOf { output: 1, name: "b".into(), scale: 1.0, unit: "".into() };
    for metric in [Metric::Accuracy, second] {
        let task = SmallTask { metric, ..SmallTask::mean() };
        let model = build(&task, None);
        assert!(matches!(evaluate(&model, &task, Split::Test, 7), Err(Error::Batch { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Metric and loss do not depend on how a split is cut into batches: sums are made answer by
    /// answer, in order. (The model itself may round differently in batches of another size, so the
    /// answers are fixed here.)
    #[test]
    fn sums_do_not_depend_on_the_batches(
        seed: u64, cuts in proptest::collection::vec(1usize..20, 1..6), classes: bool
    ) {
        use candle_core::{Device, Tensor};
        use unroll_train::{MetricTotals, TensorBatch};
        let task = if classes { SmallTask::previous(5) } else { SmallTask::mean() };
        let n = 50;
        let width = if classes { 5 } else { 1 };
        let stream = Stream::new(seed, "answers");
        let answers = stream.normal((n, width), 2.0, DType::F32, &Device::Cpu).unwrap();
        let mut rng = stream.child("targets").rng();
        let values: Vec<f32> = (0..n).map(|_| rng.normal() as f32).collect();
        let labels: Vec<u32> = (0..n).map(|_| rng.below(5) as u32).collect();
        let weights: Vec<f64> = (0..n).map(|_| rng.uniform()).collect();
        let part = |from: usize, to: usize| {
            let targets = if classes {
                TensorTargets::Classes(labels[from..to].to_vec())
            } else {
                let values = Tensor::from_slice(&values[from..to], (to - from, 1), &Device::Cpu);
                TensorTargets::Values(values.unwrap())
            };
            let batch = TensorBatch {
                second: None,
                source: None,
                input: Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu).unwrap(),
                lengths: None,
                rows: None,
                targets,
                weights: weights[from..to].to_vec(),
                tokens: 1,
            };
            (answers.narrow(0, from, to - from).unwrap(), batch)
        };
        let total = |borders: &[usize]| {
            let mut totals = MetricTotals::new(&task).unwrap();
            for pair in borders.windows(2) {
                let (answers, batch) = part(pair[0], pair[1]);
                totals.add(&answers, &batch).unwrap();
            }
            totals.finish().unwrap()
        };
        let mut borders = vec![0];
        for cut in cuts {
            let next = borders.last().unwrap() + cut;
            if next < n {
                borders.push(next);
            }
        }
        borders.push(n);
        let (whole, cut) = (total(&[0, n]), total(&borders));
        prop_assert_eq!(whole.metric.to_bits(), cut.metric.to_bits());
        prop_assert_eq!(whole.loss.to_bits(), cut.loss.to_bits());
    }
}

/// Further metrics are what the task says when it is asked for them first.
#[test]
fn further_metrics_are_the_metrics_of_the_same_answers() {
    let evaluated = |metric: &str| {
        let given = serde_json::json!({"metric": metric, "eval_stride": 199});
        let serde_json::Value::Object(options) = given else { panic!("a table") };
        let entry = unroll_tasks::find("pm25").unwrap();
        let request = unroll_tasks::TaskRequest { length: 12, seed: 0, options: &options };
        let task = (entry.build)(&request).unwrap();
        let context = unroll_core::BuildContext::cpu(DType::F64, 1);
        let model =
            TaskModel::build(task.as_ref(), &GRU, &self::options(5), None, &context).unwrap();
        (task.metric().name(), evaluate(&model, task.as_ref(), Split::Test, 64).unwrap())
    };
    let all = ["rmse", "mae", "mase"].map(evaluated);
    for (name, found) in &all {
        assert_eq!(found.others.len(), 2);
        for (other, expected) in all.iter().filter(|(other, _)| other != name) {
            let same = found.others.iter().find(|one| one.name == *other).unwrap();
            assert_eq!(same.value, expected.metric, "{other} beside {name}");
        }
    }
}

/// Each answer is an input of the next step: what reading everything again with the answers in place says.
#[test]
fn models_go_on_from_their_own_answers() {
    use candle_core::{IndexOp, Tensor};
    use unroll_tasks::{Batch, Inputs, OwnAnswers, Targets, find};
    let options = serde_json::json!({"forecast": "autoregressive", "horizon": 5});
    let request =
        unroll_tasks::TaskRequest { length: 7, seed: 1, options: options.as_object().unwrap() };
    let task = (find("electricity").unwrap().build)(&request).unwrap();
    let own = task.own_answers().unwrap();
    assert_eq!(own, OwnAnswers { from: 7, feature: 0 });
    let context = unroll_core::BuildContext::cpu(DType::F64, 3);
    let hidden = self::options(5);
    let model = TaskModel::build(task.as_ref(), &GRU, &hidden, None, &context).unwrap();
    let batch = task.evaluation(Split::Test, 6).remove(0);
    let found = model.forward_on_own(&model.tensors(&batch).unwrap(), own).unwrap();
    let found: Vec<f64> = found.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), 6 * 5);

    let Inputs::Values(mut inputs) = batch.inputs.clone() else { panic!("numbers") };
    let steps = batch.seq_len;
    for step in own.from..=steps {
        let every = Batch {
            inputs: Inputs::Values(inputs.clone()),
            targets: Targets::Values(vec![0.0; 6 * steps]),
            weights: None,
            ..batch.clone()
        };
        let answers = model.forward(&model.tensors(&every).unwrap(), Mode::Eval).unwrap();
        let answers: Tensor = answers.reshape((6, steps)).unwrap();
        for row in 0..6 {
            let answer: f64 = answers.i((row, step - 1)).unwrap().to_scalar().unwrap();
            let place = row * 5 + step - own.from;
            // Inputs are f32 in a batch, answers stay f64.
            assert!((answer - found[place]).abs() < 1e-6, "row {row}, step {step}");
            if step < steps {
                inputs[(row * steps + step) * 5] = answer as f32;
            }
        }
    }
    // The last hour's error is that of each sequence's last number.
    let evaluation = evaluate(&model, task.as_ref(), Split::Test, 6).unwrap();
    let names: Vec<&str> = evaluation.others.iter().map(|other| other.name.as_str()).collect();
    assert_eq!(names, ["MAE (kWh)", "MASE", "RMSE at 5 h (kWh)"]);
    let Metric::RootMeanSquaredError { scale, .. } = task.metric() else { panic!("RMSE") };
    let (mut squares, mut count) = (0.0, 0.0);
    for batch in task.evaluation(Split::Test, 100) {
        let tensors = model.tensors(&batch).unwrap();
        let answers = model.forward_on_own(&tensors, own).unwrap();
        let answers: Vec<f64> = answers.flatten_all().unwrap().to_vec1().unwrap();
        let Targets::Values(targets) = &batch.targets else { panic!("numbers") };
        for row in 0..batch.batch_size {
            let right = f64::from(targets[(row + 1) * steps - 1]);
            squares += (answers[(row + 1) * 5 - 1] - right).powi(2);
            count += 1.0;
        }
    }
    let expected = scale * (squares / count).sqrt();
    let found = evaluation.others[2].value;
    assert!((found - expected).abs() < 1e-6 * expected, "{found}, not {expected}");
}
