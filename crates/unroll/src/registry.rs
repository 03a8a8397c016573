//! The architectures by name. Adding one is a module with its [`ModelConfig`](unroll_core::ModelConfig)
//! and one line here: a static, named in the list below.

use unroll_core::{Architecture, Entry};
use unroll_gru::GruConfig;
use unroll_lstm::LstmConfig;
use unroll_rnn::RnnConfig;

static RNN: Entry<RnnConfig> = Entry::new("rnn", "vanilla recurrent network (Elman 1990)");
static GRU: Entry<GruConfig> = Entry::new("gru", "gated recurrent unit (Cho et al. 2014)");
static LSTM: Entry<LstmConfig> =
    Entry::new("lstm", "long short-term memory (Hochreiter & Schmidhuber 1997)");

static RECURRENT: &[&dyn Architecture] = &[&RNN, &GRU, &LSTM];

/// The architectures that read one sequence, in the order in which tables and legends show them.
pub fn architectures() -> impl Iterator<Item = &'static dyn Architecture> {
    RECURRENT.iter().copied().chain(unroll_attention::ARCHITECTURES.iter().copied())
}

/// All architectures: those that read one sequence, those from one sequence to another, then those that read
/// two at once.
pub fn all() -> impl Iterator<Item = &'static dyn Architecture> {
    architectures()
        .chain(unroll_attention::PAIR_ARCHITECTURES.iter().copied())
        .chain(unroll_attention::FUSION_ARCHITECTURES.iter().copied())
}

/// The architecture called `name`.
pub fn find(name: &str) -> Option<&'static dyn Architecture> {
    all().find(|architecture| architecture.name() == name)
}

/// The names of [`all`].
pub fn all_names() -> Vec<&'static str> {
    all().map(Architecture::name).collect()
}

/// The names of [`architectures`].
pub fn names() -> Vec<&'static str> {
    architectures().map(Architecture::name).collect()
}
