//! Baselines that are measured on the data.

pub(crate) mod compressor;
pub(crate) mod dtw;
pub(crate) mod naive_bayes;
pub(crate) mod ngram;
pub(crate) mod ridge;
pub(crate) mod series;

use crate::Baseline;

/// Always answering the class that is most frequent in `train`: its accuracy on `test`.
pub(crate) fn most_frequent_class(labels: &[u32], train: &[usize], test: &[usize]) -> Baseline {
    let count = |examples: &[usize], class: u32| {
        examples.iter().filter(|&&index| labels[index] == class).count()
    };
    let classes = labels.iter().max().map_or(0, |&largest| largest + 1);
    // Of equally frequent classes the first.
    let answer = (0..classes).rev().max_by_key(|&class| count(train, class)).unwrap_or(0);
    let value = count(test, answer) as f64 / test.len() as f64;
    Baseline { name: "most frequent class".into(), value, fitted: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_class_is_that_of_the_training_split() {
        let labels = [0, 1, 1, 2, 2, 2, 1, 2];
        let baseline = most_frequent_class(&labels, &[0, 1, 2, 3], &[4, 5, 6, 7]);
        assert_eq!(baseline.value, 0.25);
        let tie = most_frequent_class(&labels, &[1, 3], &[4, 5, 6, 7]);
        assert_eq!(tie.value, 0.25, "class 1 comes before class 2");
    }
}
