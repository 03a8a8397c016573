//! Gates and attention, over seeds.

use std::collections::BTreeMap;

use super::gradients::Moment;
use super::{Counted, GroupKey, Index, moment_of};
use crate::TrialRecord;
use crate::record::{Alignment, AttentionHead, GateStatistics};
use crate::statistics::{Spread, median};

/// One gate of one series, task and length at one moment of training. All numbers are medians over
/// seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct GateGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Sequence length, steps.
    pub length: usize,
    /// When in training.
    pub moment: Moment,
    /// Layer.
    pub layer: usize,
    /// `forward` or `reverse`.
    pub direction: String,
    /// Which gate.
    pub gate: String,
    /// Mean value, over seeds.
    pub mean: Option<Spread>,
    /// Fraction closed (below 0.1) of a sigmoid gate.
    pub closed: Option<f64>,
    /// Fraction open (above 0.9) of a sigmoid gate.
    pub open: Option<f64>,
    /// Fraction saturated of a candidate.
    pub saturated: Option<f64>,
    /// Forget time in steps of the gate that keeps the state: quantiles 0.1, 0.5, 0.9 over units.
    pub forget_time: Option<[f64; 3]>,
}

/// The heads of one attention layer of one series, task and length at one moment of training.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Sequence length, steps.
    pub length: usize,
    /// When in training.
    pub moment: Moment,
    /// Layer among those with attention.
    pub layer: usize,
    /// Heads.
    pub heads: usize,
    /// Entropy over that of uniform weights, over heads and seeds.
    pub normalised_entropy: Option<Spread>,
    /// Mean attended distance in steps, over heads and seeds.
    pub mean_distance: Option<Spread>,
    /// What that would be if all keys weighed alike.
    pub uniform_distance: Option<f64>,
}

/// Moment, layer, direction, gate.
type GateId<'a> = (Moment, usize, &'a str, &'a str);

/// What an encoder and decoder looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct AlignmentGroup {
    /// Series.
    pub series: String,
    /// Task.
    pub task: String,
    /// Trained length, steps.
    pub length: usize,
    /// Seed of the trial.
    pub seed: u64,
    /// A few examples.
    pub examples: Vec<Alignment>,
}

pub(super) fn alignments(index: &Index<'_>) -> Vec<AlignmentGroup> {
    let groups = index.groups(|record| !record.alignments.is_empty());
    let first = |(key, trials): (GroupKey, Vec<&TrialRecord>)| {
        let trial = trials.into_iter().min_by_key(|trial| trial.cell.seed)?;
        Some(AlignmentGroup {
            series: index.series(key),
            task: index.task(key),
            length: key.length,
            seed: trial.cell.seed,
            examples: trial.alignments.clone(),
        })
    };
    groups.into_iter().filter_map(first).collect()
}

pub(super) fn gates(index: &Index<'_>) -> Vec<GateGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.gates.is_empty()) {
        // In the order of the cell's gates, not of the alphabet.
        let mut groups: Vec<(GateId<'_>, Vec<&GateStatistics>)> = Vec::new();
        let counted = Counted::of(&trials, |trial| trial.gates.iter().map(|g| g.step).collect());
        for trial in &trials {
            for gate in &trial.gates {
                let moment = moment_of(trial, gate.step);
                if !counted.has(trial, moment) {
                    continue;
                }
                let id = (moment, gate.layer, gate.direction.as_str(), gate.gate.as_str());
                match groups.iter_mut().find(|(known, _)| *known == id) {
                    Some((_, gates)) => gates.push(gate),
                    None => groups.push((id, vec![gate])),
                }
            }
        }
        groups.sort_by_key(|((moment, layer, ..), _)| (*moment, *layer));
        for ((moment, layer, direction, gate), seeds) in groups {
            let over = |value: fn(&GateStatistics) -> Option<f64>| {
                median(&seeds.iter().filter_map(|gate| value(gate)).collect::<Vec<_>>())
            };
            let times = |place: usize| {
                let times = seeds.iter().filter_map(|gate| Some(gate.memory?.forget[place]));
                median(&times.collect::<Vec<_>>())
            };
            found.push(GateGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                moment,
                layer,
                direction: direction.to_owned(),
                gate: gate.to_owned(),
                mean: Spread::of(seeds.iter().map(|gate| gate.mean)),
                closed: over(|gate| gate.closed),
                open: over(|gate| gate.open),
                saturated: over(|gate| gate.saturated),
                forget_time: (|| Some([times(0)?, times(1)?, times(2)?]))(),
            });
        }
    }
    found
}

pub(super) fn attention(index: &Index<'_>) -> Vec<AttentionGroup> {
    let mut found = Vec::new();
    for (key, trials) in index.groups(|record| !record.attention.is_empty()) {
        let mut layers: BTreeMap<(Moment, usize), Vec<&AttentionHead>> = BTreeMap::new();
        let counted = Counted::of(&trials, |t| t.attention.iter().map(|head| head.step).collect());
        for trial in &trials {
            for head in &trial.attention {
                let id = (moment_of(trial, head.step), head.layer);
                if !counted.has(trial, id.0) {
                    continue;
                }
                layers.entry(id).or_default().push(head);
            }
        }
        for ((moment, layer), heads) in layers {
            let spread = |value: fn(&AttentionHead) -> Option<f64>| {
                Spread::of(heads.iter().filter_map(|head| value(head)))
            };
            found.push(AttentionGroup {
                series: index.series(key),
                task: index.task(key),
                length: key.length,
                moment,
                layer,
                heads: heads.iter().map(|head| head.head + 1).max().unwrap_or(0),
                normalised_entropy: spread(|head| head.normalised_entropy),
                mean_distance: spread(|head| head.mean_distance),
                uniform_distance: spread(|head| head.uniform_distance).map(|s| s.median),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::{Summary, testing};

    #[test]
    fn seeds_and_heads_are_brought_together() {
        let mut records = [0, 1, 2].map(|seed| testing::measured("gru", 8, seed, "cpu"));
        for (record, mean) in records.iter_mut().zip([0.4, 0.5, 0.9]) {
            let mut reset = record.gates[0].clone();
            (reset.gate, reset.memory) = ("reset".into(), None);
            record.gates[0].mean = mean;
            record.gates.insert(0, reset);
            let mut second = record.attention[0].clone();
            (second.head, second.normalised_entropy) = (1, Some(mean));
            record.attention.push(second);
        }
        let summary = Summary::from_records(&records);
        let names: Vec<_> = summary.gates.iter().map(|group| group.gate.as_str()).collect();
        assert_eq!(names, ["reset", "update"], "in the order of the records");
        assert_eq!(summary.gates[0].forget_time, None);
        let update = &summary.gates[1];
        let mean = update.mean.unwrap();
        assert_eq!((mean.n, mean.median, mean.min, mean.max), (3, 0.5, 0.4, 0.9));
        assert_eq!(update.forget_time, Some([1.8, 2.0, f64::INFINITY]));
        let [layer] = &summary.attention[..] else { panic!("one layer") };
        let entropy = layer.normalised_entropy.unwrap();
        assert_eq!((layer.heads, entropy.n, entropy.min, entropy.max), (2, 6, 0.4, 0.9));
        assert_eq!(layer.uniform_distance, Some(3.0));
    }
}
