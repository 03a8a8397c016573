//! The host code and the kernels, emulated on a processor, against the operations that run there.

use candle_core::{DType, Device, Result, Tensor, Var};
use std::collections::BTreeSet;

use proptest::prelude::*;
use unroll_kernels_emulation as emulation;

use super::choice::{Policy, backward_by, findings, forward_by, ways};
use super::host::{self, Arguments, Forward, Gradients, Incoming, Kept, Lengths, Shape, Wanted};
use super::launch::Cell;
use super::plan::{Exchange, Pass, Plan, Request, Way};
use crate::gpu::machine::emulated::{Emulated, Memory};
use crate::gpu::machine::{Limits, Machine, Place};
use crate::recurrent::{CellKind, GruReset, GruUpdate, Layer, Nonlinearity, layer};
use crate::testing::{draw, list};

/// As an H200 says of itself.
const LARGE: Limits = Limits { multiprocessors: 132, shared_bytes: 232_448, cluster: 16 };
/// A device on which small layers already need teams and several launches.
const SMALL: Limits = Limits { multiprocessors: 6, shared_bytes: 60_000, cluster: 4 };

const KINDS: [CellKind; 6] = [
    CellKind::Rnn(Nonlinearity::Tanh),
    CellKind::Rnn(Nonlinearity::Relu),
    CellKind::Rnn(Nonlinearity::Identity),
    CellKind::Gru(GruReset::After, GruUpdate::KeepOld),
    CellKind::Gru(GruReset::After, GruUpdate::TakeNew),
    CellKind::Lstm,
];

/// A backward pass.
type Backward<'a> =
    dyn Fn(&Arguments, Kept<Memory>, &Incoming, Wanted) -> Result<Gradients<Memory>> + 'a;

/// A layer with everything that it reads and that arrives at its outputs.
#[derive(Debug, Clone)]
struct Case {
    kind: CellKind,
    shape: Shape,
    lengths: Option<Vec<usize>>,
    reverse: bool,
    biases: bool,
    probes: bool,
    /// Whether gradients arrive at the last states.
    last: bool,
}

impl Case {
    fn new(kind: CellKind, batch: usize, steps: usize, inputs: usize, hidden: usize) -> Self {
        let shape = Shape { batch, steps, inputs, hidden };
        let lengths = None;
        Self { kind, shape, lengths, reverse: false, biases: true, probes: false, last: true }
    }

    fn cell(&self) -> Cell {
        Cell::of(self.kind).unwrap()
    }

    fn has_cell(&self) -> bool {
        self.kind == CellKind::Lstm
    }

    /// Input, W_ih, W_hh, b_ih, b_hh, h0, c0 and the probes.
    fn tensors(&self) -> [Option<Var>; 9] {
        let Shape { batch, steps, inputs, hidden } = self.shape;
        let width = self.cell().gates * hidden;
        let draw = |wanted: bool, shape: &[usize], seed, scale: f64| {
            let var = wanted.then(|| draw(shape, seed, DType::F64))?;
            // Exactly what f32 holds, so that both sides begin with the same numbers.
            let scaled = (var.as_tensor() * scale).unwrap().to_dtype(DType::F32).unwrap();
            Some(Var::from_tensor(&scaled.to_dtype(DType::F64).unwrap()).unwrap())
        };
        let near = 1.0 / (hidden as f64).sqrt();
        let probed = self.probes;
        [
            draw(true, &[batch, steps, inputs], 1, 1.0),
            draw(true, &[width, inputs], 2, near),
            draw(true, &[width, hidden], 3, near),
            draw(self.biases, &[width], 4, near),
            draw(self.biases, &[width], 5, near),
            draw(true, &[batch, hidden], 6, 1.0),
            draw(self.has_cell(), &[batch, hidden], 7, 1.0),
            draw(probed, &[batch, steps, hidden], 8, 0.1),
            draw(probed && self.has_cell(), &[batch, steps, hidden], 9, 0.1),
        ]
    }

    /// Gradients of the output and the last states.
    fn arriving(&self) -> [Option<Tensor>; 3] {
        let Shape { batch, steps, hidden, .. } = self.shape;
        let draw = |wanted: bool, shape: &[usize], seed| {
            wanted.then(|| draw(shape, seed, DType::F64).as_tensor().clone())
        };
        [
            draw(true, &[batch, steps, hidden], 10),
            draw(self.last, &[batch, hidden], 11),
            draw(self.last && self.has_cell(), &[batch, hidden], 12),
        ]
    }

    /// Output, last states and all gradients, by name, from the operation on the processor.
    fn expected(&self) -> Vec<(&'static str, Vec<f64>)> {
        let vars = self.tensors();
        let tensor = |index: usize| vars[index].as_ref().map(Var::as_tensor);
        let out = layer(&Layer {
            kind: self.kind,
            input: tensor(0).unwrap(),
            weight_ih: tensor(1).unwrap(),
            weight_hh: tensor(2).unwrap(),
            bias_ih: tensor(3),
            bias_hh: tensor(4),
            hidden: tensor(5).unwrap(),
            cell: tensor(6),
            probe_hidden: tensor(7),
            probe_cell: tensor(8),
            lengths: self.lengths.as_deref(),
            reverse: self.reverse,
        })
        .unwrap();
        let results = [Some(out.output), Some(out.hidden), out.cell];
        let mut loss = Tensor::new(0f64, &Device::Cpu).unwrap();
        for (result, arriving) in results.iter().zip(self.arriving()) {
            if let (Some(result), Some(arriving)) = (result, arriving) {
                loss = (loss + (result * arriving).unwrap().sum_all().unwrap()).unwrap();
            }
        }
        let grads = loss.backward().unwrap();
        let names = ["output", "last hidden", "last cell"].into_iter().zip(results);
        let mut all: Vec<_> =
            names.filter_map(|(name, result)| Some((name, list(&result?)))).collect();
        for (name, var) in NAMES.into_iter().zip(&vars) {
            if let Some(var) = var {
                all.push((name, list(grads.get(var).unwrap())));
            }
        }
        all
    }

    /// The same from the kernels.
    fn found(&self, ways: [Way; 2], limits: Limits, order: u64) -> Vec<(&'static str, Vec<f32>)> {
        let machine = Emulated::new(limits, order);
        self.run(
            &machine,
            &|args| host::forward(&machine, args, ways[0]),
            &|args, kept, from, wanted| host::backward(&machine, args, kept, from, wanted, ways[1]),
        )
    }

    /// The same in the ways that a policy takes.
    fn found_by(&self, policy: Policy, machine: &Emulated) -> Vec<(&'static str, Vec<f32>)> {
        self.run(machine, &|args| forward_by(policy, machine, args), &|args, kept, from, wanted| {
            backward_by(policy, machine, args, kept, from, wanted)
        })
    }

    fn arguments_of_nothing(&self, cell: Cell) -> Arguments {
        let null = Place::NULL;
        Arguments {
            cell,
            shape: self.shape,
            reverse: self.reverse,
            lengths: Lengths::All,
            input: null,
            weight_ih: null,
            weight_hh: null,
            bias_ih: null,
            bias_hh: null,
            hidden: null,
            cell_state: null,
            probe_hidden: null,
            probe_cell: null,
        }
    }

    fn run(
        &self,
        machine: &Emulated,
        forward: &dyn Fn(&Arguments) -> Result<Forward<Memory>>,
        backward: &Backward<'_>,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let upload = |tensor: &Tensor| {
            let values: Vec<f32> = list(tensor).into_iter().map(|value| value as f32).collect();
            machine.upload(&values)
        };
        let vars = self.tensors();
        let parts: Vec<Option<Memory>> =
            vars.iter().map(|var| var.as_ref().map(|var| upload(var.as_tensor()))).collect();
        let place = |memory: &Option<Memory>| {
            memory.as_ref().map_or(Place::NULL, |memory| machine.place(memory))
        };
        let integers: Option<Memory> = self.lengths.as_ref().map(|lengths| {
            let lengths: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
            machine.upload_integers(&lengths)
        });
        let args = Arguments {
            lengths: integers.as_ref().map_or(Lengths::All, |l| Lengths::At(machine.place(l))),
            input: place(&parts[0]),
            weight_ih: place(&parts[1]),
            weight_hh: place(&parts[2]),
            bias_ih: place(&parts[3]),
            bias_hh: place(&parts[4]),
            hidden: place(&parts[5]),
            cell_state: place(&parts[6]),
            probe_hidden: place(&parts[7]),
            probe_cell: place(&parts[8]),
            ..self.arguments_of_nothing(self.cell())
        };
        let out = forward(&args).unwrap();
        let values = |memory: &Memory| memory.values().to_vec();
        let mut all = vec![("output", values(&out.output)), ("last hidden", values(&out.hidden))];
        all.extend(out.cell.as_ref().map(|cell| ("last cell", values(cell))));
        let arriving = self.arriving().map(|tensor| tensor.as_ref().map(upload));
        let from = Incoming {
            output: machine.place(&out.output),
            grad_output: place(&arriving[0]),
            grad_hidden: place(&arriving[1]),
            grad_cell: place(&arriving[2]),
        };
        let wanted = Wanted {
            input: true,
            weight_ih: true,
            weight_hh: true,
            biases: self.biases,
            probe_hidden: self.probes,
            probe_cell: self.probes,
        };
        let grads = backward(&args, out.kept, &from, wanted).unwrap();
        let grads = [
            grads.input,
            grads.weight_ih,
            grads.weight_hh,
            grads.bias_ih,
            grads.bias_hh,
            Some(grads.hidden),
            grads.cell,
            grads.probe_hidden,
            grads.probe_cell,
        ];
        let grads = NAMES.into_iter().zip(&grads);
        all.extend(grads.filter_map(|(name, grad)| Some((name, values(grad.as_ref()?)))));
        all
    }

    /// Asserts that the kernels find what the operation on the processor does, whatever the order of threads.
    fn check(&self, ways: [Way; 2], limits: Limits) {
        let expected = self.expected();
        let found = self.found(ways, limits, 1);
        assert_eq!(expected.len(), found.len());
        for ((name, expected), (same, found)) in expected.iter().zip(&found) {
            assert_eq!((name, expected.len()), (same, found.len()));
            let largest = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
            for (index, (expected, &found)) in expected.iter().zip(found).enumerate() {
                let off = (expected - f64::from(found)).abs() / largest;
                // Sums of up to some hundred products in f32; NaN is no number below.
                assert!(off < 2e-5, "{name}[{index}]: {found} for {expected}, {self:?} {ways:?}");
            }
        }
        let other = self.found(ways, limits, 987_654_321);
        let bits = |all: &[(&str, Vec<f32>)]| -> Vec<u32> {
            all.iter().flat_map(|(_, values)| values.iter().map(|value| value.to_bits())).collect()
        };
        assert_eq!(
            bits(&found),
            bits(&other),
            "depends on the order of threads: {self:?} {ways:?}"
        );
    }

    fn request(&self, pass: Pass, exchange: Exchange, limits: Limits) -> Request {
        let Shape { batch, hidden, .. } = self.shape;
        Request { cell: self.cell(), pass, exchange, batch, hidden, limits }
    }

    /// Both passes persistent, with teams of `ranks` blocks and `rows` sequences.
    fn persistent(
        &self,
        exchange: Exchange,
        ranks: usize,
        rows: usize,
        threads: usize,
    ) -> [Way; 2] {
        [Pass::Forward, Pass::Backward].map(|pass| {
            let request = self.request(pass, exchange, LARGE);
            Way::Persistent(Plan::with(&request, ranks, rows, threads).expect("a plan that fits"))
        })
    }
}

const NAMES: [&str; 9] = [
    "input",
    "weight_ih",
    "weight_hh",
    "bias_ih",
    "bias_hh",
    "h0",
    "c0",
    "hidden probe",
    "cell probe",
];

/// Says so where there is nothing to test with.
fn emulated() -> bool {
    if !emulation::AVAILABLE {
        eprintln!("skipped: there was no C++ compiler to build the kernels with");
    }
    emulation::AVAILABLE
}

#[test]
fn steps_equal_the_processor() {
    if !emulated() {
        return;
    }
    for kind in KINDS {
        Case::new(kind, 3, 5, 2, 7).check([Way::Steps; 2], LARGE);
    }
}

#[test]
fn teams_equal_the_processor() {
    if !emulated() {
        return;
    }
    for kind in KINDS {
        for exchange in [Exchange::Cluster, Exchange::Grid] {
            // Two and a half units a block, and a team whose sequences do not fill their tile.
            let case = Case::new(kind, 6, 4, 3, 11);
            case.check(case.persistent(exchange, 4, 4, 64), LARGE);
        }
    }
}

#[test]
fn every_tile_and_team_size_is_right() {
    if !emulated() {
        return;
    }
    for exchange in [Exchange::Cluster, Exchange::Grid] {
        for (ranks, rows, hidden, threads) in [
            (1, 1, 5, 32),
            (2, 8, 40, 96),
            (3, 13, 9, 64),
            (8, 16, 33, 32),
            (2, 33, 6, 64),
            (4, 7, 70, 256),
        ] {
            let case = Case::new(CellKind::Lstm, rows + 2, 3, 2, hidden);
            // Clusters of any size, here: only hardware wants powers of two.
            case.check(case.persistent(exchange, ranks, rows, threads), LARGE);
        }
    }
}

#[test]
fn more_teams_than_run_at_once_take_turns() {
    if !emulated() {
        return;
    }
    let case = Case::new(CellKind::Lstm, 11, 3, 2, 8);
    let ways = [Pass::Forward, Pass::Backward].map(|pass| {
        let request = case.request(pass, Exchange::Grid, SMALL);
        let plan = Plan::with(&request, 3, 2, 32).unwrap();
        assert_eq!((plan.teams, plan.teams_at_once), (6, 2));
        Way::Persistent(plan)
    });
    case.check(ways, SMALL);
}

fn any_kind() -> impl Strategy<Value = CellKind> {
    prop::sample::select(KINDS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Padding, direction, probes, absent biases and absent gradients of the last states.
    #[test]
    fn layers_of_all_forms_equal_the_processor(
        kind in any_kind(),
        (batch, steps, inputs, hidden) in (1usize..6, 1usize..6, 1usize..4, 1usize..12),
        (padded, reverse, biases, probes, last) in any::<(bool, bool, bool, bool, bool)>(),
        seed in any::<u64>(),
        (way, ranks, rows) in (0usize..3, 1usize..5, 1usize..6),
    ) {
        if emulated() {
            let lengths = padded.then(|| {
                (0..batch).map(|row| (seed >> (row * 8)) as usize % (steps + 1)).collect::<Vec<_>>()
            });
            let case = Case { lengths, reverse, biases, probes, last, ..Case::new(kind, batch, steps, inputs, hidden) };
            let ways = match way {
                0 => [Way::Steps; 2],
                1 => case.persistent(Exchange::Cluster, ranks, rows, 32),
                _ => case.persistent(Exchange::Grid, ranks, rows, 32),
            };
            case.check(ways, LARGE);
        }
    }

    /// Whatever is asked, a plan stays within the device and covers the layer.
    #[test]
    fn plans_fit(
        kind in any_kind(),
        (batch, hidden) in (1usize..300, 1usize..2100),
        forward in any::<bool>(),
        cluster in any::<bool>(),
        small in any::<bool>(),
    ) {
        let limits = if small { SMALL } else { LARGE };
        let pass = if forward { Pass::Forward } else { Pass::Backward };
        let exchange = if cluster { Exchange::Cluster } else { Exchange::Grid };
        let cell = Cell::of(kind).unwrap();
        let request = Request { cell, pass, exchange, batch, hidden, limits };
        let several = Plan::several(&request, 3);
        prop_assert_eq!(Plan::best(&request), several.first().copied());
        prop_assert!(several.is_sorted_by_key(|plan| plan.cost(&request)));
        for plan in several {
            prop_assert!(plan.shared_bytes <= limits.shared_bytes);
            prop_assert!(plan.ranks * plan.units >= hidden && plan.teams * plan.rows >= batch);
            prop_assert!(plan.tiles() * plan.tile >= plan.rows && plan.units * plan.tile <= 4 * plan.threads);
            if cluster {
                prop_assert!(plan.ranks <= limits.cluster && plan.ranks.is_power_of_two());
            } else {
                prop_assert!(plan.ranks * plan.teams_at_once <= limits.multiprocessors);
            }
        }
    }
}

#[test]
fn plans_to_be_measured_differ() {
    let cell = Cell::of(CellKind::Lstm).unwrap();
    for exchange in [Exchange::Cluster, Exchange::Grid] {
        for (batch, hidden) in [(64, 128), (16, 256)] {
            let pass = Pass::Forward;
            let request = Request { cell, pass, exchange, batch, hidden, limits: LARGE };
            let several = Plan::several(&request, 3);
            assert_eq!(several.len(), 3, "{several:?}");
            let shapes: BTreeSet<_> = several.iter().map(|plan| (plan.ranks, plan.rows)).collect();
            assert_eq!(shapes.len(), 3, "{several:?}");
        }
    }
}

#[test]
fn an_h200_holds_the_layers_it_should() {
    let plan = |kind, exchange, batch, hidden| {
        let cell = Cell::of(kind).unwrap();
        let best =
            |pass| Plan::best(&Request { cell, pass, exchange, batch, hidden, limits: LARGE });
        Some([best(Pass::Forward)?, best(Pass::Backward)?])
    };
    let gru = CellKind::Gru(GruReset::After, GruUpdate::KeepOld);
    for batch in [1, 16, 64] {
        assert!(plan(CellKind::Lstm, Exchange::Cluster, batch, 256).is_some(), "{batch}");
        assert!(plan(gru, Exchange::Cluster, batch, 512).is_some(), "{batch}");
        for kind in KINDS {
            assert!(plan(kind, Exchange::Grid, batch, 1024).is_some(), "{kind:?} {batch}");
        }
    }
    assert!(plan(CellKind::Lstm, Exchange::Cluster, 16, 1024).is_none());
}

#[test]
fn a_policy_is_read_from_its_name() {
    let parse = |text| Policy::parse(text).ok();
    assert_eq!(parse(None), Some(Policy::Planned));
    assert_eq!(parse(Some("tuned")), Some(Policy::Tuned));
    assert_eq!(parse(Some("grid")), Some(Policy::Persistent(Exchange::Grid)));
    let error = Policy::parse(Some("fastest")).unwrap_err().to_string();
    assert!(error.contains("`fastest`") && error.contains("tuned"), "{error}");
}

#[test]
fn a_way_without_room_is_not_taken() {
    if !emulated() {
        return;
    }
    let case = Case::new(CellKind::Lstm, 3, 4, 5, 12);
    let expected = case.found([Way::Steps; 2], LARGE, 3);
    for no_grids in [false, true] {
        // A launch without room is an error, as on a GPU.
        let machine = Emulated::new(LARGE, 5).without_room(true, no_grids);
        let planned = case.found_by(Policy::Planned, &machine);
        for ((name, found), (_, expected)) in planned.iter().zip(&expected) {
            let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            assert!(off.fold(0.0, f32::max) < 1e-4, "no grids: {no_grids}, {name}");
        }
    }
    // What is asked for by name is not quietly something else.
    let machine = Emulated::new(LARGE, 5).without_room(true, false);
    let arguments = case.arguments_of_nothing(case.cell());
    let asked = forward_by(Policy::Persistent(Exchange::Cluster), &machine, &arguments);
    assert!(asked.is_err_and(|error| error.to_string().contains("no room for forward_lstm")));
}

#[test]
fn tuning_takes_the_way_that_measures_best() {
    if !emulated() {
        return;
    }
    // The emulation counts launches: one for a whole sequence beats one for each step.
    let case = Case::new(CellKind::Lstm, 2, 6, 2, 8);
    let expected = case.found([Way::Steps; 2], LARGE, 3);
    let tuned = case.found_by(Policy::Tuned, &Emulated::new(LARGE, 5));
    assert_eq!(expected.len(), tuned.len());
    let found = findings();
    for pass in ["forward", "backward"] {
        let line = found.iter().find(|line| line.starts_with(&format!("lstm {pass} B=2 H=8: ")));
        let line = line.unwrap_or_else(|| panic!("{found:?}"));
        assert!(!line.contains("not usable") && line.contains("steps"), "{line}");
        assert!(line.contains(": cluster") || line.contains(": grid"), "{line}");
        let tried = line.split("; ").count();
        assert!(tried > 3, "more than one plan of a kind: {line}");
    }
    // Where persistent kernels cannot run there is one way.
    let cell = case.cell();
    assert_eq!(ways(&case.arguments_of_nothing(cell), Pass::Forward, None, 1), [Way::Steps]);
}
