//! The training loop.

use std::ops::ControlFlow;
use std::time::Instant;

use candle_core::DType;
use serde::{Deserialize, Serialize};
use unroll_core::weights::export;
use unroll_core::{Mode, State, Stream};
use unroll_tasks::{Batch, Split, Task};

use crate::evaluate::{evaluate_batches, reaches};
use crate::loss::mean_loss;
use crate::{Evaluation, Optimizer, Result, TaskModel, TrainConfig, global_norm};

/// One point of a learning curve.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePoint {
    /// Training steps done.
    pub step: u64,
    /// Steps of all sequences seen, padding left out.
    pub tokens: u64,
    /// Mean training loss since the point before; `None` before the first step.
    pub train_loss: Option<f64>,
    /// Metric on the validation split.
    pub validation: f64,
    /// Loss on the validation split.
    pub validation_loss: f64,
    /// Learning rate of the last step; before the first step, the one it will have.
    pub learning_rate: f64,
    /// Mean norm of the gradient before clipping since the point before; `None` before the first
    /// step.
    pub gradient_norm: Option<f64>,
    /// Seconds spent in training steps so far (clock): batches, forward, backward, optimiser, and
    /// not evaluation.
    pub seconds: f64,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// All steps were taken.
    Finished,
    /// Stopped at the threshold, as [`TrainConfig::stop_at_threshold`] asks.
    ReachedThreshold,
    /// Loss or gradient norm was NaN or infinite after this many steps; the weights are those before
    /// the step that would have followed.
    Diverged {
        /// Training steps done.
        step: u64,
    },
    /// The observer asked to stop. Can be continued.
    Interrupted,
}

/// The first evaluation that reached the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ThresholdReached {
    /// Training steps done.
    pub step: u64,
    /// Training seconds (clock).
    pub seconds: f64,
}

/// Result of a training run. The trained weights are in the model.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOutcome {
    /// How it ended.
    pub ending: Ending,
    /// Training steps done.
    pub steps: u64,
    /// Steps of all sequences seen, padding left out.
    pub tokens: u64,
    /// Training seconds, evaluation left out (clock).
    pub seconds: f64,
    /// Learning curve; the first point is before training.
    pub curve: Vec<CurvePoint>,
    /// When the threshold was reached first, if ever.
    pub threshold: Option<ThresholdReached>,
    /// Hashes of the weights on the way.
    pub trace: WeightTrace,
}

/// Hashes of the weights at equal distances of training steps. Two runs that should be the same part
/// before the first hash that differs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WeightTrace {
    /// Training steps between two hashes: each run has at most 256.
    pub every: u64,
    /// After `every`, `2 * every`, ... steps: the first 16 hexadecimal digits of BLAKE3 over all weights
    /// as a safetensors file.
    pub hashes: Vec<String>,
}

/// Where a run stands, for observers.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Training steps done.
    pub step: u64,
    /// Training steps of the whole run.
    pub steps: u64,
    /// Training loss of the last step.
    pub loss: f64,
    /// The last point of the learning curve.
    pub latest: Option<&'a CurvePoint>,
}

/// Is told of every training step and may ask to stop, for instance on Ctrl-C. Closures
/// `FnMut(&Progress) -> ControlFlow<()>` are observers.
pub trait Observer {
    /// Called after each step.
    fn step(&mut self, progress: &Progress<'_>) -> ControlFlow<()>;
}

impl<F: FnMut(&Progress<'_>) -> ControlFlow<()>> Observer for F {
    fn step(&mut self, progress: &Progress<'_>) -> ControlFlow<()> {
        self(progress)
    }
}

/// Trains a model from where it is to the run's end.
///
/// # Errors
/// When a setting is wrong or the model cannot run. Divergence and interruption are endings.
pub fn train(
    model: &TaskModel,
    task: &dyn Task,
    config: &TrainConfig,
    observer: &mut dyn Observer,
) -> Result<TrainOutcome> {
    Trainer::new(model, task, config)?.run(observer)
}

/// What a run has done so far, besides weights, optimiser state and curve.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) step: u64,
    pub(crate) tokens: u64,
    pub(crate) seconds: f64,
    /// Since the last point of the curve.
    loss_sum: f64,
    norm_sum: f64,
    steps_since_point: u64,
    pub(crate) threshold: Option<ThresholdReached>,
    pub(crate) ending: Option<Ending>,
}

/// A training run that can be checkpointed and continued.
pub struct Trainer<'a> {
    pub(crate) model: &'a TaskModel,
    pub(crate) task: &'a dyn Task,
    pub(crate) config: TrainConfig,
    pub(crate) optimizer: Optimizer,
    pub(crate) curve: Vec<CurvePoint>,
    pub(crate) done: Done,
    pub(crate) trace: WeightTrace,
    /// After the last step's batch, in tasks that carry states.
    pub(crate) carried: Option<State>,
    threshold: Option<f64>,
    validation: Vec<Batch>,
    dropout: Stream,
}

impl<'a> Trainer<'a> {
    /// A run that has not begun.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) when a setting is wrong.
    pub fn new(model: &'a TaskModel, task: &'a dyn Task, config: &TrainConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            model,
            task,
            config: config.clone(),
            optimizer: Optimizer::new(config, model.parameters())?,
            curve: Vec::new(),
            done: Done::default(),
            trace: WeightTrace { every: config.steps.div_ceil(256), hashes: Vec::new() },
            carried: None,
            threshold: config.threshold.or(task.solved_at()),
            validation: task.evaluation(Split::Validation, config.eval_batch_size),
            dropout: Stream::new(model.seed(), "train/dropout"),
        })
    }

    /// Training steps done.
    pub fn step(&self) -> u64 {
        self.done.step
    }

    /// How the run ended, if it did; an interrupted run has not.
    pub fn ending(&self) -> Option<Ending> {
        self.done.ending
    }

    /// The learning curve so far.
    pub fn curve(&self) -> &[CurvePoint] {
        &self.curve
    }

    /// Trains to the run's end, or until the observer asks to stop.
    ///
    /// # Errors
    /// When the model cannot run.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<TrainOutcome> {
        let steps = self.config.steps;
        self.run_to(steps, observer)
    }

    /// [`run`](Self::run), but no further than `limit` steps from the run's beginning; if that is
    /// before the run's end, the outcome is [`Ending::Interrupted`]. Take a checkpoint and call again.
    ///
    /// # Errors
    /// When the model cannot run.
    pub fn run_to(&mut self, limit: u64, observer: &mut dyn Observer) -> Result<TrainOutcome> {
        if self.curve.is_empty() {
            self.add_point()?;
        }
        let limit = limit.min(self.config.steps);
        while self.done.ending.is_none() && self.done.step < limit {
            let Some(loss) = self.take_step()? else { break };
            let step = self.done.step;
            if step == self.config.steps || step.is_multiple_of(self.config.eval_every) {
                self.add_point()?;
            }
            let progress =
                Progress { step, steps: self.config.steps, loss, latest: self.curve.last() };
            if observer.step(&progress).is_break() {
                break;
            }
        }
        if self.done.ending.is_none() && self.done.step == self.config.steps {
            self.done.ending = Some(Ending::Finished);
        }
        Ok(TrainOutcome {
            ending: self.done.ending.unwrap_or(Ending::Interrupted),
            steps: self.done.step,
            tokens: self.done.tokens,
            seconds: self.done.seconds,
            curve: self.curve.clone(),
            threshold: self.done.threshold,
            trace: self.trace.clone(),
        })
    }

    /// One training step; its loss, or `None` when it diverged.
    fn take_step(&mut self) -> Result<Option<f64>> {
        let start = Instant::now();
        let step = self.done.step;
        let drawn = self.task.train_batch(step, self.config.batch_size);
        let batch = self.model.tensors(&drawn)?;
        let dropout = self.dropout.at(step);
        let mode = Mode::Train(&dropout);
        let answers = if self.task.carries_state() {
            let before = self.carried.take().filter(|_| drawn.continues);
            let (answers, after) = self.model.forward_from(&batch, before.as_ref(), mode)?;
            self.carried = Some(after);
            answers
        } else {
            self.model.forward(&batch, mode)?
        };
        let loss = mean_loss(&answers, &batch)?;
        let gradients = loss.backward()?;
        let norm = global_norm(self.model.parameters(), &gradients)?;
        let loss = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !(loss.is_finite() && norm.is_finite()) {
            self.done.ending = Some(Ending::Diverged { step });
            self.done.seconds += start.elapsed().as_secs_f64();
            return Ok(None);
        }
        let learning_rate = self.config.schedule().at(step);
        self.optimizer.step(&gradients, learning_rate, self.config.clip().bounds(norm))?;
        self.done.step += 1;
        self.done.tokens += batch.tokens;
        self.done.loss_sum += loss;
        self.done.norm_sum += norm;
        self.done.steps_since_point += 1;
        // On a GPU the optimiser may still be at work; what follows is not training.
        self.model.device().synchronize()?;
        self.done.seconds += start.elapsed().as_secs_f64();
        if self.done.step.is_multiple_of(self.trace.every) {
            let weights = export(self.model.parameters())?.to_bytes()?;
            self.trace.hashes.push(blake3::hash(&weights).to_hex()[..16].to_owned());
        }
        Ok(Some(loss))
    }

    /// Evaluates, adds the point to the curve, and ends the run if that says so.
    fn add_point(&mut self) -> Result<()> {
        let Evaluation { metric, loss, .. } =
            evaluate_batches(self.model, self.task, &self.validation)?;
        let done = &mut self.done;
        let mean =
            |sum: f64| (done.steps_since_point > 0).then(|| sum / done.steps_since_point as f64);
        self.curve.push(CurvePoint {
            step: done.step,
            tokens: done.tokens,
            train_loss: mean(done.loss_sum),
            validation: metric,
            validation_loss: loss,
            learning_rate: self.config.schedule().at(done.step.saturating_sub(1)),
            gradient_norm: mean(done.norm_sum),
            seconds: done.seconds,
        });
        (done.loss_sum, done.norm_sum, done.steps_since_point) = (0.0, 0.0, 0);
        let reached =
            self.threshold.is_some_and(|limit| reaches(&self.task.metric(), metric, limit));
        if reached && done.threshold.is_none() {
            done.threshold = Some(ThresholdReached { step: done.step, seconds: done.seconds });
        }
        if !loss.is_finite() {
            done.ending = Some(Ending::Diverged { step: done.step });
        } else if reached && self.config.stop_at_threshold {
            done.ending = Some(Ending::ReachedThreshold);
        }
        Ok(())
    }
}
