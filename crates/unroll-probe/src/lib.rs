//! Measurements of models: gradient decay, throughput, memory.
