//! The recurrent operation on a GPU.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Layout, Result, Shape, Storage, Tensor, bail};

use super::{
    AnySaved, BIAS_HH, BIAS_IH, CELL, HIDDEN, Join, LastState, Operation, PARTS, PROBE_CELL,
    PROBE_HIDDEN, State, WEIGHT_HH, WEIGHT_IH,
};
use crate::gpu::machine::{Place, cuda::Gpu};
use crate::gpu::recurrent as gpu;
use crate::gpu::recurrent::{Arguments, Incoming, Lengths, Wanted};
use crate::threads::lock;

fn values<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<(&'a CudaSlice<f32>, usize)> {
    match (layout.contiguous_offsets(), storage.dtype()) {
        (Some((start, _)), DType::F32) => Ok((storage.as_cuda_slice::<f32>()?, start)),
        (None, _) => bail!("the recurrent operation needs contiguous tensors"),
        (_, other) => bail!("the recurrent operation on a GPU runs on f32, not {other:?}"),
    }
}

/// Where a tensor's numbers are.
fn place(gpu: &Gpu, tensor: &Tensor) -> Result<Place> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("the parts of a recurrent layer are on different devices")
    };
    let (slice, offset) = values(storage, layout)?;
    Ok(gpu.place_of(slice, offset))
}

fn storage(device: &CudaDevice, slice: CudaSlice<f32>) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(slice, device.clone())
}

/// What forward gives, with what it keeps for backward.
struct OnGpu {
    output: CudaSlice<f32>,
    hidden: CudaSlice<f32>,
    cell: Option<CudaSlice<f32>>,
    saved: Option<AnySaved>,
}

impl Join {
    pub(super) fn on_gpu(joined: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((joined.try_clone(layout)?, layout.shape().clone()))
    }
}

impl LastState {
    pub(super) fn on_gpu(&self) -> Result<(CudaStorage, Shape)> {
        match lock(&self.slots).last[self.index].take() {
            Some((State::Cuda(state), shape)) => Ok((state, shape)),
            _ => bail!("a recurrent layer gives its last state once, on its device"),
        }
    }
}

impl Operation {
    /// Calls `run` with the places of everything that the operation reads.
    fn with_places<R>(
        &self,
        gpu: &Gpu,
        input: Place,
        run: impl FnOnce(&Arguments) -> Result<R>,
    ) -> Result<R> {
        let Some(cell) = gpu::Cell::of(self.kind) else {
            bail!("there is no GPU kernel for {:?}", self.kind)
        };
        let mut places = [Place::NULL; PARTS];
        for (to, part) in places.iter_mut().zip(&self.parts) {
            if let Some(part) = part {
                *to = place(gpu, part)?;
            }
        }
        let dims = self.dims;
        let all = self.order.lengths.iter().all(|&length| length == dims.steps);
        let lengths: Vec<i32> = self.order.lengths.iter().map(|&length| length as i32).collect();
        let lengths = if all { None } else { Some(gpu.upload(&lengths)?) };
        run(&Arguments {
            cell,
            shape: gpu::Shape {
                batch: dims.batch,
                steps: dims.steps,
                inputs: dims.inputs,
                hidden: dims.hidden,
            },
            reverse: self.order.reverse,
            lengths: lengths.as_ref().map_or(Lengths::All, |l| Lengths::At(gpu.place_of(l, 0))),
            input,
            weight_ih: places[WEIGHT_IH],
            weight_hh: places[WEIGHT_HH],
            bias_ih: places[BIAS_IH],
            bias_hh: places[BIAS_HH],
            hidden: places[HIDDEN],
            cell_state: places[CELL],
            probe_hidden: places[PROBE_HIDDEN],
            probe_cell: places[PROBE_CELL],
        })
    }

    pub(super) fn on_gpu(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = x.device();
        let gpu = Gpu::new(device, self.half)?;
        let (slice, offset) = values(x, layout)?;
        let place = gpu.place_of(slice, offset);
        let result = self.with_places(&gpu, place, |args| self.forward_on_gpu(&gpu, args))?;
        let (batch, steps, hidden) = (self.dims.batch, self.dims.steps, self.dims.hidden);
        let state = |slice| (State::Cuda(storage(device, slice)), Shape::from((batch, hidden)));
        let mut slots = lock(&self.slots);
        slots.saved = result.saved;
        slots.last = [Some(state(result.hidden)), result.cell.map(state)];
        Ok((storage(device, result.output), Shape::from((batch, steps, hidden))))
    }

    fn forward_on_gpu(&self, gpu: &Gpu, args: &Arguments) -> Result<OnGpu> {
        #[cfg(feature = "cudnn")]
        if let Some(algorithm) = gpu::library::wins(gpu, args, self.keep)? {
            let gpu::library::Forward { output, hidden, cell, kept } =
                gpu::library::forward(gpu, args, algorithm, self.keep)?;
            return Ok(OnGpu { output, hidden, cell, saved: kept.map(AnySaved::Library) });
        }
        let gpu::Forward { output, hidden, cell, kept } = gpu::forward(gpu, args)?;
        Ok(OnGpu { output, hidden, cell, saved: self.keep.then_some(AnySaved::Gpu(kept)) })
    }

    pub(super) fn gradients_on_gpu(
        &self,
        x: &Tensor,
        res: &Tensor,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let candle_core::Device::Cuda(device) = x.device() else {
            bail!("the recurrent operation's input is not on a GPU")
        };
        let gpu = Gpu::new(device, self.half)?;
        let (saved, last) = {
            let mut slots = lock(&self.slots);
            (slots.saved.take(), std::mem::take(&mut slots.last_gradients))
        };
        let tracked = |part: usize| self.parts[part].as_ref().is_some_and(Tensor::track_op);
        let wanted = Wanted {
            input: x.track_op(),
            weight_ih: tracked(WEIGHT_IH),
            weight_hh: tracked(WEIGHT_HH),
            biases: tracked(BIAS_IH) || tracked(BIAS_HH),
            probe_hidden: tracked(PROBE_HIDDEN),
            probe_cell: tracked(PROBE_CELL),
        };
        let grad = grad.contiguous()?;
        let arriving = |index: usize| match &last[index] {
            Some(gradient) => place(&gpu, gradient),
            None => Ok(Place::NULL),
        };
        let from = Incoming {
            output: place(&gpu, res)?,
            grad_output: place(&gpu, &grad)?,
            grad_hidden: arriving(0)?,
            grad_cell: arriving(1)?,
        };
        let result = self.with_places(&gpu, place(&gpu, x)?, |args| {
            let kept = match saved {
                #[cfg(feature = "cudnn")]
                Some(AnySaved::Library(kept)) => {
                    return gpu::library::backward(&gpu, args, &kept, &from, wanted);
                }
                Some(AnySaved::Gpu(kept)) => kept,
                // Backward uses up what forward kept; a second backward pass computes it again.
                _ => gpu::forward(&gpu, args)?.kept,
            };
            gpu::backward(&gpu, args, kept, &from, wanted)
        })?;
        let tensor = |slice: CudaSlice<f32>, shape: &Shape| {
            let storage = Storage::Cuda(storage(gpu.device(), slice));
            Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false)
        };
        let gradients = [
            result.weight_ih,
            result.weight_hh,
            result.bias_ih,
            result.bias_hh,
            Some(result.hidden),
            result.cell,
            result.probe_hidden,
            result.probe_cell,
        ];
        let mut slots = lock(&self.slots);
        for (index, gradient) in gradients.into_iter().enumerate() {
            let part = self.parts[index].as_ref().filter(|part| part.track_op());
            if let (Some(part), Some(gradient)) = (part, gradient) {
                slots.gradients[index] = Some(tensor(gradient, part.shape()));
            }
        }
        Ok(result.input.map(|input| tensor(input, x.shape())))
    }
}
