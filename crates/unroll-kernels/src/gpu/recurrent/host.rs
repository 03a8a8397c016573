//! The two passes of a layer.

use candle_core::{Result, bail};

use super::launch::{Cell, Sequence};
use super::plan::{Exchange, Pass, Plan, THREADS, Way};
use crate::gpu::machine::{Factor, Launch, Machine, Place, Product, Together};

/// Rows that one block sums in the first pass over a column.
const SUMMED_ROWS: usize = 128;

/// A layer's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) steps: usize,
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
}

/// Real steps of each sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lengths {
    /// All.
    All,
    /// `(B)` 32-bit integers.
    At(Place),
}

/// Everything that a layer reads: see [`crate::recurrent::Layer`]. What is absent is null.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) cell: Cell,
    pub(crate) shape: Shape,
    pub(crate) reverse: bool,
    pub(crate) lengths: Lengths,
    pub(crate) input: Place,
    pub(crate) weight_ih: Place,
    pub(crate) weight_hh: Place,
    pub(crate) bias_ih: Place,
    pub(crate) bias_hh: Place,
    pub(crate) hidden: Place,
    pub(crate) cell_state: Place,
    pub(crate) probe_hidden: Place,
    pub(crate) probe_cell: Place,
}

impl Arguments {
    fn sequence(&self) -> Sequence {
        let Shape { batch, steps, hidden, .. } = self.shape;
        Sequence {
            weight_hh: self.weight_hh,
            bias_ih: self.bias_ih,
            bias_hh: self.bias_hh,
            hidden_0: self.hidden,
            cell_0: self.cell_state,
            probe_hidden: self.probe_hidden,
            probe_cell: self.probe_cell,
            lengths: match self.lengths {
                Lengths::All => Place::NULL,
                Lengths::At(place) => place,
            },
            batch: batch as i32,
            steps: steps as i32,
            hidden: hidden as i32,
            reverse: i32::from(self.reverse),
            variant: self.cell.variant,
            ..Sequence::empty()
        }
    }

    /// Steps of all sequences.
    fn rows(&self) -> usize {
        self.shape.batch * self.shape.steps
    }

    /// Numbers from one step to the next in what is kept of the gates.
    fn kept_stride(&self) -> usize {
        self.cell.kept * self.shape.hidden
    }

    fn check(&self) -> Result<()> {
        let Shape { batch, steps, inputs, hidden } = self.shape;
        let most = [batch * steps, batch * hidden * self.cell.kept, steps, inputs, hidden];
        if most.into_iter().any(|size| size == 0 || i32::try_from(size).is_err()) {
            bail!("a recurrent layer on a GPU needs sizes from 1 to 2^31: {:?}", self.shape)
        }
        Ok(())
    }
}

/// What forward keeps for backward, which writes over the gates.
pub(crate) struct Kept<B> {
    /// `(B, T, K*H)`.
    pub(crate) gates: B,
    /// `(B, T, H)`; LSTM only.
    pub(crate) cells: Option<B>,
}

/// What forward gives.
pub(crate) struct Forward<B> {
    /// `(B, T, H)`.
    pub(crate) output: B,
    /// `(B, H)`.
    pub(crate) hidden: B,
    /// `(B, H)`; LSTM only.
    pub(crate) cell: Option<B>,
    pub(crate) kept: Kept<B>,
}

/// Runs a layer forward.
pub(crate) fn forward<M: Machine>(
    machine: &M,
    args: &Arguments,
    way: Way,
) -> Result<Forward<M::Buffer>> {
    args.check()?;
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let (cell, stride) = (args.cell, args.kept_stride());
    let width = cell.gates * hidden;
    let gates = machine.allocate(args.rows() * stride)?;
    let output = machine.allocate(args.rows() * hidden)?;
    let last_hidden = machine.allocate(batch * hidden)?;
    let optional = |len| if cell.has_cell { machine.allocate(len).map(Some) } else { Ok(None) };
    let (cells, last_cell) = (optional(args.rows() * hidden)?, optional(batch * hidden)?);
    machine.multiply(&Product {
        m: args.rows(),
        n: width,
        k: inputs,
        left: Factor::new(args.input, inputs),
        right: Factor::new(args.weight_ih, inputs).t(),
        out: machine.place(&gates),
        out_stride: stride,
        accumulate: false,
    })?;
    let place =
        |buffer: &Option<M::Buffer>| buffer.as_ref().map_or(Place::NULL, |b| machine.place(b));
    let sequence = Sequence {
        gates: machine.place(&gates),
        output: machine.place(&output),
        cells: place(&cells),
        last_hidden: machine.place(&last_hidden),
        last_cell: place(&last_cell),
        ..args.sequence()
    };
    match way {
        Way::Steps => {
            machine.copy(args.hidden, sequence.last_hidden, batch * hidden)?;
            if cell.has_cell {
                machine.copy(args.cell_state, sequence.last_cell, batch * hidden)?;
            }
            let recurrent = machine.allocate(batch * width)?;
            let sequence = Sequence { recurrent: machine.place(&recurrent), ..sequence };
            machine.recorded(&key("forward", args, &sequence), &|| {
                for step in 0..steps {
                    machine.multiply(&Product {
                        m: batch,
                        n: width,
                        k: hidden,
                        left: Factor::new(sequence.last_hidden, hidden),
                        right: Factor::new(args.weight_hh, hidden).t(),
                        out: sequence.recurrent,
                        out_stride: width,
                        accumulate: false,
                    })?;
                    step_kernel(machine, "step_forward", &cell, &sequence, step)?;
                }
                Ok(())
            })?;
        }
        Way::Persistent(plan) => persistent(machine, args, &plan, Pass::Forward, sequence)?,
    }
    Ok(Forward { output, hidden: last_hidden, cell: last_cell, kept: Kept { gates, cells } })
}

/// Gradients that arrive. What is absent is null and counts as zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    /// Forward's output, `(B, T, H)`.
    pub(crate) output: Place,
    /// Gradient of it.
    pub(crate) grad_output: Place,
    /// Gradients of the last states, `(B, H)`.
    pub(crate) grad_hidden: Place,
    pub(crate) grad_cell: Place,
}

/// Which gradients are wanted besides those of states and biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) input: bool,
    pub(crate) weight_ih: bool,
    pub(crate) weight_hh: bool,
    pub(crate) biases: bool,
    pub(crate) probe_hidden: bool,
    pub(crate) probe_cell: bool,
}

/// Gradients, in the shapes of what they are of.
pub(crate) struct Gradients<B> {
    pub(crate) input: Option<B>,
    pub(crate) weight_ih: Option<B>,
    pub(crate) weight_hh: Option<B>,
    pub(crate) bias_ih: Option<B>,
    pub(crate) bias_hh: Option<B>,
    pub(crate) hidden: B,
    pub(crate) cell: Option<B>,
    pub(crate) probe_hidden: Option<B>,
    pub(crate) probe_cell: Option<B>,
}

/// Runs a layer backward. Uses up what forward kept.
pub(crate) fn backward<M: Machine>(
    machine: &M,
    args: &Arguments,
    kept: Kept<M::Buffer>,
    from: &Incoming,
    wanted: Wanted,
    way: Way,
) -> Result<Gradients<M::Buffer>> {
    args.check()?;
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let (cell, stride, rows) = (args.cell, args.kept_stride(), args.rows());
    let width = cell.gates * hidden;
    let optional = |wanted, len| if wanted { machine.allocate(len).map(Some) } else { Ok(None) };
    let place =
        |buffer: &Option<M::Buffer>| buffer.as_ref().map_or(Place::NULL, |b| machine.place(b));
    let grad_hidden = machine.allocate(batch * hidden)?;
    let grad_cell = optional(cell.has_cell, batch * hidden)?;
    let probe_hidden = optional(wanted.probe_hidden, rows * hidden)?;
    let probe_cell = optional(wanted.probe_cell && cell.has_cell, rows * hidden)?;
    let sequence = Sequence {
        gates: machine.place(&kept.gates),
        output: from.output,
        cells: place(&kept.cells),
        last_hidden: from.grad_hidden,
        last_cell: from.grad_cell,
        grad_output: from.grad_output,
        grad_hidden_0: machine.place(&grad_hidden),
        grad_cell_0: place(&grad_cell),
        grad_probe_hidden: place(&probe_hidden),
        grad_probe_cell: place(&probe_cell),
        ..args.sequence()
    };
    match way {
        Way::Steps => {
            let begin = |from: Place, to: Place| match from {
                Place::NULL => machine.zero(to, batch * hidden),
                from => machine.copy(from, to, batch * hidden),
            };
            begin(from.grad_hidden, sequence.grad_hidden_0)?;
            if cell.has_cell {
                begin(from.grad_cell, sequence.grad_cell_0)?;
            }
            let recurrent = machine.allocate(batch * width)?;
            let sequence = Sequence { recurrent: machine.place(&recurrent), ..sequence };
            machine.recorded(&key("backward", args, &sequence), &|| {
                for step in (0..steps).rev() {
                    step_kernel(machine, "step_backward", &cell, &sequence, step)?;
                    machine.multiply(&Product {
                        m: batch,
                        n: hidden,
                        k: width,
                        left: Factor::new(sequence.recurrent, width),
                        right: Factor::new(args.weight_hh, hidden),
                        out: sequence.grad_hidden_0,
                        out_stride: hidden,
                        accumulate: true,
                    })?;
                }
                Ok(())
            })?;
        }
        Way::Persistent(plan) => persistent(machine, args, &plan, Pass::Backward, sequence)?,
    }

    let gates = Factor::new(sequence.gates, stride);
    let product = |m, n, k, left, right, out| Product {
        m,
        n,
        k,
        left,
        right,
        out,
        out_stride: n,
        accumulate: false,
    };
    let input = optional(wanted.input, rows * inputs)?;
    if let Some(input) = &input {
        let weight = Factor::new(args.weight_ih, inputs);
        machine.multiply(&product(rows, inputs, width, gates, weight, machine.place(input)))?;
    }
    let weight_ih = optional(wanted.weight_ih, width * inputs)?;
    if let Some(weight) = &weight_ih {
        let input = Factor::new(args.input, inputs);
        machine.multiply(&product(width, inputs, rows, gates.t(), input, machine.place(weight)))?;
    }
    // Where the gradients of the recurrent products differ from those of the gates: the GRU's third.
    let same = cell.gates.min(if cell.name == "gru" { 2 } else { cell.gates });
    let weight_hh = optional(wanted.weight_hh, width * hidden)?;
    if let Some(weight) = &weight_hh {
        let before = machine.allocate(rows * hidden)?;
        let exchange = machine.place(&before);
        let elements = rows * hidden;
        machine.launch(
            &elementwise("states_before".into(), elements),
            &Sequence { exchange, ..sequence },
        )?;
        let before = Factor::new(exchange, hidden);
        let to = machine.place(weight);
        machine.multiply(&product(same * hidden, hidden, rows, gates.t(), before, to))?;
        if same < cell.gates {
            let third = Factor::new(sequence.gates.offset(3 * hidden), stride);
            let to = to.offset(2 * hidden * hidden);
            machine.multiply(&product(hidden, hidden, rows, third.t(), before, to))?;
        }
    }
    let (bias_ih, bias_hh) = if wanted.biases {
        let sums = column_sums(machine, sequence.gates, rows, stride)?;
        let (of_input, of_recurrent) = (machine.allocate(width)?, machine.allocate(width)?);
        let sums = machine.place(&sums);
        machine.copy(sums, machine.place(&of_input), width)?;
        machine.copy(sums, machine.place(&of_recurrent), same * hidden)?;
        if same < cell.gates {
            let to = machine.place(&of_recurrent).offset(2 * hidden);
            machine.copy(sums.offset(3 * hidden), to, hidden)?;
        }
        (Some(of_input), Some(of_recurrent))
    } else {
        (None, None)
    };
    // The gates are gradients now: nobody may take them for what forward kept.
    drop(kept);
    Ok(Gradients {
        input,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        hidden: grad_hidden,
        cell: grad_cell,
        probe_hidden,
        probe_cell,
    })
}

/// What a recorded list of work depends on.
fn key(pass: &str, args: &Arguments, sequence: &Sequence) -> Vec<u64> {
    let Shape { batch, steps, inputs, hidden } = args.shape;
    let sizes = [batch, steps, inputs, hidden, args.cell.gates, usize::from(args.reverse)];
    let places = [
        sequence.weight_hh,
        sequence.bias_ih,
        sequence.bias_hh,
        sequence.hidden_0,
        sequence.cell_0,
        sequence.probe_hidden,
        sequence.probe_cell,
        sequence.gates,
        sequence.output,
        sequence.cells,
        sequence.last_hidden,
        sequence.last_cell,
        sequence.grad_output,
        sequence.grad_hidden_0,
        sequence.grad_cell_0,
        sequence.grad_probe_hidden,
        sequence.grad_probe_cell,
        sequence.lengths,
        sequence.recurrent,
    ];
    let pass = u64::from(pass == "backward");
    let variant = args.cell.variant as u64;
    let sizes = sizes.into_iter().map(|size| size as u64);
    [pass, variant].into_iter().chain(sizes).chain(places.map(|place| place.0)).collect()
}

/// A kernel with one thread for each element, or fewer that take several.
fn elementwise(kernel: String, elements: usize) -> Launch {
    let blocks = elements.div_ceil(THREADS).clamp(1, 4096);
    Launch {
        kernel,
        grid: (blocks as u32, 1),
        threads: THREADS as u32,
        shared_bytes: 0,
        together: Together::Any,
    }
}

fn step_kernel<M: Machine>(
    machine: &M,
    name: &str,
    cell: &Cell,
    sequence: &Sequence,
    step: usize,
) -> Result<()> {
    let launch =
        elementwise(format!("{name}_{}", cell.name), (sequence.batch * sequence.hidden) as usize);
    machine.launch(&launch, &Sequence { step: step as i32, ..*sequence })
}

/// The launch of so many teams of a persistent kernel.
pub(super) fn launch_of(args: &Arguments, plan: &Plan, teams: usize) -> Launch {
    Launch {
        kernel: plan.kernel(&args.cell),
        grid: ((teams * plan.ranks) as u32, 1),
        threads: plan.threads as u32,
        shared_bytes: plan.shared_bytes,
        together: match plan.exchange {
            Exchange::Cluster => Together::Clusters(plan.ranks as u32),
            Exchange::Grid => Together::All,
        },
    }
}

fn persistent<M: Machine>(
    machine: &M,
    args: &Arguments,
    plan: &Plan,
    pass: Pass,
    sequence: Sequence,
) -> Result<()> {
    if plan.pass != pass {
        bail!("a plan for {:?} cannot do {pass:?}", plan.pass)
    }
    let exchange = machine.allocate(plan.exchange_len(args.shape.hidden).max(1))?;
    let at_once = plan.teams_in_launch();
    let arrived = machine.allocate(at_once)?;
    for first_team in (0..plan.teams).step_by(at_once) {
        let teams = at_once.min(plan.teams - first_team);
        machine.zero(machine.place(&arrived), teams)?;
        let launch = launch_of(args, plan, teams);
        machine.launch(
            &launch,
            &Sequence {
                exchange: machine.place(&exchange),
                arrived: machine.place(&arrived),
                ranks: plan.ranks as i32,
                units: plan.units as i32,
                rows: plan.rows as i32,
                first_row: (first_team * plan.rows) as i32,
                ..sequence
            },
        )?;
    }
    Ok(())
}

/// Sums of the columns of `(rows, columns)`, always in the same order.
fn column_sums<M: Machine>(
    machine: &M,
    mut from: Place,
    mut rows: usize,
    columns: usize,
) -> Result<M::Buffer> {
    let mut before: Option<M::Buffer> = None;
    loop {
        // A grid has at most 65,535 blocks in y.
        let each = SUMMED_ROWS.max(rows.div_ceil(65_535));
        let sums = rows.div_ceil(each);
        let out = machine.allocate(sums * columns)?;
        let launch = Launch {
            kernel: "column_sums".into(),
            grid: (columns.div_ceil(32) as u32, sums as u32),
            threads: THREADS as u32,
            shared_bytes: 4 * THREADS,
            together: Together::Any,
        };
        let sequence = Sequence {
            gates: from,
            exchange: machine.place(&out),
            steps: rows as i32,
            hidden: columns as i32,
            rows: each as i32,
            ..Sequence::empty()
        };
        machine.launch(&launch, &sequence)?;
        drop(before.take());
        if sums == 1 {
            return Ok(out);
        }
        (from, rows) = (machine.place(&out), sums);
        before = Some(out);
    }
}
