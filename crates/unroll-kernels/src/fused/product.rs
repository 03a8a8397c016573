//! Small matrix products against packed weights.
//!
//! Weights lie in panels of two vectors' width: panel `p` holds columns `2L p .. 2L (p + 1)` of a
//! `(K, N)` matrix row by row, zero beyond its edge. A tile of up to 12 rows and one panel lives in
//! registers over a block of `K`. Every output element is summed block by block in the order of `k`
//! whatever the tile, so results do not depend on how rows and columns are shared out.

use crate::simd::{Simd, Task};

/// Rows of a tile at most: 24 of the 32 registers hold sums.
const MAX_ROWS: usize = 12;

/// A slice of a panel of this many `k` (32 KiB with 16 lanes) stays in the first-level cache while
/// all rows use it.
const K_BLOCK: usize = 256;

/// Columns of a panel.
pub(super) const fn panel_width<V: Simd>() -> usize {
    2 * V::LANES
}

/// A few rows of the left factor.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The first row.
    pub(super) data: *const f32,
    /// Elements from one row to the next.
    pub(super) stride: isize,
    /// Number of rows.
    pub(super) count: usize,
    /// For each row, where its output begins, as an offset to [`Panel::output`].
    pub(super) outputs: *const usize,
}

/// What a sum begins with.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// What is in the output.
    Output,
    /// Zero.
    Zero,
    /// These values, the same in every row.
    Bias(*const f32),
}

/// A panel of weights and the columns that it yields.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    /// `(K, 2L)`.
    pub(super) weights: *const f32,
    /// The first column of row offset 0.
    pub(super) output: *mut f32,
    /// Columns to write.
    pub(super) columns: usize,
    /// See [`Start`].
    pub(super) start: Start,
}

/// `output (+)= rows x panels`.
///
/// # Safety
/// The processor has `V`'s instructions. All rows have `k` readable elements, all panels `k` rows,
/// and all outputs the columns that their panels say; no other thread uses the outputs meanwhile,
/// and outputs overlap neither rows nor panels.
pub(super) unsafe fn multiply<V: Simd>(rows: &[Rows], panels: &[Panel], k: usize) {
    let together = match rows.iter().map(|r| r.count.min(MAX_ROWS)).max().unwrap_or(0) {
        0 => return,
        // Few rows: several panels at once keep enough sums in flight to hide the latency.
        1 => 4,
        2 if V::LANES == 16 => 4,
        2..=3 => 2,
        4..=5 if V::LANES == 16 => 2,
        _ => 1,
    };
    let mut rest = panels;
    while !rest.is_empty() {
        let (group, tail) = if rest.len() >= together {
            rest.split_at(together)
        } else if rest.len() >= 2 && together >= 2 {
            rest.split_at(2)
        } else {
            rest.split_at(1)
        };
        rest = tail;
        // SAFETY: the caller's contract.
        unsafe {
            match group {
                [a, b, c, d] => multiply_group::<V, 4>(rows, [*a, *b, *c, *d], k),
                [a, b] => multiply_group::<V, 2>(rows, [*a, *b], k),
                [a, ..] => multiply_group::<V, 1>(rows, [*a], k),
                [] => {}
            }
        }
    }
}

/// Rows of a tile at most: as many as the registers (32 of 16 lanes, else 16) hold sums for.
const fn tile_rows(panels: usize, lanes: usize) -> usize {
    match (panels, lanes == 16) {
        (4, true) => 2,
        (4, false) => 1,
        (2, true) => 5,
        (2, false) => 3,
        (_, true) => MAX_ROWS,
        (_, false) => 6,
    }
}

/// Safety: as [`multiply`].
unsafe fn multiply_group<V: Simd, const P: usize>(rows: &[Rows], panels: [Panel; P], k: usize) {
    let mut from = 0;
    loop {
        let depth = (k - from).min(K_BLOCK);
        let mut part = panels;
        for panel in &mut part {
            // SAFETY: `from <= k`, the panel's depth.
            panel.weights = unsafe { panel.weights.add(from * panel_width::<V>()) };
            if from > 0 {
                panel.start = Start::Output;
            }
        }
        for rows in rows {
            // Equal tiles rather than full ones and a small rest.
            let limit = tile_rows(P, V::LANES);
            let tiles = rows.count.div_ceil(limit);
            let mut first = 0;
            for tile in 0..tiles {
                let count = (rows.count - first).div_ceil(tiles - tile);
                // SAFETY: `first < rows.count` and `from <= k`.
                unsafe {
                    let tile = Rows {
                        data: rows.data.offset(first as isize * rows.stride).add(from),
                        stride: rows.stride,
                        count,
                        outputs: rows.outputs.add(first),
                    };
                    enter_tile::<V, P>(tile, part, depth);
                }
                first += count;
            }
        }
        from += depth;
        if from >= k {
            break;
        }
    }
}

/// Safety: as [`multiply`].
unsafe fn enter_tile<V: Simd, const P: usize>(rows: Rows, panels: [Panel; P], k: usize) {
    macro_rules! tile {
        ($($count:literal),*) => {
            match rows.count {
                $(
                    // SAFETY: the caller's contract.
                    $count if $count <= tile_rows(P, V::LANES) => unsafe {
                        V::enter(Tile::<$count, P> { rows, panels, k });
                    },
                )*
                _ => {}
            }
        };
    }
    tile!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
}

/// Repeats a block for `$i` from 0 to `$n`, a constant. The compiler must see constant indices to keep
/// an array in registers, and it unrolls loops too late for that.
macro_rules! unroll {
    ($i:ident < $n:expr, 2, $body:block) => { unroll!(@ $i, $n, $body, 0 1) };
    ($i:ident < $n:expr, 4, $body:block) => { unroll!(@ $i, $n, $body, 0 1 2 3) };
    ($i:ident < $n:expr, 12, $body:block) => {
        unroll!(@ $i, $n, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $i:ident, $n:expr, $body:block, $($at:literal)*) => {
        $(if $at < $n {
            let $i: usize = $at;
            $body
        })*
    };
}

/// `R` rows against `P` panels.
struct Tile<const R: usize, const P: usize> {
    rows: Rows,
    panels: [Panel; P],
    k: usize,
}

impl<const R: usize, const P: usize> Task for Tile<R, P> {
    #[inline(always)]
    unsafe fn run<V: Simd>(self) {
        let Self { rows, panels, k } = self;
        // SAFETY: the contract of `multiply`: reads stay within rows and panels of depth `k`, writes
        // within the panels' columns.
        unsafe {
            let mut sums = [[[V::splat(0.0); 2]; P]; R];
            let mut row = rows.data;
            let mut weights: [*const f32; P] = panels.map(|panel| panel.weights);
            for _ in 0..k {
                let mut vectors = [[V::splat(0.0); 2]; P];
                unroll!(p < P, 4, {
                    vectors[p][0] = V::load(weights[p]);
                    vectors[p][1] = V::load(weights[p].add(V::LANES));
                    weights[p] = weights[p].add(2 * V::LANES);
                });
                unroll!(r < R, 12, {
                    let left = V::splat(*row.offset(r as isize * rows.stride));
                    unroll!(p < P, 4, {
                        sums[r][p][0] = left.mul_add(vectors[p][0], sums[r][p][0]);
                        sums[r][p][1] = left.mul_add(vectors[p][1], sums[r][p][1]);
                    });
                });
                row = row.wrapping_add(1);
            }
            unroll!(p < P, 4, {
                let panel = &panels[p];
                unroll!(v < 2, 2, {
                    let skip = v * V::LANES;
                    let count = panel.columns.saturating_sub(skip).min(V::LANES);
                    let (start, output) = (panel.start, panel.output.wrapping_add(skip));
                    let bias = match start {
                        Start::Bias(bias) => V::load_up_to(bias.wrapping_add(skip), count),
                        _ => V::splat(0.0),
                    };
                    unroll!(r < R, 12, {
                        let at = output.wrapping_add(*rows.outputs.add(r));
                        let before = match start {
                            Start::Output => V::load_up_to(at, count),
                            _ => bias,
                        };
                        before.add(sums[r][p][v]).store_up_to(at, count);
                    });
                });
            });
        }
    }
}

/// Packs rows `first .. first + columns` of `weights` (rows of `k` elements) as the columns of
/// panels: the product with them is that with the transpose.
pub(super) fn pack_transposed(
    out: &mut [f32],
    width: usize,
    weights: &[f32],
    k: usize,
    columns: usize,
) {
    /// Rows and columns that are turned while they fit in registers and a few cache lines.
    const BLOCK: usize = 16;
    for (panel, out) in out.chunks_exact_mut((width * k).max(1)).enumerate() {
        let first = panel * width;
        let valid = columns.saturating_sub(first).min(width);
        for from in (0..k).step_by(BLOCK) {
            let depth = BLOCK.min(k - from);
            for lane in 0..width {
                if lane < valid {
                    let source = &weights[(first + lane) * k + from..][..depth];
                    for (i, &value) in source.iter().enumerate() {
                        out[(from + i) * width + lane] = value;
                    }
                } else {
                    for i in 0..depth {
                        out[(from + i) * width + lane] = 0.0;
                    }
                }
            }
        }
    }
}

/// Packs `weights`, `k` rows of `columns` elements.
pub(super) fn pack(out: &mut [f32], width: usize, weights: &[f32], k: usize, columns: usize) {
    for (panel, out) in out.chunks_exact_mut((width * k).max(1)).enumerate() {
        let first = panel * width;
        let valid = columns.saturating_sub(first).min(width);
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            out[..valid].copy_from_slice(&weights[row * columns + first..][..valid]);
            out[valid..].fill(0.0);
        }
    }
}
