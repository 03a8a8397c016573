//! What trials ran on: `DIR/environments/<id>.json`, each stored once.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Result, canonical, files, layout, sealed};

/// Version of the file's layout.
pub const SCHEMA: u32 = 2;

/// Machine and build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program.
    pub unroll: String,
    /// Commit that the program was built from, if it was built in a repository.
    pub commit: Option<String>,
    /// Whether the tree had changes that were not committed.
    pub dirty: bool,
    /// Hash of the program's sources.
    pub sources: String,
    /// Hash of `Cargo.lock`.
    pub lock: String,
    /// The compiler.
    pub rustc: String,
    /// Architecture and operating system.
    pub target: String,
    /// Instruction set extensions that the compiler was allowed to use everywhere.
    pub target_features: String,
    /// Instruction set that the kernels chose on this machine.
    pub instruction_set: String,
    /// Name of the processor, if the system tells it.
    pub cpu: Option<String>,
    /// Cores that the system offers to the process.
    pub cores: usize,
    /// Threads of each trial.
    pub threads: usize,
    /// Whether CUDA was compiled in.
    pub cuda: bool,
    /// Names of the GPUs that the driver shows.
    pub gpus: Vec<String>,
    /// The GPU driver.
    pub driver: Option<String>,
}

impl Environment {
    /// Hash of everything here.
    pub fn id(&self) -> String {
        canonical::hash(self)
    }

    /// What the bits of a result depend on: on a CPU, equal strings mean equal bits. The number of threads,
    /// cores and jobs is not among it.
    pub fn numerics(&self) -> String {
        let cpu = (
            (&self.sources, &self.lock, &self.rustc),
            (&self.target, &self.target_features),
            self.machine(),
        );
        if self.cuda && !self.gpus.is_empty() {
            canonical::hash(&(cpu, &self.gpus, &self.driver))
        } else {
            canonical::hash(&cpu)
        }
    }

    /// The part of [`numerics`](Self::numerics) that is the machine: libraries choose block sizes by
    /// the processor, and with them the order of sums.
    pub fn machine(&self) -> (&str, Option<&str>) {
        (&self.instruction_set, self.cpu.as_deref())
    }

    /// Commit with a mark for a changed tree, or the hash of the sources.
    pub fn build(&self) -> String {
        match &self.commit {
            Some(commit) => {
                let short = commit.get(..12).unwrap_or(commit);
                format!("{short}{}", if self.dirty { " with changes" } else { "" })
            }
            None => format!("sources {}", self.sources.get(..12).unwrap_or(&self.sources)),
        }
    }

    /// One line per fact, for reports.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("unroll {} ({})", self.unroll, self.build()),
            format!(
                "{} ({} cores, {} threads per trial, {})",
                self.cpu.as_deref().unwrap_or("unknown processor"),
                self.cores,
                self.threads,
                self.instruction_set
            ),
            format!("{}, {}", self.target, self.rustc),
        ];
        if !self.gpus.is_empty() {
            let driver = self.driver.as_deref().unwrap_or("unknown driver");
            lines.push(format!("{} ({driver})", self.gpus.join(", ")));
        }
        lines
    }

    /// Writes the environment into a folder, if it is not there, and returns its id.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<String> {
        let id = self.id();
        let path = layout::file_of(dir, layout::ENVIRONMENTS, &id, "json")?;
        if Self::read(dir, &id).is_err() {
            files::create_dir(&dir.join(layout::ENVIRONMENTS))?;
            files::write(&path, &sealed::to_bytes(&path, self)?)?;
        }
        Ok(id)
    }

    /// Reads an environment of a folder and checks its id.
    ///
    /// # Errors
    /// As [`sealed::read`]; [`crate::Error::Inconsistent`].
    pub fn read(dir: &Path, id: &str) -> Result<Self> {
        let path = layout::file_of(dir, layout::ENVIRONMENTS, id, "json")?;
        let environment: Self = sealed::read(&path, SCHEMA)?;
        if environment.id() != id {
            let message = format!("its content has the id {}", environment.id());
            return Err(crate::Error::Inconsistent { path, message });
        }
        Ok(environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn environments_are_stored_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let environment = testing::environment();
        let id = environment.write(dir.path()).unwrap();
        assert_eq!(environment.write(dir.path()).unwrap(), id);
        assert_eq!(files::stems(&dir.path().join(layout::ENVIRONMENTS), "json").unwrap(), [&*id]);
        assert_eq!(Environment::read(dir.path(), &id).unwrap(), environment);
    }

    #[test]
    fn threads_are_part_of_the_id_and_not_of_the_numerics() {
        let one = testing::environment();
        let two = Environment { threads: 2, cores: 9, ..one.clone() };
        assert_ne!(one.id(), two.id());
        assert_eq!(one.numerics(), two.numerics());
        let other = Environment { cpu: Some("another".into()), ..one.clone() };
        assert_ne!(one.numerics(), other.numerics());
        let on = |gpu: &str| Environment { cuda: true, gpus: vec![gpu.into()], ..one.clone() };
        assert_ne!(on("one").numerics(), on("another").numerics());
        assert_eq!(Environment { cuda: true, ..one.clone() }.numerics(), one.numerics());
    }
}
