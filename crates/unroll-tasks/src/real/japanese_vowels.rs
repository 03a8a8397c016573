//! Japanese vowels (Kudo, Toyama & Shimbo 1999): which of nine speakers said /ae/.

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::scaling::Scaling;
use crate::baseline::{most_frequent_class, series::nearest_neighbour};
use crate::data::labelled::{LabelledSequences, LabelledTask};
use crate::data::split::{Splits, stratified};
use crate::data::{SeriesFile, locate};
use crate::options::{self, TaskOptions, require_fixed_length};
use crate::synthetic::EVALUATION_SEED;
use crate::{Baseline, Error, Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "japanese_vowels",
    summary: "speaker of a vowel from 12 LPC cepstrum channels, lengths 7 to 29 (Kudo et al. 1999, \
              UEA archive)",
    options: options::list::<JapaneseVowelsOptions>,
    fixed_length,
    resolve: options::resolve::<JapaneseVowelsOptions>,
    build,
    files: &[TRAIN_FILE, TEST_FILE],
};

const TRAIN_FILE: &str = "japanese_vowels_train.ts.gz";
const TEST_FILE: &str = "japanese_vowels_test.ts.gz";

/// Steps of the longest utterance.
const LONGEST: usize = 29;

/// Share of the official training set, within each speaker, that becomes the validation split.
const VALIDATION_SHARE: f64 = 0.2;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JapaneseVowelsOptions {}

impl TaskOptions for JapaneseVowelsOptions {
    const TASK: &'static str = "japanese_vowels";
    const OPTIONS: &'static [OptionDoc] = &[];

    fn validate(&self) -> Result<()> {
        Ok(())
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<JapaneseVowelsOptions>(given)?;
    Ok(Some(LONGEST))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    options::parse::<JapaneseVowelsOptions>(request.options)?;
    require_fixed_length(request.length, LONGEST, "the longest utterance")?;
    let vowels = Vowels::new(read(TRAIN_FILE)?, read(TEST_FILE)?)?;
    let Vowels { sequences, splits, raw_train, raw_test } = vowels;
    let baselines = move |sequences: &LabelledSequences, splits: &Splits| {
        vec![
            Baseline {
                name: "1-NN DTW, whole official training set".into(),
                value: nearest_neighbour(&raw_train, &raw_test),
                fitted: true,
            },
            most_frequent_class(sequences.labels(), &splits.train, &splits.test),
        ]
    };
    let baselines = Box::new(baselines);
    Ok(Box::new(LabelledTask::new(ENTRY.name, request.seed, sequences, splits, baselines)))
}

/// Reads a file and checks that no utterance is longer than the task says.
fn read(file: &str) -> Result<SeriesFile> {
    let path = locate(file);
    let series = SeriesFile::read(&path)?;
    match series.cases.iter().find(|case| case.length > LONGEST) {
        Some(case) => Err(Error::data(
            &path,
            0,
            format!("an utterance of {} steps; the longest has {LONGEST}", case.length),
        )),
        None => Ok(series),
    }
}

struct Vowels {
    /// Training cases, then test cases, standardised.
    sequences: LabelledSequences,
    splits: Splits,
    raw_train: SeriesFile,
    raw_test: SeriesFile,
}

impl Vowels {
    fn new(raw_train: SeriesFile, raw_test: SeriesFile) -> Result<Self> {
        if (raw_train.channels, &raw_train.classes) != (raw_test.channels, &raw_test.classes) {
            let message = "has other channels or classes than the training file";
            return Err(Error::data(&locate(TEST_FILE), 0, message));
        }
        let stream = Stream::new(EVALUATION_SEED, "task/japanese_vowels/split");
        let labels: Vec<u32> = raw_train.cases.iter().map(|case| case.class).collect();
        let ([validation], train) = stratified(&labels, [VALIDATION_SHARE], &stream);
        let test = (labels.len()..labels.len() + raw_test.cases.len()).collect();
        let scaling = Scaling::fit(&raw_train, &train);
        let mut sequences = LabelledSequences::new(raw_train.channels, raw_train.classes.len());
        for case in raw_train.cases.iter().chain(&raw_test.cases) {
            sequences.push(scaling.apply(&case.values), case.class);
        }
        let splits = Splits::new(train, validation, test, &stream);
        Ok(Self { sequences, splits, raw_train, raw_test })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundled() -> Vowels {
        Vowels::new(read(TRAIN_FILE).unwrap(), read(TEST_FILE).unwrap()).unwrap()
    }

    #[test]
    fn the_official_split_is_kept_and_validation_is_stratified() {
        let vowels = bundled();
        assert_eq!((vowels.raw_train.cases.len(), vowels.raw_test.cases.len()), (270, 370));
        assert_eq!(vowels.splits.test, (270..640).collect::<Vec<_>>());
        let mut train = [vowels.splits.train.clone(), vowels.splits.validation.clone()].concat();
        train.sort_unstable();
        assert_eq!(train, (0..270).collect::<Vec<_>>());
        for speaker in 0..9 {
            let spoken = |part: &[usize]| {
                part.iter().filter(|&&index| vowels.sequences.labels()[index] == speaker).count()
            };
            assert_eq!(spoken(&vowels.splits.train), 24);
            assert_eq!(spoken(&vowels.splits.validation), 6);
        }
        let lengths = || (0..640).map(|index| vowels.sequences.length(index));
        assert_eq!((lengths().min(), lengths().max()), (Some(7), Some(29)));
    }

    /// Mean 0 and variance 1 over the training split alone.
    #[test]
    fn channels_are_standardised_by_the_training_split() {
        let vowels = bundled();
        for channel in 0..12 {
            let moments = |part: &[usize]| {
                let values: Vec<f64> = part
                    .iter()
                    .flat_map(|&index| vowels.sequences.sequence(index).chunks(12))
                    .map(|step| f64::from(step[channel]))
                    .collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
                (mean, square / values.len() as f64)
            };
            let (mean, variance) = moments(&vowels.splits.train);
            assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{mean}, {variance}");
            let all: Vec<usize> = (0..640).collect();
            let (mean, _) = moments(&all);
            assert!(mean.abs() > 1e-5, "channel {channel} was scaled with the other splits");
        }
    }

    /// Bagnall et al. 2018 publish 0.949: 351 of 370.
    #[test]
    fn the_published_baseline_is_met() {
        let vowels = bundled();
        let value = nearest_neighbour(&vowels.raw_train, &vowels.raw_test);
        assert_eq!(value, 351.0 / 370.0);
    }

    #[test]
    fn files_that_do_not_belong_together_are_an_error() {
        let (train, mut test) = (read(TRAIN_FILE).unwrap(), read(TEST_FILE).unwrap());
        test.classes.swap(0, 1);
        assert!(matches!(Vowels::new(train, test).err(), Some(Error::Data { .. })));
    }
}
