//! Hourly air quality and weather in a CSV file, as UCI 381 has them.

use std::path::Path;

use crate::data::calendar::hour_of;
use crate::data::file::{finite, for_each_line};
use crate::{Error, Result};

const HEADER: &str = "No,year,month,day,hour,pm2.5,DEWP,TEMP,PRES,cbwd,Iws,Is,Ir";

/// Directions of the wind as the file names them; `cv` is calm and variable.
pub(super) const WINDS: [&str; 4] = ["SE", "cv", "NW", "NE"];

/// Numbers of an hour's weather: dew point, temperature, pressure, and cumulated wind speed, hours of
/// snow and of rain.
pub(super) const WEATHER: usize = 6;

/// One hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hour {
    /// Concentration in µg/m³; `None` where it was not measured.
    pub(super) pm25: Option<f64>,
    pub(super) weather: [f64; WEATHER],
    /// Index into [`WINDS`].
    pub(super) wind: usize,
}

/// Consecutive hours.
#[derive(Debug)]
pub(super) struct AirQuality {
    /// Of the first, counted from 1970-01-01 00:00.
    pub(super) first_hour: i64,
    pub(super) hours: Vec<Hour>,
}

impl AirQuality {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::MissingData`], or [`Error::Data`] with the line that is not what it should be.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let mut first_hour = None;
        let mut hours = Vec::new();
        for_each_line(path, |number, line| {
            if number == 1 {
                return if line.trim() == HEADER {
                    Ok(())
                } else {
                    Err(format!("header `{line}`, expected `{HEADER}`"))
                };
            }
            let (hour, content) = row(line)?;
            if hour != *first_hour.get_or_insert(hour) + hours.len() as i64 {
                return Err("this is not the hour after the one before".into());
            }
            hours.push(content);
            Ok(())
        })?;
        match first_hour {
            Some(first_hour) => Ok(Self { first_hour, hours }),
            None => Err(Error::data(path, 0, "there are no hours")),
        }
    }
}

fn row(line: &str) -> Result<(i64, Hour), String> {
    let columns: Vec<&str> = line.split(',').map(str::trim).collect();
    let [_, year, month, day, hour, pm25, dew, temperature, pressure, wind, speed, snow, rain] =
        columns[..]
    else {
        return Err(format!("{} columns, expected 13", columns.len()));
    };
    let whole = |text: &str| text.parse::<u16>().ok().map(i64::from);
    let time = || hour_of([whole(year)?, whole(month)?, whole(day)?], whole(hour)?);
    let time =
        time().ok_or_else(|| format!("`{year},{month},{day},{hour}` is not an hour of a date"))?;
    let pm25 = if pm25 == "NA" { None } else { Some(finite(pm25)?) };
    let mut weather = [0.0; WEATHER];
    let columns = [dew, temperature, pressure, speed, snow, rain];
    for (value, text) in weather.iter_mut().zip(columns) {
        *value = finite(text)?;
    }
    let wind = WINDS
        .iter()
        .position(|&name| name == wind)
        .ok_or_else(|| format!("wind `{wind}` is none of {}", WINDS.join(", ")))?;
    Ok((time, Hour { pm25, weather, wind }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures;

    fn read(rows: &str) -> Result<AirQuality> {
        let (_folder, path) = fixtures::file(&fixtures::gzip(&format!("{HEADER}\n{rows}")));
        AirQuality::read(&path)
    }

    #[test]
    fn rows_become_hours() {
        let rows = "24,2010,1,1,23,NA,-17,-5,1020,cv,0.89,0,0\n25,2010,1,2,0,129,-16,-4,1020,SE,1.79,1,2\n";
        let found = read(rows).unwrap();
        assert_eq!(found.first_hour, 14_610 * 24 + 23);
        let first = Hour { pm25: None, weather: [-17.0, -5.0, 1020.0, 0.89, 0.0, 0.0], wind: 1 };
        let second =
            Hour { pm25: Some(129.0), weather: [-16.0, -4.0, 1020.0, 1.79, 1.0, 2.0], wind: 0 };
        assert_eq!(found.hours, [first, second]);
    }

    #[test]
    fn wrong_rows_are_errors_with_their_line() {
        let sound = "1,2010,2,28,23,NA,-17,-5,1020,cv,0.89,0,0\n";
        for (row, message) in [
            ("2,2010,3,1,1,1,-17,-5,1020,cv,0.89,0,0", "not the hour after"),
            ("2,2010,2,29,0,1,-17,-5,1020,cv,0.89,0,0", "not an hour of a date"),
            ("2,2010,3,1,24,1,-17,-5,1020,cv,0.89,0,0", "not an hour of a date"),
            ("2,2010,3,1,0,?,-17,-5,1020,cv,0.89,0,0", "`?` is not a finite number"),
            ("2,2010,3,1,0,1,NA,-5,1020,cv,0.89,0,0", "`NA` is not a finite number"),
            ("2,2010,3,1,0,1,-17,-5,1020,S,0.89,0,0", "wind `S` is none of SE, cv, NW, NE"),
            ("2,2010,3,1,0,1", "6 columns"),
        ] {
            let error = read(&format!("{sound}{row}\n")).unwrap_err();
            assert!(matches!(error, Error::Data { line: 3, .. }), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        assert!(matches!(read("").unwrap_err(), Error::Data { line: 0, .. }));
    }
}
