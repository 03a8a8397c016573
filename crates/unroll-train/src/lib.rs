//! Optimisers, schedules, clipping and the training loop.
