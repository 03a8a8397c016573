//! Dates of the Gregorian calendar.

/// Hours from 1970-01-01 00:00 to an hour (`0..24`) of a date (year, month, day), if there is such.
pub(crate) fn hour_of(date: [i64; 3], hour: i64) -> Option<i64> {
    let days = days_of(date)?;
    (0..24).contains(&hour).then_some(24 * days + hour)
}

/// Days from 1970-01-01 to a date (year, month, day), if there is such.
fn days_of([year, month, day]: [i64; 3]) -> Option<i64> {
    let sound = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day);
    sound.then(|| days_from_epoch(year, month, day))
}

/// Seconds from 1970-01-01 00:00 UTC to a time as ISO 8601 writes it: `2024-03-01`, `2024-03-01 05:30`,
/// `2024-03-01T05:30:00.5+02:00`. The day may be left out (`2024-03`), and `/` may stand for `-`.
pub(crate) fn seconds_of(text: &str) -> Option<f64> {
    let at = text.find(['T', ' ']).unwrap_or(text.len());
    let (date, time) = (&text[..at], text[at..].trim_start_matches(['T', ' ']));
    let separator = if date.contains('/') { '/' } else { '-' };
    let numbers: Vec<i64> = date.split(separator).map(whole).collect::<Option<_>>()?;
    // The year first: 1/2/2024 is another day in another country.
    let of_four = date.split(separator).next().is_some_and(|year| year.len() == 4);
    let days = match numbers[..] {
        [year, month] if of_four => days_of([year, month, 1])?,
        [year, month, day] if of_four => days_of([year, month, day])?,
        _ => return None,
    };
    let seconds = if at == text.len() { 0.0 } else { clock(time)? };
    Some(86_400.0 * days as f64 + seconds)
}

/// Seconds of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.fff`, less what a zone (`Z`, `+HH:MM`) is ahead.
fn clock(text: &str) -> Option<f64> {
    let at = text.find(['Z', '+', '-']).unwrap_or(text.len());
    let (time, zone) = (text[..at].trim_end(), &text[at..]);
    let (time, fraction) = match time.split_once('.') {
        Some((time, digits)) => (time, format!("0.{}", whole(digits).and(Some(digits))?)),
        None => (time, String::new()),
    };
    let fraction: f64 = if fraction.is_empty() { 0.0 } else { fraction.parse().ok()? };
    let numbers: Vec<i64> = time.split(':').map(whole).collect::<Option<_>>()?;
    let (hour, minute, second) = match numbers[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    // Some clocks count a leap second.
    if !((0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second)) {
        return None;
    }
    let ahead = match zone.split_at_checked(1) {
        None | Some(("Z", "")) => 0,
        Some((sign, of)) if sign != "Z" => {
            let (hours, minutes) = match of.split_once(':') {
                Some(parts) => parts,
                None => of.split_at_checked(2)?,
            };
            let minutes = if minutes.is_empty() { 0 } else { whole(minutes)? };
            let ahead = 60 * whole(hours)? + minutes;
            if sign == "-" { -ahead } else { ahead }
        }
        Some(_) => return None,
    };
    Some((3600 * hour + 60 * (minute - ahead) + second) as f64 + fraction)
}

/// A number of digits alone.
fn whole(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date that there is.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Leap days before a year, counted from year 1.
    let leap_days = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let years = 365 * (year - 1970) + leap_days(year) - leap_days(1970);
    let months: i64 = (1..month).map(|earlier| days_in_month(year, earlier)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_iso_8601() {
        let day = 11_017.0 * 86_400.0;
        for (text, seconds) in [
            ("1970-01-01", 0.0),
            ("2000-03", day),
            ("2000-03-01", day),
            ("2000/3/1", day),
            ("2000-03-01 05:30", day + 19_800.0),
            ("2000-03-01T05:30:07", day + 19_807.0),
            ("2000-03-01T05:30:07.25Z", day + 19_807.25),
            ("2000-03-01 05:30:00+05:30", day),
            ("2000-02-29 22:00-0200", day),
            ("2000-03-01 01:00 +01", day),
        ] {
            assert_eq!(seconds_of(text), Some(seconds), "{text}");
        }
        for wrong in [
            "",
            "2000",
            "1/3/2000",
            "01-03-2000",
            "2001-02-29",
            "2000-13-01",
            "2000-03-01 24:00",
            "2000-03-01 ",
            "2000-03-01 5",
            "2000-03-01 05:60",
            "2000-03-01T05:30Zulu",
            "2000-03-01T05:30+",
            "2000-03-01T05:30:07.x",
            "2000-03-01T05:30 PM",
            "2000-3-é",
            "+2000-03-01",
            "Monday",
        ] {
            assert_eq!(seconds_of(wrong), None, "{wrong}");
        }
    }
}
