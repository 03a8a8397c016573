//! Trained language models that write.

use std::path::Path;

use miette::{WrapErr, miette};
use unroll_core::weights::{TensorFile, import};
use unroll_core::{BuildContext, Stream};
use unroll_results::layout;
use unroll_results::record::TrialRecord;
use unroll_tasks::{Task, TaskRequest, Writing};
use unroll_train::{Sampling, TaskModel};

use crate::device;
use crate::experiment::Trial;
use crate::replay;

/// What is written, and how it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What is gone on from.
    pub prompt: &'a str,
    /// Tokens to write.
    pub length: usize,
    /// See [`Sampling::temperature`].
    pub temperature: f64,
    /// See [`Sampling::top_p`].
    pub top_p: f64,
    /// See [`Sampling::context`]; the trained length when not given.
    pub context: Option<usize>,
}

/// A trained model with its task.
pub struct Writer {
    trial: Trial,
    task: Box<dyn Task>,
    model: TaskModel,
}

fn plain(error: impl std::fmt::Display) -> miette::Report {
    miette!("{error}")
}

impl Writer {
    /// The model of the trial whose id begins with `id`, or of the best on its validation split among those
    /// that can write and whose weights are kept.
    ///
    /// # Errors
    /// When there is none: why.
    pub fn open(dir: &Path, id: Option<&str>) -> miette::Result<Self> {
        let trials = replay::select(dir, id).map_err(plain)?;
        let weights = |trial: &Trial| {
            layout::file_of(dir, layout::WEIGHTS, &trial.id, "safetensors").map_err(plain)
        };
        let mut writing = Vec::new();
        for (trial, record) in trials {
            let task = build_task(&trial)?;
            if task.writing().is_some() {
                writing.push((trial, record, task));
            }
        }
        if writing.is_empty() {
            return Err(miette!(
                help =
                    "a language model comes from the task `text`: unroll run experiments/text.toml",
                "no trial of {} writes text",
                dir.display()
            ));
        }
        let mut kept = Vec::new();
        for (trial, record, task) in writing {
            let path = weights(&trial)?;
            if path.is_file() {
                kept.push((trial, record, task, path));
            }
        }
        // Of several the best; the metrics of trials of one task can be compared.
        let of = |record: &TrialRecord| {
            record.quality.as_ref().map_or((f64::NAN, false), |quality| {
                let lower = quality.better == unroll_results::record::Better::Lower;
                (if lower { -quality.validation } else { quality.validation }, true)
            })
        };
        let best = kept.into_iter().max_by(|a, b| of(&a.1).0.total_cmp(&of(&b.1).0));
        let Some((trial, record, task, path)) = best else {
            return Err(miette!(
                help = "weights are kept with `keep_weights = true` in the experiment file or \
                        `unroll run FILE --keep-weights`; trials that have ended without do not run again: \
                        give another --out",
                "{} has no weights of a trial that writes text",
                dir.display()
            ));
        };
        let architecture = trial
            .spec
            .architecture()
            .ok_or_else(|| miette!("there is no architecture called `{}`", trial.spec.arch))?;
        let device = device::open("cpu").map_err(plain)?;
        let stream = Stream::new(trial.spec.seed, "init");
        let dtype = trial.spec.dtype.dtype();
        let context = BuildContext::new(dtype, &device, trial.spec.init, stream);
        let options = &trial.spec.options;
        let model = TaskModel::build(task.as_ref(), architecture, options, None, &context);
        let model = model.map_err(plain)?;
        let file = TensorFile::read(&path).map_err(plain)?;
        import(model.parameters(), &file)
            .map_err(plain)
            .wrap_err_with(|| format!("{} does not fit the trial", path.display()))?;
        if let Some(quality) = &record.quality {
            let name = crate::progress::describe(&trial);
            tracing::info!("{} ({name}), {} {:.3}", trial.id, quality.metric, quality.test);
        }
        Ok(Self { trial, task, model })
    }

    /// Id of the trial.
    pub fn trial(&self) -> &str {
        &self.trial.id
    }

    /// Checks a request, before anything of it is shown.
    ///
    /// # Errors
    /// When a setting is wrong or the prompt has characters that the model does not know.
    pub fn check(&self, request: &Request<'_>) -> miette::Result<()> {
        self.writing()?.encode(request.prompt).map_err(plain).wrap_err("--prompt")?;
        self.sampling(request).validate().map_err(plain)
    }

    fn sampling(&self, request: &Request<'_>) -> Sampling {
        Sampling {
            temperature: request.temperature,
            top_p: request.top_p,
            context: request.context.unwrap_or_else(|| self.task.seq_len()),
        }
    }

    /// Writes on from the prompt; `each` is told every piece of text at once.
    ///
    /// # Errors
    /// When a setting is wrong or the prompt has characters that the model does not know.
    pub fn write(
        &self,
        request: &Request<'_>,
        (seed, number): (u64, u32),
        each: &mut dyn FnMut(&str),
    ) -> miette::Result<String> {
        let writing = self.writing()?;
        let prompt = writing.encode(request.prompt).map_err(plain).wrap_err("--prompt")?;
        let sampling = self.sampling(request);
        let stream = Stream::new(seed, format!("sample/{number}"));
        let mut tokens = Vec::new();
        let mut told = 0;
        let mut tell = |token: u32| {
            tokens.push(token);
            let text = writing.decode(&tokens);
            // A character whose last bytes are still to come is not shown yet.
            let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
            if whole > told {
                each(&text[told..whole]);
                told = whole;
            }
        };
        let written = unroll_train::sample(
            &self.model,
            &prompt,
            request.length,
            sampling,
            &stream,
            &mut tell,
        )
        .map_err(plain)?;
        Ok(writing.decode(&written))
    }

    fn writing(&self) -> miette::Result<&dyn Writing> {
        self.task.writing().ok_or_else(|| miette!("{} is no text", self.task.name()))
    }
}

fn build_task(trial: &Trial) -> miette::Result<Box<dyn Task>> {
    let spec = &trial.spec;
    let entry = unroll_tasks::find(&spec.task)
        .ok_or_else(|| miette!("there is no task called `{}`", spec.task))?;
    let (seed, options) = (spec.seed, &spec.task_options);
    (entry.build)(&TaskRequest { length: spec.length, seed, options }).map_err(plain)
}
