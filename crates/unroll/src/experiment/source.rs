//! Experiment files as trees of values that remember where they stand in the text.
//!
//! Everything that is wrong with a file is told with file, line, column, the names that would be
//! right and the nearest of them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, NamedSource, SourceSpan};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong in an experiment file or a `--set`.
#[derive(Debug, Clone, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct SourceError {
    message: String,
    #[source_code]
    source_code: NamedSource<String>,
    #[label("{label}")]
    span: SourceSpan,
    label: String,
    #[help]
    help: Option<String>,
}

impl SourceError {
    /// What is wrong, without its place.
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// Where a value comes from.
#[derive(Debug, Clone)]
struct Place {
    /// Index into [`Document::sources`].
    source: usize,
    key: Range<usize>,
    value: Range<usize>,
}

/// A text with a name: the file, or one `--set`.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    text: String,
}

/// An experiment file with `--set` values over it.
#[derive(Debug, Clone)]
pub struct Document {
    tree: Map<String, Value>,
    sources: Vec<Source>,
    /// By dotted path; array elements by index.
    places: HashMap<Vec<String>, Place>,
    /// A number that no setting can have: NaN or infinite.
    not_finite: Option<(Place, String)>,
}

impl Document {
    /// Parses a file's text.
    ///
    /// # Errors
    /// When it is not TOML.
    pub fn parse(path: &Path, text: String) -> Result<Self, Box<SourceError>> {
        let mut document = Self {
            tree: Map::new(),
            sources: vec![Source { name: path.display().to_string(), text }],
            places: HashMap::new(),
            not_finite: None,
        };
        document.tree = document.read(0)?;
        Ok(document)
    }

    /// Sets one `key=value`, `key` being a dotted path. A value that is no TOML is taken as text, so
    /// that `--set train.optimizer=sgd` needs no quotes.
    ///
    /// # Errors
    /// When there is no `=` or the key is malformed.
    pub fn set(&mut self, assignment: &str) -> Result<(), Box<SourceError>> {
        let source = self.sources.len();
        let mut push = |text: String| {
            self.sources.truncate(source);
            self.sources.push(Source { name: "--set".into(), text });
        };
        push(assignment.to_owned());
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(self.error_at(
                &Place { source, key: 0..assignment.len(), value: 0..assignment.len() },
                "not of the form key=value",
                "no `=` here".into(),
                Some(
                    "for example `--set train.steps=500` or `--set 'axes.length=[50, 100]'`".into(),
                ),
            ));
        };
        let tree = match self.read(source) {
            Ok(tree) => tree,
            Err(error) if self.not_finite.is_some() => return Err(error),
            Err(error) => {
                let quoted = Value::String(value.trim().to_owned());
                self.sources[source].text = format!("{}={quoted}", key.trim());
                self.read(source).map_err(|_| error)?
            }
        };
        merge(&mut self.tree, tree);
        Ok(())
    }

    /// The values.
    pub fn tree(&self) -> &Map<String, Value> {
        &self.tree
    }

    /// The file's text as it was read.
    pub fn text(&self) -> &str {
        &self.sources[0].text
    }

    /// The file's text with what `--set` gives written into it, and a line for each that says so: a text that
    /// is the experiment as it runs. Comments and order stay where they can; a file in which they cannot is
    /// written out anew, with the original as a comment.
    pub fn as_run(&self) -> String {
        let sets = &self.sources[1..];
        if sets.is_empty() {
            return self.text().to_owned();
        }
        let mut head =
            String::from("# As it was run, with settings from the command line written into it:\n");
        for set in sets {
            head.push_str(&format!("# --set {}\n", Value::String(set.text.clone())));
        }
        let changed = sets.iter().try_fold(self.text().to_owned(), |text, set| {
            let table = DeTable::parse(&set.text).ok()?;
            let mut leaves = Vec::new();
            leaves_of(table.get_ref(), &mut Vec::new(), &mut leaves);
            leaves.into_iter().try_fold(text, |text, (path, value)| {
                with_value(&text, &path, set.text.get(value)?)
            })
        });
        let is_it = |text: &String| {
            Self::parse(Path::new(""), text.clone()).is_ok_and(|other| other.tree == self.tree)
        };
        let text = changed.filter(is_it).unwrap_or_else(|| {
            let anew = toml::to_string_pretty(&self.tree).unwrap_or_default();
            let before = self.text().lines().map(|line| format!("# {line}\n"));
            format!("{anew}\n# The file:\n{}", before.collect::<String>())
        });
        format!("{head}\n{text}")
    }

    fn read(&mut self, source: usize) -> Result<Map<String, Value>, Box<SourceError>> {
        let text = self.sources[source].text.clone();
        let table = DeTable::parse(&text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let place = Place { source, key: span.clone(), value: span };
            self.error_at(&place, "not valid TOML", error.message().to_owned(), None)
        })?;
        let tree = self.table(source, table.get_ref(), &mut Vec::new());
        match &self.not_finite {
            Some((place, number)) => {
                let label = format!("`{number}` here");
                Err(self.error_at(place, "a number must be finite", label, None))
            }
            None => Ok(tree),
        }
    }

    fn table(
        &mut self,
        source: usize,
        table: &DeTable<'_>,
        path: &mut Vec<String>,
    ) -> Map<String, Value> {
        let mut map = Map::new();
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            let place = Place { source, key: key.span(), value: value.span() };
            self.places.insert(path.clone(), place);
            let value = self.value(source, value, path);
            map.insert(key.get_ref().to_string(), value);
            path.pop();
        }
        map
    }

    fn value(
        &mut self,
        source: usize,
        value: &Spanned<DeValue<'_>>,
        path: &mut Vec<String>,
    ) -> Value {
        match value.get_ref() {
            DeValue::Table(table) => Value::Object(self.table(source, table, path)),
            DeValue::Array(items) => {
                let items = items.iter().enumerate().map(|(index, item)| {
                    path.push(index.to_string());
                    let place = Place { source, key: item.span(), value: item.span() };
                    self.places.insert(path.clone(), place);
                    let item = self.value(source, item, path);
                    path.pop();
                    item
                });
                Value::Array(items.collect())
            }
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Integer(integer) => {
                let digits = integer.as_str().replace('_', "");
                match i64::from_str_radix(&digits, integer.radix()) {
                    Ok(number) => number.into(),
                    // Too large for the types that settings have: reported there as a wrong number.
                    Err(_) => digits.parse::<f64>().map_or(Value::Null, Value::from),
                }
            }
            DeValue::Float(float) => match float.as_str().replace('_', "").parse::<f64>() {
                Ok(number) if number.is_finite() => number.into(),
                // JSON has no NaN or infinity, and no setting wants one.
                _ => {
                    let place = Place { source, key: value.span(), value: value.span() };
                    self.not_finite.get_or_insert((place, float.as_str().to_owned()));
                    Value::Null
                }
            },
            DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
        }
    }

    /// Reads the tree as `T`; errors are told with their place.
    ///
    /// # Errors
    /// For unknown keys and wrong types.
    pub fn deserialize<T: DeserializeOwned>(
        &self,
        tree: &Map<String, Value>,
    ) -> Result<T, Box<SourceError>> {
        serde_path_to_error::deserialize(&Value::Object(tree.clone())).map_err(|error| {
            let path: Vec<String> = error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                    serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                    serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
                    serde_path_to_error::Segment::Unknown => None,
                })
                .collect();
            // TOML's word for what serde calls a sequence.
            let message =
                error.inner().to_string().replace("expected a sequence", "expected a list");
            self.error(&path, message)
        })
    }

    /// An error at the value (or the nearest table around it) that a path names. Names in backticks
    /// after "expected" are taken as what would be right.
    pub fn error(&self, path: &[String], message: String) -> Box<SourceError> {
        let help = suggestion(&message);
        let help = match usage(path, &message) {
            Some(usage) => {
                Some(help.map_or_else(|| usage.into(), |help| format!("{help} {usage}")))
            }
            None => help,
        };
        let shown = path.join(".");
        let (place, depth) = self.locate(path);
        let mut place = place.unwrap_or(Place { source: 0, key: 0..0, value: 0..0 });
        // A wrong key is marked at the key, a wrong value at the value.
        if !message.contains("unknown field") && depth == path.len() {
            place.key = place.value.clone();
        }
        let title = if shown.is_empty() { message.clone() } else { format!("`{shown}` is wrong") };
        self.error_at(&place, &title, message, help)
    }

    /// As [`error`](Self::error), with the names that would be right.
    pub fn error_with_names(
        &self,
        path: &[String],
        message: &str,
        given: &str,
        names: &[&str],
    ) -> Box<SourceError> {
        let mut error = self.error(path, message.to_owned());
        error.help = Some(help_with_names(given, names));
        error
    }

    fn locate(&self, path: &[String]) -> (Option<Place>, usize) {
        for depth in (1..=path.len()).rev() {
            if let Some(place) = self.places.get(&path[..depth]) {
                return (Some(place.clone()), depth);
            }
        }
        (None, 0)
    }

    /// Where a path stands, for sentences that are no errors: `FILE:LINE:COLUMN`.
    pub fn place(&self, path: &[String]) -> String {
        let (place, _) = self.locate(path);
        let place = place.unwrap_or(Place { source: 0, key: 0..0, value: 0..0 });
        let source = &self.sources[place.source];
        let (line, column) = line_and_column(&source.text, place.key.start);
        format!("{}:{line}:{column}", source.name)
    }

    /// Whether the document (not a default) gives this path.
    pub fn gives(&self, path: &[String]) -> bool {
        self.places.contains_key(path)
    }

    fn error_at(
        &self,
        place: &Place,
        message: &str,
        label: String,
        help: Option<String>,
    ) -> Box<SourceError> {
        let source = &self.sources[place.source];
        let end = place.key.end.min(source.text.len());
        let start = place.key.start.min(end);
        // The position is in the message too: it must survive where no source excerpt is drawn.
        let (line, column) = line_and_column(&source.text, start);
        let message = format!("{}:{line}:{column}: {message}", source.name);
        Box::new(SourceError {
            message,
            source_code: NamedSource::new(&source.name, source.text.clone()).with_language("TOML"),
            span: (start..end).into(),
            label,
            help,
        })
    }
}

/// Paths and places of the values of a table that are no tables with something in them.
fn leaves_of(
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    leaves: &mut Vec<(Vec<String>, Range<usize>)>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(below) if !below.is_empty() => leaves_of(below, path, leaves),
            _ => leaves.push((path.clone(), value.span())),
        }
        path.pop();
    }
}

/// A text of TOML in which a path has this value; `None` where there is no simple place for it.
fn with_value(text: &str, path: &[String], value: &str) -> Option<String> {
    let document = Document::parse(Path::new(""), text.to_owned()).ok()?;
    if let Some(place) = document.places.get(path) {
        let (before, after) = (text.get(..place.value.start)?, text.get(place.value.end..)?);
        return Some(format!("{before}{value}{after}"));
    }
    let (last, tables) = path.split_last()?;
    let line = format!("{} = {value}\n", key_of(last));
    let Some(table) = document.places.get(tables) else {
        // Below a table of its own, at the end.
        if tables.is_empty() {
            return Some(format!("{line}{text}"));
        }
        let name: Vec<String> = tables.iter().map(|key| key_of(key)).collect();
        return Some(format!("{}\n\n[{}]\n{line}", text.trim_end(), name.join(".")));
    };
    // After the line of the table's heading.
    let end = text.get(table.key.end..)?.find('\n').map(|end| table.key.end + end + 1);
    match end {
        Some(end) => Some(format!("{}{line}{}", text.get(..end)?, text.get(end..)?)),
        None => Some(format!("{text}\n{line}")),
    }
}

/// A key as TOML writes it.
fn key_of(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    (line, column)
}

/// Sets the value at a dotted path in a tree, making tables on the way.
pub fn set_path(tree: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            tree.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let below = tree.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            if let Value::Object(below) = below {
                set_path(below, rest, value);
            }
        }
    }
}

/// `over` over `under`, table by table; other values are replaced.
fn merge(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The nearest of some names, and all of them.
pub fn help_with_names(given: &str, names: &[&str]) -> String {
    let all = names.join(", ");
    match nearest_name(given, names) {
        Some(name) => format!("did you mean `{name}`? The names are: {all}"),
        None => format!("the names are: {all}"),
    }
}

/// The one of some names that is like the given one, if there is one.
pub fn nearest_name<'a>(given: &str, names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(given, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity >= 0.5)
        .map(|(_, name)| name)
}

/// From serde's "unknown field `x`, expected one of `a`, `b`" to help. The message has all names already.
fn suggestion(message: &str) -> Option<String> {
    let (given, expected) = message.split_once("expected")?;
    let between = |text: &'_ str| -> Vec<String> {
        text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let given = between(given).pop()?;
    let names = between(expected);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    nearest_name(&given, &names).map(|name| format!("did you mean `{name}`?"))
}

/// How the tables are written whose parts are taken for one another.
fn usage(path: &[String], message: &str) -> Option<&'static str> {
    let of_shape = ["unknown field", "missing field", "invalid type", "expected a"];
    if !of_shape.iter().any(|shape| message.contains(shape)) {
        return None;
    }
    match path {
        [first] | [first, _] | [first, _, _] if first == "override" => Some(
            "an override says where and what:\n\n[[override]]\nwhen = { arch = \"lstm\" }\n\
             set = { \"train.learning_rate\" = 0.001 }",
        ),
        [first] | [first, _] if first == "exclude" => Some(
            "what is left out stands under two brackets:\n\n[[exclude]]\narch = \"rnn\"\nlength = [100]",
        ),
        _ => None,
    }
}

/// `a.b.c` to its parts. A key in an axis or override may name a setting by its dotted path.
pub fn split_path(path: &str) -> Vec<String> {
    path.split('.').map(|part| part.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document::parse(Path::new("e.toml"), text.into()).unwrap()
    }

    #[test]
    fn set_overrides_and_accepts_bare_words() {
        let mut document = document("[train]\nsteps = 3\noptimizer = \"adam\"\n");
        document.set("train.steps=5").unwrap();
        document.set("train.optimizer=sgd").unwrap();
        document.set("axes.length=[1, 2]").unwrap();
        let expected = serde_json::json!({
            "train": {"steps": 5, "optimizer": "sgd"}, "axes": {"length": [1, 2]}
        });
        assert_eq!(Value::Object(document.tree().clone()), expected);
        assert!(document.set("train.steps").is_err());
    }

    /// Whatever is set, the text that is kept says the same as what runs.
    #[test]
    fn a_file_with_settings_is_written_as_it_runs() {
        let file = "# why\nname = \"x\"\n\n[axes]\nseed = [0, 1] # two\n\n[train] # fast\nsteps = 60\n\n\
                    [arch.gru]\nbias = true\n";
        assert_eq!(document(file).as_run(), file);
        for (sets, expected) in [
            (&["train.steps=61"][..], "[train] # fast\nsteps = 61\n"),
            (&["train.optimizer=sgd"], "[train] # fast\noptimizer=\"sgd\"\nsteps = 60\n"),
            (&["axes.seed=[7]", "axes.seed=[8, 9]"], "seed = [8, 9] # two"),
            (&["axes.\"train.steps\"=[1, 2]"], "\"train.steps\" = [1, 2]"),
            (
                &["match.by=flops", "match.reference=gru"],
                "[match]\nreference = \"gru\"\nby = \"flops\"",
            ),
            (&["keep_weights=true"], "keep_weights = true\n# why"),
            (&["gradient.jacobian={}"], "[gradient]\njacobian = {}"),
            (&["train={batch_size=3}"], "batch_size = 3"),
            (&["train=3"], "# The file:\n# # why\n"),
        ] {
            let mut document = document(file);
            sets.iter().for_each(|set| document.set(set).unwrap());
            let text = document.as_run();
            let again = Document::parse(Path::new("e.toml"), text.clone()).unwrap();
            assert_eq!(again.tree(), document.tree(), "{text}");
            let spaced = expected.replace("optimizer=", "optimizer = ");
            assert!(text.contains(&spaced), "{sets:?}: {text}");
            assert!(text.starts_with("# As it was run"), "{text}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_called_so() {
        for number in ["nan", "-inf", "+inf", "1e999"] {
            let text = format!("[train]\nlearning_rate = {number}\n");
            let error = Document::parse(Path::new("e.toml"), text).unwrap_err();
            assert!(error.to_string().starts_with("e.toml:2:17:"), "{error}");
            assert!(error.to_string().contains("must be finite"), "{error}");
            let set = document("").set(&format!("train.learning_rate={number}"));
            assert!(set.unwrap_err().to_string().contains("must be finite"));
        }
    }

    #[test]
    fn errors_name_the_place_and_the_nearest_name() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct Train {
            steps: u64,
            optimizer: String,
        }
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct File {
            train: Train,
        }
        let document = document("# comment\n[train]\nstepz = 3\n");
        let error = document.deserialize::<File>(document.tree()).unwrap_err();
        assert!(error.to_string().starts_with("e.toml:3:1:"), "{error}");
        assert!(error.help.as_deref().unwrap().contains("did you mean `steps`"), "{error:?}");

        let document = Document::parse(Path::new("e.toml"), "a = = 1".into()).unwrap_err();
        assert!(document.to_string().starts_with("e.toml:1:"), "{document}");
    }
}
