//! What a step of a recurrent layer cannot be faster than on a device: what its launches or barriers cost when they
//! do nothing else, and after them the larger of what its arithmetic and its memory need.
//!
//! Launches, barriers and memory are measured; arithmetic and shared memory go by what a multiprocessor does in a
//! clock cycle (128 products in f32, 128 bytes), as the roofline of Williams et al. (2009).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use candle_core::Result;

use super::host::{Arguments, launch_of};
use super::plan::{Exchange, PRODUCTS_PER_CYCLE, Pass, Plan, THREADS, Way};
use crate::gpu::machine::{Argument, Launch, Machine, Place, Together};
use crate::gpu::tuning::TIMES;
use crate::threads::lock;

/// Launches, or barriers, that are timed as one.
const REPEATS: usize = 64;
/// Blocks that read memory, for each multiprocessor.
const READERS: usize = 8;

/// The same fields in the same order as `Floor` in cuda/floors.cu, which tells what they are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Parameters {
    from: Place,
    to: Place,
    arrived: Place,
    count: i32,
    repeats: i32,
    ranks: i32,
    unused: i32,
}

impl Argument for Parameters {}

const NOTHING: Parameters = Parameters {
    from: Place::NULL,
    to: Place::NULL,
    arrived: Place::NULL,
    count: 0,
    repeats: 0,
    ranks: 1,
    unused: 0,
};

/// What was measured of a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// Seconds from a kernel to the next, asked for one by one, and in a recorded list.
    pub(super) launch: f64,
    pub(super) recorded: f64,
    /// Bytes a second, of what is too large for the cache that all multiprocessors share, and of what fits.
    pub(super) memory: f64,
    pub(super) cache: f64,
}

static MEASURED: Mutex<BTreeMap<String, (Measured, String)>> = Mutex::new(BTreeMap::new());

/// One line for each device.
pub(crate) fn findings() -> Vec<String> {
    lock(&MEASURED).values().map(|(_, line)| line.clone()).collect()
}

fn launch(kernel: &str, blocks: usize) -> Launch {
    Launch {
        kernel: kernel.into(),
        grid: (blocks as u32, 1),
        threads: THREADS as u32,
        shared_bytes: 0,
        together: Together::Any,
    }
}

/// Least of several.
fn least<M: Machine>(machine: &M, run: &dyn Fn() -> Result<()>) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..TIMES {
        least = least.min(machine.time(run)?);
    }
    Ok(least)
}

/// Measures a device, once in the process.
pub(super) fn measured<M: Machine>(machine: &M) -> Result<Measured> {
    if let Some((known, _)) = lock(&MEASURED).get(&machine.name()) {
        return Ok(*known);
    }
    let one = launch("nothing", 1);
    let list = || (0..REPEATS).try_for_each(|_| machine.launch(&one, &NOTHING));
    let recorded = || machine.recorded(&[u64::MAX, REPEATS as u64], &list);
    list()?;
    let launched = least(machine, &list)? / REPEATS as f64;
    // Seen, recorded; then done again.
    recorded()?;
    recorded()?;
    let recorded = least(machine, &recorded)? / REPEATS as f64;

    let rates = machine.rates();
    let blocks = READERS * machine.limits().map_or(1, |limits| limits.multiprocessors);
    let read = |bytes: usize, repeats: usize| -> Result<f64> {
        let count = (bytes / 16).max(1);
        let (from, to) = (machine.allocate(4 * count)?, machine.allocate(blocks * THREADS)?);
        machine.zero(machine.place(&from), 4 * count)?;
        let parameters = Parameters {
            from: machine.place(&from),
            to: machine.place(&to),
            count: count as i32,
            repeats: repeats as i32,
            ..NOTHING
        };
        let run = || machine.launch(&launch("read_memory", blocks), &parameters);
        run()?;
        Ok((16 * count * repeats) as f64 / least(machine, &run)?)
    };
    let found = Measured {
        launch: launched,
        recorded,
        memory: read(4 * rates.cache_bytes, 1)?,
        cache: read(rates.cache_bytes / 4, 16)?,
    };
    let line = format!(
        "device: {:.2} us from launch to launch, {:.2} us recorded; {:.3} TB/s from memory, {:.3} from cache",
        found.launch * 1e6,
        found.recorded * 1e6,
        found.memory / 1e12,
        found.cache / 1e12,
    );
    lock(&MEASURED).insert(machine.name(), (found, line));
    Ok(found)
}

/// Seconds that all steps' barriers of a plan cost each, without anything between them.
fn barrier<M: Machine>(machine: &M, args: &Arguments, plan: &Plan) -> Result<f64> {
    let teams = plan.teams_in_launch();
    let kernel = match plan.exchange {
        Exchange::Cluster => "barriers_cluster",
        Exchange::Grid => "barriers_grid",
    };
    let launch = Launch { kernel: kernel.into(), ..launch_of(args, plan, teams) };
    let arrived = machine.allocate(teams)?;
    let time = |repeats: usize| {
        let ranks = plan.ranks as i32;
        let arrived = machine.place(&arrived);
        let parameters = Parameters { arrived, repeats: repeats as i32, ranks, ..NOTHING };
        let run = || {
            machine.zero(arrived, teams)?;
            machine.launch(&launch, &parameters)
        };
        run()?;
        least(machine, &run)
    };
    let each = (time(REPEATS)? - time(0)?).max(0.0) / REPEATS as f64;
    // Clusters that find no room take turns within a launch, which is measured; further launches are not.
    Ok(each * plan.teams.div_ceil(teams) as f64)
}

/// What a step cannot be faster than, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Floor {
    /// Launches, or barriers.
    pub(super) waits: (&'static str, f64),
    /// What takes longest of the rest.
    pub(super) work: (&'static str, f64),
}

impl Floor {
    pub(super) fn seconds(&self) -> f64 {
        self.waits.1 + self.work.1
    }

    /// Of one way on a device.
    pub(super) fn of<M: Machine>(
        machine: &M,
        args: &Arguments,
        pass: Pass,
        way: Way,
    ) -> Result<Self> {
        let device = measured(machine)?;
        let (cell, batch, hidden) = (args.cell, args.shape.batch, args.shape.hidden);
        let (gates, rates) = (cell.gates, machine.rates());
        // Read: projected input; written: what backward needs, the output, the cell; backward the other way round.
        let numbers = gates + cell.kept + 1 + usize::from(cell.has_cell);
        let streamed = (4 * batch * hidden * numbers) as f64 / device.memory;
        let multiprocessors = machine.limits().map_or(1, |limits| limits.multiprocessors);
        let (waits, work) = match way {
            Way::Steps => {
                let weights = 4 * gates * hidden * hidden;
                let from = if weights <= rates.cache_bytes { device.cache } else { device.memory };
                let products = (batch * gates * hidden * hidden) as f64
                    / (PRODUCTS_PER_CYCLE * multiprocessors) as f64
                    / rates.clock_hz;
                // Tensor cores do several times as many.
                let products = if machine.tf32() { 0.0 } else { products };
                (
                    ("launches", 2.0 * device.recorded),
                    vec![("memory", streamed + weights as f64 / from), ("products", products)],
                )
            }
            Way::Persistent(plan) => {
                let cycles = plan.cycles(cell, pass, hidden);
                let seconds = |cycles: usize| {
                    (plan.waves(multiprocessors) * plan.tiles() * cycles) as f64 / rates.clock_hz
                };
                (
                    ("barriers", barrier(machine, args, &plan)?),
                    vec![
                        ("memory", streamed),
                        ("products", seconds(cycles.products)),
                        ("shared memory", seconds(cycles.shared_memory)),
                    ],
                )
            }
        };
        let work = work.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("nothing", 0.0));
        Ok(Self { waits, work })
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(waits, waiting), (work, working)] = [self.waits, self.work];
        let [all, waiting, working] = [self.seconds(), waiting, working].map(|s| s * 1e6);
        write!(f, "at least {all:.2}: {waits} {waiting:.2}, {work} {working:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::machine::Limits;
    use crate::gpu::machine::emulated::Emulated;
    use crate::gpu::recurrent::host::{Lengths, Shape};
    use crate::gpu::recurrent::launch::Cell;
    use crate::gpu::recurrent::plan::Request;
    use crate::recurrent::CellKind;

    const LIMITS: Limits = Limits { multiprocessors: 6, shared_bytes: 60_000, cluster: 4 };

    fn machine() -> Option<Emulated> {
        unroll_kernels_emulation::AVAILABLE.then(|| Emulated::new(LIMITS, 3))
    }

    fn lstm(batch: usize, hidden: usize) -> Arguments {
        let null = Place::NULL;
        Arguments {
            cell: Cell::of(CellKind::Lstm).unwrap(),
            shape: Shape { batch, steps: 5, inputs: 3, hidden },
            reverse: false,
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

    #[test]
    fn memory_is_read_whole_and_as_often_as_said() {
        let Some(machine) = machine() else { return };
        let numbers: Vec<f32> = (0..4 * 1234).map(|i| (i % 17) as f32).collect();
        let from = machine.upload(&numbers);
        let to = machine.allocate(3 * THREADS).unwrap();
        let parameters = Parameters {
            from: machine.place(&from),
            to: machine.place(&to),
            count: 1234,
            repeats: 2,
            ..NOTHING
        };
        machine.launch(&launch("read_memory", 3), &parameters).unwrap();
        let sum = |numbers: &[f32]| numbers.iter().sum::<f32>();
        assert_eq!(sum(to.values()), 2.0 * sum(&numbers));
    }

    /// The emulation counts launches in the place of seconds: a launch takes one, and so does reading memory.
    #[test]
    fn a_step_is_two_launches_and_its_memory() {
        let Some(machine) = machine() else { return };
        let rate = 4.0 * machine.rates().cache_bytes as f64;
        let found = measured(&machine).unwrap();
        assert_eq!(found, Measured { launch: 1.0, recorded: 1.0, memory: rate, cache: rate });
        for (batch, hidden) in [(2, 10), (3, 20)] {
            let floor =
                Floor::of(&machine, &lstm(batch, hidden), Pass::Forward, Way::Steps).unwrap();
            assert_eq!(floor.waits, ("launches", 2.0));
            // Four gates read, four kept, output and cell written; and the weights.
            let bytes = 4 * (batch * hidden * 10 + 4 * hidden * hidden);
            assert!((floor.work.1 - bytes as f64 / rate).abs() < 1e-9, "{floor}");
            assert_eq!(floor.work.0, "memory");
        }
        let many = Floor::of(&machine, &lstm(5000, 20), Pass::Backward, Way::Steps).unwrap();
        // 5,000 * 4 * 20 * 20 products, 128 of them a cycle on each of six, 1,000 cycles a second.
        assert_eq!(many.work, ("memory", (4 * (5000 * 20 * 10 + 1600)) as f64 / rate));
        assert!(many.to_string().starts_with("at least "), "{many}");
    }

    #[test]
    fn a_persistent_step_is_its_barriers_and_what_its_blocks_do() {
        let Some(machine) = machine() else { return };
        for exchange in [Exchange::Cluster, Exchange::Grid] {
            for pass in [Pass::Forward, Pass::Backward] {
                let args = lstm(4, 16);
                let request = Request {
                    cell: args.cell,
                    pass,
                    exchange,
                    batch: 4,
                    hidden: 16,
                    limits: LIMITS,
                };
                let plan = Plan::with(&request, 2, 2, THREADS).unwrap();
                let floor = Floor::of(&machine, &args, pass, Way::Persistent(plan)).unwrap();
                // Two launches of barriers, one without any, take as long: the emulation counts launches.
                assert_eq!(floor.waits, ("barriers", 0.0));
                // Two teams of two blocks with eight units: 32 columns 16 deep, or the other way round; a tile
                // of four rows.
                let cycles = plan.cycles(args.cell, pass, 16);
                assert_eq!(plan.waves(LIMITS.multiprocessors), 1);
                match pass {
                    Pass::Forward => assert_eq!((cycles.products, cycles.shared_memory), (16, 18)),
                    Pass::Backward => assert_eq!((cycles.products, cycles.shared_memory), (32, 36)),
                }
                let streamed = (4 * 4 * 16 * 10) as f64 / (4 * machine.rates().cache_bytes) as f64;
                assert_eq!(floor.work, ("memory", streamed));
            }
        }
    }
}
