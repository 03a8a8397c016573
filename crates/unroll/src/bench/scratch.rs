//! Folders that are gone at the end.

use std::path::{Path, PathBuf};

/// A folder of this process below the system's temporary one; made by whoever writes into it.
#[derive(Debug)]
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// The folder `NAME-PROCESS`.
    pub fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("{name}-{}", std::process::id())))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed from the temporary folder harms nobody.
        std::fs::remove_dir_all(&self.0).ok();
    }
}
