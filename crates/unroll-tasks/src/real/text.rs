//! Character language model: which character comes next in an English text?

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use crate::baseline::ngram;
use crate::data::file::for_each_line;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Options, Readout, Result, Split, TargetKind,
    Targets, Task, TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "text",
    summary: "next character of an English text (World English Bible), in windows of T characters",
    options: options::list::<TextOptions>,
    fixed_length,
    resolve: options::resolve::<TextOptions>,
    build,
    files: &[FILE],
};

const FILE: &str = "bible_en_es.tsv.gz";

/// Shares of the characters from which on a chapter belongs to the validation and the test split.
const VALIDATION_FROM: f64 = 0.85;
const TEST_FROM: f64 = 0.9;

/// Orders of the n-grams that are baselines; order 1 is the frequency of each character.
const ORDERS: [usize; 4] = [1, 3, 5, 6];

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TextOptions {
    eval_stride: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { eval_stride: 1 }
    }
}

impl TaskOptions for TextOptions {
    const TASK: &'static str = "text";
    const OPTIONS: &'static [OptionDoc] = &[OptionDoc {
        name: "eval_stride",
        help: "models are evaluated on every n-th window of a split; baselines are measured on all of \
               the test split",
    }];

    fn validate(&self) -> Result<()> {
        require_count("eval_stride", self.eval_stride, 1, 1000)
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<TextOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: TextOptions = options::parse(request.options)?;
    let path = locate(FILE);
    let chapters = read(&path)?;
    Ok(Box::new(Text::new(&chapters, &path, request.length, request.seed, options)?))
}

/// The English chapters in order, each verse a line.
fn read(path: &Path) -> Result<Vec<String>> {
    let mut chapters: Vec<(String, String)> = Vec::new();
    for_each_line(path, |number, line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [reference, english, _] = columns[..] else {
            return Err(format!("{} columns, expected `ref`, `en`, `es`", columns.len()));
        };
        if number == 1 {
            return if (reference, english) == ("ref", "en") {
                Ok(())
            } else {
                Err(format!("header `{line}`, expected `ref`, `en`, `es`"))
            };
        }
        let Some((chapter, _)) = reference.rsplit_once('.') else {
            return Err(format!("`{reference}` is not book, chapter and verse"));
        };
        match chapters.last_mut() {
            Some((last, text)) if last == chapter => text.push_str(english),
            _ => chapters.push((chapter.to_owned(), english.to_owned())),
        }
        if let Some((_, text)) = chapters.last_mut() {
            text.push('\n');
        }
        Ok(())
    })?;
    Ok(chapters.into_iter().map(|(_, text)| text).collect())
}

/// A text as one sequence of characters, cut by chapters: the last tenth is the test, the twentieth
/// before it validation.
///
/// Training windows begin anywhere. Evaluation windows begin half a window apart and only their second
/// half is scored (the first window of a split: all of it), so that each character of a split is scored
/// once, with at least half a window of context, and never with context from another split.
struct Text {
    length: usize,
    options: TextOptions,
    seed: u64,
    vocabulary: usize,
    text: Vec<u32>,
    train: Range<usize>,
    validation: Range<usize>,
    test: Range<usize>,
    /// Measured when first asked for.
    baselines: OnceLock<Vec<Baseline>>,
}

/// Characters from `start` on are read; answers before step `scored_from` do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    start: usize,
    scored_from: usize,
}

impl Text {
    fn new(
        chapters: &[String],
        path: &Path,
        length: usize,
        seed: u64,
        options: TextOptions,
    ) -> Result<Self> {
        let characters: BTreeSet<char> = chapters.iter().flat_map(|text| text.chars()).collect();
        let characters: Vec<char> = characters.into_iter().collect();
        if !(2..=ngram::LARGEST_VOCABULARY).contains(&characters.len()) {
            let message = format!("{} different characters", characters.len());
            return Err(Error::data(path, 0, message));
        }
        let number = |c: char| characters.binary_search(&c).unwrap_or(0) as u32;
        let text: Vec<u32> = chapters.iter().flat_map(|text| text.chars()).map(number).collect();
        let mut ends = chapters.iter().scan(0, |end, chapter| {
            *end += chapter.chars().count();
            Some(*end)
        });
        let mut chapter_from =
            |share: f64| ends.find(|&end| end as f64 >= share * text.len() as f64);
        let validation_start = chapter_from(VALIDATION_FROM).unwrap_or(text.len());
        let test_start = chapter_from(TEST_FROM).unwrap_or(text.len());
        let (train, validation, test) =
            (0..validation_start, validation_start..test_start, test_start..text.len());
        let shortest = [&train, &validation, &test].map(ExactSizeIterator::len).into_iter().min();
        // A window needs one character more: the answer to its last.
        let longest = shortest.unwrap_or(0).saturating_sub(1);
        if !(2..=longest).contains(&length) {
            let message = format!(
                "must lie in 2..={longest} (characters of a window within each split), not {length}"
            );
            return Err(Error::option("length", message));
        }
        let vocabulary = characters.len();
        let baselines = OnceLock::new();
        Ok(Self { length, options, seed, vocabulary, text, train, validation, test, baselines })
    }

    /// Windows that score each character of a part once, but for its first.
    fn windows(&self, part: &Range<usize>) -> Vec<Window> {
        let length = self.length;
        // The answer to the last character of a window must be in the part.
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

    fn evaluated(&self, split: Split) -> Vec<Window> {
        let part = match split {
            // As many windows as validation has, from one fixed place of the training text.
            Split::Train => {
                let size = self.validation.len().min(self.train.len());
                let stream = Stream::new(EVALUATION_SEED, "task/text/train_sample");
                let start = stream.rng().below(self.train.len() - size + 1);
                start..start + size
            }
            Split::Validation => self.validation.clone(),
            Split::Test => self.test.clone(),
        };
        self.windows(&part).into_iter().step_by(self.options.eval_stride).collect()
    }

    fn batch(&self, windows: &[Window]) -> Batch {
        let mut inputs = Vec::with_capacity(windows.len() * self.length);
        let mut targets = Vec::with_capacity(windows.len() * self.length);
        let mut weights = Vec::with_capacity(windows.len() * self.length);
        for window in windows {
            inputs.extend_from_slice(&self.text[window.start..window.start + self.length]);
            targets.extend_from_slice(&self.text[window.start + 1..=window.start + self.length]);
            let scored = window.scored_from..;
            weights
                .extend((0..self.length).map(|step| f32::from(u8::from(scored.contains(&step)))));
        }
        Batch {
            batch_size: windows.len(),
            seq_len: self.length,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: weights.contains(&0.0).then_some(weights),
            lengths: None,
        }
    }

    fn measure_baselines(&self) -> Vec<Baseline> {
        let orders = ORDERS.into_iter().max().unwrap_or(1);
        let (train, test) = (&self.text[self.train.clone()], &self.text[self.test.clone()]);
        let bits = ngram::bits_per_symbol(train, test, self.vocabulary, orders);
        let mut baselines: Vec<Baseline> = ORDERS
            .into_iter()
            .zip(bits.iter().flat_map(|bits| ORDERS.map(|order| bits[order - 1])))
            .map(|(order, value)| Baseline {
                name: match order {
                    1 => "frequency of each character".into(),
                    _ => format!("{order}-gram (Witten-Bell)"),
                },
                value,
                fitted: order > 1,
            })
            .collect();
        baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
        baselines
    }
}

impl Task for Text {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn input(&self) -> InputKind {
        InputKind::Tokens { vocabulary: self.vocabulary }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.vocabulary }
    }

    fn readout(&self) -> Readout {
        Readout::EveryStep
    }

    fn seq_len(&self) -> usize {
        self.length
    }

    fn metric(&self) -> Metric {
        Metric::BitsPerCharacter
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.baselines.get_or_init(|| self.measure_baselines()).clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let mut rng = Stream::new(self.seed, "task/text/train").at(step).rng();
        // The last window ends with the answer to its last character.
        let starts = self.train.len() - self.length;
        let windows: Vec<Window> =
            (0..batch_size).map(|_| Window { start: rng.below(starts), scored_from: 0 }).collect();
        self.batch(&windows)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let windows = self.evaluated(split);
        windows.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }
}

#[cfg(test)]
mod tests;
