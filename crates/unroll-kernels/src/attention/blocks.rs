//! Blocked attention over one head of one sequence at a time (Rabe & Staats 2021; Dao 2022).
//!
//! Scores are computed in blocks of [`QUERY_BLOCK`] queries and [`KEY_BLOCK`] keys. Forward keeps the
//! peak and the sum of each row's exponentials; backward computes the blocks again. Blocks that the
//! mask hides are never computed. How work is cut depends on the shape alone, so results do not
//! depend on the number of threads.

use rayon::prelude::*;

use super::Mask;
use super::rows::{Finished, Run, Running, exponentials, scale_rows, score_gradients};
use crate::float::{Float, LANES};
use crate::product::{Matrix, Threads, multiply};

/// Queries per block.
const QUERY_BLOCK: usize = 64;
/// Keys per block: two blocks of scores stay in the second-level cache.
const KEY_BLOCK: usize = 256;
/// Backward of fewer heads than this is cut along the queries too.
const ENOUGH_TASKS: usize = 16;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Features of queries and keys.
    pub(crate) size: usize,
    /// Features of values.
    pub(crate) value_size: usize,
}

impl Sizes {
    fn groups(&self) -> usize {
        self.batch * self.heads
    }
}

/// `(B, N, rows, features)` in a slice: features one after the other, the rest at any distance.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a, F> {
    pub(super) data: &'a [F],
    pub(super) batch_stride: usize,
    pub(super) head_stride: usize,
    pub(super) row_stride: usize,
}

impl<'a, F> Operand<'a, F> {
    /// Everything from a row on.
    fn from(&self, (batch, head): (usize, usize), row: usize) -> &'a [F] {
        &self.data[batch * self.batch_stride + head * self.head_stride + row * self.row_stride..]
    }

    fn rows(
        &self,
        group: (usize, usize),
        first: usize,
        rows: usize,
        width: usize,
    ) -> Matrix<'a, F> {
        Matrix::strided(self.from(group, first), rows, width, self.row_stride)
    }
}

/// Columns of keys or values, `(B, N, features, S)`: products read them once per block of queries, and
/// read rows that lie together several times faster.
struct Columns<'a, F> {
    source: Operand<'a, F>,
    transposed: Vec<F>,
    heads: usize,
    keys: usize,
    width: usize,
}

impl<'a, F: Float> Columns<'a, F> {
    fn new(sizes: &Sizes, source: Operand<'a, F>, width: usize) -> Self {
        let Sizes { heads, keys, .. } = *sizes;
        let mut transposed = Vec::new();
        // One block of queries reads them only once.
        if sizes.queries > QUERY_BLOCK {
            transposed = vec![F::ZERO; sizes.groups() * width * keys];
            transposed.par_chunks_mut((width * keys).max(1)).enumerate().for_each(
                |(group, out)| {
                    let rows = source.from((group / heads, group % heads), 0);
                    transpose(out, rows, source.row_stride, (keys, width));
                },
            );
        }
        Self { source, transposed, heads, keys, width }
    }

    /// `(features, keys)` of the keys `first..first + keys`.
    fn get(&self, group: (usize, usize), first: usize, keys: usize) -> Matrix<'_, F> {
        if self.transposed.is_empty() {
            return self.source.rows(group, first, keys, self.width).t();
        }
        let start = (group.0 * self.heads + group.1) * self.width * self.keys + first;
        Matrix::strided(&self.transposed[start..], self.width, keys, self.keys)
    }
}

/// `(rows, width)` to `(width, rows)`, in squares that stay in the first-level cache.
fn transpose<F: Float>(out: &mut [F], source: &[F], stride: usize, (rows, width): (usize, usize)) {
    for first_row in (0..rows).step_by(LANES) {
        let count = LANES.min(rows - first_row);
        for column in 0..width {
            let out = &mut out[column * rows + first_row..][..count];
            for (row, out) in out.iter_mut().enumerate() {
                *out = source[(first_row + row) * stride + column];
            }
        }
    }
}

/// An attention without its tensors.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) sizes: Sizes,
    pub(super) mask: Mask,
    /// Keys of each sequence, when some are padding.
    pub(super) lengths: Option<Vec<usize>>,
    pub(super) scale: f64,
}

impl Problem {
    /// The keys that a query sees.
    fn visible(&self, batch: usize, query: usize) -> Run {
        let Sizes { queries, keys, .. } = self.sizes;
        let length = self.lengths.as_ref().map_or(keys, |lengths| lengths[batch]);
        // One more than the key at the query's own step; 0 for queries before the first key.
        let present = (query + 1 + keys).saturating_sub(queries);
        let (first, end) = match self.mask {
            Mask::None => (0, length),
            Mask::Causal => (0, present.min(length)),
            Mask::Window(window) => (present.saturating_sub(window), present.min(length)),
        };
        Run { first: first.min(end), end }
    }

    /// Sequence and head of a group.
    fn group(&self, group: usize) -> (usize, usize) {
        (group / self.sizes.heads, group % self.sizes.heads)
    }

    /// Blocks of keys that some of the queries `first..first + rows` see, with what each sees of it.
    fn key_blocks(
        &self,
        batch: usize,
        first: usize,
        rows: usize,
    ) -> impl Iterator<Item = KeyBlock> + '_ {
        let seen = move |row| self.visible(batch, first + row);
        // Both ends of the run grow with the query, except that hidden rows have none.
        let start = (0..rows).map(seen).find(|run| run.first < run.end).map_or(0, |run| run.first);
        let end = seen(rows - 1).end.max(start);
        (start..end).step_by(KEY_BLOCK).map(move |first_key| {
            let keys = KEY_BLOCK.min(end - first_key);
            let mut runs = [Run::default(); QUERY_BLOCK];
            for (row, run) in runs.iter_mut().take(rows).enumerate() {
                let Run { first, end } = seen(row);
                let column = |key: usize| key.clamp(first_key, first_key + keys) - first_key;
                *run = Run { first: column(first), end: column(end) };
            }
            KeyBlock { first: first_key, keys, runs }
        })
    }

    /// Elements between the rows of a block of scores.
    fn width(&self) -> usize {
        KEY_BLOCK.min(self.sizes.keys).next_multiple_of(LANES)
    }
}

struct KeyBlock {
    first: usize,
    keys: usize,
    runs: [Run; QUERY_BLOCK],
}

/// What forward keeps for backward: a number per query, `(B, N, T)`.
#[derive(Debug)]
pub(super) struct Statistics<F> {
    peak: Vec<F>,
    inverse: Vec<F>,
}

/// Cuts the next `count` elements off.
fn take<'a, F>(rest: &mut &'a mut [F], count: usize) -> &'a mut [F] {
    rest.split_off_mut(..count).unwrap_or_default()
}

/// The block of queries times the scale.
fn scaled<F: Float>(
    out: &mut Vec<F>,
    source: &[F],
    stride: usize,
    (rows, width): (usize, usize),
    scale: F,
) {
    out.clear();
    for row in 0..rows {
        out.extend(source[row * stride..][..width].iter().map(|&value| value * scale));
    }
}

struct ForwardTask<'a, F> {
    group: usize,
    first: usize,
    rows: usize,
    out: &'a mut [F],
    peak: &'a mut [F],
    inverse: &'a mut [F],
}

/// Outputs `(B, N, T, V)` and what backward needs of them.
pub(super) fn forward<F: Float>(
    problem: &Problem,
    queries: Operand<'_, F>,
    keys: Operand<'_, F>,
    values: Operand<'_, F>,
) -> (Vec<F>, Statistics<F>) {
    let Sizes { queries: steps, value_size, .. } = problem.sizes;
    let rows = problem.sizes.groups() * steps;
    let mut out = vec![F::ZERO; rows * value_size];
    let mut statistics = Statistics { peak: vec![F::LOWEST; rows], inverse: vec![F::ZERO; rows] };
    let (mut outs, mut peaks, mut inverses) =
        (&mut out[..], &mut statistics.peak[..], &mut statistics.inverse[..]);
    let mut tasks = Vec::new();
    for group in 0..problem.sizes.groups() {
        for first in (0..steps).step_by(QUERY_BLOCK) {
            let rows = QUERY_BLOCK.min(steps - first);
            tasks.push(ForwardTask {
                group,
                first,
                rows,
                out: take(&mut outs, rows * value_size),
                peak: take(&mut peaks, rows),
                inverse: take(&mut inverses, rows),
            });
        }
    }
    let columns = Columns::new(&problem.sizes, keys, problem.sizes.size);
    let scratch = || (Vec::new(), vec![F::ZERO; QUERY_BLOCK.min(steps) * problem.width()]);
    tasks.into_par_iter().for_each_init(scratch, |(asked, scores), task| {
        forward_block(problem, queries, &columns, values, task, asked, scores);
    });
    (out, statistics)
}

fn forward_block<F: Float>(
    problem: &Problem,
    queries: Operand<'_, F>,
    keys: &Columns<'_, F>,
    values: Operand<'_, F>,
    task: ForwardTask<'_, F>,
    asked: &mut Vec<F>,
    scores: &mut [F],
) {
    let Sizes { size, value_size, .. } = problem.sizes;
    // The sums become their inverses at the end.
    let ForwardTask { group, first, rows, out, peak, inverse: total } = task;
    let (group, width) = (problem.group(group), problem.width());
    let scale = F::from_double(problem.scale);
    scaled(asked, queries.from(group, first), queries.row_stride, (rows, size), scale);
    let mut rescale = [F::ONE; QUERY_BLOCK];
    for (index, block) in problem.key_blocks(group.0, first, rows).enumerate() {
        let right = keys.get(group, block.first, block.keys);
        let left = Matrix::new(asked, rows, size);
        multiply(scores, width, left, right, false, Threads::One);
        let scores = &mut scores[..rows * width];
        let mut running = Running { peak: &mut *peak, total: &mut *total, rescale: &mut rescale };
        exponentials(scores, width, &block.runs[..rows], &mut running);
        if index > 0 {
            scale_rows(out, value_size, &rescale);
        }
        let weights = Matrix::strided(scores, rows, block.keys, width);
        let right = values.rows(group, block.first, block.keys, value_size);
        multiply(out, value_size, weights, right, index > 0, Threads::One);
    }
    for value in total.iter_mut() {
        *value = if *value == F::ZERO { F::ZERO } else { F::ONE / *value };
    }
    scale_rows(out, value_size, total);
}

/// What backward reads.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a, F> {
    pub(super) queries: Operand<'a, F>,
    pub(super) keys: Operand<'a, F>,
    pub(super) values: Operand<'a, F>,
    pub(super) out: Operand<'a, F>,
    pub(super) gradient: Operand<'a, F>,
}

/// Gradients in the shapes `(B, N, T or S, d or V)`.
pub(super) struct Gradients<F> {
    pub(super) queries: Vec<F>,
    pub(super) keys: Vec<F>,
    pub(super) values: Vec<F>,
}

struct BackwardTask<'a, F> {
    group: usize,
    /// Its queries.
    range: std::ops::Range<usize>,
    queries: &'a mut [F],
    keys: &'a mut [F],
    values: &'a mut [F],
}

/// Gradients of queries, keys and values.
pub(super) fn backward<F: Float>(
    problem: &Problem,
    statistics: &Statistics<F>,
    incoming: &Incoming<'_, F>,
) -> Gradients<F> {
    let Sizes { queries: steps, keys, size, value_size, .. } = problem.sizes;
    let groups = problem.sizes.groups();
    // Parts of the queries that each sum up gradients of keys and values of their own.
    let wanted = ENOUGH_TASKS.div_ceil(groups.max(1));
    let part = steps.div_ceil(wanted).next_multiple_of(QUERY_BLOCK);
    let parts = steps.div_ceil(part.max(1)).max(1);
    let mut gradients = Gradients {
        queries: vec![F::ZERO; groups * steps * size],
        keys: vec![F::ZERO; groups * parts * keys * size],
        values: vec![F::ZERO; groups * parts * keys * value_size],
    };
    let (mut for_queries, mut for_keys, mut for_values) =
        (&mut gradients.queries[..], &mut gradients.keys[..], &mut gradients.values[..]);
    let mut tasks = Vec::new();
    for group in 0..groups {
        for index in 0..parts {
            let range = index * part..((index + 1) * part).min(steps);
            tasks.push(BackwardTask {
                group,
                queries: take(&mut for_queries, range.len() * size),
                keys: take(&mut for_keys, keys * size),
                values: take(&mut for_values, keys * value_size),
                range,
            });
        }
    }
    let columns = [
        Columns::new(&problem.sizes, incoming.keys, size),
        Columns::new(&problem.sizes, incoming.values, value_size),
    ];
    let scratch = || Scratch::new(QUERY_BLOCK.min(steps) * problem.width());
    tasks.into_par_iter().for_each_init(scratch, |scratch, mut task| {
        backward_part(problem, statistics, incoming, &columns, &mut task, scratch);
    });
    gradients.keys = sum_parts(gradients.keys, parts, keys * size);
    gradients.values = sum_parts(gradients.values, parts, keys * value_size);
    gradients
}

/// Sums each run of `parts` arrays of `len` elements, in order.
fn sum_parts<F: Float>(all: Vec<F>, parts: usize, len: usize) -> Vec<F> {
    if parts == 1 || len == 0 {
        return all;
    }
    let mut out = vec![F::ZERO; all.len() / parts];
    out.par_chunks_mut(len).zip(all.par_chunks(len * parts)).for_each(|(out, all)| {
        for part in all.chunks_exact(len) {
            for (out, &value) in out.iter_mut().zip(part) {
                *out += value;
            }
        }
    });
    out
}

struct Scratch<F> {
    asked: Vec<F>,
    scores: Vec<F>,
    gradients: Vec<F>,
}

impl<F: Float> Scratch<F> {
    fn new(scores: usize) -> Self {
        Self { asked: Vec::new(), scores: vec![F::ZERO; scores], gradients: vec![F::ZERO; scores] }
    }
}

fn backward_part<F: Float>(
    problem: &Problem,
    statistics: &Statistics<F>,
    incoming: &Incoming<'_, F>,
    [key_columns, value_columns]: &[Columns<'_, F>; 2],
    task: &mut BackwardTask<'_, F>,
    scratch: &mut Scratch<F>,
) {
    let Sizes { queries: steps, size, value_size, .. } = problem.sizes;
    let (group, width) = (problem.group(task.group), problem.width());
    let scale = F::from_double(problem.scale);
    let Incoming { queries, keys, out, gradient, .. } = incoming;
    for first in task.range.clone().step_by(QUERY_BLOCK) {
        let rows = QUERY_BLOCK.min(task.range.end - first);
        let asked = &mut scratch.asked;
        scaled(asked, queries.from(group, first), queries.row_stride, (rows, size), scale);
        let mut dot = [F::ZERO; QUERY_BLOCK];
        for (row, dot) in dot.iter_mut().take(rows).enumerate() {
            let out = &out.from(group, first + row)[..value_size];
            let gradient = &gradient.from(group, first + row)[..value_size];
            for (&out, &gradient) in out.iter().zip(gradient) {
                *dot += out * gradient;
            }
        }
        let known = task.group * steps + first..task.group * steps + first + rows;
        let finished = Finished {
            peak: &statistics.peak[known.clone()],
            inverse: &statistics.inverse[known],
            dot: &dot[..rows],
        };
        let incoming = gradient.rows(group, first, rows, value_size);
        let at = (first - task.range.start) * size;
        let for_queries = &mut task.queries[at..at + rows * size];
        for block in problem.key_blocks(group.0, first, rows) {
            let seen_keys = keys.rows(group, block.first, block.keys, size);
            let key_columns = key_columns.get(group, block.first, block.keys);
            let value_columns = value_columns.get(group, block.first, block.keys);
            let asked = Matrix::new(asked, rows, size);
            let scores = &mut scratch.scores[..rows * width];
            let weight_gradients = &mut scratch.gradients[..rows * width];
            multiply(scores, width, asked, key_columns, false, Threads::One);
            multiply(weight_gradients, width, incoming, value_columns, false, Threads::One);
            score_gradients(scores, weight_gradients, width, &block.runs[..rows], &finished);
            let weights = Matrix::strided(scores, rows, block.keys, width);
            let for_scores = Matrix::strided(weight_gradients, rows, block.keys, width);
            let for_values = &mut task.values[block.first * value_size..];
            multiply(for_values, value_size, weights.t(), incoming, true, Threads::One);
            let for_keys = &mut task.keys[block.first * size..];
            multiply(for_keys, size, for_scores.t(), asked, true, Threads::One);
            multiply(for_queries, size, for_scores, seen_keys, true, Threads::One);
        }
        for value in for_queries {
            *value *= scale;
        }
    }
}
