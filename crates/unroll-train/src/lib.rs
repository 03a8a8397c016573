//! From a task and a sequence model to a trained model: input and output layers, losses, metrics,
//! optimisers, schedules, clipping, the training loop and its checkpoints.
//!
//! Everything is a function of the task's seed and the model's seed: batches, dropout and order of
//! summation. A run that is interrupted and continued from a [`Checkpoint`] gives the same bits as
//! one that never stopped.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use unroll_core::BuildContext;
//! use unroll_tasks::{Split, Task};
//! use unroll_train::{Progress, TaskModel, TrainConfig, evaluate, train};
//! # fn example(task: &dyn Task, body: Box<dyn unroll_core::SequenceModel>) -> unroll_train::Result<()> {
//! let context = BuildContext::cpu(candle_core::DType::F32, 1);
//! let model = TaskModel::new(task, body, &context)?;
//! let config = TrainConfig { steps: 500, ..TrainConfig::default() };
//! let outcome = train(&model, task, &config, &mut |_: &Progress| ControlFlow::Continue(()))?;
//! let test = evaluate(&model, task, Split::Test, config.eval_batch_size)?;
//! println!("{:?} after {} steps: {}", outcome.ending, outcome.steps, test.metric);
//! # Ok(())
//! # }
//! ```

pub mod batch;
mod carry;
pub mod checkpoint;
pub mod clip;
pub mod config;
mod cross_entropy;
pub mod decode;
pub mod error;
pub mod evaluate;
pub mod input_layer;
pub mod loss;
pub mod model;
pub mod optim;
pub mod sample;
pub mod schedule;
pub mod train;

pub use batch::{TensorBatch, TensorSequences, TensorSource, TensorTargets};
pub use checkpoint::Checkpoint;
pub use clip::{Clip, global_norm};
pub use config::{ConfigError, TrainConfig};
pub use decode::{Hypothesis, attention_along, decode};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, MetricTotals, evaluate, reaches};
pub use input_layer::{InputLayer, body_input_size, set_input_sizes};
pub use model::{BODY, TaskModel, TaskShape, model_cost};
pub use optim::{Optimizer, OptimizerKind, OptimizerState};
pub use sample::{Sampling, sample};
pub use schedule::{Schedule, ScheduleKind};
pub use train::{
    CurvePoint, Ending, Observer, Progress, ThresholdReached, TrainOutcome, Trainer, WeightTrace,
    train,
};
