//! Fused attention against its definition.

use candle_core::{D, DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::{AttentionArgs, Mask, attention, operations, self_attention};

type Outcome = Result<(), TestCaseError>;
type Packed = fn(&Tensor, usize, f64, Mask, Option<&[usize]>) -> candle_core::Result<Tensor>;

/// Whether query `i` of `queries` sees key `j` of `keys`.
fn sees(mask: Mask, (queries, keys): (usize, usize), i: usize, j: usize) -> bool {
    let distance = (i + keys) as isize - queries as isize - j as isize;
    match mask {
        Mask::None => true,
        Mask::Causal => distance >= 0,
        Mask::Window(window) => (0..window as isize).contains(&distance),
    }
}

/// The definition, with the whole matrix of weights: the output and the weights.
fn reference(args: &AttentionArgs<'_>) -> (Tensor, Tensor) {
    let (batch, _, queries, _) = args.queries.dims4().unwrap();
    let keys = args.keys.dim(2).unwrap();
    let visible: Vec<f64> = (0..batch * queries * keys)
        .map(|index| {
            let (b, i, j) = (index / (queries * keys), index / keys % queries, index % keys);
            let real = args.lengths.is_none_or(|lengths| j < lengths[b]);
            f64::from(u8::from(real && sees(args.mask, (queries, keys), i, j)))
        })
        .collect();
    let visible = Tensor::from_vec(visible, (batch, 1, queries, keys), &Device::Cpu).unwrap();
    let visible = visible.to_dtype(args.queries.dtype()).unwrap();
    let columns = args.keys.transpose(2, 3).unwrap().contiguous().unwrap();
    let queries = args.queries.contiguous().unwrap();
    let scores = (queries.matmul(&columns).unwrap() * args.scale).unwrap();
    let hidden = visible.affine(1e30, -1e30).unwrap();
    let scores = scores.broadcast_mul(&visible).unwrap().broadcast_add(&hidden).unwrap();
    let peak = scores.max_keepdim(D::Minus1).unwrap().detach();
    let weights = scores.broadcast_sub(&peak).unwrap().exp().unwrap();
    let weights = weights.broadcast_mul(&visible).unwrap();
    let total = weights.sum_keepdim(D::Minus1).unwrap();
    let empty = total.eq(0.0).unwrap().to_dtype(total.dtype()).unwrap();
    let weights = weights.broadcast_div(&(total + empty).unwrap()).unwrap();
    (weights.matmul(&args.values.contiguous().unwrap()).unwrap(), weights)
}

fn draw(shape: (usize, usize, usize, usize), seed: usize, dtype: DType, size: f64) -> Var {
    let (a, b, c, d) = shape;
    let values = (0..a * b * c * d)
        .map(|index| ((index * 7919 + seed * 104_729) as f64 * 0.618_033_988_7).fract())
        .map(|uniform| size * (2.0 * uniform - 1.0));
    let values = Tensor::from_vec(values.collect::<Vec<f64>>(), shape, &Device::Cpu).unwrap();
    Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
}

fn to_vec(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(x: &Tensor) -> f64 {
    to_vec(x).iter().fold(0.0, |size, x| size.max(x.abs()))
}

/// The largest sums of magnitudes behind the gradients of queries and keys. Rounding errors grow
/// with these and not with the gradients: a lone key has a gradient of zero, which is left over
/// when two such sums cancel.
fn magnitudes(
    args: &AttentionArgs<'_>,
    out: &Tensor,
    weights: &Tensor,
    gradient: &Tensor,
) -> [f64; 2] {
    let gradient = gradient.abs().unwrap();
    let columns = args.values.abs().unwrap().transpose(2, 3).unwrap().contiguous().unwrap();
    let means = (&gradient * out.abs().unwrap()).unwrap().sum_keepdim(D::Minus1).unwrap();
    let sums = gradient.matmul(&columns).unwrap().broadcast_add(&means).unwrap();
    let scores = ((weights * sums).unwrap() * args.scale).unwrap();
    let rows = scores.transpose(2, 3).unwrap().contiguous().unwrap();
    [
        largest(&scores.matmul(&args.keys.abs().unwrap().contiguous().unwrap()).unwrap()),
        largest(&rows.matmul(&args.queries.abs().unwrap().contiguous().unwrap()).unwrap()),
    ]
}

fn close(found: &Tensor, expected: &Tensor, error: f64, what: &str) -> Outcome {
    close_at(found, expected, error * largest(expected).max(1.0), what)
}

fn close_at(found: &Tensor, expected: &Tensor, bound: f64, what: &str) -> Outcome {
    prop_assert_eq!(found.dims(), expected.dims());
    let expected = to_vec(expected);
    for (index, (found, expected)) in to_vec(found).iter().zip(&expected).enumerate() {
        let error = (found - expected).abs();
        prop_assert!(error <= bound, "{what}[{index}]: {found} instead of {expected}");
    }
    Ok(())
}

/// A case: sizes, mask, lengths, scale of the scores.
#[derive(Debug, Clone)]
struct Case {
    /// B, N.
    groups: (usize, usize),
    /// T, S.
    steps: (usize, usize),
    /// d, V.
    sizes: (usize, usize),
    mask: Mask,
    lengths: Option<Vec<usize>>,
    seed: usize,
}

impl Case {
    fn check(&self, dtype: DType, tolerance: f64) -> Outcome {
        let (batch, heads) = self.groups;
        let (queries, keys) = self.steps;
        let (size, value_size) = self.sizes;
        let vars = [
            draw((batch, heads, queries, size), self.seed, dtype, 2.0),
            draw((batch, heads, keys, size), self.seed + 1, dtype, 2.0),
            draw((batch, heads, keys, value_size), self.seed + 2, dtype, 1.0),
        ];
        let weights = draw((batch, heads, queries, value_size), self.seed + 3, dtype, 1.0);
        let args = AttentionArgs {
            queries: &vars[0],
            keys: &vars[1],
            values: &vars[2],
            scale: 1.0 / (size as f64).sqrt(),
            mask: self.mask,
            lengths: self.lengths.as_deref(),
        };
        let (expected, attended) = reference(&args);
        let [of_queries, of_keys] = magnitudes(&args, &expected, &attended, &weights);
        let gradients = |out: &Tensor| {
            (out * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap()
        };
        let by_definition = gradients(&expected);
        for (way, found) in
            [("fused", attention(&args)), ("candle's", operations::attention(&args))]
        {
            let found = found.unwrap();
            close(&found, &expected, tolerance, &format!("{way} output"))?;
            let found = gradients(&found);
            for (var, (name, size)) in
                vars.iter().zip([("queries", of_queries), ("keys", of_keys), ("values", 0.0)])
            {
                let expected = by_definition.get(var).unwrap();
                let bound = tolerance * size.max(largest(expected)).max(1.0);
                close_at(found.get(var).unwrap(), expected, bound, &format!("{way} {name}"))?;
            }
        }
        Ok(())
    }
}

/// Lengths around the borders of vectors and blocks.
fn steps() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(1),
        2usize..20,
        Just(37),
        60usize..70,
        Just(97),
        126usize..131,
        Just(255),
        Just(257),
        Just(300)
    ]
}

fn mask() -> impl Strategy<Value = Mask> {
    prop_oneof![
        Just(Mask::None),
        Just(Mask::Causal),
        (1usize..100).prop_map(Mask::Window),
        Just(Mask::Window(1))
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (prop_oneof![1usize..9, Just(16), Just(33)], prop_oneof![1usize..9, Just(64)]);
    (1usize..4, 1usize..4, steps(), steps(), any::<bool>(), sizes, mask()).prop_flat_map(
        |(batch, heads, queries, keys, square, sizes, mask)| {
            let keys = if square { queries } else { keys };
            (proptest::option::of(proptest::collection::vec(0..=keys, batch)), 0usize..1000)
                .prop_map(move |(lengths, seed)| Case {
                    groups: (batch, heads),
                    steps: (queries, keys),
                    sizes,
                    mask,
                    lengths,
                    seed,
                })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn fused_attention_is_the_definition_in_f64(case in case()) {
        case.check(DType::F64, 1e-12)?;
    }

    #[test]
    fn fused_attention_is_the_definition_in_f32(case in case()) {
        case.check(DType::F32, 1e-5)?;
    }

    #[test]
    fn packed_attention_is_the_same(
        (batch, heads, size) in (1usize..4, 1usize..4, 1usize..20),
        steps in steps(),
        mask in mask(),
        seed in 0usize..1000,
    ) {
        let hidden = heads * size;
        let packed = draw((batch, steps, 3, hidden), seed, DType::F64, 2.0);
        let part = |part: usize| {
            let part = packed.narrow(2, part, 1).unwrap();
            let part = part.reshape((batch, steps, heads, size)).unwrap();
            // Rows of a head are then not neighbours.
            part.transpose(1, 2).unwrap()
        };
        let args = AttentionArgs {
            queries: &part(0), keys: &part(1), values: &part(2), scale: 0.3, mask, lengths: None,
        };
        let expected = attention(&args).unwrap();
        let expected = expected.transpose(1, 2).unwrap().reshape((batch, steps, hidden)).unwrap();
        let flat = packed.reshape((batch, steps, 3 * hidden)).unwrap();
        let weights = draw((batch, steps, 1, hidden), seed + 1, DType::F64, 1.0);
        let weights = weights.reshape((batch, steps, hidden)).unwrap();
        let gradient = |out: &Tensor| {
            let gradients = (out * &weights).unwrap().sum_all().unwrap().backward().unwrap();
            gradients.get(&packed).unwrap().clone()
        };
        for (attend, tolerance) in
            [(self_attention as Packed, 1e-13), (operations::self_attention, 1e-12)]
        {
            let found = attend(&flat, heads, 0.3, mask, None).unwrap();
            close(&found, &expected, tolerance, "output")?;
            close(&gradient(&found), &gradient(&expected), tolerance, "packed")?;
        }
    }
}

#[test]
fn gradients_match_finite_differences() {
    let shape = (2, 2, 5, 3);
    let vars = [0, 1, 2].map(|seed| draw(shape, seed, DType::F64, 1.0));
    let weights = draw(shape, 9, DType::F64, 1.0);
    for mask in [Mask::None, Mask::Causal, Mask::Window(2)] {
        let loss = |tensors: [&Tensor; 3]| {
            let [queries, keys, values] = tensors;
            let lengths = Some(&[5, 3][..]);
            let args = AttentionArgs { queries, keys, values, scale: 0.7, mask, lengths };
            (attention(&args).unwrap() * weights.as_tensor()).unwrap().sum_all().unwrap()
        };
        let gradients = loss([&vars[0], &vars[1], &vars[2]]).backward().unwrap();
        for (part, var) in vars.iter().enumerate() {
            let (values, gradient) = (to_vec(var), to_vec(gradients.get(var).unwrap()));
            for (index, &expected) in gradient.iter().enumerate() {
                let at = |step: f64| {
                    let mut moved = values.clone();
                    moved[index] += step;
                    let moved = Tensor::from_vec(moved, shape, &Device::Cpu).unwrap();
                    let mut tensors = [&*vars[0], &*vars[1], &*vars[2]];
                    tensors[part] = &moved;
                    loss(tensors).to_scalar::<f64>().unwrap()
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - expected).abs() < 1e-9, "{mask:?} {part}[{index}]");
            }
        }
    }
}

#[test]
fn queries_that_see_nothing_give_zeros() {
    let shape = (2, 1, 70, 4);
    let vars = [0, 1, 2].map(|seed| draw(shape, seed, DType::F32, 1.0));
    let keys = vars[1].narrow(2, 0, 66).unwrap();
    let values = vars[2].narrow(2, 0, 66).unwrap();
    let args = AttentionArgs {
        queries: &vars[0],
        keys: &keys,
        values: &values,
        scale: 0.5,
        // The first four queries stand before the first key; the second sequence has no keys.
        mask: Mask::Causal,
        lengths: Some(&[66, 0]),
    };
    let out = attention(&args).unwrap();
    let flat = to_vec(&out);
    assert!(flat[..4 * 4].iter().chain(&flat[70 * 4..]).all(|&x| x == 0.0));
    assert!(flat[4 * 4..70 * 4].iter().all(|&x| x != 0.0));
    let gradients = out.sum_all().unwrap().backward().unwrap();
    let gradient = to_vec(gradients.get(&vars[0]).unwrap());
    assert!(gradient[..5 * 4].iter().chain(&gradient[70 * 4..]).all(|&x| x == 0.0));
    assert!(
        vars.iter().all(|var| to_vec(gradients.get(var).unwrap()).iter().all(|x| x.is_finite()))
    );
}

#[test]
fn large_scores_do_not_overflow() {
    for dtype in [DType::F32, DType::F64] {
        let vars = [0, 1, 2].map(|seed| draw((1, 2, 300, 8), seed, dtype, 1.0));
        let args = AttentionArgs {
            queries: &vars[0],
            keys: &vars[1],
            values: &vars[2],
            scale: 1e4,
            mask: Mask::Causal,
            lengths: None,
        };
        let out = attention(&args).unwrap();
        // A mean of values stays within them, and here takes nearly one of them.
        assert!(to_vec(&out).iter().all(|x| x.abs() <= 1.0 + 1e-6));
        let gradients = out.sum_all().unwrap().backward().unwrap();
        for var in &vars {
            assert!(to_vec(gradients.get(var).unwrap()).iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn nan_is_not_hidden() {
    let vars = [0, 1, 2].map(|seed| draw((1, 1, 3, 2), seed, DType::F32, 1.0));
    let poisoned = (vars[0].as_tensor() * f64::NAN).unwrap();
    let args = AttentionArgs {
        queries: &poisoned,
        keys: &vars[1],
        values: &vars[2],
        scale: 1.0,
        mask: Mask::Causal,
        lengths: None,
    };
    assert!(to_vec(&attention(&args).unwrap()).iter().all(|x| x.is_nan()));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let vars = [0, 1, 2].map(|seed| draw((1, 2, 300, 8), seed, DType::F32, 1.0));
            let args = AttentionArgs {
                queries: &vars[0],
                keys: &vars[1],
                values: &vars[2],
                scale: 1.0,
                mask: Mask::Causal,
                lengths: None,
            };
            let out = attention(&args).unwrap();
            let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let of = |var: &Var| to_vec(gradients.get(var).unwrap());
            [to_vec(&out), of(&vars[0]), of(&vars[1]), of(&vars[2])]
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_arguments_are_errors() {
    let x = draw((1, 2, 3, 4), 0, DType::F32, 1.0);
    let other = draw((1, 2, 3, 5), 0, DType::F32, 1.0);
    let good = AttentionArgs {
        queries: &x,
        keys: &x,
        values: &x,
        scale: 1.0,
        mask: Mask::None,
        lengths: None,
    };
    assert!(attention(&good).is_ok());
    assert!(attention(&AttentionArgs { keys: &other, ..good }).is_err());
    assert!(attention(&AttentionArgs { lengths: Some(&[4]), ..good }).is_err());
    assert!(attention(&AttentionArgs { lengths: Some(&[3, 3]), ..good }).is_err());
    assert!(attention(&AttentionArgs { mask: Mask::Window(0), ..good }).is_err());
    let double = x.to_dtype(DType::F64).unwrap();
    assert!(attention(&AttentionArgs { values: &double, ..good }).is_err());
    let packed = x.reshape((1, 4, 6)).unwrap();
    assert!(self_attention(&packed, 2, 1.0, Mask::None, None).is_ok());
    assert!(self_attention(&packed, 4, 1.0, Mask::None, None).is_err());
}
