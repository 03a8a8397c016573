//! How a layer is divided among blocks.

use std::fmt;

use super::launch::Cell;
use crate::gpu::machine::Limits;

/// Threads of a block: `RECURRENT_KERNEL` in cuda/recurrent.cu allows no more.
pub(crate) const THREADS: usize = 256;
/// Pairs of unit and sequence that a thread may have of one tile: `PAIRS` in cuda/persistent.h.
const PAIRS: usize = 4;
/// Products of two f32 that a multiprocessor does in a clock cycle.
pub(super) const PRODUCTS_PER_CYCLE: usize = 128;
/// Rows of a tile for which there are kernels.
const TILES: [usize; 3] = [4, 8, 16];

/// Forward or backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// How the blocks of a team tell each other what they found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Exchange {
    /// Through each other's shared memory, within a thread-block cluster.
    Cluster,
    /// Through global memory; all blocks of a launch run at once.
    Grid,
}

/// How the recurrence is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// A product and a kernel per step.
    Steps,
    /// One launch.
    Persistent(Plan),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps => f.write_str("steps"),
            Self::Persistent(plan) => {
                let exchange = if plan.exchange == Exchange::Cluster { "cluster" } else { "grid" };
                write!(f, "{exchange} of {} x {} rows", plan.ranks, plan.rows)
            }
        }
    }
}

/// The division of a persistent kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    pub(crate) pass: Pass,
    pub(crate) exchange: Exchange,
    /// Sequences that a product is done for at once: in the kernel's name.
    pub(crate) tile: usize,
    /// Blocks in a team.
    pub(crate) ranks: usize,
    /// Units of a block.
    pub(crate) units: usize,
    /// Sequences of a team.
    pub(crate) rows: usize,
    /// Teams in one launch, and those that all sequences need.
    pub(crate) teams_at_once: usize,
    pub(crate) teams: usize,
    pub(crate) threads: usize,
    pub(crate) shared_bytes: usize,
}

impl Plan {
    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    /// Teams in a launch, the last one perhaps excepted.
    pub(crate) fn teams_in_launch(&self) -> usize {
        self.teams_at_once.min(self.teams)
    }

    /// Numbers that the teams of one launch exchange through global memory.
    pub(crate) fn exchange_len(&self, hidden: usize) -> usize {
        let teams = self.teams_in_launch();
        match (self.exchange, self.pass) {
            (Exchange::Cluster, _) => 0,
            (Exchange::Grid, Pass::Forward) => 2 * teams * self.tiles() * hidden * self.tile,
            (Exchange::Grid, Pass::Backward) => {
                2 * teams * self.ranks * self.ranks * self.tiles() * self.tile * self.units
            }
        }
    }

    /// Name of the kernel.
    pub(crate) fn kernel(&self, cell: &Cell) -> String {
        let pass = if self.pass == Pass::Forward { "forward" } else { "backward" };
        let exchange = if self.exchange == Exchange::Cluster { "cluster" } else { "grid" };
        format!("{pass}_{}_{}_{exchange}", cell.name, self.tile)
    }

    /// The plan with teams of `ranks` blocks and `rows` sequences, if it fits.
    pub(crate) fn with(
        request: &Request,
        ranks: usize,
        rows: usize,
        threads: usize,
    ) -> Option<Self> {
        let Request { cell, pass, exchange, batch, hidden, limits } = *request;
        let units = hidden.div_ceil(ranks);
        let tile = TILES.into_iter().find(|&tile| tile >= rows).unwrap_or(TILES[TILES.len() - 1]);
        let tiles = rows.div_ceil(tile);
        // The layouts of the two kernels in cuda/persistent.h.
        let (width, depth) = match pass {
            Pass::Forward => ((cell.gates * units).next_multiple_of(32), hidden),
            Pass::Backward => (hidden.next_multiple_of(32), cell.gates * units),
        };
        let slices = (threads / 32 / (width / 32)).max(1);
        let states = match (pass, exchange) {
            (Pass::Forward, Exchange::Cluster) => 2 * tiles * hidden * tile,
            (Pass::Forward, Exchange::Grid) => hidden * tile,
            (Pass::Backward, Exchange::Cluster) => depth * tile + 2 * ranks * tiles * tile * units,
            (Pass::Backward, Exchange::Grid) => depth * tile,
        };
        let own = 2 * tiles * units * tile;
        let shared_bytes = 4 * (depth * width + states + slices * tile * width + own);
        let at_once = match exchange {
            // Clusters wait for each other's end, not for each other.
            Exchange::Cluster => usize::MAX,
            Exchange::Grid => limits.multiprocessors / ranks,
        };
        let fits = shared_bytes <= limits.shared_bytes
            && units * tile <= PAIRS * threads
            && at_once > 0
            && (exchange == Exchange::Grid || ranks <= limits.cluster);
        fits.then_some(Self {
            pass,
            exchange,
            tile,
            ranks,
            units,
            rows,
            teams_at_once: at_once,
            teams: batch.div_ceil(rows),
            threads,
            shared_bytes,
        })
    }

    /// Clock cycles of a multiprocessor that a tile's products cannot do without.
    pub(super) fn cycles(&self, cell: Cell, pass: Pass, hidden: usize) -> Cycles {
        let (width, depth) = self.size(cell, pass, hidden);
        Cycles {
            products: self.tile * depth * width / PRODUCTS_PER_CYCLE,
            // 128 bytes a cycle: all weights, and the states, which eight columns share.
            shared_memory: depth * width / 32 + depth * self.tile * width / 1024,
        }
    }

    /// Columns and depth of the product of a block.
    fn size(&self, cell: Cell, pass: Pass, hidden: usize) -> (usize, usize) {
        match pass {
            Pass::Forward => ((cell.gates * self.units).next_multiple_of(32), hidden),
            Pass::Backward => (hidden.next_multiple_of(32), cell.gates * self.units),
        }
    }

    /// How often blocks have to take turns until all sequences are done.
    pub(super) fn waves(&self, multiprocessors: usize) -> usize {
        self.teams.div_ceil(self.teams_at_once.min(multiprocessors / self.ranks).max(1))
    }

    /// What a step may be expected to cost, in clock cycles of a multiprocessor: the larger of what its
    /// arithmetic and its shared memory need, sums over parts of the depth, and the exchange. Only to choose among
    /// plans: what is kept is measured.
    pub(crate) fn cost(&self, request: &Request) -> usize {
        let Request { cell, pass, hidden, limits, .. } = *request;
        let (width, _) = self.size(cell, pass, hidden);
        let slices = (self.threads / 32 / (width / 32)).max(1);
        let Cycles { products, shared_memory } = self.cycles(cell, pass, hidden);
        let sums = (3 * 4 + 2 * slices) * self.tile * width / 128;
        let exchanged = match (pass, self.exchange) {
            (Pass::Forward, Exchange::Cluster) => self.units * self.tile * self.ranks / 16,
            (Pass::Forward, Exchange::Grid) => hidden * self.tile / 8,
            (Pass::Backward, Exchange::Cluster) => hidden * self.tile / 8,
            (Pass::Backward, Exchange::Grid) => hidden * self.tile / 4,
        };
        let barrier = match self.exchange {
            Exchange::Cluster => 400 + 20 * self.ranks,
            Exchange::Grid => 1500 + 4 * self.ranks,
        };
        self.waves(limits.multiprocessors)
            * (self.tiles() * (products.max(shared_memory) + sums + exchanged + 400) + barrier)
    }

    /// The plan that should be fastest, or `None` when none fits.
    pub(crate) fn best(request: &Request) -> Option<Self> {
        Self::all(request).into_iter().next()
    }

    /// At most `count` plans of different shapes, those that should be fastest: what expectation cannot tell apart,
    /// measuring can.
    pub(crate) fn several(request: &Request, count: usize) -> Vec<Self> {
        // Of two that differ by less than a quarter, one is enough.
        let near = |a: usize, b: usize| 5 * a.min(b) > 4 * a.max(b);
        let mut several: Vec<Self> = Vec::with_capacity(count);
        for plan in Self::all(request) {
            let alike = |other: &Self| near(other.ranks, plan.ranks) && near(other.rows, plan.rows);
            if several.len() < count && !several.iter().any(alike) {
                several.push(plan);
            }
        }
        several
    }

    /// All plans that are worth thinking of, the fastest by expectation first.
    fn all(request: &Request) -> Vec<Self> {
        let Request { exchange, batch, hidden, limits, .. } = *request;
        let most = match exchange {
            Exchange::Cluster => limits.cluster,
            Exchange::Grid => limits.multiprocessors,
        };
        let mut sizes: Vec<usize> = match exchange {
            // Clusters are powers of two: the hardware's groups of multiprocessors are filled by these.
            Exchange::Cluster => (0..).map(|power| 1 << power).take_while(|&n| n <= most).collect(),
            Exchange::Grid => (1..=most).collect(),
        };
        // More blocks than units leave some without any.
        sizes.retain(|&ranks| ranks <= hidden);
        let plans = sizes.into_iter().flat_map(|ranks| {
            let teams = (limits.multiprocessors / ranks).max(1);
            // All sequences at once, or in two or four launches or waves.
            [1, 2, 4].map(|waves| (ranks, batch.div_ceil(teams * waves).max(1)))
        });
        let plans = plans.filter_map(|(ranks, rows)| Self::with(request, ranks, rows, THREADS));
        let mut plans: Vec<Self> = plans.collect();
        plans.sort_by_key(|plan| (plan.cost(request), plan.ranks));
        plans
    }
}

/// What a tile costs a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cycles {
    pub(super) products: usize,
    pub(super) shared_memory: usize,
}

/// The same for a product and a kernel per step: two launches, and the product at half of what all
/// multiprocessors can do.
pub(crate) fn cost_of_steps(request: &Request) -> usize {
    let Request { cell, batch, hidden, limits, .. } = *request;
    9000 + batch * cell.gates * hidden * hidden / (64 * limits.multiprocessors)
}

/// What a plan is wanted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) cell: Cell,
    pub(crate) pass: Pass,
    pub(crate) exchange: Exchange,
    pub(crate) batch: usize,
    pub(crate) hidden: usize,
    pub(crate) limits: Limits,
}
