//! A linear map of few rows, straight from its weights.
//!
//! A product of many rows first packs the weights for its inner loop, which costs as much as multiplying
//! some 100 rows by them. Rows of the input and rows of the weight are both contiguous in the inner
//! dimension, so that a tile of sums can run along it instead, with the lanes of a vector added up at
//! the end. Every output element is computed by the same operations whatever the tile and the thread.

use rayon::prelude::*;

use crate::isa::Isa;
use crate::simd::{Portable, Simd, Task};

/// Up to this many rows it is faster than packing.
pub(crate) const MOST_ROWS: usize = 512;

/// Shorter rows spend their time adding up lanes.
pub(crate) const FEWEST_INPUTS: usize = 128;

/// Inputs at a time: the rows of a tile stay in the second-level cache.
const BLOCK: usize = 1024;

/// Rows and columns of a tile of sums: as many as the registers (32 of 16 lanes, else 16) hold.
const fn tile(lanes: usize) -> (usize, usize) {
    if lanes == 16 { (4, 6) } else { (3, 4) }
}

/// `x W^T + b` for `x` `(rows, inputs)`, `weight` `(outputs, inputs)` and `bias` `(outputs,)`.
///
/// # Panics
/// When a slice does not have the elements that its shape says.
pub(crate) fn linear(x: &[f32], weight: &[f32], bias: &[f32], rows: usize, isa: Isa) -> Vec<f32> {
    let outputs = bias.len();
    if rows == 0 || outputs == 0 {
        return Vec::new();
    }
    let inputs = x.len() / rows;
    assert!(x.len() == rows * inputs && weight.len() == outputs * inputs, "sizes do not fit");
    let mut out: Vec<f32> = Vec::with_capacity(rows * outputs);
    for _ in 0..rows {
        out.extend_from_slice(bias);
    }
    // Whole tiles; a few shares per thread, so that none waits for long.
    let shares = rayon::current_num_threads() * 4;
    let width = outputs.div_ceil(shares).next_multiple_of(12);
    let shared = Shared(out.as_mut_ptr());
    (0..outputs.div_ceil(width)).into_par_iter().for_each(|share| {
        let columns = share * width..((share + 1) * width).min(outputs);
        let product = Product { x, weight, out: shared, rows, inputs, outputs, columns };
        // An instruction set that the processor lacks must never run.
        let isa = if isa.is_available() { isa } else { Isa::Portable };
        // SAFETY: the processor has the instruction set; the sizes were checked above, and every
        // share writes columns of its own.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => crate::simd::Avx512::enter(product),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => crate::simd::Avx2::enter(product),
                _ => Portable::enter(product),
            }
        }
    });
    out
}

/// The output, of which several threads write disjoint columns.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: threads write disjoint elements.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// `out += x W^T` in a range of columns.
struct Product<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    out: Shared,
    rows: usize,
    inputs: usize,
    outputs: usize,
    columns: std::ops::Range<usize>,
}

impl Task for Product<'_> {
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let (most_rows, most_columns) = tile(V::LANES);
        for from in (0..self.inputs).step_by(BLOCK) {
            let depth = BLOCK.min(self.inputs - from);
            let mut column = self.columns.start;
            while column < self.columns.end {
                let count =
                    if column + most_columns <= self.columns.end { most_columns } else { 1 };
                let mut row = 0;
                while row < self.rows {
                    let height = most_rows.min(self.rows - row);
                    // SAFETY: the caller's contract; the tile lies within rows and columns, and its
                    // inner range within the inputs.
                    unsafe {
                        let at = Corner {
                            x: self.x.as_ptr().add(row * self.inputs + from),
                            weight: self.weight.as_ptr().add(column * self.inputs + from),
                            out: self.out.0.add(row * self.outputs + column),
                            inputs: self.inputs,
                            outputs: self.outputs,
                            depth,
                        };
                        match (height, count) {
                            (4, 6) => sums::<V, 4, 6>(at),
                            (3, 6) => sums::<V, 3, 6>(at),
                            (2, 6) => sums::<V, 2, 6>(at),
                            (1, 6) => sums::<V, 1, 6>(at),
                            (3, 4) => sums::<V, 3, 4>(at),
                            (2, 4) => sums::<V, 2, 4>(at),
                            (1, 4) => sums::<V, 1, 4>(at),
                            (4, _) => sums::<V, 4, 1>(at),
                            (3, _) => sums::<V, 3, 1>(at),
                            (2, _) => sums::<V, 2, 1>(at),
                            _ => sums::<V, 1, 1>(at),
                        }
                    }
                    row += height;
                }
                column += count;
            }
        }
    }
}

/// Where a tile begins in the two factors and the output, and how far its sums run.
#[derive(Clone, Copy)]
struct Corner {
    x: *const f32,
    weight: *const f32,
    out: *mut f32,
    inputs: usize,
    outputs: usize,
    depth: usize,
}

/// Adds the products of `R` rows and `C` columns to the output.
///
/// Safety: the processor has `V`'s instructions; `R` rows and `C` weights have `depth` elements each.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // An iterator over a second axis would hide the tile.
unsafe fn sums<V: Simd, const R: usize, const C: usize>(at: Corner) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[V::splat(0.0); C]; R];
        let mut k = 0;
        while k + V::LANES <= at.depth {
            let rows: [V; R] = std::array::from_fn(|r| V::load(at.x.add(r * at.inputs + k)));
            for c in 0..C {
                let weight = V::load(at.weight.add(c * at.inputs + k));
                for r in 0..R {
                    sums[r][c] = rows[r].mul_add(weight, sums[r][c]);
                }
            }
            k += V::LANES;
        }
        if k < at.depth {
            let rest = at.depth - k;
            for c in 0..C {
                let weight = V::load_part(at.weight.add(c * at.inputs + k), rest);
                for r in 0..R {
                    let row = V::load_part(at.x.add(r * at.inputs + k), rest);
                    sums[r][c] = row.mul_add(weight, sums[r][c]);
                }
            }
        }
        for (r, row) in sums.into_iter().enumerate() {
            for (c, sum) in row.into_iter().enumerate() {
                *at.out.add(r * at.outputs + c) += sum.sum();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0) - 1.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        #[test]
        fn every_instruction_set_gives_the_product(
            (rows, outputs) in (1usize..40, prop_oneof![1usize..40, Just(131)]),
            inputs in prop_oneof![0usize..70, Just(1024), Just(1031), Just(2500)],
            seed in 0usize..1000,
        ) {
            let (x, weight) = (drawn(rows * inputs, seed), drawn(outputs * inputs, seed + 1));
            let bias = drawn(outputs, seed + 2);
            for isa in Isa::ALL {
                let found = linear(&x, &weight, &bias, rows, isa);
                for row in 0..rows {
                    for column in 0..outputs {
                        let pairs = x[row * inputs..][..inputs].iter()
                            .zip(&weight[column * inputs..][..inputs]);
                        let (mut exact, mut size) = (f64::from(bias[column]), 1.0);
                        for (&a, &b) in pairs {
                            exact += f64::from(a) * f64::from(b);
                            size += (f64::from(a) * f64::from(b)).abs();
                        }
                        let found = f64::from(found[row * outputs + column]);
                        prop_assert!(
                            (found - exact).abs() <= 1e-5 * size,
                            "{isa:?}: {found}, not {exact}"
                        );
                    }
                }
                // A row's result does not depend on the rows beside it.
                let alone = linear(&x[..inputs], &weight, &bias, 1, isa);
                prop_assert_eq!(&found[..outputs], &alone[..]);
            }
        }
    }
}
