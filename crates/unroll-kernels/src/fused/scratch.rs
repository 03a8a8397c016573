//! Buffers that are used again by later calls: fresh pages cost more than the work on them.

use std::sync::Mutex;

use crate::threads::lock;

/// Buffers kept at most; a call uses fewer than this.
const MOST_KEPT: usize = 12;

/// Elements kept at most in all buffers together (256 MiB).
const MOST_ELEMENTS: usize = 64 << 20;

static KEPT: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// A buffer with arbitrary contents, given back when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// At least `len` elements.
    buffer: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// `len` elements of arbitrary value.
    pub(super) fn new(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let mut kept = lock(&KEPT);
        // The smallest one that is large enough, unless most of it would lie idle.
        let fits = |buffer: &Vec<f32>| buffer.len() >= len && buffer.len() / 2 <= len;
        let best = (0..kept.len()).filter(|&i| fits(&kept[i])).min_by_key(|&i| kept[i].len());
        let buffer = best.map(|i| kept.swap_remove(i));
        drop(kept);
        Self { buffer: buffer.unwrap_or_else(|| vec![0.0; len]), len }
    }

    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let mut scratch = Self::new(len);
        scratch.fill(0.0);
        scratch
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        let mut kept = lock(&KEPT);
        kept.push(std::mem::take(&mut self.buffer));
        // The oldest go first: shapes change, and their buffers then never fit again.
        while kept.len() > MOST_KEPT || kept.iter().map(Vec::len).sum::<usize>() > MOST_ELEMENTS {
            kept.remove(0);
        }
    }
}
