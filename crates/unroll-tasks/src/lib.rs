//! Synthetic and real sequence tasks with metrics and trivial baselines.
//!
//! A task is host data only: batches are plain vectors, and nothing here knows a model or a device.
//! Every batch is a pure function of (task, seed, split, index).

pub mod error;
pub mod task;

pub use error::{Error, Result};
pub use task::{
    Baseline, Batch, Better, InputKind, Inputs, Metric, Readout, Split, TargetKind, Targets, Task,
    TaskEntry, TaskRequest,
};
