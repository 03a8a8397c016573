//! The sums over all queries of one head.

use candle_core::{DType, Tensor};
use unroll_core::{Visibility, weights::check_finite};

use super::bins::{bin, bounds};
use super::{AttentionProfile, DistanceWeight, VisibleEntropy};
use crate::Result;
use crate::statistics::Sum;

/// Sums over the queries of one head so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    queries: u64,
    improper: bool,
    entropy: Sum,
    normalised: Sum,
    distance: Sum,
    uniform: Sum,
    /// By bin of the distance: pairs and their weights.
    by_distance: Vec<(u64, Sum)>,
    longest: usize,
    /// By bin of the number of visible keys: queries, entropies, normalised entropies.
    by_visible: Vec<(u64, Sum, Sum)>,
    most_visible: usize,
}

impl Head {
    /// Adds the queries of one example: weights `(T, S)`, of which the first `S - T = cached` keys lie
    /// before the first query.
    pub(super) fn add(
        &mut self,
        name: &str,
        weights: &Tensor,
        cached: usize,
        visibility: Visibility,
    ) -> Result<()> {
        let keys = weights.dim(1)?;
        let values: Vec<f64> = weights.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        // By distance itself: bins are looked up once for each distance, not for each pair.
        let mut pairs = vec![0u64; keys];
        let mut sums = vec![0.0; keys];
        for (query, row) in values.chunks_exact(keys.max(1)).enumerate() {
            let at = cached + query;
            let seen = visibility.keys(at, keys);
            if !row.iter().sum::<f64>().is_finite() {
                check_finite(name, weights)?;
            }
            let distances = seen.clone().map(|key| at.abs_diff(key));
            self.add_query(&row[seen], distances, &mut pairs, &mut sums);
        }
        for (distance, (&count, &weight)) in pairs.iter().zip(&sums).enumerate() {
            if count > 0 {
                let (pairs, sum) = entry(&mut self.by_distance, bin(distance));
                *pairs += count;
                sum.add(weight);
                self.longest = self.longest.max(distance);
            }
        }
        Ok(())
    }

    fn add_query(
        &mut self,
        row: &[f64],
        distances: impl Iterator<Item = usize>,
        pairs: &mut [u64],
        sums: &mut [f64],
    ) {
        let total: f64 = row.iter().sum();
        let proper = total > 0.0 && row.iter().all(|&weight| weight >= 0.0);
        self.improper |= !proper;
        let scale = if proper { 1.0 / total } else { 1.0 };
        let (mut entropy, mut distance, mut uniform) = (0.0, 0.0, 0.0);
        for (&weight, steps) in row.iter().zip(distances) {
            let weight = weight * scale;
            if weight > 0.0 {
                // 0 ln 0 is 0.
                entropy -= weight * weight.ln();
            }
            distance += weight * steps as f64;
            uniform += steps as f64;
            pairs[steps] += 1;
            sums[steps] += weight;
        }
        let visible = row.len();
        if visible < 2 {
            return;
        }
        // Rounding may leave it a little above.
        let most = (visible as f64).ln();
        let entropy = entropy.clamp(0.0, most);
        self.queries += 1;
        self.entropy.add(entropy);
        self.normalised.add(entropy / most);
        self.distance.add(distance);
        self.uniform.add(uniform / visible as f64);
        self.most_visible = self.most_visible.max(visible);
        let (queries, entropies, normalised) = entry(&mut self.by_visible, bin(visible));
        *queries += 1;
        entropies.add(entropy);
        normalised.add(entropy / most);
    }

    /// The means.
    pub(super) fn profile(self, (layer, head): (usize, usize)) -> AttentionProfile {
        let proper = !self.improper;
        let over = |sum: Sum| (self.queries > 0).then(|| sum.value() / self.queries as f64);
        let by_distance = self.by_distance.iter().enumerate().filter(|(_, (pairs, _))| *pairs > 0);
        let by_visible = self.by_visible.iter().enumerate();
        let by_visible = by_visible.filter(|(_, (queries, ..))| proper && *queries > 0);
        AttentionProfile {
            layer,
            head,
            queries: self.queries,
            proper,
            entropy: over(self.entropy).filter(|_| proper),
            normalised_entropy: over(self.normalised).filter(|_| proper),
            mean_distance: over(self.distance).filter(|_| proper),
            uniform_distance: over(self.uniform),
            by_distance: by_distance
                .map(|(index, &(pairs, sum))| {
                    let (first, last) = bounds(index);
                    let mean_weight = sum.value() / pairs as f64;
                    DistanceWeight { first, last: last.min(self.longest), pairs, mean_weight }
                })
                .collect(),
            by_visible: by_visible
                .map(|(index, &(queries, entropies, normalised))| {
                    let (first, last) = bounds(index);
                    VisibleEntropy {
                        first,
                        last: last.min(self.most_visible),
                        queries,
                        entropy: entropies.value() / queries as f64,
                        normalised_entropy: normalised.value() / queries as f64,
                    }
                })
                .collect(),
        }
    }
}

/// The entry at `index`, which is made if there is none.
fn entry<T: Clone + Default>(entries: &mut Vec<T>, index: usize) -> &mut T {
    if entries.len() <= index {
        entries.resize(index + 1, T::default());
    }
    &mut entries[index]
}
