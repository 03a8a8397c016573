//! One trial, from its specification to its record.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device};
use unroll_core::weights::export;
use unroll_core::{Architecture, BuildContext, Stream};
use unroll_kernels::gpu;
use unroll_probe::Stop;
use unroll_results::record::{
    self, Alignment, BaselineValue, Better, CurvePoint, LengthEvaluation, ModelCost, OtherMetric,
    Quality, Status, Timing, Trace, TrialKind,
};
use unroll_results::{TrialRecord, canonical, files, layout, weights};
use unroll_tasks::{Baseline, Inputs, Split, Task, TaskRequest};
use unroll_train::{
    Ending, TaskModel, TrainConfig, TrainOutcome, Trainer, attention_along, decode,
};

use crate::checkpoint::Checkpoints;
use crate::experiment::{Precision, Trial, TrialSpec};
use crate::measure::{self, Examples, Measured};
use crate::memory;
use crate::progress::Progress;
use crate::theory;

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
    /// A checkpoint.
    #[error(transparent)]
    Results(#[from] unroll_results::Error),
}

type Result<T, E = TrialError> = std::result::Result<T, E>;

/// What is around a trial while it runs.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
    /// Asks it to pause.
    pub interrupt: &'a AtomicBool,
    /// Where it goes on from and can be put down, if anywhere.
    pub checkpoints: Option<&'a Checkpoints<'a>>,
    /// The result folder that keeps the weights of trained models, if one does.
    pub keep_weights: Option<&'a Path>,
    /// Id of the environment.
    pub environment: &'a str,
}

/// What has become of a trial.
pub enum Outcome {
    /// It came to its end, or failed.
    Ended(Box<TrialRecord>),
    /// It was interrupted after this many training steps.
    Paused(u64),
}

/// Held by the trial that runs on a GPU: how products round is a setting of the process, and trials that
/// share a GPU would be in each other's times and memory.
static GPU: Mutex<()> = Mutex::new(());

/// Runs a trial; one that fails gives a record that says why. Of trials on GPUs, a process runs one at a
/// time.
pub fn run(trial: &Trial, device: &Device, surroundings: Surroundings<'_>) -> Outcome {
    let _alone = (!device.is_cpu()).then(|| {
        let guard = GPU.lock().unwrap_or_else(PoisonError::into_inner);
        gpu::set_tf32(trial.spec.precision == Precision::Tf32);
        guard
    });
    let begin = Instant::now();
    let mut record = empty(trial);
    let mut runner = Runner {
        trial,
        spec: &trial.spec,
        device,
        surroundings,
        begin,
        wall_before: 0.0,
        measured: Measured::default(),
    };
    // A bug in one trial must not lose the rest of the sweep.
    let result = catch_unwind(AssertUnwindSafe(|| runner.run(&mut record)));
    let failure = match result {
        Ok(Ok(Ran::ToItsEnd)) => None,
        Ok(Ok(Ran::Paused(step))) => return Outcome::Paused(step),
        // Gradient and throughput trials begin anew.
        Ok(Err(TrialError::Probe(unroll_probe::Error::Interrupted))) => return Outcome::Paused(0),
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(format!("internal error: {}", panic_message(panic.as_ref()))),
    };
    if let Some(message) = failure {
        record = empty(trial);
        record.status = Status::Failed { message };
    }
    record.timing.wall_s = runner.wall_s();
    surroundings.environment.clone_into(&mut record.timing.environment);
    record.timing.threads = Some(rayon::current_num_threads() as u64);
    Outcome::Ended(Box::new(record))
}

/// Examples of the test split that alignments are kept of, and their length: short enough to be read.
const ALIGNED: usize = 3;
const ALIGNED_LENGTH: usize = 9;

/// What a model looks at while it writes its answers to a few test examples; nothing for models that do
/// not write.
fn alignments(model: &TaskModel, task: &dyn Task) -> Result<Vec<Alignment>> {
    let (Some(score), Some(first)) = (task.answers(), task.first_of(Split::Test, 100)) else {
        return Ok(Vec::new());
    };
    let Inputs::Pairs(pairs) = &first.inputs else { return Ok(Vec::new()) };
    let length = |row: usize| pairs.source_lengths.as_ref().map_or(pairs.source_len, |l| l[row]);
    let mut rows: Vec<usize> = (0..first.batch_size).collect();
    rows.sort_by_key(|&row| (length(row).abs_diff(ALIGNED_LENGTH), row));
    rows.truncate(ALIGNED);
    let written = decode(model, &model.tensors(&first)?, score.search(), score.longest())?;
    let answers: Vec<Vec<u32>> = written.into_iter().map(|one| one.symbols).collect();
    let Some(weights) = attention_along(model, &first, &answers)? else { return Ok(Vec::new()) };
    let one = |row: usize| Alignment {
        source: pairs.source[row * pairs.source_len..][..length(row)]
            .iter()
            .map(|&symbol| score.source_symbol(symbol))
            .collect(),
        answer: answers[row]
            .iter()
            .map(|&symbol| score.answer_symbol(symbol))
            .chain([String::new()])
            .collect(),
        weights: weights[row].clone(),
    };
    Ok(rows.into_iter().map(one).collect())
}

/// How far a trial went.
enum Ran {
    ToItsEnd,
    Paused(u64),
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
        jacobians: Vec::new(),
        gates: Vec::new(),
        attention: Vec::new(),
        alignments: Vec::new(),
        theory: theory::of(&trial.spec),
        trace: None,
        throughput: Vec::new(),
        timing: Timing::default(),
    }
}

struct Runner<'a> {
    trial: &'a Trial,
    spec: &'a TrialSpec,
    device: &'a Device,
    surroundings: Surroundings<'a>,
    begin: Instant,
    /// Seconds spent on the trial before it was put down.
    wall_before: f64,
    /// What was measured so far, in order of training steps.
    measured: Measured,
}

impl<'a> Runner<'a> {
    fn interrupted(&self) -> bool {
        self.surroundings.interrupt.load(Ordering::Relaxed)
    }

    fn stop(&self) -> Stop<'a> {
        Stop::when(self.surroundings.interrupt)
    }

    fn wall_s(&self) -> f64 {
        self.wall_before + self.begin.elapsed().as_secs_f64()
    }

    fn run(&mut self, record: &mut TrialRecord) -> Result<Ran> {
        let task = self.task(self.spec.length)?;
        let dtype = match self.spec.kind {
            // Gradients are measured where nothing underflows.
            TrialKind::Gradient => DType::F64,
            TrialKind::Quality | TrialKind::Throughput => self.spec.dtype.dtype(),
        };
        self.fits(task.as_ref(), record.cell.batch_size)?;
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
                self.surroundings.progress.started(self.trial, 0);
                if let Some(settings) = &self.spec.gradient {
                    let examples = Examples::of(task.as_ref(), settings);
                    self.measured.add(&model, &examples, 0, true, self.stop())?;
                    self.measured.copy_to(record);
                }
                Ok(Ran::ToItsEnd)
            }
            TrialKind::Throughput => {
                self.surroundings.progress.started(self.trial, 0);
                if let (Some(settings), Some(train)) = (&self.spec.throughput, &self.spec.train) {
                    let stop = self.stop();
                    record.throughput =
                        measure::throughput(&model, task.as_ref(), settings, train, stop)?;
                }
                Ok(Ran::ToItsEnd)
            }
        }
    }

    /// An allocation that fails would end the process, and with it all other trials. A GPU's driver says no.
    fn fits(&self, task: &dyn Task, batch_size: usize) -> Result<()> {
        if !self.device.is_cpu() {
            return Ok(());
        }
        let (architecture, options) = (self.architecture()?, &self.spec.options);
        let cost = unroll_train::model_cost(architecture, options, task, batch_size)?;
        Ok(memory::require(self.spec, cost.parameters, [batch_size, task.seq_len()])?)
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
        let stream = Stream::new(self.spec.seed, "init");
        let context = BuildContext::new(dtype, self.device, self.spec.init, stream);
        Ok(TaskModel::build(task, architecture, &self.spec.options, None, &context)?)
    }

    /// Trains to the end, from where an earlier process put the trial down; checkpoints on the way.
    fn train<'m>(
        &mut self,
        model: &'m TaskModel,
        task: &'m dyn Task,
        config: &TrainConfig,
    ) -> Result<(Trainer<'m>, TrainOutcome)> {
        let mut trainer = Trainer::new(model, task, config)?;
        let Surroundings { progress, interrupt, checkpoints, .. } = self.surroundings;
        let id = &self.trial.id;
        if let Some(checkpoints) = checkpoints
            && let Some(begun) = checkpoints.load(id)?
        {
            trainer.restore(&begun.checkpoint)?;
            self.wall_before = begun.wall_s;
            self.measured = begun.measured;
        }
        progress.started(self.trial, trainer.step());
        let settings = self.spec.gradient.as_ref();
        let examples = settings.map(|settings| Examples::of(task, settings));
        let examples = examples.as_ref();
        // What is not there was never begun, or was interrupted.
        if !self.measured.has(trainer.step()) {
            self.measure_if_due(model, task, examples, trainer.step())?;
            if self.interrupted() {
                // No step further: the measurement may still have to be made of these weights.
                let step = trainer.step();
                let outcome = trainer
                    .run_to(step, &mut |_: &unroll_train::Progress<'_>| ControlFlow::Break(()))?;
                return Ok((trainer, outcome));
            }
        }
        let every = checkpoints.map(Checkpoints::every);
        loop {
            let since = Instant::now();
            let mut failed = None;
            let mut observe = |at: &unroll_train::Progress<'_>| {
                let note = match at.latest {
                    Some(point) => format!("{} {:.4}", task.metric().name(), point.validation),
                    None => String::new(),
                };
                progress.advanced(self.trial, at.step, at.steps, &note);
                if let Err(error) = self.measure_if_due(model, task, examples, at.step) {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
                let due = every.is_some_and(|every| since.elapsed() >= every);
                if due || interrupt.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            let outcome = trainer.run(&mut observe)?;
            if let Some(error) = failed {
                return Err(error);
            }
            if outcome.ending != Ending::Interrupted || self.interrupted() {
                return Ok((trainer, outcome));
            }
            self.save(&trainer);
        }
    }

    /// Measures a model in training, if the experiment wants it after this many steps.
    fn measure_if_due(
        &mut self,
        model: &TaskModel,
        task: &dyn Task,
        examples: Option<&Examples<'_>>,
        step: u64,
    ) -> Result<()> {
        match (&self.spec.gradient, examples) {
            (Some(settings), Some(examples)) if settings.is_due(step) => {
                self.measure(model, task, examples, step, settings.is_thorough(step))
            }
            _ => Ok(()),
        }
    }

    fn measure(
        &mut self,
        model: &TaskModel,
        task: &dyn Task,
        examples: &Examples<'_>,
        step: u64,
        thorough: bool,
    ) -> Result<()> {
        let twin = unroll_probe::f64_twin(task, self.architecture()?, &self.spec.options, model)?;
        match self.measured.add(&twin, examples, step, thorough, self.stop()) {
            // The training is put down here, and the measurement made when it goes on.
            Err(unroll_probe::Error::Interrupted) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Puts the trial down when somebody asked for it: the steps done, if so.
    fn put_down(&self, trainer: &Trainer<'_>) -> Option<Ran> {
        self.interrupted().then(|| {
            self.save(trainer);
            Ran::Paused(trainer.step())
        })
    }

    /// A checkpoint spares time and nothing else: a full disk must not end the trial.
    fn save(&self, trainer: &Trainer<'_>) {
        let Some(checkpoints) = self.surroundings.checkpoints else { return };
        let save = || -> Result<()> {
            let bytes = trainer.checkpoint()?.to_bytes()?;
            Ok(checkpoints.save(&self.trial.id, &bytes, &self.measured, self.wall_s())?)
        };
        if let Err(error) = save() {
            self.surroundings.progress.note(&format!("no checkpoint could be written: {error}"));
        }
    }

    /// The trial's results do not depend on it: a full disk must not end the trial.
    fn keep_weights(&self, weights: &[u8], task: &dyn Task) {
        let Some(dir) = self.surroundings.keep_weights else { return };
        // What `unroll eval` needs to know of the file, and people.
        let (spec, trial) = (self.spec, self.trial.id.clone());
        let config = serde_json::Value::Object(spec.options.clone()).to_string();
        let metadata = [
            ("arch", spec.arch.clone()),
            ("config", config),
            ("prefix", unroll_train::BODY.to_owned()),
            ("task", task.name().to_owned()),
            ("trial", trial),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let weights = &weights::with_metadata(weights, &metadata);
        let keep = || -> unroll_results::Result<()> {
            let path = layout::file_of(dir, layout::WEIGHTS, &self.trial.id, "safetensors")?;
            files::create_dir(&dir.join(layout::WEIGHTS))?;
            files::write(&path, weights)
        };
        if let Err(error) = keep() {
            self.surroundings.progress.note(&format!("the weights could not be kept: {error}"));
        }
    }

    fn quality(
        &mut self,
        model: &TaskModel,
        task: &dyn Task,
        record: &mut TrialRecord,
    ) -> Result<Ran> {
        let config = self.spec.train.clone().unwrap_or_default();
        let (trainer, outcome) = self.train(model, task, &config)?;
        if let Some(paused) = self.put_down(&trainer) {
            return Ok(paused);
        }
        if let Ending::Diverged { step } = outcome.ending {
            record.status = Status::Diverged { step };
        }
        let weights = export(model.parameters())?.to_bytes()?;
        record.trace = Some(Trace {
            every: outcome.trace.every,
            weights: outcome.trace.hashes.clone(),
            last: Some(canonical::hash_bytes(&weights)),
        });
        if matches!(record.status, Status::Finished {}) {
            self.keep_weights(&weights, task);
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
                .map(|Baseline { name, value, fitted }| BaselineValue { name, value, fitted })
                .collect(),
            steps: outcome.steps,
            steps_to_threshold: outcome.threshold.map(|reached| reached.step),
            others: test
                .others
                .into_iter()
                .map(|other| OtherMetric { name: other.name, value: other.value })
                .collect(),
        });
        if finished {
            record.alignments = alignments(model, task)?;
        }
        if !finished {
            // What a diverged run measured on its way tells why.
            self.measured.copy_to(record);
            return Ok(Ran::ToItsEnd);
        }
        for &length in &self.spec.evaluate_lengths {
            if let Some(paused) = self.put_down(&trainer) {
                return Ok(paused);
            }
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
        if let Some(paused) = self.put_down(&trainer) {
            return Ok(paused);
        }
        if let Some(settings) = &self.spec.gradient
            && settings.after_training
            && !settings.is_due(outcome.steps)
            && !self.measured.has(outcome.steps)
        {
            self.measure(model, task, &Examples::of(task, settings), outcome.steps, true)?;
            if !self.measured.has(outcome.steps)
                && let Some(paused) = self.put_down(&trainer)
            {
                return Ok(paused);
            }
        }
        self.measured.copy_to(record);
        Ok(Ran::ToItsEnd)
    }
}
