//! The host code and the kernels, emulated on a processor, against attention in f64 there.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::{Gradients, Operands, Rows, Task, backward, forward};
use crate::attention::{AttentionArgs, Mask, Sizes, attention};
use crate::gpu::machine::emulated::{Emulated, Memory};
use crate::gpu::machine::{Limits, Machine, Place};

const H200: Limits = Limits { multiprocessors: 132, shared_bytes: 232_448, cluster: 16 };

/// Whether kernels can be emulated here: there was a C++ compiler.
fn emulated() -> bool {
    if !unroll_kernels_emulation::AVAILABLE {
        eprintln!("SKIPPED: no C++ compiler");
    }
    unroll_kernels_emulation::AVAILABLE
}

#[derive(Debug, Clone)]
struct Case {
    sizes: Sizes,
    mask: Mask,
    lengths: Option<Vec<usize>>,
    seed: usize,
}

/// Output and gradients of queries, keys and values, `(B, N, rows, features)`.
type Found = [Vec<f64>; 4];

fn draw(len: usize, seed: usize) -> Vec<f32> {
    let uniform = |index| ((index * 7919 + seed * 104_729) as f64 * 0.618_033_988_7).fract();
    (0..len).map(|index| (2.0 * uniform(index) - 1.0) as f32).collect()
}

impl Case {
    fn scale(&self) -> f64 {
        1.3 / (self.sizes.size as f64).sqrt()
    }

    /// Queries, keys, values and the output's gradient.
    fn tensors(&self) -> [(Vec<f32>, [usize; 4]); 4] {
        let Sizes { batch, heads, queries, keys, size, value_size } = self.sizes;
        let shapes = [(queries, size), (keys, size), (keys, value_size), (queries, value_size)];
        let mut seed = self.seed;
        shapes.map(|(rows, width)| {
            seed += 1;
            let len = batch * heads * rows * width;
            // Of a mean that is not zero: what sums lose goes one way.
            let values = draw(len, seed).iter().map(|x| 1.7 * x + 0.5).collect();
            (values, [batch, heads, rows, width])
        })
    }

    /// By the processor.
    fn expected(&self, dtype: DType) -> Found {
        let [queries, keys, values, gradient] = self.tensors().map(|(values, shape)| {
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap();
            Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
        });
        let out = attention(&AttentionArgs {
            queries: &queries,
            keys: &keys,
            values: &values,
            scale: self.scale(),
            mask: self.mask,
            lengths: self.lengths.as_deref(),
        });
        let out = out.unwrap();
        let loss = (&out * gradient.as_tensor()).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let vec = |x: &Tensor| {
            x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
        };
        let of = |var: &Var| vec(gradients.get(var).unwrap());
        [vec(&out), of(&queries), of(&keys), of(&values)]
    }

    fn found(&self, rounded: bool, order: u64) -> Found {
        let Sizes { batch, heads, queries, keys, size, value_size } = self.sizes;
        let machine = Emulated::new(H200, order);
        let lengths = self.lengths.as_ref().map(|lengths| {
            machine
                .upload_integers(&lengths.iter().map(|&length| length as i32).collect::<Vec<_>>())
        });
        let task = Task {
            sizes: self.sizes,
            mask: self.mask,
            lengths: lengths.as_ref().map_or(Place::NULL, |memory| machine.place(memory)),
            scale: self.scale(),
            rounded,
        };
        let [q, k, v, gradient] = self.tensors().map(|(values, _)| machine.upload(&values));
        let at = |memory: &Memory, rows, width| {
            Rows::contiguous(machine.place(memory), heads, rows, width)
        };
        let empty =
            |rows: usize, width: usize| machine.allocate(batch * heads * rows * width).unwrap();
        let out = empty(queries, value_size);
        let operands = Operands {
            queries: at(&q, queries, size),
            keys: at(&k, keys, size),
            values: at(&v, keys, value_size),
            out: at(&out, queries, value_size),
        };
        let log_sums = forward(&machine, &task, &operands).unwrap();
        let of = [empty(queries, size), empty(keys, size), empty(keys, value_size)];
        let gradients = Gradients {
            out: at(&gradient, queries, value_size),
            queries: at(&of[0], queries, size),
            keys: at(&of[1], keys, size),
            values: at(&of[2], keys, value_size),
        };
        backward(&machine, &task, &operands, &gradients, &log_sums).unwrap();
        [&out, &of[0], &of[1], &of[2]]
            .map(|memory| memory.values().iter().map(|&x| f64::from(x)).collect())
    }

    /// Holds what is found to so many times the error of f32 on a processor.
    fn check(&self, times: f64) {
        let exact = self.expected(DType::F64);
        let single = self.expected(DType::F32);
        for rounded in [false, true] {
            let found = self.found(rounded, self.seed as u64);
            for (index, name) in ["output", "queries", "keys", "values"].iter().enumerate() {
                let error = |found: &Found| deviation(&found[index], &exact[index]);
                // Not rounded: what f32 makes of it on a processor, with sums in another order. Rounded: 10 bits.
                let most = if rounded { 1e-2 } else { times * (error(&single) + 5e-7) };
                let found = error(&found);
                assert!(
                    found <= most,
                    "{self:?}, rounded {rounded}, {name}: {found:e}, not {most:e}"
                );
            }
        }
    }
}

/// The norm of the difference, over the norm of what is expected where that is not almost nothing.
fn deviation(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let size = norm(&mut expected.iter().copied());
    difference / size.max(0.1 * (expected.len() as f64).sqrt())
}

fn sizes(groups: (usize, usize), steps: (usize, usize), widths: (usize, usize)) -> Sizes {
    Sizes {
        batch: groups.0,
        heads: groups.1,
        queries: steps.0,
        keys: steps.1,
        size: widths.0,
        value_size: widths.1,
    }
}

#[test]
fn attention_equals_the_processor() {
    if !emulated() {
        return;
    }
    for (index, (sizes, mask, lengths)) in [
        (sizes((1, 1), (1, 1), (1, 1)), Mask::None, None),
        (sizes((2, 2), (5, 5), (16, 16)), Mask::Causal, Some(vec![5, 0])),
        (sizes((1, 2), (70, 70), (32, 32)), Mask::Causal, None),
        (sizes((1, 1), (130, 130), (20, 30)), Mask::Window(9), Some(vec![101])),
        (sizes((1, 1), (66, 131), (64, 64)), Mask::Causal, None),
        (sizes((1, 1), (131, 66), (10, 7)), Mask::Causal, None),
        (sizes((2, 1), (40, 67), (100, 128)), Mask::None, Some(vec![67, 33])),
        (sizes((1, 1), (64, 64), (128, 128)), Mask::Window(64), None),
        (sizes((1, 1), (3, 3000), (8, 8)), Mask::None, None),
        // Nothing to read: outputs and gradients of zero.
        (sizes((1, 1), (3, 2), (4, 4)), Mask::None, Some(vec![0])),
    ]
    .into_iter()
    .enumerate()
    {
        Case { sizes, mask, lengths, seed: index }.check(4.0);
    }
}

#[test]
fn heads_side_by_side_equal_heads_apart() {
    if !emulated() {
        return;
    }
    let (batch, heads, steps, width) = (2, 3, 21, 5);
    let case = Case {
        sizes: sizes((batch, heads), (steps, steps), (width, width)),
        mask: Mask::Causal,
        lengths: None,
        seed: 3,
    };
    let machine = Emulated::new(H200, 1);
    let tensors = case.tensors();
    // (B, N, T, d) to (B, T, parts N d).
    let packed = |parts: &[&[f32]]| {
        let mut all = vec![0.0; parts.len() * batch * heads * steps * width];
        for (part, values) in parts.iter().enumerate() {
            for (index, value) in values.iter().enumerate() {
                let (feature, step) = (index % width, index / width % steps);
                let (head, row) = (index / width / steps % heads, index / width / steps / heads);
                let at = ((row * steps + step) * parts.len() + part) * heads + head;
                all[at * width + feature] = *value;
            }
        }
        all
    };
    let [q, k, v, gradient] = &tensors;
    let input = machine.upload(&packed(&[&q.0, &k.0, &v.0]));
    let gradient = machine.upload(&packed(&[&gradient.0]));
    let out = machine.allocate(batch * steps * heads * width).unwrap();
    let gradients = machine.allocate(3 * batch * steps * heads * width).unwrap();
    let extent = (heads, steps, width);
    let of =
        |memory: &Memory, parts, part| Rows::packed(machine.place(memory), (parts, part), extent);
    let task = Task {
        sizes: case.sizes,
        mask: case.mask,
        lengths: Place::NULL,
        scale: case.scale(),
        rounded: false,
    };
    let operands = Operands {
        queries: of(&input, 3, 0),
        keys: of(&input, 3, 1),
        values: of(&input, 3, 2),
        out: of(&out, 1, 0),
    };
    let log_sums = forward(&machine, &task, &operands).unwrap();
    let to = Gradients {
        out: of(&gradient, 1, 0),
        queries: of(&gradients, 3, 0),
        keys: of(&gradients, 3, 1),
        values: of(&gradients, 3, 2),
    };
    backward(&machine, &task, &operands, &to, &log_sums).unwrap();
    let apart =
        case.found(false, 7).map(|values| values.iter().map(|&x| x as f32).collect::<Vec<_>>());
    assert_eq!(out.values(), packed(&[&apart[0]]));
    assert_eq!(gradients.values(), packed(&[&apart[1], &apart[2], &apart[3]]));
}

#[test]
fn the_order_of_threads_changes_no_bit() {
    if !emulated() {
        return;
    }
    let case = Case {
        sizes: sizes((1, 2), (67, 90), (24, 32)),
        mask: Mask::Causal,
        lengths: Some(vec![80]),
        seed: 5,
    };
    assert_eq!(case.found(false, 1), case.found(false, 2));
}

fn mask() -> impl Strategy<Value = Mask> {
    prop_oneof![Just(Mask::None), Just(Mask::Causal), (1usize..100).prop_map(Mask::Window)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn attention_of_any_form_equals_the_processor(
        groups in (1usize..3, 1usize..3),
        steps in (1usize..80, 1usize..140),
        widths in (1usize..70, 1usize..70),
        mask in mask(),
        padded in any::<bool>(),
        seed in 0usize..1000,
    ) {
        prop_assume!(emulated());
        let sizes = sizes(groups, steps, widths);
        let lengths = padded.then(|| (0..groups.0).map(|b| (seed * 31 + b * 17) % (steps.1 + 1)).collect());
        // Where f32 happens to be lucky, four times its error is little.
        Case { sizes, mask, lengths, seed }.check(20.0);
    }
}
