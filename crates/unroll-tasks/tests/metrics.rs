//! Metrics against sacreBLEU and jiwer (`scripts/metric_vectors.py`).

use serde::Deserialize;
use unroll_tasks::edit_distance;
use unroll_tasks::pairs::bleu;

#[derive(Deserialize)]
struct Vectors {
    tokens: Vec<Tokens>,
    corpora: Vec<Corpus>,
    distances: Vec<Distance>,
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
