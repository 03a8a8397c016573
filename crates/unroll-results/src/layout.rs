//! Where things are in a result folder.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Records of trials: `trials/<id>.json`.
pub const TRIALS: &str = "trials";
/// The list of trials that the folder is for.
pub const MANIFEST: &str = "manifest.json";
/// The experiment, as it was given.
pub const EXPERIMENT: &str = "experiment.toml";
/// Earlier lists, by their id: `manifests/<id>.json`.
pub const MANIFESTS: &str = "manifests";
/// Machines and builds, by their id: `environments/<id>.json`.
pub const ENVIRONMENTS: &str = "environments";
/// What each process did, in its order: `events/<process>.jsonl`.
pub const EVENTS: &str = "events";
/// Trials that a process works on: `claims/<id>.claim`.
pub const CLAIMS: &str = "claims";
/// Trials that have begun: `checkpoints/<id>.checkpoint`.
pub const CHECKPOINTS: &str = "checkpoints";
/// Weights after training, where they are kept: `weights/<id>.safetensors`.
pub const WEIGHTS: &str = "weights";
/// Second results of a trial with other bits than the first: `conflicts/<id>-<fingerprint>.json`.
pub const CONFLICTS: &str = "conflicts";
/// Files that could not be read, moved out of the way.
pub const DAMAGED: &str = "damaged";
/// Beginning of the names of files that keep room on the disk while a process runs.
pub const RESERVE: &str = ".reserve-";
/// Tables.
pub const TABLES: &str = "tables";
/// Plots.
pub const PLOTS: &str = "plots";
/// Files for other tools, a folder for each.
pub const EXPORT: &str = "export";

/// A file of trial `id` in a folder: `DIR/FOLDER/ID.EXTENSION`.
///
/// # Errors
/// [`Error::Id`] when `id` cannot be a file name.
pub fn file_of(dir: &Path, folder: &str, id: &str, extension: &str) -> Result<PathBuf> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.is_empty() || !id.chars().all(fits) {
        return Err(Error::Id { id: id.to_owned() });
    }
    Ok(dir.join(folder).join(format!("{id}.{extension}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_leave_the_folder() {
        for id in ["", "../x", "a/b", "a.json", "ä"] {
            let path = file_of(Path::new("d"), TRIALS, id, "json");
            assert!(matches!(path, Err(Error::Id { .. })), "{id}");
        }
    }
}
