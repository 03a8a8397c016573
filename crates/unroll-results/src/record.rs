//! What one finished trial leaves on disk.
//!
//! These are wire types: plain data, every number with its unit, non-finite ones by name
//! ([`crate::number`]). What depends on the clock or the machine lives in [`Timing`], [`Throughput`]
//! and [`CurvePoint::seconds`] alone; everything else is the same in every run
//! ([`TrialRecord::without_clock`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical;

mod probes;

pub use probes::*;

/// Version of the record's layout.
pub const SCHEMA: u32 = 3;

/// What a trial measures (METHODOLOGY.md has a paragraph on each).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialKind {
    /// Train on a task; metric, learning curve, other lengths.
    Quality,
    /// Gradient decay of a model at initialisation.
    Gradient,
    /// Time of forward, backward and training step.
    Throughput,
}

impl TrialKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Quality, Self::Gradient, Self::Throughput];

    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quality => "quality",
            Self::Gradient => "gradient",
            Self::Throughput => "throughput",
        }
    }
}

/// How a trial ended. A diverged trial is a result; a failed one is an error and carries no numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Status {
    /// Ran to its end.
    Finished {},
    /// Loss or weights became NaN or infinite at this training step.
    Diverged {
        /// The first step whose loss was not finite.
        step: u64,
    },
    /// Could not run.
    Failed {
        /// Why.
        message: String,
    },
}

impl Status {
    /// Name in tables: `finished`, `diverged`, `failed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished {} => "finished",
            Self::Diverged { .. } => "diverged",
            Self::Failed { .. } => "failed",
        }
    }
}

/// One finished (or failed) trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Hash of the trial's resolved meaning, hexadecimal.
    pub id: String,
    /// What was measured.
    pub kind: TrialKind,
    /// Where the trial stands in the sweep.
    pub cell: Cell,
    /// How it ended.
    pub status: Status,
    /// Counted costs of the whole model (input layer, body, head); `None` when it failed before.
    pub cost: Option<ModelCost>,
    /// Metric after training.
    pub quality: Option<Quality>,
    /// Learning curve in order of steps.
    pub curve: Vec<CurvePoint>,
    /// Metric at other lengths than the trained one.
    pub other_lengths: Vec<LengthEvaluation>,
    /// Gradient norms.
    pub gradient: Vec<GradientPoint>,
    /// Jacobians of the recurrent state, and Lyapunov exponents.
    pub jacobians: Vec<StateJacobian>,
    /// How open gates stand.
    pub gates: Vec<GateStatistics>,
    /// What attention looks at.
    pub attention: Vec<AttentionHead>,
    /// What an encoder and decoder looked at in a few examples of the test split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alignments: Vec<Alignment>,
    /// What theory says of the gradient before training.
    pub theory: Vec<Theory>,
    /// Hashes of the weights during training.
    pub trace: Option<Trace>,
    /// Times per phase.
    pub throughput: Vec<Throughput>,
    /// Clock times and machine: never part of a comparison of runs.
    pub timing: Timing,
}

impl TrialRecord {
    /// The record without anything that depends on the clock or the machine: what every run of the
    /// trial must agree on. Of throughput measurements only the phases are left.
    pub fn without_clock(&self) -> Self {
        let mut record = self.clone();
        record.timing = Timing::default();
        for point in &mut record.curve {
            point.seconds = 0.0;
        }
        for times in &mut record.throughput {
            // A zero, as when it was a number in any case: fingerprints stay what they were.
            let peak_bytes = Some(0);
            *times = Throughput { phase: times.phase, peak_bytes, ..Throughput::default() };
        }
        record
    }

    /// Hash of [`without_clock`](Self::without_clock) but for the place in a sweep, which an
    /// experiment may name as it likes: two runs of a trial have the same results to the last bit
    /// exactly when it is the same.
    pub fn fingerprint(&self) -> String {
        let record = self.without_clock();
        let results = (
            (&record.id, &record.cell.form, &record.status, &record.cost, &record.quality),
            (&record.curve, &record.other_lengths, &record.gradient, &record.jacobians),
            (&record.gates, &record.attention),
            (&record.theory, &record.trace, &record.throughput),
        );
        // Records without alignments keep the hash that they had before there were any.
        if record.alignments.is_empty() {
            canonical::hash(&results)
        } else {
            canonical::hash(&(results, &record.alignments))
        }
    }
}

/// Hashes of the weights at equal distances of training steps: where two runs of a trial part, the
/// first that differs tells when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Training steps between two hashes.
    pub every: u64,
    /// Hashes after `every`, `2 * every`, ... steps: 16 hexadecimal digits of BLAKE3 over the weights.
    pub weights: Vec<String>,
    /// 32 digits of the hash of the last weights, as a safetensors file without metadata: what is kept of
    /// them on disk is that file. Records of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// A cell of the sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Name of the experiment.
    pub experiment: String,
    /// Registry name of the architecture.
    pub architecture: String,
    /// How it carries information along a sequence: `recurrent`, `attention`, ...
    pub family: String,
    /// Name of the series in plots and tables: the architecture, and the values of the axes that are
    /// not architecture, task, length, seed or device (`lstm`, `lstm, forget_bias=2`).
    pub series: String,
    /// Task name.
    pub task: String,
    /// Sequence length the trial runs at, steps.
    pub length: usize,
    /// Seed.
    pub seed: u64,
    /// `cpu`, `cuda:0`, ...
    pub device: String,
    /// `f32` or `f64`.
    pub dtype: String,
    /// How f32 products round on a GPU: `fp32` (not at all) or `tf32`.
    #[serde(default = "exact", skip_serializing_if = "is_exact")]
    pub precision: String,
    /// Form that ran: `fused`, `fused attention` (a Transformer on a GPU), `reference`,
    /// `unrolled`.
    pub form: String,
    /// Hidden size after matching.
    pub hidden_size: usize,
    /// Layers.
    pub num_layers: usize,
    /// Sequences per batch.
    pub batch_size: usize,
    /// What the architectures were matched by: `hidden_size`, `parameters`, `flops`.
    pub matched_by: String,
    /// Values of all further axes by name.
    pub axes: BTreeMap<String, serde_json::Value>,
}

/// The precision of a cell that names none, as those from before there was a choice.
fn exact() -> String {
    "fp32".to_owned()
}

fn is_exact(precision: &String) -> bool {
    precision == "fp32"
}

/// Counted costs at the trial's batch size and length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ModelCost {
    /// Trainable parameters.
    pub parameters: u64,
    /// FLOPs of one forward pass over a batch.
    pub forward_flops: u64,
    /// FLOPs of one training step over a batch.
    pub training_flops: u64,
    /// Elements of the state of one sequence after `length` steps.
    pub state_elements: u64,
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Errors, losses.
    Lower,
    /// Accuracies.
    Higher,
}

impl Better {
    /// Name in tables: `lower`, `higher`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower",
            Self::Higher => "higher",
        }
    }

    /// Whether `a` is better than `b`.
    pub fn prefers(self, a: f64, b: f64) -> bool {
        match self {
            Self::Lower => a < b,
            Self::Higher => a > b,
        }
    }
}

/// A value without a sequence model: always answering 1, repeating the last value, ridge regression, ...
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineValue {
    /// What it does, in a few words (`always answer 1`).
    pub name: String,
    /// Its metric.
    #[serde(with = "crate::number")]
    pub value: f64,
    /// Whether it is fitted to the training data, as ridge regression: a reference, and no chance level.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fitted: bool,
}

/// A metric beside the task's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OtherMetric {
    /// Name, with unit.
    pub name: String,
    /// Value on the test split.
    #[serde(with = "crate::number")]
    pub value: f64,
}

/// What was looked at while an answer was written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// Symbols of the source.
    pub source: Vec<String>,
    /// Symbols of the answer that the model gave; its end is the empty one.
    pub answer: Vec<String>,
    /// Weight of each source symbol (columns) when each symbol of the answer is written (rows), the mean
    /// over heads.
    pub weights: Vec<Vec<f64>>,
}

/// Result of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Name of the metric with unit (`MSE`, `accuracy`, `RMSE (kW)`).
    pub metric: String,
    /// Which end is good.
    pub better: Better,
    /// Metric on the test split with the last weights.
    #[serde(with = "crate::number")]
    pub test: f64,
    /// Metric on the validation split with the last weights.
    #[serde(with = "crate::number")]
    pub validation: f64,
    /// Mean loss on the test split (nats or squared units of the normalised target).
    #[serde(with = "crate::number")]
    pub test_loss: f64,
    /// Whether the task's own criterion for "solved" holds on the test split.
    pub solved: bool,
    /// The metric beyond which the task counts as solved, if it has one.
    #[serde(with = "crate::number::option")]
    pub solved_at: Option<f64>,
    /// Trivial baselines on the same split.
    pub baselines: Vec<BaselineValue>,
    /// Whether the metric is no better than the best trivial baseline.
    pub at_chance: bool,
    /// Training steps run.
    pub steps: u64,
    /// First evaluated step at which the stopping threshold held, if ever.
    pub steps_to_threshold: Option<u64>,
    /// Other metrics on the test split; records of tasks without say nothing of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherMetric>,
}

/// One point of a learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Training steps done.
    pub step: u64,
    /// Tokens (batch times length) seen.
    pub tokens: u64,
    /// Mean training loss since the point before.
    #[serde(with = "crate::number")]
    pub train_loss: f64,
    /// Metric on the validation split.
    #[serde(with = "crate::number")]
    pub validation: f64,
    /// Loss on the validation split.
    #[serde(with = "crate::number")]
    pub validation_loss: f64,
    /// Learning rate of the last step.
    #[serde(with = "crate::number")]
    pub learning_rate: f64,
    /// Mean norm of the gradient before clipping since the point before.
    #[serde(with = "crate::number")]
    pub gradient_norm: f64,
    /// Training seconds so far, evaluation left out (clock).
    #[serde(with = "crate::number")]
    pub seconds: f64,
}

/// Metric at a length other than the trained one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthEvaluation {
    /// Steps of the evaluated sequences.
    pub length: usize,
    /// Metric.
    #[serde(with = "crate::number")]
    pub value: f64,
    /// Loss.
    #[serde(with = "crate::number")]
    pub loss: f64,
}

/// What a throughput measurement times.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Forward pass without graph consumers (inference).
    #[default]
    Forward,
    /// Backward pass alone.
    Backward,
    /// Forward, loss, backward, optimiser.
    TrainStep,
    /// One token at a time with carried state, batch as given.
    Decode,
}

impl Phase {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::TrainStep => "train_step",
            Self::Decode => "decode",
        }
    }
}

/// Times of one phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// What was timed.
    pub phase: Phase,
    /// Median seconds per iteration.
    #[serde(with = "crate::number")]
    pub median_s: f64,
    /// Fastest iteration, seconds.
    #[serde(with = "crate::number")]
    pub min_s: f64,
    /// 10 % and 90 % quantiles, seconds.
    #[serde(with = "crate::number::array")]
    pub quantiles_s: [f64; 2],
    /// Iterations timed.
    pub iterations: usize,
    /// Tokens (batch times length) per second at the median.
    #[serde(with = "crate::number")]
    pub tokens_per_s: f64,
    /// Counted FLOPs per second at the median.
    #[serde(with = "crate::number")]
    pub gflops_per_s: f64,
    /// Largest memory in use on the device during the phase, above what was in use before it, bytes; `None`
    /// when it was not measured.
    pub peak_bytes: Option<u64>,
}

/// Clock times and where they were taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Whole trial, seconds.
    #[serde(with = "crate::number")]
    pub wall_s: f64,
    /// Training alone, seconds.
    #[serde(with = "crate::number")]
    pub train_s: f64,
    /// Training seconds until the stopping threshold held.
    #[serde(with = "crate::number::option")]
    pub seconds_to_threshold: Option<f64>,
    /// Id of the environment that the trial ran in ([`crate::Environment::id`]).
    pub environment: String,
    /// Threads that the trial had; not in records from before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
}
