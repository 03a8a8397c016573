//! Attention on GPUs, as one operation: no matrix of scores is ever stored (Dao et al. 2022).
//!
//! Written for a [`Machine`]: a GPU, or in tests an emulation that runs the same kernels on a processor. The
//! kernels are in `cuda/attention.cu`.

#[cfg(test)]
mod tests;

use candle_core::{Result, bail};

use crate::attention::{Mask, Sizes};
use crate::gpu::machine::{Argument, Launch, Machine, Place, Together};

/// Features of a head for which there are kernels; others are filled up with zeros.
const WIDTHS: [usize; 4] = [16, 32, 64, crate::GPU_FEATURES];
/// Threads of a block, and its own rows: `ATTENTION_THREADS` and `OWN` in the kernels.
const THREADS: u32 = 128;
const OWN: usize = 64;

/// Where `(B, N, rows, features)` lie: features one after the other, the rest at these distances, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Rows {
    pub(crate) place: Place,
    pub(crate) batch: i64,
    pub(crate) head: i64,
    pub(crate) row: i64,
}

impl Rows {
    /// One after the other, from `place` on.
    pub(crate) fn contiguous(place: Place, heads: usize, rows: usize, width: usize) -> Self {
        let [batch, head, row] = [heads * rows * width, rows * width, width].map(|n| n as i64);
        Self { place, batch, head, row }
    }

    /// Heads side by side in `(B, rows, parts * N * width)`, of which this is the part `part`.
    pub(crate) fn packed(
        place: Place,
        (parts, part): (usize, usize),
        (heads, rows, width): (usize, usize, usize),
    ) -> Self {
        let row = parts * heads * width;
        let [batch, head, row] = [rows * row, width, row].map(|n| n as i64);
        Self { place: place.offset(part * heads * width), batch, head, row }
    }

    const NONE: Self = Self { place: Place::NULL, batch: 0, head: 0, row: 0 };
}

/// The same fields in the same order as `Attention` in cuda/attention.cu, which tells what they are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Arguments {
    queries: Rows,
    keys: Rows,
    values: Rows,
    out: Rows,
    grad_out: Rows,
    grad_queries: Rows,
    grad_keys: Rows,
    grad_values: Rows,
    log_sums: Place,
    dots: Place,
    lengths: Place,
    heads: i32,
    query_count: i32,
    key_count: i32,
    size: i32,
    value_size: i32,
    causal: i32,
    window: i32,
    groups: i32,
    scale: f32,
    scale_2: f32,
}

impl Argument for Arguments {}

/// What is to be done, without its tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) sizes: Sizes,
    pub(crate) mask: Mask,
    /// Keys of each sequence, 32-bit integers, or null.
    pub(crate) lengths: Place,
    pub(crate) scale: f64,
    /// Whether products may round what they read to TF32. Otherwise they are as exact as f32.
    pub(crate) rounded: bool,
}

/// Where forward's tensors lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) queries: Rows,
    pub(crate) keys: Rows,
    pub(crate) values: Rows,
    pub(crate) out: Rows,
}

/// Where gradients lie: the one that comes in, and those that go out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gradients {
    pub(crate) out: Rows,
    pub(crate) queries: Rows,
    pub(crate) keys: Rows,
    pub(crate) values: Rows,
}

impl Task {
    fn arguments(&self, operands: &Operands, log_sums: Place) -> Arguments {
        let Sizes { batch, heads, queries, keys, size, value_size } = self.sizes;
        let [heads, query_count, key_count, size, value_size, groups] =
            [heads, queries, keys, size, value_size, batch * heads].map(|n| n as i32);
        let (causal, window) = match self.mask {
            Mask::None => (0, 0),
            Mask::Causal => (1, 0),
            // A window of more keys than there are hides none.
            Mask::Window(window) => (1, window.min(self.sizes.keys) as i32),
        };
        Arguments {
            queries: operands.queries,
            keys: operands.keys,
            values: operands.values,
            out: operands.out,
            grad_out: Rows::NONE,
            grad_queries: Rows::NONE,
            grad_keys: Rows::NONE,
            grad_values: Rows::NONE,
            log_sums,
            dots: Place::NULL,
            lengths: self.lengths,
            heads,
            query_count,
            key_count,
            size,
            value_size,
            causal,
            window,
            groups,
            scale: self.scale as f32,
            scale_2: (self.scale * std::f64::consts::LOG2_E) as f32,
        }
    }

    /// A launch over tiles of `rows` rows of every head. `own` and `other` tiles are in shared memory, and
    /// `numbers` for each of the other rows.
    fn launch(
        &self,
        kernel: &str,
        rows: usize,
        (own, other, numbers): (usize, usize, usize),
    ) -> Result<Launch> {
        let Sizes { batch, heads, size, value_size, .. } = self.sizes;
        let Some(width) = WIDTHS.into_iter().find(|&width| width >= size.max(value_size)) else {
            bail!("there is no GPU kernel for heads of {size} and {value_size} features")
        };
        // `OTHER` in the kernels.
        let tile = if width <= 64 { 64 } else { 32 };
        let blocks = batch * heads * rows.div_ceil(OWN);
        Ok(Launch {
            kernel: format!("attention_{kernel}_{width}_{}", if self.rounded { 1 } else { 3 }),
            grid: (blocks as u32, 1),
            threads: THREADS,
            shared_bytes: 4 * ((own * OWN + other * tile) * (width + 4) + numbers * tile),
            together: Together::Any,
        })
    }
}

/// Writes `operands.out`; gives what backward needs, a number for each query.
pub(crate) fn forward<M: Machine>(
    machine: &M,
    task: &Task,
    operands: &Operands,
) -> Result<M::Buffer> {
    let Sizes { batch, heads, queries, .. } = task.sizes;
    let log_sums = machine.allocate((batch * heads * queries).max(1))?;
    if batch * heads * queries > 0 {
        let launch = task.launch("forward", queries, (1, 2, 0))?;
        machine.launch(&launch, &task.arguments(operands, machine.place(&log_sums)))?;
    }
    Ok(log_sums)
}

/// Writes the three gradients.
pub(crate) fn backward<M: Machine>(
    machine: &M,
    task: &Task,
    operands: &Operands,
    gradients: &Gradients,
    log_sums: &M::Buffer,
) -> Result<()> {
    let Sizes { batch, heads, queries, keys, .. } = task.sizes;
    let dots = machine.allocate((batch * heads * queries).max(1))?;
    let arguments = Arguments {
        grad_out: gradients.out,
        grad_queries: gradients.queries,
        grad_keys: gradients.keys,
        grad_values: gradients.values,
        dots: machine.place(&dots),
        ..task.arguments(operands, machine.place(log_sums))
    };
    let rows = batch * heads * queries;
    if rows > 0 {
        machine.launch(
            &Launch {
                kernel: "attention_dots".into(),
                grid: (rows.div_ceil(THREADS as usize / 32).min(4096) as u32, 1),
                threads: THREADS,
                shared_bytes: 0,
                together: Together::Any,
            },
            &arguments,
        )?;
        machine.launch(&task.launch("backward_queries", queries, (2, 2, 0))?, &arguments)?;
    }
    if batch * heads * keys > 0 {
        machine.launch(&task.launch("backward_keys", keys, (2, 2, 2))?, &arguments)?;
    }
    Ok(())
}
