//! The series of a table: which lines belong together, in the order of time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::{ForecastOptions, Missing, filled};
use crate::data::calendar::seconds_of;
use crate::data::file::finite;
use crate::data::own;
use crate::data::table::{Table, is_missing, shortened};
use crate::{Error, Result};

/// A table as series, one after the other.
pub(super) struct Frame {
    pub(super) table: Table,
    /// Steps of each series.
    pub(super) series: Vec<Range<usize>>,
    /// The row of each step.
    rows: Vec<usize>,
}

/// What a frame is made of: the hash of the file, its path, the columns of time and group.
type Origin = (String, String, Option<String>, Option<String>);

impl Frame {
    /// The frame of the options' file, with the hash of the file.
    ///
    /// # Errors
    /// When the file is not what it should be, or another one than the options expect.
    pub(super) fn load(options: &ForecastOptions) -> Result<(Arc<Self>, String)> {
        // The last one is kept: a sweep asks for it in every trial.
        static MADE: Mutex<Option<(Origin, Arc<Frame>)>> = Mutex::new(None);
        let bytes = own::read(&options.file)?;
        let hash = own::hash_of([bytes.as_slice()]);
        own::check(&[&options.file], &hash, &options.data_hash)?;
        let ForecastOptions { file, time, group, .. } = options;
        let origin = (hash.clone(), file.clone(), time.clone(), group.clone());
        // Nothing is half made under the lock: a panic elsewhere does no harm.
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, frame)) if *of == origin => Ok((frame.clone(), hash)),
            _ => {
                let frame = Arc::new(Self::new(&bytes, options)?);
                *made = Some((origin, frame.clone()));
                Ok((frame, hash))
            }
        }
    }

    fn new(bytes: &[u8], options: &ForecastOptions) -> Result<Self> {
        let in_writing: Vec<&str> =
            [&options.time, &options.group].into_iter().flatten().map(String::as_str).collect();
        let table = Table::read(&own::find(&options.file), bytes, &in_writing)?;
        let column = |option, name: &Option<String>| {
            name.as_ref().map(|name| table.find(option, name)).transpose()
        };
        let (time, group) = (column("time", &options.time)?, column("group", &options.group)?);
        let members = match group {
            Some(group) => members(&table, group)?,
            None => vec![(0..table.len()).collect()],
        };
        if let Some(time) = time {
            in_order(&table, time, &members, group.is_some())?;
        }
        let mut series = Vec::with_capacity(members.len());
        let mut rows = Vec::with_capacity(table.len());
        for member in members {
            let begin = rows.len();
            rows.extend(member);
            series.push(begin..rows.len());
        }
        Ok(Self { table, series, rows })
    }

    /// Steps of all series.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The values of a column step by step; `None` where one is missing.
    pub(super) fn values(&self, column: usize) -> Result<Vec<Option<f64>>> {
        let numbers = self.table.numbers(column)?;
        let known = |&row: &usize| Some(numbers[row]).filter(|value| !value.is_nan());
        Ok(self.rows.iter().map(known).collect())
    }

    /// The last known value at or before each step of its series; before the first, `mean`.
    pub(super) fn filled(&self, values: &[Option<f64>], mean: f64) -> Vec<f64> {
        self.series.iter().flat_map(|steps| filled(&values[steps.clone()], mean)).collect()
    }

    /// The error of a column's cell at a step.
    pub(super) fn cell(&self, step: usize, column: usize, message: &str) -> Error {
        self.table.cell(self.rows[step], column, message)
    }
}

/// The rows of each group, in order of the groups' first rows.
fn members(table: &Table, column: usize) -> Result<Vec<Vec<usize>>> {
    let mut numbers = HashMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (row, name) in table.texts(column).iter().enumerate() {
        if is_missing(name) {
            let message = "is missing: each line belongs to a series";
            return Err(table.cell(row, column, message));
        }
        let number = *numbers.entry(name).or_insert(members.len());
        if number == members.len() {
            members.push(Vec::new());
        }
        members[number].push(row);
    }
    Ok(members)
}

/// Checks that time grows from row to row of each series.
fn in_order(table: &Table, column: usize, members: &[Vec<usize>], grouped: bool) -> Result<()> {
    let texts = table.texts(column);
    let are_numbers = texts.first().is_some_and(|text| finite(text).is_ok());
    let time = |row: usize| {
        let text = &texts[row];
        let time = if are_numbers { finite(text).ok() } else { seconds_of(text) };
        time.ok_or_else(|| {
            let expected = match are_numbers {
                true => "a number, as the first time is",
                false => "a time such as `2024-03-01`, `2024-03-01 05:30` or `2024-03-01T05:30:00Z`, or a number",
            };
            table.cell(row, column, format!("`{}` is not {expected}", shortened(text)))
        })
    };
    for rows in members {
        let mut before: Option<(usize, f64)> = None;
        for &row in rows {
            let now = time(row)?;
            if let Some((earlier, then)) = before
                && now <= then
            {
                let hint = if grouped { "" } else { "; `group` tells several series apart" };
                let message = format!(
                    "`{}` does not come after `{}` of line {}: the lines of a series are in the order of \
                     time{hint}",
                    texts[row],
                    texts[earlier],
                    table.line(earlier)
                );
                return Err(table.cell(row, column, message));
            }
            before = Some((row, now));
        }
    }
    Ok(())
}

/// The columns that are read, and those that are forecast.
pub(super) fn columns(table: &Table, options: &ForecastOptions) -> Result<[Vec<usize>; 2]> {
    let aside: Vec<usize> = [&options.time, &options.group]
        .into_iter()
        .flatten()
        .filter_map(|name| table.position(name))
        .collect();
    let named = |option, names: &[String]| -> Result<Vec<usize>> {
        names
            .iter()
            .map(|name| {
                let column = table.find(option, name)?;
                if aside.contains(&column) {
                    let message =
                        format!("`{name}` is the time or the group of a step, no number to use");
                    return Err(Error::option(option, message));
                }
                table.numbers(column)?;
                Ok(column)
            })
            .collect()
    };
    let targets = named("target", &options.target)?;
    let inputs = match options.inputs.as_slice() {
        [] => table.numeric(&aside)?,
        names => named("inputs", names)?,
    };
    if options.missing == Missing::Refuse {
        for &column in targets.iter().chain(&inputs) {
            if let Some(row) = table.numbers(column)?.iter().position(|value| value.is_nan()) {
                let message = "is missing, where `missing = \"refuse\"` expects a number";
                return Err(table.cell(row, column, message));
            }
        }
    }
    Ok([inputs, targets])
}
