//! What is summed over batches, against scikit-learn (`scripts/metric_vectors.py`).

mod common;

use candle_core::{DType, Device, Tensor};
use common::SmallTask;
use serde::Deserialize;
use unroll_tasks::Metric;
use unroll_train::{MetricTotals, TensorBatch, TensorTargets};

#[derive(Deserialize)]
struct Vectors {
    classified: Vec<Classified>,
    forecasts: Vec<Forecast>,
}

#[derive(Deserialize)]
struct Classified {
    classes: usize,
    answers: Vec<u32>,
    targets: Vec<u32>,
    accuracy: f64,
    macro_f1: f64,
}

#[derive(Deserialize)]
struct Forecast {
    season: usize,
    history: Vec<f64>,
    answers: Vec<f64>,
    targets: Vec<f64>,
    rmse: f64,
    mae: f64,
    mase: f64,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../unroll-tasks/tests/vectors/metrics.json")).unwrap()
}

/// A metric of answers `(N, O)`, taken in piece by piece.
fn measured(
    task: &SmallTask,
    metric: Metric,
    pieces: impl Iterator<Item = (Tensor, TensorTargets)>,
) -> f64 {
    let mut totals = MetricTotals::new(&SmallTask { metric, ..task.clone() }).unwrap();
    for (answers, targets) in pieces {
        let count = answers.dim(0).unwrap();
        let batch = TensorBatch {
            input: Tensor::zeros((count, 1, 1), DType::F64, &Device::Cpu).unwrap(),
            source: None,
            second: None,
            lengths: None,
            rows: None,
            targets,
            weights: vec![1.0; count],
            tokens: count as u64,
        };
        totals.add(&answers, &batch).unwrap();
    }
    totals.finish().unwrap().metric
}

const PIECE: usize = 7;

#[test]
fn accuracy_and_macro_f1_are_those_of_scikit_learn() {
    for case in vectors().classified {
        let pieces = || {
            case.answers.chunks(PIECE).zip(case.targets.chunks(PIECE)).map(|(answers, targets)| {
                let logits: Vec<f64> = answers
                    .iter()
                    .flat_map(|&answer| {
                        (0..case.classes as u32).map(move |class| f64::from(class == answer))
                    })
                    .collect();
                let logits = Tensor::from_vec(logits, (answers.len(), case.classes), &Device::Cpu);
                (logits.unwrap(), TensorTargets::Classes(targets.to_vec()))
            })
        };
        let task = SmallTask::previous(case.classes);
        for (metric, expected) in
            [(Metric::Accuracy, case.accuracy), (Metric::MacroF1, case.macro_f1)]
        {
            let found = measured(&task, metric.clone(), pieces());
            assert!((found - expected).abs() < 1e-12, "{metric:?}: {found}, not {expected}");
        }
    }
}

#[test]
fn errors_of_forecasts_are_those_of_scikit_learn() {
    for case in vectors().forecasts {
        let column =
            |values: &[f64]| Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap();
        let pieces = || {
            case.answers
                .chunks(PIECE)
                .zip(case.targets.chunks(PIECE))
                .map(|(answers, targets)| (column(answers), TensorTargets::Values(column(targets))))
        };
        let naive: Vec<f64> = case
            .history
            .iter()
            .zip(&case.history[case.season..])
            .map(|(before, now)| (now - before).abs())
            .collect();
        let naive = naive.iter().sum::<f64>() / naive.len() as f64;
        for (metric, expected) in [
            (Metric::RootMeanSquaredError { scale: 1.0, unit: "".into() }, case.rmse),
            (Metric::MeanAbsoluteError { scale: 1.0, unit: "".into() }, case.mae),
            (Metric::MeanAbsoluteScaledError { scale: 1.0 / naive }, case.mase),
        ] {
            let found = measured(&SmallTask::mean(), metric.clone(), pieces());
            assert!((found - expected).abs() < 1e-12, "{metric:?}: {found}, not {expected}");
        }
    }
}
