//! The programs that are compared: a binary, or a revision that is built first.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// What goes wrong with another program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("{path}: {source}; give a binary, or a revision as `git:REVISION`")]
    Missing {
        /// As given.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A command failed.
    #[error("`{command}` failed: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit code, if it ended with one.
        code: Option<i32>,
        /// What it wrote at the end.
        message: String,
    },
    /// A revision that is there cannot be built.
    #[error("{revision} cannot be built: {source}")]
    Build {
        /// As given.
        revision: String,
        /// Why.
        source: Box<Self>,
    },
    /// A command gave something else than expected.
    #[error("`{command}` gave {what}")]
    Answer {
        /// The command line.
        command: String,
        /// What was wrong.
        what: String,
    },
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

type Result<T> = std::result::Result<T, ProgramError>;

/// A program that can be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// As the user named it: a path or `git:REVISION`.
    pub name: String,
    /// The commit it was built from, if it was built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// BLAKE3 of the binary.
    pub blake3: String,
    /// Where it lies.
    #[serde(skip)]
    pub path: PathBuf,
}

impl Program {
    /// A binary by its path, or a revision of the repository around the current folder, which is built
    /// in `cache` unless it was before.
    ///
    /// # Errors
    /// When there is no such program, or it cannot be built.
    pub fn resolve(name: &str, cache: &Path) -> Result<Self> {
        let (path, commit) = match name.strip_prefix("git:") {
            Some(revision) => {
                let (path, commit) = build(revision, cache)?;
                (path, Some(commit))
            }
            None => (PathBuf::from(name), None),
        };
        let missing = |source| ProgramError::Missing { path: name.to_owned(), source };
        let bytes = std::fs::read(&path).map_err(missing)?;
        let path = path.canonicalize().map_err(missing)?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self { name: name.to_owned(), commit, blake3, path })
    }

    /// Copies it to `DIR/unroll`, so that compared programs have paths of one length: the environment's
    /// size moves the stack, and that alone can change times (Mytkowicz et al. 2009).
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copied_to(&self, dir: &Path) -> Result<Self> {
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| ProgramError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let path = dir.join("unroll");
        std::fs::copy(&self.path, &path).map_err(io(&path))?;
        Ok(Self { path, ..self.clone() })
    }
}

/// Builds a revision; gives the binary and the commit.
fn build(revision: &str, cache: &Path) -> Result<(PathBuf, String)> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| ProgramError::Io { path, source }
    };
    let commit = git(&["rev-parse", "--verify", &format!("{revision}^{{commit}}")])?;
    let commit = commit.trim().to_owned();
    std::fs::create_dir_all(cache).map_err(io(cache))?;
    let cache = cache.canonicalize().map_err(io(cache))?;
    let binary = cache.join("bin").join(&commit).join("unroll");
    if binary.exists() {
        return Ok((binary, commit));
    }
    // One folder for all revisions: what did not change between them is not compiled again.
    let source = cache.join("source");
    if is_worktree(&source) {
        let checkout = ["checkout", "--quiet", "--force", "--detach", &commit];
        run(Command::new("git").arg("-C").arg(&source).args(checkout))?;
    } else {
        // A cache that was moved or brought back from elsewhere: git no longer knows it.
        if source.exists() {
            std::fs::remove_dir_all(&source).map_err(io(&source))?;
        }
        let at = source.display().to_string();
        git(&["worktree", "prune"])?;
        git(&["worktree", "add", "--quiet", "--force", "--detach", &at, &commit])?;
    }
    let target = cache.join("target");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).current_dir(&source).env("CARGO_TARGET_DIR", &target).args([
        "build",
        "--release",
        "--locked",
        "-p",
        "unroll",
        "--bin",
        "unroll",
    ]))
    .map_err(|error| ProgramError::Build {
        revision: format!("git:{revision}"),
        source: Box::new(error),
    })?;
    let dir = cache.join("bin").join(&commit);
    std::fs::create_dir_all(&dir).map_err(io(&dir))?;
    let built = target.join("release/unroll");
    // By renaming, so that a half-copied program is never found here.
    let partial = dir.join("partial");
    std::fs::copy(&built, &partial).map_err(io(&built))?;
    std::fs::rename(&partial, &binary).map_err(io(&binary))?;
    Ok((binary, commit))
}

/// Whether the folder is a worktree of the repository around the current folder. A plain folder inside the
/// repository is none, although git finds the repository from there: a checkout would overwrite the user's
/// own files.
fn is_worktree(folder: &Path) -> bool {
    let asked = |at: &Path, what: &str| -> Option<PathBuf> {
        let mut command = Command::new("git");
        command.arg("-C").arg(at).args(["rev-parse", "--path-format=absolute", what]);
        PathBuf::from(run(&mut command).ok()?.trim_end_matches('\n')).canonicalize().ok()
    };
    let Ok(place) = folder.canonicalize() else { return false };
    let common = asked(folder, "--git-common-dir");
    asked(folder, "--show-toplevel") == Some(place)
        && common.is_some()
        && common == asked(Path::new("."), "--git-common-dir")
}

/// Whether files of the current folder's repository differ from this commit, which is checked out: a build of
/// the commit leaves the changes out.
pub fn leaves_changes_out(commit: &str) -> bool {
    let head = git(&["rev-parse", "HEAD"]).is_ok_and(|head| head.trim() == commit);
    let changes = || git(&["status", "--porcelain", "--untracked-files=no"]);
    head && changes().is_ok_and(|changes| !changes.trim().is_empty())
}

fn git(arguments: &[&str]) -> Result<String> {
    run(Command::new("git").args(arguments))
}

/// Runs a command to its end and gives what it wrote to standard output.
///
/// # Errors
/// [`ProgramError::Failed`] when it cannot be started or does not succeed.
pub fn run(command: &mut Command) -> Result<String> {
    finished(command).map(|(stdout, _)| stdout)
}

/// The same with standard error.
///
/// # Errors
/// As [`run`].
pub fn finished(command: &mut Command) -> Result<(String, String)> {
    let line = line(command);
    let failed =
        |code, message: String| ProgramError::Failed { command: line.clone(), code, message };
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| failed(None, error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let error = text(&output.stderr);
        let last: Vec<&str> = error.lines().rev().take(6).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let message = format!("{}\n{}", output.status, last.join("\n"));
        return Err(failed(output.status.code(), message));
    }
    Ok((text(&output.stdout), text(&output.stderr)))
}

/// A command as somebody would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
