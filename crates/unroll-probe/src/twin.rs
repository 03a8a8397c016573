//! Copies of models in double precision.
//!
//! Gradients over long distances leave the range of f32: a default-initialised RNN with 16 units
//! reaches 1e-55 at a distance of 199 steps. They are measured on a copy in f64 on the CPU.

use candle_core::DType;
use serde_json::{Map, Value};
use unroll_core::architecture::Architecture;
use unroll_core::weights::{export, import};
use unroll_core::{BuildContext, SequenceModel};
use unroll_tasks::Task;
use unroll_train::{InputLayer, TaskModel};

use crate::Result;

/// A sequence model with the weights of `trained`, in f64 on the CPU. `options` are those that
/// `trained` was built from.
///
/// # Errors
/// When the options give another model, or a weight is not finite.
pub fn f64_body(
    architecture: &dyn Architecture,
    options: &Map<String, Value>,
    trained: &dyn SequenceModel,
) -> Result<Box<dyn SequenceModel>> {
    let twin = architecture.build(options, &BuildContext::cpu(DType::F64, 0))?;
    import(twin.parameters(), &export(trained.parameters())?)?;
    Ok(twin)
}

/// A whole model (input layer, body, head) with the weights of `trained`, in f64 on the CPU.
///
/// # Errors
/// When the options give another model, or a weight is not finite.
pub fn f64_twin(
    task: &dyn Task,
    architecture: &dyn Architecture,
    options: &Map<String, Value>,
    trained: &TaskModel,
) -> Result<TaskModel> {
    let embedding_size = match trained.input_layer() {
        InputLayer::Embedding { size, .. } | InputLayer::Pairs { size, .. } => Some(size),
        InputLayer::Values { .. }
        | InputLayer::OneHot { .. }
        | InputLayer::Joined { .. }
        | InputLayer::Apart { .. } => None,
    };
    let context = BuildContext::cpu(DType::F64, trained.seed());
    let twin = TaskModel::build(task, architecture, options, embedding_size, &context)?;
    import(twin.parameters(), &export(trained.parameters())?)?;
    Ok(twin)
}
