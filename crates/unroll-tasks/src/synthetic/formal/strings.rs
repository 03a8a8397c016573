//! Context-free and context-sensitive languages: a string is mapped to another.

use unroll_core::stream::StreamRng;

use super::{Language, Output, blind};
use crate::Baseline;

/// Accuracy of guessing one of two symbols, each as likely as the other at any place.
fn coin() -> Option<Baseline> {
    blind("chance", 0.5)
}

/// The string from its end to its beginning.
pub(crate) struct ReverseString;

impl Language for ReverseString {
    const NAME: &'static str = "reverse_string";
    const SUMMARY: &'static str = "reverse string: a string of bits, then the same backwards \
        (deterministic context-free; Deletang et al. 2023)";
    const SYMBOLS: usize = 2;
    const CLASSES: usize = 2;

    fn output(length: usize) -> Output {
        Output::String(length)
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        input.iter().rev().copied().collect()
    }

    fn chance(_: usize) -> Option<Baseline> {
        coin()
    }
}

/// The string twice.
pub(crate) struct DuplicateString;

impl Language for DuplicateString {
    const NAME: &'static str = "duplicate_string";
    const SUMMARY: &'static str = "duplicate string: a string of bits, then the same twice \
        (context-sensitive; Deletang et al. 2023)";
    const SYMBOLS: usize = 2;
    const CLASSES: usize = 2;

    fn output(length: usize) -> Output {
        Output::String(2 * length)
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        input.repeat(2)
    }

    fn chance(_: usize) -> Option<Baseline> {
        coin()
    }
}

/// The first, third, fifth ... symbol, then the second, fourth ...
pub(crate) struct OddsFirst;

impl Language for OddsFirst {
    const NAME: &'static str = "odds_first";
    const SUMMARY: &'static str = "odds first: a string of bits, then its symbols at odd places, then those \
        at even ones (context-sensitive; Deletang et al. 2023)";
    const SYMBOLS: usize = 2;
    const CLASSES: usize = 2;

    fn output(length: usize) -> Output {
        Output::String(length)
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        input.iter().step_by(2).chain(input.iter().skip(1).step_by(2)).copied().collect()
    }

    fn chance(_: usize) -> Option<Baseline> {
        coin()
    }
}

/// The symbols in order.
pub(crate) struct BucketSort;

impl Language for BucketSort {
    const NAME: &'static str = "bucket_sort";
    const SUMMARY: &'static str = "bucket sort: a string of 5 symbols, then the same sorted \
        (context-sensitive; Deletang et al. 2023)";
    const SYMBOLS: usize = 5;
    const CLASSES: usize = 5;

    fn output(length: usize) -> Output {
        Output::String(length)
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        let mut sorted = input.to_vec();
        sorted.sort_unstable();
        sorted
    }

    /// At each place the symbol that is there most often: far better than a fifth, without a look at
    /// the input.
    fn chance(length: usize) -> Option<Baseline> {
        let symbols = Self::SYMBOLS;
        // at_most[s][i]: probability that the symbol at place i is at most s, that is, that more than
        // i symbols are.
        let at_most: Vec<Vec<f64>> =
            (1..=symbols).map(|s| more_than(length, s as f64 / symbols as f64)).collect();
        let best = |place: usize| {
            let below = |s: usize| if s == 0 { 0.0 } else { at_most[s - 1][place] };
            (0..symbols).map(|s| at_most[s][place] - below(s)).fold(0.0, f64::max)
        };
        let value = (0..length).map(best).sum::<f64>() / length as f64;
        blind("most frequent symbol of each place", value)
    }
}

/// Probabilities that more than `i` of `count` independent events of this probability happen, for
/// `i` in `0..count`.
fn more_than(count: usize, probability: f64) -> Vec<f64> {
    if probability >= 1.0 {
        return vec![1.0; count];
    }
    let odds = (probability / (1.0 - probability)).ln();
    // Logarithm of the probability of exactly i, from each to the next.
    let mut exactly = count as f64 * (1.0 - probability).ln();
    let mut at_most = 0.0;
    let mut tails = Vec::with_capacity(count);
    for i in 0..count {
        at_most += exactly.exp();
        tails.push((1.0 - at_most).max(0.0));
        exactly += ((count - i) as f64 / (i + 1) as f64).ln() + odds;
    }
    tails
}

/// A stack of bits from bottom to top (symbols 0, 1), then what is done to it: pop (2), push 0 (3), push 1
/// (4); pop leaves an empty stack as it is. Answer: the stack from top to bottom, then 2, the end.
pub(crate) struct StackManipulation;

const POP: u32 = 2;
const PUSH: u32 = 3;
const END: u32 = 2;

impl Language for StackManipulation {
    const NAME: &'static str = "stack_manipulation";
    const SUMMARY: &'static str = "stack manipulation: a stack of bits and what is pushed and popped, then \
        the stack that is left, top first, and its end (deterministic context-free; Deletang et al. 2023)";
    const SYMBOLS: usize = 5;
    const CLASSES: usize = 3;

    fn output(length: usize) -> Output {
        Output::String(length + 1)
    }

    /// At least one symbol of stack and one action; a string of one is a stack.
    fn draw(rng: &mut StreamRng, length: usize) -> Vec<u32> {
        let stack = if length < 2 { length } else { 1 + rng.below(length - 1) };
        let symbol = |index: usize| match index < stack {
            true => rng.below(2) as u32,
            false => POP + rng.below(3) as u32,
        };
        (0..length).map(symbol).collect()
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        let mut stack = Vec::new();
        for &symbol in input {
            match symbol {
                POP => _ = stack.pop(),
                bit if bit < POP => stack.push(bit),
                push => stack.push(push - PUSH),
            }
        }
        stack.reverse();
        stack.push(END);
        stack
    }

    fn chance(_: usize) -> Option<Baseline> {
        None
    }
}
