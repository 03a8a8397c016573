//! Expands an experiment into trials, and tells where a wrong setting was given.

mod checks;
mod errors;
mod filters;
mod notes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use unroll_core::architecture::LARGEST_SIZE;
use unroll_core::{Architecture, Family};
use unroll_results::Skipped;
use unroll_results::record::{Cell, TrialKind};
use unroll_tasks::{InputKind, Task, TaskEntry, TaskRequest};

use super::plan::{ALGORITHM, Plan, Trial, TrialSpec};
use super::source::{Document, SourceError, set_path, split_path};
use super::{Experiment, MatchBy, Precision, matching};
use crate::{device, memory, registry};
use filters::holds;
use notes::{shared_axes, too_large};

type Result<T, E = Box<SourceError>> = std::result::Result<T, E>;

/// Why a cell of the sweep is no trial.
enum Stop {
    /// The file is wrong.
    Wrong(Box<SourceError>),
    /// This data set is not there.
    Absent(String),
}

impl From<Box<SourceError>> for Stop {
    fn from(error: Box<SourceError>) -> Self {
        Self::Wrong(error)
    }
}

/// Axes that name a cell's place; every other axis is a dotted path to a setting.
pub(super) const NAMED_AXES: [&str; 5] = ["arch", "device", "length", "seed", "task"];

/// Option of a task that names its data: it goes into the name of the task and not into that of a series.
const NAMED_SET: &str = "set";

/// Option of tasks that read a user's file instead of their own.
const OWN_FILE: &str = "file";

/// Options of a task that change what is measured, and in which unit: where they are swept, each value is a
/// task of its own name, and no series stands beside one of another value.
const DATA: [&str; 2] = [OWN_FILE, "target"];

/// Settings of the whole file that are axes by their plain names.
pub(super) const SETTING_AXES: [&str; 2] = ["dtype", "precision"];

/// Values of the axes in one cell.
type Assignment = BTreeMap<String, Value>;

pub(super) struct Planner {
    document: Document,
    experiment: Experiment,
    /// The file without axes and overrides: what each trial's settings start from.
    base: Map<String, Value>,
    tasks: HashMap<String, Arc<dyn Task>>,
    hashes: HashMap<&'static str, String>,
    notes: notes::Notes,
}

fn path(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

impl Planner {
    pub(super) fn new(document: Document) -> Result<Self> {
        let experiment: Experiment = document.deserialize(document.tree())?;
        let base = document.tree().clone();
        let (tasks, hashes) = (HashMap::new(), HashMap::new());
        Ok(Self { document, experiment, base, tasks, hashes, notes: notes::Notes::default() })
    }

    pub(super) fn plan(mut self) -> Result<Plan> {
        self.check_names()?;
        let mut notes = self.check_filters()?;
        let mut trials = Vec::new();
        let mut skipped: Vec<Skipped> = Vec::new();
        let mut seen = HashSet::new();
        let excluded = self.experiment.exclude.clone();
        for kind in self.experiment.measure.clone() {
            for assignment in self.assignments()? {
                if excluded.iter().any(|when| holds(when, kind, &assignment)) {
                    continue;
                }
                let trial = match self.trial(kind, &assignment) {
                    Ok(trial) => trial,
                    Err(Stop::Wrong(error)) => return Err(error),
                    Err(Stop::Absent(set)) => {
                        let task = self.text("task", &assignment, "")?;
                        match skipped.iter_mut().find(|s| (&s.task, &s.set) == (&task, &set)) {
                            Some(known) => known.cells += 1,
                            None => skipped.push(Skipped { task, set, cells: 1 }),
                        }
                        continue;
                    }
                };
                // Cells that mean the same run once (an axis of another architecture's options).
                if seen.insert((trial.id.clone(), trial.device.clone())) {
                    trials.push(trial);
                }
            }
        }
        if trials.is_empty() && skipped.is_empty() {
            let message = "the sweep is empty: all of it is excluded".to_owned();
            return Err(self.document.error(&path(&["exclude"]), message));
        }
        let text = self.document.as_run();
        notes.extend(self.unmet_by_anything(&trials, &skipped));
        notes.extend(self.notes.sentences());
        notes.extend(too_large(&trials));
        Ok(Plan { experiment: self.experiment, text, trials, skipped, notes })
    }

    /// All combinations of the axes: tasks outermost, then lengths, further axes, architectures and
    /// seeds.
    fn assignments(&self) -> Result<Vec<Assignment>> {
        let axes = &self.experiment.axes;
        let further = axes.keys().map(String::as_str).filter(|axis| !NAMED_AXES.contains(axis));
        let order = ["task", "length"].into_iter().chain(further).chain(["arch", "device", "seed"]);
        let mut all: Vec<Assignment> = vec![Assignment::new()];
        for axis in order {
            let Some(values) = axes.get(axis) else { continue };
            all = all
                .iter()
                .flat_map(|assignment| {
                    values.iter().map(move |value| {
                        let mut assignment = assignment.clone();
                        assignment.insert(axis.to_owned(), value.clone());
                        assignment
                    })
                })
                .collect();
        }
        Ok(all)
    }

    fn text(&self, axis: &str, assignment: &Assignment, default: &str) -> Result<String> {
        match assignment.get(axis) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => {
                let message = format!("axis `{axis}` takes names, not {other}");
                Err(self.document.error(&path(&["axes", axis]), message))
            }
        }
    }

    fn number(&self, axis: &str, assignment: &Assignment) -> Result<Option<u64>> {
        match assignment.get(axis) {
            None => Ok(None),
            Some(value) => value.as_u64().map(Some).ok_or_else(|| {
                let message = format!("axis `{axis}` takes whole numbers from 0, not {value}");
                self.document.error(&self.axis_value(axis, value), message)
            }),
        }
    }

    /// Path of one value of an axis.
    fn axis_value(&self, axis: &str, value: &Value) -> Vec<String> {
        let values = self.experiment.axes.get(axis);
        let index = values.and_then(|values| values.iter().position(|v| v == value)).unwrap_or(0);
        path(&["axes", axis, &index.to_string()])
    }

    /// The settings of one cell: the file, then overrides whose conditions hold, then axes.
    fn settings(&self, kind: TrialKind, assignment: &Assignment) -> Result<Experiment> {
        let mut tree = self.base.clone();
        let mut changes: Vec<(Vec<String>, Vec<String>)> = Vec::new();
        for (index, change) in self.experiment.overrides.iter().enumerate() {
            if holds(&change.when, kind, assignment) {
                for (setting, value) in &change.set {
                    let target = split_path(setting);
                    set_path(&mut tree, &target, value.clone());
                    changes.push((target, path(&["override", &index.to_string(), "set", setting])));
                }
            }
        }
        for (axis, value) in assignment {
            if !NAMED_AXES.contains(&axis.as_str()) {
                let target = split_path(axis);
                set_path(&mut tree, &target, value.clone());
                changes.push((target, self.axis_value(axis, value)));
            }
        }
        // A wrong value is reported where it was given, not at the setting that it changed.
        let mut applied = self.base.clone();
        for (target, origin) in &changes {
            if let Some(value) = get_path(&tree, target) {
                set_path(&mut applied, target, value.clone());
                if let Err(error) = serde_json::from_value::<Experiment>(applied.clone().into()) {
                    return Err(self.document.error(origin, error.to_string()));
                }
            }
        }
        self.document.deserialize(&tree)
    }

    fn trial(&mut self, kind: TrialKind, assignment: &Assignment) -> Result<Trial, Stop> {
        let settings = self.settings(kind, assignment)?;
        let arch = self.text("arch", assignment, "")?;
        let task_name = self.text("task", assignment, "")?;
        let device = self.text("device", assignment, "cpu")?;
        let seed = self.number("seed", assignment)?.unwrap_or(0);
        // Speed does not depend on the seed: it is measured once.
        let seed = if kind == TrialKind::Throughput { 0 } else { seed };
        let architecture = registry::find(&arch).ok_or_else(|| {
            let names = registry::all_names();
            let at = self.axis_value("arch", &arch.as_str().into());
            let message = format!("there is no architecture called `{arch}`");
            self.document.error_with_names(&at, &message, &arch, &names)
        })?;
        let entry = unroll_tasks::find(&task_name).ok_or_else(|| {
            let names: Vec<&str> = unroll_tasks::registry().iter().map(|e| e.name).collect();
            let at = self.axis_value("task", &task_name.as_str().into());
            let message = format!("there is no task called `{task_name}`");
            self.document.error_with_names(&at, &message, &task_name, &names)
        })?;
        device::check(&device).map_err(|message| {
            self.document.error(&self.axis_value("device", &device.as_str().into()), message)
        })?;
        // Gradients are measured in f64, which knows no modes.
        let precision =
            if kind == TrialKind::Gradient { Precision::Fp32 } else { settings.precision };
        precision.check(settings.dtype.dtype(), &device).map_err(|message| {
            let at = match assignment.get("precision") {
                Some(value) => self.axis_value("precision", value),
                None => path(&["precision"]),
            };
            self.document.error(&at, message)
        })?;

        // What needs no data comes first: it is checked for cells without data too.
        self.settings_are_sound(&settings)?;
        let shared = self.shared_options(&settings)?;
        let given = settings.task.get(&task_name).cloned().unwrap_or_default();
        let task_options =
            (entry.resolve)(&given).map_err(|error| self.task_error(&error, entry))?;
        let (length, fixed) = self.length(entry, &task_options, assignment)?;
        let mut called = task_name.clone();
        if let Some(set) = task_options.get(NAMED_SET).and_then(Value::as_str) {
            called.push_str(&format!(" {set}"));
        }
        for option in DATA {
            let axis = format!("task.{task_name}.{option}");
            if let Some(value) = assignment.get(&axis).filter(|_| self.is_swept(&axis)) {
                called.push_str(&format!(" {}", shown(value)));
            }
        }
        if let (true, Some(given)) = (fixed, self.number("length", assignment)?) {
            self.notes.length(&called, length, given);
        }
        let task = self.task(entry, length, &task_options, assignment)?;
        self.goes_together(kind, architecture, task.as_ref())?;

        let batch_size = match kind {
            TrialKind::Quality => settings.train.batch_size,
            TrialKind::Gradient => settings.gradient.examples,
            TrialKind::Throughput => settings.throughput.batch_size,
        };
        let resolve = |architecture: &dyn Architecture, size: Option<usize>| {
            let mut options = matching::known_options(architecture, &shared);
            if let Some(own) = settings.arch.get(architecture.name()) {
                options.extend(own.clone());
            }
            if let Some(size) = size {
                options.insert("hidden_size".into(), size.into());
            }
            let hidden = matching::hidden_size(architecture, &options);
            unroll_train::set_input_sizes(&mut options, architecture, task.input(), hidden, None);
            architecture.resolve(&options)
        };
        let cost = |architecture: &dyn Architecture, options: &Map<String, Value>| {
            unroll_train::model_cost(architecture, options, task.as_ref(), batch_size)
        };
        let by = settings.matching.by;
        let matched = (|| -> unroll_core::Result<_> {
            let reference = &settings.matching.reference;
            if by == MatchBy::HiddenSize || *reference == arch {
                return Ok((resolve(architecture, None)?, None));
            }
            let reference = registry::find(reference).ok_or_else(|| {
                unroll_core::Error::option("reference", format!("no architecture `{reference}`"))
            })?;
            let target = matching::measure(by, &cost(reference, &resolve(reference, None)?)?);
            let size = matching::nearest_hidden_size(target, LARGEST_SIZE, |size| {
                let options = resolve(architecture, Some(size))?;
                Ok(matching::measure(by, &cost(architecture, &options)?))
            })?;
            Ok((resolve(architecture, Some(size))?, Some(target)))
        })();
        let (options, target) = matched.map_err(|error| self.model_error(&error, architecture))?;
        let element = match kind {
            TrialKind::Gradient => 8,
            _ => settings.dtype.dtype().size_in_bytes(),
        };
        self.fits_some_machine(architecture, &options, element)?;
        self.batch_fits_some_machine(kind, &options, [batch_size, task.seq_len()], element)?;
        self.may_learn(architecture, &options, task.as_ref())?;
        let cost = unroll_train::model_cost(architecture, &options, task.as_ref(), batch_size)
            .map_err(|error| self.model_error(&error, architecture))?;
        if let Some(target) = target {
            let reference = &settings.matching.reference;
            self.notes.matched(
                &arch,
                &called,
                by,
                matching::measure(by, &cost),
                (reference, target),
            );
        }
        if !self.document.gives(&path(&["match", "by"])) && by == MatchBy::HiddenSize {
            self.notes.size(&arch, (&called, length), &shared_axes(assignment), cost.parameters);
        }
        let number = |key: &str| options.get(key).and_then(Value::as_u64).unwrap_or(1) as usize;
        let (hidden, layers) = (number("hidden_size"), number("num_layers"));

        let (series, axes) = self.series(&arch, &task_name, assignment);
        let cell = Cell {
            experiment: self.experiment.name.clone(),
            architecture: arch.clone(),
            family: architecture.family().name().into(),
            series,
            task: called,
            length,
            seed,
            device: device.clone(),
            dtype: if kind == TrialKind::Gradient { "f64" } else { settings.dtype.name() }.into(),
            precision: precision.name().into(),
            form: String::new(),
            hidden_size: hidden,
            num_layers: layers,
            batch_size,
            matched_by: settings.matching.by.name().into(),
            axes,
        };
        let quality = kind == TrialKind::Quality;
        // A task of one length only has no other.
        let evaluate_lengths =
            if quality && !fixed { settings.evaluate.lengths.clone() } else { Vec::new() };
        for &other in &evaluate_lengths {
            self.task(entry, other, &task_options, assignment).map_err(|stop| match stop {
                Stop::Wrong(error) => {
                    let at = self.origin(&["evaluate", "lengths"]);
                    self.document.error(&at, error.label().to_owned()).into()
                }
                absent => absent,
            })?;
        }
        let in_training = settings.gradient.while_training()
            && self.experiment.measure.contains(&TrialKind::Gradient);
        // A task that was given a file reads none of its own; the file's hash is among its options.
        let data = match task_options.contains_key(OWN_FILE) {
            true => BTreeMap::new(),
            false => self.data_hashes(entry)?,
        };
        let spec = TrialSpec {
            algorithm: ALGORITHM,
            kind,
            arch,
            options,
            init: settings.init,
            task: task_name,
            task_options,
            data,
            length,
            seed,
            dtype: settings.dtype,
            precision,
            device: device.split(':').next().unwrap_or("cpu").to_owned(),
            train: (kind != TrialKind::Gradient).then(|| settings.train.clone()),
            evaluate_lengths,
            gradient: (kind == TrialKind::Gradient || (quality && in_training))
                .then(|| settings.gradient.clone()),
            throughput: (kind == TrialKind::Throughput).then(|| settings.throughput.clone()),
        };
        let mut trial = Trial::new(spec, cell, device, &cost);
        // A GPU's driver says no when it is asked.
        if trial.device == "cpu" {
            let fits = memory::require(&trial.spec, cost.parameters, [batch_size, task.seq_len()]);
            trial.too_large = fits.err().map(|error| error.to_string());
        }
        Ok(trial)
    }

    /// Name of the series, and the values of the axes that belong to this architecture and task.
    fn series(
        &self,
        arch: &str,
        task: &str,
        assignment: &Assignment,
    ) -> (String, BTreeMap<String, Value>) {
        let mut series = arch.to_owned();
        let mut axes = BTreeMap::new();
        for (axis, value) in assignment {
            let parts: Vec<&str> = axis.split('.').collect();
            let foreign = match parts.as_slice() {
                ["arch", other, ..] => *other != arch,
                ["task", other, ..] => *other != task,
                _ => NAMED_AXES.contains(&axis.as_str()),
            };
            if foreign {
                continue;
            }
            axes.insert(axis.clone(), value.clone());
            if let ["task", _, option] = parts.as_slice()
                && (*option == NAMED_SET || DATA.contains(option))
            {
                continue;
            }
            if self.is_swept(axis) {
                series.push_str(&format!(", {}={}", parts.last().unwrap_or(&""), shown(value)));
            }
        }
        (series, axes)
    }

    /// Whether an axis has more than one value.
    fn is_swept(&self, axis: &str) -> bool {
        self.experiment.axes.get(axis).is_some_and(|values| values.len() > 1)
    }

    /// Tasks from one sequence to another are for encoders and decoders, and those for nothing else. Two
    /// sequences at once are for fusion models, and side by side for models of one sequence.
    fn goes_together(
        &self,
        kind: TrialKind,
        architecture: &dyn Architecture,
        task: &dyn Task,
    ) -> Result<()> {
        let fits = |other: &dyn Architecture| match (other.family(), task.input()) {
            (Family::EncoderDecoder, input) => matches!(input, InputKind::Pairs { .. }),
            (Family::Fusion, input) => matches!(input, InputKind::Modalities { .. }),
            (_, input) => !matches!(input, InputKind::Pairs { .. }),
        };
        let what = match task.input() {
            InputKind::Pairs { .. } => "goes from one sequence to another",
            InputKind::Modalities { .. } => "has two sequences at once",
            InputKind::Values { .. } | InputKind::Tokens { .. } => "has one sequence",
        };
        let (arch, task) = (architecture.name(), task.name());
        if !fits(architecture) {
            let names: Vec<&str> =
                registry::all().filter(|other| fits(*other)).map(Architecture::name).collect();
            let message = format!(
                "`{arch}` cannot learn `{task}`, which {what}: take {}, or leave the two out together \
                 under [[exclude]]",
                names.join(", ")
            );
            return Err(self.document.error(&self.axis_value("arch", &arch.into()), message));
        }
        let other = matches!(architecture.family(), Family::EncoderDecoder | Family::Fusion);
        if other && kind != TrialKind::Quality {
            let message = format!(
                "`{}` is measured of models of one sequence; for `{arch}` measure = [\"quality\"]",
                kind.name()
            );
            return Err(self.document.error(&path(&["measure"]), message));
        }
        Ok(())
    }

    /// Models that see ahead must not learn what stands there; states are carried from batch to batch by
    /// recurrent models.
    fn may_learn(
        &self,
        architecture: &dyn Architecture,
        options: &Map<String, Value>,
        task: &dyn Task,
    ) -> Result<()> {
        let is = |name: &str, value: bool| options.get(name) == Some(&Value::Bool(value));
        let (arch, task_name) = (architecture.name(), task.name());
        let ahead = is("bidirectional", true) || is("causal", false);
        let message = if task.answers_are_inputs() && ahead {
            format!(
                "`{arch}` sees the steps ahead, where the answers of `{task_name}` stand: take `causal = true`, or no bidirectional layers"
            )
        } else if task.carries_state() && architecture.family() != Family::Recurrent {
            let recurrent = registry::architectures().filter(|a| a.family() == Family::Recurrent);
            let names: Vec<&str> = recurrent.map(Architecture::name).collect();
            format!(
                "`{arch}` has a state that grows with each step: it cannot carry it from window to window of `{task_name}`. Take one of {}, or task.{task_name}.state = \"fresh\"",
                names.join(", ")
            )
        } else {
            return Ok(());
        };
        Err(self.document.error(&self.axis_value("arch", &arch.into()), message))
    }

    /// Options under `[model]`: each must be known to some architecture. One that the sweep leaves out
    /// may have it alone, so that `--set axes.arch=[...]` needs no second change.
    fn shared_options(&self, settings: &Experiment) -> Result<Map<String, Value>> {
        let mut known: Vec<&str> =
            registry::all().flat_map(Architecture::options).map(|(doc, _)| doc.name).collect();
        known.sort_unstable();
        known.dedup();
        for key in settings.model.keys() {
            if !known.contains(&key.as_str()) {
                let message = format!("no architecture has an option `{key}`");
                let at = self.origin(&["model", key]);
                return Err(self.document.error_with_names(&at, &message, key, &known));
            }
        }
        Ok(settings.model.clone())
    }

    /// The length of a cell, and whether the task has no other.
    fn length(
        &self,
        entry: &TaskEntry,
        options: &Map<String, Value>,
        assignment: &Assignment,
    ) -> Result<(usize, bool), Stop> {
        let fixed = (entry.fixed_length)(options).map_err(|e| self.task_error(&e, entry))?;
        if let Some(length) = fixed {
            return Ok((length, true));
        }
        match self.number("length", assignment)? {
            Some(0) => {
                let message = "a sequence has at least one step: length 0 is not possible";
                let at = self.axis_value("length", &0.into());
                Err(self.document.error(&at, message.into()).into())
            }
            Some(length) if length > LARGEST_SIZE as u64 => {
                let message = format!("a sequence has at most {LARGEST_SIZE} steps, not {length}");
                let at = self.axis_value("length", &length.into());
                Err(self.document.error(&at, message).into())
            }
            Some(length) => Ok((length as usize, false)),
            None => {
                let message =
                    format!("task `{}` comes in any length: give an axis `length`", entry.name);
                Err(self.document.error(&path(&["axes"]), message).into())
            }
        }
    }

    /// A task of this length, built once: only its kinds and sizes are asked here.
    fn task(
        &mut self,
        entry: &TaskEntry,
        length: usize,
        options: &Map<String, Value>,
        assignment: &Assignment,
    ) -> Result<Arc<dyn Task>, Stop> {
        let key = format!("{} {length} {}", entry.name, Value::Object(options.clone()));
        if !self.tasks.contains_key(&key) {
            let request = TaskRequest { length, seed: 0, options };
            let task = (entry.build)(&request).map_err(|error| match &error {
                unroll_tasks::Error::Option { option, .. } if option == "length" => {
                    let value = assignment.get("length").cloned().unwrap_or_default();
                    let at = self.axis_value("length", &value);
                    self.document.error(&at, format!("{}: {error}", entry.name)).into()
                }
                _ => self.task_error(&error, entry),
            })?;
            self.tasks.insert(key.clone(), task.into());
        }
        Ok(Arc::clone(&self.tasks[&key]))
    }

    /// Hashes of the files that a task reads.
    fn data_hashes(&mut self, entry: &TaskEntry) -> Result<BTreeMap<String, String>, Stop> {
        let mut hashes = BTreeMap::new();
        for &file in entry.files {
            if !self.hashes.contains_key(file) {
                let path = unroll_tasks::data::locate(file);
                let bytes = std::fs::read(&path).map_err(|source| {
                    let error = unroll_tasks::Error::missing(&path, source);
                    self.task_error(&error, entry)
                })?;
                let hash = blake3::hash(&bytes).to_hex()[..32].to_owned();
                self.hashes.insert(file, hash);
            }
            hashes.insert(file.to_owned(), self.hashes[file].clone());
        }
        Ok(hashes)
    }
}

/// A value of an axis in a name.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn get_path<'a>(tree: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = tree.get(first)?;
    for part in rest {
        value = value.get(part)?;
    }
    Some(value)
}
