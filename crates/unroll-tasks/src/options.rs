//! Options of a task: a serde struct, overlaid key by key with what a user gives.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use unroll_core::architecture::OptionDoc;

use crate::{Error, Options, Result};

/// Longest sequence that a synthetic task makes, in steps.
pub(crate) const MAX_LENGTH: usize = 1 << 24;

/// Largest vocabulary, number of symbols or size of an evaluation split.
pub(crate) const MAX_COUNT: usize = 1 << 24;

/// The options of one task.
///
/// Implementations derive `Serialize` and `Deserialize` with `deny_unknown_fields` and `default`.
pub(crate) trait TaskOptions: Serialize + DeserializeOwned + Default {
    /// Registry name of the task.
    const TASK: &'static str;

    /// One line for each field.
    const OPTIONS: &'static [OptionDoc];

    /// Checks what can be checked without a length.
    ///
    /// # Errors
    /// [`Error::Option`] for the first option that is wrong.
    fn validate(&self) -> Result<()>;
}

/// The options with their defaults, in order: [`TaskEntry::options`](crate::TaskEntry::options).
pub(crate) fn list<O: TaskOptions>() -> Vec<(OptionDoc, Value)> {
    let defaults = to_map(&O::default()).unwrap_or_default();
    O::OPTIONS
        .iter()
        .map(|doc| (*doc, defaults.get(doc.name).cloned().unwrap_or(Value::Null)))
        .collect()
}

/// The given options over the defaults, checked.
///
/// # Errors
/// [`Error::UnknownOption`] or [`Error::Option`].
pub(crate) fn parse<O: TaskOptions>(given: &Options) -> Result<O> {
    let mut merged = to_map(&O::default())?;
    // One key at a time: a wrong value is then reported under its name.
    for (key, value) in given {
        if !O::OPTIONS.iter().any(|doc| doc.name == key) {
            return Err(Error::UnknownOption {
                task: O::TASK.to_owned(),
                option: key.clone(),
                known: O::OPTIONS.iter().map(|doc| doc.name.to_owned()).collect(),
            });
        }
        merged.insert(key.clone(), value.clone());
        serde_json::from_value::<O>(Value::Object(merged.clone()))
            .map_err(|error| Error::option(key, error.to_string()))?;
    }
    let options: O = serde_json::from_value(Value::Object(merged))
        .map_err(|error| Error::option(O::TASK, error.to_string()))?;
    options.validate()?;
    Ok(options)
}

/// All options as a map: [`TaskEntry::resolve`](crate::TaskEntry::resolve).
pub(crate) fn resolve<O: TaskOptions>(given: &Options) -> Result<Options> {
    to_map(&parse::<O>(given)?)
}

/// The options as a map.
///
/// # Errors
/// [`Error::Option`] when they are no table.
pub(crate) fn to_map<O: TaskOptions>(options: &O) -> Result<Options> {
    match serde_json::to_value(options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(Error::option(O::TASK, format!("{other} is not a table of options"))),
        Err(error) => Err(Error::option(O::TASK, error.to_string())),
    }
}

/// Checks that an option that counts something lies in `low..=high`.
pub(crate) fn require_count(option: &str, value: usize, low: usize, high: usize) -> Result<()> {
    if !(low..=high).contains(&value) {
        return Err(Error::option(option, format!("must lie in {low}..={high}, not {value}")));
    }
    Ok(())
}

/// Checks the length of a synthetic task.
pub(crate) fn require_length(length: usize, low: usize, why: &str) -> Result<()> {
    if !(low..=MAX_LENGTH).contains(&length) {
        return Err(Error::option(
            "length",
            format!("must lie in {low}..={MAX_LENGTH} ({why}), not {length}"),
        ));
    }
    Ok(())
}

/// Checks the length of a task that has only one.
pub(crate) fn require_fixed_length(length: usize, only: usize, why: &str) -> Result<()> {
    if length != only {
        return Err(Error::option("length", format!("must be {only} ({why}), not {length}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Example {
        count: usize,
        ratio: f64,
    }

    impl Default for Example {
        fn default() -> Self {
            Self { count: 3, ratio: 0.5 }
        }
    }

    impl TaskOptions for Example {
        const TASK: &'static str = "example";
        const OPTIONS: &'static [OptionDoc] = &[
            OptionDoc { name: "count", help: "how many" },
            OptionDoc { name: "ratio", help: "how much" },
        ];

        fn validate(&self) -> Result<()> {
            require_count("count", self.count, 1, 10)
        }
    }

    fn given(value: &Value) -> Options {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn defaults_are_overlaid_key_by_key() {
        let resolved = resolve::<Example>(&given(&json!({ "ratio": 1 }))).unwrap();
        assert_eq!(Value::Object(resolved), json!({ "count": 3, "ratio": 1.0 }));
        let listed: Vec<Value> = list::<Example>().into_iter().map(|(_, value)| value).collect();
        assert_eq!(listed, [json!(3), json!(0.5)]);
    }

    #[test]
    fn errors_carry_the_key() {
        let error = |value| parse::<Example>(&given(&value)).err().unwrap();
        assert!(matches!(error(json!({ "ratio": "much" })),
            Error::Option { option, .. } if option == "ratio"));
        assert!(matches!(error(json!({ "count": -1 })),
            Error::Option { option, .. } if option == "count"));
        assert!(matches!(error(json!({ "count": 11 })),
            Error::Option { option, .. } if option == "count"));
        assert!(matches!(error(json!({ "cuont": 1 })),
            Error::UnknownOption { option, known, .. }
                if option == "cuont" && known == ["count", "ratio"]));
    }
}
