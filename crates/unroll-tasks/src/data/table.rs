//! CSV tables with a header line of names, gzip or plain, as users have them.

use std::io::Read;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::file::{finite, unpacked};
use crate::{Error, Result};

/// What stands for a value that is missing, beside nothing.
const MISSING: [&str; 3] = ["?", "NaN", "NA"];

/// How a missing value may be written, for messages and help.
pub(crate) const MISSING_IS: &str = "a missing value is empty, `NaN`, `NA` or `?`";

/// A table in memory: rows in the order of the file.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    columns: Vec<Column>,
    /// Line of each row in the file.
    lines: Vec<usize>,
}

/// A column of a table.
#[derive(Debug, Default)]
struct Column {
    name: String,
    /// NaN where the cell is missing or no number.
    values: Vec<f64>,
    /// The first cell that is neither missing nor a finite number: its row, and what is wrong.
    stray: Option<(usize, String)>,
    /// How many cells are numbers.
    numbers: usize,
    /// The cells as they are written, of columns that are asked for in writing.
    texts: Option<Vec<String>>,
}

impl Table {
    /// Reads the table in `bytes`, the contents of the file at `path`. The columns named by `in_writing`
    /// are kept as text too.
    ///
    /// # Errors
    /// [`Error::Data`] with the line, or [`Error::Cell`], where it is no table.
    pub(crate) fn read(path: &Path, bytes: &[u8], in_writing: &[&str]) -> Result<Self> {
        let at = |line, message: String| Error::data(path, line, message);
        let mut text = Vec::new();
        unpacked(bytes)
            .and_then(|mut unpacked| unpacked.read_to_end(&mut text))
            .map_err(|error| at(1 + breaks(&text), format!("cannot be read: {error}")))?;
        // Lengths are checked here: a line of blanks is no row.
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(Trim::All)
            .from_reader(text.as_slice());
        let mut table = Self { path: path.to_owned(), columns: Vec::new(), lines: Vec::new() };
        let mut record = ByteRecord::new();
        let (mut line, mut counted) = (1, 0);
        loop {
            // A row begins behind the blank lines that are passed over when it is read.
            let from = reader.position().byte() as usize;
            let blank = text[from..].iter().take_while(|byte| b"\r\n".contains(byte)).count();
            line += breaks(&text[counted..from + blank]);
            counted = from + blank;
            let more = reader.read_byte_record(&mut record);
            if !more.map_err(|error| at(line, format!("cannot be read: {error}")))? {
                break;
            }
            if record.len() == 1 && record[0].is_empty() {
                continue;
            }
            if table.columns.is_empty() {
                table.header(line, &record, in_writing)?;
            } else if record.len() == table.columns.len() {
                table.row(line, &record)?;
            } else {
                let (found, expected) = (record.len(), table.columns.len());
                let message = format!("{found} columns, where the header has {expected}");
                return Err(at(line, message));
            }
        }
        match (table.columns.is_empty(), table.lines.is_empty()) {
            (true, _) => {
                Err(at(0, "is empty: expected a header line with the names of columns".into()))
            }
            (_, true) => {
                Err(at(0, "has a header line alone: expected a line for each step".into()))
            }
            _ => Ok(table),
        }
    }

    fn header(&mut self, line: usize, record: &ByteRecord, in_writing: &[&str]) -> Result<()> {
        for (index, cell) in record.iter().enumerate() {
            self.columns.push(Column::default());
            let name = self.text(line, index, cell)?.to_owned();
            let texts = in_writing.contains(&name.as_str()).then(Vec::new);
            if let Some(before) = self.position(&name) {
                let message =
                    format!("column {} has the same name: names tell columns apart", before + 1);
                return Err(self.cell_on(line, index, message));
            }
            self.columns[index] = Column { name, texts, ..Column::default() };
        }
        if let [only] = self.columns.as_slice()
            && let Some(separator) = only.name.chars().find(|c| [';', '\t', '|'].contains(c))
        {
            let message = format!(
                "the header is one column, `{}`: columns are separated by `,`, not by {separator:?}",
                only.name
            );
            return Err(Error::data(&self.path, line, message));
        }
        if self.columns.iter().all(|column| column.name.parse::<f64>().is_ok()) {
            let message = "the first line has numbers alone: expected a header line with the names of \
                           columns";
            return Err(Error::data(&self.path, line, message));
        }
        Ok(())
    }

    fn row(&mut self, line: usize, record: &ByteRecord) -> Result<()> {
        for (index, cell) in record.iter().enumerate() {
            let text = self.text(line, index, cell)?;
            let row = self.lines.len();
            let column = &mut self.columns[index];
            if let Some(texts) = &mut column.texts {
                texts.push(text.to_owned());
            }
            let value = match finite(text) {
                Ok(value) => {
                    column.numbers += 1;
                    value
                }
                Err(_) if is_missing(text) => f64::NAN,
                Err(_) => {
                    column.stray.get_or_insert_with(|| {
                        (row, format!("`{}` is not a finite number", shortened(text)))
                    });
                    f64::NAN
                }
            };
            column.values.push(value);
        }
        self.lines.push(line);
        Ok(())
    }

    fn text<'a>(&self, line: usize, index: usize, cell: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(cell).map_err(|error| {
            let message = format!(
                "byte {} of the cell is no UTF-8: save the file as UTF-8",
                error.valid_up_to() + 1
            );
            self.cell_on(line, index, message)
        })
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name(&self, column: usize) -> &str {
        &self.columns[column].name
    }

    /// The column of that name; those without a name cannot be asked for.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        let named = |column: &Column| !name.is_empty() && column.name == name;
        self.columns.iter().position(named)
    }

    /// The column that an option names.
    ///
    /// # Errors
    /// [`Error::Option`] with the names that there are.
    pub(crate) fn find(&self, option: &str, name: &str) -> Result<usize> {
        self.position(name).ok_or_else(|| {
            let names: Vec<String> = self.columns.iter().map(|c| format!("`{}`", c.name)).collect();
            let message = format!(
                "there is no column `{name}` in {}; there are: {}",
                self.path.display(),
                names.join(", ")
            );
            Error::option(option, message)
        })
    }

    /// Named columns that hold numbers, those of `except` left out. What holds nothing but text is passed
    /// over.
    ///
    /// # Errors
    /// [`Error::Cell`] where numbers and text are mixed: a slip would take the column out unnoticed.
    pub(crate) fn numeric(&self, except: &[usize]) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for (index, column) in self.columns.iter().enumerate() {
            let named = !column.name.is_empty() && !except.contains(&index);
            if named && column.numbers > 0 {
                if let Some((row, message)) = &column.stray {
                    let message = format!(
                        "{message}, where other cells of the column are; {MISSING_IS}, and `inputs` \
                         may name the columns that count"
                    );
                    return Err(self.cell(*row, index, message));
                }
                found.push(index);
            }
        }
        Ok(found)
    }

    /// The numbers of a column; NaN where one is missing.
    ///
    /// # Errors
    /// [`Error::Cell`] where a cell is neither.
    pub(crate) fn numbers(&self, column: usize) -> Result<&[f64]> {
        match &self.columns[column].stray {
            Some((row, message)) => {
                Err(self.cell(*row, column, format!("{message}; {MISSING_IS}")))
            }
            None => Ok(&self.columns[column].values),
        }
    }

    /// The cells of a column as they are written; empty unless the column was asked for in writing.
    pub(crate) fn texts(&self, column: usize) -> &[String] {
        self.columns[column].texts.as_deref().unwrap_or_default()
    }

    /// The line of a row.
    pub(crate) fn line(&self, row: usize) -> usize {
        self.lines[row]
    }

    /// The error of a cell.
    pub(crate) fn cell(&self, row: usize, column: usize, message: impl Into<String>) -> Error {
        self.cell_on(self.lines[row], column, message.into())
    }

    fn cell_on(&self, line: usize, column: usize, message: String) -> Error {
        Error::Cell {
            path: self.path.clone(),
            line,
            column: column + 1,
            name: self.columns[column].name.clone(),
            message,
        }
    }
}

/// Whether a cell stands for a missing value.
pub(crate) fn is_missing(text: &str) -> bool {
    text.is_empty() || MISSING.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// The beginning of a text for a message. A quote that is never closed makes a cell of all lines to come.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(LONGEST).collect();
    if shown.len() < text.len() { format!("{shown}...") } else { shown }
}

fn breaks(text: &[u8]) -> usize {
    text.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures::gzip;

    fn read(bytes: &[u8]) -> Result<Table> {
        Table::read(Path::new("t.csv"), bytes, &["when"])
    }

    #[test]
    fn rows_know_their_lines() {
        for (text, lines, first) in [
            ("when,a\n1,2\n3,4\n", vec![2, 3], "1"),
            ("\u{feff}when,a\r\n1,2\r\n3,4", vec![2, 3], "1"),
            ("\n\nwhen,a\n\n\n x , 2\n\r\n3,4\n\n", vec![6, 8], "x"),
            ("when,a\n\"x\ny\",2\n3,4\n", vec![2, 4], "x\ny"),
            ("when,a\n\"b, \"\"c\"\"\",2\n\n3,4\n", vec![2, 4], "b, \"c\""),
        ] {
            for bytes in [text.as_bytes().to_vec(), gzip(text)] {
                let table = read(&bytes).unwrap();
                assert_eq!(table.lines, lines, "{text:?}");
                assert_eq!(table.texts(0)[0], first);
                assert_eq!(table.numbers(1).unwrap(), [2.0, 4.0]);
                assert_eq!((table.name(0), table.name(1)), ("when", "a"));
            }
        }
    }

    #[test]
    fn wrong_lines_and_cells_are_named() {
        let at = |bytes: &[u8]| match read(bytes) {
            Err(Error::Data { line, message, .. }) => (line, 0, message),
            Err(Error::Cell { line, column, message, .. }) => (line, column, message),
            other => panic!("{other:?}"),
        };
        for (bytes, line, column, what) in [
            (&b"when,a\n\n\n1,2\n\n3\n"[..], 6, 0, "1 columns, where the header has 2"),
            (b"when,a\r\n1,2\r\n \r\n1,2,3", 4, 0, "3 columns, where the header has 2"),
            (b"when,a\n1,2\nM\xfcller,2\n", 3, 1, "byte 2 of the cell is no UTF-8"),
            (b"when,a\n\"1\n2\",\xff\n", 2, 2, "byte 1 of the cell is no UTF-8"),
            (b"when\ta\n1\t2\n", 1, 0, "separated by `,`"),
        ] {
            let (l, c, message) = at(bytes);
            assert_eq!((l, c), (line, column), "{message}");
            assert!(message.contains(what), "{message}");
        }
        let text: String = (0..5000).map(|n| format!("{},{n}\n", n * n * 7919 % 10_007)).collect();
        let whole = gzip(&format!("when,a\n{text}"));
        assert_eq!(read(&whole).unwrap().len(), 5000);
        let (line, _, message) = at(&whole[..whole.len() / 2]);
        assert!(
            (2..5000).contains(&line) && message.contains("cannot be read"),
            "{line}: {message}"
        );
    }

    #[test]
    fn columns_of_text_are_passed_over_and_mixed_ones_are_not() {
        let table = read(b",when,word,a,gaps\n0,1,x,1e3,?\n1,2,y,-.5,\n2,3,z,NaN,na\n").unwrap();
        assert_eq!(table.numeric(&[1]).unwrap(), [3], "no name, left out, text, numbers, nothing");
        assert!(table.numbers(3).unwrap()[2].is_nan());
        assert_eq!(table.numbers(3).unwrap()[..2], [1000.0, -0.5]);
        assert!(table.numbers(4).unwrap().iter().all(|value| value.is_nan()));
        assert!(matches!(table.numbers(2), Err(Error::Cell { line: 2, column: 3, .. })));
        assert_eq!((table.position(""), table.position("a")), (None, Some(3)));
        let open = read(b"when,a\n1,2\n3,\"x\n4,5\n6,7\n").unwrap();
        let error = open.numbers(1).unwrap_err().to_string();
        assert!(error.contains("line 3, column 2 (`a`): `x...` is not a finite number"), "{error}");
        let mixed = read(b"when,a\n1,2\n3,x\n").unwrap();
        assert!(matches!(mixed.numeric(&[]), Err(Error::Cell { line: 3, column: 2, .. })));
        assert_eq!(mixed.numeric(&[1]).unwrap(), [0]);
    }
}
