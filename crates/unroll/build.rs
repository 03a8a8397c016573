//! Tells the program what it was built from: commit, state of the tree, hash of the sources, hash of
//! `Cargo.lock`, compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(&root).args(arguments));
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let dirty = git(&["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|text| !text.is_empty());
    let rustc =
        output(Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())).arg("--version"));

    let mut sources = Vec::new();
    collect(&root.join("crates"), &mut sources);
    sources.sort();
    let mut hasher = blake3::Hasher::new();
    for path in &sources {
        let name = path.strip_prefix(&root).unwrap_or(path).to_string_lossy();
        let bytes = fs::read(path).unwrap_or_default();
        hasher.update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    let lock = fs::read(root.join("Cargo.lock")).unwrap_or_default();

    for (name, value) in [
        ("UNROLL_COMMIT", commit),
        ("UNROLL_DIRTY", dirty.to_string()),
        ("UNROLL_SOURCES", hasher.finalize().to_hex()[..32].to_owned()),
        ("UNROLL_LOCK", blake3::hash(&lock).to_hex()[..32].to_owned()),
        ("UNROLL_RUSTC", rustc.unwrap_or_default()),
        ("UNROLL_TARGET_FEATURES", env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default()),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
    for path in ["crates", "Cargo.lock", ".git/logs/HEAD"] {
        // A path that is not there would make every build start over.
        if root.join(path).exists() {
            println!("cargo::rerun-if-changed={}", root.join(path).display());
        }
    }
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// What the results can depend on: sources and manifests, not tests and benches.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if !["tests", "benches", "examples", "target"].iter().any(|skip| name == *skip) {
                collect(&path, files);
            }
        } else if ["rs", "toml", "cu"]
            .iter()
            .any(|kind| path.extension().is_some_and(|e| e == *kind))
        {
            files.push(path);
        }
    }
}
