//! The states along one sequence, and adjoints pulled back from one of them to an earlier one.

use std::ops::Range;

use candle_core::{DType, Tensor, Var};
use nalgebra::DMatrix;
use unroll_core::{Form, ForwardArgs, SequenceModel, State, StateTensor};

use crate::{Error, Result, Stop};

/// Most adjoints that are pulled back at once: enough to fill the products, few enough to bound the
/// memory of large states.
const ADJOINTS: usize = 256;

/// Where one tensor of the state lies in the flat state of an example.
#[derive(Debug, Clone)]
struct Part {
    name: &'static str,
    /// Shape for one example.
    dims: Vec<usize>,
    batch_axis: usize,
    offset: usize,
    size: usize,
}

/// How the state of one example is laid out flat: tensor by tensor in the model's order.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    parts: Vec<Part>,
    size: usize,
}

impl Layout {
    /// # Errors
    /// When the model has no recurrent state of fixed size in f64.
    pub(super) fn of(body: &dyn SequenceModel) -> Result<Self> {
        if !body.is_causal() {
            return Err(Error::Unsupported(
                "a model that reads backwards has no state that leads from one step to the next; \
                 measure its input gradients with `gradient_decay`, or a causal model"
                    .into(),
            ));
        }
        if body.dtype() != DType::F64 {
            return Err(Error::Unsupported(format!(
                "Jacobians are measured in f64, the model is in {:?}; measure a copy of it, as \
                 `f64_body` makes",
                body.dtype()
            )));
        }
        let (mut parts, mut size) = (Vec::new(), 0);
        for StateTensor { name, tensor, batch_axis, time_axis } in body.zero_state(1)?.tensors() {
            if time_axis.is_some() {
                return Err(Error::Unsupported(format!(
                    "the state `{name}` grows with every step, so that its Jacobian between two \
                     steps is not square; measure a model whose state has a fixed size (RNN, GRU, \
                     LSTM, linear attention), or input gradients with `gradient_decay`"
                )));
            }
            if tensor.dtype() != DType::F64 {
                return Err(Error::Unsupported(format!(
                    "the state `{name}` is in {:?}; Jacobians need a state in f64",
                    tensor.dtype()
                )));
            }
            let elements = tensor.elem_count();
            parts.push(Part {
                name,
                dims: tensor.dims().to_vec(),
                batch_axis: *batch_axis,
                offset: size,
                size: elements,
            });
            size += elements;
        }
        if size == 0 {
            return Err(Error::Unsupported(
                "the model keeps no state between steps; measure a recurrent model".into(),
            ));
        }
        Ok(Self { parts, size })
    }

    /// State elements of one example.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Where the top layer's part of the state called `name` lies, which is `(L, B, H)`.
    pub(super) fn top_layer(&self, name: &str) -> Option<Range<usize>> {
        let part = self.parts.iter().find(|part| part.name == name)?;
        let [_, 1, hidden] = *part.dims else { return None };
        let end = part.offset + part.size;
        (part.batch_axis == 1).then_some(end - hidden..end)
    }

    /// The states of a batch as rows, `(B, size)`.
    fn rows(&self, state: &State) -> Result<Tensor> {
        let rows = self.parts.iter().zip(state.tensors()).map(|(part, tensor)| part.rows(tensor));
        Ok(Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 1)?)
    }
}

impl Part {
    /// `(B, size)`.
    fn rows(&self, StateTensor { tensor, .. }: &StateTensor) -> Result<Tensor> {
        let batch = tensor.dim(self.batch_axis)?;
        let rows = tensor.transpose(0, self.batch_axis)?.contiguous()?;
        Ok(rows.reshape((batch, self.size))?)
    }
}

/// The states of one example that lie before the last steps.
pub(super) struct Trajectory<'a> {
    body: &'a dyn SequenceModel,
    form: Form,
    layout: Layout,
    /// `(1, T, I)`.
    input: Tensor,
    /// `s_t` for `t` from `T - states.len()` to `T - 1`.
    states: Vec<State>,
    /// The form that ran.
    ran: &'static str,
    stop: Stop<'a>,
}

impl<'a> Trajectory<'a> {
    /// Runs the model from the zero state over `(1, T, I)` and keeps the states before each of the
    /// last `window` steps.
    ///
    /// # Errors
    /// When the model cannot run on the input, or a state is not finite.
    pub(super) fn record(
        body: &'a dyn SequenceModel,
        layout: &Layout,
        input: Tensor,
        window: usize,
        form: Form,
        stop: Stop<'a>,
    ) -> Result<Self> {
        let steps = input.dim(1)?;
        let first = steps - window;
        let mut state = body.zero_state(1)?;
        let mut ran = form.name();
        let mut advance = |state: &State, start, count| -> Result<State> {
            let input = input.narrow(1, start, count)?;
            let args = ForwardArgs { state: Some(state), form, ..ForwardArgs::new(&input) };
            let output = body.forward(&args)?;
            ran = output.form;
            Ok(output.state.detach())
        };
        if first > 0 {
            state = advance(&state, 0, first)?;
        }
        let mut states = Vec::with_capacity(window);
        for t in first..steps {
            stop.check()?;
            let next = advance(&state, t, 1)?;
            unroll_core::weights::check_finite(
                &format!("state after step {}", t + 1),
                &layout.rows(&next)?,
            )?;
            states.push(std::mem::replace(&mut state, next));
        }
        Ok(Self { body, form, layout: layout.clone(), input, states, ran, stop })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The implementation that ran.
    pub(super) fn form(&self) -> &'static str {
        self.ran
    }

    /// `(ds_(T-k)/ds_(T-k-1))^T`, where `k` is `distance - 1`: the transposed Jacobian of the step
    /// that leads from distance `distance` to one less.
    pub(super) fn transposed_step(&self, distance: usize) -> Result<DMatrix<f64>> {
        let size = self.layout.size;
        self.pull_back(distance, 1, &DMatrix::identity(size, size))
    }

    /// Columns `v` at distance `distance - steps` from the end to `(ds'/ds)^T v` at `distance`.
    pub(super) fn pull_back(
        &self,
        distance: usize,
        steps: usize,
        adjoints: &DMatrix<f64>,
    ) -> Result<DMatrix<f64>> {
        let mut pulled = Vec::with_capacity(adjoints.len());
        for first in (0..adjoints.ncols()).step_by(ADJOINTS) {
            let count = ADJOINTS.min(adjoints.ncols() - first);
            // Columns lie one after the other: they are the rows of a batch of copies.
            let of_columns = first * self.layout.size..(first + count) * self.layout.size;
            let rows = &adjoints.as_slice()[of_columns];
            pulled.extend(self.pull_back_rows(distance, steps, rows, count)?);
        }
        Ok(DMatrix::from_vec(self.layout.size, adjoints.ncols(), pulled))
    }

    /// One copy of the example for each adjoint: one backward pass then gives all of them.
    fn pull_back_rows(
        &self,
        distance: usize,
        steps: usize,
        adjoints: &[f64],
        copies: usize,
    ) -> Result<Vec<f64>> {
        self.stop.check()?;
        let Layout { parts, size } = &self.layout;
        let before = &self.states[self.states.len() - distance];
        let vars = parts
            .iter()
            .zip(before.tensors())
            .map(|(part, StateTensor { tensor, .. })| {
                let mut shape = part.dims.clone();
                shape[part.batch_axis] = copies;
                Ok(Var::from_tensor(&tensor.broadcast_as(shape)?.contiguous()?)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let with_vars = |values: Vec<Tensor>| {
            let tensors = before.tensors().iter().zip(values);
            let tensors = tensors.map(|(old, tensor)| StateTensor { tensor, ..old.clone() });
            State::new(tensors.collect(), before.steps())
        };
        let state = with_vars(vars.iter().map(|var| var.as_tensor().clone()).collect());
        let start = self.input.dim(1)? - distance;
        let input = self.input.narrow(1, start, steps)?;
        let input = input.broadcast_as((copies, steps, input.dim(2)?))?.contiguous()?;
        let args = ForwardArgs { state: Some(&state), form: self.form, ..ForwardArgs::new(&input) };
        let after = self.layout.rows(&self.body.forward(&args)?.state)?;
        let adjoints = Tensor::from_slice(adjoints, (copies, *size), after.device())?;
        let gradients = (after * adjoints)?.sum_all()?.backward()?;
        let gradients = vars
            .iter()
            .map(|var| match gradients.get(var) {
                Some(gradient) => Ok(gradient.clone()),
                // A part of the state that the next one does not depend on.
                None => Ok(var.zeros_like()?),
            })
            .collect::<Result<Vec<_>>>()?;
        let pulled = self.layout.rows(&with_vars(gradients))?;
        unroll_core::weights::check_finite(&format!("Jacobian at distance {distance}"), &pulled)?;
        Ok(pulled.flatten_all()?.to_vec1()?)
    }
}
