//! Grapheme to phoneme: how is an English word said?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::{Pair, PairParts, PairTask, Symbols, score_of};
use crate::answer::{self, AnswerScore, OtherMetric, Search, edit_distance, no_example};
use crate::data::file::for_each_line;
use crate::data::locate;
use crate::options::{self, TaskOptions, require_count};
use crate::synthetic::EVALUATION_SEED;
use crate::{Baseline, Better, Error, Metric, Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "g2p",
    summary: "phonemes of an English word of at most T letters (CMU pronouncing dictionary)",
    options: options::list::<G2pOptions>,
    fixed_length,
    resolve: options::resolve::<G2pOptions>,
    build,
    files: &[FILE],
};

const FILE: &str = "cmudict.dict.gz";

/// Share of the words that are kept for validation, and for the test.
const HELD_OUT: f64 = 0.05;

/// Phonemes of an answer for each letter of the longest word, at most.
const LONGEST_FOR_LETTER: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct G2pOptions {
    stress: bool,
    eval_examples: usize,
    beam: usize,
    length_penalty: f64,
}

impl Default for G2pOptions {
    fn default() -> Self {
        Self { stress: false, eval_examples: 2000, beam: 1, length_penalty: 0.6 }
    }
}

impl TaskOptions for G2pOptions {
    const TASK: &'static str = "g2p";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "stress",
            help: "whether AH0, AH1 and AH2 are three phonemes: true or false",
        },
        OptionDoc {
            name: "eval_examples",
            help: "words of the test split that are asked for; of the validation split a quarter of them",
        },
        OptionDoc {
            name: "beam",
            help: "hypotheses kept when test words are spelled out; 1 is greedy",
        },
        OptionDoc { name: "length_penalty", help: "alpha of Wu et al. 2016; 0 is none" },
    ];

    fn validate(&self) -> Result<()> {
        require_count("eval_examples", self.eval_examples, 4, 100_000)?;
        require_search(self.beam, self.length_penalty)
    }
}

/// Checks the options of beam search.
pub(super) fn require_search(beam: usize, length_penalty: f64) -> Result<()> {
    require_count("beam", beam, 1, 100)?;
    if !(0.0..=10.0).contains(&length_penalty) {
        let message = format!("must lie in 0..=10, not {length_penalty}");
        return Err(Error::option("length_penalty", message));
    }
    Ok(())
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<G2pOptions>(given)?;
    Ok(None)
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: G2pOptions = options::parse(request.options)?;
    let path = locate(FILE);
    let words = read(&path, options.stress)?;
    Ok(Box::new(task(&words, &path, request.length, request.seed, &options)?))
}

/// Words with their pronunciations, in order of the alphabet.
type Words = BTreeMap<String, Vec<Vec<String>>>;

/// Reads lines `word P H O N E M E S # remark`; `word(2)` is another way to say it. Words with other
/// characters than letters and `'` are left out.
fn read(path: &Path, stress: bool) -> Result<Words> {
    let mut words = Words::new();
    for_each_line(path, |_, line| {
        let line = line.split_once(" #").map_or(line, |(before, _)| before);
        let mut parts = line.split_whitespace();
        let word = parts.next().unwrap_or_default();
        let word = word.split_once('(').map_or(word, |(before, _)| before);
        let phonemes: Vec<String> = parts
            .map(|phoneme| if stress { phoneme } else { phoneme.trim_end_matches(['0', '1', '2']) })
            .map(str::to_owned)
            .collect();
        if phonemes.is_empty() {
            return Err(format!("`{line}`: a word and its phonemes are expected"));
        }
        if let Some(odd) = phonemes
            .iter()
            .find(|phoneme| !phoneme.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()))
        {
            return Err(format!("`{odd}` is no phoneme such as AH or T"));
        }
        if word.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase() || c == '\'') {
            return Ok(());
        }
        let ways = words.entry(word.to_owned()).or_default();
        if !ways.contains(&phonemes) {
            ways.push(phonemes);
        }
        Ok(())
    })?;
    Ok(words)
}

fn task(
    words: &Words,
    path: &Path,
    length: usize,
    seed: u64,
    options: &G2pOptions,
) -> Result<PairTask> {
    require_count("length", length, 1, 1000)?;
    let letters: BTreeSet<char> = words.keys().flat_map(|word| word.chars()).collect();
    let letters = Symbols::new(letters.into_iter().map(String::from));
    let phonemes: BTreeSet<&String> = words.values().flatten().flatten().collect();
    let phonemes = Symbols::new(phonemes.into_iter().cloned());
    // A word is drawn for a split once for all lengths.
    let mut order: Vec<(&String, &Vec<Vec<String>>)> = words.iter().collect();
    let stream = Stream::new(EVALUATION_SEED, "task/g2p/split");
    stream.rng().shuffle(&mut order);
    let held_out = (HELD_OUT * order.len() as f64).round() as usize;
    let mut parts = [const { Vec::new() }; 3];
    let (mut pairs, mut references) = (Vec::new(), Vec::new());
    for (place, (word, ways)) in order.into_iter().enumerate() {
        if word.chars().count() > length {
            continue;
        }
        let number = |c: char| letters.number(c.encode_utf8(&mut [0; 4])).unwrap_or_default();
        let source: Vec<u32> = word.chars().map(number).collect();
        let ways: Vec<Vec<u32>> = ways
            .iter()
            .map(|way| way.iter().filter_map(|phoneme| phonemes.number(phoneme)).collect())
            .collect();
        let part = (place / held_out.max(1)).min(2);
        // All ways are learned; a word that is asked for is asked for once.
        let said = if part == 2 { ways.len() } else { 1 };
        for way in &ways[..said] {
            parts[part].push(pairs.len());
            pairs.push(Pair { source: source.clone(), target: way.clone() });
            references.push(if part == 2 { Vec::new() } else { ways.clone() });
        }
    }
    let [mut test, mut validation, train] = parts;
    test.truncate(options.eval_examples);
    validation.truncate(options.eval_examples / 4);
    if train.is_empty() || validation.is_empty() || test.is_empty() {
        let message = format!("no words of at most {length} letters for each split");
        return Err(Error::data(path, 0, message));
    }
    let vocabularies = (letters.vocabulary(), phonemes.vocabulary());
    let score = Score {
        letters,
        phonemes,
        references,
        longest: LONGEST_FOR_LETTER * length + 1,
        search: Search { beam: options.beam, length_penalty: options.length_penalty },
    };
    let baselines = baselines(&score, &pairs, &train, &test)?;
    Ok(PairTask::new(
        seed,
        PairParts {
            name: ENTRY.name,
            metric: Metric::OfAnswers { name: "PER", better: Better::Lower },
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

/// Phoneme and word error rates.
struct Score {
    letters: Symbols,
    phonemes: Symbols,
    /// By example; none for those of the training split.
    references: Vec<Vec<Vec<u32>>>,
    longest: usize,
    search: Search,
}

impl AnswerScore for Score {
    fn longest(&self) -> usize {
        self.longest
    }

    fn search(&self) -> Search {
        self.search
    }

    /// Errors, phonemes, wrong words, words.
    fn sums(&self) -> usize {
        4
    }

    fn count(&self, example: usize, answer: &[u32], sums: &mut [f64]) -> Result<()> {
        let ways = self.references.get(example).filter(|ways| !ways.is_empty());
        let ways = ways.ok_or_else(|| no_example(example, self.references.len()))?;
        // Any way to say the word is right: the nearest counts, the first of equally near ones.
        let nearest = ways.iter().map(|way| (edit_distance(answer, way), way.len()));
        let (errors, phonemes) = nearest.min_by_key(|&(errors, _)| errors).unwrap_or_default();
        let wrong = f64::from(u8::from(errors > 0));
        answer::add(sums, [errors as f64, phonemes as f64, wrong, 1.0]);
        Ok(())
    }

    fn metric(&self, sums: &[f64]) -> f64 {
        sums[0] / sums[1]
    }

    fn source_symbol(&self, symbol: u32) -> String {
        self.letters.name(symbol).to_owned()
    }

    fn answer_symbol(&self, symbol: u32) -> String {
        self.phonemes.name(symbol).to_owned()
    }

    fn others(&self, sums: &[f64]) -> Vec<OtherMetric> {
        vec![OtherMetric { name: "WER".into(), value: sums[2] / sums[3] }]
    }
}

/// Saying nothing, and each letter's phoneme: of the words with as many phonemes as letters, the most
/// frequent one in its place.
fn baselines(
    score: &Score,
    pairs: &[Pair],
    train: &[usize],
    test: &[usize],
) -> Result<Vec<Baseline>> {
    let mut seen: BTreeMap<u32, BTreeMap<u32, usize>> = BTreeMap::new();
    for pair in train.iter().map(|&index| &pairs[index]) {
        if pair.source.len() == pair.target.len() {
            for (&letter, &phoneme) in pair.source.iter().zip(&pair.target) {
                *seen.entry(letter).or_default().entry(phoneme).or_default() += 1;
            }
        }
    }
    let usual = |letter: &u32| {
        let phonemes = seen.get(letter)?;
        phonemes.iter().max_by_key(|&(_, count)| count).map(|(&phoneme, _)| phoneme)
    };
    let by_letter: Vec<Vec<u32>> =
        test.iter().map(|&index| pairs[index].source.iter().filter_map(usual).collect()).collect();
    let answers = test.iter().copied().zip(by_letter.iter().map(Vec::as_slice));
    Ok(vec![
        Baseline {
            name: "each letter's most frequent phoneme".into(),
            value: score_of(score, answers)?.0,
            fitted: false,
        },
        Baseline { name: "say nothing".into(), value: 1.0, fitted: false },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures;
    use crate::{Inputs, Split, Targets};

    fn built(options: &G2pOptions) -> PairTask {
        let path = locate(FILE);
        task(&read(&path, options.stress).unwrap(), &path, 12, 0, options).unwrap()
    }

    #[test]
    fn the_dictionary_is_read() {
        let words = read(&locate(FILE), false).unwrap();
        assert_eq!(words["tomato"].len(), 2);
        assert_eq!(words["phone"], [["F", "OW", "N"]]);
        let all: BTreeSet<&String> = words.values().flatten().flatten().collect();
        assert_eq!(all.len(), 39);
        let stressed = read(&locate(FILE), true).unwrap();
        assert_eq!(stressed["phone"], [["F", "OW1", "N"]]);
    }

    #[test]
    fn no_word_is_learned_and_asked_for() {
        let task = built(&G2pOptions::default());
        let words = |split: &[usize]| -> BTreeSet<Vec<u32>> {
            split.iter().map(|&example| task.pairs[example].source.clone()).collect()
        };
        let splits = &task.splits;
        let [train, validation, test] =
            [&splits.train, &splits.validation, &splits.test].map(|split| words(split));
        assert!(train.is_disjoint(&validation) && train.is_disjoint(&test));
        assert!(validation.is_disjoint(&test));
        assert_eq!((validation.len(), test.len()), (500, 2000));
        assert!(train.len() > 100_000, "{}", train.len());
    }

    #[test]
    fn batches_shift_the_answer_by_one() {
        let task = built(&G2pOptions::default());
        let batch = &task.evaluation(Split::Validation, 3)[0];
        let Inputs::Pairs(pairs) = &batch.inputs else { panic!("pairs") };
        let Targets::Classes(right) = &batch.targets else { panic!("classes") };
        for (row, &example) in pairs.examples.iter().enumerate() {
            let Pair { source, target } = &task.pairs[example];
            let lengths = batch.lengths.as_ref();
            assert_eq!(lengths.map_or(batch.seq_len, |l| l[row]), target.len() + 1);
            let given = &pairs.target[row * batch.seq_len..][..batch.seq_len];
            let right = &right[row * batch.seq_len..][..batch.seq_len];
            assert_eq!((given[0], &given[1..=target.len()]), (super::super::BEGIN, &target[..]));
            assert_eq!(
                (&right[..target.len()], right[target.len()]),
                (&target[..], super::super::END)
            );
            assert_eq!(&pairs.source[row * pairs.source_len..][..source.len()], &source[..]);
        }
    }

    #[test]
    fn the_nearest_way_to_say_it_counts() {
        let score = Score {
            letters: Symbols::default(),
            phonemes: Symbols::default(),
            references: vec![vec![vec![2, 3, 4], vec![5, 3]]],
            longest: 9,
            search: Search::GREEDY,
        };
        let rates = |answer: &[u32]| {
            let (per, others) = score_of(&score, [(0, answer)].into_iter()).unwrap();
            (per, others[0].value)
        };
        assert_eq!(rates(&[5, 3]), (0.0, 0.0));
        assert_eq!(rates(&[2, 3, 6]), (1.0 / 3.0, 1.0));
        assert_eq!(rates(&[]), (1.0, 1.0));
        assert!(score_of(&score, [(1, &[][..])].into_iter()).is_err());
    }

    #[test]
    fn baselines_are_worse_than_knowing() {
        let baselines = built(&G2pOptions::default()).baselines();
        assert!((0.3..0.7).contains(&baselines[0].value), "{baselines:?}");
        assert_eq!(baselines[1].value, 1.0);
    }

    #[test]
    fn damaged_dictionaries_name_the_line() {
        for (text, line) in [("a AH\nb\n", 2), ("a AH\nb B,\n", 2), ("a\n", 1)] {
            let (_folder, path) = fixtures::file(text.as_bytes());
            let error = read(&path, false).unwrap_err();
            assert!(matches!(error, Error::Data { line: found, .. } if found == line), "{error}");
        }
        let (_folder, path) = fixtures::file(b"a AH\n");
        let words = read(&path, false).unwrap();
        assert!(task(&words, &path, 5, 0, &G2pOptions::default()).is_err());
    }
}
