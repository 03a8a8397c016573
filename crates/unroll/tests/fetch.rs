//! Data sets that are fetched, from packages that the tests make: no network.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use assert_cmd::Command;
use predicates::prelude::*;
use proptest::prelude::*;
use serde_json::Value;
use unroll::fetch::{self, FetchError, Fetched};
use unroll_tasks::data::sets::{DataSet, SetFile, Source};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const TRAIN: &str = "@univariate true\n@classLabel true a b\n@data\n1,2,3:a\n";
const TEST: &str = "@univariate true\n@classLabel true a b\n@data\n3,2,1:b\n";

fn file(member: &'static str, content: &str) -> SetFile {
    let blake3 = blake3::hash(content.as_bytes()).to_hex().to_string().leak();
    SetFile { member, bytes: content.len() as u64, blake3 }
}

/// A set of two small files, as one of the program's own.
fn toy(source: Source) -> DataSet {
    let files =
        vec![file("package/data/toy_TRAIN.ts", TRAIN), file("package/data/toy_TEST.ts", TEST)];
    DataSet { name: "toy", what: "a toy", task: None, licence: "none", source, files: files.leak() }
}

const WHEEL: Source = Source::Wheel { package: "a-package", version: "1.0" };

/// A wheel with these files.
fn wheel(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn sound() -> Vec<u8> {
    wheel(&[
        ("package/__init__.py", ""),
        ("package/data/toy_TRAIN.ts", TRAIN),
        ("package/data/toy_TEST.ts", TEST),
    ])
}

/// A data folder, and a wheel beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new(bytes: &[u8]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.wheel(), bytes).unwrap();
        place
    }

    fn wheel(&self) -> PathBuf {
        self.0.path().join("a_package-1.0-py3-none-any.whl")
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn set(&self) -> PathBuf {
        self.home().join("fetched/toy")
    }

    fn fetch(&self, from: &Path) -> Result<Fetched, FetchError> {
        let mut found = None;
        let mut tell = |_: &DataSet, outcome| found = Some(outcome);
        fetch::fetch(&[&toy(WHEEL)], &self.home(), Some(from), &mut tell).unwrap();
        // Nothing is left but the set and the lock.
        for entry in fs::read_dir(self.home().join("fetched")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name == "toy" || name == ".lock", "{name:?} is left");
        }
        found.unwrap()
    }

    /// The set is there, whole.
    fn holds_the_set(&self) -> bool {
        let read = |name: &str| fs::read_to_string(self.set().join(name)).unwrap_or_default();
        let whole = read("toy_TRAIN.ts") == TRAIN && read("toy_TEST.ts") == TEST;
        assert!(whole || !self.set().exists(), "half a set");
        whole
    }
}

#[test]
fn a_set_is_taken_from_a_wheel_once() {
    let place = Place::new(&sound());
    let wheel = place.wheel();
    assert_eq!(place.fetch(&wheel).unwrap(), Fetched::Now(place.set()));
    assert!(place.holds_the_set());
    // A second time the package is not even looked at.
    fs::remove_file(&wheel).unwrap();
    assert_eq!(place.fetch(&wheel).unwrap(), Fetched::Before(place.set()));
    // What is wrong is fetched again, whole.
    fs::write(place.set().join("toy_TEST.ts"), "cut").unwrap();
    assert!(matches!(place.fetch(&wheel), Err(FetchError::Io { .. })));
    fs::write(&wheel, sound()).unwrap();
    assert_eq!(place.fetch(&wheel).unwrap(), Fetched::Now(place.set()));
    assert!(place.holds_the_set());
}

#[test]
fn a_folder_may_hold_the_package_its_files_or_the_files_alone() {
    let other = tempfile::tempdir().unwrap();
    let folder = other.path();
    let put = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let fetched = || {
        let place = Place::new(b"");
        place.fetch(folder).map(|_| assert!(place.holds_the_set()))
    };
    match fetched() {
        Err(FetchError::Member { path, member, message }) => {
            assert_eq!((path.as_path(), member), (folder, "package/data/toy_TRAIN.ts"));
            assert!(message.contains("is not in the folder"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    put("toy_TRAIN.ts", TRAIN.as_bytes());
    put("toy_TEST.ts", TEST.as_bytes());
    fetched().unwrap();
    put("toy_TEST.ts", b"other");
    assert!(fetched().is_err());
    put("package/data/toy_TEST.ts", TEST.as_bytes());
    fetched().unwrap();
    // The package goes before loose files.
    put("a_package-1.0-py3-none-any.whl", &wheel(&[]));
    assert!(fetched().is_err());
    put("a_package-1.0-py3-none-any.whl", &sound());
    fetched().unwrap();
}

#[test]
fn packages_that_are_wrong_are_refused_with_file_and_reason() {
    let whole = sound();
    let train = ("package/data/toy_TRAIN.ts", TRAIN);
    let changed = TEST.replace("3,2,1", "3,2,2");
    let longer = format!("{TEST}1,1,1:a\n");
    for (bytes, member, reason) in [
        (whole[..whole.len() - 30].to_vec(), "", "is no sound wheel"),
        (whole[..40].to_vec(), "", "is no sound wheel"),
        (Vec::new(), "", "is no sound wheel"),
        (wheel(&[train]), "toy_TEST.ts", "is not in the package"),
        (wheel(&[train, ("package/data/toy_TEST.ts", &changed)]), "toy_TEST.ts", "BLAKE3 hash is"),
        (wheel(&[train, ("package/data/toy_TEST.ts", "")]), "toy_TEST.ts", "0 bytes, where"),
        (wheel(&[train, ("package/data/toy_TEST.ts", &longer)]), "toy_TEST.ts", "more than the"),
    ] {
        let place = Place::new(&bytes);
        let text = place.fetch(&place.wheel()).unwrap_err().to_string();
        assert!(text.contains("a_package-1.0-py3-none-any.whl"), "{text}");
        assert!(text.contains(member) && text.contains(reason), "{reason}: {text}");
        assert!(!place.holds_the_set());
    }
    let place = Place::new(b"");
    for (path, reason) in [("nowhere", "no such file"), ("a.tar", "neither a wheel")] {
        let path = place.0.path().join(path);
        if reason.starts_with("neither") {
            fs::write(&path, "x").unwrap();
        }
        let text = place.fetch(&path).unwrap_err().to_string();
        assert!(text.contains(reason), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bytes flipped, cut out and cut off: the right set, or none and a reason that names the file.
    #[test]
    fn damaged_wheels_give_the_set_or_nothing(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
        cut in any::<prop::sample::Index>(), length in 0usize..20,
        end in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sound();
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        let from = cut.index(bytes.len());
        bytes.drain(from..(from + length).min(bytes.len()));
        bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len().max(1))));
        let place = Place::new(&bytes);
        match place.fetch(&place.wheel()) {
            Ok(_) => prop_assert!(place.holds_the_set()),
            Err(error) => {
                let text = error.to_string();
                prop_assert!(text.contains("a_package-1.0-py3-none-any.whl: ")
                    || text.contains("a_package-1.0-py3-none-any.whl, package/data/toy_T"), "{}", text);
                prop_assert!(!place.holds_the_set());
            }
        }
    }
}

#[test]
fn debian_packages_are_unpacked() {
    let place = Place::new(b"");
    let folder = place.0.path();
    fs::create_dir_all(folder.join("package/data")).unwrap();
    fs::write(folder.join("package/data/toy_TRAIN.ts"), TRAIN).unwrap();
    fs::write(folder.join("package/data/toy_TEST.ts"), TEST).unwrap();
    fs::write(folder.join("debian-binary"), "2.0\n").unwrap();
    fs::write(folder.join("control"), "Package: a-package\n").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        let command = command.args(arguments).current_dir(folder).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let made = run("tar", &["cf", "data.tar", "package"])
        && run("tar", &["cf", "control.tar", "control"])
        && run("ar", &["rc", "a-package_1.deb", "debian-binary", "control.tar", "data.tar"]);
    if !made {
        eprintln!("skipped: no tar and ar to make a package with");
        return;
    }
    let package = folder.join("a-package_1.deb");
    place.fetch(&package).unwrap();
    assert!(place.holds_the_set());
    let bytes = fs::read(&package).unwrap();
    fs::write(&package, &bytes[..bytes.len() / 2]).unwrap();
    fs::remove_dir_all(place.set()).unwrap();
    let text = place.fetch(&package).unwrap_err().to_string();
    assert!(text.contains("a-package_1.deb"), "{text}");
    assert!(!place.holds_the_set());
}

/// The program with a data folder of its own.
fn unroll(home: &Path) -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .env("NO_COLOR", "1")
        .env("UNROLL_DATA", home);
    command
}

#[test]
fn the_program_says_what_it_could_not_fetch_and_why() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("data");
    let package = place.path().join("aeon-1.6.0-py3-none-any.whl");
    let member = |part: &str| format!("aeon/datasets/data/GunPoint/GunPoint_{part}.ts");
    fs::write(&package, wheel(&[(&member("TRAIN"), TRAIN), (&member("TEST"), TEST)])).unwrap();
    unroll(&home)
        .args(["data", "fetch", "gunpoint", "--from"])
        .arg(&package)
        .assert()
        .code(1)
        .stdout("")
        .stderr(
            predicate::str::contains("GunPoint: not fetched.")
                .and(predicate::str::contains("aeon-1.6.0-py3-none-any.whl"))
                .and(predicate::str::contains(member("TRAIN")))
                .and(predicate::str::contains("84188 are expected")),
        );
    assert!(!home.join("fetched/GunPoint").exists());
    // Without names all that come from the file.
    let text = unroll(&home).args(["data", "fetch", "--from"]).arg(&package).assert().code(1);
    let text = String::from_utf8(text.get_output().stderr.clone()).unwrap();
    assert_eq!(text.matches("not fetched").count(), 5, "{text}");
    assert!(text.contains("ACSF1_TRAIN.ts: is not in the package"), "{text}");
    // One that is not there is said once.
    let absent = unroll(&home).args(["data", "fetch", "--from", "absent.whl"]).assert().code(2);
    let absent = String::from_utf8(absent.get_output().stderr.clone()).unwrap();
    assert_eq!(absent.matches("absent.whl").count(), 1, "{absent}");
    // Without clients.
    unroll(&home)
        .args(["data", "fetch", "GunPoint"])
        .env("PATH", place.path())
        .assert()
        .code(1)
        .stderr(
            predicate::str::contains("there is no `python3`")
                .and(predicate::str::contains("pip download"))
                .and(predicate::str::contains("--from FILE")),
        );
    for wrong in [&["data", "fetch"][..], &["data", "fetch", "Gunpont"]] {
        unroll(&home).args(wrong).assert().code(2);
    }
    let list = unroll(&home).args(["data", "list", "--json"]).output().unwrap();
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let sets = list.as_array().unwrap();
    assert!(sets.len() >= 7 && sets.iter().all(|set| set["state"] == "absent"), "{list}");
    unroll(&home)
        .args(["data", "list"])
        .assert()
        .success()
        .stdout(predicate::str::contains("unroll data fetch reuters_r8"));
}

const EXPERIMENT: &str = r#"
name = "absent"
question = "What can be run?"
analysis = "What is there."
measure = ["quality"]

[axes]
task = ["adding", "text_classification", "timeseries"]
length = [4]
arch = ["gru", "lstm"]
seed = [0]

[model]
hidden_size = 4

[train]
steps = 4
eval_every = 2
batch_size = 4

[task.adding]
eval_examples = 20

[task.timeseries]
set = "GunPoint"
"#;

/// The output with its line breaks taken out: long lines are wrapped.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('│', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn trials_without_data_are_skipped_with_the_reason() {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("data");
    let file = place.path().join("experiment.toml");
    fs::write(&file, EXPERIMENT).unwrap();
    let out = place.path().join("out");
    let program = |arguments: &[&str]| {
        let mut command = unroll(&home);
        command.arg(arguments[0]).arg(&file).args(&arguments[1..]).arg("--out").arg(&out);
        command.output().unwrap()
    };
    let reasons = [
        "2 cells of the sweep skipped: the data set `reuters_r8` of the task `text_classification` is not \
         there; `unroll data fetch reuters_r8` brings it",
        "2 cells of the sweep skipped: the data set `GunPoint` of the task `timeseries` is not there; \
         `unroll data fetch GunPoint` brings it",
    ];

    let planned = program(&["plan"]);
    assert_eq!(planned.status.code(), Some(0));
    assert!(plain(&planned.stdout).contains("2 trials: 2 missing"));
    let run = program(&["run"]);
    assert_eq!(run.status.code(), Some(0), "{}", plain(&run.stderr));
    let report = plain(&fs::read(out.join("REPORT.md")).unwrap());
    let page = plain(&fs::read(out.join("REPORT.html")).unwrap());
    for reason in reasons {
        assert!(plain(&planned.stderr).contains(reason), "{}", plain(&planned.stderr));
        assert!(plain(&run.stderr).contains(reason), "{}", plain(&run.stderr));
        // Markdown escapes underscores.
        let words = |text: &str| text.replace(['\\', '`'], "");
        assert!(words(&report).contains(&words(reason)), "{report}");
        assert!(words(&page).contains(&words(reason)));
    }
    let value: Value = serde_json::from_slice(&program(&["plan", "--json"]).stdout).unwrap();
    assert_eq!(value["skipped"][0]["set"], "reuters_r8");
    assert_eq!(value["skipped"][1]["cells"], 2);

    // Nothing can run: another code, and nothing is written.
    let nothing = r#"axes.task=["text_classification"]"#;
    let elsewhere = place.path().join("elsewhere");
    for command in ["run", "plan"] {
        let mut command_line = unroll(&home);
        let output = command_line.arg(command).arg(&file).args(["--set", nothing, "--out"]);
        let output = output.arg(&elsewhere).output().unwrap();
        assert_eq!(output.status.code(), Some(7));
        let text = plain(&output.stderr);
        assert!(text.contains("nothing can run") && text.contains(reasons[0]), "{text}");
    }
    assert!(!elsewhere.exists());
    // A wrong setting is wrong with or without data.
    let wrong = program(&["run", "--set", nothing, "--set", "train.batch_size=0"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", plain(&wrong.stderr));

    // With data the rest runs, and what has run is kept.
    let put = |name: &str, text: &str| {
        let path = home.join("fetched").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let stories: String = (0..40)
        .map(|n| format!("{}\tstory {n} is long enough\n", ["acq", "earn"][n % 2]))
        .collect();
    let stories = format!("Category\tText\nd\tstring\nclass\t\n{stories}");
    put("reuters_r8/reuters-r8-train.tab", &stories);
    put("reuters_r8/reuters-r8-test.tab", &stories);
    let cases: String = (0..20).map(|n| format!("{n},1,2:{}\n", ["a", "b"][n % 2])).collect();
    let series = format!("@univariate true\n@classLabel true a b\n@data\n{cases}");
    put("GunPoint/GunPoint_TRAIN.ts", &series);
    put("GunPoint/GunPoint_TEST.ts", &series);
    let run = program(&["run", "--json"]);
    let value: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&value["ran"], &value["reused"]), (&4.into(), &2.into()), "{value}");
    assert_eq!(value["skipped"], Value::Array(Vec::new()));
    let report = plain(&fs::read(out.join("REPORT.md")).unwrap());
    assert!(!report.contains("skipped") && report.contains("GunPoint"), "{report}");
    let metrics = fs::read_to_string(out.join("tables/metrics.csv")).unwrap();
    assert_eq!(metrics.matches("macro F1").count(), 4, "{metrics}");
    // Files that were changed since are an error with file and line.
    put("reuters_r8/reuters-r8-test.tab", &stories.replace("acq\tstory 0", "acq story 0"));
    let broken = program(&["plan"]);
    assert_eq!(broken.status.code(), Some(2));
    let text = plain(&broken.stderr);
    assert!(text.contains("reuters-r8-test.tab, line 4: 1 columns"), "{text}");
}
