//! Whole-sequence operations with hand-written backward passes for candle.
