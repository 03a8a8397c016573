//! A machine that runs the kernels on a processor.

use std::cell::Cell;

use candle_core::{Error, Result};
use unroll_kernels_emulation as emulation;

use super::{Argument, Factor, Launch, Limits, Machine, Place, Product, Rates, Together};
use crate::product::{Matrix, Threads, multiply};

/// Around every buffer: must stay as it was.
const GUARD: usize = 64;
const UNTOUCHED: f32 = -7.25e11;

/// The machine. Its memory holds no numbers (NaN) until they are written.
pub(crate) struct Emulated {
    limits: Limits,
    order: Cell<u64>,
    /// Launches since the beginning.
    launches: Cell<u64>,
    /// Whether there is room for clusters, and for whole grids, at once.
    room: [bool; 2],
}

impl Emulated {
    /// `order` decides in which order threads run.
    pub(crate) fn new(limits: Limits, order: u64) -> Self {
        Self { limits, order: Cell::new(order), launches: Cell::new(0), room: [true; 2] }
    }

    /// A machine without room for clusters, or for whole grids, at once.
    pub(crate) fn without_room(self, clusters: bool, grids: bool) -> Self {
        Self { room: [!clusters, !grids], ..self }
    }

    pub(crate) fn upload(&self, values: &[f32]) -> Memory {
        let mut all = vec![UNTOUCHED; GUARD];
        all.extend_from_slice(values);
        all.extend([UNTOUCHED; GUARD]);
        Memory(all)
    }

    /// Integers in memory for 32-bit numbers.
    pub(crate) fn upload_integers(&self, values: &[i32]) -> Memory {
        let bits: Vec<f32> = values.iter().map(|&value| f32::from_bits(value as u32)).collect();
        self.upload(&bits)
    }
}

/// Memory with guards around it.
pub(crate) struct Memory(Vec<f32>);

impl Memory {
    pub(crate) fn values(&self) -> &[f32] {
        &self.0[GUARD..self.0.len() - GUARD]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let end = self.0.len() - GUARD;
        let guards = self.0[..GUARD].iter().chain(&self.0[end..]);
        let touched = guards.filter(|&&value| value.to_bits() != UNTOUCHED.to_bits()).count();
        if !std::thread::panicking() {
            assert_eq!(touched, 0, "written outside of {} numbers", end - GUARD);
        }
    }
}

/// Numbers in memory.
#[allow(unsafe_code)]
fn slice<'a>(place: Place, len: usize) -> &'a [f32] {
    // SAFETY: places are those of `Memory` that lives during the call, with as many numbers.
    unsafe { std::slice::from_raw_parts(place.0 as *const f32, len) }
}

#[allow(unsafe_code)]
fn slice_mut<'a>(place: Place, len: usize) -> &'a mut [f32] {
    // SAFETY: as above; callers hold one such slice at a time.
    unsafe { std::slice::from_raw_parts_mut(place.0 as *mut f32, len) }
}

impl Machine for Emulated {
    type Buffer = Memory;

    fn limits(&self) -> Option<Limits> {
        Some(self.limits)
    }

    /// Of a device on which a layer of ten units has its weights in cache, and one of twenty has not.
    fn rates(&self) -> Rates {
        Rates { clock_hz: 1e3, cache_bytes: 2048 }
    }

    fn allocate(&self, len: usize) -> Result<Memory> {
        Ok(self.upload(&vec![f32::NAN; len]))
    }

    fn place(&self, buffer: &Memory) -> Place {
        Place(buffer.values().as_ptr() as u64)
    }

    fn zero(&self, to: Place, len: usize) -> Result<()> {
        slice_mut(to, len).fill(0.0);
        Ok(())
    }

    fn copy(&self, from: Place, to: Place, len: usize) -> Result<()> {
        slice_mut(to, len).copy_from_slice(slice(from, len));
        Ok(())
    }

    fn multiply(&self, product: &Product) -> Result<()> {
        let Product { m, n, k, left, right, out, out_stride, accumulate } = *product;
        let matrix = |factor: Factor, rows: usize, columns: usize| {
            let (rows, columns) = if factor.transposed { (columns, rows) } else { (rows, columns) };
            let values = slice(factor.place, (rows - 1) * factor.stride + columns);
            let matrix = Matrix::strided(values, rows, columns, factor.stride);
            if factor.transposed { matrix.t() } else { matrix }
        };
        let out = slice_mut(out, (m - 1) * out_stride + n);
        let (left, right) = (matrix(left, m, k), matrix(right, k, n));
        multiply(out, out_stride, left, right, accumulate, Threads::One);
        Ok(())
    }

    fn name(&self) -> String {
        format!("emulated, {:?}, {:?}", self.limits, self.room)
    }

    fn read(&self, buffer: &Memory) -> Result<Vec<f32>> {
        Ok(buffer.values().to_vec())
    }

    /// Not seconds but launches: what a test can know.
    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
        let before = self.launches.get();
        run()?;
        Ok((self.launches.get() - before) as f64)
    }

    fn room(&self, launch: &Launch) -> std::result::Result<(), String> {
        let has = match launch.together {
            Together::Any => true,
            Together::Clusters(_) => self.room[0],
            Together::All => self.room[1],
        };
        if has { Ok(()) } else { Err(format!("no room for {}", launch.kernel)) }
    }

    #[allow(unsafe_code)]
    fn launch<A: Argument>(&self, launch: &Launch, argument: &A) -> Result<()> {
        self.room(launch).map_err(Error::msg)?;
        self.launches.set(self.launches.get() + 1);
        let size = size_of::<A>();
        // SAFETY: a plain structure without padding, alive during the call.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const *argument).cast(), size) };
        let order = self.order.get();
        self.order.set(order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99));
        let launch = emulation::Launch {
            kernel: &launch.kernel,
            grid: launch.grid,
            threads: launch.threads,
            cluster: match launch.together {
                Together::Clusters(size) => size,
                Together::Any | Together::All => 1,
            },
            shared_bytes: launch.shared_bytes,
            order,
        };
        // SAFETY: the host code gives places of memory that is alive; what it gets wrong, guards show.
        unsafe { emulation::run(&launch, bytes) }.map_err(Error::msg)
    }
}
