//! The scores of additive attention as one operation.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::float::{Float, LANES, sum_of};
use crate::isa::multiversion;
use crate::storage::{elements, host};

/// Queries (or keys) per task of the backward pass: the gradient of `score` is summed task by task, so
/// that the order of the sum depends on the sizes alone.
const ROWS: usize = 16;

/// `s_ij = sum_a v_a tanh(q_ia + k_ja)` (Bahdanau 2015): `(B, Q, S)` from queries `(B, Q, A)`, keys
/// `(B, S, A)` and `score` `(A)`.
///
/// The `(B, Q, S, A)` sums are never in memory: forward keeps nothing, and backward computes each tangent
/// twice, once for its query and once for its key. Pairs whose incoming gradient is 0 (those that a mask
/// hides) cost nothing in backward. Runs on `f32` and `f64` on the CPU
/// ([`supports`](crate::supports)).
///
/// # Errors
/// On other devices and types, and for sizes that do not fit.
pub fn additive_scores(queries: &Tensor, keys: &Tensor, score: &Tensor) -> Result<Tensor> {
    let ((batch, rows, size), (key_batch, columns, key_size)) = (queries.dims3()?, keys.dims3()?);
    if batch != key_batch || size != key_size || score.dims() != [size] {
        bail!(
            "additive scores of queries {:?}, keys {:?} and a vector {:?}",
            queries.dims(),
            keys.dims(),
            score.dims()
        );
    }
    let op = Scores { batch, rows, columns, size };
    queries.contiguous()?.apply_op3(&keys.contiguous()?, &score.contiguous()?, op)
}

#[derive(Debug, Clone, Copy)]
struct Scores {
    batch: usize,
    rows: usize,
    columns: usize,
    size: usize,
}

multiversion! {
    /// Scores of one query with all keys.
    fn score_row<F: Float>(out: &mut [F], query: &[F], keys: &[F], score: &[F]) {
        for (out, key) in out.iter_mut().zip(keys.chunks_exact(score.len().max(1))) {
            let mut sums = [F::ZERO; LANES];
            let (score, score_rest) = score.as_chunks::<LANES>();
            let (query, query_rest) = query.as_chunks::<LANES>();
            let (key, key_rest) = key.as_chunks::<LANES>();
            for ((score, query), key) in score.iter().zip(query).zip(key) {
                for lane in 0..LANES {
                    sums[lane] += score[lane] * (query[lane] + key[lane]).tanh();
                }
            }
            for (lane, ((&score, &query), &key)) in
                score_rest.iter().zip(query_rest).zip(key_rest).enumerate()
            {
                sums[lane] += score * (query + key).tanh();
            }
            *out = sum_of(sums);
        }
    }
}

multiversion! {
    /// `slope_a += sum_j g_j (1 - t_ja^2)` and `tangent_a += sum_j g_j t_ja` with
    /// `t_ja = tanh(own_a + other_ja)`; the gradients `g_j` lie `stride` apart.
    fn accumulate<F: Float>(
        slope: &mut [F],
        tangent: &mut [F],
        own: &[F],
        others: &[F],
        gradient: &[F],
        stride: usize,
    ) {
        let pairs = others.chunks_exact(own.len().max(1)).zip(gradient.iter().step_by(stride));
        for (other, &gradient) in pairs {
            if gradient == F::ZERO {
                continue;
            }
            let all = slope.iter_mut().zip(tangent.iter_mut()).zip(own.iter().zip(other));
            for ((slope, tangent), (&own, &other)) in all {
                let t = (own + other).tanh();
                *slope += gradient * (F::ONE - t * t);
                *tangent += gradient * t;
            }
        }
    }
}

/// Gradients of queries, keys and score.
struct Gradients<F> {
    queries: Vec<F>,
    keys: Vec<F>,
    score: Vec<F>,
}

impl Scores {
    fn forward<F: Float>(&self, queries: &[F], keys: &[F], score: &[F]) -> Vec<F> {
        let Self { batch, rows, columns, size } = *self;
        let mut out = vec![F::ZERO; batch * rows * columns];
        out.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, out)| {
            let keys = &keys[row / rows * columns * size..][..columns * size];
            score_row(out, &queries[row * size..][..size], keys, score);
        });
        out
    }

    fn backward<F: Float>(
        &self,
        queries: &[F],
        keys: &[F],
        score: &[F],
        gradient: &[F],
    ) -> Gradients<F> {
        let Self { batch, rows, columns, size } = *self;
        let mut found = Gradients {
            queries: vec![F::ZERO; batch * rows * size],
            keys: vec![F::ZERO; batch * columns * size],
            score: vec![F::ZERO; size],
        };
        if batch * rows * columns * size == 0 {
            return found;
        }
        let tasks = (batch * rows).div_ceil(ROWS);
        let mut parts = vec![F::ZERO; tasks * size];
        let by_task = found.queries.par_chunks_mut(ROWS * size).zip(parts.par_chunks_mut(size));
        by_task.enumerate().for_each(|(task, (slopes, tangent))| {
            for (index, slope) in slopes.chunks_exact_mut(size).enumerate() {
                let row = task * ROWS + index;
                let keys = &keys[row / rows * columns * size..][..columns * size];
                let gradient = &gradient[row * columns..][..columns];
                accumulate(slope, tangent, &queries[row * size..][..size], keys, gradient, 1);
                slope.iter_mut().zip(score).for_each(|(slope, &v)| *slope *= v);
            }
        });
        for part in parts.chunks_exact(size) {
            found.score.iter_mut().zip(part).for_each(|(sum, &part)| *sum += part);
        }
        found.keys.par_chunks_mut(ROWS * size).enumerate().for_each(|(task, slopes)| {
            // Summed with the queries already.
            let mut tangent = vec![F::ZERO; size];
            for (index, slope) in slopes.chunks_exact_mut(size).enumerate() {
                let key = task * ROWS + index;
                let (sequence, column) = (key / columns, key % columns);
                let queries = &queries[sequence * rows * size..][..rows * size];
                let gradient = &gradient[sequence * rows * columns..][..rows * columns][column..];
                let own = &keys[key * size..][..size];
                accumulate(slope, &mut tangent, own, queries, gradient, columns);
                slope.iter_mut().zip(score).for_each(|(slope, &v)| *slope *= v);
            }
        });
        found
    }

    fn gradients<F: Float>(
        &self,
        args: [&Tensor; 3],
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let guards = [args[0], args[1], args[2], &gradient].map(Tensor::storage_and_layout);
        let at = |index: usize| elements::<F>(host(&guards[index].0)?, guards[index].1);
        let found = self.backward(at(0)?, at(1)?, at(2)?, at(3)?);
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(found.queries, args[0])?),
            Some(tensor(found.keys, args[1])?),
            Some(tensor(found.score, args[2])?),
        ))
    }
}

impl CustomOp3 for Scores {
    fn name(&self) -> &'static str {
        "additive_scores"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let storage = match s1 {
            CpuStorage::F32(_) => CpuStorage::F32(self.forward::<f32>(
                elements(s1, l1)?,
                elements(s2, l2)?,
                elements(s3, l3)?,
            )),
            CpuStorage::F64(_) => CpuStorage::F64(self.forward::<f64>(
                elements(s1, l1)?,
                elements(s2, l2)?,
                elements(s3, l3)?,
            )),
            _ => bail!("additive scores run on f32 and f64"),
        };
        Ok((storage, Shape::from((self.batch, self.rows, self.columns))))
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let args = [arg1, arg2, arg3];
        match arg1.dtype() {
            DType::F32 => self.gradients::<f32>(args, grad_res),
            DType::F64 => self.gradients::<f64>(args, grad_res),
            other => bail!("additive scores run on f32 and f64, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{draw, list};

    /// The definition, with all sums in memory.
    fn definition(queries: &Tensor, keys: &Tensor, score: &Tensor) -> Tensor {
        let sums = queries.unsqueeze(2).unwrap().broadcast_add(&keys.unsqueeze(1).unwrap());
        let tangents = sums.unwrap().tanh().unwrap();
        tangents.broadcast_mul(score).unwrap().sum(3).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

        #[test]
        fn scores_and_gradients_are_those_of_the_definition(
            (batch, rows, columns) in (1usize..4, 1usize..40, 1usize..40),
            size in prop_oneof![Just(1usize), Just(16), Just(17), 1usize..50],
            seed in 0usize..1000,
            (dtype, tolerance) in prop_oneof![Just((DType::F64, 1e-12)), Just((DType::F32, 1e-5))],
            hide in any::<bool>(),
        ) {
            let vars = [
                draw(&[batch, rows, size], seed, dtype),
                draw(&[batch, columns, size], seed + 1, dtype),
                draw(&[size], seed + 2, dtype),
            ];
            let incoming = draw(&[batch, rows, columns], seed + 3, dtype);
            // Some pairs without a gradient, as a mask leaves them.
            let incoming = if hide { incoming.relu().unwrap() } else { incoming.as_tensor().clone() };
            let found = additive_scores(&vars[0], &vars[1], &vars[2]).unwrap();
            let expected = definition(&vars[0], &vars[1], &vars[2]);
            let backward =
                |y: &Tensor| (y * &incoming).unwrap().sum_all().unwrap().backward().unwrap();
            let (slopes, expected_slopes) = (backward(&found), backward(&expected));
            let mut pairs = vec![(found, expected)];
            for var in &vars {
                let of = |all: &candle_core::backprop::GradStore| all.get(var).unwrap().clone();
                pairs.push((of(&slopes), of(&expected_slopes)));
            }
            for (part, (found, expected)) in pairs.iter().enumerate() {
                prop_assert_eq!(found.dims(), expected.dims());
                // Each is a sum of at most this many numbers below 1.
                let terms = (size.max(rows).max(columns) * if part == 3 { batch * rows } else { 1 }) as f64;
                for (found, expected) in list(found).iter().zip(list(expected)) {
                    prop_assert!(
                        (found - expected).abs() <= tolerance * terms,
                        "{part}: {found} instead of {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let of = |shape: &[usize]| draw(shape, 0, DType::F32);
        let (queries, keys, score) = (of(&[2, 3, 4]), of(&[2, 5, 4]), of(&[4]));
        assert!(additive_scores(&queries, &keys, &score).is_ok());
        assert!(additive_scores(&queries, &of(&[1, 5, 4]), &score).is_err());
        assert!(additive_scores(&queries, &of(&[2, 5, 3]), &score).is_err());
        assert!(additive_scores(&queries, &keys, &of(&[3])).is_err());
        assert!(additive_scores(&queries, &keys, &draw(&[4], 0, DType::F64)).is_err());
    }
}
