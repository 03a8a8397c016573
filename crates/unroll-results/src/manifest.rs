//! The frozen list of a run's trials: `DIR/manifest.json`.
//!
//! It holds the resolved meaning of every trial, so that status, shards, merging, replaying and
//! verifying need no experiment file. Its id is the hash of all that it says; two folders with the
//! same id are parts of one run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::{Cell, TrialKind};
use crate::{Error, Result, canonical, files, layout, sealed};

/// Version of the file's layout.
pub const SCHEMA: u32 = 2;

/// The trials of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Hash of everything below.
    pub id: String,
    /// Name of the experiment.
    pub experiment: String,
    /// What is asked.
    pub question: String,
    /// How the answer is read.
    pub analysis: String,
    /// The trials, in the order in which they run and are reported.
    pub trials: Vec<PlannedTrial>,
    /// Cells of the sweep without a trial, because their data were not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

/// Cells of a sweep that cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Their task.
    pub task: String,
    /// The data set that is not there.
    pub set: String,
    /// How many there are.
    pub cells: usize,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { task, set, cells } = self;
        let cells = if *cells == 1 { "1 cell".to_owned() } else { format!("{cells} cells") };
        write!(
            f,
            "{cells} of the sweep skipped: the data set `{set}` of the task `{task}` is not there; \
             `unroll data fetch {set}` brings it"
        )
    }
}

/// One trial of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedTrial {
    /// Hash of `spec`.
    pub id: String,
    /// What it measures.
    pub kind: TrialKind,
    /// Where it stands in the sweep.
    pub cell: Cell,
    /// Counted cost, for balancing: roughly seconds on one core.
    pub weight: f64,
    /// The resolved meaning.
    pub spec: Value,
}

impl Manifest {
    /// A manifest of these trials.
    pub fn new(
        experiment: String,
        question: String,
        analysis: String,
        trials: Vec<PlannedTrial>,
    ) -> Self {
        let id = String::new();
        let skipped = Vec::new();
        let manifest = Self { schema: SCHEMA, id, experiment, question, analysis, trials, skipped };
        manifest.with_skipped(Vec::new())
    }

    /// The same with cells that were skipped.
    pub fn with_skipped(mut self, skipped: Vec<Skipped>) -> Self {
        self.skipped = skipped;
        self.id = self.content_hash();
        self
    }

    fn content_hash(&self) -> String {
        let Self { experiment, question, analysis, trials, skipped, .. } = self;
        if skipped.is_empty() {
            return canonical::hash(&(experiment, question, analysis, trials));
        }
        canonical::hash(&(experiment, question, analysis, trials, skipped))
    }

    /// Reads the manifest of a folder and checks its ids.
    ///
    /// # Errors
    /// [`Error::NoFolder`], [`Error::Io`], [`Error::Damaged`], [`Error::Checksum`],
    /// [`Error::Schema`], [`Error::Inconsistent`].
    pub fn read(dir: &Path) -> Result<Self> {
        Self::find(dir)?
            .ok_or_else(|| Error::NoFolder { dir: dir.to_owned(), file: layout::MANIFEST })
    }

    /// As [`read`](Self::read), `None` when there is no manifest.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(layout::MANIFEST);
        let manifest: Self = match sealed::read(&path, SCHEMA) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let wrong = manifest.trials.iter().find(|trial| canonical::hash(&trial.spec) != trial.id);
        let message = match wrong {
            Some(trial) => format!("the meaning of trial {} has another hash", trial.id),
            None if manifest.content_hash() != manifest.id => "its id is another".to_owned(),
            None => return Ok(Some(manifest)),
        };
        Err(Error::Inconsistent { path, message })
    }

    /// Writes the manifest into a folder. One with other trials that is there already is kept as
    /// `manifests/<id>.json`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(layout::MANIFEST);
        if let Ok(Some(old)) = Self::find(dir) {
            if old.id == self.id {
                return Ok(());
            }
            files::create_dir(&dir.join(layout::MANIFESTS))?;
            let kept = layout::file_of(dir, layout::MANIFESTS, &old.id, "json")?;
            files::write(&kept, &sealed::to_bytes(&kept, &old)?)?;
        }
        files::write(&path, &sealed::to_bytes(&path, self)?)
    }

    /// The trials of shard `index` (from 1) of `count`, as places in [`trials`](Self::trials), in
    /// their order. Costliest first, each goes to the shard with the least so far (Graham 1969), so
    /// that the shards take about equally long; every trial is in exactly one.
    pub fn shard(&self, index: usize, count: usize) -> Vec<usize> {
        let mut by_cost: Vec<usize> = (0..self.trials.len()).collect();
        // Stable: trials of equal weight keep their order.
        by_cost.sort_by(|&a, &b| self.trials[b].weight.total_cmp(&self.trials[a].weight));
        // Whole microseconds: sums do not depend on their order.
        let micros = |weight: f64| (weight.max(0.0) * 1e6) as u128;
        let mut shards: BinaryHeap<_> = (1..=count).map(|shard| Reverse((0, shard))).collect();
        let mut mine = Vec::new();
        for trial in by_cost {
            let Some(Reverse((load, shard))) = shards.pop() else { break };
            if shard == index {
                mine.push(trial);
            }
            shards.push(Reverse((load + micros(self.trials[trial].weight), shard)));
        }
        mine.sort_unstable();
        mine
    }

    /// What sets another manifest apart from this one, in words; `None` when they are the same.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.id == other.id {
            return None;
        }
        if self.experiment != other.experiment {
            return Some(format!(
                "the experiments are `{}` and `{}`",
                self.experiment, other.experiment
            ));
        }
        let pairs = self.trials.iter().zip(&other.trials);
        for (place, (a, b)) in pairs.enumerate() {
            if a.id != b.id {
                let what = first_difference(&a.spec, &b.spec, "");
                return Some(format!(
                    "trial {} is {} in one and {} in the other{}",
                    place + 1,
                    a.id,
                    b.id,
                    what.map(|what| format!(" ({what})")).unwrap_or_default()
                ));
            }
        }
        let (a, b) = (self.trials.len(), other.trials.len());
        if a != b {
            return Some(format!("one has {a} trials, the other {b}"));
        }
        if self.skipped != other.skipped {
            return Some("other cells of the sweep are skipped for want of data".into());
        }
        Some("question, analysis or names of series differ".into())
    }
}

/// The first place where two values differ: `train.steps is 4 and 5`.
fn first_difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
        return keys.into_iter().find_map(|key| {
            let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            let of = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or_default();
            first_difference(&of(a), &of(b), &at)
        });
    }
    (a != b).then(|| format!("{at} is {a} and {b}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn manifest(weights: &[f64]) -> Manifest {
        let trial = |(index, &weight): (usize, &f64)| {
            let record = testing::quality("gru", 50, index as u64, 0.1);
            let spec = json!({"seed": index, "train": {"steps": 4}});
            PlannedTrial {
                id: canonical::hash(&spec),
                kind: record.kind,
                cell: record.cell,
                weight,
                spec,
            }
        };
        let trials = weights.iter().enumerate().map(trial).collect();
        Manifest::new("adding".into(), "q".into(), "a".into(), trials)
    }

    #[test]
    fn a_manifest_comes_back_and_a_replaced_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(Error::NoFolder { .. })));
        let first = manifest(&[1.0, 0.1 + 0.2]);
        first.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), first);
        let second = manifest(&[1.0]);
        second.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), second);
        let kept = files::stems(&dir.path().join(layout::MANIFESTS), "json").unwrap();
        assert_eq!(kept, [first.id]);
    }

    #[test]
    fn what_is_skipped_is_part_of_what_a_manifest_says() {
        let dir = tempfile::tempdir().unwrap();
        let all = manifest(&[1.0]);
        assert!(!serde_json::to_string(&all).unwrap().contains("skipped"));
        let skipped = Skipped { task: "text_classification".into(), set: "r8".into(), cells: 3 };
        let part = all.clone().with_skipped(vec![skipped.clone()]);
        assert_ne!(part.id, all.id);
        assert!(all.difference(&part).unwrap().contains("skipped for want of data"));
        part.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), part);
        assert_eq!(part.with_skipped(Vec::new()), all);
        assert!(skipped.to_string().starts_with("3 cells of the sweep skipped"));
        assert!(skipped.to_string().ends_with("`unroll data fetch r8` brings it"));
    }

    #[test]
    fn a_trial_that_is_not_what_its_id_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = manifest(&[1.0]);
        wrong.trials[0].spec = json!({"seed": 5});
        let path = dir.path().join(layout::MANIFEST);
        files::write(&path, &sealed::to_bytes(&path, &wrong).unwrap()).unwrap();
        assert!(matches!(Manifest::read(dir.path()), Err(Error::Inconsistent { .. })));
    }

    #[test]
    fn differences_are_named() {
        let (a, mut b) = (manifest(&[1.0, 2.0]), manifest(&[1.0, 2.0]));
        assert_eq!(a.difference(&b), None);
        b.trials[1].spec = json!({"seed": 1, "train": {"steps": 5}});
        b.trials[1].id = canonical::hash(&b.trials[1].spec);
        let b = Manifest::new(b.experiment, b.question, b.analysis, b.trials);
        assert!(a.difference(&b).unwrap().contains("train.steps is 4 and 5"));
        assert!(a.difference(&manifest(&[1.0])).unwrap().contains("2 trials"));
    }

    proptest! {
        #[test]
        fn shards_are_a_balanced_partition(
            weights in prop::collection::vec(0.0..10.0f64, 0..40),
            count in 1usize..9,
        ) {
            let manifest = manifest(&weights);
            let shards: Vec<Vec<usize>> =
                (1..=count).map(|index| manifest.shard(index, count)).collect();
            let mut all: Vec<usize> = shards.iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
            let load = |shard: &Vec<usize>| shard.iter().map(|&i| weights[i]).sum::<f64>();
            let loads: Vec<f64> = shards.iter().map(load).collect();
            let most = loads.iter().copied().fold(0.0, f64::max);
            let mean = loads.iter().sum::<f64>() / count as f64;
            let heaviest = weights.iter().copied().fold(0.0, f64::max);
            prop_assert!(most <= mean + heaviest + 1e-4, "{loads:?}");
        }
    }
}
