//! A report as a list of sections, before it is HTML or Markdown: both have the same content.

use std::collections::BTreeMap;

use crate::rows::Rows;

/// What a report says besides its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportContext {
    /// Name of the experiment.
    pub experiment: String,
    /// The question it answers, Markdown.
    pub question: String,
    /// How its results are to be read, Markdown.
    pub analysis: String,
    /// The commands that made the results.
    pub commands: Vec<String>,
    /// Machine, versions and the like, one fact a line.
    pub environment: Vec<String>,
    /// Id of the list of trials.
    pub manifest: String,
    /// The trials with records.
    pub trials: Vec<TrialLine>,
    /// Planned trials without a record.
    pub missing: usize,
    /// What was not planned, and why, a sentence each.
    pub skipped: Vec<String>,
}

/// What a report says of one trial so that it can be found and run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialLine {
    /// Id.
    pub id: String,
    /// What was measured: `quality`, ...
    pub kind: String,
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Length, steps.
    pub length: usize,
    /// Seed.
    pub seed: u64,
}

/// A piece of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inline {
    Text(String),
    /// A name.
    Strong(String),
    Code(String),
}

/// Sentences put together from pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) Vec<Inline>);

impl Words {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn text(mut self, text: impl Into<String>) -> Self {
        self.0.push(Inline::Text(text.into()));
        self
    }

    pub(crate) fn strong(mut self, text: impl Into<String>) -> Self {
        self.0.push(Inline::Strong(text.into()));
        self
    }

    pub(crate) fn code(mut self, text: impl Into<String>) -> Self {
        self.0.push(Inline::Code(text.into()));
        self
    }

    /// `a`, `a and b`, `a, b and c`, and how many more when there are more than `most`.
    pub(crate) fn names<'a>(
        mut self,
        names: impl IntoIterator<Item = &'a str>,
        most: usize,
    ) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        let shown = names.len().min(most);
        let others = names.len() - shown;
        for (place, name) in names[..shown].iter().enumerate() {
            let last = place + 1 == shown && others == 0;
            if place > 0 {
                self = self.text(if last { " and " } else { ", " });
            }
            self = self.strong(*name);
        }
        if others > 0 { self.text(format!(" and {others} more")) } else { self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Words {
    fn from(text: String) -> Self {
        Self::new().text(text)
    }
}

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        Self::new().text(text)
    }
}

/// A part of a section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Block {
    /// A heading within the section.
    Heading(String),
    Words(Words),
    /// Text of the experiment's author, Markdown.
    Prose(String),
    List(Vec<Words>),
    Table {
        /// What it holds, for readers who hear it.
        caption: String,
        rows: Rows,
    },
    /// A plot by its file name.
    Plot(String),
    /// Lines to type.
    Code(String),
}

/// A section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) blocks: Vec<Block>,
}

impl Section {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), blocks: Vec::new() }
    }

    pub(crate) fn words(&mut self, words: impl Into<Words>) {
        let words = words.into();
        if !words.is_empty() {
            self.blocks.push(Block::Words(words));
        }
    }

    pub(crate) fn heading(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Heading(text.into()));
    }

    /// A table, unless it is empty.
    pub(crate) fn table(&mut self, caption: impl Into<String>, rows: Rows) {
        if !rows.is_empty() {
            self.blocks.push(Block::Table { caption: caption.into(), rows });
        }
    }

    /// A table under a heading and with words, unless it is empty.
    pub(crate) fn titled_table(&mut self, title: &str, words: &str, rows: Rows) {
        if rows.is_empty() {
            return;
        }
        self.heading(title);
        if !words.is_empty() {
            self.words(words);
        }
        self.table(title, rows);
    }
}

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) title: String,
    pub(crate) sections: Vec<Section>,
}

/// The trials by what they have in common, with the beginnings of their ids by seed.
pub(crate) fn trial_rows(trials: &[TrialLine]) -> Rows {
    let mut rows = Rows::new(&[
        ("task", false),
        ("length", true),
        ("series", false),
        ("measured", false),
        ("seed: trial", false),
    ]);
    let mut places = BTreeMap::new();
    for trial in trials {
        let key = (&trial.task, trial.length, &trial.series, &trial.kind);
        let next = rows.rows.len();
        let place = *places.entry(key).or_insert(next);
        if place == next {
            rows.rows.push(vec![
                trial.task.clone(),
                trial.length.to_string(),
                trial.series.clone(),
                trial.kind.clone(),
                String::new(),
            ]);
        }
        let cell = &mut rows.rows[place][4];
        let id = trial.id.get(..10).unwrap_or(&trial.id);
        let separator = if cell.is_empty() { "" } else { ", " };
        cell.push_str(&format!("{separator}{}: {id}", trial.seed));
    }
    rows
}
