//! Formal languages (Deletang et al. 2023, "Neural Networks and the Chomsky Hierarchy"): learned on
//! short strings, asked for on long ones.
//!
//! A language maps a string to one class, asked for at its last symbol, or to another string, asked for
//! in as many steps after the input, which hold the empty token. Accuracy is the mean over all asked
//! symbols. Training strings have lengths drawn uniformly from `1..=T` (option `lengths`); evaluated
//! ones have exactly `T`, so that a sweep over other lengths gives accuracy against length.

mod strings;
mod words;

pub(crate) use strings::{
    BucketSort, DuplicateString, OddsFirst, ReverseString, StackManipulation,
};
pub(crate) use words::{CycleNavigation, EvenPairs, ModularArithmetic};

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::{Description, EVAL_EXAMPLES, EVAL_EXAMPLES_HELP, Generator, Synthetic};
use crate::options::{self, TaskOptions, require_length};
use crate::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Result, Split, TargetKind, Targets, Task,
    TaskEntry, TaskRequest,
};

/// Accuracy from which on a language counts as solved.
const SOLVED: f64 = 0.99;

/// What a string is mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// One class.
    Class,
    /// A string of at most this many symbols.
    String(usize),
}

/// A language. Symbols are `0..SYMBOLS`.
pub(crate) trait Language: Send + Sync + 'static {
    /// Registry name.
    const NAME: &'static str;
    const SUMMARY: &'static str;
    /// Different symbols of an input.
    const SYMBOLS: usize;
    /// Different answers.
    const CLASSES: usize;

    /// What inputs of a length are mapped to.
    fn output(length: usize) -> Output;

    /// The longest input of at most `length` symbols.
    fn fit(length: usize) -> usize {
        length
    }

    /// Draws an input of exactly this length, one that [`fit`](Self::fit) gives.
    fn draw(rng: &mut StreamRng, length: usize) -> Vec<u32> {
        (0..length).map(|_| rng.below(Self::SYMBOLS) as u32).collect()
    }

    /// What the input is mapped to: a class, or the asked symbols.
    fn answer(input: &[u32]) -> Vec<u32>;

    /// What is reached without reading the input, for inputs of a length; `None` measures the best
    /// constant answer on the test split.
    fn chance(length: usize) -> Option<Baseline>;
}

/// The registry's line of a language.
pub(crate) const fn entry<L: Language>() -> TaskEntry {
    TaskEntry {
        name: L::NAME,
        summary: L::SUMMARY,
        options: options::list::<LanguageOptions<L>>,
        fixed_length: super::any_length,
        resolve: options::resolve::<LanguageOptions<L>>,
        build: build::<L>,
        files: &[],
    }
}

/// Lengths of training strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lengths {
    /// Drawn anew for each string from 1 to the task's length.
    Uniform,
    /// The task's length.
    Fixed,
}

/// Help of the option `lengths`.
pub(crate) const LENGTHS_HELP: &str = "`uniform`: each training string has a length drawn from 1 to \
     that of the task (Deletang et al. 2023); `fixed`: that of the task; evaluated strings always have \
     the task's";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, bound = "")]
struct LanguageOptions<L> {
    lengths: Lengths,
    eval_examples: usize,
    #[serde(skip)]
    language: PhantomData<L>,
}

impl<L> Default for LanguageOptions<L> {
    fn default() -> Self {
        Self { lengths: Lengths::Uniform, eval_examples: EVAL_EXAMPLES, language: PhantomData }
    }
}

impl<L: Language> TaskOptions for LanguageOptions<L> {
    const TASK: &'static str = L::NAME;
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "lengths", help: LENGTHS_HELP },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        super::require_eval_examples(self.eval_examples)
    }
}

fn build<L: Language>(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: LanguageOptions<L> = options::parse(request.options)?;
    require_length(request.length, 2, "symbols of the input; the answer comes after them")?;
    let length = L::fit(request.length);
    let generator = Strings::<L> { length, lengths: options.lengths, language: PhantomData };
    let mut task = Synthetic {
        description: Description {
            name: L::NAME,
            // One more token: the empty one while a string is answered.
            input: InputKind::Tokens {
                vocabulary: match L::output(length) {
                    Output::Class => L::SYMBOLS,
                    Output::String(_) => L::SYMBOLS + 1,
                },
            },
            target: TargetKind::Classes { classes: L::CLASSES },
            readout: match L::output(length) {
                Output::Class => Readout::Last,
                Output::String(_) => Readout::EveryStep,
            },
            seq_len: seq_len::<L>(length),
            metric: Metric::Accuracy,
            baselines: Vec::new(),
            solved_at: Some(SOLVED),
        },
        generator,
        seed: request.seed,
        eval_examples: options.eval_examples,
    };
    task.description.baselines =
        vec![L::chance(length).unwrap_or_else(|| best_constant(&task, L::CLASSES))];
    Ok(Box::new(task))
}

/// Steps of an input of this length with the answer after it.
fn seq_len<L: Language>(length: usize) -> usize {
    match L::output(length) {
        Output::Class => length,
        Output::String(longest) => length + longest,
    }
}

/// The best answer that is the same everywhere, on the test split.
fn best_constant(task: &dyn Task, classes: usize) -> Baseline {
    let mut counts = vec![0u64; classes];
    for batch in task.evaluation(Split::Test, 256) {
        if let Targets::Classes(targets) = &batch.targets {
            for (index, &target) in targets.iter().enumerate() {
                let asked = batch.weights.as_ref().is_none_or(|weights| weights[index] != 0.0);
                counts[target as usize] += u64::from(asked);
            }
        }
    }
    let (all, best) = (counts.iter().sum::<u64>(), counts.iter().max().copied().unwrap_or(0));
    let value = best as f64 / all.max(1) as f64;
    Baseline { name: "best constant answer".into(), value, fitted: false }
}

/// A baseline that does not read the input.
fn blind(name: &str, value: f64) -> Option<Baseline> {
    Some(Baseline { name: name.into(), value, fitted: false })
}

struct Strings<L> {
    length: usize,
    lengths: Lengths,
    language: PhantomData<L>,
}

impl<L: Language> Strings<L> {
    fn of_lengths(&self, rng: &mut StreamRng, batch_size: usize, lengths: Lengths) -> Batch {
        let examples: Vec<(Vec<u32>, Vec<u32>)> = (0..batch_size)
            .map(|_| {
                let length = match lengths {
                    Lengths::Uniform => L::fit(1 + rng.below(self.length)),
                    Lengths::Fixed => self.length,
                };
                let input = L::draw(rng, length);
                let answer = L::answer(&input);
                (input, answer)
            })
            .collect();
        let steps: Vec<usize> = examples.iter().map(|(x, _)| seq_len::<L>(x.len())).collect();
        let seq_len = steps.iter().copied().max().unwrap_or(0);
        let padded = steps.iter().any(|&steps| steps < seq_len);
        let Output::String(_) = L::output(self.length) else {
            let inputs = examples.iter().flat_map(|(input, _)| padded_to(input, seq_len, 0));
            return Batch {
                batch_size,
                seq_len,
                inputs: Inputs::Tokens(inputs.collect()),
                targets: Targets::Classes(examples.iter().flat_map(|(_, y)| y.clone()).collect()),
                weights: None,
                lengths: padded.then_some(steps),
                continues: false,
            };
        };
        let (mut inputs, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (input, answer) in &examples {
            inputs.extend(padded_to(input, seq_len, L::SYMBOLS as u32));
            let before = vec![0; input.len()];
            targets.extend(padded_to(&[before, answer.clone()].concat(), seq_len, 0));
            let asked = input.len()..input.len() + answer.len();
            weights.extend((0..seq_len).map(|step| f32::from(u8::from(asked.contains(&step)))));
        }
        Batch {
            batch_size,
            seq_len,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: Some(weights),
            lengths: padded.then_some(steps),
            continues: false,
        }
    }
}

/// The symbols, then `filler` up to a length.
fn padded_to(symbols: &[u32], length: usize, filler: u32) -> impl Iterator<Item = u32> {
    symbols.iter().copied().chain(std::iter::repeat(filler)).take(length)
}

impl<L: Language> Generator for Strings<L> {
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        self.of_lengths(rng, batch_size, Lengths::Fixed)
    }

    fn train_batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        self.of_lengths(rng, batch_size, self.lengths)
    }
}

#[cfg(test)]
mod tests;
