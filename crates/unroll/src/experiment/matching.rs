//! Hidden sizes that make architectures cost the same.

use serde_json::{Map, Value};
use unroll_core::{Architecture, Cost, Error, Result};

/// The hidden size at which an architecture's cost comes nearest to `target`; the smaller one of
/// two equally near. Sizes that the architecture refuses (not divisible by its heads) are passed
/// over.
///
/// # Errors
/// The architecture's own, when it refuses every size.
pub fn nearest_hidden_size(
    target: u64,
    largest: usize,
    cost_at: impl Fn(usize) -> Result<u64>,
) -> Result<usize> {
    let mut best: Option<(u64, usize)> = None;
    let mut refusal = None;
    for size in 1..=largest {
        match cost_at(size) {
            Ok(cost) => {
                let distance = cost.abs_diff(target);
                if best.is_none_or(|(nearest, _)| distance < nearest) {
                    best = Some((distance, size));
                }
                // Costs grow with the size: beyond twice the target nothing nearer comes.
                if cost > target.saturating_mul(2) {
                    break;
                }
            }
            Err(error) => refusal = Some(error),
        }
    }
    match (best, refusal) {
        (Some((_, size)), _) => Ok(size),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::option("hidden_size", "there is no size to choose from")),
    }
}

/// `options` with another hidden size.
pub fn with_hidden_size(options: &Map<String, Value>, size: usize) -> Map<String, Value> {
    let mut options = options.clone();
    options.insert("hidden_size".into(), size.into());
    options
}

/// The options that an architecture knows out of those meant for all.
pub fn known_options(
    architecture: &dyn Architecture,
    shared: &Map<String, Value>,
) -> Map<String, Value> {
    let known: Vec<&str> = architecture.options().iter().map(|(doc, _)| doc.name).collect();
    shared
        .iter()
        .filter(|(key, _)| known.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The hidden size that options give, or the architecture's default.
pub fn hidden_size(architecture: &dyn Architecture, options: &Map<String, Value>) -> usize {
    let given = options.get("hidden_size").and_then(Value::as_u64);
    let default = || {
        let defaults = architecture.options();
        defaults.iter().find(|(doc, _)| doc.name == "hidden_size").and_then(|(_, v)| v.as_u64())
    };
    given.or_else(default).unwrap_or(1) as usize
}

/// What is held equal, of a cost.
pub fn measure(by: super::MatchBy, cost: &Cost) -> u64 {
    match by {
        super::MatchBy::Flops => cost.forward_flops,
        super::MatchBy::Parameters | super::MatchBy::HiddenSize => cost.parameters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_allowed_size_is_found() {
        let square = |size: usize| -> Result<u64> {
            if size.is_multiple_of(4) {
                Ok((size * size) as u64)
            } else {
                Err(Error::option("hidden_size", "not divisible by 4"))
            }
        };
        assert_eq!(nearest_hidden_size(1000, 4096, square).unwrap(), 32);
        assert_eq!(nearest_hidden_size(1, 4096, square).unwrap(), 4);
        assert!(nearest_hidden_size(1, 3, square).is_err());
    }
}
