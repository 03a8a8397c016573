//! Experiment files: one question, as data.

pub mod matching;
pub mod plan;
mod planner;
pub mod settings;
pub mod source;

use std::collections::BTreeMap;

use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use unroll_core::Init;
use unroll_probe::JacobianOptions;
use unroll_results::record::TrialKind;
use unroll_train::TrainConfig;

pub use plan::{Plan, Trial, TrialSpec};
pub use source::{Document, SourceError};

/// An experiment file. Every key that it does not know is an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Short name: the folder under `results/`.
    pub name: String,
    /// What is asked, in prose.
    pub question: String,
    /// How the answer is read from the tables and plots, in prose.
    #[serde(default)]
    pub analysis: String,
    /// What is measured in each cell of the sweep.
    #[serde(default = "measure_quality")]
    pub measure: Vec<TrialKind>,
    /// Swept settings: `task`, `arch`, `length`, `seed`, `device`, `dtype`, `precision`, or any setting by
    /// dotted path.
    pub axes: BTreeMap<String, Vec<Value>>,
    /// Element type of parameters and activations: `f32` or `f64`.
    #[serde(default)]
    pub dtype: ElementType,
    /// How f32 products on a GPU round what they read: `fp32` (not at all) or `tf32`.
    #[serde(default)]
    pub precision: Precision,
    /// Options for every architecture that has them.
    #[serde(default)]
    pub model: Map<String, Value>,
    /// Options for one architecture.
    #[serde(default)]
    pub arch: BTreeMap<String, Map<String, Value>>,
    /// Options for one task.
    #[serde(default)]
    pub task: BTreeMap<String, Map<String, Value>>,
    /// Initialiser.
    #[serde(default)]
    pub init: Init,
    /// Training.
    #[serde(default)]
    pub train: TrainConfig,
    /// What makes the architectures comparable.
    #[serde(default, rename = "match")]
    pub matching: Matching,
    /// Gradient measurement.
    #[serde(default)]
    pub gradient: GradientSettings,
    /// Throughput measurement.
    #[serde(default)]
    pub throughput: ThroughputSettings,
    /// Evaluation beyond the trained length.
    #[serde(default)]
    pub evaluate: EvaluateSettings,
    /// Settings that differ in some cells of the sweep.
    #[serde(default, rename = "override")]
    pub overrides: Vec<Override>,
    /// Whether the weights after training are kept, for `unroll sample` and other uses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_weights: bool,
    /// Cells of the sweep that are left out: axis (or `measure`) to its value, or to a list of values,
    /// all of which hold there.
    #[serde(default)]
    pub exclude: Vec<BTreeMap<String, Value>>,
    /// What `unroll gate` holds the results to.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// What results have to be, over the seeds of the trials that it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// What is looked at.
    pub measure: Measure,
    /// Architecture; any when left out.
    #[serde(default)]
    pub arch: Option<String>,
    /// Series, where an architecture has several.
    #[serde(default)]
    pub series: Option<String>,
    /// Task; any when left out.
    #[serde(default)]
    pub task: Option<String>,
    /// Length; any when left out.
    #[serde(default)]
    pub length: Option<usize>,
    /// How the seeds are brought together.
    #[serde(default)]
    pub over: OverSeeds,
    /// It is at most this.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// It is at least this.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// It is this to the last bit, on machines and builds of the kind `on`.
    #[serde(default)]
    pub exactly: Option<f64>,
    /// Kind of machine that `exactly` was measured on, as `unroll gate` prints it: instruction set and
    /// processor, `avx512, AMD EPYC 9B45`. Others round differently.
    #[serde(default)]
    pub on: Option<String>,
}

/// What an expectation looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Metric on the test split after training.
    Test,
    /// Share of seeds that solved the task.
    Solved,
    /// Training steps to the stopping threshold; infinite when it was not reached.
    StepsToThreshold,
    /// Half-life of dL/dx before training, steps; infinite when it does not shrink.
    HalfLife,
    /// Distance at which dL/dx before training has fallen to 1 %, steps; infinite when beyond the length.
    Horizon,
}

impl Measure {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Solved => "solved",
            Self::StepsToThreshold => "steps_to_threshold",
            Self::HalfLife => "half_life",
            Self::Horizon => "horizon",
        }
    }
}

/// How seeds are brought together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverSeeds {
    /// Their median.
    #[default]
    Median,
    /// Each for itself: the worst one decides.
    Every,
}

fn measure_quality() -> Vec<TrialKind> {
    vec![TrialKind::Quality]
}

/// Element type of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// 32 bits.
    #[default]
    F32,
    /// 64 bits.
    F64,
    /// 16 bits, 8 of them of mantissa: weights and activations; losses, sums of normalisation and softmax,
    /// and the weights that the optimiser adds to, are f32.
    Bf16,
}

impl ElementType {
    /// Name in files: `f32`, `f64`, `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// candle's type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// How products of f32 numbers on a GPU round what they read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Not at all.
    #[default]
    Fp32,
    /// To 10 bits of mantissa, which the GPU's matrix units multiply.
    Tf32,
}

impl Precision {
    /// Name in files and tables: `fp32`, `tf32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
        }
    }

    /// Whether nothing is rounded: the default, which the meaning of a trial leaves out.
    pub fn is_exact(&self) -> bool {
        *self == Self::Fp32
    }

    /// Whether a model of this element type can run so on this device.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, dtype: DType, device: &str) -> Result<(), String> {
        match self {
            Self::Tf32 if !device.starts_with("cuda") => {
                Err(format!("`tf32` is how GPUs multiply; on `{device}` there is `fp32` alone"))
            }
            Self::Tf32 if dtype != DType::F32 => Err(format!(
                "`tf32` rounds f32 numbers; with `{}` there is `fp32` alone",
                dtype.as_str()
            )),
            _ => Ok(()),
        }
    }
}

/// What is held equal over the architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchBy {
    /// The hidden size, as given.
    #[default]
    HiddenSize,
    /// Trainable parameters of the whole model.
    Parameters,
    /// FLOPs of a forward pass at the trial's length.
    Flops,
}

impl MatchBy {
    /// Name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::HiddenSize => "hidden_size",
            Self::Parameters => "parameters",
            Self::Flops => "flops",
        }
    }
}

/// Fair matching: hidden sizes are chosen so that all architectures cost what the reference costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Matching {
    /// What is held equal.
    pub by: MatchBy,
    /// The architecture that keeps the hidden size as given.
    pub reference: String,
}

impl Default for Matching {
    fn default() -> Self {
        Self { by: MatchBy::HiddenSize, reference: "lstm".into() }
    }
}

/// How gradients are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GradientSettings {
    /// Sequences whose norms are averaged.
    pub examples: usize,
    /// Whether trials that train are measured before the first step too.
    pub before_training: bool,
    /// Whether trained models are measured too, at the end of each quality trial.
    pub after_training: bool,
    /// Whether trials that train are measured each time so many training steps are done; 0 is never.
    pub every: u64,
    /// Training steps after which they are measured besides.
    pub at_steps: Vec<u64>,
    /// Jacobians and Lyapunov exponents of recurrent states; `None` is not measured.
    pub jacobian: Option<JacobianSettings>,
    /// Whether the gates of recurrent layers are looked at: before and after training and at `at_steps`.
    pub gates: bool,
    /// Sequences whose attention weights are looked at then; 0 is none.
    pub attention_examples: usize,
}

/// How Jacobians of recurrent states are measured: before and after training and at `at_steps`. Models
/// without a state of fixed size have none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JacobianSettings {
    /// Sequences along which they are measured.
    pub examples: usize,
    /// States of up to this many elements are measured exactly, larger ones with random probes.
    pub exact_up_to: usize,
    /// Random vectors.
    pub probes: usize,
}

impl Default for JacobianSettings {
    fn default() -> Self {
        let JacobianOptions { exact_up_to, probes, .. } = JacobianOptions::default();
        Self { examples: 1, exact_up_to, probes }
    }
}

impl Default for GradientSettings {
    fn default() -> Self {
        Self {
            examples: 16,
            before_training: true,
            after_training: true,
            every: 0,
            at_steps: Vec::new(),
            jacobian: None,
            gates: true,
            attention_examples: 1,
        }
    }
}

impl GradientSettings {
    /// Whether a model in training is measured after this many steps.
    pub fn is_due(&self, step: u64) -> bool {
        match step {
            0 => self.before_training,
            step => {
                self.every > 0 && step.is_multiple_of(self.every) || self.at_steps.contains(&step)
            }
        }
    }

    /// Whether what takes longer is measured too, after this many steps.
    pub fn is_thorough(&self, step: u64) -> bool {
        step == 0 || self.at_steps.contains(&step)
    }

    /// Whether trials that train are measured at all.
    pub fn while_training(&self) -> bool {
        self.before_training || self.after_training || self.every > 0 || !self.at_steps.is_empty()
    }
}

/// How speed is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThroughputSettings {
    /// Sequences per batch.
    pub batch_size: usize,
    /// Shortest time to measure a phase for, seconds.
    pub min_seconds: f64,
    /// Fewest iterations.
    pub min_iterations: usize,
    /// Whether step-by-step decoding of causal models is timed too.
    pub decode: bool,
}

impl Default for ThroughputSettings {
    fn default() -> Self {
        Self { batch_size: 32, min_seconds: 0.5, min_iterations: 5, decode: true }
    }
}

/// Evaluation at lengths other than the trained one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// The lengths, steps.
    pub lengths: Vec<usize>,
}

/// Settings for the cells of the sweep whose axes have the given values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Axis (or `measure`) to its value, or to a list of values.
    pub when: BTreeMap<String, Value>,
    /// Dotted path of a setting to its value.
    pub set: BTreeMap<String, Value>,
}
