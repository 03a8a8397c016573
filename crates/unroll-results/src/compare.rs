//! Two runs of one trial, side by side.

use serde_json::Value;

use crate::record::Trace;
use crate::{TrialRecord, canonical};

/// One number or word that differs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Difference {
    /// Where: `quality.test`, `curve.3.train_loss`.
    pub at: String,
    /// What the record on disk says.
    pub recorded: Value,
    /// What the second run says.
    pub replayed: Value,
}

impl Difference {
    /// `|a - b| / max(|a|, |b|)` of two numbers; `None` when they are none, or not finite.
    pub fn relative(&self) -> Option<f64> {
        let (a, b) = (self.recorded.as_f64()?, self.replayed.as_f64()?);
        Some((a - b).abs() / a.abs().max(b.abs()))
    }
}

/// Everything that differs between two records, clock and place in a sweep left out.
pub fn differences(recorded: &TrialRecord, replayed: &TrialRecord) -> Vec<Difference> {
    let results = |record: &TrialRecord| {
        let mut value = serde_json::to_value(record.without_clock()).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("form".into(), record.cell.form.clone().into());
            map.remove("cell");
            map.remove("trace");
        }
        value
    };
    let mut found = Vec::new();
    walk(&results(recorded), &results(replayed), "", &mut found);
    found
}

fn walk(a: &Value, b: &Value, at: &str, found: &mut Vec<Difference>) {
    let join = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (a, b) {
        (Value::Object(x), Value::Object(y)) if x.keys().eq(y.keys()) => {
            for (key, value) in x {
                walk(value, &y[key], &join(key), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (index, (x, y)) in x.iter().zip(y).enumerate() {
                walk(x, y, &join(&index.to_string()), found);
            }
        }
        // By its text: -0.0 is not 0.0, and NaN (a word here) is NaN.
        _ if canonical::to_string(a) == canonical::to_string(b) => {}
        _ => found.push(Difference { at: at.to_owned(), recorded: a.clone(), replayed: b.clone() }),
    }
}

/// Where two trainings part: after `last_equal` steps the weights were the same, after `first_different`
/// they were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Divergence {
    /// Training steps.
    pub last_equal: u64,
    /// Training steps.
    pub first_different: u64,
}

/// Where two trainings part; `None` when they do not, or their traces cannot be compared.
pub fn divergence(recorded: &TrialRecord, replayed: &TrialRecord) -> Option<Divergence> {
    let (Some(a), Some(b)) = (&recorded.trace, &replayed.trace) else { return None };
    let Trace { every, .. } = *a;
    if every != b.every {
        return None;
    }
    let equal = a.weights.iter().zip(&b.weights).take_while(|(a, b)| a == b).count();
    (equal < a.weights.len().max(b.weights.len())).then_some(Divergence {
        last_equal: equal as u64 * every,
        first_different: (equal as u64 + 1) * every,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn equal_runs_differ_nowhere_whatever_the_clock_says() {
        let first = testing::quality("gru", 50, 2, 0.1);
        let mut second = first.clone();
        second.timing.wall_s = 99.0;
        second.cell.series = "another name".into();
        assert!(differences(&first, &second).is_empty());
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(divergence(&first, &second), None);
    }

    #[test]
    fn the_smallest_difference_is_found_and_placed() {
        let first = testing::quality("gru", 50, 0, 0.1);
        let mut second = first.clone();
        second.curve[2].train_loss = f64::from_bits(first.curve[2].train_loss.to_bits() + 1);
        second.trace.as_mut().unwrap().weights[1] = "ff".into();
        let found = differences(&first, &second);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, "curve.2.train_loss");
        assert!(found[0].relative().is_some_and(|relative| relative < 1e-15));
        let parted = Divergence { last_equal: 10, first_different: 20 };
        assert_eq!(divergence(&first, &second), Some(parted));
    }
}
