//! Hidden sizes that make architectures cost the same.

use std::cell::RefCell;

use serde_json::{Map, Value};
use unroll_core::{Architecture, Cost, Error, Result};

/// Sizes tried in search of one that an architecture does not refuse: more than it has heads.
const REFUSED: usize = 4096;

/// The hidden size up to `largest` at which an architecture's cost comes nearest to `target`; the smaller one
/// of two equally near. Sizes that the architecture refuses (not divisible by its heads) are passed over. Costs
/// grow with the size, so that sizes are doubled until they cost enough, and then halved in between.
///
/// # Errors
/// The architecture's own, when it refuses every size.
pub fn nearest_hidden_size(
    target: u64,
    largest: usize,
    cost_at: impl Fn(usize) -> Result<u64>,
) -> Result<usize> {
    let refusal = RefCell::new(None);
    // The first size from here on that is not refused, below `end`.
    let allowed = |from: usize, end: usize| -> Option<(usize, u64)> {
        (from..end.min(from.saturating_add(REFUSED))).find_map(|size| match cost_at(size) {
            Ok(cost) => Some((size, cost)),
            Err(error) => {
                refusal.replace(Some(error));
                None
            }
        })
    };
    let end = largest.saturating_add(1);
    let Some(mut below) = allowed(1, end) else {
        let none = || Error::option("hidden_size", "there is no size to choose from");
        return Err(refusal.take().unwrap_or_else(none));
    };
    let mut above = None;
    while below.1 < target && above.is_none() {
        match allowed(below.0.saturating_mul(2), end) {
            Some(next) if next.1 < target => below = next,
            Some(next) => above = Some(next),
            None => break,
        }
    }
    // Nothing is allowed from `gap` to the size above.
    let mut gap = above.map_or(end, |(size, _)| size);
    while below.1 < target && gap - below.0 > 1 {
        let middle = below.0 + (gap - below.0) / 2;
        match allowed(middle, gap) {
            Some(next) if next.1 < target => below = next,
            Some(next) => (above, gap) = (Some(next), middle),
            None => gap = middle,
        }
    }
    let distance = |(_, cost): (usize, u64)| cost.abs_diff(target);
    Ok(match above {
        Some(above) if distance(above) < distance(below) => above.0,
        _ => below.0,
    })
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
    use crate::experiment::MatchBy;

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
        // As large as it takes, and not beyond what is allowed.
        assert_eq!(nearest_hidden_size(67_178_497, 1 << 30, square).unwrap(), 8196);
        assert_eq!(nearest_hidden_size(67_178_497, 4096, square).unwrap(), 4096);
    }

    /// Every size is looked at: what the search by halves must find too.
    fn by_looking_at_all(target: u64, cost_at: impl Fn(usize) -> Result<u64>) -> usize {
        let costs = (1..600).filter_map(|size| Some((cost_at(size).ok()?.abs_diff(target), size)));
        costs.min().unwrap().1
    }

    #[test]
    fn the_search_finds_what_a_look_at_all_sizes_finds() {
        for architecture in crate::registry::all() {
            for by in [MatchBy::Parameters, MatchBy::Flops] {
                let cost_at = |size: usize| {
                    let mut given = Map::new();
                    given.insert("input_size".into(), 3.into());
                    given.insert("hidden_size".into(), size.into());
                    let options = architecture.resolve(&given)?;
                    Ok(measure(by, &architecture.cost(&options, 2, 9)?))
                };
                for target in [1, 500, 4641, 20_000, 70_000] {
                    let found = nearest_hidden_size(target, 4096, cost_at).unwrap();
                    let name = architecture.name();
                    assert_eq!(found, by_looking_at_all(target, cost_at), "{name} {by:?} {target}");
                }
            }
        }
    }
}
