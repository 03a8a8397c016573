//! Tasks from one sequence to another.

pub mod bleu;
pub(crate) mod g2p;
pub(crate) mod translation;

use std::collections::BTreeMap;

use unroll_core::Stream;

use crate::answer::{AnswerScore, OtherMetric};
use crate::data::epochs::Epochs;
use crate::data::split::Splits;
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, InputKind, Inputs, Metric, PairInputs, Readout, Result, Split, TargetKind,
    Targets, Task,
};

/// Ends an answer.
pub(crate) const END: u32 = 0;
/// Begins an answer: what the decoder is given first.
pub(crate) const BEGIN: u32 = 1;
/// The first symbol that is one.
pub(crate) const FIRST: u32 = 2;

/// Symbols of a side by number, from [`FIRST`] on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Symbols {
    /// In the order given; each must be there once.
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        let numbers = names.iter().cloned().zip(FIRST..).collect();
        Self { names, numbers }
    }

    /// Symbols and the two that are none.
    pub(crate) fn vocabulary(&self) -> usize {
        self.names.len() + FIRST as usize
    }

    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn name(&self, number: u32) -> &str {
        number
            .checked_sub(FIRST)
            .and_then(|place| self.names.get(place as usize))
            .map_or("", String::as_str)
    }
}

/// One example: what is read and what is to be written, without end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) source: Vec<u32>,
    pub(crate) target: Vec<u32>,
}

/// What makes a task of pairs.
pub(crate) struct PairTask {
    name: &'static str,
    metric: Metric,
    length: usize,
    vocabularies: (usize, usize),
    pairs: Vec<Pair>,
    splits: Splits,
    epochs: Epochs,
    score: Box<dyn AnswerScore>,
    baselines: Vec<Baseline>,
}

/// Parts of a [`PairTask`].
pub(crate) struct PairParts {
    pub(crate) name: &'static str,
    pub(crate) metric: Metric,
    /// Longest source, in symbols.
    pub(crate) length: usize,
    /// Sizes of the vocabularies of source and target.
    pub(crate) vocabularies: (usize, usize),
    pub(crate) pairs: Vec<Pair>,
    pub(crate) train: Vec<usize>,
    pub(crate) validation: Vec<usize>,
    pub(crate) test: Vec<usize>,
    pub(crate) score: Box<dyn AnswerScore>,
    pub(crate) baselines: Vec<Baseline>,
}

impl PairTask {
    /// `seed` orders the training examples.
    pub(crate) fn new(seed: u64, parts: PairParts) -> Self {
        let PairParts { name, metric, length, vocabularies, pairs, score, baselines, .. } = parts;
        let stream = Stream::new(EVALUATION_SEED, format!("task/{name}/split"));
        let splits = Splits::new(parts.train, parts.validation, parts.test, &stream);
        let epochs =
            Epochs::new(Stream::new(seed, format!("task/{name}/train")), splits.train.len());
        Self { name, metric, length, vocabularies, pairs, splits, epochs, score, baselines }
    }

    fn batch(&self, examples: &[usize]) -> Batch {
        let pairs: Vec<&Pair> = examples.iter().map(|&example| &self.pairs[example]).collect();
        let (source, source_len, source_lengths) =
            padded(pairs.iter().map(|pair| &pair.source[..]));
        let given = pairs.iter().map(|pair| [&[BEGIN], &pair.target[..]].concat());
        let given: Vec<Vec<u32>> = given.collect();
        let right = pairs.iter().map(|pair| [&pair.target[..], &[END]].concat());
        let right: Vec<Vec<u32>> = right.collect();
        let (target, seq_len, lengths) = padded(given.iter().map(Vec::as_slice));
        let (right, ..) = padded(right.iter().map(Vec::as_slice));
        Batch {
            batch_size: examples.len(),
            seq_len,
            inputs: Inputs::Pairs(Box::new(PairInputs {
                source,
                source_len,
                source_lengths,
                target,
                examples: examples.to_vec(),
            })),
            targets: Targets::Classes(right),
            weights: None,
            lengths,
            continues: false,
        }
    }
}

/// Sequences padded to the longest, its length, and the lengths where they differ.
fn padded<'a>(
    sequences: impl Iterator<Item = &'a [u32]> + Clone,
) -> (Vec<u32>, usize, Option<Vec<usize>>) {
    let lengths: Vec<usize> = sequences.clone().map(<[u32]>::len).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut all = Vec::with_capacity(lengths.len() * longest);
    for (row, sequence) in sequences.enumerate() {
        all.extend_from_slice(sequence);
        all.resize((row + 1) * longest, END);
    }
    let differ = lengths.iter().any(|&length| length < longest);
    (all, longest, differ.then_some(lengths))
}

impl Task for PairTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn input(&self) -> InputKind {
        let (source, target) = self.vocabularies;
        InputKind::Pairs { source, target, begin: BEGIN, end: END }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.vocabularies.1 }
    }

    fn readout(&self) -> Readout {
        Readout::EveryStep
    }

    fn seq_len(&self) -> usize {
        self.length
    }

    fn metric(&self) -> Metric {
        self.metric.clone()
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.baselines.clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size);
        let examples: Vec<usize> =
            drawn.into_iter().map(|index| self.splits.train[index]).collect();
        self.batch(&examples)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let examples = self.splits.evaluated(split);
        examples.chunks(batch_size.max(1)).map(|chunk| self.batch(chunk)).collect()
    }

    fn answers(&self) -> Option<&dyn AnswerScore> {
        Some(self.score.as_ref())
    }
}

/// What a score gives to answers that are known: for baselines.
pub(crate) fn score_of<'a>(
    score: &dyn AnswerScore,
    answers: impl Iterator<Item = (usize, &'a [u32])>,
) -> Result<(f64, Vec<OtherMetric>)> {
    let mut sums = vec![0.0; score.sums()];
    for (example, answer) in answers {
        score.count(example, answer, &mut sums)?;
    }
    Ok((score.metric(&sums), score.others(&sums)))
}
