//! Data files and what is made of them: where they lie, how they are read, split and batched.

pub(crate) mod calendar;
pub(crate) mod epochs;
pub(crate) mod file;
pub mod folder;
pub(crate) mod labelled;
pub(crate) mod own;
pub mod series_file;
pub mod sets;
pub(crate) mod split;
pub mod tab_file;
pub(crate) mod table;

pub use folder::{home, locate};
pub use series_file::SeriesFile;
pub use tab_file::TabFile;
