//! Language model: which character, or which token, comes next in an English text?

mod corpus;
mod streams;
mod vocabulary;

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use self::corpus::Corpus;
use self::streams::{Pass, Rows};
use crate::data::own;
use crate::options::{self, TaskOptions, require_count};
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Options, Readout, Result, Split, TargetKind,
    Targets, Task, TaskEntry, TaskRequest, Writing,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "text",
    summary: "next character or token of an English text (World English Bible) or of a file of your own, T of \
              them at a time",
    options: options::list::<TextOptions>,
    fixed_length,
    resolve,
    build,
    files: &[FILE],
};

const FILE: &str = "bible_en_es.tsv.gz";

/// Rows that a split is cut into where states are carried. A constant, so that a metric does not depend
/// on the size of evaluation batches: each row begins with an empty state.
const EVALUATION_ROWS: usize = 32;

/// Smallest and largest vocabulary of byte pairs.
const BYTE_PAIRS: [usize; 2] = [2, 1 << 16];

/// What a text is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Tokens {
    #[default]
    Characters,
    BytePairs,
}

/// What a window begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowState {
    /// An empty state, anywhere in the text.
    #[default]
    Fresh,
    /// The state after the window before it.
    Carried,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TextOptions {
    tokens: Tokens,
    vocabulary_size: usize,
    state: WindowState,
    eval_stride: usize,
    // Not written when it is not given: trials of the bundled text keep their identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    data_hash: String,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            vocabulary_size: 1000,
            state: WindowState::default(),
            eval_stride: 1,
            file: None,
            data_hash: String::new(),
        }
    }
}

impl TaskOptions for TextOptions {
    const TASK: &'static str = "text";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "tokens",
            help: "characters or byte_pairs, learned from the training part",
        },
        OptionDoc { name: "vocabulary_size", help: "tokens, for byte_pairs" },
        OptionDoc {
            name: "state",
            help: "fresh: windows begin anywhere, with an empty state; carried: with the state after the \
                   window before (truncated back-propagation), for recurrent architectures",
        },
        OptionDoc {
            name: "eval_stride",
            help: "models are evaluated on every n-th window of a split; baselines are measured on all of \
                   the test split",
        },
        OptionDoc {
            name: "file",
            help: "path of a text of your own (UTF-8, or gzip), from the current directory, else within the \
                   data folder: the first 85 % of its characters are learned from, the last 10 % are the \
                   test",
        },
        own::HASH,
    ];

    fn validate(&self) -> Result<()> {
        let [low, high] = BYTE_PAIRS;
        require_count("vocabulary_size", self.vocabulary_size, low, high)?;
        require_count("eval_stride", self.eval_stride, 1, 1000)?;
        if self.state == WindowState::Carried && self.eval_stride != 1 {
            let message = "must be 1 with carried states: each window goes on from the one before";
            return Err(Error::option("eval_stride", message));
        }
        match &self.file {
            Some(file) if file.trim().is_empty() => {
                Err(Error::option("file", "must be the path of a text"))
            }
            None if !self.data_hash.is_empty() => {
                Err(Error::option("data_hash", "is that of `file`, which is not given"))
            }
            _ => Ok(()),
        }
    }
}

fn resolve(given: &Options) -> Result<Options> {
    let mut options: TextOptions = options::parse(given)?;
    if let Some(file) = &options.file {
        let hash = own::hash(&[file])?;
        own::check(&[file], &hash, &options.data_hash)?;
        options.data_hash = hash;
    }
    options::to_map(&options)
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<TextOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: TextOptions = options::parse(request.options)?;
    let corpus = corpus::load(&options)?;
    Ok(Box::new(Text::new(corpus, request.length, request.seed, options)?))
}

/// The next token in windows of a text.
///
/// With fresh states, training windows begin anywhere. Evaluation windows begin half a window apart and
/// only their second half is scored (the first window of a split: all of it), so that each token of a
/// split is scored once, with at least half a window of context, and never with context from another
/// split. With carried states, a split is read once from its beginning to its end in rows side by side.
struct Text {
    length: usize,
    options: TextOptions,
    seed: u64,
    corpus: Arc<Corpus>,
}

/// Tokens from `start` on are read; answers before step `scored_from` do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    start: usize,
    scored_from: usize,
}

impl Text {
    fn new(corpus: Arc<Corpus>, length: usize, seed: u64, options: TextOptions) -> Result<Self> {
        let parts = [&corpus.train, &corpus.validation, &corpus.test];
        let shortest = parts.map(ExactSizeIterator::len).into_iter().min();
        // A window needs one token more: the answer to its last.
        let longest = shortest.unwrap_or(0).saturating_sub(1);
        if !(2..=longest).contains(&length) {
            let message = format!(
                "must lie in 2..={longest} (tokens of a window within each split), not {length}"
            );
            return Err(Error::option("length", message));
        }
        Ok(Self { length, options, seed, corpus })
    }

    fn carries(&self) -> bool {
        self.options.state == WindowState::Carried
    }

    /// Windows that score each token of a part once, but for its first.
    fn windows(&self, part: &Range<usize>) -> Vec<Window> {
        let length = self.length;
        // The answer to the last token of a window must be in the part.
        let last = part.end - 1 - length;
        let mut windows = vec![Window { start: part.start, scored_from: 0 }];
        let mut scored = part.start + length;
        while scored < part.end - 1 {
            let start = (scored - length / 2).min(last);
            let scored_from = scored - start;
            windows.push(Window { start, scored_from });
            scored = start + length;
        }
        windows
    }

    /// What a split is evaluated on.
    fn evaluated(&self, split: Split) -> Range<usize> {
        match split {
            // As much as validation has, from one fixed place of the training text.
            Split::Train => {
                let train = &self.corpus.train;
                let size = self.corpus.validation.len().min(train.len());
                let stream = Stream::new(EVALUATION_SEED, "task/text/train_sample");
                let start = train.start + stream.rng().below(train.len() - size + 1);
                start..start + size
            }
            Split::Validation | Split::Test => self.corpus.part(split),
        }
    }

    /// Windows of `length` tokens.
    fn batch(&self, windows: &[Window], length: usize, continues: bool) -> Batch {
        let mut inputs = Vec::with_capacity(windows.len() * length);
        let mut targets = Vec::with_capacity(windows.len() * length);
        let mut weights = Vec::with_capacity(windows.len() * length);
        let tokens = &self.corpus.tokens;
        for window in windows {
            inputs.extend_from_slice(&tokens[window.start..window.start + length]);
            targets.extend_from_slice(&tokens[window.start + 1..=window.start + length]);
            let scored = window.scored_from..;
            weights.extend((0..length).map(|step| f32::from(u8::from(scored.contains(&step)))));
        }
        Batch {
            batch_size: windows.len(),
            seq_len: length,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: weights.contains(&0.0).then_some(weights),
            lengths: None,
            continues,
        }
    }

    /// A part from its beginning to its end, in rows.
    fn carried_evaluation(&self, part: &Range<usize>, batch_size: usize) -> Vec<Batch> {
        let rows = Rows::new(part, EVALUATION_ROWS);
        let starts: Vec<(usize, usize)> = (0..rows.count).map(|row| rows.start(row)).collect();
        let mut batches = Vec::new();
        for group in starts.chunks(batch_size.max(1)) {
            for done in (0..rows.steps).step_by(self.length) {
                let window = |&(start, twice): &(usize, usize)| Window {
                    start: start + done,
                    scored_from: twice.saturating_sub(done),
                };
                let windows: Vec<Window> = group.iter().map(window).collect();
                let length = self.length.min(rows.steps - done);
                batches.push(self.batch(&windows, length, done > 0));
            }
        }
        batches
    }

    /// The next window of each row of the training text; after its last, another pass begins.
    fn carried_batch(&self, step: u64, batch_size: usize) -> Batch {
        let rows = Rows::new(&self.corpus.train, batch_size);
        let pass = Pass::new(rows.steps, self.length);
        let (number, window) = (step / pass.windows as u64, (step % pass.windows as u64) as usize);
        let mut rng = Stream::new(self.seed, "task/text/pass").at(number).rng();
        let begin = pass.begin(window, &mut rng);
        let place =
            |row: usize| Window { start: rows.start(row % rows.count).0 + begin, scored_from: 0 };
        let windows: Vec<Window> = (0..batch_size).map(place).collect();
        self.batch(&windows, pass.length, window > 0)
    }
}

impl Task for Text {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Tokens { vocabulary: self.corpus.vocabulary.len() }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.corpus.vocabulary.len() }
    }

    fn readout(&self) -> Readout {
        Readout::EveryStep
    }

    fn seq_len(&self) -> usize {
        self.length
    }

    fn metric(&self) -> Metric {
        Metric::BitsPerCharacter { characters: self.corpus.lengths.clone() }
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.corpus.baselines().to_vec()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        if self.carries() {
            return self.carried_batch(step, batch_size);
        }
        let mut rng = Stream::new(self.seed, "task/text/train").at(step).rng();
        // The last window ends with the answer to its last token.
        let train = &self.corpus.train;
        let starts = train.len() - self.length;
        let mut window = || Window { start: train.start + rng.below(starts), scored_from: 0 };
        let windows: Vec<Window> = (0..batch_size).map(|_| window()).collect();
        self.batch(&windows, self.length, false)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let part = self.evaluated(split);
        if self.carries() {
            return self.carried_evaluation(&part, batch_size);
        }
        let windows: Vec<Window> =
            self.windows(&part).into_iter().step_by(self.options.eval_stride).collect();
        let batch = |chunk: &[Window]| self.batch(chunk, self.length, false);
        windows.chunks(batch_size.max(1)).map(batch).collect()
    }

    fn answers_are_inputs(&self) -> bool {
        true
    }

    fn carries_state(&self) -> bool {
        self.carries()
    }

    fn writing(&self) -> Option<&dyn Writing> {
        Some(&self.corpus.vocabulary)
    }
}

#[cfg(test)]
mod tests;
