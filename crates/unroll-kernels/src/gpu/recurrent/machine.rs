//! What runs kernels and products.

use candle_core::Result;

use super::launch::{Launch, Place, Sequence};
use super::plan::Limits;

/// A device with its memory. Work is done in the order in which it is asked for, perhaps later.
pub(crate) trait Machine {
    /// Memory for 32-bit numbers, given back when dropped, after the work that was asked for before.
    type Buffer;

    /// What the device offers to persistent kernels; `None` where it cannot run them.
    fn limits(&self) -> Option<Limits>;

    /// Memory with anything in it.
    fn allocate(&self, len: usize) -> Result<Self::Buffer>;

    /// Where a buffer begins.
    fn place(&self, buffer: &Self::Buffer) -> Place;

    /// Sets numbers to zero.
    fn zero(&self, to: Place, len: usize) -> Result<()>;

    /// Copies numbers.
    fn copy(&self, from: Place, to: Place, len: usize) -> Result<()>;

    /// A matrix product.
    fn multiply(&self, product: &Product) -> Result<()>;

    /// Runs a kernel.
    fn launch(&self, launch: &Launch, arguments: &Sequence) -> Result<()>;

    /// Tells devices apart.
    fn name(&self) -> String;

    /// The numbers in memory, when all work is done.
    fn read(&self, buffer: &Self::Buffer) -> Result<Vec<f32>>;

    /// Seconds that the device needs for what `run` asks for.
    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64>;

    /// Does what `run` asks for. A machine may keep the list, and do it again by it for the same `key`.
    fn recorded(&self, _key: &[u64], run: &dyn Fn() -> Result<()>) -> Result<()> {
        run()
    }
}

/// A matrix in memory, row by row; `transposed`: as a factor it is the transpose of what lies there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub(crate) place: Place,
    /// Numbers from row to row.
    pub(crate) stride: usize,
    pub(crate) transposed: bool,
}

impl Factor {
    pub(crate) fn new(place: Place, stride: usize) -> Self {
        Self { place, stride, transposed: false }
    }

    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// `out (m, n) = left (m, k) right (k, n)`, or `out += left right`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) left: Factor,
    pub(crate) right: Factor,
    pub(crate) out: Place,
    /// Numbers from row to row of `out`.
    pub(crate) out_stride: usize,
    pub(crate) accumulate: bool,
}
