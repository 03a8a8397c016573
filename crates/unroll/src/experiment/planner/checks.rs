//! What of an experiment is checked before its tasks and models are asked.

use serde_json::{Map, Value};
use unroll_core::architecture::LARGEST_SIZE;
use unroll_core::{Architecture, memory};
use unroll_results::record::TrialKind;

use super::{Experiment, NAMED_AXES, Planner, Result, SETTING_AXES, path};
use crate::registry;

/// The longest that a phase is timed for, seconds: an hour. What is longer is a slip of the pen.
const LONGEST_TIMING: f64 = 3600.0;

impl Planner {
    /// Names of the experiment, architectures, tasks and axes.
    pub(super) fn check_names(&self) -> Result<()> {
        let name = &self.experiment.name;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || !name.chars().all(fits) {
            let message = "a name has letters, digits, `_` and `-` only: it names a folder";
            return Err(self.document.error(&path(&["name"]), message.into()));
        }
        let architectures = registry::all_names();
        let tasks: Vec<&str> = unroll_tasks::registry().iter().map(|entry| entry.name).collect();
        for (table, names, given) in [
            ("arch", &architectures, self.experiment.arch.keys()),
            ("task", &tasks, self.experiment.task.keys()),
        ] {
            for key in given {
                if !names.contains(&key.as_str()) {
                    let message = format!("there is no {table} called `{key}`");
                    let at = path(&[table, key]);
                    return Err(self.document.error_with_names(&at, &message, key, names));
                }
            }
        }
        if self.experiment.measure.is_empty() {
            return Err(self.document.error(&path(&["measure"]), "nothing is measured".into()));
        }
        for (axis, values) in &self.experiment.axes {
            let at = path(&["axes", axis]);
            if values.is_empty() {
                let message = format!("the sweep is empty: axis `{axis}` has no values");
                return Err(self.document.error(&at, message));
            }
            let names = [&NAMED_AXES[..], &SETTING_AXES].concat();
            if !names.contains(&axis.as_str()) && !axis.contains('.') {
                let message = format!(
                    "`{axis}` is no axis; a setting is named by its dotted path, such as \
                     `model.hidden_size`"
                );
                return Err(self.document.error_with_names(&at, &message, axis, &names));
            }
        }
        for axis in ["arch", "task"] {
            if !self.experiment.axes.contains_key(axis) {
                let message = format!("the sweep is empty: there is no axis `{axis}`");
                return Err(self.document.error(&path(&["axes"]), message));
            }
        }
        for (index, expected) in self.experiment.expect.iter().enumerate() {
            let at = |key: &str| path(&["expect", &index.to_string(), key]);
            let limits = [expected.at_most, expected.at_least, expected.exactly];
            if limits.iter().all(Option::is_none) {
                let message = "expects nothing: give `at_most`, `at_least` or `exactly`".to_owned();
                return Err(self.document.error(&at("measure"), message));
            }
            if expected.exactly.is_some() != expected.on.is_some() {
                let message =
                    "`exactly` and `on` belong together: bits depend on the instruction set";
                let key = if expected.on.is_some() { "on" } else { "exactly" };
                return Err(self.document.error(&at(key), message.into()));
            }
            for (key, names, given) in
                [("arch", &architectures, &expected.arch), ("task", &tasks, &expected.task)]
            {
                if let Some(given) = given.as_deref().filter(|given| !names.contains(given)) {
                    let message = format!("there is no {key} called `{given}`");
                    return Err(self.document.error_with_names(&at(key), &message, given, names));
                }
            }
        }
        Ok(())
    }

    /// Numbers that no trial could run with.
    pub(super) fn settings_are_sound(&self, settings: &Experiment) -> Result<()> {
        if let Err(error) = settings.train.validate() {
            let at = self.origin(&["train", error.field()]);
            return Err(self.document.error(&at, error.to_string()));
        }
        for (table, key, value) in [
            ("gradient", "examples", settings.gradient.examples),
            ("throughput", "batch_size", settings.throughput.batch_size),
            ("throughput", "min_iterations", settings.throughput.min_iterations),
        ] {
            if value == 0 {
                let at = self.origin(&[table, key]);
                return Err(self.document.error(&at, format!("`{key}` must be at least 1")));
            }
        }
        for (table, key, value) in [
            ("train", "batch_size", settings.train.batch_size),
            ("train", "eval_batch_size", settings.train.eval_batch_size),
            ("gradient", "examples", settings.gradient.examples),
            ("throughput", "batch_size", settings.throughput.batch_size),
        ] {
            if value > LARGEST_SIZE {
                let at = self.origin(&[table, key]);
                let message = format!("`{key}` must be at most {LARGEST_SIZE}, not {value}");
                return Err(self.document.error(&at, message));
            }
        }
        if let Some(jacobian) = &settings.gradient.jacobian {
            for (key, value) in [("examples", jacobian.examples), ("probes", jacobian.probes)] {
                if value == 0 {
                    let at = self.origin(&["gradient", "jacobian", key]);
                    return Err(self.document.error(&at, format!("`{key}` must be at least 1")));
                }
            }
        }
        let seconds = settings.throughput.min_seconds;
        if !(0.0..=LONGEST_TIMING).contains(&seconds) {
            let at = self.origin(&["throughput", "min_seconds"]);
            let message =
                format!("`min_seconds` must lie in 0 to {LONGEST_TIMING} seconds, not {seconds}");
            return Err(self.document.error(&at, message));
        }
        if let Some(&length) = settings.evaluate.lengths.iter().find(|&&l| l > LARGEST_SIZE) {
            let at = self.origin(&["evaluate", "lengths"]);
            let message = format!("a sequence has at most {LARGEST_SIZE} steps, not {length}");
            return Err(self.document.error(&at, message));
        }
        if settings.evaluate.lengths.contains(&0) {
            let at = self.origin(&["evaluate", "lengths"]);
            return Err(self.document.error(&at, "a sequence has at least one step".into()));
        }
        if registry::find(&settings.matching.reference).is_none() {
            let names = registry::all_names();
            let reference = &settings.matching.reference;
            let message = format!("there is no architecture called `{reference}`");
            let at = self.origin(&["match", "reference"]);
            return Err(self.document.error_with_names(&at, &message, reference, &names));
        }
        Ok(())
    }

    /// Weights that no machine can hold. Which trials fit this one is told when they run: the list of trials
    /// must be the same on every machine.
    pub(super) fn fits_some_machine(
        &self,
        architecture: &dyn Architecture,
        options: &Map<String, Value>,
        element: usize,
    ) -> Result<()> {
        let size = |key: &str| options.get(key).and_then(Value::as_u64).unwrap_or(1) as usize;
        let hidden = size("hidden_size");
        // Every architecture has a square weight in each layer at the least.
        let bytes = memory::product(&[size("num_layers"), hidden, hidden, element]);
        if bytes > u128::from(memory::ADDRESSABLE) {
            let layers = match size("num_layers") {
                1 => "1 layer".to_owned(),
                count => format!("{count} layers"),
            };
            let message = format!(
                "weights for {hidden} hidden units in {layers} need {} of memory or more, which no machine can \
                 address: take a smaller size",
                memory::readable(bytes)
            );
            let error = unroll_core::Error::option("hidden_size", message);
            return Err(self.model_error(&error, architecture));
        }
        Ok(())
    }

    /// A batch, `(B, T)`, whose states no machine can hold.
    pub(super) fn batch_fits_some_machine(
        &self,
        kind: TrialKind,
        options: &Map<String, Value>,
        [batch, steps]: [usize; 2],
        element: usize,
    ) -> Result<()> {
        let hidden = options.get("hidden_size").and_then(Value::as_u64).unwrap_or(1) as usize;
        let bytes = memory::product(&[batch, steps, hidden, element]);
        if bytes > u128::from(memory::ADDRESSABLE) {
            let at = match kind {
                TrialKind::Quality => ["train", "batch_size"],
                TrialKind::Gradient => ["gradient", "examples"],
                TrialKind::Throughput => ["throughput", "batch_size"],
            };
            let message = format!(
                "a batch of {batch} sequences of {steps} steps needs {} of memory or more, which no \
                 machine can address: take a smaller batch or shorter sequences",
                memory::readable(bytes)
            );
            return Err(self.document.error(&self.origin(&at), message));
        }
        Ok(())
    }
}
