//! Gated recurrent units.
