//! Metrics against sacreBLEU, jiwer and scikit-learn (`scripts/metric_vectors.py`).

use serde::Deserialize;
use unroll_tasks::pairs::bleu;
use unroll_tasks::{ClassCounts, edit_distance};

#[derive(Deserialize)]
struct Vectors {
    tokens: Vec<Tokens>,
    corpora: Vec<Corpus>,
    distances: Vec<Distance>,
    classified: Vec<Classified>,
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    tokens: Vec<String>,
}

#[derive(Deserialize)]
struct Corpus {
    hypotheses: Vec<String>,
    references: Vec<String>,
    bleu: f64,
    chrf: f64,
}

#[derive(Deserialize)]
struct Distance {
    hypothesis: Vec<String>,
    reference: Vec<String>,
    errors: usize,
}

#[derive(Deserialize)]
struct Classified {
    answers: Vec<u32>,
    targets: Vec<u32>,
    macro_f1: f64,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("vectors/metrics.json")).unwrap()
}

#[test]
fn tokens_are_those_of_sacrebleu() {
    for case in vectors().tokens {
        assert_eq!(bleu::tokens_13a(&case.text), case.tokens, "{}", case.text);
    }
}

#[test]
fn bleu_and_chrf_are_those_of_sacrebleu() {
    for case in vectors().corpora {
        let mut sums = [0.0; bleu::SUMS];
        for (hypothesis, reference) in case.hypotheses.iter().zip(&case.references) {
            let counts = bleu::count(hypothesis, reference);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let (bleu, chrf) = (bleu::bleu(&sums), bleu::chrf(&sums));
        assert!((bleu - case.bleu).abs() < 1e-9, "{bleu} {} {:?}", case.bleu, case.hypotheses);
        assert!((chrf - case.chrf).abs() < 1e-9, "{chrf} {} {:?}", case.chrf, case.hypotheses);
    }
}

#[test]
fn distances_are_those_of_jiwer() {
    for case in vectors().distances {
        assert_eq!(edit_distance(&case.hypothesis, &case.reference), case.errors);
    }
}

#[test]
fn macro_f1_is_that_of_scikit_learn() {
    for case in vectors().classified {
        let mut counts = ClassCounts::default();
        for (&answer, &target) in case.answers.iter().zip(&case.targets) {
            counts.add(answer, target, 1.0);
        }
        let found = counts.macro_f1();
        assert!((found - case.macro_f1).abs() < 1e-12, "{found} {}", case.macro_f1);
    }
    assert!(ClassCounts::default().macro_f1().is_nan());
}
