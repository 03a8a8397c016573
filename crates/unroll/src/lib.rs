//! The program's parts: the registry of architectures, evaluation, experiment files, planning and
//! running. `main.rs` is the command line over them.

pub mod eval;
pub mod registry;
