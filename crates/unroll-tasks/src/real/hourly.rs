//! Hourly series in CSV files: a header, then `YYYY-MM-DD HH:00:00,value` for each hour.

use std::path::Path;

use crate::data::calendar::hour_of;
use crate::data::file::{finite, for_each_line};
use crate::{Error, Result};

/// A series without gaps.
#[derive(Debug)]
pub(crate) struct Hourly {
    /// Hour of the first value, counted from 1970-01-01 00:00.
    first_hour: i64,
    pub(crate) values: Vec<f64>,
}

impl Hourly {
    /// Reads a gzip CSV file whose header is `ts,y`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut first_hour = None;
        let mut values = Vec::new();
        for_each_line(path, |number, line| {
            let columns: Vec<&str> = line.split(',').collect();
            let [timestamp, value] = columns[..] else {
                return Err(format!("{} columns, expected `ts,y`", columns.len()));
            };
            if number == 1 {
                return if line.trim() == "ts,y" {
                    Ok(())
                } else {
                    Err(format!("header `{line}`, expected `ts,y`"))
                };
            }
            let hour = hour(timestamp)?;
            let expected = *first_hour.get_or_insert(hour) + values.len() as i64;
            if hour != expected {
                return Err(format!("`{timestamp}` is not the hour after the one before"));
            }
            values.push(finite(value)?);
            Ok(())
        })?;
        match first_hour {
            Some(first_hour) => Ok(Self { first_hour, values }),
            None => Err(Error::data(path, 0, "there are no values")),
        }
    }

    /// Hour of the day of a value, `0..24`.
    pub(crate) fn hour_of_day(&self, index: usize) -> u8 {
        (self.first_hour + index as i64).rem_euclid(24) as u8
    }

    /// Day of the week of a value: Monday is 0.
    pub(crate) fn day_of_week(&self, index: usize) -> u8 {
        // 1970-01-01 was a Thursday.
        ((self.first_hour + index as i64).div_euclid(24) + 3).rem_euclid(7) as u8
    }
}

/// Hours from 1970-01-01 00:00 to `YYYY-MM-DD HH:00:00`.
fn hour(timestamp: &str) -> Result<i64, String> {
    let error = || format!("`{timestamp}` is not a full hour `YYYY-MM-DD HH:00:00`");
    let (date, time) = timestamp.trim().split_once(' ').ok_or_else(error)?;
    let numbers = |text: &str, separator| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse::<u16>().ok().map(i64::from)).collect()
    };
    match (numbers(date, '-').as_deref(), numbers(time, ':').as_deref()) {
        (Some(&[year, month, day]), Some(&[hour, 0, 0])) => {
            hour_of([year, month, day], hour).ok_or_else(error)
        }
        _ => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures;

    fn read(text: &str) -> Result<Hourly> {
        let (_folder, path) = fixtures::file(&fixtures::gzip(text));
        Hourly::read(&path)
    }

    #[test]
    fn the_calendar_is_the_gregorian_one() {
        assert_eq!(hour("1970-01-01 00:00:00"), Ok(0));
        assert_eq!(hour("2000-03-01 05:00:00"), Ok(11_017 * 24 + 5));
        assert_eq!(hour("2014-12-31 23:00:00"), Ok(16_435 * 24 + 23));
        for wrong in [
            "2013-02-29 00:00:00",
            "2013-13-01 00:00:00",
            "2013-00-01 00:00:00",
            "2013-01-00 00:00:00",
            "2013-01-01 24:00:00",
            "2013-01-01 00:30:00",
            "2013-01-01",
            "2013-01 00:00:00",
            "NA",
        ] {
            assert!(hour(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hours_and_weekdays_follow_the_first_timestamp() {
        // 2012-02-29 was a Wednesday.
        let series = read("ts,y\n2012-02-29 23:00:00,1\n2012-03-01 00:00:00,2.5\n").unwrap();
        assert_eq!(series.values, [1.0, 2.5]);
        assert_eq!((series.hour_of_day(0), series.day_of_week(0)), (23, 2));
        assert_eq!((series.hour_of_day(1), series.day_of_week(1)), (0, 3));
    }

    #[test]
    fn wrong_lines_are_errors_with_their_number() {
        for (text, line, message) in [
            ("ts,y\n2012-01-01 00:00:00,1\n2012-01-01 02:00:00,1\n", 3, "not the hour after"),
            ("ts,y\n2012-01-01 00:00:00,NaN\n", 2, "`NaN` is not a finite number"),
            ("ts,y\n2012-01-01 00:00:00,NA\n", 2, "`NA` is not a finite number"),
            ("ts,y\n2012-01-01 00:00:00,1,2\n", 2, "3 columns"),
            ("ts,y\n1,1\n", 2, "not a full hour"),
            ("time,y\n", 1, "header `time,y`"),
            ("ts,y\n", 0, "no values"),
        ] {
            let error = read(text).unwrap_err();
            assert!(matches!(error, Error::Data { line: l, .. } if l == line), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
