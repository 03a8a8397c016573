//! Gates and attention of whole models on a task's batch: what the sequence model within gives on the same
//! inputs, padding left out.

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};
use unroll_attention::TransformerConfig;
use unroll_core::{Architecture, BuildContext, Entry, Lengths};
use unroll_lstm::LstmConfig;
use unroll_probe::{
    attention_profile, attention_profile_of_task, gate_statistics, gate_statistics_of_task,
};

use unroll_tasks::{Batch, Inputs, Task, TaskRequest, find};
use unroll_train::TaskModel;

static LSTM: Entry<LstmConfig> = Entry::new("lstm", "for tests");
static TRANSFORMER: Entry<TransformerConfig> = Entry::new("transformer", "for tests");

const STEPS: usize = 20;

fn adding() -> Box<dyn Task> {
    let options = Map::new();
    let request = TaskRequest { length: STEPS, seed: 4, options: &options };
    (find("adding").unwrap().build)(&request).unwrap()
}

fn model(task: &dyn Task, architecture: &dyn Architecture) -> TaskModel {
    let Value::Object(options) = json!({"hidden_size": 8}) else { unreachable!("an object") };
    TaskModel::build(task, architecture, &options, None, &BuildContext::cpu(DType::F64, 2)).unwrap()
}

/// A padded batch of the task, and its features and lengths.
fn batch(task: &dyn Task) -> (Batch, Tensor, Lengths) {
    let mut batch = task.train_batch(0, 3);
    let lengths = vec![STEPS, 7, 1];
    let Inputs::Values(values) = &batch.inputs else { panic!("adding has values") };
    let x: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
    let x = Tensor::from_vec(x, (3, STEPS, 2), &candle_core::Device::Cpu).unwrap();
    batch.lengths = Some(lengths.clone());
    (batch, x, Lengths::new(lengths, 3, STEPS).unwrap())
}

#[test]
fn gates_of_a_task() {
    let task = adding();
    let model = model(task.as_ref(), &LSTM);
    let (batch, x, lengths) = batch(task.as_ref());
    let found = gate_statistics_of_task(&model, &batch).unwrap();
    assert_eq!(found, gate_statistics(model.body().unwrap(), &x, Some(&lengths)).unwrap());
    assert_eq!((found.len(), found[0].steps, found[0].units), (4, 28, 8));
    // A layer as it is initialised neither opens nor closes its gates.
    assert_eq!((found[1].closed, found[1].open), (Some(0.0), Some(0.0)));
    let memory = found[1].memory.as_ref().unwrap();
    assert!(memory.forget.iter().all(|time| (1.2..4.0).contains(time)), "{:?}", memory.forget);
}

#[test]
fn attention_of_a_task() {
    let task = adding();
    let model = model(task.as_ref(), &TRANSFORMER);
    let (batch, x, lengths) = batch(task.as_ref());
    let found = attention_profile_of_task(&model, &batch).unwrap();
    assert_eq!(found, attention_profile(model.body().unwrap(), &x, Some(&lengths), None).unwrap());
    let places: Vec<(usize, usize)> = found.iter().map(|p| (p.layer, p.head)).collect();
    assert_eq!(places, (0..2).flat_map(|l| (0..4).map(move |h| (l, h))).collect::<Vec<_>>());
    // Of 28 queries three are the first of their sequence.
    assert!(found.iter().all(|profile| profile.queries == 25));
}
