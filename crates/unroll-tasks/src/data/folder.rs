//! Where the data files lie.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variable that names the data folder.
pub const VARIABLE: &str = "UNROLL_DATA";

/// Path of the data file `file`.
///
/// With [`VARIABLE`] set, it is looked for there and nowhere else. Otherwise in the first of these
/// folders that has it: `data` in the current directory and its ancestors, then the `data` folder
/// of the source checkout that the program was built from. The path is returned whether or not the
/// file exists, so that the error of opening it names a path.
pub fn locate(file: &str) -> PathBuf {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    locate_in(std::env::var_os(VARIABLE), std::env::current_dir().ok().as_deref(), checkout, file)
}

/// A file that every data folder has.
const BUNDLED: &str = "digits_8x8.csv.gz";

/// The data folder that files are added to: the one that [`VARIABLE`] names, else the one that holds
/// the bundled files, else `data` in the current directory.
pub fn home() -> PathBuf {
    let mut path = locate(BUNDLED);
    path.pop();
    path
}

/// Where [`locate`] has looked for a file that it did not find and called `path`.
pub fn searched(path: &Path) -> Vec<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    match path.strip_prefix("data") {
        Ok(file) if file.is_relative() => {
            candidates(std::env::current_dir().ok().as_deref(), checkout)
                .map(|folder| folder.join(file))
                .collect()
        }
        _ => vec![path.to_owned()],
    }
}

/// Data folders without [`VARIABLE`], the nearest first.
fn candidates(current: Option<&Path>, checkout: PathBuf) -> impl Iterator<Item = PathBuf> {
    let beside = current.into_iter().flat_map(Path::ancestors).map(|folder| folder.join("data"));
    beside.chain([checkout]).collect::<Vec<_>>().into_iter()
}

fn locate_in(
    variable: Option<OsString>,
    current: Option<&Path>,
    checkout: PathBuf,
    file: &str,
) -> PathBuf {
    if let Some(folder) = variable.filter(|value| !value.is_empty()) {
        return Path::new(&folder).join(file);
    }
    candidates(current, checkout)
        .map(|folder| folder.join(file))
        .find(|path| path.exists())
        .unwrap_or_else(|| Path::new("data").join(file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_folder_that_has_the_file_wins() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        let checkout = root.path().join("checkout/data");
        for folder in [&deep, &root.path().join("a/data"), &checkout] {
            fs::create_dir_all(folder).unwrap();
        }
        let found = |variable: Option<&str>| {
            locate_in(variable.map(OsString::from), Some(&deep), checkout.clone(), "set.gz")
        };
        assert_eq!(found(None), Path::new("data/set.gz"), "nowhere");
        fs::write(checkout.join("set.gz"), "").unwrap();
        assert_eq!(found(None), checkout.join("set.gz"), "an empty `data` does not hide it");
        assert_eq!(found(Some("")), checkout.join("set.gz"), "empty is as good as not set");
        fs::write(root.path().join("a/data/set.gz"), "").unwrap();
        assert_eq!(found(None), root.path().join("a/data/set.gz"));
        assert_eq!(found(Some("/elsewhere")), Path::new("/elsewhere/set.gz"));
    }

    #[test]
    fn the_bundled_files_are_found() {
        let fetched = format!("{}/", crate::data::sets::FOLDER);
        let files = crate::registry().iter().flat_map(|entry| entry.files);
        for file in files.filter(|file| !file.starts_with(&fetched)) {
            assert!(locate(file).is_file(), "{file} is not bundled");
        }
        assert!(home().join(BUNDLED).is_file());
    }
}
