//! Where in a file a setting that is wrong was given.

use unroll_core::Architecture;
use unroll_tasks::TaskEntry;

use super::{OWN_FILE, Planner, Stop, path};
use crate::experiment::source::SourceError;

impl Planner {
    /// Where a setting was given: at its own place, or at the axis or override that names it.
    pub(super) fn origin(&self, parts: &[&str]) -> Vec<String> {
        let direct = path(parts);
        let dotted = parts.join(".");
        if self.experiment.axes.contains_key(&dotted) {
            return path(&["axes", &dotted]);
        }
        if !self.document.gives(&direct) {
            for (index, change) in self.experiment.overrides.iter().enumerate() {
                if change.set.contains_key(&dotted) {
                    return path(&["override", &index.to_string(), "set", &dotted]);
                }
            }
        }
        direct
    }

    pub(super) fn model_error(
        &self,
        error: &unroll_core::Error,
        architecture: &dyn Architecture,
    ) -> Box<SourceError> {
        let (option, names) = match error {
            unroll_core::Error::Option { option, .. } => (option.as_str(), None),
            unroll_core::Error::UnknownOption { option, known, .. } => {
                (option.as_str(), Some(known))
            }
            _ => ("", None),
        };
        let name = architecture.name();
        let candidates = [
            vec!["arch", name, option],
            vec!["model", option],
            vec!["init", option],
            vec!["match", option],
        ];
        let at = candidates
            .iter()
            .map(|parts| self.origin(parts))
            .find(|at| self.document.gives(at))
            .unwrap_or_else(|| path(&["axes", "arch"]));
        match names {
            Some(names) => {
                let message = format!("{name} has no option `{option}`");
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.document.error_with_names(&at, &message, option, &names)
            }
            None => self.document.error(&at, format!("{name}: {error}")),
        }
    }

    pub(super) fn task_error(&self, error: &unroll_tasks::Error, entry: &TaskEntry) -> Stop {
        if let unroll_tasks::Error::NotFetched { set, .. } = error {
            return Stop::Absent(set.clone());
        }
        let (option, names) = match error {
            unroll_tasks::Error::Option { option, .. } => (option.as_str(), None),
            unroll_tasks::Error::UnknownOption { option, known, .. } => {
                (option.as_str(), Some(known))
            }
            // What is wrong in a file is told where the file is named.
            _ => (OWN_FILE, None),
        };
        // A file that cannot be read or holds something else was named by an option.
        let file = match error {
            unroll_tasks::Error::MissingData { path, .. }
            | unroll_tasks::Error::Data { path, .. }
            | unroll_tasks::Error::Cell { path, .. } => self.option_of_file(entry.name, path),
            _ => None,
        };
        let mut at = file.unwrap_or_else(|| self.origin(&["task", entry.name, option]));
        if !self.document.gives(&at) {
            at = match option {
                "length" => path(&["axes", "length"]),
                _ => path(&["axes", "task"]),
            };
        }
        match names {
            Some(names) => {
                let message = format!("{} has no option `{option}`", entry.name);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.document.error_with_names(&at, &message, option, &names).into()
            }
            None => self.document.error(&at, format!("{}: {error}", entry.name)).into(),
        }
    }
}
