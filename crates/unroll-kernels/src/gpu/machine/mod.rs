//! What runs kernels and products.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod emulated;

use candle_core::Result;

/// An address in a device's memory: of 32-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Place(pub(crate) u64);

impl Place {
    /// Nothing.
    pub(crate) const NULL: Self = Self(0);

    /// `count` numbers further.
    pub(crate) fn offset(self, count: usize) -> Self {
        Self(self.0 + 4 * count as u64)
    }
}

/// What a device offers to persistent kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Multiprocessors.
    pub(crate) multiprocessors: usize,
    /// Bytes of shared memory that a block can have.
    pub(crate) shared_bytes: usize,
    /// Blocks in a cluster.
    pub(crate) cluster: usize,
}

/// What a device says of its speed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    /// Clock cycles of multiprocessors in a second, at most.
    pub(crate) clock_hz: f64,
    /// Bytes in the cache that all multiprocessors share.
    pub(crate) cache_bytes: usize,
}

/// One launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Launch {
    pub(crate) kernel: String,
    pub(crate) grid: (u32, u32),
    pub(crate) threads: u32,
    pub(crate) shared_bytes: usize,
    pub(crate) together: Together,
}

/// Which blocks of a launch must run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Together {
    /// None.
    Any,
    /// Clusters of so many.
    Clusters(u32),
    /// All.
    All,
}

/// A structure that a kernel takes: laid out as C does, without padding.
pub(crate) trait Argument: Copy {}

/// A device with its memory. Work is done in the order in which it is asked for, perhaps later.
pub(crate) trait Machine {
    /// Memory for 32-bit numbers, given back when dropped, after the work that was asked for before.
    type Buffer;

    /// What the device offers to persistent kernels; `None` where it cannot run them.
    fn limits(&self) -> Option<Limits>;

    /// What the device says of its speed.
    fn rates(&self) -> Rates;

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

    /// Whether the blocks of a launch that must run at the same time find room to; or why not.
    fn room(&self, _launch: &Launch) -> std::result::Result<(), String> {
        Ok(())
    }

    /// Whether work can go on: on some machines one failure ends all.
    fn alive(&self) -> Result<()> {
        Ok(())
    }

    /// Runs a kernel.
    fn launch<A: Argument>(&self, launch: &Launch, argument: &A) -> Result<()>;

    /// Tells devices apart.
    fn name(&self) -> String;

    /// Whether products round what they read to TF32.
    fn tf32(&self) -> bool {
        false
    }

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
