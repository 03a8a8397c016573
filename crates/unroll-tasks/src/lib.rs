//! Synthetic and real sequence tasks with metrics and trivial baselines.
//!
//! A task is host data only: batches are plain vectors, and nothing here knows a model or a device.
//! Every batch is a pure function of (task, seed, split, index).
//!
//! Tasks are found by name in the [`registry`](registry()):
//!
//! ```
//! use unroll_tasks::{Split, TaskRequest, find};
//! let entry = find("adding").expect("the adding problem is registered");
//! let options = serde_json::Map::new();
//! let task = (entry.build)(&TaskRequest { length: 50, seed: 1, options: &options })?;
//! let batch = task.train_batch(0, 32);
//! assert_eq!((batch.batch_size, batch.seq_len), (32, 50));
//! assert_eq!(task.baselines()[0].value, 1.0 / 6.0);
//! # Ok::<(), unroll_tasks::Error>(())
//! ```
//!
//! A new task is one module with an `ENTRY` and one line in the registry.

pub mod answer;
mod baseline;
pub mod data;
pub mod error;
mod options;
pub mod pairs;
mod real;
mod registry;
pub mod score;
mod synthetic;
pub mod task;

pub use answer::{AnswerScore, OtherMetric, Search, edit_distance};
pub use error::{Error, Result};
pub use registry::{find, registry};
pub use score::{Answers, ClassCounts, Score};
pub use task::{
    Baseline, Batch, Better, InputKind, Inputs, Metric, ModalityInputs, Options, OwnAnswers,
    PairInputs, Readout, Split, TargetKind, Targets, Task, TaskEntry, TaskRequest, Writing,
};
