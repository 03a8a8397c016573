//! English to Spanish: verses of the Bible, word by word.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;

use super::g2p::require_search;
use super::{Pair, PairParts, PairTask, Symbols, bleu, score_of};
use crate::answer::{AnswerScore, OtherMetric, Search, no_example};
use crate::data::file::for_each_line;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::{Baseline, Better, Error, Metric, Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "translation",
    summary: "Spanish for an English verse of at most T words (World English Bible, Reina-Valera)",
    options: options::list::<TranslationOptions>,
    fixed_length,
    resolve: options::resolve::<TranslationOptions>,
    build,
    files: &[FILE],
};

const FILE: &str = "bible_en_es.tsv.gz";

/// Each verse whose chapter has this remainder is kept for validation, or for the test.
const VALIDATION_CHAPTER: usize = 8;
const TEST_CHAPTER: usize = 9;
const CHAPTERS: usize = 10;

/// Words of an answer for each word of the longest source, at most.
const LONGEST_FOR_WORD: usize = 2;

/// A word that is too rare to have a number.
const UNKNOWN: &str = "<unk>";

/// Buckets of source lengths that BLEU is shown for.
const BUCKET: usize = 5;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TranslationOptions {
    vocabulary: usize,
    eval_examples: usize,
    beam: usize,
    length_penalty: f64,
}

impl Default for TranslationOptions {
    fn default() -> Self {
        Self { vocabulary: 3000, eval_examples: 1000, beam: 1, length_penalty: 0.6 }
    }
}

impl TaskOptions for TranslationOptions {
    const TASK: &'static str = "translation";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "vocabulary",
            help: "most frequent words of each language that are known; others are `<unk>`",
        },
        OptionDoc {
            name: "eval_examples",
            help: "verses of the test split that are translated; of the validation split a quarter",
        },
        OptionDoc {
            name: "beam",
            help: "hypotheses kept when the test is translated; 1 is greedy",
        },
        OptionDoc { name: "length_penalty", help: "alpha of Wu et al. 2016; 0 is none" },
    ];

    fn validate(&self) -> Result<()> {
        require_count("vocabulary", self.vocabulary, 10, 100_000)?;
        require_count("eval_examples", self.eval_examples, 4, 100_000)?;
        require_search(self.beam, self.length_penalty)
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<TranslationOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: TranslationOptions = options::parse(request.options)?;
    let path = locate(FILE);
    let verses = read(&path)?;
    Ok(Box::new(task(&verses, &path, request.length, request.seed, &options)?))
}

/// A verse: number of its chapter, English and Spanish words.
struct Verse {
    chapter: usize,
    english: Vec<String>,
    spanish: Vec<String>,
}

/// Words and signs, in lower case.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Words as a line of text: signs stand close to the word before.
fn line<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for word in words {
        let close = word.chars().all(|c| !c.is_alphanumeric() && !"¿¡«(<".contains(c));
        if !(text.is_empty() || close || text.ends_with(['¿', '¡', '«', '('])) {
            text.push(' ');
        }
        text.push_str(word);
    }
    text
}

fn read(path: &Path) -> Result<Vec<Verse>> {
    let mut verses: Vec<Verse> = Vec::new();
    let mut last = String::new();
    let mut chapter = 0;
    for_each_line(path, |number, line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [reference, english, spanish] = columns[..] else {
            return Err(format!("{} columns, expected `ref`, `en`, `es`", columns.len()));
        };
        if number == 1 {
            return if (reference, english, spanish) == ("ref", "en", "es") {
                Ok(())
            } else {
                Err(format!("header `{line}`, expected `ref`, `en`, `es`"))
            };
        }
        let Some((place, _)) = reference.rsplit_once('.') else {
            return Err(format!("`{reference}` is not book, chapter and verse"));
        };
        if place != last {
            place.clone_into(&mut last);
            chapter += 1;
        }
        verses.push(Verse { chapter, english: words(english), spanish: words(spanish) });
        Ok(())
    })?;
    Ok(verses)
}

/// The most frequent words; of equally frequent ones the first of the alphabet.
fn vocabulary<'a>(words: impl Iterator<Item = &'a String>, most: usize) -> Symbols {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let mut ranked: Vec<(&String, usize)> = counts.into_iter().collect();
    ranked.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let names = ranked.into_iter().take(most).map(|(word, _)| word.clone());
    Symbols::new([UNKNOWN.to_owned()].into_iter().chain(names))
}

fn task(
    verses: &[Verse],
    path: &Path,
    length: usize,
    seed: u64,
    options: &TranslationOptions,
) -> Result<PairTask> {
    require_count("length", length, 1, 1000)?;
    let short = |verse: &&Verse| (1..=length).contains(&verse.english.len());
    let verses: Vec<&Verse> = verses.iter().filter(short).collect();
    let split_of = |verse: &Verse| match verse.chapter % CHAPTERS {
        TEST_CHAPTER => 0,
        VALIDATION_CHAPTER => 1,
        _ => 2,
    };
    let learned = || verses.iter().filter(|verse| split_of(verse) == 2);
    let english = vocabulary(learned().flat_map(|verse| &verse.english), options.vocabulary);
    let spanish = vocabulary(learned().flat_map(|verse| &verse.spanish), options.vocabulary);
    let numbers = |words: &[String], symbols: &Symbols| -> Vec<u32> {
        let unknown = symbols.number(UNKNOWN).unwrap_or_default();
        words.iter().map(|word| symbols.number(word).unwrap_or(unknown)).collect()
    };
    let longest = LONGEST_FOR_WORD * length + BUCKET;
    // Some verses come again word by word in other chapters: those are no test.
    let known: HashSet<&[String]> = learned().map(|verse| &verse.english[..]).collect();
    let mut held_out: HashSet<&[String]> = HashSet::new();
    let mut parts = [const { Vec::new() }; 3];
    let (mut pairs, mut references) = (Vec::new(), Vec::new());
    for verse in &verses {
        let part = split_of(verse);
        // What cannot be answered whole is not learned from, but it is asked for.
        let fits = match part {
            2 => verse.spanish.len() <= longest,
            _ => !known.contains(&verse.english[..]) && held_out.insert(&verse.english),
        };
        if verse.spanish.is_empty() || !fits {
            continue;
        }
        parts[part].push(pairs.len());
        pairs.push(Pair {
            source: numbers(&verse.english, &english),
            target: numbers(&verse.spanish, &spanish),
        });
        references.push((verse.english.len(), line(verse.spanish.iter().map(String::as_str))));
    }
    let [mut test, mut validation, train] = parts;
    spread(&mut test, options.eval_examples);
    spread(&mut validation, options.eval_examples / 4);
    if train.is_empty() || validation.is_empty() || test.is_empty() {
        let message = format!("no verses of at most {length} words for each split");
        return Err(Error::data(path, 0, message));
    }
    let copied: Vec<Vec<u32>> = test
        .iter()
        .map(|&index| {
            let words = pairs[index].source.iter().map(|&word| english.name(word).to_owned());
            numbers(&words.collect::<Vec<_>>(), &spanish)
        })
        .collect();
    let by_word = word_by_word(&pairs, &train, &test);
    let vocabularies = (english.vocabulary(), spanish.vocabulary());
    let search = Search { beam: options.beam, length_penalty: options.length_penalty };
    let score =
        Score { references, english, spanish, longest, buckets: length.div_ceil(BUCKET), search };
    let baseline = |name: &str, answers: &[Vec<u32>]| -> Result<Baseline> {
        let answers = test.iter().copied().zip(answers.iter().map(Vec::as_slice));
        Ok(Baseline { name: name.into(), value: score_of(&score, answers)?.0, fitted: false })
    };
    let baselines = vec![
        baseline("each word's most associated word", &by_word)?,
        baseline("copy the source", &copied)?,
    ];
    Ok(PairTask::new(
        seed,
        PairParts {
            name: ENTRY.name,
            metric: Metric::OfAnswers { name: "BLEU", better: Better::Higher },
            length,
            vocabularies,
            pairs,
            train,
            validation,
            test,
            score: Box::new(score),
            baselines,
        },
    ))
}

/// At most `most`, evenly over all.
fn spread(examples: &mut Vec<usize>, most: usize) {
    let count = examples.len();
    if count > most {
        *examples = (0..most).map(|index| examples[index * count / most]).collect();
    }
}

/// Each source word by the target word of the largest Dice coefficient `2 n(s, t) / (n(s) + n(t))` over
/// training pairs.
fn word_by_word(pairs: &[Pair], train: &[usize], test: &[usize]) -> Vec<Vec<u32>> {
    let distinct = |words: &[u32]| {
        let mut words = words.to_vec();
        words.sort_unstable();
        words.dedup();
        words
    };
    let (mut sources, mut targets) = (HashMap::<u32, u32>::new(), HashMap::<u32, u32>::new());
    let mut together = HashMap::<(u32, u32), u32>::new();
    for pair in train.iter().map(|&index| &pairs[index]) {
        let (source, target) = (distinct(&pair.source), distinct(&pair.target));
        target.iter().for_each(|&word| *targets.entry(word).or_default() += 1);
        for &word in &source {
            *sources.entry(word).or_default() += 1;
            target.iter().for_each(|&other| *together.entry((word, other)).or_default() += 1);
        }
    }
    let mut best = HashMap::<u32, (f64, u32)>::new();
    for (&(source, target), &count) in &together {
        let dice = 2.0 * f64::from(count) / f64::from(sources[&source] + targets[&target]);
        let entry = best.entry(source).or_insert((dice, target));
        // Of equals the smaller number: the order of a hash map has no say.
        if dice > entry.0 || (dice == entry.0 && target < entry.1) {
            *entry = (dice, target);
        }
    }
    let translate = |word: &u32| best.get(word).map(|&(_, target)| target);
    test.iter().map(|&index| pairs[index].source.iter().filter_map(translate).collect()).collect()
}

/// BLEU and chrF of lower-case text, all and by length of the source.
struct Score {
    /// Words of the source, and the right text, by example.
    references: Vec<(usize, String)>,
    english: Symbols,
    spanish: Symbols,
    longest: usize,
    buckets: usize,
    search: Search,
}

impl AnswerScore for Score {
    fn longest(&self) -> usize {
        self.longest
    }

    fn search(&self) -> Search {
        self.search
    }

    /// Those of BLEU and chrF: over all, then for each bucket of source lengths.
    fn sums(&self) -> usize {
        (1 + self.buckets) * bleu::SUMS
    }

    fn count(&self, example: usize, answer: &[u32], sums: &mut [f64]) -> Result<()> {
        let (words, right) = self
            .references
            .get(example)
            .ok_or_else(|| no_example(example, self.references.len()))?;
        let text = line(answer.iter().map(|&word| self.spanish.name(word)));
        let added = bleu::count(&text, right);
        let bucket = 1 + words.saturating_sub(1) / BUCKET;
        for place in [0, bucket] {
            let sums = sums.iter_mut().skip(place * bleu::SUMS);
            sums.zip(added).for_each(|(sum, value)| *sum += value);
        }
        Ok(())
    }

    fn metric(&self, sums: &[f64]) -> f64 {
        bleu::bleu(&sums[..bleu::SUMS])
    }

    fn source_symbol(&self, symbol: u32) -> String {
        self.english.name(symbol).to_owned()
    }

    fn answer_symbol(&self, symbol: u32) -> String {
        self.spanish.name(symbol).to_owned()
    }

    fn others(&self, sums: &[f64]) -> Vec<OtherMetric> {
        let mut others =
            vec![OtherMetric { name: "chrF".into(), value: bleu::chrf(&sums[..bleu::SUMS]) }];
        for (bucket, sums) in sums.chunks_exact(bleu::SUMS).skip(1).enumerate() {
            // Buckets without a verse have no BLEU.
            if sums[1] > 0.0 {
                let (first, last) = (bucket * BUCKET + 1, (bucket + 1) * BUCKET);
                let name = format!("BLEU, source of {first} to {last} words");
                others.push(OtherMetric { name, value: bleu::bleu(sums) });
            }
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures;

    #[test]
    fn text_survives_words() {
        let spanish = "Y dijo Dios: ¿Dónde estás tú? ¡Ven, hijo mío!";
        let parts = words(spanish);
        assert_eq!(parts[..5], ["y", "dijo", "dios", ":", "¿"]);
        assert_eq!(line(parts.iter().map(String::as_str)), spanish.to_lowercase());
    }

    #[test]
    fn the_right_answers_score_100() {
        let verses = read(&locate(FILE)).unwrap();
        let options = TranslationOptions { vocabulary: 100_000, ..Default::default() };
        let task = task(&verses, &locate(FILE), 20, 0, &options).unwrap();
        let score = task.answers().unwrap();
        // Every word of these is known from training.
        let known = |&&index: &&usize| {
            task.pairs[index].target.iter().all(|&word| word != super::super::FIRST)
        };
        let right = task.splits.test.iter().filter(known);
        let right = right.map(|&index| (index, &task.pairs[index].target[..]));
        let (bleu, others) = score_of(score, right.clone()).unwrap();
        assert!(right.count() > 50);
        assert!((bleu - 100.0).abs() < 1e-9, "{bleu}");
        assert!(others.iter().all(|other| (other.value - 100.0).abs() < 1e-9), "{others:?}");
        let baselines = task.baselines();
        assert!(baselines[1].value < baselines[0].value && baselines[0].value < 20.0);
    }

    #[test]
    fn no_chapter_is_in_two_splits() {
        let verses = read(&locate(FILE)).unwrap();
        assert_eq!(verses.len(), 30_101);
        let options = TranslationOptions::default();
        let task = task(&verses, &locate(FILE), 20, 0, &options).unwrap();
        let splits = &task.splits;
        assert!(splits.train.len() > 3000, "{}", splits.train.len());
        let mut all = [&splits.train[..], &splits.validation, &splits.test].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), splits.train.len() + splits.validation.len() + splits.test.len());
    }

    #[test]
    fn damaged_files_name_the_line() {
        for (text, line) in [
            ("ref\ten\tes\nGen.1.1\tIn\n", 2),
            ("ref\tes\ten\n", 1),
            ("ref\ten\tes\nGenesis\tIn\tEn\n", 2),
        ] {
            let (_folder, path) = fixtures::file(text.as_bytes());
            let error = read(&path).err().unwrap();
            assert!(matches!(error, Error::Data { line: found, .. } if found == line), "{error}");
        }
    }
}
