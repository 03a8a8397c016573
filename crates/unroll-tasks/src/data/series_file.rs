//! The `.ts` text format of the UEA and UCR time series classification archives (Bagnall et al.
//! 2018), gzip or plain.
//!
//! A header of `@` lines, then one line per case: its channels separated by `:`, each a list of
//! numbers, and the class last. Lengths may differ from case to case. A missing value is `?` or
//! `NaN`, unless the header says `@missing false`. Time stamps and regression targets are not
//! supported, and say so.

use std::path::Path;

use super::file::{finite, for_each_line};
use crate::{Error, Result};

/// A classified time series.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// `(T, C)` row by row: time steps of all channels; NaN where a value is missing.
    pub values: Vec<f64>,
    /// Steps (`T`).
    pub length: usize,
    /// Index into [`SeriesFile::classes`].
    pub class: u32,
}

/// Content of a `.ts` file.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesFile {
    /// `@problemName`; empty when there is none.
    pub problem: String,
    /// Channels (`C`) of every case.
    pub channels: usize,
    /// Names of the classes in the order of the header.
    pub classes: Vec<String>,
    /// The cases in the order of the file; at least one.
    pub cases: Vec<Case>,
}

impl SeriesFile {
    /// Reads a `.ts` file, gzip or plain.
    ///
    /// # Errors
    /// [`Error::MissingData`] when it cannot be opened, [`Error::Data`] with the line
    /// where it is not what it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let mut parser = Parser::default();
        for_each_line(path, |_, line| parser.line(line.trim()))?;
        parser.finish().map_err(|message| Error::data(path, 0, message))
    }

    /// Steps of the longest case.
    pub fn longest(&self) -> usize {
        self.cases.iter().map(|case| case.length).max().unwrap_or(0)
    }

    /// Whether any value is missing.
    pub fn has_missing(&self) -> bool {
        self.cases.iter().any(|case| case.values.iter().any(|value| value.is_nan()))
    }
}

#[derive(Default)]
struct Parser {
    problem: String,
    /// `None` until the header or the first case tells.
    channels: Option<usize>,
    /// `@seriesLength`.
    series_length: Option<usize>,
    equal_length: bool,
    /// `@missing false` was read.
    complete: bool,
    classes: Vec<String>,
    in_data: bool,
    cases: Vec<Case>,
}

impl Parser {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with('#') {
            return Ok(());
        }
        if self.in_data {
            let case = self.case(line)?;
            self.cases.push(case);
            return Ok(());
        }
        let Some(directive) = line.strip_prefix('@') else {
            return Err("expected an `@` line: the cases come after `@data`".into());
        };
        let mut words = directive.split_whitespace();
        let key = words.next().unwrap_or_default().to_lowercase();
        let values: Vec<&str> = words.collect();
        self.directive(&key, &values)
    }

    fn directive(&mut self, key: &str, values: &[&str]) -> Result<(), String> {
        match key {
            "problemname" => self.problem = values.join(" "),
            "timestamps" => refuse(key, values, "time stamps are not supported")?,
            "missing" => self.complete = !flag(key, values)?,
            "targetlabel" => refuse(key, values, "regression targets are not supported")?,
            "univariate" => {
                if flag(key, values)? {
                    self.set_channels(1)?;
                }
            }
            "dimension" | "dimensions" => self.set_channels(count(key, values)?)?,
            "equallength" => self.equal_length = flag(key, values)?,
            "serieslength" => self.series_length = Some(count(key, values)?),
            "classlabel" => {
                if !flag(key, values)? {
                    return Err("without class labels there is nothing to learn".into());
                }
                self.classes = values[1..].iter().map(|&class| class.to_owned()).collect();
                if self.classes.is_empty() {
                    return Err("`@classLabel true` must name the classes".into());
                }
            }
            "data" if self.classes.is_empty() => {
                return Err("the header has no `@classLabel` line".into());
            }
            "data" => self.in_data = true,
            _ => return Err(format!("`@{key}` is not a line of a `.ts` header")),
        }
        Ok(())
    }

    fn set_channels(&mut self, channels: usize) -> Result<(), String> {
        match self.channels {
            Some(known) if known != channels => {
                Err(format!("{channels} channels, where {known} were expected"))
            }
            _ => {
                self.channels = Some(channels);
                Ok(())
            }
        }
    }

    fn case(&mut self, line: &str) -> Result<Case, String> {
        let Some((series, label)) = line.rsplit_once(':') else {
            return Err("a case is channels and class, separated by `:`".into());
        };
        let class = self
            .classes
            .iter()
            .position(|class| class == label.trim())
            .ok_or_else(|| format!("class `{}` is not in the header", label.trim()))?;
        let channels: Vec<Vec<f64>> = series
            .split(':')
            .map(|channel| channel.split(',').map(|value| self.value(value)).collect())
            .collect::<Result<_, String>>()?;
        self.set_channels(channels.len())?;
        let length = channels[0].len();
        if let Some(other) = channels.iter().find(|channel| channel.len() != length) {
            return Err(format!("channels of {length} and {} steps in one case", other.len()));
        }
        let first = self.cases.first().map(|case| case.length).filter(|_| self.equal_length);
        match self.series_length.or(first) {
            Some(expected) if expected != length => {
                return Err(format!("{length} steps, where {expected} were expected"));
            }
            _ => {}
        }
        let values = (0..length).flat_map(|step| channels.iter().map(move |c| c[step])).collect();
        Ok(Case { values, length, class: class as u32 })
    }

    fn value(&self, text: &str) -> Result<f64, String> {
        match text.trim() {
            "?" | "NaN" | "nan" if self.complete => {
                Err(format!("`{text}` is a missing value; the header says `@missing false`"))
            }
            "?" | "NaN" | "nan" => Ok(f64::NAN),
            number => finite(number),
        }
    }

    fn finish(self) -> Result<SeriesFile, String> {
        match self.channels {
            Some(channels) if !self.cases.is_empty() => Ok(SeriesFile {
                problem: self.problem,
                channels,
                classes: self.classes,
                cases: self.cases,
            }),
            _ => Err("there are no cases".into()),
        }
    }
}

fn flag(key: &str, values: &[&str]) -> Result<bool, String> {
    match values.first().map(|value| value.to_lowercase()).as_deref() {
        Some("true") => Ok(true),
        Some("false") => Ok(false),
        _ => Err(format!("`@{key}` must be `true` or `false`")),
    }
}

fn refuse(key: &str, values: &[&str], message: &str) -> Result<(), String> {
    if flag(key, values)? { Err(message.into()) } else { Ok(()) }
}

fn count(key: &str, values: &[&str]) -> Result<usize, String> {
    match values.first().map(|value| value.parse::<usize>()) {
        Some(Ok(count)) if count > 0 => Ok(count),
        _ => Err(format!("`@{key}` must be a positive number")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::file::fixtures;

    fn read(text: &str) -> Result<SeriesFile> {
        let (_folder, path) = fixtures::file(&fixtures::gzip(text));
        SeriesFile::read(&path)
    }

    const HEADER: &str = "# a comment\n@problemName Toy set\n@timeStamps false\n@missing false\n\
        @univariate false\n@dimensions 2\n@equalLength false\n@classLabel true yes no\n@data\n";

    #[test]
    fn cases_are_turned_to_steps_of_all_channels() {
        let file = read(&format!("{HEADER}1,2,3:4,5,6:no\n7:8:yes\n")).unwrap();
        assert_eq!((file.problem.as_str(), file.channels), ("Toy set", 2));
        assert_eq!(file.classes, ["yes", "no"]);
        let first = Case { values: vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0], length: 3, class: 1 };
        let second = Case { values: vec![7.0, 8.0], length: 1, class: 0 };
        assert_eq!(file.cases, [first, second]);
    }

    #[test]
    fn missing_values_are_kept_as_such() {
        for header in ["@missing true\n", ""] {
            let file = read(&format!("{header}@classLabel true a\n@data\n1,?,3:NaN,5,6:a\n"));
            let case = &file.unwrap().cases[0];
            assert_eq!(case.length, 3);
            let missing: Vec<bool> = case.values.iter().map(|value| value.is_nan()).collect();
            assert_eq!(missing, [false, true, true, false, false, false]);
        }
    }

    #[test]
    fn univariate_sets_of_equal_length_are_read_too() {
        let header = "@univariate true\n@equalLength true\n@seriesLength 2\n@classLabel true a b\n";
        let file = read(&format!("{header}@data\n1,2:a\n3,4:b\n")).unwrap();
        assert_eq!((file.channels, file.cases.len()), (1, 2));
        let error = read(&format!("{header}@data\n1,2:a\n3,4,5:b\n")).unwrap_err();
        assert!(matches!(error, Error::Data { line: 7, .. }), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (case, message) in [
            ("1,2:3,4", "class `3,4` is not in the header"),
            ("1,2,3", "separated by `:`"),
            ("1,2:3:yes", "channels of 2 and 1 steps"),
            ("1,2:3,NaN:yes", "`NaN` is a missing value; the header says `@missing false`"),
            ("1,?:3,4:yes", "`?` is a missing value"),
            ("1,inf:3,4:yes", "`inf` is not a finite number"),
            ("1,2:yes", "1 channels, where 2 were expected"),
            ("1,2:3,4:maybe", "class `maybe` is not in the header"),
            (":1:yes", "`` is not a finite number"),
        ] {
            let error = read(&format!("{HEADER}1:2:no\n{case}\n")).unwrap_err();
            assert!(matches!(error, Error::Data { line: 11, .. }), "{case}: {error}");
            assert!(error.to_string().contains(message), "{case}: {error}");
        }
        for (header, line, message) in [
            ("@timeStamps true\n@data\n", 1, "time stamps"),
            ("@missing some\n", 1, "`true` or `false`"),
            ("@targetLabel true\n", 1, "regression"),
            ("@missing false\n@data\n", 2, "no `@classLabel` line"),
            ("@classLabel false\n", 1, "nothing to learn"),
            ("@classLabel true\n", 1, "must name the classes"),
            ("@univariate true\n@dimensions 3\n", 2, "3 channels, where 1 were expected"),
            ("@dimensions none\n", 1, "positive number"),
            ("@univariate perhaps\n", 1, "`true` or `false`"),
            ("@relation x\n", 1, "`@relation` is not a line"),
            ("1,2:yes\n", 1, "expected an `@` line"),
            ("@classLabel true a\n@data\n", 0, "no cases"),
        ] {
            let error = read(header).unwrap_err();
            assert!(matches!(error, Error::Data { line: l, .. } if l == line), "{error}");
            assert!(error.to_string().contains(message), "{header}: {error}");
        }
    }
    /// A `.ts` file with everything it may have.
    fn write(file: &SeriesFile) -> String {
        let mut text = format!(
            "@problemName {}\n@missing true\n@univariate {}\n@classLabel true {}\n@data\n",
            file.problem,
            file.channels == 1,
            file.classes.join(" ")
        );
        for case in &file.cases {
            for channel in 0..file.channels {
                let values: Vec<String> = (0..case.length)
                    .map(|step| case.values[step * file.channels + channel])
                    .map(|v| if v.is_nan() { "?".to_owned() } else { v.to_string() })
                    .collect();
                text.push_str(&values.join(","));
                text.push(':');
            }
            text.push_str(&file.classes[case.class as usize]);
            text.push('\n');
        }
        text
    }

    fn series_file() -> impl Strategy<Value = SeriesFile> {
        let number = prop_oneof![4 => -1e9..1e9f64, 1 => Just(f64::NAN), 1 => Just(-0.0)];
        (1usize..4, 1usize..4).prop_flat_map(move |(channels, classes)| {
            let case = (1usize..6, 0..classes as u32).prop_flat_map({
                let number = number.clone();
                move |(length, class)| {
                    prop::collection::vec(number.clone(), length * channels)
                        .prop_map(move |values| Case { values, length, class })
                }
            });
            prop::collection::vec(case, 1..6).prop_map(move |cases| SeriesFile {
                problem: "Toy".into(),
                channels,
                classes: (0..classes).map(|class| format!("c{class}")).collect(),
                cases,
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(file in series_file(), zipped: bool) {
            let text = write(&file);
            let bytes = if zipped { fixtures::gzip(&text) } else { text.into_bytes() };
            let (_folder, path) = fixtures::file(&bytes);
            let found = SeriesFile::read(&path).unwrap();
            prop_assert_eq!(format!("{:?}", found), format!("{:?}", &file));
            prop_assert_eq!(found.longest(), file.cases.iter().map(|c| c.length).max().unwrap());
            let missing = file.cases.iter().flat_map(|c| &c.values).any(|v| v.is_nan());
            prop_assert_eq!(found.has_missing(), missing);
        }

        /// A broken file is read or refused with a line that it has: never a panic.
        #[test]
        fn broken_files_are_read_or_refused(
            file in series_file(), zipped: bool,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
        ) {
            let mut bytes = write(&file).into_bytes();
            if zipped {
                bytes = fixtures::gzip(&String::from_utf8(bytes).unwrap());
            }
            for (at, byte, kind) in edits {
                let at = at.index(bytes.len());
                // Characters that mean something come up more often than chance has it.
                let meaning = b",:?@\n -.eN0"[usize::from(byte) % 11];
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, meaning),
                    _ => bytes.truncate(at.max(1)),
                }
            }
            let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
            let (_folder, path) = fixtures::file(&bytes);
            match SeriesFile::read(&path) {
                Ok(read) => {
                    let sound = read.cases.iter().all(|case| {
                        case.values.len() == case.length * read.channels
                            && (case.class as usize) < read.classes.len()
                    });
                    prop_assert!(sound && !read.cases.is_empty());
                }
                Err(Error::Data { line, message, .. }) => {
                    prop_assert!(zipped || line <= lines + 1, "line {} of {}", line, lines);
                    prop_assert!(!message.is_empty());
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
