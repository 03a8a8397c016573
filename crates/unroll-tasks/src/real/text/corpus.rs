//! The text, cut by chapters, as tokens.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::vocabulary::Vocabulary;
use super::{FILE, TextOptions, Tokens};
use crate::baseline::{compressor, ngram};
use crate::data::file::{for_each_line, unpacked};
use crate::data::{locate, own};
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

/// The lines of any text, cut where a split begins too, at the very character.
pub(super) fn pieces(path: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    let mut text = Vec::new();
    unpacked(bytes)
        .and_then(|mut unpacked| unpacked.read_to_end(&mut text))
        .map_err(|error| Error::data(path, 0, format!("cannot be read: {error}")))?;
    let text = std::str::from_utf8(&text).map_err(|error| {
        let sound = &text[..error.valid_up_to()];
        let line = 1 + sound.iter().filter(|&&byte| byte == b'\n').count();
        let within = sound.iter().rev().take_while(|&&byte| byte != b'\n').count();
        let found = text.get(sound.len()).copied().unwrap_or_default();
        let message = format!(
            "byte {} of the file, which is byte {} of the line (0x{found:02x}), is no UTF-8: save the text as \
             UTF-8",
            sound.len() + 1,
            within + 1
        );
        Error::data(path, line, message)
    })?;
    let mut rest = text.trim_start_matches('\u{feff}');
    let count = rest.chars().count();
    let mut pieces = Vec::new();
    let mut begin = 0;
    for share in [VALIDATION_FROM, TEST_FROM, 1.0] {
        let end = (share * count as f64).ceil() as usize;
        let at = rest.char_indices().nth(end - begin).map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(at);
        pieces.extend(part.split_inclusive('\n').map(str::to_owned));
        (rest, begin) = (after, end);
    }
    Ok(pieces)
}

/// A text as one sequence of tokens, cut by pieces (chapters, lines): the last tenth of its characters is the
/// test, the twentieth before it validation. No token lies across a cut.
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
            let message = format!(
                "{} different characters, where there may be 2 to {}",
                characters.len(),
                ngram::LARGEST_VOCABULARY
            );
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
        // Two to read, and the answer to the second.
        if let Some(short) = [&train, &validation, &test].into_iter().find(|part| part.len() < 3) {
            let message = format!(
                "{} tokens are too few: one of the splits has {}, where it takes 3",
                tokens.len(),
                short.len()
            );
            return Err(Error::data(path, 0, message));
        }
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

/// What a corpus is made of: a file, the hash of one that may change, and the number of byte pairs.
type Origin = (PathBuf, String, Option<usize>);

/// The corpus of the options' file, or the bundled one. Made once for each way to cut it into tokens: a
/// sweep asks for it in every trial.
pub(super) fn load(options: &TextOptions) -> Result<Arc<Corpus>> {
    static MADE: Mutex<Vec<(Origin, Arc<Corpus>)>> = Mutex::new(Vec::new());
    let (path, own) = match &options.file {
        None => (locate(FILE), None),
        Some(file) => {
            let bytes = own::read(file)?;
            let hash = own::hash_of([bytes.as_slice()]);
            own::check(&[file], &hash, &options.data_hash)?;
            (own::find(file), Some((bytes, hash)))
        }
    };
    let pairs = options.tokens == Tokens::BytePairs;
    let hash = own.as_ref().map(|(_, hash)| hash.clone()).unwrap_or_default();
    let origin = (path.clone(), hash, pairs.then_some(options.vocabulary_size));
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, corpus)) = made.iter().find(|(other, _)| *other == origin) {
        return Ok(corpus.clone());
    }
    let pieces = match own {
        None => read(&path)?,
        Some((bytes, _)) => pieces(&path, &bytes)?,
    };
    let corpus = Arc::new(Corpus::new(&pieces, &path, options)?);
    made.push((origin, corpus.clone()));
    Ok(corpus)
}
