//! What a model's structure says of the way from one step to another: which keys attention sees, and how
//! many hops a gradient needs.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Which keys the query at step `t` sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// All real steps of the sequence.
    All,
    /// Steps `s <= t`.
    Past,
    /// Steps with `0 <= t - s < w`: the step itself and the `w - 1` before it.
    Window(usize),
}

impl Visibility {
    /// Whether the query at step `t` sees the key at step `s`.
    pub fn sees(self, t: usize, s: usize) -> bool {
        match self {
            Self::All => true,
            Self::Past => s <= t,
            Self::Window(window) => s <= t && t - s < window,
        }
    }

    /// The keys that the query at step `t` sees, of `keys` in all.
    pub fn keys(self, t: usize, keys: usize) -> Range<usize> {
        match self {
            Self::All => 0..keys,
            Self::Past => 0..keys.min(t + 1),
            Self::Window(window) => (t + 1).saturating_sub(window)..keys.min(t + 1),
        }
    }

    /// How many of `steps` past keys later queries can still see: what a cache has to hold.
    pub fn cached(self, steps: usize) -> usize {
        match self {
            Self::All => 0,
            Self::Past => steps,
            Self::Window(window) => steps.min(window.saturating_sub(1)),
        }
    }

    /// The fewest layers of such attention, each on the outputs of the one below, through which the step
    /// `distance` steps earlier reaches a step: 0 for the step itself, then one for each hop of up to
    /// `w - 1` steps; `None` when no number of layers does.
    pub fn hops(self, distance: usize) -> Option<usize> {
        match self {
            _ if distance == 0 => Some(0),
            Self::All | Self::Past => Some(1),
            Self::Window(window) => match window.saturating_sub(1) {
                0 => None,
                reach => Some(distance.div_ceil(reach)),
            },
        }
    }
}

/// The attention layers of a model: how the tensors of
/// [`ForwardOutput::attention`](crate::ForwardOutput::attention) are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionLayout {
    /// Layers with attention.
    pub layers: usize,
    /// Heads (`N`) of each.
    pub heads: usize,
    /// Which keys their queries see.
    pub visibility: Visibility,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_are_seen() {
        for visibility in [Visibility::All, Visibility::Past, Visibility::Window(3)] {
            for t in 0..8 {
                let seen: Vec<usize> = (0..8).filter(|&s| visibility.sees(t, s)).collect();
                assert_eq!(visibility.keys(t, 8).collect::<Vec<_>>(), seen, "{visibility:?}");
            }
        }
    }

    /// Against a search over all ways through `layers` layers.
    #[test]
    fn hops_are_the_shortest_way() {
        let steps = 14;
        let mut patterns: Vec<Visibility> = (0..7).map(Visibility::Window).collect();
        patterns.extend([Visibility::All, Visibility::Past]);
        for pattern in patterns {
            let last = steps - 1;
            let mut reached = vec![None; steps];
            reached[last] = Some(0);
            for layer in 1..=steps {
                for t in 0..steps {
                    let from = (0..steps)
                        .any(|at| reached[at].is_some_and(|l| l < layer) && pattern.sees(at, t));
                    if from && reached[t].is_none() {
                        reached[t] = Some(layer);
                    }
                }
            }
            for distance in 0..steps {
                assert_eq!(pattern.hops(distance), reached[last - distance], "{pattern:?}");
            }
        }
    }
}
