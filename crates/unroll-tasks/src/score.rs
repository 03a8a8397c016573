//! Metrics on the host, from batches and answers: what baselines and tests need, no model or
//! device.

use std::f64::consts::LN_2;

use crate::{Batch, Error, Metric, Readout, Result, TargetKind, Targets, Task};

/// Answers to a batch, in the order of its [`Targets`].
#[derive(Debug, Clone, PartialEq)]
pub enum Answers {
    /// Numbers, in the unit of the batch's targets.
    Values(Vec<f32>),
    /// Classes.
    Classes(Vec<u32>),
    /// Natural logarithms of probabilities: `classes` numbers for each answer, row by row.
    LogProbabilities(Vec<f32>),
}

/// How often each class was right, was answered, and would have been right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassCounts {
    /// `[right, answered, expected]` of each class.
    counts: Vec<[f64; 3]>,
}

impl ClassCounts {
    /// Takes in an answer.
    pub fn add(&mut self, answer: u32, expected: u32, weight: f64) {
        let most = answer.max(expected) as usize;
        if most >= self.counts.len() {
            self.counts.resize(most + 1, [0.0; 3]);
        }
        if answer == expected {
            self.counts[expected as usize][0] += weight;
        }
        self.counts[answer as usize][1] += weight;
        self.counts[expected as usize][2] += weight;
    }

    /// Mean over classes of F1, the harmonic mean of precision and recall: twice the right answers
    /// over all that were or should have been that class. A class that is never right counts 0, one
    /// that is neither answered nor expected does not count (scikit-learn's `f1_score` with
    /// `average="macro"`). NaN over nothing.
    pub fn macro_f1(&self) -> f64 {
        let seen = self.counts.iter().filter(|[_, answered, expected]| answered + expected > 0.0);
        let (sum, classes) =
            seen.fold((0.0, 0.0), |(sum, classes), [right, answered, expected]| {
                (sum + 2.0 * right / (answered + expected), classes + 1.0)
            });
        sum / classes
    }
}

/// Running value of a task's metric over batches; answers with weight 0 and padding do not count.
///
/// ```
/// use unroll_tasks::{Answers, Score, Split, TaskRequest, find};
/// let options = serde_json::Map::new();
/// let request = TaskRequest { length: 20, seed: 1, options: &options };
/// let task = (find("adding").expect("registered").build)(&request)?;
/// let mut score = Score::new(task.as_ref());
/// for batch in task.evaluation(Split::Test, 100) {
///     score.add(&batch, &Answers::Values(vec![1.0; batch.batch_size]))?;
/// }
/// let always_one = score.value().expect("the test split is not empty");
/// assert!((always_one - 1.0 / 6.0).abs() < 0.02);
/// # Ok::<(), unroll_tasks::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Score {
    metric: Metric,
    readout: Readout,
    target: TargetKind,
    total: f64,
    count: f64,
    classes: ClassCounts,
}

impl Score {
    /// The metric of `task`, over nothing yet.
    pub fn new(task: &dyn Task) -> Self {
        Self {
            metric: task.metric(),
            readout: task.readout(),
            target: task.target(),
            total: 0.0,
            count: 0.0,
            classes: ClassCounts::default(),
        }
    }

    /// Takes in the answers to a batch.
    ///
    /// # Errors
    /// [`Error::Option`] when the answers do not fit the targets or the metric.
    pub fn add(&mut self, batch: &Batch, answers: &Answers) -> Result<()> {
        let terms = self.terms(batch, answers)?;
        let outputs = match self.target {
            TargetKind::Values { outputs } => outputs.max(1),
            TargetKind::Classes { .. } => 1,
        };
        for (index, term) in terms.into_iter().enumerate() {
            let weight = match self.readout {
                Readout::Last => 1.0,
                Readout::EveryStep => weight(batch, index / outputs),
            };
            // Not a product alone: 0 times an infinite loss would be NaN.
            if weight != 0.0 {
                self.total += weight * term;
                self.count += weight * self.size_of(batch, index / outputs);
                if let (Metric::MacroF1, Targets::Classes(targets), Answers::Classes(answers)) =
                    (&self.metric, &batch.targets, answers)
                {
                    self.classes.add(answers[index], targets[index], weight);
                }
            }
        }
        Ok(())
    }

    /// The metric so far; `None` when nothing counted yet.
    pub fn value(&self) -> Option<f64> {
        if self.count == 0.0 {
            return None;
        }
        let mean = self.total / self.count;
        Some(match self.metric {
            Metric::RootMeanSquaredError { scale, .. } => scale * mean.sqrt(),
            Metric::MeanAbsoluteError { scale, .. } | Metric::MeanAbsoluteScaledError { scale } => {
                scale * mean
            }
            Metric::BitsPerCharacter { .. } => mean / LN_2,
            // Not of every number: the terms refuse it.
            Metric::RootMeanSquaredErrorAt { .. } | Metric::RootMeanSquaredErrorOf { .. } => {
                f64::NAN
            }
            Metric::MacroF1 => self.classes.macro_f1(),
            Metric::MeanSquaredError
            | Metric::Accuracy
            | Metric::CrossEntropy
            | Metric::OfAnswers { .. } => mean,
        })
    }

    /// What the mean is over: answers, or their characters.
    fn size_of(&self, batch: &Batch, answer: usize) -> f64 {
        match (&self.metric, &batch.targets) {
            (
                Metric::BitsPerCharacter { characters: Some(characters) },
                Targets::Classes(classes),
            ) => {
                let class = classes.get(answer).map(|&class| class as usize);
                class.and_then(|class| characters.get(class)).copied().map_or(0.0, f64::from)
            }
            _ => 1.0,
        }
    }

    /// What each number of the targets adds to the mean.
    fn terms(&self, batch: &Batch, answers: &Answers) -> Result<Vec<f64>> {
        match (&self.metric, &batch.targets, answers) {
            (
                Metric::MeanSquaredError | Metric::RootMeanSquaredError { .. },
                Targets::Values(targets),
                Answers::Values(answers),
            ) => {
                require_answers(answers.len(), targets.len())?;
                let pairs = targets.iter().zip(answers);
                Ok(pairs.map(|(&t, &a)| (f64::from(a) - f64::from(t)).powi(2)).collect())
            }
            (
                Metric::MeanAbsoluteError { .. } | Metric::MeanAbsoluteScaledError { .. },
                Targets::Values(targets),
                Answers::Values(answers),
            ) => {
                require_answers(answers.len(), targets.len())?;
                let pairs = targets.iter().zip(answers);
                Ok(pairs.map(|(&t, &a)| (f64::from(a) - f64::from(t)).abs()).collect())
            }
            (
                Metric::Accuracy | Metric::MacroF1,
                Targets::Classes(targets),
                Answers::Classes(answers),
            ) => {
                require_answers(answers.len(), targets.len())?;
                let pairs = targets.iter().zip(answers);
                Ok(pairs.map(|(t, a)| f64::from(u8::from(t == a))).collect())
            }
            (
                Metric::CrossEntropy | Metric::BitsPerCharacter { .. },
                Targets::Classes(targets),
                Answers::LogProbabilities(rows),
            ) => {
                let TargetKind::Classes { classes } = self.target else {
                    return Err(misfit("the task's targets are no classes".into()));
                };
                require_answers(rows.len(), targets.len() * classes)?;
                let loss = |(&target, row): (&u32, &[f32])| {
                    row.get(target as usize)
                        .map(|&log_probability| -f64::from(log_probability))
                        .ok_or_else(|| misfit(format!("class {target} of {classes}")))
                };
                targets.iter().zip(rows.chunks(classes.max(1))).map(loss).collect()
            }
            (metric, ..) => {
                Err(misfit(format!("they are of another kind than {} asks for", metric.name())))
            }
        }
    }
}

/// Weight of the answer at `position` of `(B, T)`.
fn weight(batch: &Batch, position: usize) -> f64 {
    if let Some(weights) = &batch.weights {
        return weights.get(position).copied().map_or(0.0, f64::from);
    }
    let (sequence, step) = (position / batch.seq_len.max(1), position % batch.seq_len.max(1));
    let real = batch.lengths.as_ref().and_then(|lengths| lengths.get(sequence));
    if real.is_none_or(|&length| step < length) { 1.0 } else { 0.0 }
}

fn require_answers(found: usize, expected: usize) -> Result<()> {
    if found != expected {
        return Err(misfit(format!("there are {found} of them for {expected} targets")));
    }
    Ok(())
}

fn misfit(message: String) -> Error {
    Error::option("answers", message)
}
