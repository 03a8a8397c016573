//! Cutting labelled examples into training, validation and test.

use unroll_core::Stream;

use crate::Split;

/// Which examples belong to which split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splits {
    pub(crate) train: Vec<usize>,
    pub(crate) validation: Vec<usize>,
    pub(crate) test: Vec<usize>,
    /// A fixed sample of the training split, as large as the validation split where it can be.
    train_sample: Vec<usize>,
}

impl Splits {
    /// The splits, with a sample of the training split drawn from `stream`.
    pub(crate) fn new(
        train: Vec<usize>,
        validation: Vec<usize>,
        test: Vec<usize>,
        stream: &Stream,
    ) -> Self {
        let mut rng = stream.child("train_sample").rng();
        let mut drawn = rng.distinct(validation.len(), train.len());
        drawn.sort_unstable();
        let train_sample = drawn.into_iter().map(|index| train[index]).collect();
        Self { train, validation, test, train_sample }
    }

    /// What an evaluation of the split looks at.
    pub(crate) fn evaluated(&self, split: Split) -> &[usize] {
        match split {
            Split::Train => &self.train_sample,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }
}

/// Cuts the examples of each class alike: `shares[i]` of them, rounded, go to part `i`; what is
/// left comes second. The order within a part knows no classes.
///
/// The examples of class `c` are shuffled by the stream at step `c`, the parts by its children.
pub(crate) fn stratified<const PARTS: usize>(
    labels: &[u32],
    shares: [f64; PARTS],
    stream: &Stream,
) -> ([Vec<usize>; PARTS], Vec<usize>) {
    let mut parts = [const { Vec::new() }; PARTS];
    let mut left = Vec::new();
    let classes = labels.iter().max().map_or(0, |&largest| largest + 1);
    for class in 0..classes {
        let mut examples: Vec<usize> =
            (0..labels.len()).filter(|&index| labels[index] == class).collect();
        stream.at(u64::from(class)).rng().shuffle(&mut examples);
        let total = examples.len() as f64;
        let mut rest = examples.as_slice();
        for (part, share) in parts.iter_mut().zip(shares) {
            let (taken, after) = rest.split_at(((share * total).round() as usize).min(rest.len()));
            part.extend_from_slice(taken);
            rest = after;
        }
        left.extend_from_slice(rest);
    }
    let order = stream.child("order");
    for (index, part) in parts.iter_mut().chain([&mut left]).enumerate() {
        order.at(index as u64).rng().shuffle(part);
    }
    (parts, left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_stratified(
            labels in prop::collection::vec(0u32..5, 0..200), seed: u64,
        ) {
            let (parts, rest) = stratified(&labels, [0.2, 0.2], &Stream::new(seed, "test"));
            let mut all = [parts.concat(), rest].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..5 {
                let count = |examples: &[usize]| {
                    examples.iter().filter(|&&index| labels[index] == class).count()
                };
                let total = labels.iter().filter(|&&label| label == class).count() as f64;
                for part in &parts {
                    prop_assert!((count(part) as f64 - 0.2 * total).abs() <= 0.5);
                }
            }
        }
    }

    #[test]
    fn the_training_sample_lies_in_the_training_split() {
        let splits = Splits::new(
            (10..50).collect(),
            (50..60).collect(),
            (60..70).collect(),
            &Stream::new(0, "test"),
        );
        let sample = splits.evaluated(Split::Train);
        assert_eq!(sample.len(), 10);
        assert!(sample.iter().all(|index| splits.train.contains(index)));
        assert_eq!(splits.evaluated(Split::Test), (60..70).collect::<Vec<_>>());
    }
}
