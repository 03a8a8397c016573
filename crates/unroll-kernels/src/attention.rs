//! Scaled dot-product attention as one operation.

mod blocks;
#[cfg(any(feature = "cuda", test))]
mod choice;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", test))]
mod operations;
mod rows;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

use crate::float::Float;
use crate::storage::host;
use crate::{is_half, widened};
pub(crate) use blocks::Sizes;
use blocks::{Gradients, Incoming, Operand, Problem, Statistics};
#[cfg(any(feature = "cuda", test))]
pub(crate) use choice::findings;

/// Which keys a query sees. Queries are the last `T` of the `S` steps that have keys: query `i`
/// stands at the step of key `i + S - T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// All.
    None,
    /// The key at its own step and those before.
    Causal,
    /// The key at its own step and those before, this many in all.
    Window(usize),
}

/// An attention of any number of heads.
#[derive(Debug, Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// `(B, N, T, d)`.
    pub queries: &'a Tensor,
    /// `(B, N, S, d)`.
    pub keys: &'a Tensor,
    /// `(B, N, S, V)`.
    pub values: &'a Tensor,
    /// What scores are multiplied by; `1 / sqrt(d)` in Vaswani et al. (2017).
    pub scale: f64,
    /// Which keys a query sees.
    pub mask: Mask,
    /// Keys of each sequence: later ones are padding. `None` when all are real.
    pub lengths: Option<&'a [usize]>,
}

/// `softmax(scale Q K^T + mask) V` `(B, N, T, V)` as one node of the graph; a query that sees no key
/// gets zeros.
///
/// Memory grows with `T + S`, not `T S`: scores are computed in blocks, and again in backward
/// (Rabe & Staats 2021; Dao 2022). Runs where [`supports_attention`](crate::supports_attention) says so; in bf16
/// and f16, scores and sums are f32, and what comes out is rounded.
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn attention(args: &AttentionArgs<'_>) -> Result<Tensor> {
    let (batch, heads, queries, size) = args.queries.dims4()?;
    let (_, _, keys, value_size) = args.values.dims4()?;
    if args.keys.dims() != [batch, heads, keys, size]
        || args.values.dims() != [batch, heads, keys, value_size]
    {
        bail!(
            "queries {:?}, keys {:?} and values {:?} do not fit together",
            args.queries.dims(),
            args.keys.dims(),
            args.values.dims()
        );
    }
    let sizes = Sizes { batch, heads, queries, keys, size, value_size };
    let op = AttentionOp::new(sizes, args.scale, args.mask, args.lengths, args.queries.dtype())?;
    #[cfg(feature = "cuda")]
    if op.is_faster_by_candle(args)? {
        return operations::attention(args);
    }
    fused(op, args)
}

fn fused(op: AttentionOp, args: &AttentionArgs<'_>) -> Result<Tensor> {
    let dtype = args.queries.dtype();
    // Rows may lie anywhere, but the features of a row lie together.
    let together = |x: &Tensor| {
        let x = x.to_dtype(widened(x.dtype()))?;
        match x.stride() {
            [.., 1] => Ok(x),
            _ => x.contiguous(),
        }
    };
    let (keys, values) = (together(args.keys)?, together(args.values)?);
    together(args.queries)?.apply_op3(&keys, &values, op)?.to_dtype(dtype)
}

/// Attention of a sequence over itself from `packed` `(B, T, 3H)`: queries, keys and values one after
/// the other, each the features of head 1, head 2, ... Gives `(B, T, H)`, heads one after the other.
///
/// The same numbers as [`attention`], without the copies that separate the heads and join them.
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn self_attention(
    packed: &Tensor,
    heads: usize,
    scale: f64,
    mask: Mask,
    lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let (batch, steps, features) = packed.dims3()?;
    if heads == 0 || !features.is_multiple_of(3 * heads) {
        bail!("{features} features are not queries, keys and values of {heads} heads");
    }
    let size = features / (3 * heads);
    let sizes = Sizes { batch, heads, queries: steps, keys: steps, size, value_size: size };
    let op = AttentionOp::new(sizes, scale, mask, lengths, packed.dtype())?;
    #[cfg(feature = "cuda")]
    if op.is_faster_by_candle_packed(packed)? {
        return operations::self_attention(packed, heads, scale, mask, lengths);
    }
    fused_packed(op, packed)
}

fn fused_packed(op: AttentionOp, packed: &Tensor) -> Result<Tensor> {
    let dtype = packed.dtype();
    packed.to_dtype(widened(dtype))?.contiguous()?.apply_op1(PackedOp(op))?.to_dtype(dtype)
}

/// The operation behind [`attention`].
struct AttentionOp {
    problem: Problem,
    /// Whether what is attended has 16 bits. Products on a GPU may then round what they read to TF32, which has
    /// more.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for GPUs"))]
    half: bool,
    /// From forward: a [`Statistics`] of the element type, on a GPU its buffer.
    statistics: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl AttentionOp {
    fn new(
        sizes: Sizes,
        scale: f64,
        mask: Mask,
        lengths: Option<&[usize]>,
        dtype: DType,
    ) -> Result<Self> {
        if let Some(lengths) = lengths
            && (lengths.len() != sizes.batch || lengths.iter().any(|&l| l > sizes.keys))
        {
            bail!(
                "lengths {lengths:?} do not fit {} sequences of {} keys",
                sizes.batch,
                sizes.keys
            );
        }
        if mask == Mask::Window(0) {
            bail!("a window of 0 keys");
        }
        let lengths = lengths.map(<[usize]>::to_vec);
        let problem = Problem { sizes, mask, lengths, scale };
        Ok(Self::of(problem, is_half(dtype)))
    }

    fn of(problem: Problem, half: bool) -> Self {
        Self { problem, half, statistics: OnceLock::new() }
    }

    fn forward<F: Float>(&self, operands: [Operand<'_, F>; 3]) -> Vec<F> {
        let [queries, keys, values] = operands;
        let (out, statistics) = blocks::forward(&self.problem, queries, keys, values);
        // Set once: an operation runs forward once.
        let _ = self.statistics.set(Box::new(statistics));
        out
    }

    fn backward<F: Float>(&self, incoming: &Incoming<'_, F>) -> Result<Gradients<F>> {
        match self.statistics.get().and_then(|any| any.downcast_ref::<Statistics<F>>()) {
            Some(statistics) => Ok(blocks::backward(&self.problem, statistics, incoming)),
            None => bail!("backward of an attention that never ran forward"),
        }
    }
}

/// The elements of a tensor from its first on.
fn elements<'a, F: Float>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [F]> {
    Ok(&F::slice(storage)?[layout.start_offset()..])
}

/// `(B, N, rows, features)` as it lies.
fn operand<'a, F: Float>(storage: &'a CpuStorage, layout: &Layout) -> Result<Operand<'a, F>> {
    let [batch_stride, head_stride, row_stride, _] = *layout.stride() else {
        bail!("attention reads tensors of four axes");
    };
    Ok(Operand { data: elements(storage, layout)?, batch_stride, head_stride, row_stride })
}

impl AttentionOp {
    fn gradients<F: Float>(
        &self,
        args: [&Tensor; 3],
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let guards = [args[0], args[1], args[2], out, &gradient].map(Tensor::storage_and_layout);
        let at = |index: usize| operand::<F>(host(&guards[index].0)?, guards[index].1);
        let found = self.backward(&Incoming {
            queries: at(0)?,
            keys: at(1)?,
            values: at(2)?,
            out: at(3)?,
            gradient: at(4)?,
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(found.queries, args[0])?),
            Some(tensor(found.keys, args[1])?),
            Some(tensor(found.values, args[2])?),
        ))
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Sizes { batch, heads, queries, value_size, .. } = self.problem.sizes;
        let storage = match s1 {
            CpuStorage::F32(_) => {
                let operands = [operand::<f32>(s1, l1)?, operand(s2, l2)?, operand(s3, l3)?];
                CpuStorage::F32(self.forward(operands))
            }
            CpuStorage::F64(_) => {
                let operands = [operand::<f64>(s1, l1)?, operand(s2, l2)?, operand(s3, l3)?];
                CpuStorage::F64(self.forward(operands))
            }
            _ => bail!("attention runs on f32 and f64"),
        };
        Ok((storage, Shape::from((batch, heads, queries, value_size))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        s1: &candle_core::CudaStorage,
        l1: &Layout,
        s2: &candle_core::CudaStorage,
        l2: &Layout,
        s3: &candle_core::CudaStorage,
        l3: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let args = [arg1, arg2, arg3];
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = arg1.device() {
            let [queries, keys, values] = self.gradients_on_gpu(device, args, res, grad_res)?;
            return Ok((Some(queries), Some(keys), Some(values)));
        }
        match arg1.dtype() {
            DType::F32 => self.gradients::<f32>(args, res, grad_res),
            DType::F64 => self.gradients::<f64>(args, res, grad_res),
            other => bail!("attention runs on f32 and f64, not {other:?}"),
        }
    }
}

/// The operation behind [`self_attention`].
struct PackedOp(AttentionOp);

impl PackedOp {
    /// Queries, keys and values in `(B, T, 3H)`, or one tensor `(B, T, H)`, split into heads.
    fn heads<'a, F>(&self, data: &'a [F], parts: usize, part: usize) -> Operand<'a, F> {
        let Sizes { heads, queries: steps, size, .. } = self.0.problem.sizes;
        let (hidden, row_stride) = (heads * size, parts * heads * size);
        let data = data.get(part * hidden..).unwrap_or_default();
        Operand { data, batch_stride: steps * row_stride, head_stride: size, row_stride }
    }

    fn forward<F: Float>(&self, packed: &[F]) -> Vec<F> {
        let out = self.0.forward([0, 1, 2].map(|part| self.heads(packed, 3, part)));
        self.join(&[&out])
    }

    fn gradients<F: Float>(&self, arg: &Tensor, out: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.contiguous()?;
        let guards = [arg, out, &gradient].map(Tensor::storage_and_layout);
        let at = |index: usize| elements::<F>(host(&guards[index].0)?, guards[index].1);
        let packed = at(0)?;
        let found = self.0.backward(&Incoming {
            queries: self.heads(packed, 3, 0),
            keys: self.heads(packed, 3, 1),
            values: self.heads(packed, 3, 2),
            out: self.heads(at(1)?, 1, 0),
            gradient: self.heads(at(2)?, 1, 0),
        })?;
        let joined = self.join(&[&found.queries, &found.keys, &found.values]);
        Tensor::from_vec(joined, arg.shape(), arg.device())
    }

    /// Several `(B, N, T, d)` as one `(B, T, parts H)`.
    fn join<F: Float>(&self, parts: &[&[F]]) -> Vec<F> {
        use rayon::prelude::*;

        let Sizes { heads, queries: steps, size, .. } = self.0.problem.sizes;
        let mut out = vec![F::ZERO; parts.iter().map(|part| part.len()).sum()];
        let row = parts.len() * heads * size;
        out.par_chunks_mut((steps * row).max(1)).enumerate().for_each(|(batch, out)| {
            for (index, out) in out.chunks_exact_mut(size).enumerate() {
                let (step, part_and_head) =
                    (index / (parts.len() * heads), index % (parts.len() * heads));
                let (part, head) = (part_and_head / heads, part_and_head % heads);
                let from = ((batch * heads + head) * steps + step) * size;
                out.copy_from_slice(&parts[part][from..from + size]);
            }
        });
        out
    }
}

impl CustomOp1 for PackedOp {
    fn name(&self) -> &'static str {
        "self_attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Sizes { batch, heads, queries, size, .. } = self.0.problem.sizes;
        let storage = match storage {
            CpuStorage::F32(_) => CpuStorage::F32(self.forward::<f32>(elements(storage, layout)?)),
            CpuStorage::F64(_) => CpuStorage::F64(self.forward::<f64>(elements(storage, layout)?)),
            _ => bail!("attention runs on f32 and f64"),
        };
        Ok((storage, Shape::from((batch, queries, heads * size))))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        storage: &candle_core::CudaStorage,
        layout: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        self.on_gpu(storage, layout)
    }

    fn bwd(&self, arg: &Tensor, res: &Tensor, grad_res: &Tensor) -> Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(device) = arg.device() {
            return Ok(Some(self.gradients_on_gpu(device, arg, res, grad_res)?));
        }
        match arg.dtype() {
            DType::F32 => Ok(Some(self.gradients::<f32>(arg, res, grad_res)?)),
            DType::F64 => Ok(Some(self.gradients::<f64>(arg, res, grad_res)?)),
            other => bail!("attention runs on f32 and f64, not {other:?}"),
        }
    }
}
