//! Long short-term memory.
