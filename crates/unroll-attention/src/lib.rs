//! Attention: additive, Luong, multi-head, sliding-window and linear.
