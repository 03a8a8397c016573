//! Data files and what is made of them: where they lie, how they are read, split and batched.

pub(crate) mod epochs;
pub(crate) mod file;
pub mod folder;
pub(crate) mod labelled;
pub mod series_file;
pub mod sets;
pub(crate) mod split;
pub mod tab_file;

pub use folder::{home, locate};
pub use series_file::SeriesFile;
pub use tab_file::TabFile;
