//! Classification of any time series in the format of the UEA and UCR archives.

use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::scaling::Scaling;
use crate::baseline::most_frequent_class;
use crate::baseline::series::{nearest_neighbour, nearest_neighbour_cost, ridge_without_order};
use crate::data::labelled::{LabelledSequences, LabelledTask};
use crate::data::sets::{self, DataSet};
use crate::data::split::{Splits, stratified};
use crate::data::{SeriesFile, own};
use crate::options::{self, TaskOptions, require_fixed_length};
use crate::synthetic::EVALUATION_SEED;
use crate::{Baseline, Error, Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "timeseries",
    summary: "classification from two `.ts` files of your own, as the UEA and UCR archives have them \
              (Bagnall et al. 2018): any channels, equal or different lengths, missing values; or from \
              a named set of the UCR archive",
    options: options::list::<TimeseriesOptions>,
    fixed_length,
    resolve,
    build,
    files: &[],
};

/// Sums beyond which the nearest neighbour is not searched: about a minute.
const DEAREST_NEIGHBOUR: f64 = 3e10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TimeseriesOptions {
    train: String,
    test: String,
    validation: f64,
    data_hash: String,
    // Not written when it is not given: trials of files keep their identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
}

impl Default for TimeseriesOptions {
    fn default() -> Self {
        Self {
            train: "japanese_vowels_train.ts.gz".into(),
            test: "japanese_vowels_test.ts.gz".into(),
            validation: 0.2,
            data_hash: String::new(),
            set: None,
        }
    }
}

impl TaskOptions for TimeseriesOptions {
    const TASK: &'static str = "timeseries";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "train",
            help: "path of the training file (`.ts`, or gzip `.ts.gz`), from the current directory, \
                   else within the data folder",
        },
        OptionDoc { name: "test", help: "path of the test file, found in the same way" },
        OptionDoc {
            name: "validation",
            help: "share of each class of the training file that becomes the validation split",
        },
        own::HASH,
        OptionDoc {
            name: "set",
            help: "a set of the UCR archive by its name, instead of files: `unroll data list` shows \
                   them, `unroll data fetch NAME` brings one",
        },
    ];

    fn validate(&self) -> Result<()> {
        for (option, path) in [("train", &self.train), ("test", &self.test)] {
            if path.trim().is_empty() {
                return Err(Error::option(option, "must be the path of a `.ts` file"));
            }
        }
        if !(self.validation > 0.0 && self.validation < 0.5) {
            let message = format!("must lie between 0 and 0.5, not {}", self.validation);
            return Err(Error::option("validation", message));
        }
        Ok(())
    }
}

impl TimeseriesOptions {
    /// The options, with the files of the named set in the place of files.
    fn parse(given: &Options) -> Result<Self> {
        let mut options: Self = options::parse(given)?;
        if let Some(set) = options.named_set()?
            && let [train, test] = set.files
        {
            let [train, test] = [train, test].map(|file| set.path_of(file));
            let defaults = Self::default();
            for (option, given, default, file) in [
                ("train", &options.train, defaults.train, &train),
                ("test", &options.test, defaults.test, &test),
            ] {
                if *given != default && given != file {
                    let message = format!(
                        "must be left out where `set` is given, which stands for the files of {}",
                        set.name
                    );
                    return Err(Error::option(option, message));
                }
            }
            set.require()?;
            options = Self { train, test, ..options };
        }
        Ok(options)
    }

    fn named_set(&self) -> Result<Option<&'static DataSet>> {
        let Some(name) = &self.set else { return Ok(None) };
        let known = |set: &&DataSet| set.task == Some(ENTRY.name);
        match sets::find_set(name).filter(known) {
            Some(set) => Ok(Some(set)),
            None => {
                let names: Vec<&str> = sets::sets().iter().filter(known).map(|s| s.name).collect();
                let message = format!("there is no set `{name}`; there are: {}", names.join(", "));
                Err(Error::option("set", message))
            }
        }
    }

    fn files(&self) -> [&str; 2] {
        [&self.train, &self.test]
    }

    /// Checks that the files are those that the experiment was planned with.
    fn check_hash(&self) -> Result<()> {
        if self.data_hash.is_empty() {
            return Ok(());
        }
        own::check(&self.files(), &own::hash(&self.files())?, &self.data_hash)
    }
}

fn resolve(given: &Options) -> Result<Options> {
    let mut options = TimeseriesOptions::parse(given)?;
    let hash = own::hash(&options.files())?;
    own::check(&options.files(), &hash, &options.data_hash)?;
    options.data_hash = hash;
    options::to_map(&options)
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    let options = TimeseriesOptions::parse(given)?;
    let files = Files::read(&own::find(&options.train), &own::find(&options.test))?;
    Ok(Some(files.longest()))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options = TimeseriesOptions::parse(request.options)?;
    options.check_hash()?;
    let files = Files::read(&own::find(&options.train), &own::find(&options.test))?;
    require_fixed_length(request.length, files.longest(), "the longest series of both files")?;
    let (sequences, splits) = files.cut(options.validation)?;
    let baselines =
        move |sequences: &LabelledSequences, splits: &Splits| files.baselines(sequences, splits);
    let baselines = Box::new(baselines);
    Ok(Box::new(LabelledTask::new(ENTRY.name, request.seed, sequences, splits, baselines)))
}

/// Two files that belong together; missing values are still missing.
struct Files {
    train: SeriesFile,
    /// Its classes are numbered as the training file's.
    test: SeriesFile,
}

impl Files {
    fn read(train_path: &Path, test_path: &Path) -> Result<Self> {
        let train = SeriesFile::read(train_path)?;
        let mut test = SeriesFile::read(test_path)?;
        let wrong = |message| Err(Error::data(test_path, 0, message));
        if train.channels != test.channels {
            let (found, expected) = (test.channels, train.channels);
            return wrong(format!("{found} channels, where the training file has {expected}"));
        }
        // Archives list classes in any order: they are matched by name.
        let mut numbers = Vec::with_capacity(test.classes.len());
        for class in &test.classes {
            match train.classes.iter().position(|known| known == class) {
                Some(number) => numbers.push(number as u32),
                None => return wrong(format!("class `{class}` is not in the training file")),
            }
        }
        for case in &mut test.cases {
            case.class = numbers[case.class as usize];
        }
        test.classes.clone_from(&train.classes);
        Ok(Self { train, test })
    }

    fn longest(&self) -> usize {
        self.train.longest().max(self.test.longest())
    }

    /// Standardised cases of both files, training first. Where any value is missing, the last known
    /// one of the channel stands in its place (before the first, the channel's mean), and each channel
    /// has another beside it that is 1 where its value was missing and 0 elsewhere.
    fn cut(&self, share: f64) -> Result<(LabelledSequences, Splits)> {
        let stream = Stream::new(EVALUATION_SEED, "task/timeseries/split");
        let labels: Vec<u32> = self.train.cases.iter().map(|case| case.class).collect();
        let ([validation], train) = stratified(&labels, [share], &stream);
        if validation.is_empty() {
            let message = format!(
                "{share} of each class leaves no case of the training file for validation; take a \
                 larger share"
            );
            return Err(Error::option("validation", message));
        }
        let scaling = Scaling::fit(&self.train, &train);
        let channels = self.train.channels;
        let mask = self.train.has_missing() || self.test.has_missing();
        let features = if mask { 2 * channels } else { channels };
        let mut sequences = LabelledSequences::new(features, self.train.classes.len());
        for case in self.train.cases.iter().chain(&self.test.cases) {
            let scaled: Vec<f32> = scaling.apply(&case.values).collect();
            let mut last = vec![0.0; channels];
            let mut values = Vec::with_capacity(case.length * features);
            for step in scaled.chunks(channels) {
                for (last, &value) in last.iter_mut().zip(step) {
                    *last = if value.is_nan() { *last } else { value };
                }
                values.extend_from_slice(&last);
                if mask {
                    values.extend(step.iter().map(|value| f32::from(u8::from(value.is_nan()))));
                }
            }
            sequences.push(values, case.class);
        }
        let test = (labels.len()..labels.len() + self.test.cases.len()).collect();
        Ok((sequences, Splits::new(train, validation, test, &stream)))
    }

    fn baselines(&self, sequences: &LabelledSequences, splits: &Splits) -> Vec<Baseline> {
        let mut baselines =
            vec![most_frequent_class(sequences.labels(), &splits.train, &splits.test)];
        baselines.extend(ridge_without_order(sequences, splits));
        let complete = !(self.train.has_missing() || self.test.has_missing());
        if complete && nearest_neighbour_cost(&self.train, &self.test) <= DEAREST_NEIGHBOUR {
            baselines.push(Baseline {
                name: "1-NN DTW, whole training file".into(),
                value: nearest_neighbour(&self.train, &self.test),
                fitted: true,
            });
        }
        baselines.sort_by(|a, b| b.value.total_cmp(&a.value));
        baselines
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::{InputKind, Inputs, Split, Targets};

    const HEADER: &str = "@univariate true\n@missing true\n@equalLength false\n";

    /// Both files in a folder, and options that name them.
    fn files(train: &str, test: &str) -> (TempDir, Options) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new();
        for (name, text) in [("train", train), ("test", test)] {
            let path = folder.path().join(format!("{name}.ts"));
            fs::write(&path, text).unwrap();
            options.insert(name.into(), json!(path));
        }
        (folder, options)
    }

    fn toy() -> (String, String) {
        let cases = |range: std::ops::Range<usize>| -> String {
            range
                .map(|n| format!("{n},{}:{}\n", n + 1, if n % 2 == 0 { "a" } else { "b" }))
                .collect()
        };
        let train = format!("{HEADER}@classLabel true a b\n@data\n{}", cases(0..10));
        let test = format!("{HEADER}@classLabel true b a\n@data\n1,?,5:a\n?,2:b\n");
        (train, test)
    }

    fn task(options: &Options) -> Result<Box<dyn Task>> {
        let length = fixed_length(options)?.unwrap();
        build(&TaskRequest { length, seed: 1, options })
    }

    #[test]
    fn missing_values_are_filled_and_marked_and_classes_go_by_name() {
        let (train, test) = toy();
        let (_folder, options) = files(&train, &test);
        let task = task(&options).unwrap();
        assert_eq!(task.input(), InputKind::Values { features: 2 });
        assert_eq!(task.seq_len(), 3);
        let batch = task.evaluation(Split::Test, 10).remove(0);
        let (Inputs::Values(inputs), Targets::Classes(targets)) = (&batch.inputs, &batch.targets)
        else {
            panic!("numbers and classes")
        };
        assert_eq!(
            (targets.as_slice(), batch.lengths.as_deref()),
            (&[0, 1][..], Some(&[3, 2][..]))
        );
        // First case: 1, then missing: 1 again, then 5. Second: missing at first, the mean.
        let marks: Vec<f32> = inputs.iter().skip(1).step_by(2).copied().collect();
        assert_eq!(marks, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
        let values: Vec<f32> = inputs.iter().step_by(2).copied().collect();
        assert_eq!(values[0], values[1]);
        assert!(values[2] > values[0]);
        assert_eq!(values[3], 0.0);
        assert!(inputs.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn a_trial_is_that_of_its_files() {
        let (train, test) = toy();
        let (folder, options) = files(&train, &test);
        let resolved = resolve(&options).unwrap();
        assert_eq!(resolve(&resolved).unwrap(), resolved);
        assert!(task(&resolved).is_ok());
        fs::write(folder.path().join("test.ts"), test.replace("?,2", "9,2")).unwrap();
        for error in [resolve(&resolved).err(), task(&resolved).err()] {
            assert!(
                matches!(&error, Some(Error::Option { option, .. }) if option == "data_hash"),
                "{error:?}"
            );
        }
        assert_ne!(resolve(&options).unwrap()["data_hash"], resolved["data_hash"]);
    }

    /// As the task `japanese_vowels`, but for the validation cases drawn.
    #[test]
    fn the_default_files_have_the_published_baseline() {
        let options = Options::new();
        let task = task(&options).unwrap();
        assert_eq!((task.seq_len(), task.input()), (29, InputKind::Values { features: 12 }));
        let baselines = task.baselines();
        let best = baselines.iter().find(|baseline| baseline.name.contains("DTW")).unwrap();
        assert_eq!(
            (best.name.as_str(), best.value),
            ("1-NN DTW, whole training file", 351.0 / 370.0)
        );
        let count = |split| -> usize {
            task.evaluation(split, 64).iter().map(|batch| batch.batch_size).sum()
        };
        assert_eq!((count(Split::Validation), count(Split::Test)), (54, 370));
    }

    /// Bagnall et al. 2017, full window: <https://www.timeseriesclassification.com>.
    #[test]
    fn named_sets_have_the_published_baseline() {
        for (set, length, right, of) in [
            ("ItalyPowerDemand", 24, 978, 1029),
            ("GunPoint", 150, 136, 150),
            ("ArrowHead", 251, 123, 175),
        ] {
            let mut options = Options::new();
            options.insert("set".into(), json!(set));
            if let Some(error @ Error::NotFetched { .. }) = resolve(&options).err() {
                eprintln!("skipped: {error}");
                continue;
            }
            let resolved = resolve(&options).unwrap();
            assert_eq!(resolved["train"], format!("fetched/{set}/{set}_TRAIN.ts"));
            assert_eq!(resolve(&resolved).unwrap(), resolved);
            let task = task(&resolved).unwrap();
            assert_eq!(task.seq_len(), length);
            let baselines = task.baselines();
            let warped = baselines.iter().find(|baseline| baseline.name.contains("DTW")).unwrap();
            assert_eq!(warped.value, f64::from(right) / f64::from(of), "{set}");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_errors_that_name_the_file() {
        let (train, test) = toy();
        for (train, test, line, message) in [
            (train.as_str(), test.replace("b a", "b a c"), 0, "class `c` is not in the training"),
            (
                &train,
                test.replace(",?,5:a", ":3:a").replace("@univariate true", "# none"),
                7,
                "channels",
            ),
            (&train, test.replace("?,2:b", "?,2;b"), 7, "separated by `:`"),
            (&train, test.replace("?,2:b", "x,2:b"), 7, "`x` is not a finite number"),
        ] {
            let (_folder, options) = files(train, &test);
            match task(&options).err() {
                Some(Error::Data { path, line: found, message: text }) => {
                    assert!(path.ends_with("test.ts"), "{path:?}");
                    assert_eq!(found, line, "{text}");
                    assert!(text.contains(message), "{text}");
                }
                other => panic!("{message}: {other:?}"),
            }
        }
        let (_folder, mut options) = files(&train, &test);
        options.insert("validation".into(), json!(0.05));
        let error = task(&options).err();
        assert!(matches!(error, Some(Error::Option { option, .. }) if option == "validation"));
        options.insert("train".into(), json!("nowhere.ts"));
        assert!(matches!(resolve(&options).err(), Some(Error::MissingData { .. })));
    }
}
