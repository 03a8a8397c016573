//! Multinomial naive Bayes (McCallum & Nigam 1998).

/// What a class gives each word and itself, as logarithms.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NaiveBayes {
    words: usize,
    /// `(K,)` natural logarithms of the shares of the classes.
    priors: Vec<f64>,
    /// `(K, V)` natural logarithms of the words' probabilities, row by row.
    likelihoods: Vec<f64>,
}

impl NaiveBayes {
    /// Counts the words (each below `words`) of classified texts; every word is taken to have been seen
    /// `smoothing` times more in each class (1: Laplace's rule).
    pub(crate) fn fit<'a>(
        texts: impl IntoIterator<Item = (&'a [u32], u32)>,
        words: usize,
        classes: usize,
        smoothing: f64,
    ) -> Self {
        let mut counts = vec![smoothing; classes * words];
        let mut texts_of = vec![0.0; classes];
        for (text, class) in texts {
            texts_of[class as usize] += 1.0;
            for &word in text {
                counts[class as usize * words + word as usize] += 1.0;
            }
        }
        let all: f64 = texts_of.iter().sum();
        let priors = texts_of.iter().map(|count: &f64| (count / all).ln()).collect();
        let likelihoods = counts
            .chunks(words.max(1))
            .flat_map(|row| {
                let sum: f64 = row.iter().sum();
                row.iter().map(move |count| (count / sum).ln())
            })
            .collect();
        Self { words, priors, likelihoods }
    }

    /// Logarithm of class and text together, for each class.
    pub(crate) fn joint(&self, text: &[u32]) -> Vec<f64> {
        let rows = self.likelihoods.chunks(self.words.max(1));
        let joint = |(row, prior): (&[f64], &f64)| {
            prior + text.iter().map(|&word| row[word as usize]).sum::<f64>()
        };
        rows.zip(&self.priors).map(joint).collect()
    }

    /// The likeliest class; of equally likely ones the first.
    pub(crate) fn answer(&self, text: &[u32]) -> u32 {
        let joint = self.joint(text);
        let mut best = 0;
        for (class, &value) in joint.iter().enumerate() {
            if value > joint[best] {
                best = class;
            }
        }
        best as u32
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Manning, Raghavan & Schütze (2008), Introduction to Information Retrieval, example 13.1: Chinese
    /// Beijing Chinese; Chinese Chinese Shanghai; Chinese Macao | Tokyo Japan Chinese.
    #[test]
    fn the_textbook_example_is_met() {
        let texts: [(&[u32], u32); 4] =
            [(&[0, 1, 0], 0), (&[0, 0, 2], 0), (&[0, 3], 0), (&[4, 5, 0], 1)];
        let fitted = NaiveBayes::fit(texts, 6, 2, 1.0);
        // Chinese Chinese Chinese Tokyo Japan.
        let text = [0, 0, 0, 4, 5];
        let joint = fitted.joint(&text);
        let china = (3.0 / 4.0) * (3.0f64 / 7.0).powi(3) * (1.0 / 14.0) * (1.0 / 14.0);
        let not = (1.0 / 4.0) * (2.0f64 / 9.0).powi(3) * (2.0 / 9.0) * (2.0 / 9.0);
        assert!((joint[0] - china.ln()).abs() < 1e-12 && (joint[1] - not.ln()).abs() < 1e-12);
        assert_eq!(fitted.answer(&text), 0);
        assert_eq!(fitted.answer(&[4, 5]), 1);
        // Without words the frequent class.
        assert_eq!(fitted.answer(&[]), 0);
    }

    #[test]
    fn a_class_that_was_never_seen_is_never_answered() {
        let texts: [(&[u32], u32); 1] = [(&[0], 1)];
        let fitted = NaiveBayes::fit(texts, 2, 3, 1.0);
        assert_eq!((fitted.answer(&[1, 1]), fitted.joint(&[0])[0]), (1, f64::NEG_INFINITY));
    }

    #[derive(Deserialize)]
    struct Vectors {
        naive_bayes: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        words: usize,
        classes: usize,
        smoothing: f64,
        train: Vec<Vec<u32>>,
        labels: Vec<u32>,
        test: Vec<Vec<u32>>,
        joint: Vec<Vec<f64>>,
        answers: Vec<u32>,
    }

    /// scikit-learn's `MultinomialNB` (`scripts/metric_vectors.py`).
    #[test]
    fn made_up_texts_are_classified_as_by_scikit_learn() {
        let vectors: Vectors =
            serde_json::from_str(include_str!("../../tests/vectors/metrics.json")).unwrap();
        assert!(!vectors.naive_bayes.is_empty());
        for case in vectors.naive_bayes {
            let texts = case.train.iter().map(Vec::as_slice).zip(case.labels.iter().copied());
            let fitted = NaiveBayes::fit(texts, case.words, case.classes, case.smoothing);
            for ((text, joint), answer) in case.test.iter().zip(&case.joint).zip(&case.answers) {
                for (found, expected) in fitted.joint(text).iter().zip(joint) {
                    assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0));
                }
                assert_eq!(fitted.answer(text), *answer);
            }
        }
    }
}
