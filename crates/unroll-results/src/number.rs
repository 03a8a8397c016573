//! Numbers that survive JSON.
//!
//! JSON has no NaN and no infinities, and `serde_json` writes them as `null`, which cannot be read
//! back: a diverged loss would be lost. Here they are the strings `"NaN"`, `"inf"` and `"-inf"`;
//! finite numbers stay JSON numbers and come back with the same bits. The sign and payload of a NaN
//! are not kept.
//!
//! ```
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Loss {
//!     #[serde(with = "unroll_results::number")]
//!     value: f64,
//! }
//! let text = serde_json::to_string(&Loss { value: f64::NAN }).unwrap();
//! assert_eq!(text, r#"{"value":"NaN"}"#);
//! assert!(serde_json::from_str::<Loss>(&text).unwrap().value.is_nan());
//! ```

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Writes a number, or its name when it is not finite.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else if value.is_nan() {
        serializer.serialize_str("NaN")
    } else if *value > 0.0 {
        serializer.serialize_str("inf")
    } else {
        serializer.serialize_str("-inf")
    }
}

/// Reads what [`serialize`] wrote.
///
/// # Errors
/// Anything but a number, `"NaN"`, `"inf"` or `"-inf"`; `null` too.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(NumberVisitor)
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = f64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(r#"a number, "NaN", "inf" or "-inf""#)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f64, E> {
        Ok(value as f64)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<f64, E> {
        match value {
            "NaN" => Ok(f64::NAN),
            "inf" => Ok(f64::INFINITY),
            "-inf" => Ok(f64::NEG_INFINITY),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }
}

/// One number, for use inside options and arrays.
#[derive(Clone, Copy)]
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// The same for `Option<f64>`: `None` is `null`.
pub mod option {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Writes the number, or `null`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(serializer)
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// Anything but `null` and what [`super::deserialize`] reads.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

/// The same for `[f64; N]`.
pub mod array {
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Number, Serializer};

    /// Writes the numbers in order.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer, const N: usize>(
        values: &[f64; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.map(Number))
    }

    /// Reads what [`serialize`] wrote.
    ///
    /// # Errors
    /// When there are not exactly `N` numbers.
    pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[f64; N], D::Error> {
        let numbers = Vec::<Number>::deserialize(deserializer)?;
        let values: Vec<f64> = numbers.iter().map(|number| number.0).collect();
        values
            .try_into()
            .map_err(|values: Vec<f64>| D::Error::invalid_length(values.len(), &"as many numbers"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize)]
    struct Row {
        #[serde(with = "crate::number")]
        one: f64,
        #[serde(with = "crate::number::option")]
        maybe: Option<f64>,
        #[serde(with = "crate::number::array")]
        pair: [f64; 2],
    }

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn non_finite_numbers_have_names() {
        let row = Row { one: f64::NAN, maybe: None, pair: [f64::INFINITY, f64::NEG_INFINITY] };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(text, r#"{"one":"NaN","maybe":null,"pair":["inf","-inf"]}"#);
    }

    #[test]
    fn wrong_values_are_refused() {
        for text in [
            r#"{"one":null,"maybe":null,"pair":[0,0]}"#,
            r#"{"one":"nan","maybe":null,"pair":[0,0]}"#,
            r#"{"one":true,"maybe":null,"pair":[0,0]}"#,
            r#"{"one":1,"maybe":"big","pair":[0,0]}"#,
            r#"{"one":1,"maybe":null,"pair":[0]}"#,
            r#"{"one":1,"maybe":null,"pair":[0,0,0]}"#,
        ] {
            assert!(serde_json::from_str::<Row>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn integers_are_numbers() {
        let row: Row = serde_json::from_str(r#"{"one":-3,"maybe":2,"pair":[0,1]}"#).unwrap();
        assert_eq!((row.one, row.maybe, row.pair), (-3.0, Some(2.0), [0.0, 1.0]));
    }

    proptest! {
        #[test]
        fn every_bit_pattern_survives(bits in any::<[u64; 4]>(), some in any::<bool>()) {
            let [one, maybe, a, b] = bits.map(f64::from_bits);
            let row = Row { one, maybe: some.then_some(maybe), pair: [a, b] };
            let back: Row = serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap();
            prop_assert!(same(one, back.one));
            prop_assert_eq!(back.maybe.is_some(), some);
            prop_assert!(same(row.maybe.unwrap_or(0.0), back.maybe.unwrap_or(0.0)));
            prop_assert!(same(a, back.pair[0]) && same(b, back.pair[1]));
        }
    }

    #[test]
    fn the_smallest_and_signed_zero_survive() {
        for value in [0.0, -0.0, 5e-324, f64::MIN_POSITIVE, f64::MAX, -f64::MAX, 0.1 + 0.2] {
            let row = Row { one: value, maybe: Some(value), pair: [value; 2] };
            let back: Row = serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap();
            assert_eq!(back.one.to_bits(), value.to_bits(), "{value:e}");
            assert_eq!(back.maybe.map(f64::to_bits), Some(value.to_bits()));
        }
    }
}
