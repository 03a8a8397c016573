//! The program's parts: the registry of architectures, evaluation, experiment files, planning,
//! running and reporting. `main.rs` is the command line over them.

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod device;
pub mod environment;
pub mod eval;
pub mod exit;
pub mod experiment;
pub mod fetch;
pub mod gate;
pub mod list;
pub mod measure;
pub mod memory;
pub mod mlflow;
pub mod parity;
pub mod progress;
pub mod registry;
pub mod replay;
pub mod report;
pub mod run;
pub mod sample;
pub mod share;
pub mod slurm;
pub mod theory;
pub mod trial;
