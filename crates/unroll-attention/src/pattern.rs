//! Which keys a query sees, cut into blocks of queries so that hidden keys cost nothing.

use candle_core::{DType, Device, Tensor};
use unroll_core::{Lengths, Result, Visibility, ops};
use unroll_kernels::attention::Mask;

/// Which keys a query at step `i` sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All.
    Full,
    /// Keys `j <= i`.
    Causal,
    /// Keys with `0 <= i - j < w`.
    Window(usize),
}

impl Pattern {
    /// Whether the query at step `i` sees the key at step `j`.
    fn visible(self, i: usize, j: usize) -> bool {
        Visibility::from(self).sees(i, j)
    }

    /// How many of `steps` past keys later queries can still see: what a cache has to hold.
    pub(crate) fn cached(self, steps: usize) -> usize {
        Visibility::from(self).cached(steps)
    }
}

impl From<Pattern> for Visibility {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Full => Self::All,
            Pattern::Causal => Self::Past,
            Pattern::Window(window) => Self::Window(window),
        }
    }
}

/// A run of queries and the keys that at least one of them may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// First query, counted from the first new step.
    pub(crate) query: usize,
    /// Number of queries.
    pub(crate) queries: usize,
    /// First key, counted from the first cached key.
    pub(crate) key: usize,
    /// Number of keys.
    pub(crate) keys: usize,
}

/// Cuts `seq_len` queries after `cached` keys into blocks of at most `block` queries (at least the
/// window: shorter blocks would share most of their keys). A full pattern is one block.
pub(crate) fn blocks(
    pattern: Pattern,
    cached: usize,
    seq_len: usize,
    block: usize,
) -> impl Iterator<Item = Block> {
    let block = match pattern {
        Pattern::Full => seq_len,
        Pattern::Causal => block,
        Pattern::Window(window) => block.min(window.max(SHORTEST_BLOCK)),
    };
    (0..seq_len).step_by(block.max(1)).map(move |query| {
        let queries = block.min(seq_len - query);
        let key = match pattern {
            Pattern::Window(window) => (cached + query + 1).saturating_sub(window),
            Pattern::Full | Pattern::Causal => 0,
        };
        let end = match pattern {
            Pattern::Full => cached + seq_len,
            Pattern::Causal | Pattern::Window(_) => cached + query + queries,
        };
        Block { query, queries, key, keys: end - key }
    })
}

/// Queries per block of a short window.
const SHORTEST_BLOCK: usize = 32;

/// Query-key pairs for which a score is computed, per sequence and head.
pub(crate) fn pairs(pattern: Pattern, seq_len: usize, block: usize) -> u64 {
    blocks(pattern, 0, seq_len, block).map(|b| (b.queries * b.keys) as u64).sum()
}

/// Query-key pairs that are visible, per sequence and head.
#[cfg(test)]
pub(crate) fn visible_pairs(pattern: Pattern, seq_len: usize) -> u64 {
    let all = (0..seq_len).flat_map(|i| (0..seq_len).map(move |j| (i, j)));
    all.filter(|&(i, j)| pattern.visible(i, j)).count() as u64
}

/// The blocks of one forward pass with their masks, shared by its layers.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    blocks: Vec<(Block, Option<Tensor>)>,
}

impl Plan {
    /// Blocks of at most `block` queries for `seq_len` new steps after `cached` keys.
    pub(crate) fn new(
        pattern: Pattern,
        (cached, seq_len, block): (usize, usize, usize),
        lengths: Option<&Lengths>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let blocks = blocks(pattern, cached, seq_len, block)
            .map(|b| Ok((b, block_mask(pattern, b, cached, lengths, dtype, device)?)))
            .collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    /// One query for each sequence, at its last real step: what a pooled readout asks.
    pub(crate) fn last(
        pattern: Pattern,
        (cached, seq_len): (usize, usize),
        lengths: Option<&Lengths>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let keys = cached + seq_len;
        let block = Block { query: 0, queries: 1, key: 0, keys };
        let rows: Vec<usize> = match lengths {
            Some(lengths) => lengths.as_slice().to_vec(),
            None => vec![seq_len],
        };
        let sees = |row: usize, key: usize| {
            let last = cached + rows[row] - 1;
            // A full pattern too ends at the last real step: what follows is padding.
            key <= last && pattern.visible(last, key)
        };
        let mask = ops::mask_from_fn(rows.len(), keys, dtype, device, sees)?;
        let mask = mask.reshape((rows.len(), 1, 1, keys))?;
        Ok(Self { blocks: vec![(block, Some(mask))] })
    }

    /// Blocks with their masks: `(1 or B, 1, queries, keys)` of 1 and 0, or `None` when every query
    /// sees every key.
    pub(crate) fn blocks(&self) -> &[(Block, Option<Tensor>)] {
        &self.blocks
    }

    /// Keys `S`: cached and new.
    pub(crate) fn keys(&self) -> usize {
        self.blocks.iter().map(|(b, _)| b.key + b.keys).max().unwrap_or(0)
    }
}

/// Which keys a query sees, as the fused attention is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    pub(crate) mask: Mask,
    /// Cached and real keys of each sequence; `None` when all are real.
    pub(crate) lengths: Option<Vec<usize>>,
}

impl Visible {
    /// What [`Plan::new`] shows to all queries.
    pub(crate) fn new(pattern: Pattern, cached: usize, lengths: Option<&Lengths>) -> Self {
        let mask = match pattern {
            Pattern::Full => Mask::None,
            Pattern::Causal => Mask::Causal,
            Pattern::Window(window) => Mask::Window(window),
        };
        let lengths = lengths.map(|l| l.as_slice().iter().map(|length| cached + length).collect());
        Self { mask, lengths }
    }

    /// What [`Plan::last`] shows to one query for each sequence; `None` where the fused attention
    /// cannot say it: under a window, queries that stand at different steps.
    pub(crate) fn last(
        pattern: Pattern,
        (cached, seq_len): (usize, usize),
        lengths: Option<&Lengths>,
    ) -> Option<Self> {
        let ragged = lengths.is_some_and(|l| l.as_slice().iter().any(|&l| l != seq_len));
        match pattern {
            Pattern::Window(_) if ragged => None,
            Pattern::Window(_) => Some(Self::new(pattern, cached, None)),
            // What follows the last real step is padding: nothing else is hidden.
            Pattern::Full | Pattern::Causal => Some(Self::new(Pattern::Full, cached, lengths)),
        }
    }
}

fn block_mask(
    pattern: Pattern,
    block: Block,
    cached: usize,
    lengths: Option<&Lengths>,
    dtype: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    let Block { query, queries, key, keys } = block;
    let sees = |row: usize, column: usize| pattern.visible(cached + query + row, key + column);
    let all_visible = (0..queries).all(|row| (0..keys).all(|column| sees(row, column)));
    let band = if all_visible {
        None
    } else {
        let band = ops::mask_from_fn(queries, keys, dtype, device, sees)?;
        Some(band.reshape((1, 1, queries, keys))?)
    };
    let Some(lengths) = lengths.map(Lengths::as_slice) else { return Ok(band) };
    let is_real = |row: usize, column: usize| key + column < cached + lengths[row];
    if (0..lengths.len()).all(|row| is_real(row, keys - 1)) {
        return Ok(band);
    }
    let real = ops::mask_from_fn(lengths.len(), keys, dtype, device, is_real)?;
    let real = real.reshape((lengths.len(), 1, 1, keys))?;
    Ok(Some(match band {
        Some(band) => real.broadcast_mul(&band)?,
        None => real,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_every_visible_pair_once() {
        for pattern in [Pattern::Full, Pattern::Causal, Pattern::Window(1), Pattern::Window(50)] {
            for (cached, seq_len, block) in [(0, 1, 128), (0, 200, 64), (3, 97, 16), (70, 33, 7)] {
                let cached = pattern.cached(cached);
                let blocks: Vec<Block> = blocks(pattern, cached, seq_len, block).collect();
                for i in 0..seq_len {
                    let mine: Vec<&Block> = blocks
                        .iter()
                        .filter(|b| (b.query..b.query + b.queries).contains(&i))
                        .collect();
                    assert_eq!(mine.len(), 1);
                    for j in (0..cached + seq_len).filter(|&j| pattern.visible(cached + i, j)) {
                        assert!((mine[0].key..mine[0].key + mine[0].keys).contains(&j));
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_costs_its_width_and_not_the_length() {
        let (seq_len, window) = (4096, 64);
        let computed = pairs(Pattern::Window(window), seq_len, 128);
        assert!(computed < 2 * visible_pairs(Pattern::Window(window), seq_len));
        assert!(pairs(Pattern::Causal, seq_len, 128) * 100 < 52 * (seq_len * seq_len) as u64);
    }
}
