//! Vanilla (Elman) recurrent networks.
