//! Measurements that can be asked to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A flag that a measurement looks at between its parts; it ends with [`Error::Interrupted`] when the flag is
/// set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stop<'a>(Option<&'a AtomicBool>);

impl<'a> Stop<'a> {
    /// Runs to the end.
    pub const NEVER: Self = Self(None);

    /// Stops when the flag is set.
    pub fn when(flag: &'a AtomicBool) -> Self {
        Self(Some(flag))
    }

    /// Between two parts of a measurement.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it is time to stop.
    pub fn check(self) -> Result<()> {
        match self.0 {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }
}
