//! Runs that are killed, interrupted, split, merged, shared, damaged, replayed: the program from
//! outside. The same bits must come out.

mod kept;
mod killed;
mod shared;
mod stopped;
mod support;
