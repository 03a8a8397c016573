//! One trial, from its specification to its record.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device};
use unroll_core::{Architecture, BuildContext, Stream};
use unroll_results::TrialRecord;
use unroll_results::record::{
    self, BaselineValue, Better, CurvePoint, LengthEvaluation, ModelCost, Quality, Status, Timing,
    TrialKind,
};
use unroll_tasks::{Split, Task, TaskRequest};
use unroll_train::{Ending, TaskModel};

use crate::experiment::{Trial, TrialSpec};
use crate::measure;
use crate::progress::Progress;

/// What goes wrong within a trial; it becomes the record's message.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A name of the specification is not in a registry.
    #[error("there is no {kind} called `{name}`")]
    Unknown {
        /// `architecture` or `task`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The task.
    #[error(transparent)]
    Task(#[from] unroll_tasks::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] unroll_core::Error),
    /// Training.
    #[error(transparent)]
    Train(#[from] unroll_train::Error),
    /// A measurement.
    #[error(transparent)]
    Probe(#[from] unroll_probe::Error),
}

type Result<T, E = TrialError> = std::result::Result<T, E>;

/// Runs a trial. `None` when it was interrupted; a trial that fails gives a record that says why.
pub fn run(
    trial: &Trial,
    device: &Device,
    progress: &dyn Progress,
    interrupt: &AtomicBool,
) -> Option<TrialRecord> {
    let begin = Instant::now();
    let mut record = empty(trial);
    let runner = Runner { trial, spec: &trial.spec, device, progress, interrupt };
    // A bug in one trial must not lose the rest of the sweep.
    let result = catch_unwind(AssertUnwindSafe(|| runner.run(&mut record)));
    let failure = match result {
        Ok(Ok(true)) => None,
        Ok(Ok(false)) => return None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(format!("internal error: {}", panic_message(panic.as_ref()))),
    };
    if let Some(message) = failure {
        record = empty(trial);
        record.status = Status::Failed { message };
    }
    record.timing.wall_s = begin.elapsed().as_secs_f64();
    Some(record)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into())
}

fn empty(trial: &Trial) -> TrialRecord {
    TrialRecord {
        schema: record::SCHEMA,
        id: trial.id.clone(),
        kind: trial.spec.kind,
        cell: trial.cell.clone(),
        status: Status::Finished {},
        cost: None,
        quality: None,
        curve: Vec::new(),
        other_lengths: Vec::new(),
        gradient: Vec::new(),
        throughput: Vec::new(),
        timing: Timing::default(),
    }
}

struct Runner<'a> {
    trial: &'a Trial,
    spec: &'a TrialSpec,
    device: &'a Device,
    progress: &'a dyn Progress,
    interrupt: &'a AtomicBool,
}

impl Runner<'_> {
    /// Whether the trial came to its end.
    fn run(&self, record: &mut TrialRecord) -> Result<bool> {
        let task = self.task(self.spec.length)?;
        let dtype = match self.spec.kind {
            // Gradients are measured where nothing underflows.
            TrialKind::Gradient => DType::F64,
            TrialKind::Quality | TrialKind::Throughput => self.spec.dtype.dtype(),
        };
        let model = self.model(task.as_ref(), dtype)?;
        record.cell.form = model.form_name()?.to_owned();
        let batch_size = record.cell.batch_size;
        let cost = model.cost(batch_size, task.seq_len());
        record.cost = Some(ModelCost {
            parameters: cost.parameters,
            forward_flops: cost.forward_flops,
            training_flops: cost.training_flops(),
            state_elements: model.cost(1, task.seq_len()).state_elements,
        });
        match self.spec.kind {
            TrialKind::Quality => self.quality(&model, task.as_ref(), record),
            TrialKind::Gradient => {
                if let Some(settings) = &self.spec.gradient {
                    record.gradient = measure::gradient(&model, task.as_ref(), settings, 0)?;
                }
                Ok(true)
            }
            TrialKind::Throughput => {
                if let (Some(settings), Some(train)) = (&self.spec.throughput, &self.spec.train) {
                    record.throughput =
                        measure::throughput(&model, task.as_ref(), settings, train)?;
                }
                Ok(!self.interrupt.load(Ordering::Relaxed))
            }
        }
    }

    fn architecture(&self) -> Result<&'static dyn Architecture> {
        let name = &self.spec.arch;
        let unknown = || TrialError::Unknown { kind: "architecture", name: name.clone() };
        self.spec.architecture().ok_or_else(unknown)
    }

    fn task(&self, length: usize) -> Result<Box<dyn Task>> {
        let entry = unroll_tasks::find(&self.spec.task)
            .ok_or_else(|| TrialError::Unknown { kind: "task", name: self.spec.task.clone() })?;
        let (seed, options) = (self.spec.seed, &self.spec.task_options);
        Ok((entry.build)(&TaskRequest { length, seed, options })?)
    }

    fn model(&self, task: &dyn Task, dtype: DType) -> Result<TaskModel> {
        let architecture = self.architecture()?;
        let context = BuildContext {
            dtype,
            device: self.device.clone(),
            init: self.spec.init,
            stream: Stream::new(self.spec.seed, "init"),
        };
        Ok(TaskModel::build(task, architecture, &self.spec.options, None, &context)?)
    }

    fn quality(
        &self,
        model: &TaskModel,
        task: &dyn Task,
        record: &mut TrialRecord,
    ) -> Result<bool> {
        let config = self.spec.train.clone().unwrap_or_default();
        let mut observe = |at: &unroll_train::Progress<'_>| {
            let note = match at.latest {
                Some(point) => format!("{} {:.4}", task.metric().name(), point.validation),
                None => String::new(),
            };
            self.progress.advanced(self.trial, at.step, at.steps, &note);
            if self.interrupt.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let outcome = unroll_train::train(model, task, &config, &mut observe)?;
        match outcome.ending {
            Ending::Interrupted => return Ok(false),
            Ending::Diverged { step } => record.status = Status::Diverged { step },
            Ending::Finished | Ending::ReachedThreshold => {}
        }
        record.timing.train_s = outcome.seconds;
        record.timing.seconds_to_threshold = outcome.threshold.map(|reached| reached.seconds);
        record.curve = outcome
            .curve
            .iter()
            .map(|point| CurvePoint {
                step: point.step,
                tokens: point.tokens,
                train_loss: point.train_loss.unwrap_or(f64::NAN),
                validation: point.validation,
                validation_loss: point.validation_loss,
                learning_rate: point.learning_rate,
                gradient_norm: point.gradient_norm.unwrap_or(f64::NAN),
                seconds: point.seconds,
            })
            .collect();

        let test = unroll_train::evaluate(model, task, Split::Test, config.eval_batch_size)?;
        let metric = task.metric();
        let better = match metric.better() {
            unroll_tasks::Better::Lower => Better::Lower,
            unroll_tasks::Better::Higher => Better::Higher,
        };
        let baselines = task.baselines();
        let solved_at = task.solved_at();
        let finished = matches!(record.status, Status::Finished {});
        // A fitted reference (ridge regression, ...) is no chance level.
        let beaten = baselines
            .iter()
            .filter(|baseline| !baseline.fitted)
            .all(|baseline| better.prefers(test.metric, baseline.value));
        record.quality = Some(Quality {
            metric: metric.name(),
            better,
            test: test.metric,
            validation: outcome.curve.last().map_or(f64::NAN, |point| point.validation),
            test_loss: test.loss,
            solved: finished
                && solved_at.is_some_and(|at| unroll_train::reaches(&metric, test.metric, at)),
            solved_at,
            at_chance: !beaten,
            baselines: baselines
                .into_iter()
                .map(|baseline| BaselineValue { name: baseline.name, value: baseline.value })
                .collect(),
            steps: outcome.steps,
            steps_to_threshold: outcome.threshold.map(|reached| reached.step),
        });
        if !finished {
            return Ok(true);
        }
        for &length in &self.spec.evaluate_lengths {
            let other = self.task(length)?;
            // A task of one length only is not another task at another length.
            if other.seq_len() == task.seq_len() {
                continue;
            }
            let result =
                unroll_train::evaluate(model, other.as_ref(), Split::Test, config.eval_batch_size)?;
            record.other_lengths.push(LengthEvaluation {
                length,
                value: result.metric,
                loss: result.loss,
            });
        }
        if let Some(settings) = &self.spec.gradient {
            let twin =
                unroll_probe::f64_twin(task, self.architecture()?, &self.spec.options, model)?;
            record.gradient = measure::gradient(&twin, task, settings, outcome.steps)?;
        }
        Ok(true)
    }
}
