//! The shared trait of all sequence architectures, and what they share: states, masks, costs,
//! initialisers, random streams, weights.
//!
//! Shapes are written with one legend throughout the workspace:
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | batch: independent sequences |
//! | `T` | time: steps of a sequence |
//! | `I` | input features per step |
//! | `H` | hidden size |
//! | `L` | layers |
//! | `D` | directions: 2 for a bidirectional layer, else 1 |
//! | `N` | attention heads |
//! | `G` | gates: 1 (vanilla RNN), 3 (GRU), 4 (LSTM) |

pub mod architecture;
pub mod cost;
pub mod error;
pub mod fused;
pub mod fusion;
pub mod gates;
pub mod init;
pub mod lengths;
pub mod memory;
pub mod model;
pub mod ops;
pub mod pair;
pub mod parameters;
pub mod probe;
pub mod reach;
pub mod recurrent;
pub mod state;
pub mod stream;
pub mod weights;

pub use architecture::{Architecture, BuildContext, Entry, Family, ModelConfig, OptionDoc};
pub use cost::Cost;
pub use error::{Error, Result};
pub use fusion::FusionModel;
pub use gates::{Direction, Gate, GateName, Keeps, Squash};
pub use init::{BiasInit, Init, WeightInit};
pub use lengths::Lengths;
pub use model::{Form, ForwardArgs, ForwardOutput, Mode, SequenceModel};
pub use pair::PairModel;
pub use parameters::{ParameterSet, Role};
pub use probe::Probe;
pub use reach::{AttentionLayout, Visibility};
pub use state::{State, StateTensor};
pub use stream::Stream;
