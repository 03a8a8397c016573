//! What the kernels are given.

use crate::gpu::machine::{Argument, Place};
use crate::recurrent::{CellKind, GruReset, GruUpdate, Nonlinearity};

/// The same fields in the same order as `Sequence` in cuda/sequence.h, which tells what they are.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Sequence {
    pub(crate) weight_hh: Place,
    pub(crate) bias_ih: Place,
    pub(crate) bias_hh: Place,
    pub(crate) hidden_0: Place,
    pub(crate) cell_0: Place,
    pub(crate) probe_hidden: Place,
    pub(crate) probe_cell: Place,
    pub(crate) gates: Place,
    pub(crate) output: Place,
    pub(crate) cells: Place,
    pub(crate) last_hidden: Place,
    pub(crate) last_cell: Place,
    pub(crate) grad_output: Place,
    pub(crate) grad_hidden_0: Place,
    pub(crate) grad_cell_0: Place,
    pub(crate) grad_probe_hidden: Place,
    pub(crate) grad_probe_cell: Place,
    pub(crate) lengths: Place,
    pub(crate) exchange: Place,
    pub(crate) arrived: Place,
    pub(crate) recurrent: Place,
    pub(crate) batch: i32,
    pub(crate) steps: i32,
    pub(crate) hidden: i32,
    pub(crate) reverse: i32,
    pub(crate) variant: i32,
    pub(crate) ranks: i32,
    pub(crate) units: i32,
    pub(crate) rows: i32,
    pub(crate) first_row: i32,
    pub(crate) step: i32,
}

impl Argument for Sequence {}

impl Sequence {
    /// Nothing of anything.
    pub(crate) fn empty() -> Self {
        let null = Place::NULL;
        Self {
            weight_hh: null,
            bias_ih: null,
            bias_hh: null,
            hidden_0: null,
            cell_0: null,
            probe_hidden: null,
            probe_cell: null,
            gates: null,
            output: null,
            cells: null,
            last_hidden: null,
            last_cell: null,
            grad_output: null,
            grad_hidden_0: null,
            grad_cell_0: null,
            grad_probe_hidden: null,
            grad_probe_cell: null,
            lengths: null,
            exchange: null,
            arrived: null,
            recurrent: null,
            batch: 0,
            steps: 0,
            hidden: 0,
            reverse: 0,
            variant: 0,
            ranks: 1,
            units: 0,
            rows: 0,
            first_row: 0,
            step: 0,
        }
    }
}

/// What the kernels know of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// In the names of kernels.
    pub(crate) name: &'static str,
    /// See `variant` in cuda/cells.h.
    pub(crate) variant: i32,
    /// Blocks of rows in the weights.
    pub(crate) gates: usize,
    /// Numbers per unit that backward needs.
    pub(crate) kept: usize,
    /// Whether there is a cell state.
    pub(crate) has_cell: bool,
}

impl Cell {
    /// `None` for a cell that the kernels do not know: a GRU that resets before its product needs two
    /// products in a row at every step.
    pub(crate) fn of(kind: CellKind) -> Option<Self> {
        let gates = kind.gates();
        let (name, variant, kept) = match kind {
            CellKind::Rnn(Nonlinearity::Tanh) => ("rnn", 0, 1),
            CellKind::Rnn(Nonlinearity::Relu) => ("rnn", 1, 1),
            CellKind::Rnn(Nonlinearity::Identity) => ("rnn", 2, 1),
            CellKind::Gru(GruReset::After, GruUpdate::KeepOld) => ("gru", 0, 4),
            CellKind::Gru(GruReset::After, GruUpdate::TakeNew) => ("gru", 1, 4),
            CellKind::Gru(GruReset::Before, _) => return None,
            CellKind::Lstm => ("lstm", 0, 4),
        };
        Some(Self { name, variant, gates, kept, has_cell: kind == CellKind::Lstm })
    }
}
