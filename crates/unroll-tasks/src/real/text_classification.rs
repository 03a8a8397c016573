//! Text classification: which topic does a news story have? Reuters R8, words as tokens.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use crate::baseline::most_frequent_class;
use crate::baseline::naive_bayes::NaiveBayes;
use crate::data::TabFile;
use crate::data::epochs::Epochs;
use crate::data::sets::REUTERS_R8;
use crate::data::split::{Splits, stratified};
use crate::options::{self, TaskOptions, require_count, require_length};
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Options, Readout, Result, Split, TargetKind,
    Targets, Task, TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "text_classification",
    summary: "topic of a Reuters news story from its first T words (R8: 8 classes, Cardoso-Cachopo 2007); \
              needs `unroll data fetch reuters_r8`",
    options: options::list::<TextClassificationOptions>,
    fixed_length,
    resolve: options::resolve::<TextClassificationOptions>,
    build,
    files: &["fetched/reuters_r8/reuters-r8-train.tab", "fetched/reuters_r8/reuters-r8-test.tab"],
};

/// Stands for every word that is not in the vocabulary.
const UNKNOWN: u32 = 0;

/// Share of each class of the official training stories that becomes the validation split.
const VALIDATION_SHARE: f64 = 0.1;

/// Times that naive Bayes takes each word to have been seen more in each class.
const SMOOTHING: f64 = 1.0;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TextClassificationOptions {
    min_count: usize,
    max_words: usize,
}

impl Default for TextClassificationOptions {
    fn default() -> Self {
        Self { min_count: 2, max_words: 5000 }
    }
}

impl TaskOptions for TextClassificationOptions {
    const TASK: &'static str = "text_classification";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "min_count",
            help: "words that the training split has less often are unknown",
        },
        OptionDoc {
            name: "max_words",
            help: "words of the vocabulary, the most frequent ones; all others are unknown",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_count("min_count", self.min_count, 1, 1_000_000)?;
        require_count("max_words", self.max_words, 1, 1_000_000)
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<TextClassificationOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: TextClassificationOptions = options::parse(request.options)?;
    require_length(request.length, 1, "words that are read of a story")?;
    let paths = REUTERS_R8.require()?;
    let files = Files::read(&paths[0], &paths[1])?;
    Ok(Box::new(TextClassification::new(&files, request.length, request.seed, &options)))
}

/// Lower-cased runs of letters and digits.
fn words(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    parts.map(str::to_lowercase)
}

/// The stories of both files, as words, training first.
struct Files {
    classes: usize,
    stories: Vec<Vec<String>>,
    labels: Vec<u32>,
    /// Stories of the training file.
    training: usize,
}

impl Files {
    fn read(train_path: &Path, test_path: &Path) -> Result<Self> {
        let train = TabFile::read(train_path)?;
        let test = TabFile::read(test_path)?;
        let (mut stories, mut labels) = (Vec::new(), Vec::new());
        for (path, file) in [(train_path, &train), (test_path, &test)] {
            for document in &file.documents {
                let wrong = |message: String| Error::data(path, document.line, message);
                let class = &file.classes[document.class as usize];
                let label = train
                    .classes
                    .binary_search(class)
                    .map_err(|_| wrong(format!("class `{class}` is not in the training file")))?;
                let story: Vec<String> = words(&document.text).collect();
                if story.is_empty() {
                    return Err(wrong("the text has no words".into()));
                }
                stories.push(story);
                labels.push(label as u32);
            }
        }
        let (classes, training) = (train.classes.len(), train.documents.len());
        // The validation split must have a story.
        let most = (0..classes as u32)
            .map(|class| labels[..training].iter().filter(|&&label| label == class).count())
            .max();
        if most.is_none_or(|most| ((most as f64) * VALIDATION_SHARE).round() < 1.0) {
            let message = format!("{training} stories are too few for a validation split");
            return Err(Error::data(train_path, 0, message));
        }
        Ok(Self { classes, stories, labels, training })
    }
}

/// Words of the training split by number, from 1 on; 0 is [`UNKNOWN`].
struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    /// The most frequent words first, equally frequent ones by name.
    fn new<'a>(
        stories: impl Iterator<Item = &'a Vec<String>>,
        options: &TextClassificationOptions,
    ) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in stories.flatten() {
            *counts.entry(word).or_default() += 1;
        }
        let mut kept: Vec<(&str, usize)> =
            counts.into_iter().filter(|(_, count)| *count >= options.min_count).collect();
        kept.sort_unstable_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
        kept.truncate(options.max_words);
        Self(
            kept.into_iter()
                .zip(1..)
                .map(|((word, _), number)| (word.to_owned(), number))
                .collect(),
        )
    }

    /// Numbers, the unknown one included.
    fn size(&self) -> usize {
        self.0.len() + 1
    }

    fn number(&self, word: &str) -> u32 {
        self.0.get(word).copied().unwrap_or(UNKNOWN)
    }
}

/// Classification of stories, each cut at `length` words, answered at its last word.
struct TextClassification {
    length: usize,
    classes: usize,
    vocabulary: usize,
    /// Whole stories as numbers of words, training first.
    stories: Vec<Vec<u32>>,
    labels: Vec<u32>,
    splits: Splits,
    epochs: Epochs,
    /// Measured when first asked for.
    baselines: OnceLock<Vec<Baseline>>,
}

impl TextClassification {
    fn new(files: &Files, length: usize, seed: u64, options: &TextClassificationOptions) -> Self {
        let stream = Stream::new(EVALUATION_SEED, "task/text_classification/split");
        let ([validation], train) =
            stratified(&files.labels[..files.training], [VALIDATION_SHARE], &stream);
        let test = (files.training..files.stories.len()).collect();
        let vocabulary = Vocabulary::new(train.iter().map(|&index| &files.stories[index]), options);
        let numbers =
            |story: &Vec<String>| story.iter().map(|word| vocabulary.number(word)).collect();
        let stories = files.stories.iter().map(numbers).collect();
        let epochs = Epochs::new(Stream::new(seed, "task/text_classification/train"), train.len());
        Self {
            length,
            classes: files.classes,
            vocabulary: vocabulary.size(),
            stories,
            labels: files.labels.clone(),
            splits: Splits::new(train, validation, test, &stream),
            epochs,
            baselines: OnceLock::new(),
        }
    }

    /// What is read of a story.
    fn read(&self, index: usize) -> &[u32] {
        let story = &self.stories[index];
        &story[..story.len().min(self.length)]
    }

    fn batch(&self, examples: &[usize]) -> Batch {
        let lengths: Vec<usize> = examples.iter().map(|&index| self.read(index).len()).collect();
        let seq_len = lengths.iter().copied().max().unwrap_or(0);
        let mut tokens = Vec::with_capacity(examples.len() * seq_len);
        for (row, &index) in examples.iter().enumerate() {
            tokens.extend_from_slice(self.read(index));
            tokens.resize((row + 1) * seq_len, UNKNOWN);
        }
        Batch {
            batch_size: examples.len(),
            seq_len,
            inputs: Inputs::Tokens(tokens),
            targets: Targets::Classes(examples.iter().map(|&index| self.labels[index]).collect()),
            weights: None,
            lengths: lengths.iter().any(|&length| length < seq_len).then_some(lengths),
            continues: false,
        }
    }

    /// Naive Bayes on the known words of whole stories, however few of them the models read.
    fn naive_bayes(&self) -> f64 {
        let known = |index: usize| -> Vec<u32> {
            let words = self.stories[index].iter().filter(|&&word| word != UNKNOWN);
            words.map(|word| word - 1).collect()
        };
        let train: Vec<(Vec<u32>, u32)> =
            self.splits.train.iter().map(|&index| (known(index), self.labels[index])).collect();
        let texts = train.iter().map(|(story, label)| (story.as_slice(), *label));
        let fitted = NaiveBayes::fit(texts, self.vocabulary - 1, self.classes, SMOOTHING);
        let right = |index: &&usize| fitted.answer(&known(**index)) == self.labels[**index];
        let test = &self.splits.test;
        test.iter().filter(right).count() as f64 / test.len() as f64
    }

    fn measure_baselines(&self) -> Vec<Baseline> {
        let mut baselines = vec![
            Baseline {
                name: "multinomial naive Bayes on the words of whole stories".into(),
                value: self.naive_bayes(),
                fitted: true,
            },
            most_frequent_class(&self.labels, &self.splits.train, &self.splits.test),
        ];
        baselines.sort_by(|a, b| b.value.total_cmp(&a.value));
        baselines
    }
}

impl Task for TextClassification {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Tokens { vocabulary: self.vocabulary }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.classes }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        (0..self.stories.len()).map(|index| self.read(index).len()).max().unwrap_or(0)
    }

    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    fn other_metrics(&self) -> Vec<Metric> {
        vec![Metric::MacroF1]
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.baselines.get_or_init(|| self.measure_baselines()).clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size).into_iter();
        let examples: Vec<usize> = drawn.map(|index| self.splits.train[index]).collect();
        self.batch(&examples)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let examples = self.splits.evaluated(split);
        examples.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }
}

#[cfg(test)]
mod tests;
