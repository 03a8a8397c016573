//! Metrics over a split.

use std::f64::consts::LN_2;

use candle_core::{D, DType, Tensor};
use unroll_core::Mode;
use unroll_tasks::{
    AnswerScore, Batch, Better, ClassCounts, Inputs, Metric, OtherMetric, Search, Split,
    TargetKind, Task,
};

use crate::batch::{TensorBatch, TensorTargets};
use crate::decode::decode;
use crate::loss::answer_losses;
use crate::{Error, Result, TaskModel};

/// What a model reaches on a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The task's metric.
    pub metric: f64,
    /// Mean loss: squared units of the normalised target, or nats.
    pub loss: f64,
    /// Other metrics of the task, if it has any.
    pub others: Vec<OtherMetric>,
}

/// Sums of losses, errors and right answers over batches. Answers are added one by one in order, in f64:
/// the sums do not depend on how a split is cut into batches.
#[derive(Debug, Clone)]
pub struct MetricTotals {
    metric: Metric,
    others: Vec<Metric>,
    loss: f64,
    right: f64,
    absolute: f64,
    characters: f64,
    /// Squared errors of each sequence's last number, and how many.
    last: [f64; 2],
    /// Squared errors of each number of an answer.
    outputs: Vec<f64>,
    classes: ClassCounts,
    weight: f64,
}

impl MetricTotals {
    /// The metric of `task`, over nothing yet.
    ///
    /// # Errors
    /// [`Error::Batch`] when the metric does not fit the kind of the task's answers.
    pub fn new(task: &dyn Task) -> Result<Self> {
        let (metric, others) = (task.metric(), task.other_metrics());
        let fits = |metric: &Metric| match task.target() {
            TargetKind::Values { .. } => {
                matches!(metric, Metric::MeanSquaredError | Metric::RootMeanSquaredError { .. })
                    || is_absolute(metric)
                    || is_of_last(metric)
                    || matches!((metric, task.target()), (
                        Metric::RootMeanSquaredErrorOf { output, .. },
                        TargetKind::Values { outputs },
                    ) if *output < outputs)
            }
            TargetKind::Classes { .. } => {
                is_of_classes(metric)
                    || matches!(metric, Metric::CrossEntropy | Metric::BitsPerCharacter { .. })
                    || matches!(metric, Metric::OfAnswers { .. } if task.answers().is_some())
            }
        };
        if let Some(metric) = [&metric].into_iter().chain(&others).find(|metric| !fits(metric)) {
            return Err(Error::Batch {
                task: task.name().to_owned(),
                message: format!("{} is no metric of {:?}", metric.name(), task.target()),
            });
        }
        let (loss, right, absolute, characters, weight) = (0.0, 0.0, 0.0, 0.0, 0.0);
        let (classes, last) = (ClassCounts::default(), [0.0; 2]);
        let outputs = match task.target() {
            TargetKind::Values { outputs } => vec![0.0; outputs],
            TargetKind::Classes { .. } => Vec::new(),
        };
        Ok(Self {
            metric,
            others,
            loss,
            right,
            absolute,
            characters,
            last,
            outputs,
            classes,
            weight,
        })
    }

    /// Takes in the answers `(N, O)` to a batch.
    pub fn add(&mut self, answers: &Tensor, batch: &TensorBatch) -> Result<()> {
        let losses: Vec<f64> =
            answer_losses(answers, &batch.targets)?.to_dtype(DType::F64)?.to_vec1()?;
        let right: Vec<bool> = match &batch.targets {
            TensorTargets::Classes(classes) if self.wants(is_of_classes) => {
                let chosen: Vec<u32> = answers.argmax(D::Minus1)?.to_vec1()?;
                for ((&chosen, &right), &weight) in chosen.iter().zip(classes).zip(&batch.weights) {
                    self.classes.add(chosen, right, weight);
                }
                chosen.iter().zip(classes).map(|(chosen, right)| chosen == right).collect()
            }
            _ => vec![false; losses.len()],
        };
        if let (TensorTargets::Values(values), true) = (&batch.targets, self.wants(is_absolute)) {
            let errors = (answers - values)?.abs()?.mean(D::Minus1)?.to_dtype(DType::F64)?;
            for (error, weight) in errors.to_vec1::<f64>()?.into_iter().zip(&batch.weights) {
                self.absolute += weight * error;
            }
        }
        if let (TensorTargets::Values(values), true) = (&batch.targets, self.wants(is_of_last)) {
            let squares: Vec<f64> =
                (answers - values)?.sqr()?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
            let each = squares.len() / batch.input.dim(0)?.max(1);
            for last in squares.chunks_exact(each.max(1)).filter_map(<[f64]>::last) {
                self.last[0] += last;
                self.last[1] += 1.0;
            }
        }
        if let (TensorTargets::Values(values), true) = (&batch.targets, self.wants(is_of_output)) {
            let squares = (answers - values)?.sqr()?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            for (row, weight) in squares.iter().zip(&batch.weights) {
                for (sum, square) in self.outputs.iter_mut().zip(row) {
                    *sum += weight * square;
                }
            }
        }
        if let (
            Metric::BitsPerCharacter { characters: Some(of) },
            TensorTargets::Classes(classes),
        ) = (&self.metric, &batch.targets)
        {
            for (&class, weight) in classes.iter().zip(&batch.weights) {
                let count = of.get(class as usize).copied().unwrap_or(0);
                self.characters += weight * f64::from(count);
            }
        }
        for ((loss, right), weight) in losses.into_iter().zip(right).zip(&batch.weights) {
            self.loss += weight * loss;
            self.right += if right { *weight } else { 0.0 };
            self.weight += weight;
        }
        Ok(())
    }

    /// Whether any metric is such a one.
    fn wants(&self, such: impl Fn(&Metric) -> bool) -> bool {
        [&self.metric].into_iter().chain(&self.others).any(such)
    }

    /// Metric and loss so far; `None` when nothing was answered yet.
    pub fn finish(&self) -> Option<Evaluation> {
        if self.weight == 0.0 {
            return None;
        }
        let loss = self.loss / self.weight;
        let others = self
            .others
            .iter()
            .map(|other| OtherMetric { name: other.name(), value: self.value_of(other, loss) });
        let metric = self.value_of(&self.metric, loss);
        Some(Evaluation { metric, loss, others: others.collect() })
    }

    fn value_of(&self, metric: &Metric, loss: f64) -> f64 {
        match metric {
            Metric::MeanSquaredError | Metric::CrossEntropy => loss,
            Metric::RootMeanSquaredError { scale, .. } => scale * loss.sqrt(),
            Metric::RootMeanSquaredErrorAt { scale, .. } => {
                scale * (self.last[0] / self.last[1]).sqrt()
            }
            Metric::RootMeanSquaredErrorOf { output, scale, .. } => {
                let sum = self.outputs.get(*output).copied().unwrap_or(f64::NAN);
                scale * (sum / self.weight).sqrt()
            }
            Metric::MeanAbsoluteError { scale, .. } | Metric::MeanAbsoluteScaledError { scale } => {
                scale * self.absolute / self.weight
            }
            Metric::BitsPerCharacter { characters: None } => loss / LN_2,
            Metric::BitsPerCharacter { characters: Some(_) } => {
                loss * self.weight / self.characters / LN_2
            }
            Metric::Accuracy => self.right / self.weight,
            Metric::MacroF1 => self.classes.macro_f1(),
            // Known by whoever looked for the answers.
            Metric::OfAnswers { .. } => f64::NAN,
        }
    }
}

/// Whether a metric is made of the classes that were chosen.
fn is_of_classes(metric: &Metric) -> bool {
    matches!(metric, Metric::Accuracy | Metric::MacroF1)
}

/// Whether a metric is made of absolute errors, which the loss does not tell.
fn is_absolute(metric: &Metric) -> bool {
    matches!(metric, Metric::MeanAbsoluteError { .. } | Metric::MeanAbsoluteScaledError { .. })
}

/// Whether a metric is of the last number of each sequence.
fn is_of_last(metric: &Metric) -> bool {
    matches!(metric, Metric::RootMeanSquaredErrorAt { .. })
}

/// Whether a metric is of one of several numbers.
fn is_of_output(metric: &Metric) -> bool {
    matches!(metric, Metric::RootMeanSquaredErrorOf { .. })
}

/// Metric and loss of a model on a split, without dropout. For another length than the trained one
/// give the task at that length.
///
/// # Errors
/// When a batch does not fit the model, or the split has no answers.
pub fn evaluate(
    model: &TaskModel,
    task: &dyn Task,
    split: Split,
    batch_size: usize,
) -> Result<Evaluation> {
    let search = match (split, task.answers()) {
        (Split::Test, Some(score)) => score.search(),
        _ => Search::GREEDY,
    };
    evaluate_with(model, task, &task.evaluation(split, batch_size), search)
}

/// [`evaluate`] over batches that are already there; answers that are sequences are written greedily.
pub fn evaluate_batches(
    model: &TaskModel,
    task: &dyn Task,
    batches: &[Batch],
) -> Result<Evaluation> {
    evaluate_with(model, task, batches, Search::GREEDY)
}

fn evaluate_with(
    model: &TaskModel,
    task: &dyn Task,
    batches: &[Batch],
    search: Search,
) -> Result<Evaluation> {
    let model = model.for_inference();
    let mut totals = MetricTotals::new(task)?;
    let score = task.answers();
    let mut sums = vec![0.0; score.map_or(0, AnswerScore::sums)];
    let mut state = None;
    for batch in batches {
        let tensors = model.tensors(batch)?;
        let answers = if let Some(own) = task.own_answers() {
            model.forward_on_own(&tensors, own)?
        } else if task.carries_state() {
            let before = state.filter(|_| batch.continues);
            let (answers, after) = model.forward_from(&tensors, before.as_ref(), Mode::Eval)?;
            state = Some(after);
            answers
        } else {
            model.forward(&tensors, Mode::Eval)?
        };
        totals.add(&answers, &tensors)?;
        if let (Some(score), Inputs::Pairs(pairs)) = (score, &batch.inputs) {
            let written = decode(model, &tensors, search, score.longest())?;
            for (&example, answer) in pairs.examples.iter().zip(&written) {
                score.count(example, &answer.symbols, &mut sums)?;
            }
        }
    }
    let found = totals.finish().ok_or_else(|| Error::Batch {
        task: task.name().to_owned(),
        message: "the split has no answers".into(),
    })?;
    Ok(match score {
        Some(score) => {
            Evaluation { metric: score.metric(&sums), others: score.others(&sums), ..found }
        }
        None => found,
    })
}

/// Whether a metric is at a threshold or beyond it, on its good side. NaN never is.
pub fn reaches(metric: &Metric, value: f64, threshold: f64) -> bool {
    match metric.better() {
        Better::Lower => value <= threshold,
        Better::Higher => value >= threshold,
    }
}
