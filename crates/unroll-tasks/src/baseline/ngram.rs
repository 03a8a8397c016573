//! Interpolated n-grams (Witten & Bell 1991): what the last few symbols say about the next.

use std::collections::HashMap;
use std::hash::Hash;

/// Largest vocabulary: a context of [`LONGEST_CONTEXT`] symbols, and the one after it, is one number.
pub(crate) const LARGEST_VOCABULARY: usize = 1 << 16;
const LONGEST_CONTEXT: usize = 7;

/// A context as one number.
trait Key: Copy + Default + Eq + Hash {
    /// Symbols that there may be.
    const VOCABULARY: usize;

    /// The context with a symbol after it.
    fn extended(self, symbol: u32) -> Self;
}

/// Small, and so faster, for texts of an alphabet.
impl Key for u64 {
    const VOCABULARY: usize = 1 << 8;

    fn extended(self, symbol: u32) -> Self {
        self << 8 | Self::from(symbol)
    }
}

impl Key for u128 {
    const VOCABULARY: usize = LARGEST_VOCABULARY;

    fn extended(self, symbol: u32) -> Self {
        self << 16 | Self::from(symbol)
    }
}

/// What followed a context in the training text.
#[derive(Debug, Clone, Copy, Default)]
struct Followers {
    /// Symbols.
    total: u32,
    /// Different symbols.
    kinds: u32,
}

/// Counts of one order.
#[derive(Default)]
struct Counts<K> {
    followers: HashMap<K, Followers>,
    /// Of a context with the symbol after it.
    continued: HashMap<K, u32>,
}

/// Mean bits per symbol of `test` for n-grams of the orders `1..=orders`, counted in `train`; order 1 sees
/// no context. Each order mixes its frequencies with the order below, by as much as its context was
/// followed by different symbols; below order 1, all symbols are alike. The contexts of `test` begin
/// with it. `None` for an empty `test`, and for sizes beyond what a context can hold.
pub(crate) fn bits_per_symbol(
    train: &[u32],
    test: &[u32],
    vocabulary: usize,
    orders: usize,
) -> Option<Vec<f64>> {
    if test.is_empty() || vocabulary > LARGEST_VOCABULARY || orders > LONGEST_CONTEXT + 1 {
        return None;
    }
    let bits = if vocabulary <= u64::VOCABULARY { bits::<u64> } else { bits::<u128> };
    Some(bits(train, test, vocabulary, orders))
}

fn bits<K: Key>(train: &[u32], test: &[u32], vocabulary: usize, orders: usize) -> Vec<f64> {
    let counts: Vec<Counts<K>> = (0..orders).map(|context| count(train, context)).collect();
    let mut bits = vec![0.0; orders];
    for at in 0..test.len() {
        let mut probability = 1.0 / vocabulary as f64;
        for (context, (counts, bits)) in counts.iter().zip(&mut bits).enumerate() {
            if let Some(key) = context_key::<K>(test, at, context)
                && let Some(followers) = counts.followers.get(&key)
            {
                let seen = counts.continued.get(&key.extended(test[at])).copied().unwrap_or(0);
                let kinds = f64::from(followers.kinds);
                probability =
                    (f64::from(seen) + kinds * probability) / (f64::from(followers.total) + kinds);
            }
            *bits -= probability.log2();
        }
    }
    bits.iter_mut().for_each(|bits| *bits /= test.len() as f64);
    bits
}

fn count<K: Key>(train: &[u32], context: usize) -> Counts<K> {
    let mut counts = Counts::default();
    for at in context..train.len() {
        let Some(key) = context_key::<K>(train, at, context) else { continue };
        let seen = counts.continued.entry(key.extended(train[at])).or_insert(0);
        *seen += 1;
        let followers = counts.followers.entry(key).or_default();
        followers.total += 1;
        followers.kinds += u32::from(*seen == 1);
    }
    counts
}

/// The `context` symbols before a position as one number; `None` where there are fewer.
fn context_key<K: Key>(text: &[u32], at: usize, context: usize) -> Option<K> {
    let symbols = &text[at.checked_sub(context)?..at];
    Some(symbols.iter().fold(K::default(), |key, &symbol| key.extended(symbol)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts by hand: `0 1 0 0`, then `0 1`.
    #[test]
    fn a_small_text_by_hand() {
        let found = bits_per_symbol(&[0, 1, 0, 0], &[0, 1], 2, 2).unwrap();
        // Order 1: 0 came 3 times of 4, both kinds came: (3 + 2 / 2) / 6 and (1 + 2 / 2) / 6.
        let (zero, one): (f64, f64) = (4.0 / 6.0, 2.0 / 6.0);
        assert!((found[0] + (zero.log2() + one.log2()) / 2.0).abs() < 1e-12);
        // Order 2: the first symbol has no context; after 0 came 1 and 0, once each.
        let after = (1.0 + 2.0 * one) / 4.0;
        assert!((found[1] + (zero.log2() + after.log2()) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn what_was_never_seen_is_uniform() {
        assert_eq!(bits_per_symbol(&[], &[3, 1, 2], 4, 3).unwrap(), [2.0; 3]);
        assert_eq!(bits_per_symbol(&[1], &[], 4, 3), None);
        assert_eq!(bits_per_symbol(&[1], &[1], 4, 9), None);
    }

    /// In a large vocabulary, as Chinese has it, no two contexts are one.
    #[test]
    fn numbers_of_symbols_change_nothing() {
        let train: Vec<u32> = (0..400).map(|at| at * at % 7).collect();
        let test: Vec<u32> = (0..60).map(|at| at * at * at % 7).collect();
        let large = |text: &[u32]| -> Vec<u32> { text.iter().map(|s| 65_535 - 255 * s).collect() };
        let vocabulary = LARGEST_VOCABULARY;
        let found = bits_per_symbol(&large(&train), &large(&test), vocabulary, 8);
        assert_eq!(found, bits_per_symbol(&train, &test, vocabulary, 8));
        assert_eq!(bits::<u64>(&train, &test, 256, 8), bits::<u128>(&train, &test, 256, 8));
        assert_eq!(bits_per_symbol(&train, &test, vocabulary + 1, 8), None);
    }

    proptest! {
        /// Probabilities of all next symbols sum to 1 at every order.
        #[test]
        fn probabilities_sum_to_one(
            train in prop::collection::vec(0u32..4, 0..60),
            before in prop::collection::vec(0u32..4, 0..6),
        ) {
            let total = |text: &[u32], order: usize| {
                bits_per_symbol(&train, text, 4, 5).map_or(0.0, |b| b[order] * text.len() as f64)
            };
            for order in 0..5 {
                let sum: f64 = (0..4)
                    .map(|next| {
                        let text = [before.clone(), vec![next]].concat();
                        (total(&before, order) - total(&text, order)).exp2()
                    })
                    .sum();
                prop_assert!((sum - 1.0).abs() < 1e-9, "order {}: {}", order + 1, sum);
            }
        }
    }
}
