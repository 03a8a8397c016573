//! Attention on a GPU.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Device, Layout, Result, Shape, Storage, Tensor, bail};

use super::choice::{self, Clock, Key, Policy, Way};
use super::{AttentionArgs, AttentionOp, PackedOp, Sizes, fused, fused_packed, operations};
use crate::gpu::attention as gpu;
use crate::gpu::attention::{Operands, Rows, Task};
use crate::gpu::machine::cuda::Gpu;
use crate::gpu::machine::{Machine, Place};

fn slice(storage: &CudaStorage) -> Result<&CudaSlice<f32>> {
    match storage.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>(),
        other => bail!("attention on a GPU runs on f32, not {other:?}"),
    }
}

fn wrap(device: &CudaDevice, slice: CudaSlice<f32>) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(slice, device.clone())
}

fn tensor(device: &CudaDevice, slice: CudaSlice<f32>, shape: &Shape) -> Tensor {
    let storage = Storage::Cuda(wrap(device, slice));
    Tensor::from_storage(storage, shape.clone(), BackpropOp::none(), false)
}

/// Where a tensor's first number is.
fn first(gpu: &Gpu, tensor: &Tensor) -> Result<Place> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("the parts of an attention are on different devices")
    };
    Ok(gpu.place_of(slice(storage)?, layout.start_offset()))
}

/// `(B, N, rows, features)` as it lies.
fn rows(gpu: &Gpu, storage: &CudaStorage, layout: &Layout) -> Result<Rows> {
    let [batch, head, row, _] = *layout.stride() else {
        bail!("attention reads tensors of four axes");
    };
    let [batch, head, row] = [batch, head, row].map(|stride| stride as i64);
    Ok(Rows { place: gpu.place_of(slice(storage)?, layout.start_offset()), batch, head, row })
}

fn rows_of(gpu: &Gpu, tensor: &Tensor) -> Result<Rows> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => rows(gpu, storage, layout),
        _ => bail!("the parts of an attention are on different devices"),
    }
}

impl Clock for Gpu {
    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
        Machine::time(self, run)
    }

    fn alive(&self) -> Result<()> {
        Machine::alive(self)
    }
}

fn policy() -> Result<Policy> {
    static TEXT: OnceLock<Option<String>> = OnceLock::new();
    Policy::parse(TEXT.get_or_init(|| std::env::var("UNROLL_GPU_ATTENTION").ok()).as_deref())
}

impl AttentionOp {
    /// Whether tuning finds candle's operations faster than the one here.
    pub(super) fn is_faster_by_candle(&self, args: &AttentionArgs<'_>) -> Result<bool> {
        self.is_slower(&[args.queries, args.keys, args.values], &|way, inputs| {
            let [queries, keys, values] = inputs else { bail!("three tensors") };
            let args = AttentionArgs { queries, keys, values, ..*args };
            match way {
                Way::Fused => fused(Self::of(self.problem.clone(), self.half), &args),
                Way::Candle => operations::attention(&args),
            }
        })
    }

    /// The same for queries, keys and values in one tensor.
    pub(super) fn is_faster_by_candle_packed(&self, packed: &Tensor) -> Result<bool> {
        let problem = &self.problem;
        self.is_slower(&[packed], &|way, inputs| {
            let [packed] = inputs else { bail!("one tensor") };
            let lengths = problem.lengths.as_deref();
            match way {
                Way::Fused => fused_packed(Self::of(problem.clone(), self.half), packed),
                Way::Candle => operations::self_attention(
                    packed,
                    problem.sizes.heads,
                    problem.scale,
                    problem.mask,
                    lengths,
                ),
            }
        })
    }

    fn is_slower(
        &self,
        inputs: &[&Tensor],
        attend: &dyn Fn(Way, &[Tensor]) -> Result<Tensor>,
    ) -> Result<bool> {
        let Device::Cuda(device) = inputs[0].device() else { return Ok(false) };
        if policy()? != Policy::Tuned {
            return Ok(false);
        }
        let gpu = Gpu::new(device, self.half)?;
        let (sizes, window) = Key::shape(self.problem.sizes, self.problem.mask);
        let key = Key {
            device: gpu.name(),
            sizes,
            window,
            lengths: self.problem.lengths.is_some(),
            packed: inputs.len() == 1,
            gradients: inputs.iter().any(|x| x.track_op()),
            half: self.half,
            tf32: gpu.tf32(),
        };
        Ok(choice::choose(key, &gpu, inputs, attend)? == Way::Candle)
    }

    /// Calls `run` with what is to be done.
    fn with_task<R>(&self, gpu: &Gpu, run: impl FnOnce(&Task) -> Result<R>) -> Result<R> {
        let problem = &self.problem;
        let lengths = match &problem.lengths {
            Some(lengths) => {
                let lengths: Vec<i32> = lengths.iter().map(|&length| length as i32).collect();
                Some(gpu.upload(&lengths)?)
            }
            None => None,
        };
        run(&Task {
            sizes: problem.sizes,
            mask: problem.mask,
            lengths: lengths.as_ref().map_or(Place::NULL, |lengths| gpu.place_of(lengths, 0)),
            scale: problem.scale,
            rounded: gpu.tf32(),
        })
    }

    fn log_sums(&self) -> Result<&CudaSlice<f32>> {
        match self.statistics.get().and_then(|any| any.downcast_ref()) {
            Some(log_sums) => Ok(log_sums),
            None => bail!("backward of an attention that never ran forward"),
        }
    }

    pub(super) fn on_gpu(
        &self,
        operands: [(&CudaStorage, &Layout); 3],
    ) -> Result<(CudaStorage, Shape)> {
        let Sizes { batch, heads, queries, value_size, .. } = self.problem.sizes;
        let device = operands[0].0.device();
        let gpu = Gpu::new(device, self.half)?;
        let out = gpu.allocate(batch * heads * queries * value_size)?;
        let [queries_at, keys, values] =
            operands.map(|(storage, layout)| rows(&gpu, storage, layout));
        let operands = Operands {
            queries: queries_at?,
            keys: keys?,
            values: values?,
            out: Rows::contiguous(gpu.place(&out), heads, queries, value_size),
        };
        let log_sums = self.with_task(&gpu, |task| gpu::forward(&gpu, task, &operands))?;
        // Set once: an operation runs forward once.
        let _ = self.statistics.set(Box::new(log_sums));
        Ok((wrap(device, out), Shape::from((batch, heads, queries, value_size))))
    }

    pub(super) fn gradients_on_gpu(
        &self,
        device: &CudaDevice,
        args: [&Tensor; 3],
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let gpu = Gpu::new(device, self.half)?;
        let gradient = gradient.contiguous()?;
        let heads = self.problem.sizes.heads;
        let operands = Operands {
            queries: rows_of(&gpu, args[0])?,
            keys: rows_of(&gpu, args[1])?,
            values: rows_of(&gpu, args[2])?,
            out: rows_of(&gpu, out)?,
        };
        let new = |like: &Tensor| -> Result<(CudaSlice<f32>, Rows)> {
            let (_, _, rows, width) = like.dims4()?;
            let slice = gpu.allocate(like.elem_count())?;
            let at = Rows::contiguous(gpu.place(&slice), heads, rows, width);
            Ok((slice, at))
        };
        let (of_queries, queries) = new(args[0])?;
        let (of_keys, keys) = new(args[1])?;
        let (of_values, values) = new(args[2])?;
        let to = gpu::Gradients { out: rows_of(&gpu, &gradient)?, queries, keys, values };
        self.with_task(&gpu, |task| gpu::backward(&gpu, task, &operands, &to, self.log_sums()?))?;
        Ok([
            tensor(device, of_queries, args[0].shape()),
            tensor(device, of_keys, args[1].shape()),
            tensor(device, of_values, args[2].shape()),
        ])
    }
}

impl PackedOp {
    fn part(&self, place: Place, parts: usize, part: usize) -> Rows {
        let Sizes { heads, queries, size, .. } = self.0.problem.sizes;
        Rows::packed(place, (parts, part), (heads, queries, size))
    }

    fn operands(&self, packed: Place, out: Place) -> Operands {
        Operands {
            queries: self.part(packed, 3, 0),
            keys: self.part(packed, 3, 1),
            values: self.part(packed, 3, 2),
            out: self.part(out, 1, 0),
        }
    }

    pub(super) fn on_gpu(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let Sizes { batch, heads, queries, size, .. } = self.0.problem.sizes;
        let device = storage.device();
        let gpu = Gpu::new(device, self.0.half)?;
        let out = gpu.allocate(batch * queries * heads * size)?;
        let packed = gpu.place_of(slice(storage)?, layout.start_offset());
        let operands = self.operands(packed, gpu.place(&out));
        let log_sums = self.0.with_task(&gpu, |task| gpu::forward(&gpu, task, &operands))?;
        let _ = self.0.statistics.set(Box::new(log_sums));
        Ok((wrap(device, out), Shape::from((batch, queries, heads * size))))
    }

    pub(super) fn gradients_on_gpu(
        &self,
        device: &CudaDevice,
        packed: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor> {
        let gpu = Gpu::new(device, self.0.half)?;
        let gradient = gradient.contiguous()?;
        let operands = self.operands(first(&gpu, packed)?, first(&gpu, out)?);
        let found = gpu.allocate(packed.elem_count())?;
        let at = gpu.place(&found);
        let to = gpu::Gradients {
            out: self.part(first(&gpu, &gradient)?, 1, 0),
            queries: self.part(at, 3, 0),
            keys: self.part(at, 3, 1),
            values: self.part(at, 3, 2),
        };
        let log_sums = self.0.log_sums()?;
        self.0.with_task(&gpu, |task| gpu::backward(&gpu, task, &operands, &to, log_sums))?;
        Ok(tensor(device, found, packed.shape()))
    }
}
