//! The packed path against the generic one in f64, on every instruction set.

use proptest::prelude::*;

use super::*;
use crate::gru::Gru;
use crate::lstm::Lstm;
use crate::recurrent::Nonlinearity;
use crate::recurrent::{GruReset, GruUpdate};
use crate::rnn::Rnn;
use crate::sequence::{self, Gradients};

const KINDS: [CellKind; 8] = [
    CellKind::Rnn(Nonlinearity::Tanh),
    CellKind::Rnn(Nonlinearity::Relu),
    CellKind::Rnn(Nonlinearity::Identity),
    CellKind::Gru(GruReset::After, GruUpdate::KeepOld),
    CellKind::Gru(GruReset::After, GruUpdate::TakeNew),
    CellKind::Gru(GruReset::Before, GruUpdate::KeepOld),
    CellKind::Gru(GruReset::Before, GruUpdate::TakeNew),
    CellKind::Lstm,
];

/// A layer's arguments.
#[derive(Debug, Clone)]
struct Case {
    kind: CellKind,
    dims: Dims,
    order: TimeOrder,
    bias: bool,
    probe_hidden: bool,
    probe_cell: bool,
    seed: u64,
}

impl Case {
    fn plain(kind: CellKind, [batch, steps, inputs, hidden]: [usize; 4]) -> Self {
        let order = TimeOrder { lengths: vec![steps; batch], reverse: false };
        let dims = Dims { batch, steps, inputs, hidden };
        Self { kind, dims, order, bias: true, probe_hidden: false, probe_cell: false, seed: 7 }
    }
}

/// Numbers in -1..1 that are the same in both precisions.
fn noise(seed: u64, stream: u64, scale: f32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (stream << 32 | 0x1234_5678);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

/// All of a case's values: weights, biases, input, states, probes, gradients from above.
fn values(case: &Case) -> [Vec<f32>; 12] {
    let Dims { batch, steps, inputs, hidden } = case.dims;
    let width = case.kind.gates() * hidden;
    let (state, sequence) = (batch * hidden, batch * steps * hidden);
    let lstm = usize::from(case.kind == CellKind::Lstm);
    let scale = 1.0 / (hidden as f32).sqrt();
    let bias = if case.bias { width } else { 0 };
    let probe_hidden = if case.probe_hidden { sequence } else { 0 };
    let probe_cell = if case.probe_cell { sequence * lstm } else { 0 };
    let sizes = [
        (width * inputs, scale),
        (width * hidden, scale),
        (bias, scale),
        (bias, scale),
        (batch * steps * inputs, 1.0),
        (state, 1.0),
        (state * lstm, 1.0),
        (probe_hidden, 0.1),
        (probe_cell, 0.1),
        (sequence, 1.0),
        (state, 1.0),
        (state * lstm, 1.0),
    ];
    let mut stream = 0;
    sizes.map(|(len, scale)| {
        stream += 1;
        noise(case.seed, stream, scale, len)
    })
}

fn weights<F>(v: &[Vec<F>; 12]) -> Weights<'_, F> {
    Weights { weight_ih: &v[0], weight_hh: &v[1], bias_ih: &v[2], bias_hh: &v[3] }
}

fn inputs<F>(v: &[Vec<F>; 12]) -> Inputs<'_, F> {
    Inputs { x: &v[4], hidden: &v[5], cell: &v[6], probe_hidden: &v[7], probe_cell: &v[8] }
}

fn above<F>(v: &[Vec<F>; 12]) -> OutputGradients<'_, F> {
    OutputGradients { output: &v[9], hidden: &v[10], cell: &v[11] }
}

/// Output, last states and all gradients.
type Results<F> = [Vec<F>; 12];

fn list<F>(output: Vec<F>, hidden: Vec<F>, cell: Vec<F>, g: Gradients<F>) -> Results<F> {
    [
        output,
        hidden,
        cell,
        g.x,
        g.weight_ih,
        g.weight_hh,
        g.bias_ih,
        g.bias_hh,
        g.hidden,
        g.cell,
        g.probe_hidden,
        g.probe_cell,
    ]
}

fn generic(case: &Case) -> Results<f64> {
    let v = values(case).map(|v| v.into_iter().map(f64::from).collect());
    let (w, i, from) = (weights(&v), inputs(&v), above(&v));
    let (dims, order) = (&case.dims, &case.order);
    let probes = (case.probe_hidden, case.probe_cell && case.kind == CellKind::Lstm);
    macro_rules! both {
        ($cell:expr) => {{
            let (out, saved) = sequence::forward(&$cell, dims, order, &w, &i);
            (out, sequence::backward(&$cell, dims, order, &w, saved, &from, true, probes))
        }};
    }
    let (mut output, gradients) = match case.kind {
        CellKind::Rnn(phi) => both!(Rnn(phi)),
        CellKind::Gru(reset, update) => both!(Gru { reset, update }),
        CellKind::Lstm => both!(Lstm),
    };
    let state = dims.batch * dims.hidden;
    let mut hidden = output.split_off(state * dims.steps);
    let cell = hidden.split_off(state);
    list(output, hidden, cell, gradients)
}

fn packed(case: &Case, isa: Isa) -> Results<f32> {
    let v = values(case);
    let call = Call {
        isa,
        kind: case.kind,
        dims: case.dims,
        order: &case.order,
        weights: weights(&v),
        inputs: inputs(&v),
    };
    let without = forward(&call, false);
    let result = forward(&call, true);
    assert_eq!(without.output, result.output, "inference and training differ");
    assert_eq!(without.hidden, result.hidden);
    assert_eq!(without.cell, result.cell);
    let wanted = Wanted {
        x: true,
        weight_ih: true,
        weight_hh: true,
        probe_hidden: case.probe_hidden,
        probe_cell: case.probe_cell && case.kind == CellKind::Lstm,
    };
    let saved = result.saved.expect("asked for");
    let gradients = backward(&call, &result.output, saved, &above(&v), wanted);
    list(result.output, result.hidden, result.cell, gradients)
}

const NAMES: [&str; 12] = [
    "output",
    "hidden",
    "cell",
    "d input",
    "d weight_ih",
    "d weight_hh",
    "d bias_ih",
    "d bias_hh",
    "d h0",
    "d c0",
    "d probe_hidden",
    "d probe_cell",
];

/// Each result within `1e-5` of its largest element.
fn compare(case: &Case, tolerance: f64) {
    let expected = generic(case);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let found = packed(case, isa);
        for ((name, found), expected) in NAMES.iter().zip(&found).zip(&expected) {
            assert_eq!(found.len(), expected.len(), "{name}: {case:?}");
            let scale = expected.iter().fold(1.0, |scale: f64, x| scale.max(x.abs()));
            for (index, (&a, &b)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(a) - b).abs();
                assert!(
                    error <= tolerance * scale,
                    "{name}[{index}] on {isa:?}: {a} and {b}, {case:?}"
                );
            }
        }
    }
}

fn sizes() -> impl Strategy<Value = Dims> {
    let batch = prop_oneof![1usize..6, 6usize..20, Just(33usize)];
    let hidden = prop_oneof![1usize..20, Just(31), Just(32), Just(33), 34usize..70, Just(97)];
    (batch, 1usize..8, 1usize..20, hidden).prop_map(|(batch, steps, inputs, hidden)| Dims {
        batch,
        steps,
        inputs,
        hidden,
    })
}

fn cases() -> impl Strategy<Value = Case> {
    sizes().prop_flat_map(|dims| {
        let lengths = prop::collection::vec(0..=dims.steps, dims.batch);
        let all = Just(vec![dims.steps; dims.batch]);
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        (0..KINDS.len(), prop_oneof![lengths, all], flags, any::<u64>()).prop_map(
            move |(kind, lengths, (reverse, bias, probe_hidden, probe_cell), seed)| Case {
                kind: KINDS[kind],
                dims,
                order: TimeOrder { lengths, reverse },
                bias,
                probe_hidden,
                probe_cell,
                seed: seed | 1,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn equals_the_generic_path(case in cases()) {
        compare(&case, 1e-5);
    }
}

/// Shapes that are shared out among threads, by sequences and by units, and depths beyond a block.
#[test]
fn equals_the_generic_path_on_large_shapes() {
    for kind in KINDS {
        if kind == CellKind::Rnn(Nonlinearity::Identity) {
            continue; // Grows without bound.
        }
        for shape in [[1, 40, 20, 256], [3, 9, 300, 260], [34, 20, 17, 130], [70, 5, 3, 97]] {
            compare(&Case::plain(kind, shape), 2e-5);
        }
    }
}

/// The same bits with any number of threads.
#[test]
fn threads_do_not_change_results() {
    for kind in KINDS {
        for shape in [[1, 40, 20, 256], [34, 20, 17, 130], [5, 12, 9, 200]] {
            let case = Case::plain(kind, shape);
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.expect("a pool").install(|| packed(&case, Isa::current()))
            };
            let bits = |results: Results<f32>| {
                results.map(|v| v.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let one = bits(with(1));
            for threads in [2, 3] {
                let more = bits(with(threads));
                for (name, (one, more)) in NAMES.iter().zip(one.iter().zip(&more)) {
                    assert!(one == more, "{name} with {threads} threads, {kind:?} {shape:?}");
                }
            }
        }
    }
}
