//! Tasks whose answer is a sequence: how it is searched for, and how the one that was found is scored.

use crate::{Error, Result};

/// Beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Hypotheses kept at each step; 1 is greedy.
    pub beam: usize,
    /// `alpha` of Wu et al. (2016, equation 14, without coverage): finished hypotheses are ranked by
    /// `ln P / ((5 + length) / 6)^alpha`. 0 ranks by probability alone.
    pub length_penalty: f64,
}

impl Search {
    /// The likeliest symbol at each step.
    pub const GREEDY: Self = Self { beam: 1, length_penalty: 0.0 };

    /// What a hypothesis of `length` symbols, its end included, is ranked by.
    pub fn rank(&self, ln_probability: f64, length: usize) -> f64 {
        ln_probability / ((5.0 + length as f64) / 6.0).powf(self.length_penalty)
    }
}

/// A metric beside the task's own.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherMetric {
    /// Name, with unit (`WER`, `BLEU, source of 1 to 5 words`).
    pub name: String,
    /// Value over the split.
    pub value: f64,
}

/// How the answers of a task are scored: each adds to sums, from which metrics over a split follow.
pub trait AnswerScore: Send + Sync {
    /// Symbols of the longest answer that is waited for.
    fn longest(&self) -> usize;

    /// How answers on the test split are searched for; those on the validation split are greedy.
    fn search(&self) -> Search;

    /// How many sums there are.
    fn sums(&self) -> usize;

    /// Adds what an answer (without its end) to the example of that number contributes.
    ///
    /// # Errors
    /// When there is no such example, or a symbol is none of the task's.
    fn count(&self, example: usize, answer: &[u32], sums: &mut [f64]) -> Result<()>;

    /// The task's metric.
    fn metric(&self, sums: &[f64]) -> f64;

    /// A symbol of the source in writing.
    fn source_symbol(&self, symbol: u32) -> String;

    /// A symbol of an answer in writing.
    fn answer_symbol(&self, symbol: u32) -> String;

    /// Other metrics.
    fn others(&self, sums: &[f64]) -> Vec<OtherMetric>;
}

/// The error for an example that is not there.
pub(crate) fn no_example(example: usize, count: usize) -> Error {
    Error::option("answers", format!("there is no example {example}; there are {count}"))
}

/// Fewest insertions, deletions and substitutions that turn one sequence into the other (Levenshtein
/// 1966).
///
/// ```
/// assert_eq!(unroll_tasks::edit_distance(b"kitten", b"sitting"), 3);
/// ```
pub fn edit_distance<T: PartialEq>(from: &[T], to: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (done, one) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], done + 1);
        for (column, other) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(one != other);
            diagonal = row[column + 1];
            row[column + 1] = substituted.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Adds values to sums, one by one.
pub(crate) fn add(sums: &mut [f64], values: impl IntoIterator<Item = f64>) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: the cheapest of the three last operations.
    fn by_recursion(a: &[u8], b: &[u8]) -> usize {
        match (a.split_last(), b.split_last()) {
            (None, _) => b.len(),
            (_, None) => a.len(),
            (Some((x, rest_a)), Some((y, rest_b))) => {
                let replaced = by_recursion(rest_a, rest_b) + usize::from(x != y);
                replaced.min(by_recursion(rest_a, b) + 1).min(by_recursion(a, rest_b) + 1)
            }
        }
    }

    proptest! {
        #[test]
        fn edit_distance_is_the_definition(
            a in prop::collection::vec(0u8..3, 0..7), b in prop::collection::vec(0u8..3, 0..7),
        ) {
            prop_assert_eq!(edit_distance(&a, &b), by_recursion(&a, &b));
        }
    }

    #[test]
    fn long_hypotheses_are_forgiven_their_length() {
        let search = Search { beam: 4, length_penalty: 0.6 };
        // ((5 + 1) / 6)^0.6 = 1.
        assert_eq!(search.rank(-2.0, 1), -2.0);
        assert!((search.rank(-2.0, 13) - -2.0 / 3f64.powf(0.6)).abs() < 1e-15);
        assert_eq!(Search::GREEDY.rank(-2.0, 13), -2.0);
    }
}
