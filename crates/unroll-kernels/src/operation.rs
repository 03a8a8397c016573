//! A recurrent layer as one node of candle's graph.
//!
//! A custom operation of candle takes three tensors at most and gives one; a layer takes nine and
//! gives three. Copies into one tensor and out of it would cost as much as a step of a small layer,
//! so the tensors travel beside the graph: the operation holds its parameters and states, and its
//! second argument is a single number that joins them to the graph. Joins pass gradients on from
//! [`Slots`], where the operation's backward pass leaves them; candle walks the graph from outputs to
//! inputs, so they are there in time. In the same way the last states take theirs to the operation.

use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Storage, Tensor, WithDType,
    bail,
};

use crate::buffers::{Dims, TimeOrder};
use crate::fused::{self, Call, Wanted};
use crate::gru::Gru;
use crate::isa::Isa;
use crate::lstm::Lstm;
use crate::real::Real;
use crate::recurrent::{CellKind, Layer, LayerOutput};
use crate::rnn::Rnn;
use crate::sequence::{self, Gradients, Inputs, OutputGradients, Weights};
use crate::threads::lock;
use crate::{is_half, widened};

#[cfg(feature = "cuda")]
mod cuda;

/// Places of the tensors beside the graph.
const PARTS: usize = 8;
const WEIGHT_IH: usize = 0;
const WEIGHT_HH: usize = 1;
const BIAS_IH: usize = 2;
const BIAS_HH: usize = 3;
const HIDDEN: usize = 4;
const CELL: usize = 5;
const PROBE_HIDDEN: usize = 6;
const PROBE_CELL: usize = 7;

/// Runs a layer whose shapes have been checked.
pub(crate) fn apply(
    layer: &Layer<'_>,
    dims: Dims,
    order: TimeOrder,
    isa: Isa,
) -> Result<LayerOutput> {
    let parts = [
        Some(layer.weight_ih),
        Some(layer.weight_hh),
        layer.bias_ih,
        layer.bias_hh,
        Some(layer.hidden),
        layer.cell,
        layer.probe_hidden,
        layer.probe_cell,
    ];
    let dtype = layer.input.dtype();
    let wide = |tensor: &Tensor| tensor.to_dtype(widened(tensor.dtype()))?.contiguous();
    let input = wide(layer.input)?;
    let slots = Arc::<Mutex<Slots>>::default();
    let mut kept: [Option<Tensor>; PARTS] = Default::default();
    let mut joined = Tensor::zeros(1, input.dtype(), input.device())?;
    for (index, part) in parts.into_iter().enumerate() {
        let Some(part) = part else { continue };
        let part = wide(part)?;
        if part.track_op() {
            joined = joined.apply_op2(&part, Join { slots: slots.clone(), index })?;
        }
        kept[index] = Some(part);
    }
    let operation = Operation {
        kind: layer.kind,
        dims,
        order,
        isa,
        parts: kept,
        keep: input.track_op() || joined.track_op(),
        half: is_half(dtype),
        slots: slots.clone(),
    };
    let output = input.apply_op2(&joined, operation)?;
    let last = |index| output.apply_op1(LastState { slots: slots.clone(), index })?.to_dtype(dtype);
    let hidden = last(0)?;
    let cell = if layer.kind == CellKind::Lstm { Some(last(1)?) } else { None };
    Ok(LayerOutput { output: output.to_dtype(dtype)?, hidden, cell })
}

/// What passes beside the graph between the nodes of one layer.
#[derive(Default)]
struct Slots {
    saved: Option<AnySaved>,
    /// The last hidden and cell state, from the operation to their nodes.
    last: [Option<(State, Shape)>; 2],
    /// Their gradients, on the way back.
    last_gradients: [Option<Tensor>; 2],
    /// Gradients of the parts.
    gradients: [Option<Tensor>; PARTS],
}

/// A last state, on its way to its node.
enum State {
    Cpu(CpuStorage),
    #[cfg(feature = "cuda")]
    Cuda(candle_core::CudaStorage),
}

/// Joins one part to the graph: yields one number, and the part's gradient in the backward pass.
struct Join {
    slots: Arc<Mutex<Slots>>,
    index: usize,
}

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "recurrent_part"
    }

    fn cpu_fwd(
        &self,
        joined: &CpuStorage,
        layout: &Layout,
        _part: &CpuStorage,
        _part_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((joined.try_clone(layout)?, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        joined: &candle_core::CudaStorage,
        layout: &Layout,
        _part: &candle_core::CudaStorage,
        _part_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        Self::on_gpu(joined, layout)
    }

    fn bwd(
        &self,
        joined: &Tensor,
        part: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = lock(&self.slots).gradients[self.index].take();
        let gradient = match gradient {
            Some(gradient) => gradient,
            None => part.zeros_like()?,
        };
        Ok((joined.track_op().then(|| grad.clone()), Some(gradient)))
    }
}

/// A last state: comes from, and takes its gradient to, the slots.
struct LastState {
    slots: Arc<Mutex<Slots>>,
    index: usize,
}

impl CustomOp1 for LastState {
    fn name(&self) -> &'static str {
        "recurrent_last_state"
    }

    fn cpu_fwd(&self, _output: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match lock(&self.slots).last[self.index].take() {
            Some((State::Cpu(state), shape)) => Ok((state, shape)),
            _ => bail!("a recurrent layer gives its last state once, on its device"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        _output: &candle_core::CudaStorage,
        _layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu()
    }

    fn bwd(&self, output: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        lock(&self.slots).last_gradients[self.index] = Some(grad.contiguous()?);
        Ok(Some(output.zeros_like()?))
    }
}

/// What forward kept, by element type.
enum AnySaved {
    F32(fused::Saved),
    F64(sequence::Saved<f64>),
    #[cfg(feature = "cuda")]
    Gpu(crate::gpu::recurrent::Kept<candle_core::cuda_backend::cudarc::driver::CudaSlice<f32>>),
    #[cfg(feature = "cudnn")]
    Library(crate::gpu::recurrent::library::Reserve),
}

/// Results of forward.
struct Forward<F> {
    output: Vec<F>,
    hidden: Vec<F>,
    cell: Vec<F>,
    saved: Option<AnySaved>,
}

/// Everything that an operation reads.
#[derive(Clone, Copy)]
struct Arguments<'a, F> {
    weights: Weights<'a, F>,
    inputs: Inputs<'a, F>,
}

/// What the output yields, and what arrives there.
#[derive(Clone, Copy)]
struct Incoming<'a, F> {
    /// Forward's output.
    output: &'a [F],
    gradients: OutputGradients<'a, F>,
}

/// An element type with its way of running a layer.
trait Element: Real + WithDType {
    fn forward(op: &Operation, args: &Arguments<'_, Self>, keep: bool) -> Forward<Self>;

    /// `saved` is what forward kept, or `None` to compute it again.
    fn backward(
        op: &Operation,
        args: &Arguments<'_, Self>,
        saved: Option<AnySaved>,
        from: &Incoming<'_, Self>,
        wanted: Wanted,
    ) -> Gradients<Self>;
}

impl Element for f32 {
    fn forward(op: &Operation, args: &Arguments<'_, Self>, keep: bool) -> Forward<Self> {
        #[cfg(feature = "planted")]
        let begin = std::time::Instant::now();
        let result = fused::forward(&op.call(args), keep);
        #[cfg(feature = "planted")]
        {
            crate::planted::extra_pass(&result.output);
            crate::planted::slow_down(begin);
        }
        Forward {
            output: result.output,
            hidden: result.hidden,
            cell: result.cell,
            saved: result.saved.map(AnySaved::F32),
        }
    }

    fn backward(
        op: &Operation,
        args: &Arguments<'_, Self>,
        mut saved: Option<AnySaved>,
        from: &Incoming<'_, Self>,
        wanted: Wanted,
    ) -> Gradients<Self> {
        loop {
            match saved {
                Some(AnySaved::F32(saved)) => {
                    let (call, from) = (op.call(args), from);
                    return fused::backward(&call, from.output, saved, &from.gradients, wanted);
                }
                _ => saved = Self::forward(op, args, true).saved,
            }
        }
    }
}

/// Runs a generic function with the generic cell.
macro_rules! with_cell {
    ($kind:expr, $run:path, $($arg:expr),*) => {
        match $kind {
            CellKind::Rnn(phi) => $run(&Rnn(phi), $($arg),*),
            CellKind::Gru(reset, update) => $run(&Gru { reset, update }, $($arg),*),
            CellKind::Lstm => $run(&Lstm, $($arg),*),
        }
    };
}

impl Element for f64 {
    fn forward(op: &Operation, args: &Arguments<'_, Self>, keep: bool) -> Forward<Self> {
        let (dims, order) = (&op.dims, &op.order);
        let (mut output, saved) =
            with_cell!(op.kind, sequence::forward, dims, order, &args.weights, &args.inputs);
        let state = dims.batch * dims.hidden;
        let mut hidden = output.split_off(state * dims.steps);
        let cell = hidden.split_off(state);
        Forward { output, hidden, cell, saved: keep.then_some(AnySaved::F64(saved)) }
    }

    fn backward(
        op: &Operation,
        args: &Arguments<'_, Self>,
        mut saved: Option<AnySaved>,
        from: &Incoming<'_, Self>,
        wanted: Wanted,
    ) -> Gradients<Self> {
        let (dims, order, w) = (&op.dims, &op.order, &args.weights);
        let zeros =
            |grad: &[Self], size| if grad.is_empty() { vec![0.0; size] } else { grad.to_vec() };
        let state = dims.batch * dims.hidden;
        let hidden = zeros(from.gradients.hidden, state);
        let cell = zeros(from.gradients.cell, if op.kind == CellKind::Lstm { state } else { 0 });
        let grads = OutputGradients { output: from.gradients.output, hidden: &hidden, cell: &cell };
        let probes = (wanted.probe_hidden, wanted.probe_cell);
        loop {
            match saved {
                Some(AnySaved::F64(saved)) => {
                    let run = (saved, &grads, wanted.x, probes);
                    let (kept, grads, x, probes) = run;
                    return with_cell!(
                        op.kind,
                        sequence::backward,
                        dims,
                        order,
                        w,
                        kept,
                        grads,
                        x,
                        probes
                    );
                }
                _ => saved = Self::forward(op, args, true).saved,
            }
        }
    }
}

/// The operation: from the input and the joined parts to the outputs `(B, T, H)`.
struct Operation {
    kind: CellKind,
    dims: Dims,
    order: TimeOrder,
    isa: Isa,
    /// Contiguous.
    parts: [Option<Tensor>; PARTS],
    /// Whether anything asks for gradients.
    keep: bool,
    /// Whether the layer's own type has 16 bits. Products on a GPU may then round what they read to TF32,
    /// which has more.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for GPUs"))]
    half: bool,
    slots: Arc<Mutex<Slots>>,
}

impl Operation {
    fn call<'a>(&'a self, args: &Arguments<'a, f32>) -> Call<'a> {
        Call {
            isa: self.isa,
            kind: self.kind,
            dims: self.dims,
            order: &self.order,
            weights: args.weights,
            inputs: args.inputs,
        }
    }

    /// Calls `run` with the values of the input and of all parts.
    fn with_arguments<F: Element, R>(
        &self,
        x: &[F],
        run: impl FnOnce(&Arguments<'_, F>) -> R,
    ) -> Result<R> {
        let guards =
            self.parts.each_ref().map(|part| part.as_ref().map(Tensor::storage_and_layout));
        let mut slices = [&[] as &[F]; PARTS];
        for (slice, guard) in slices.iter_mut().zip(&guards) {
            if let Some((storage, layout)) = guard {
                *slice = values(storage, layout)?;
            }
        }
        Ok(run(&Arguments {
            weights: Weights {
                weight_ih: slices[WEIGHT_IH],
                weight_hh: slices[WEIGHT_HH],
                bias_ih: slices[BIAS_IH],
                bias_hh: slices[BIAS_HH],
            },
            inputs: Inputs {
                x,
                hidden: slices[HIDDEN],
                cell: slices[CELL],
                probe_hidden: slices[PROBE_HIDDEN],
                probe_cell: slices[PROBE_CELL],
            },
        }))
    }

    fn run<F: Element>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu_values::<F>(x, layout)?;
        let result = self.with_arguments(x, |args| F::forward(self, args, self.keep))?;
        let Dims { batch, steps, hidden, .. } = self.dims;
        let state = |values: Vec<F>| {
            Some((State::Cpu(Real::storage(values)), Shape::from((batch, hidden))))
        };
        let mut slots = lock(&self.slots);
        slots.saved = result.saved;
        slots.last = [state(result.hidden), state(result.cell)];
        Ok((Real::storage(result.output), Shape::from((batch, steps, hidden))))
    }

    fn gradients<F: Element>(
        &self,
        x: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let (saved, last) = {
            let mut slots = lock(&self.slots);
            // Backward uses up what forward kept; a second backward pass computes it again.
            (slots.saved.take(), std::mem::take(&mut slots.last_gradients))
        };
        let tracked = |part: usize| self.parts[part].as_ref().is_some_and(Tensor::track_op);
        let wanted = Wanted {
            x: x.track_op(),
            weight_ih: tracked(WEIGHT_IH),
            weight_hh: tracked(WEIGHT_HH),
            probe_hidden: tracked(PROBE_HIDDEN),
            probe_cell: tracked(PROBE_CELL),
        };
        let grad = grad.contiguous()?;
        let (x_guard, res_guard) = (x.storage_and_layout(), res.storage_and_layout());
        let grad_guard = grad.storage_and_layout();
        let last_guards = last.each_ref().map(|t| t.as_ref().map(Tensor::storage_and_layout));
        let mut last_values = [&[] as &[F]; 2];
        for (slice, guard) in last_values.iter_mut().zip(&last_guards) {
            if let Some((storage, layout)) = guard {
                *slice = values(storage, layout)?;
            }
        }
        let from = Incoming {
            output: values(&res_guard.0, res_guard.1)?,
            gradients: OutputGradients {
                output: values(&grad_guard.0, grad_guard.1)?,
                hidden: last_values[0],
                cell: last_values[1],
            },
        };
        let x_values = values(&x_guard.0, x_guard.1)?;
        let result =
            self.with_arguments(x_values, |args| F::backward(self, args, saved, &from, wanted))?;

        let gradients = [
            result.weight_ih,
            result.weight_hh,
            result.bias_ih,
            result.bias_hh,
            result.hidden,
            result.cell,
            result.probe_hidden,
            result.probe_cell,
        ];
        let mut slots = lock(&self.slots);
        for (index, gradient) in gradients.into_iter().enumerate() {
            if let Some(part) = self.parts[index].as_ref().filter(|part| part.track_op()) {
                let gradient = Tensor::from_vec(gradient, part.shape(), part.device())?;
                slots.gradients[index] = Some(gradient);
            }
        }
        if wanted.x {
            Ok(Some(Tensor::from_vec(result.x, x.shape(), x.device())?))
        } else {
            Ok(None)
        }
    }
}

/// The values of a contiguous tensor on the CPU.
fn values<'a, F: Element>(storage: &'a Storage, layout: &Layout) -> Result<&'a [F]> {
    match storage {
        Storage::Cpu(storage) => cpu_values(storage, layout),
        _ => bail!("the parts of a recurrent layer are on different devices"),
    }
}

fn cpu_values<'a, F: Element>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [F]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the recurrent operation needs contiguous tensors")
    };
    Ok(&<F as Real>::slice(storage)?[start..end])
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        match self.kind {
            CellKind::Rnn(_) => "rnn_sequence",
            CellKind::Gru(..) => "gru_sequence",
            CellKind::Lstm => "lstm_sequence",
        }
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        _joined: &CpuStorage,
        _joined_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match x.dtype() {
            DType::F32 => self.run::<f32>(x, layout),
            DType::F64 => self.run::<f64>(x, layout),
            other => bail!("the recurrent operation runs on f32 and f64, not {other:?}"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        layout: &Layout,
        _joined: &candle_core::CudaStorage,
        _joined_layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(x, layout)
    }

    fn bwd(
        &self,
        x: &Tensor,
        joined: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = match x.dtype() {
            #[cfg(feature = "cuda")]
            _ if x.device().is_cuda() => self.gradients_on_gpu(x, res, grad)?,
            DType::F32 => self.gradients::<f32>(x, res, grad)?,
            DType::F64 => self.gradients::<f64>(x, res, grad)?,
            other => bail!("the recurrent operation runs on f32 and f64, not {other:?}"),
        };
        let joined = if joined.track_op() { Some(joined.zeros_like()?) } else { None };
        Ok((gradient, joined))
    }
}
