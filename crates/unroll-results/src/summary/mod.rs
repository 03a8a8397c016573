//! Trials brought together over seeds: what terminal tables, plots and reports are made from.
//!
//! A group is everything that differs in nothing but the seed. Groups follow the order in which
//! their series and tasks first appear in the records, then the length. Nothing is averaged away:
//! every group keeps the values of its seeds, and trials that diverged or failed are counted.

mod curves;
mod dynamics;
mod gradients;
mod horizon;
mod inside;
mod quality;
mod setting;
mod throughput;

pub use curves::{CurveBand, CurveGroup, SeedCurve};
pub use dynamics::{DynamicsGroup, DynamicsPoint};
pub use gradients::{GradientBand, GradientGroup, Moment, OverSeeds, median_horizon};
pub(crate) use horizon::initial_input;
pub use horizon::{Agreement, HorizonGroup, HorizonPoint};
pub use inside::{AlignmentGroup, AttentionGroup, GateGroup};
pub use quality::{LengthGroup, MetricGroup, QualityGroup, SeedValue, Verdict};
pub use setting::{Failure, KindSetting, SeriesInfo, Setting};
pub use throughput::ThroughputGroup;

use crate::record::{TrialKind, TrialRecord};

/// All groups of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What was run, and what was the same in all of it.
    pub setting: Setting,
    /// The series, in order.
    pub series: Vec<SeriesInfo>,
    /// The tasks, in order.
    pub tasks: Vec<String>,
    /// Metric after training.
    pub quality: Vec<QualityGroup>,
    /// Metric at other lengths than the trained one.
    pub lengths: Vec<LengthGroup>,
    /// Metrics of tasks beside their own.
    pub metrics: Vec<MetricGroup>,
    /// Learning curves.
    pub curves: Vec<CurveGroup>,
    /// Gradient decay.
    pub gradients: Vec<GradientGroup>,
    /// Jacobians of recurrent states, and Lyapunov exponents.
    pub dynamics: Vec<DynamicsGroup>,
    /// Gates.
    pub gates: Vec<GateGroup>,
    /// Attention weights.
    pub attention: Vec<AttentionGroup>,
    /// How far back gradients reach at initialisation beside what was learned, one for each task.
    pub horizons: Vec<HorizonGroup>,
    /// What encoders and decoders looked at, by series: that of its first seed.
    pub alignments: Vec<AlignmentGroup>,
    /// Times and memory.
    pub throughput: Vec<ThroughputGroup>,
    /// Trials that diverged or failed, in the order of the records.
    pub failures: Vec<Failure>,
}

impl Summary {
    /// Groups the records.
    pub fn from_records(records: &[TrialRecord]) -> Self {
        let index = Index::new(records);
        Self {
            setting: setting::setting(&index),
            series: setting::series(&index),
            tasks: index.tasks.clone(),
            quality: quality::groups(&index),
            lengths: quality::lengths(&index),
            metrics: quality::metrics(&index),
            curves: curves::groups(&index),
            gradients: gradients::groups(&index),
            dynamics: dynamics::groups(&index),
            gates: inside::gates(&index),
            attention: inside::attention(&index),
            horizons: horizon::groups(&index),
            alignments: inside::alignments(&index),
            throughput: throughput::groups(&index),
            failures: setting::failures(&index),
        }
    }
}

/// The group that a trial belongs to. Ordered as groups are shown: by task, length, series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    task: usize,
    length: usize,
    series: usize,
}

/// The records with the places of their series and tasks.
pub(crate) struct Index<'a> {
    records: &'a [TrialRecord],
    /// Names in order of first appearance.
    series: Vec<String>,
    tasks: Vec<String>,
    keys: Vec<GroupKey>,
}

impl<'a> Index<'a> {
    fn new(records: &'a [TrialRecord]) -> Self {
        let mut devices: Vec<&str> = Vec::new();
        for record in records {
            if !devices.contains(&record.cell.device.as_str()) {
                devices.push(&record.cell.device);
            }
        }
        let (mut series, mut tasks) = (Vec::new(), Vec::new());
        let mut keys = Vec::with_capacity(records.len());
        for record in records {
            let cell = &record.cell;
            // Trials on several devices must not end up in one group.
            let name = if devices.len() > 1 {
                format!("{}, {}", cell.series, cell.device)
            } else {
                cell.series.clone()
            };
            keys.push(GroupKey {
                task: place(&mut tasks, cell.task.clone()),
                length: cell.length,
                series: place(&mut series, name),
            });
        }
        Self { records, series, tasks, keys }
    }

    /// The records of each group; groups in order, records in their own order.
    fn groups(
        &self,
        wanted: impl Fn(&TrialRecord) -> bool,
    ) -> Vec<(GroupKey, Vec<&'a TrialRecord>)> {
        let mut groups = std::collections::BTreeMap::<GroupKey, Vec<&TrialRecord>>::new();
        for (key, record) in self.keys.iter().zip(self.records) {
            if wanted(record) {
                groups.entry(*key).or_default().push(record);
            }
        }
        groups.into_iter().collect()
    }

    fn series(&self, key: GroupKey) -> String {
        self.series[key.series].clone()
    }

    fn task(&self, key: GroupKey) -> String {
        self.tasks[key.task].clone()
    }
}

/// When in its training a trial was measured after `step` steps.
fn moment_of(trial: &TrialRecord, step: u64) -> Moment {
    let last = trial.quality.as_ref().map(|quality| quality.steps);
    match step {
        0 => Moment::Initial,
        step if Some(step) == last => Moment::Trained,
        step => Moment::During(step),
    }
}

/// Which trial's measurement counts for a seed at a moment. Before training a gradient trial and a quality trial of one
/// seed have the same weights, and measure the same twice: the trial that was for that counts.
struct Counted(std::collections::BTreeMap<(u64, Moment), TrialKind>);

impl Counted {
    /// Of the trials of a group, with the steps that each was measured at.
    fn of(trials: &[&TrialRecord], steps: impl Fn(&TrialRecord) -> Vec<u64>) -> Self {
        let mut kinds = std::collections::BTreeMap::new();
        for trial in trials {
            for step in steps(trial) {
                let at = (trial.cell.seed, moment_of(trial, step));
                if trial.kind == TrialKind::Gradient {
                    kinds.insert(at, trial.kind);
                } else {
                    kinds.entry(at).or_insert(trial.kind);
                }
            }
        }
        Self(kinds)
    }

    fn has(&self, trial: &TrialRecord, moment: Moment) -> bool {
        self.0.get(&(trial.cell.seed, moment)) == Some(&trial.kind)
    }
}

/// Index of `name`, which is appended when it is new.
fn place(names: &mut Vec<String>, name: String) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// The different values, in order of first appearance.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Better, Status};
    use crate::testing;

    #[test]
    fn groups_keep_the_order_of_the_experiment() {
        let summary = Summary::from_records(&testing::sweep());
        let groups: Vec<_> =
            summary.quality.iter().map(|group| (group.length, group.series.as_str())).collect();
        let series = ["rnn", "lstm", "lstm, forget_bias=2"];
        let expected: Vec<_> =
            [50, 200].into_iter().flat_map(|length| series.map(|name| (length, name))).collect();
        assert_eq!(groups, expected);
        assert_eq!(summary.series[2].architecture, "lstm");
        assert_eq!(summary.series[2].parameters, [4609]);
        assert_eq!(summary.setting.seeds, [0, 1, 2]);
        assert_eq!(summary.setting.lengths, [50, 200]);
    }

    #[test]
    fn trials_that_went_wrong_are_counted_and_not_averaged() {
        let summary = Summary::from_records(&testing::sweep());
        let rnn = &summary.quality[0];
        // Seed 0 has 0.1; seed 1 diverged, seed 2 failed.
        assert_eq!((rnn.n, rnn.diverged, rnn.failed, rnn.solved), (2, 1, 1, 0));
        let test = rnn.test.unwrap();
        assert_eq!((test.n, test.median, test.min, test.max), (1, 0.1, 0.1, 0.1));
        assert_eq!(rnn.values.len(), 2);
        assert_eq!(rnn.verdict(), Verdict::AboveChance);
        assert_eq!(rnn.best_baseline.as_ref().unwrap().name, "always answer 1");
        assert_eq!((rnn.metric.as_str(), rnn.better), ("MSE", Better::Lower));

        let setting = &summary.setting;
        assert_eq!((setting.trials, setting.diverged, setting.failed), (18, 1, 1));
        let seeds: Vec<_> = summary.failures.iter().map(|failure| failure.seed).collect();
        assert_eq!(seeds, [1, 2]);
        assert_eq!(summary.failures[0].status, Status::Diverged { step: 7 });
    }

    #[test]
    fn solved_and_steps_to_threshold() {
        let summary = Summary::from_records(&testing::sweep());
        let lstm = &summary.quality[1];
        assert_eq!((lstm.solved, lstm.n, lstm.verdict()), (3, 3, Verdict::Solved));
        assert_eq!((lstm.reached, lstm.steps_to_threshold), (3, Some(20.0)));
        // At length 200: 0.004, 0.008, 0.012.
        let long = &summary.quality[4];
        assert_eq!((long.solved, long.verdict()), (2, Verdict::SometimesSolved));
        assert_eq!((long.reached, long.steps_to_threshold), (2, Some(20.0)));
        // Variant at 200: 0.008, 0.016, 0.024. The median trial never got there.
        let variant = &summary.quality[5];
        assert_eq!((variant.reached, variant.steps_to_threshold), (1, None));
        // Vanilla at 200: 0.4, 0.8, 1.2: worse than answering 1.
        assert_eq!(summary.quality[3].verdict(), Verdict::AtChance);
        assert_eq!(lstm.tokens_per_s.unwrap().median, 20.0 * 320.0 / 2.0);
    }

    #[test]
    fn groups_without_numbers_have_verdicts_too() {
        let base = testing::quality("gru", 10, 0, 0.5);
        let summary = Summary::from_records(&[testing::failed(base.clone())]);
        assert_eq!(summary.quality[0].verdict(), Verdict::Failed);
        assert_eq!(summary.quality[0].test, None);
        let summary = Summary::from_records(&[testing::diverged(base, 3)]);
        assert_eq!(summary.quality[0].verdict(), Verdict::Diverged);
        let summary = Summary::from_records(&[]);
        assert!(summary.quality.is_empty() && summary.series.is_empty());
    }

    #[test]
    fn other_lengths_are_grouped() {
        let summary = Summary::from_records(&testing::sweep());
        let group = &summary.lengths[1];
        assert_eq!((group.series.as_str(), group.trained_length, group.length), ("lstm", 50, 100));
        assert_eq!(group.spread.unwrap().median, 0.004);
    }

    #[test]
    fn devices_are_never_mixed() {
        let records = [
            testing::measured("gru", 8, 0, "cpu"),
            testing::measured("gru", 8, 0, "cuda:0"),
            testing::measured("gru", 8, 1, "cuda:0"),
        ];
        let summary = Summary::from_records(&records);
        let names: Vec<_> = summary.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["gru, cpu", "gru, cuda:0"]);
        let counts: Vec<_> = summary.throughput.iter().map(|group| group.n).collect();
        assert_eq!(counts, [1, 2]);
        let group = &summary.throughput[1];
        assert_eq!((group.median_s.median, group.min_s), (1.0, 0.4));
        assert_eq!(group.quantiles_s, [0.45, 1.9]);
        assert_eq!(group.peak_bytes, Some(2000));
        assert_eq!(group.tokens_per_s.median, 75_000.0);
    }

    #[test]
    fn a_seed_that_was_measured_twice_counts_once() {
        // A quality trial measures its weights before training too: the gradient trial of the seed has the same.
        let mut records: Vec<TrialRecord> = Vec::new();
        for seed in [0, 1] {
            let mut gradient = testing::measured("gru", 8, seed, "cpu");
            gradient.kind = TrialKind::Gradient;
            gradient.cell.dtype = "f64".into();
            let mut quality = testing::quality("gru", 8, seed, 0.1);
            quality.gradient = gradient.gradient.clone();
            quality.gates = gradient.gates.clone();
            quality.attention = gradient.attention.clone();
            quality.jacobians = gradient.jacobians.clone();
            // And once more at the end, which the other cannot.
            for point in gradient.gradient.clone() {
                quality.gradient.push(crate::record::GradientPoint { step: 20, ..point });
            }
            records.extend([quality, gradient]);
        }
        let summary = Summary::from_records(&records);
        let counts: Vec<_> = summary
            .gradients
            .iter()
            .map(|g| (g.moment, g.band[4].n, g.over_seeds.reach.len()))
            .collect();
        assert_eq!(counts, [(Moment::Initial, 2, 2), (Moment::Trained, 2, 2)]);
        assert_eq!(summary.gates[0].mean.unwrap().n, 2);
        assert_eq!(summary.attention[0].normalised_entropy.unwrap().n, 2);
        assert_eq!(summary.dynamics[0].n, 2);
    }

    #[test]
    fn gradients_are_averaged_in_log_space() {
        let records = [0, 1].map(|seed| testing::measured("gru", 8, seed, "cpu"));
        let summary = Summary::from_records(&records);
        let group = &summary.gradients[0];
        let at = group.band[4];
        // ln norms -0.4 and -0.8.
        assert!((at.mean_ln.unwrap() + 0.6).abs() < 1e-12);
        assert!((at.min_ln.unwrap() + 0.8).abs() < 1e-12);
        assert!((at.max_ln.unwrap() + 0.4).abs() < 1e-12);
        let last = group.band[8];
        assert_eq!((last.n, last.zeros, last.mean_ln), (0, 2, None));
        let decay = group.decay.unwrap();
        assert!((decay.exponential.slope + 0.15).abs() < 1e-12);
        assert_eq!((decay.from, decay.to), (1, 7));
    }
}
