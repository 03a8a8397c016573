//! Classified texts in Orange's tab-separated `.tab` format, gzip or plain.
//!
//! Three header lines - names of the columns, their types, their roles - then one line per text. The
//! column whose role is `class` has the class, the one of type `string` the text; others are not read.
//! There are no quotes.

use std::path::Path;

use super::file::for_each_line;
use crate::{Error, Result};

/// Lines before the first text.
const HEADER: usize = 3;

/// A classified text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The text.
    pub text: String,
    /// Index into [`TabFile::classes`].
    pub class: u32,
    /// Line in the file, from 1.
    pub line: usize,
}

/// Content of a `.tab` file of classified texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TabFile {
    /// Names of the classes, sorted.
    pub classes: Vec<String>,
    /// The texts in the order of the file; at least one.
    pub documents: Vec<Document>,
}

impl TabFile {
    /// Reads a `.tab` file, gzip or plain.
    ///
    /// # Errors
    /// [`Error::MissingData`] when it cannot be opened, [`Error::Data`] with the line where it is not
    /// what it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let mut header = Header::default();
        let mut columns = None;
        // Class name, text, line.
        let mut rows: Vec<(String, String, usize)> = Vec::new();
        for_each_line(path, |number, line| {
            let cells: Vec<&str> = line.split('\t').collect();
            if number <= HEADER {
                return header.line(number, &cells);
            }
            let (class, text) = match columns {
                Some(found) => found,
                None => *columns.insert(header.columns()?),
            };
            if cells.len() != header.width {
                let (found, expected) = (cells.len(), header.width);
                return Err(format!("{found} columns, where the header has {expected}"));
            }
            let name = cells[class].trim();
            if name.is_empty() {
                return Err("there is no class".into());
            }
            rows.push((name.to_owned(), cells[text].to_owned(), number));
            Ok(())
        })?;
        if rows.is_empty() {
            return Err(Error::data(path, 0, "there are no texts"));
        }
        let mut classes: Vec<String> = rows.iter().map(|(class, ..)| class.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        let number = |class: &String| classes.binary_search(class).unwrap_or(0) as u32;
        let documents = rows
            .into_iter()
            .map(|(class, text, line)| Document { class: number(&class), text, line })
            .collect();
        Ok(Self { classes, documents })
    }
}

#[derive(Default)]
struct Header {
    width: usize,
    types: Vec<String>,
    roles: Vec<String>,
}

impl Header {
    /// Takes in a line of the header by its number.
    fn line(&mut self, number: usize, cells: &[&str]) -> Result<(), String> {
        if number == 1 {
            self.width = cells.len();
            return Ok(());
        }
        if cells.len() != self.width {
            let expected = self.width;
            return Err(format!("{} columns, where the line above has {expected}", cells.len()));
        }
        let words = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        *(if number == 2 { &mut self.types } else { &mut self.roles }) = words;
        Ok(())
    }

    /// Columns of class and text.
    fn columns(&self) -> Result<(usize, usize), String> {
        let one = |found: Vec<usize>, what: &str| match found[..] {
            [one] => Ok(one),
            _ => {
                Err(format!("the header has {} columns {what}, where one is expected", found.len()))
            }
        };
        let class = one(places(&self.roles, |role| role == "class"), "whose role is `class`")?;
        let is_text = |kind: &str| kind == "string" || kind == "s";
        let text = one(places(&self.types, is_text), "of type `string`")?;
        if class == text {
            return Err("the header gives class and text in one column".into());
        }
        Ok((class, text))
    }
}

fn places(words: &[String], wanted: impl Fn(&str) -> bool) -> Vec<usize> {
    (0..words.len()).filter(|&place| wanted(&words[place])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::file::fixtures;

    const HEADER: &str = "Category\tText\nd\tstring\nclass\t\n";

    fn read(bytes: &[u8]) -> Result<TabFile> {
        let (_folder, path) = fixtures::file(bytes);
        TabFile::read(&path)
    }

    #[test]
    fn classes_are_numbered_by_name_and_lines_are_kept() {
        let file = read(format!("{HEADER}trade\ta b\n\nacq\tc \"d\"\n").as_bytes()).unwrap();
        assert_eq!(file.classes, ["acq", "trade"]);
        let documents = [
            Document { text: "a b".into(), class: 1, line: 4 },
            Document { text: "c \"d\"".into(), class: 0, line: 6 },
        ];
        assert_eq!(file.documents, documents);
    }

    #[test]
    fn columns_go_by_the_header() {
        let text = "n\tbody\tkind\nc\ts\td\nmeta\t\tclass\n1\tone\tx\n";
        let file = read(&fixtures::gzip(text)).unwrap();
        assert_eq!((file.documents[0].text.as_str(), file.classes[0].as_str()), ("one", "x"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, message) in [
            (format!("{HEADER}a\tb\nearn\n"), 5, "1 columns, where the header has 2"),
            (format!("{HEADER}a\tb\tc\n"), 4, "3 columns"),
            (format!("{HEADER}a\tb\n \tc\n"), 5, "there is no class"),
            ("a\tb\nd\n".into(), 2, "1 columns, where the line above has 2"),
            ("a\tb\nd\tstring\nclass\n".into(), 3, "1 columns"),
            ("a\tb\nd\tstring\nmeta\t\nx\ty\n".into(), 4, "0 columns whose role is `class`"),
            ("a\tb\nd\td\nclass\t\nx\ty\n".into(), 4, "0 columns of type `string`"),
            ("a\tb\ns\ts\nclass\t\nx\ty\n".into(), 4, "2 columns of type `string`"),
            ("a\tb\ns\td\nclass\t\nx\ty\n".into(), 4, "class and text in one column"),
            (HEADER.into(), 0, "there are no texts"),
            (String::new(), 0, "there are no texts"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(matches!(error, Error::Data { line: l, .. } if l == line), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        let error = read(&[HEADER.as_bytes(), b"a\tb\nc\tM\xfcller\n"].concat()).unwrap_err();
        assert!(matches!(error, Error::Data { line: 5, .. }), "{error}");
    }

    proptest! {
        /// What is written is read, whatever the words are.
        #[test]
        fn texts_come_back(rows in prop::collection::vec(("[a-z]{1,3}", "[^\t\r\n]{1,30}"), 1..20)) {
            let lines: String = rows.iter().map(|(c, t)| format!("{c}\t{t}\n")).collect();
            let file = read(format!("{HEADER}{lines}").as_bytes()).unwrap();
            let found: Vec<(String, String)> = file
                .documents
                .iter()
                .map(|one| (file.classes[one.class as usize].clone(), one.text.clone()))
                .collect();
            prop_assert_eq!(found, rows);
        }

        /// Any bytes: a file, or an error that names file and line.
        #[test]
        fn damage_is_an_error_or_another_file(
            cut in 0usize..120, at in 0usize..120, put in prop::collection::vec(any::<u8>(), 0..6),
        ) {
            let mut bytes = format!("{HEADER}earn\tnet up\nacq\tbuys it\ntrade\tgap wide\n").into_bytes();
            let at = at.min(bytes.len());
            bytes.splice(at..at, put);
            bytes.truncate(cut.max(1));
            match read(&bytes) {
                Ok(file) => {
                    prop_assert!(!file.documents.is_empty());
                    prop_assert!(file.documents.iter().all(|d| (d.class as usize) < file.classes.len()));
                }
                Err(Error::Data { path, line, message }) => {
                    prop_assert!(path.ends_with("data.gz") && !message.is_empty());
                    prop_assert!(line <= 1 + bytes.iter().filter(|&&b| b == b'\n').count());
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
