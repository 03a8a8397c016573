//! What a run ran on.

use serde::{Deserialize, Serialize};

/// Machine and build, written once beside the results.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Environment {
    /// Version of this program.
    pub unroll: String,
    /// Operating system and architecture.
    pub target: String,
    /// Name of the processor, if the system tells it.
    pub cpu: Option<String>,
    /// Cores that the system offers to this process.
    pub cores: usize,
    /// Threads of each trial.
    pub threads: usize,
    /// Instruction set of the element-wise kernels.
    pub instruction_set: String,
    /// Whether CUDA was compiled in.
    pub cuda: bool,
}

impl Environment {
    /// The environment of this process.
    pub fn current(threads: usize) -> Self {
        Self {
            unroll: env!("CARGO_PKG_VERSION").to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cpu: cpu_name(),
            cores: cores(),
            threads,
            instruction_set: unroll_kernels::isa::Isa::current().name().to_owned(),
            cuda: cfg!(feature = "cuda"),
        }
    }

    /// One line per fact, for reports.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!("unroll {}", self.unroll),
            format!(
                "{} ({} cores, {} threads per trial, {})",
                self.cpu.as_deref().unwrap_or("unknown processor"),
                self.cores,
                self.threads,
                self.instruction_set
            ),
            self.target.clone(),
        ]
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
