//! Reading text files, gzip or plain, line by line, with errors that name the line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The bytes of a file, unpacked where they are gzip.
///
/// # Errors
/// [`Error::MissingData`] when it cannot be opened, [`Error::Data`] when its first bytes cannot be read.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    let file = File::open(path).map_err(|source| Error::missing(path, source))?;
    unpacked(BufReader::new(file))
        .map_err(|error| Error::data(path, 1, format!("cannot be read: {error}")))
}

/// Bytes, unpacked where they are gzip.
pub(crate) fn unpacked<'a>(mut bytes: impl BufRead + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let packed = bytes.fill_buf()?.starts_with(&GZIP);
    Ok(if packed { Box::new(MultiGzDecoder::new(bytes)) } else { Box::new(bytes) })
}

/// Calls `visit` with the number (from 1) and text of each line that is not blank.
///
/// # Errors
/// [`Error::MissingData`] when the file cannot be opened; [`Error::Data`] with the line when it is
/// damaged, not UTF-8, or `visit` finds something wrong.
pub(crate) fn for_each_line(
    path: &Path,
    mut visit: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<()> {
    let mut reader = BufReader::new(open(path)?);
    let mut text = String::new();
    let mut number = 0;
    loop {
        number += 1;
        text.clear();
        let bytes = reader
            .read_line(&mut text)
            .map_err(|error| Error::data(path, number, format!("cannot be read: {error}")))?;
        if bytes == 0 {
            return Ok(());
        }
        let line = text.trim_end_matches(['\n', '\r']).trim_start_matches('\u{feff}');
        if !line.trim().is_empty() {
            visit(number, line).map_err(|message| Error::data(path, number, message))?;
        }
    }
}

/// A finite number.
pub(crate) fn finite(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(format!("`{text}` is not a finite number")),
    }
}

/// Files for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::io::Write;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tempfile::TempDir;

    /// `text` as gzip.
    pub(crate) fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// A file with these bytes, in a folder that lives as long as the first half.
    pub(crate) fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.gz");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Result<Vec<(usize, String)>> {
        let (_folder, path) = fixtures::file(bytes);
        let mut lines = Vec::new();
        for_each_line(&path, |number, line| {
            lines.push((number, line.to_owned()));
            Ok(())
        })?;
        Ok(lines)
    }

    #[test]
    fn lines_keep_their_numbers() {
        let found = lines(&fixtures::gzip("a\r\n\n  \nb")).unwrap();
        assert_eq!(found, [(1, "a".to_owned()), (4, "b".to_owned())]);
    }

    #[test]
    fn plain_text_is_read_as_it_stands() {
        assert_eq!(
            lines("\u{feff}a\nb".as_bytes()).unwrap(),
            [(1, "a".to_owned()), (2, "b".to_owned())]
        );
        assert_eq!(lines(b"").unwrap(), []);
    }

    #[test]
    fn a_truncated_file_is_an_error_with_its_line() {
        let text: String = (0..5000).map(|n| format!("{}\n", n * n * 7919 % 10_007)).collect();
        let whole = fixtures::gzip(&text);
        assert_eq!(lines(&whole).unwrap().len(), 5000);
        for cut in [whole.len() / 2, whole.len() - 4, 5] {
            let error = lines(&whole[..cut]).unwrap_err();
            assert!(matches!(error, Error::Data { line, .. } if line >= 1), "{error}");
        }
        let error = lines(&whole[..whole.len() / 2]).unwrap_err();
        assert!(matches!(error, Error::Data { line, .. } if (2..5000).contains(&line)), "{error}");
    }

    #[test]
    fn other_files_are_errors() {
        assert!(matches!(lines(b"\x00\xffts,y\n").unwrap_err(), Error::Data { line: 1, .. }));
        let mut latin = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut latin, b"ok\nM\xfcller\n").unwrap();
        let error = lines(&latin.finish().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Data { line: 2, .. }), "{error}");
        let error = for_each_line(Path::new("/nowhere/digits.gz"), |_, _| Ok(())).unwrap_err();
        assert!(matches!(error, Error::MissingData { .. }));
        assert!(error.to_string().contains("/nowhere/digits.gz"), "{error}");
    }

    #[test]
    fn only_finite_numbers_are_numbers() {
        assert_eq!(finite(" -1.5e3 "), Ok(-1500.0));
        for text in ["", "NaN", "inf", "-inf", "1e999", "1,5", "?"] {
            assert!(finite(text).is_err(), "{text}");
        }
    }
}
