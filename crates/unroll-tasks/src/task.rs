//! What a task is.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};
use unroll_core::architecture::OptionDoc;

use crate::{AnswerScore, Result};

/// Kind of the model's input at each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputKind {
    /// Real features.
    Values {
        /// Features per step.
        features: usize,
    },
    /// One token of a vocabulary.
    Tokens {
        /// Vocabulary size.
        vocabulary: usize,
    },
    /// Tokens of a source that is read, and of the answer so far.
    Pairs {
        /// Vocabulary size of the source.
        source: usize,
        /// Vocabulary size of the target.
        target: usize,
        /// What stands before the first symbol of an answer.
        begin: u32,
        /// What ends an answer.
        end: u32,
    },
    /// Real features of two sequences that come together, each with steps of its own.
    Modalities {
        /// Features per step of each.
        features: [usize; 2],
        /// Steps of the longest of each.
        steps: [usize; 2],
    },
}

/// Kind of the model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Real numbers under squared error.
    Values {
        /// Numbers per answer.
        outputs: usize,
    },
    /// One class under cross-entropy.
    Classes {
        /// Number of classes.
        classes: usize,
    },
}

/// Where the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readout {
    /// Once, at each sequence's last real step.
    Last,
    /// At every step whose weight is not 0.
    EveryStep,
}

/// Part of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Split {
    /// Batches to learn from.
    Train,
    /// For stopping and tuning.
    Validation,
    /// For the final figure.
    Test,
}

impl Split {
    /// Name: `train`, `validation`, `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Inputs of a batch, padded to its longest sequence.
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    /// `(B, T, F)` row by row.
    Values(Vec<f32>),
    /// `(B, T)` row by row.
    Tokens(Vec<u32>),
    /// Source and answer so far.
    Pairs(Box<PairInputs>),
    /// Two sequences that come together. [`Batch::lengths`] are those of the longer of the two.
    Modalities(Box<[ModalityInputs; 2]>),
}

/// Inputs of one modality, padded to its longest sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct ModalityInputs {
    /// `(B, T, F)` row by row.
    pub values: Vec<f32>,
    /// Steps (`T`) after padding.
    pub seq_len: usize,
    /// Real lengths; `None` when all sequences have `seq_len` steps.
    pub lengths: Option<Vec<usize>>,
}

impl ModalityInputs {
    /// Real steps of a sequence.
    pub fn length(&self, row: usize) -> usize {
        self.lengths.as_ref().map_or(self.seq_len, |lengths| lengths[row])
    }
}

/// Inputs of a batch of pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairInputs {
    /// `(B, S)` row by row: what is read.
    pub source: Vec<u32>,
    /// Steps of the source (`S`) after padding.
    pub source_len: usize,
    /// Real lengths of the sources; `None` when all have `source_len` steps.
    pub source_lengths: Option<Vec<usize>>,
    /// `(B, T)`: what the decoder is given, the right answer one step later.
    pub target: Vec<u32>,
    /// Number of each example, for [`AnswerScore::count`].
    pub examples: Vec<usize>,
}

/// Answers of a batch: one per sequence ([`Readout::Last`]) or one per step.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// `(B, O)` or `(B, T, O)` row by row.
    Values(Vec<f32>),
    /// `(B,)` or `(B, T)` row by row.
    Classes(Vec<u32>),
}

/// A batch of sequences with their answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Sequences (`B`).
    pub batch_size: usize,
    /// Steps (`T`) after padding; of two modalities, those of the longer one.
    pub seq_len: usize,
    /// Inputs.
    pub inputs: Inputs,
    /// Answers.
    pub targets: Targets,
    /// `(B, T)` weight of each step's answer, 1 or 0; `None` when the readout is the last step or
    /// every step counts.
    pub weights: Option<Vec<f32>>,
    /// Real lengths; `None` when all sequences have `seq_len` steps.
    pub lengths: Option<Vec<usize>>,
    /// Whether each row goes on where the same row of the batch before it ended: models keep their state
    /// between the two. Only in tasks that carry states ([`Task::carries_state`]).
    pub continues: bool,
}

/// What is reported, over the answers of a whole split (weights 1).
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// Mean squared error.
    MeanSquaredError,
    /// Root mean squared error in the target's own unit: `scale` times that of the normalised one.
    RootMeanSquaredError {
        /// Standard deviation that the target was divided by.
        scale: f64,
        /// Unit of the target.
        unit: Cow<'static, str>,
    },
    /// Root mean squared error of each sequence's last number: of several hours that are forecast, so many
    /// hours ahead.
    RootMeanSquaredErrorAt {
        /// Hours ahead.
        hours: usize,
        /// Standard deviation that the target was divided by.
        scale: f64,
        /// Unit of the target.
        unit: Cow<'static, str>,
    },
    /// Root mean squared error of one of several targets, in its own unit.
    RootMeanSquaredErrorOf {
        /// Which number of an answer it is.
        output: usize,
        /// Name of the target.
        name: String,
        /// Standard deviation that the target was divided by.
        scale: f64,
        /// Unit of the target.
        unit: Cow<'static, str>,
    },
    /// Mean absolute error in the target's own unit.
    MeanAbsoluteError {
        /// Standard deviation that the target was divided by.
        scale: f64,
        /// Unit of the target.
        unit: Cow<'static, str>,
    },
    /// Mean absolute error over that of a naive forecast on the training data (Hyndman & Koehler
    /// 2006): below 1 is better than it.
    MeanAbsoluteScaledError {
        /// Standard deviation that the target was divided by, over the naive forecast's error.
        scale: f64,
    },
    /// Fraction of right answers.
    Accuracy,
    /// Mean over classes of the harmonic mean of precision and recall: every class counts alike
    /// ([`ClassCounts::macro_f1`](crate::ClassCounts::macro_f1)).
    MacroF1,
    /// Mean cross-entropy in nats.
    CrossEntropy,
    /// Cross-entropy in bits, over the characters of the right answers.
    BitsPerCharacter {
        /// Characters of each class; `None` when each is one.
        characters: Option<Arc<[u32]>>,
    },
    /// What the task's [`AnswerScore`] says of whole answers.
    OfAnswers {
        /// Name (`PER`, `BLEU`).
        name: &'static str,
        /// Which end is good.
        better: Better,
    },
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Errors, losses.
    Lower,
    /// Accuracies.
    Higher,
}

impl Metric {
    /// Name with unit, for axes and tables.
    pub fn name(&self) -> String {
        match self {
            Self::MeanSquaredError => "MSE".into(),
            Self::RootMeanSquaredError { unit, .. } => with_unit("RMSE", unit),
            Self::RootMeanSquaredErrorAt { hours, unit, .. } => {
                with_unit(&format!("RMSE at {hours} h"), unit)
            }
            Self::RootMeanSquaredErrorOf { name, unit, .. } => {
                with_unit(&format!("RMSE of {name}"), unit)
            }
            Self::MeanAbsoluteError { unit, .. } => with_unit("MAE", unit),
            Self::MeanAbsoluteScaledError { .. } => "MASE".into(),
            Self::BitsPerCharacter { .. } => "bits per character".into(),
            Self::Accuracy => "accuracy".into(),
            Self::MacroF1 => "macro F1".into(),
            Self::OfAnswers { name, .. } => (*name).into(),
            Self::CrossEntropy => "cross-entropy (nats)".into(),
        }
    }

    /// Which end is good.
    pub fn better(&self) -> Better {
        match self {
            Self::Accuracy | Self::MacroF1 => Better::Higher,
            Self::OfAnswers { better, .. } => *better,
            _ => Better::Lower,
        }
    }
}

fn with_unit(name: &str, unit: &str) -> String {
    if unit.is_empty() { name.to_owned() } else { format!("{name} ({unit})") }
}

/// What is reached without a sequence model: always answering 1, repeating the last value, a ridge
/// regression, ...
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// What it does, in a few words (`always answer 1`).
    pub name: String,
    /// Its metric on the test split (or its expectation where that is known exactly).
    pub value: f64,
    /// Whether it learns from the training data (ridge regression, nearest neighbours): a reference
    /// to compare with, and not what a model reaches that has learned nothing.
    pub fitted: bool,
}

/// A task at one length, ready to give batches.
///
/// `train_batch` is a pure function of the step, so a resumed run sees the same data. Data sets are
/// shuffled anew each epoch by the stream of that epoch; evaluation splits are the same for every
/// seed and architecture, so that runs can be paired.
pub trait Task: Send + Sync {
    /// Registry name.
    fn name(&self) -> &'static str;

    /// Kind of the inputs.
    fn input(&self) -> InputKind;

    /// Kind of the answers.
    fn target(&self) -> TargetKind;

    /// Where the model answers.
    fn readout(&self) -> Readout;

    /// Steps of the longest sequence.
    fn seq_len(&self) -> usize;

    /// What is reported.
    fn metric(&self) -> Metric;

    /// What is reported beside it, of the same answers.
    fn other_metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// Trivial baselines, best known first.
    fn baselines(&self) -> Vec<Baseline>;

    /// The metric from which on the task counts as solved, if there is such a value.
    fn solved_at(&self) -> Option<f64>;

    /// The batch of training step `step` (from 0).
    fn train_batch(&self, step: u64, batch_size: usize) -> Batch;

    /// All of an evaluation split in batches of at most `batch_size`. `Split::Train` gives a sample
    /// of the training data of the same size as the validation split.
    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch>;

    /// Whether batches go on where the batch before ended ([`Batch::continues`]), in training and in
    /// evaluation: truncated back-propagation through time, with windows of
    /// [`seq_len`](Self::seq_len) steps.
    fn carries_state(&self) -> bool {
        false
    }

    /// Which inputs of evaluation batches are the model's own answers, in tasks where it goes on from them.
    /// In training they are the right ones.
    fn own_answers(&self) -> Option<OwnAnswers> {
        None
    }

    /// Whether the right answer to a step is an input of a later one: models that see ahead would read it.
    fn answers_are_inputs(&self) -> bool {
        self.own_answers().is_some()
    }

    /// Tokens as text, for tasks whose tokens are a text.
    fn writing(&self) -> Option<&dyn Writing> {
        None
    }

    /// How answers are scored, for tasks whose answer is a sequence.
    fn answers(&self) -> Option<&dyn AnswerScore> {
        None
    }

    /// The first `count` examples of an evaluation split in one batch, or all of it where it has
    /// fewer. Tasks that draw their examples need not draw the rest.
    fn first_of(&self, split: Split, count: usize) -> Option<Batch> {
        if count == 0 {
            return None;
        }
        self.evaluation(split, count).into_iter().next()
    }
}

/// Inputs that are a model's own answers: each answer, at every step, is an input of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnAnswers {
    /// The first step with such an input.
    pub from: usize,
    /// Which feature it is.
    pub feature: usize,
}

/// Text as the tokens of a task, and back.
pub trait Writing: Send + Sync {
    /// A text as tokens.
    ///
    /// # Errors
    /// When a character is none of the task's.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// Tokens as text.
    fn decode(&self, tokens: &[u32]) -> String;
}

/// Options of a task by name, as an experiment file gives them.
pub type Options = Map<String, Value>;

/// What a task is built from.
#[derive(Debug, Clone)]
pub struct TaskRequest<'a> {
    /// Sequence length, steps: the swept one.
    pub length: usize,
    /// Seed of the training batches.
    pub seed: u64,
    /// The task's own options; keys that are not given take their defaults.
    pub options: &'a Options,
}

/// A task in the registry.
pub struct TaskEntry {
    /// Name in experiment files.
    pub name: &'static str,
    /// What it is, with its source.
    pub summary: &'static str,
    /// Options with their defaults.
    pub options: fn() -> Vec<(OptionDoc, Value)>,
    /// The only length the task has, given its options (pixels of an image); `None` when any will
    /// do.
    pub fixed_length: fn(&Options) -> Result<Option<usize>>,
    /// All options with the given ones over the defaults, checked.
    pub resolve: fn(&Options) -> Result<Options>,
    /// Builds the task.
    pub build: fn(&TaskRequest<'_>) -> Result<Box<dyn Task>>,
    /// Data files that it reads, by name within the data folder.
    pub files: &'static [&'static str],
}
