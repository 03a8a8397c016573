//! Measurements of models: how gradients decay over time, and how fast the model runs.
//!
//! [`gradient`] measures the norms of `dL/dh_t`, `dL/dc_t` and `dL/dx_t` for a loss at the last step
//! alone; [`mod@jacobian`] the singular values of `ds_T/ds_(T-k)` and Lyapunov exponents.
//! [`gates`] tells how open gates stand and how long units remember by them, [`mod@attention`] where
//! attention looks. [`throughput`] times forward, backward, training step and decoding of a whole model, and [`layer`]
//! times a sequence model alone. All give plain structs.

pub mod attention;
pub mod error;
pub mod gates;
pub mod gradient;
pub mod jacobian;
pub mod layer;
mod statistics;
pub mod stop;
pub mod throughput;
pub mod timing;
pub mod twin;

pub use attention::{
    AttentionProfile, DistanceWeight, VisibleEntropy, attention_profile, attention_profile_of_task,
};
pub use error::{Error, Result};
pub use gates::{GateStatistics, MemoryTimes, gate_statistics, gate_statistics_of_task};
pub use gradient::{
    Derivative, GradientDecay, GradientLoss, GradientNorms, GradientPoint, gaussian_input,
    gradient_decay, gradient_decay_of_task, gradient_decay_until,
};
pub use jacobian::{
    Bounds, Estimate, Jacobian, JacobianMethod, JacobianOptions, JacobianPoint, jacobian,
    jacobian_of_task,
};
pub use layer::{LayerMode, LayerTiming, TimedModel, bench_layer};
pub use stop::Stop;
pub use throughput::{Phase, PhaseTiming, measure};
pub use timing::{MemoryGauge, NoGauge, Timed, TimingOptions, time};
pub use twin::{f64_body, f64_twin};
