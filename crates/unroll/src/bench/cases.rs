//! What benchmarks measure, as data.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::experiment::plan::PlanError;
use crate::experiment::source::{Document, SourceError};
use crate::registry;

/// Cases for pull requests: minutes.
pub const FAST: &str = include_str!("../../../../benches/fast.toml");
/// Every architecture at several lengths and sizes.
pub const FULL: &str = include_str!("../../../../benches/full.toml");

/// A file of cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// The cases.
    pub case: Vec<Case>,
}

/// One layer at one size: what `unroll bench layer` measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Architecture.
    pub arch: String,
    /// `train` or `infer`.
    #[serde(default = "train")]
    pub mode: String,
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub seq_len: usize,
    /// Hidden size, and that of the input.
    pub hidden: usize,
    /// Attention heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Most instructions per iteration, for `unroll bench counts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Whether the name tells the heads: another case differs in them alone.
    #[serde(skip)]
    names_heads: bool,
}

fn train() -> String {
    "train".to_owned()
}

impl CaseFile {
    /// Reads and checks a file of cases.
    ///
    /// # Errors
    /// When it cannot be read, or a case cannot be: with its place.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PlanError::Read { path: path.display().to_string(), source })?;
        Ok(Self::of(&Document::parse(path, text)?)?)
    }

    /// Cases that come with the program.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(name: &str, text: &str) -> Result<Self, Box<SourceError>> {
        Self::of(&Document::parse(Path::new(name), text.to_owned())?)
    }

    fn of(document: &Document) -> Result<Self, Box<SourceError>> {
        let mut file: Self = document.deserialize(document.tree())?;
        let at =
            |index: usize, key: &str| vec!["case".to_owned(), index.to_string(), key.to_owned()];
        if file.case.is_empty() {
            return Err(document.error(&["case".to_owned()], "there is no case".into()));
        }
        let ids: Vec<String> = file.case.iter().map(Case::id).collect();
        for (index, case) in file.case.iter_mut().enumerate() {
            let is_other = |(other, id): (usize, &String)| other != index && *id == ids[index];
            case.names_heads = case.heads.is_some() && ids.iter().enumerate().any(is_other);
        }
        for (index, case) in file.case.iter().enumerate() {
            if registry::find(&case.arch).is_none() {
                let message = format!("there is no architecture called `{}`", case.arch);
                let names = registry::all_names();
                let at = at(index, "arch");
                return Err(document.error_with_names(&at, &message, &case.arch, &names));
            }
            if !["train", "infer"].contains(&case.mode.as_str()) {
                let message = format!("`{}` is neither `train` nor `infer`", case.mode);
                return Err(document.error(&at(index, "mode"), message));
            }
            for (key, value) in
                [("batch", case.batch), ("seq_len", case.seq_len), ("hidden", case.hidden)]
            {
                if value == 0 {
                    let message = format!("`{key}` must be at least 1");
                    return Err(document.error(&at(index, key), message));
                }
            }
            if let Err(error) = case.check() {
                let key = if case.heads.is_some() { "heads" } else { "hidden" };
                return Err(document.error(&at(index, key), error.to_string()));
            }
            if file.case[..index].iter().any(|other| other.id() == case.id()) {
                let message = format!("the case `{}` is there twice", case.id());
                return Err(document.error(&at(index, "arch"), message));
            }
        }
        Ok(file)
    }
}

impl Case {
    /// Name in tables: `train/lstm/B16-T128-H64`, with `-N4` for the heads where another case of the file
    /// differs in them alone.
    pub fn id(&self) -> String {
        let Self { arch, mode, batch, seq_len, hidden, .. } = self;
        let heads = self.heads.filter(|_| self.names_heads);
        let heads = heads.map_or_else(String::new, |heads| format!("-N{heads}"));
        format!("{mode}/{arch}/B{batch}-T{seq_len}-H{hidden}{heads}")
    }

    /// Whether the architecture has such a layer.
    fn check(&self) -> unroll_core::Result<()> {
        let Some(architecture) = registry::find(&self.arch) else { return Ok(()) };
        let mut given = serde_json::Map::new();
        given.insert("input_size".to_owned(), self.hidden.into());
        given.insert("hidden_size".to_owned(), self.hidden.into());
        if let Some(heads) = self.heads {
            given.insert("num_heads".to_owned(), heads.into());
        }
        architecture.resolve(&given).map(|_| ())
    }

    /// Arguments after `unroll bench layer`.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            ("--arch", self.arch.clone()),
            ("--mode", self.mode.clone()),
            ("--batch", self.batch.to_string()),
            ("--seq-len", self.seq_len.to_string()),
            ("--hidden", self.hidden.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if let Some(heads) = self.heads {
            arguments.extend(["--heads".to_owned(), heads.to_string()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_cases_are_sound_and_the_full_ones_hold_every_architecture() {
        CaseFile::parse("fast.toml", FAST).unwrap();
        let full = CaseFile::parse("full.toml", FULL).unwrap();
        for name in registry::all_names() {
            for mode in ["train", "infer"] {
                assert!(
                    full.case.iter().any(|case| case.arch == name && case.mode == mode),
                    "benches/full.toml has no case with arch = \"{name}\" and mode = \"{mode}\": add one"
                );
            }
        }
    }

    #[test]
    fn wrong_cases_are_refused_with_their_place() {
        let good = "[[case]]\narch = \"gru\"\nbatch = 1\nseq_len = 2\nhidden = 4\n";
        for (text, expected) in [
            (good.replace("gru", "gruu"), "did you mean"),
            (good.replace("batch = 1", "batch = 0"), "`batch` must be at least 1"),
            (good.replace("batch", "bach"), "bach"),
            (format!("{good}mode = \"fast\"\n"), "neither"),
            (format!("{good}{good}"), "twice"),
            (format!("{good}heads = 2\n"), "num_heads"),
            (good.replace("gru", "mha") + "heads = 3\n", "heads"),
            ("case = []".to_owned(), "no case"),
        ] {
            let error = CaseFile::parse("cases.toml", &text).unwrap_err();
            let report = format!("{:?}", miette::Report::new(*error));
            assert!(report.contains(expected), "{report}");
        }
    }

    #[test]
    fn the_name_tells_the_heads_only_where_it_has_to() {
        let case = |heads: usize, hidden: usize| {
            format!(
                "[[case]]\narch = \"mha\"\nbatch = 1\nseq_len = 2\nhidden = {hidden}\nheads = {heads}\n"
            )
        };
        let text = case(2, 4) + &case(4, 4) + &case(2, 8);
        let file = CaseFile::parse("cases.toml", &text).unwrap();
        let ids: Vec<String> = file.case.iter().map(Case::id).collect();
        assert_eq!(ids, ["train/mha/B1-T2-H4-N2", "train/mha/B1-T2-H4-N4", "train/mha/B1-T2-H8"]);
        assert!(CaseFile::parse("cases.toml", &(case(2, 4) + &case(2, 4))).is_err());
    }
}
