//! How a layer's activations lie in memory.
//!
//! The batch is cut into chunks of rows; a chunk is what one task computes from the first step to
//! the last. Within a chunk activations lie step by step, so that a step reads and writes one
//! contiguous block, and all chunks together form one matrix of `T * B` rows for the large products.
//! The cut depends on the shape alone: results do not depend on the number of threads.

use rayon::prelude::*;

use crate::real::Real;

/// Sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dims {
    /// Sequences.
    pub(crate) batch: usize,
    /// Steps.
    pub(crate) steps: usize,
    /// Input features.
    pub(crate) inputs: usize,
    /// Hidden units.
    pub(crate) hidden: usize,
}

/// The rows of one chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkRows {
    /// First sequence.
    pub(crate) first: usize,
    /// Number of sequences.
    pub(crate) rows: usize,
}

impl Dims {
    /// Two chunks keep two cores busy; more than 16 rows gain no speed in the products.
    fn rows_per_chunk(&self) -> usize {
        self.batch.div_ceil(2).clamp(1, 16)
    }

    /// The chunks in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = ChunkRows> + use<> {
        let (batch, size) = (self.batch, self.rows_per_chunk());
        (0..batch)
            .step_by(size)
            .map(move |first| ChunkRows { first, rows: size.min(batch - first) })
    }

    /// Cuts a buffer with `per_row` elements for each sequence into the chunks' parts.
    pub(crate) fn split<'a, F>(&self, mut buffer: &'a [F], per_row: usize) -> Vec<&'a [F]> {
        self.chunks()
            .map(|chunk| buffer.split_off(..chunk.rows * per_row).unwrap_or_default())
            .collect()
    }

    /// As [`split`](Self::split), to write to.
    pub(crate) fn split_mut<'a, F>(
        &self,
        mut buffer: &'a mut [F],
        per_row: usize,
    ) -> Vec<&'a mut [F]> {
        self.chunks()
            .map(|chunk| buffer.split_off_mut(..chunk.rows * per_row).unwrap_or_default())
            .collect()
    }
}

/// The order in which a layer reads its input.
#[derive(Debug, Clone)]
pub(crate) struct TimeOrder {
    /// Real steps of each sequence.
    pub(crate) lengths: Vec<usize>,
    /// Whether sequences are read from their last real step to their first.
    pub(crate) reverse: bool,
}

impl TimeOrder {
    /// The time that sequence `row` is at in the layer's step `step`.
    pub(crate) fn time(&self, row: usize, step: usize) -> usize {
        let length = self.lengths[row];
        if self.reverse && step < length { length - 1 - step } else { step }
    }

    /// `(B, T, F)` to chunks of `(T, rows, F)`.
    pub(crate) fn gather<F: Real>(&self, dims: &Dims, source: &[F], features: usize) -> Vec<F> {
        let mut out = vec![F::ZERO; source.len()];
        let steps = dims.steps;
        let parts = dims.split_mut(&mut out, steps * features);
        parts.into_par_iter().zip(dims.chunks().collect::<Vec<_>>()).for_each(|(part, chunk)| {
            for (index, values) in part.chunks_exact_mut(features.max(1)).enumerate() {
                let (step, row) = (index / chunk.rows, chunk.first + index % chunk.rows);
                let at = (row * steps + self.time(row, step)) * features;
                values.copy_from_slice(&source[at..at + features]);
            }
        });
        out
    }

    /// Chunks of `(T, rows, F)` to `(B, T, F)`; padding becomes zero. `skip` steps lie before each
    /// chunk's first.
    pub(crate) fn scatter<F: Real>(
        &self,
        dims: &Dims,
        source: &[F],
        features: usize,
        skip: usize,
        out: &mut [F],
    ) {
        let steps = dims.steps;
        let sources = dims.split(source, (steps + skip) * features);
        let parts = dims.split_mut(out, steps * features);
        let chunks: Vec<_> = dims.chunks().collect();
        parts.into_par_iter().zip(sources).zip(chunks).for_each(|((part, source), chunk)| {
            for row in 0..chunk.rows {
                let sequence = chunk.first + row;
                for step in 0..steps {
                    let time = self.time(sequence, step);
                    let values = &mut part[(row * steps + time) * features..][..features];
                    if step < self.lengths[sequence] {
                        let at = ((step + skip) * chunk.rows + row) * features;
                        values.copy_from_slice(&source[at..at + features]);
                    } else {
                        values.fill(F::ZERO);
                    }
                }
            }
        });
    }
}
