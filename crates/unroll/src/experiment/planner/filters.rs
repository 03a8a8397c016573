//! What an experiment says of some of its cells alone: filters, overrides, options of one architecture,
//! expectations. A name that does not exist is an error; a name that exists and finds nothing here is said,
//! for an experiment may be narrowed by `--set axes.arch=[...]` without a second change.

use std::collections::BTreeMap;

use serde_json::Value;
use unroll_core::Architecture;
use unroll_results::Skipped;
use unroll_results::record::TrialKind;

use super::{Assignment, Planner, Result, Trial, path, split_path};
use crate::experiment::{ElementType, Expectation, Measure, Precision};
use crate::{gate, registry};

/// What describes the whole sweep and cannot differ from cell to cell.
const OF_THE_SWEEP: [&str; 9] = [
    "name",
    "question",
    "analysis",
    "measure",
    "axes",
    "override",
    "keep_weights",
    "exclude",
    "expect",
];

/// A condition on cells, with its place.
struct Filter<'a> {
    at: Vec<String>,
    when: &'a BTreeMap<String, Value>,
}

impl Filter<'_> {
    /// As the file writes it, and what becomes of one that finds nothing.
    fn words(&self) -> (&'static str, &'static str) {
        match self.at.first().map(String::as_str) {
            Some("exclude") => ("[[exclude]]", "leaves nothing out"),
            _ => ("[[override]]", "changes nothing"),
        }
    }
}

/// Whether a cell of the sweep has one of the values that are named, on each axis that is.
pub(super) fn holds(
    when: &BTreeMap<String, Value>,
    kind: TrialKind,
    assignment: &Assignment,
) -> bool {
    when.iter().all(|(axis, wanted)| {
        let value = if axis == "measure" {
            Some(Value::from(kind.name()))
        } else {
            assignment.get(axis).cloned()
        };
        value.is_some_and(|value| values_of(wanted).iter().any(|one| same(one, &value)))
    })
}

/// One value or a list of them.
fn values_of(wanted: &Value) -> &[Value] {
    match wanted {
        Value::Array(any) => any,
        one => std::slice::from_ref(one),
    }
}

/// `1` and `1.0` are the same setting.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn all_of<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    values.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Planner {
    fn filters(&self) -> Vec<Filter<'_>> {
        let excluded = self.experiment.exclude.iter().enumerate();
        let excluded = excluded
            .map(|(index, when)| Filter { at: path(&["exclude", &index.to_string()]), when });
        let overrides = self.experiment.overrides.iter().enumerate();
        let overrides = overrides.map(|(index, change)| Filter {
            at: path(&["override", &index.to_string(), "when"]),
            when: &change.when,
        });
        excluded.chain(overrides).collect()
    }

    /// Names in filters, overrides and axes of one architecture or task. What exists and finds nothing here
    /// comes back as sentences.
    pub(super) fn check_filters(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for filter in self.filters() {
            for (axis, wanted) in filter.when {
                notes.extend(self.check_condition(&filter, axis, wanted)?);
            }
        }
        for axis in self.experiment.axes.keys().filter(|axis| axis.contains('.')) {
            let at = path(&["axes", axis]);
            if let Some(why) = self.check_setting(axis, &at)? {
                notes.push(format!(
                    "{}: axis `{axis}` changes nothing: {why}",
                    self.document.place(&at)
                ));
            }
        }
        for (index, change) in self.experiment.overrides.iter().enumerate() {
            for setting in change.set.keys() {
                let at = path(&["override", &index.to_string(), "set", setting]);
                let why = self.check_setting(setting, &at)?;
                let swept = self.experiment.axes.contains_key(setting);
                let why = why.or_else(|| swept.then(|| "it is an axis, which goes first".into()));
                if let Some(why) = why {
                    notes.push(format!(
                        "{}: `{setting}` of this [[override]] changes nothing: {why}",
                        self.document.place(&at)
                    ));
                }
            }
        }
        Ok(notes)
    }

    /// One axis of a filter with its values: each must be one that the axis could have.
    fn check_condition(
        &self,
        filter: &Filter<'_>,
        axis: &str,
        wanted: &Value,
    ) -> Result<Option<String>> {
        let mut at = filter.at.clone();
        at.push(axis.to_owned());
        let swept: Vec<Value> = match (axis, self.experiment.axes.get(axis)) {
            ("measure", _) => {
                self.experiment.measure.iter().map(|kind| kind.name().into()).collect()
            }
            (_, Some(values)) => values.clone(),
            (_, None) => {
                let known: Vec<&str> =
                    self.experiment.axes.keys().map(String::as_str).chain(["measure"]).collect();
                let message = format!("`{axis}` is not swept here");
                return Err(self.document.error_with_names(&at, &message, axis, &known));
            }
        };
        let values = values_of(wanted);
        if values.is_empty() {
            return Err(self.document.error(&at, "an empty list finds no cell".into()));
        }
        for (index, value) in values.iter().enumerate() {
            let mut at = at.clone();
            if wanted.is_array() {
                at.push(index.to_string());
            }
            self.check_value(axis, value, &at)?;
        }
        let is_absent = |value: &&Value| !swept.iter().any(|other| same(other, value));
        let absent: Vec<&Value> = values.iter().filter(is_absent).collect();
        if absent.is_empty() {
            return Ok(None);
        }
        let (what, then) = filter.words();
        let ending = if absent.len() == values.len() {
            format!("this {what} {then}")
        } else {
            format!("this {what} does not find it")
        };
        Ok(Some(format!(
            "{}: no cell has {axis} = {} (swept: {}): {ending}",
            self.document.place(&at),
            all_of(absent.into_iter()),
            all_of(swept.iter())
        )))
    }

    /// A value that an axis of this name cannot have.
    fn check_value(&self, axis: &str, value: &Value, at: &[String]) -> Result<()> {
        let as_setting = |error: Option<serde_json::Error>| match error {
            Some(error) => Err(self.document.error(at, error.to_string())),
            None => Ok(()),
        };
        match axis {
            "arch" => self.check_name("architecture", &registry::all_names(), value, at),
            "task" => self.check_name("task", &task_names(), value, at),
            "measure" => {
                let names = TrialKind::ALL.map(TrialKind::name);
                self.check_name("measurement", &names, value, at)
            }
            "dtype" => as_setting(serde_json::from_value::<ElementType>(value.clone()).err()),
            "precision" => as_setting(serde_json::from_value::<Precision>(value.clone()).err()),
            "length" | "seed" if value.as_u64().is_none() => {
                let message = format!("axis `{axis}` takes whole numbers from 0, not {value}");
                Err(self.document.error(at, message))
            }
            _ => Ok(()),
        }
    }

    fn check_name(&self, what: &str, names: &[&str], value: &Value, at: &[String]) -> Result<()> {
        match value.as_str() {
            Some(name) if names.contains(&name) => Ok(()),
            Some(name) => {
                let message = format!("there is no {what} called `{name}`");
                Err(self.document.error_with_names(at, &message, name, names))
            }
            None => {
                let message = format!("{value} is not the name of a {what}");
                Err(self.document.error(at, message))
            }
        }
    }

    /// A dotted path of an axis or an override: what it names must exist. Gives the reason why it changes
    /// nothing here, if so.
    fn check_setting(&self, setting: &str, at: &[String]) -> Result<Option<String>> {
        let parts = split_path(setting);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let options: Vec<&str> = match parts.as_slice() {
            [first, ..] if OF_THE_SWEEP.contains(first) => {
                let message = format!("`{first}` is of the whole sweep: no cell has its own");
                return Err(self.document.error(at, message));
            }
            ["arch", name, ..] => {
                let names = registry::all_names();
                self.check_name("architecture", &names, &(*name).into(), at)?;
                let options = registry::find(name).map(Architecture::options).unwrap_or_default();
                options.iter().map(|(doc, _)| doc.name).collect()
            }
            ["task", name, ..] => {
                self.check_name("task", &task_names(), &(*name).into(), at)?;
                let options = unroll_tasks::find(name).map(|found| (found.options)());
                options.unwrap_or_default().iter().map(|(doc, _)| doc.name).collect()
            }
            _ => return Ok(None),
        };
        let (kind, name) = (parts[0], parts[1]);
        if let Some(option) = parts.get(2).filter(|option| !options.contains(option)) {
            let message = format!("{name} has no option `{option}`");
            return Err(self.document.error_with_names(at, &message, option, &options));
        }
        let swept = self.experiment.axes.get(kind).map_or(&[][..], Vec::as_slice);
        if swept.iter().any(|value| value == name) {
            return Ok(None);
        }
        Ok(Some(format!("`{name}` is not swept ({kind}: {})", all_of(swept.iter()))))
    }

    /// Expectations that no trial will be held to: told before hours of training.
    pub(super) fn unmet_by_anything(&self, trials: &[Trial], skipped: &[Skipped]) -> Vec<String> {
        let expected = self.experiment.expect.iter().enumerate();
        expected
            .filter(|(_, expected)| {
                // What is said of missing data is said already.
                !skipped.iter().any(|s| expected.task.as_ref().is_none_or(|task| *task == s.task))
            })
            .filter_map(|(index, expected)| {
                let (key, why) = nothing_to_judge(expected, trials)?;
                let place = self.document.place(&path(&["expect", &index.to_string(), key]));
                Some(format!("{place}: this [[expect]] will have no data: {why}"))
            })
            .collect()
    }

    /// Where the option of a task was given whose value names this file.
    pub(super) fn option_of_file(&self, task: &str, file: &std::path::Path) -> Option<Vec<String>> {
        let given = self.experiment.task.get(task).into_iter().flatten();
        let overridden = self.experiment.overrides.iter().flat_map(|change| &change.set);
        let swept = self.experiment.axes.iter();
        let swept = swept.flat_map(|(axis, values)| values.iter().map(move |v| (axis, v)));
        let prefix = format!("task.{task}.");
        let dotted = overridden
            .chain(swept)
            .filter_map(|(setting, value)| Some((setting.strip_prefix(&prefix)?, value)));
        let named = |value: &Value| {
            value.as_str().is_some_and(|name| !name.is_empty() && file.ends_with(name))
        };
        given
            .map(|(option, value)| (option.as_str(), value))
            .chain(dotted)
            .find(|(_, value)| named(value))
            .map(|(option, _)| self.origin(&["task", task, option]))
    }
}

fn task_names() -> Vec<&'static str> {
    unroll_tasks::registry().iter().map(|entry| entry.name).collect()
}

/// Whether a trial measures what an expectation looks at.
fn measures(measure: Measure, trial: &Trial) -> bool {
    let spec = &trial.spec;
    match measure {
        Measure::Test | Measure::Solved | Measure::StepsToThreshold => {
            spec.kind == TrialKind::Quality
        }
        Measure::HalfLife | Measure::Horizon => {
            spec.kind == TrialKind::Gradient
                || spec.kind == TrialKind::Quality
                    && spec.gradient.as_ref().is_some_and(|gradient| gradient.before_training)
        }
    }
}

/// The key of an expectation that leaves it without a trial, and why; `None` when it has some.
fn nothing_to_judge(expected: &Expectation, trials: &[Trial]) -> Option<(&'static str, String)> {
    let Expectation { measure, arch, series, task, length, .. } = expected;
    let measured = |trial: &Trial| measures(*measure, trial);
    let of_arch = |trial: &Trial| arch.as_ref().is_none_or(|arch| *arch == trial.cell.architecture);
    let of_series =
        |trial: &Trial| series.as_ref().is_none_or(|series| *series == trial.cell.series);
    let of_task =
        |trial: &Trial| task.as_ref().is_none_or(|task| gate::is_of(&trial.cell.task, task));
    let of_length = |trial: &Trial| length.is_none_or(|length| length == trial.cell.length);
    let is_wanted = |trial: &&Trial| {
        measured(trial) && of_arch(trial) && of_series(trial) && of_task(trial) && of_length(trial)
    };
    if trials.iter().any(|trial| is_wanted(&trial)) {
        return None;
    }
    let there = |name: &dyn Fn(&Trial) -> String| {
        let mut names: Vec<String> = Vec::new();
        for trial in trials {
            let name = name(trial);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    };
    let missing = |what: &str, given: &str, names: String| {
        format!("no trial is of {what} `{given}` (there are: {names})")
    };
    let none = |holds: &dyn Fn(&Trial) -> bool| !trials.iter().any(holds);
    Some(if none(&measured) {
        let kind = match measure {
            Measure::Test | Measure::Solved | Measure::StepsToThreshold => "quality",
            Measure::HalfLife | Measure::Horizon => "gradient",
        };
        let why =
            format!("`{}` comes from trials of `{kind}`, which `measure` has not", measure.name());
        ("measure", why)
    } else if none(&of_arch) {
        let given = arch.as_deref().unwrap_or_default();
        ("arch", missing("architecture", given, there(&|trial| trial.cell.architecture.clone())))
    } else if none(&of_series) {
        let given = series.as_deref().unwrap_or_default();
        ("series", missing("series", given, there(&|trial| trial.cell.series.clone())))
    } else if none(&of_task) {
        let given = task.as_deref().unwrap_or_default();
        ("task", missing("task", given, there(&|trial| trial.cell.task.clone())))
    } else if none(&of_length) {
        let given = length.map(|length| length.to_string()).unwrap_or_default();
        ("length", missing("length", &given, there(&|trial| trial.cell.length.to_string())))
    } else {
        ("measure", "no trial is all that it asks for".to_owned())
    })
}
