//! Which way a layer takes.
//!
//! Ways differ in the order of their sums, so the choice is part of a result's last bits. By default it
//! follows from the shape and the device alone, by what a step should cost ([`Plan::cost`]): the same run
//! gives the same bits again. `UNROLL_GPU_RECURRENT` says otherwise: `steps`, `cluster` or `grid` for one
//! way (where a plan fits, else `steps`), `tuned` to measure all ways that fit when a shape is first met and
//! keep the fastest for as long as the process lives, cuDNN if it is that; `cudnn` for cuDNN where it knows a layer.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{Result, bail};

use super::floors::Floor;
use super::host::{self, Arguments, Forward, Gradients, Incoming, Kept, Wanted};
use super::plan::{Exchange, Pass, Plan, Request, Way, cost_of_steps};
use crate::gpu::machine::{Limits, Machine};
use crate::gpu::tuning::{TIMES, TOLERANCE, difference};
use crate::threads::lock;

/// What `UNROLL_GPU_RECURRENT` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Policy {
    /// By expected cost.
    Planned,
    /// By measuring.
    Tuned,
    /// One way.
    Steps,
    Persistent(Exchange),
    /// cuDNN, where it knows a layer.
    Library,
}

impl Policy {
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("" | "planned" | "candle") => Self::Planned,
            Some("tuned") => Self::Tuned,
            Some("steps") => Self::Steps,
            Some("cluster") => Self::Persistent(Exchange::Cluster),
            Some("grid") => Self::Persistent(Exchange::Grid),
            Some("cudnn") if cfg!(feature = "cudnn") => Self::Library,
            Some("cudnn") => {
                bail!("UNROLL_GPU_RECURRENT is `cudnn`; this program was built without it")
            }
            Some(other) => bail!(
                "UNROLL_GPU_RECURRENT is `{other}`; it can be planned, tuned, steps, cluster, grid, cudnn or \
                 candle"
            ),
        })
    }
}

#[cfg(feature = "cuda")]
pub(super) fn policy() -> Result<Policy> {
    static TEXT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    Policy::parse(TEXT.get_or_init(|| std::env::var("UNROLL_GPU_RECURRENT").ok()).as_deref())
}

/// Plans of each exchange that tuning measures.
const MEASURED_PLANS: usize = 3;

/// The ways that fit a layer on a device, at most `plans` of each exchange, the fastest by expectation first.
pub(super) fn ways(args: &Arguments, pass: Pass, limits: Option<Limits>, plans: usize) -> Vec<Way> {
    let Some(limits) = limits else { return vec![Way::Steps] };
    let (batch, hidden) = (args.shape.batch, args.shape.hidden);
    let request = |exchange| Request { cell: args.cell, pass, exchange, batch, hidden, limits };
    let plans = [Exchange::Cluster, Exchange::Grid].into_iter().flat_map(|exchange| {
        let request = request(exchange);
        let several = Plan::several(&request, plans).into_iter();
        several.map(move |plan| (plan.cost(&request), Way::Persistent(plan)))
    });
    let steps = (cost_of_steps(&request(Exchange::Grid)), Way::Steps);
    let mut all: Vec<_> = plans.chain([steps]).collect();
    all.sort_by_key(|(cost, _)| *cost);
    all.into_iter().map(|(_, way)| way).collect()
}

/// A way, or one that there is no room for, and why.
type Possible = std::result::Result<Way, (Way, String)>;

/// The ways that fit, with those that the machine has no room for told apart. Instead of a cluster without room,
/// a smaller one.
fn possible<M: Machine>(machine: &M, args: &Arguments, pass: Pass, plans: usize) -> Vec<Possible> {
    let (batch, hidden) = (args.shape.batch, args.shape.hidden);
    let smaller = |plan: &Plan| {
        let limits = Limits { cluster: plan.ranks / 2, ..machine.limits()? };
        let exchange = Exchange::Cluster;
        Plan::best(&Request { cell: args.cell, pass, exchange, batch, hidden, limits })
    };
    let room = |way: Way| -> Possible {
        let Way::Persistent(mut plan) = way else { return Ok(way) };
        loop {
            let launch = host::launch_of(args, &plan, plan.teams_in_launch());
            match machine.room(&launch) {
                Ok(()) => return Ok(Way::Persistent(plan)),
                Err(reason) => match smaller(&plan) {
                    Some(other) if plan.exchange == Exchange::Cluster => plan = other,
                    _ => return Err((way, reason)),
                },
            }
        }
    };
    let mut found: Vec<Possible> = Vec::new();
    for way in ways(args, pass, machine.limits(), plans).into_iter().map(room) {
        // A smaller cluster in the place of one without room may be there already.
        if !matches!(&way, Ok(way) if found.iter().flatten().any(|other| other == way)) {
            found.push(way);
        }
    }
    found
}

/// The way by a policy that needs no measuring.
fn decide(policy: Policy, ways: Vec<Possible>) -> Result<Way> {
    let wanted = match policy {
        Policy::Steps => return Ok(Way::Steps),
        Policy::Persistent(wanted) => wanted,
        Policy::Planned | Policy::Tuned | Policy::Library => {
            return Ok(ways.into_iter().flatten().next().unwrap_or(Way::Steps));
        }
    };
    let is_wanted = |way: &Way| matches!(way, Way::Persistent(plan) if plan.exchange == wanted);
    for way in ways {
        match way {
            Ok(way) if is_wanted(&way) => return Ok(way),
            // What is asked for by name is not quietly something else.
            Err((way, reason)) if is_wanted(&way) => bail!("{way} cannot run here: {reason}"),
            _ => {}
        }
    }
    Ok(Way::Steps)
}

/// What a choice holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    policy: Policy,
    device: String,
    cell: &'static str,
    pass: Pass,
    batch: usize,
    hidden: usize,
    /// Whether products are rounded.
    tf32: bool,
}

/// What was chosen, once in the process: layers ask at every call.
static CHOSEN: Mutex<BTreeMap<Key, Chosen>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone)]
struct Chosen {
    best: Way,
    /// What tuning measured: all ways with seconds per step, or why one cannot be used.
    all: Vec<(Way, std::result::Result<Timed, String>)>,
}

/// Seconds per step, and what they cannot be less than, where that could be found.
#[derive(Debug, Clone, Copy)]
struct Timed {
    seconds: f64,
    floor: Option<Floor>,
}

/// What tuning found so far, one line for each layer and pass: all ways, with microseconds per step.
pub(crate) fn findings() -> Vec<String> {
    let line = |(key, found): (&Key, &Chosen)| {
        let ways = found.all.iter().map(|(way, time)| match time {
            Ok(Timed { seconds, floor }) => {
                let floor = floor.map_or_else(String::new, |floor| format!(" ({floor})"));
                format!("{way} {:.2} us{floor}", seconds * 1e6)
            }
            Err(reason) => format!("{way} not usable: {reason}"),
        });
        let (cell, batch, hidden) = (key.cell, key.batch, key.hidden);
        let pass = if key.pass == Pass::Forward { "forward" } else { "backward" };
        let ways = ways.collect::<Vec<_>>().join("; ");
        let rounding = if key.tf32 { " tf32" } else { "" };
        format!("{cell} {pass} B={batch} H={hidden}{rounding}: {}, of {ways}", found.best)
    };
    lock(&CHOSEN).iter().filter(|(_, found)| !found.all.is_empty()).map(line).collect()
}

#[cfg(feature = "cuda")]
/// Runs a layer forward in the way that the policy says.
pub(crate) fn forward<M: Machine>(machine: &M, args: &Arguments) -> Result<Forward<M::Buffer>> {
    forward_by(policy()?, machine, args)
}

#[cfg(feature = "cuda")]
/// Runs a layer backward in the way that the policy says.
pub(crate) fn backward<M: Machine>(
    machine: &M,
    args: &Arguments,
    kept: Kept<M::Buffer>,
    from: &Incoming,
    wanted: Wanted,
) -> Result<Gradients<M::Buffer>> {
    backward_by(policy()?, machine, args, kept, from, wanted)
}

pub(super) fn forward_by<M: Machine>(
    policy: Policy,
    machine: &M,
    args: &Arguments,
) -> Result<Forward<M::Buffer>> {
    let way = choose(policy, machine, args, Pass::Forward, &|way| {
        Ok(host::forward(machine, args, way)?.hidden)
    })?;
    host::forward(machine, args, way)
}

pub(super) fn backward_by<M: Machine>(
    policy: Policy,
    machine: &M,
    args: &Arguments,
    kept: Kept<M::Buffer>,
    from: &Incoming,
    wanted: Wanted,
) -> Result<Gradients<M::Buffer>> {
    let len = args.shape.batch * args.shape.steps * args.cell.kept * args.shape.hidden;
    let states = args.shape.batch * args.shape.steps * args.shape.hidden;
    let none = Wanted {
        input: false,
        weight_ih: false,
        weight_hh: false,
        biases: false,
        probe_hidden: false,
        probe_cell: false,
    };
    let way = choose(policy, machine, args, Pass::Backward, &|way| {
        // Backward uses up what it is given: here, copies.
        let copy = |buffer: &M::Buffer, len| -> Result<M::Buffer> {
            let copy = machine.allocate(len)?;
            machine.copy(machine.place(buffer), machine.place(&copy), len)?;
            Ok(copy)
        };
        let cells = match &kept.cells {
            Some(cells) => Some(copy(cells, states)?),
            None => None,
        };
        let kept = Kept { gates: copy(&kept.gates, len)?, cells };
        Ok(host::backward(machine, args, kept, from, none, way)?.hidden)
    })?;
    host::backward(machine, args, kept, from, wanted, way)
}

fn choose<M: Machine>(
    policy: Policy,
    machine: &M,
    args: &Arguments,
    pass: Pass,
    run: &dyn Fn(Way) -> Result<M::Buffer>,
) -> Result<Way> {
    let (batch, hidden, tf32) = (args.shape.batch, args.shape.hidden, machine.tf32());
    let (device, cell) = (machine.name(), args.cell.name);
    let key = Key { policy, device, cell, pass, batch, hidden, tf32 };
    let mut chosen = lock(&CHOSEN);
    if let Some(found) = chosen.get(&key) {
        return Ok(found.best);
    }
    let plans = if policy == Policy::Tuned { MEASURED_PLANS } else { 1 };
    let ways = possible(machine, args, pass, plans);
    let found = match policy {
        Policy::Tuned => measure(machine, args, pass, ways, run)?,
        _ => Chosen { best: decide(policy, ways)?, all: Vec::new() },
    };
    let best = found.best;
    chosen.insert(key, found);
    Ok(best)
}

/// Times all ways. One that fails, or finds something else than the way of one step at a time, is not used.
fn measure<M: Machine>(
    machine: &M,
    args: &Arguments,
    pass: Pass,
    ways: Vec<Possible>,
    run: &dyn Fn(Way) -> Result<M::Buffer>,
) -> Result<Chosen> {
    let expected = machine.read(&run(Way::Steps)?)?;
    let steps = args.shape.steps as f64;
    let time = |way: Way| -> std::result::Result<Timed, String> {
        let text =
            |error: candle_core::Error| error.to_string().lines().next().unwrap_or("").to_owned();
        let found = run(way).and_then(|found| machine.read(&found)).map_err(text)?;
        if let Some(off) = difference(&expected, &found, TOLERANCE) {
            return Err(format!("differs by {off}"));
        }
        let mut least = f64::INFINITY;
        for _ in 0..TIMES {
            least = least.min(machine.time(&|| run(way).map(|_| ())).map_err(text)?);
        }
        // A floor that cannot be measured is no reason against the way.
        Ok(Timed { seconds: least / steps, floor: Floor::of(machine, args, pass, way).ok() })
    };
    let mut all = Vec::with_capacity(ways.len());
    for way in ways {
        let (way, time) = match way {
            Ok(way) => (way, time(way)),
            Err((way, reason)) => (way, Err(reason)),
        };
        if let Err(reason) = &time
            && let Err(error) = machine.alive()
        {
            bail!("{way} cannot run ({reason}), and nothing after it: {error}");
        }
        all.push((way, time));
    }
    let usable = all.iter().filter_map(|(way, time)| Some((*way, time.as_ref().ok()?.seconds)));
    let best = usable.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(Way::Steps, |(way, _)| way);
    Ok(Chosen { best, all })
}
