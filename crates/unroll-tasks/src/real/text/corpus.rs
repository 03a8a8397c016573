//! The text, cut by chapters, as tokens.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::vocabulary::Vocabulary;
use super::{TextOptions, Tokens};
use crate::baseline::{compressor, ngram};
use crate::data::file::for_each_line;
use crate::{Baseline, Error, Result, Split, Writing};

/// Shares of the characters from which on a chapter belongs to the validation and the test split.
const VALIDATION_FROM: f64 = 0.85;
const TEST_FROM: f64 = 0.9;

/// Orders of the n-grams that are baselines; order 1 is the frequency of each character.
const ORDERS: [usize; 4] = [1, 3, 5, 6];

/// The English chapters in order, each verse a line.
pub(super) fn read(path: &Path) -> Result<Vec<String>> {
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

/// A text as one sequence of tokens, cut by chapters: the last tenth of its characters is the test, the
/// twentieth before it validation. No token lies across a cut.
pub(super) struct Corpus {
    pub(super) vocabulary: Vocabulary,
    /// Characters of each token, when they are not one each.
    pub(super) lengths: Option<Arc<[u32]>>,
    pub(super) tokens: Vec<u32>,
    pub(super) train: Range<usize>,
    pub(super) validation: Range<usize>,
    pub(super) test: Range<usize>,
    /// The characters of the training and the test split.
    texts: [String; 2],
    /// Measured when first asked for.
    baselines: OnceLock<Vec<Baseline>>,
}

impl Corpus {
    pub(super) fn new(chapters: &[String], path: &Path, options: &TextOptions) -> Result<Self> {
        let characters = Vocabulary::characters(chapters);
        if !(2..=ngram::LARGEST_VOCABULARY).contains(&characters.len()) {
            let message = format!("{} different characters", characters.len());
            return Err(Error::data(path, 0, message));
        }
        let counts: Vec<usize> = chapters.iter().map(|chapter| chapter.chars().count()).collect();
        let all: usize = counts.iter().sum();
        // The first chapter that begins at this share of the text or later.
        let chapter_from = |share: f64| {
            let mut begin = 0;
            let begins = counts.iter().map(|count| (begin, begin += count).0);
            let before = begins.take_while(|&begin| (begin as f64) < share * all as f64);
            before.count()
        };
        let cuts = [chapter_from(VALIDATION_FROM), chapter_from(TEST_FROM)];
        let parts = [&chapters[..cuts[0]], &chapters[cuts[0]..cuts[1]], &chapters[cuts[1]..]];
        let vocabulary = match options.tokens {
            Tokens::Characters => characters,
            Tokens::BytePairs => {
                Vocabulary::byte_pairs(chapters, parts[0], options.vocabulary_size)?
            }
        };
        let mut tokens = Vec::new();
        let mut ranges = Vec::new();
        for part in parts {
            let begin = tokens.len();
            for chapter in part {
                tokens.extend(vocabulary.encode(chapter)?);
            }
            ranges.push(begin..tokens.len());
        }
        let [train, validation, test] = [0, 1, 2].map(|part| ranges[part].clone());
        let lengths = vocabulary.lengths().map(Arc::from);
        let texts = [parts[0].concat(), parts[2].concat()];
        let baselines = OnceLock::new();
        Ok(Self { vocabulary, lengths, tokens, train, validation, test, texts, baselines })
    }

    pub(super) fn part(&self, split: Split) -> Range<usize> {
        match split {
            Split::Train => self.train.clone(),
            Split::Validation => self.validation.clone(),
            Split::Test => self.test.clone(),
        }
    }

    /// N-grams of characters and compressors, best first.
    pub(super) fn baselines(&self) -> &[Baseline] {
        self.baselines.get_or_init(|| self.measure_baselines())
    }

    fn measure_baselines(&self) -> Vec<Baseline> {
        let characters = Vocabulary::characters(&self.texts);
        let [train, test] =
            [0, 1].map(|part| characters.encode(&self.texts[part]).unwrap_or_default());
        let orders = ORDERS.into_iter().max().unwrap_or(1);
        let bits = ngram::bits_per_symbol(&train, &test, characters.len(), orders);
        let ngrams = ORDERS
            .into_iter()
            .zip(bits.iter().flat_map(|bits| ORDERS.map(|order| bits[order - 1])))
            .map(|(order, value)| Baseline {
                name: match order {
                    1 => "frequency of each character".into(),
                    _ => format!("{order}-gram (Witten-Bell)"),
                },
                value,
                fitted: order > 1,
            });
        let compressed = compressor::bzip2_bits(self.texts[1].as_bytes()).map(|bits| Baseline {
            name: "bzip2 on the test text".into(),
            value: bits / test.len() as f64,
            // It adapts to what it has compressed so far: no chance level.
            fitted: true,
        });
        let mut baselines: Vec<Baseline> = ngrams.chain(compressed).collect();
        baselines.sort_by(|a, b| a.value.total_cmp(&b.value));
        baselines
    }
}

/// What a corpus is made of; only byte pairs have a number to choose.
type Origin = (PathBuf, Option<usize>);

/// The corpus of a file. Made once for each way to cut it into tokens: a sweep asks for it in every
/// trial.
pub(super) fn load(path: &Path, options: &TextOptions) -> Result<Arc<Corpus>> {
    static MADE: Mutex<Vec<(Origin, Arc<Corpus>)>> = Mutex::new(Vec::new());
    let pairs = options.tokens == Tokens::BytePairs;
    let origin = (path.to_owned(), pairs.then_some(options.vocabulary_size));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, corpus)) = made.iter().find(|(other, _)| *other == origin) {
        return Ok(corpus.clone());
    }
    let corpus = Arc::new(Corpus::new(&read(path)?, path, options)?);
    made.push((origin, corpus.clone()));
    Ok(corpus)
}
