//! Exit codes of the program.

/// All went well.
pub const OK: u8 = 0;
/// A trial failed, or the program did.
pub const FAILURE: u8 = 1;
/// The command, a file or a setting is wrong.
pub const USAGE: u8 = 2;
/// Something became worse: a benchmark slower, an expectation not met.
pub const REGRESSION: u8 = 3;
/// The measurements do not tell.
pub const INCONCLUSIVE: u8 = 4;
/// The same trial gave other results.
pub const MISMATCH: u8 = 5;
/// Folders belong to different runs, or to another version.
pub const CONFLICT: u8 = 6;
/// Trials are missing, or the data of all of them.
pub const INCOMPLETE: u8 = 7;
/// Interrupted: the same command goes on.
pub const INTERRUPTED: u8 = 75;
