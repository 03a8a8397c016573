//! Recurrent layers as one operation each.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail};

use crate::buffers::{Dims, TimeOrder};
use crate::gru::Gru;
use crate::lstm::Lstm;
use crate::real::Real;
use crate::rnn::Rnn;
use crate::sequence::{self, Inputs, OutputGradients, Saved, Weights};

/// Activation of a vanilla RNN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nonlinearity {
    /// Hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// None: a linear recurrence.
    Identity,
}

/// Where a GRU applies its reset gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GruReset {
    /// `n = tanh(W x + b_in + r * (U h + b_hn))` (PyTorch, cuDNN).
    After,
    /// `n = tanh(W x + U (r * h) + b)` (Cho et al. 2014).
    Before,
}

/// What an open update gate of a GRU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GruUpdate {
    /// `h' = (1 - z) n + z h` (PyTorch).
    KeepOld,
    /// `h' = (1 - z) h + z n` (Chung et al. 2014).
    TakeNew,
}

/// Which cell a layer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Vanilla RNN.
    Rnn(Nonlinearity),
    /// Gated recurrent unit.
    Gru(GruReset, GruUpdate),
    /// Long short-term memory.
    Lstm,
}

impl CellKind {
    fn gates(self) -> usize {
        match self {
            Self::Rnn(_) => 1,
            Self::Gru(..) => 3,
            Self::Lstm => 4,
        }
    }
}

/// One layer in one direction.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The cell.
    pub kind: CellKind,
    /// `(B, T, I)`.
    pub input: &'a Tensor,
    /// `(G*H, I)`.
    pub weight_ih: &'a Tensor,
    /// `(G*H, H)`.
    pub weight_hh: &'a Tensor,
    /// `(G*H,)`; both biases or none.
    pub bias_ih: Option<&'a Tensor>,
    /// `(G*H,)`.
    pub bias_hh: Option<&'a Tensor>,
    /// `(B, H)`.
    pub hidden: &'a Tensor,
    /// `(B, H)`; LSTM only.
    pub cell: Option<&'a Tensor>,
    /// `(B, T, H)` added to the hidden states.
    pub probe_hidden: Option<&'a Tensor>,
    /// `(B, T, H)` added to the cell states; LSTM only.
    pub probe_cell: Option<&'a Tensor>,
    /// Real steps of each sequence; `None` when all steps are real.
    pub lengths: Option<&'a [usize]>,
    /// Whether to read each sequence from its last real step to its first.
    pub reverse: bool,
}

/// Result of [`layer`].
#[derive(Debug, Clone)]
pub struct LayerOutput {
    /// `(B, T, H)`; zero on padding.
    pub output: Tensor,
    /// `(B, H)` after each sequence's last step.
    pub hidden: Tensor,
    /// `(B, H)`; LSTM only.
    pub cell: Option<Tensor>,
}

/// Whether [`layer`] runs on this device and type: f32 and f64 on the CPU.
pub fn supports(device: &Device, dtype: DType) -> bool {
    device.is_cpu() && matches!(dtype, DType::F32 | DType::F64)
}

/// Runs a layer over the whole sequence as one node of the graph.
///
/// # Errors
/// When shapes, types or devices do not fit.
pub fn layer(layer: &Layer<'_>) -> Result<LayerOutput> {
    let (batch, steps, inputs) = layer.input.dims3()?;
    let hidden = layer.weight_hh.dim(1)?;
    let width = layer.kind.gates() * hidden;
    let expect = |what: &str, tensor: Option<&Tensor>, shape: &[usize]| -> Result<()> {
        match tensor {
            Some(tensor) if tensor.dims() != shape => {
                bail!("{what} has shape {:?}, expected {shape:?}", tensor.dims())
            }
            _ => Ok(()),
        }
    };
    expect("weight_ih", Some(layer.weight_ih), &[width, inputs])?;
    expect("weight_hh", Some(layer.weight_hh), &[width, hidden])?;
    expect("bias_ih", layer.bias_ih, &[width])?;
    expect("bias_hh", layer.bias_hh, &[width])?;
    expect("h0", Some(layer.hidden), &[batch, hidden])?;
    expect("c0", layer.cell, &[batch, hidden])?;
    expect("hidden probe", layer.probe_hidden, &[batch, steps, hidden])?;
    expect("cell probe", layer.probe_cell, &[batch, steps, hidden])?;
    let is_lstm = layer.kind == CellKind::Lstm;
    if layer.bias_ih.is_some() != layer.bias_hh.is_some() {
        bail!("a recurrent layer has both biases or none");
    }
    if layer.cell.is_some() != is_lstm || (layer.probe_cell.is_some() && !is_lstm) {
        bail!("an LSTM, and nothing else, has a cell state");
    }
    let lengths = match layer.lengths {
        Some(lengths) if lengths.len() != batch || lengths.iter().any(|&l| l > steps) => {
            bail!("lengths {lengths:?} do not fit {batch} sequences of {steps} steps")
        }
        Some(lengths) => lengths.to_vec(),
        None => vec![steps; batch],
    };

    // A custom operation takes three tensors: the input, all weights, all states and probes.
    let flat = |tensors: &[Option<&Tensor>]| -> Result<Tensor> {
        let parts: Vec<Tensor> =
            tensors.iter().flatten().map(|t| t.flatten_all()).collect::<Result<_>>()?;
        Tensor::cat(&parts, 0)
    };
    let weights =
        flat(&[Some(layer.weight_ih), Some(layer.weight_hh), layer.bias_ih, layer.bias_hh])?;
    let states = flat(&[Some(layer.hidden), layer.cell, layer.probe_hidden, layer.probe_cell])?;
    let input = layer.input.contiguous()?;
    let op = RecurrentOp {
        kind: layer.kind,
        dims: Dims { batch, steps, inputs, hidden },
        order: TimeOrder { lengths, reverse: layer.reverse },
        bias: layer.bias_ih.is_some(),
        probe_hidden: layer.probe_hidden.is_some(),
        probe_cell: layer.probe_cell.is_some(),
        keep: input.track_op() || weights.track_op() || states.track_op(),
        saved: Arc::default(),
    };
    let flat = input.apply_op3(&weights, &states, op)?;
    let (outputs, state) = (batch * steps * hidden, batch * hidden);
    Ok(LayerOutput {
        output: flat.narrow(0, 0, outputs)?.reshape((batch, steps, hidden))?,
        hidden: flat.narrow(0, outputs, state)?.reshape((batch, hidden))?,
        cell: if is_lstm {
            Some(flat.narrow(0, outputs + state, state)?.reshape((batch, hidden))?)
        } else {
            None
        },
    })
}

/// What forward kept, by element type.
enum AnySaved {
    F32(Saved<f32>),
    F64(Saved<f64>),
}

/// The operation behind [`layer`]: tensors in and out are flat concatenations.
struct RecurrentOp {
    kind: CellKind,
    dims: Dims,
    order: TimeOrder,
    bias: bool,
    probe_hidden: bool,
    probe_cell: bool,
    /// Whether anything asks for gradients.
    keep: bool,
    saved: Arc<Mutex<Option<AnySaved>>>,
}

/// Element types that the operation runs on.
trait Element: Real {
    fn wrap(saved: Saved<Self>) -> AnySaved;
    fn unwrap(saved: AnySaved) -> Option<Saved<Self>>;
}

impl Element for f32 {
    fn wrap(saved: Saved<Self>) -> AnySaved {
        AnySaved::F32(saved)
    }

    fn unwrap(saved: AnySaved) -> Option<Saved<Self>> {
        match saved {
            AnySaved::F32(saved) => Some(saved),
            AnySaved::F64(_) => None,
        }
    }
}

impl Element for f64 {
    fn wrap(saved: Saved<Self>) -> AnySaved {
        AnySaved::F64(saved)
    }

    fn unwrap(saved: AnySaved) -> Option<Saved<Self>> {
        match saved {
            AnySaved::F64(saved) => Some(saved),
            AnySaved::F32(_) => None,
        }
    }
}

impl RecurrentOp {
    fn is_lstm(&self) -> bool {
        self.kind == CellKind::Lstm
    }

    fn weights<'a, F>(&self, mut flat: &'a [F]) -> Weights<'a, F> {
        let width = self.kind.gates() * self.dims.hidden;
        let bias = if self.bias { width } else { 0 };
        let mut take = |count: usize| flat.split_off(..count).unwrap_or_default();
        Weights {
            weight_ih: take(width * self.dims.inputs),
            weight_hh: take(width * self.dims.hidden),
            bias_ih: take(bias),
            bias_hh: take(bias),
        }
    }

    fn inputs<'a, F>(&self, x: &'a [F], mut flat: &'a [F]) -> Inputs<'a, F> {
        let state = self.dims.batch * self.dims.hidden;
        let sequence = state * self.dims.steps;
        let mut take = |wanted: bool, count| {
            flat.split_off(..if wanted { count } else { 0 }).unwrap_or_default()
        };
        Inputs {
            x,
            hidden: take(true, state),
            cell: take(self.is_lstm(), state),
            probe_hidden: take(self.probe_hidden, sequence),
            probe_cell: take(self.probe_cell, sequence),
        }
    }

    fn forward<F: Element>(&self, x: &[F], weights: &[F], states: &[F]) -> (Vec<F>, Saved<F>) {
        let (weights, inputs) = (self.weights(weights), self.inputs(x, states));
        let (dims, order) = (&self.dims, &self.order);
        match self.kind {
            CellKind::Rnn(phi) => sequence::forward(&Rnn(phi), dims, order, &weights, &inputs),
            CellKind::Gru(reset, update) => {
                sequence::forward(&Gru { reset, update }, dims, order, &weights, &inputs)
            }
            CellKind::Lstm => sequence::forward(&Lstm, dims, order, &weights, &inputs),
        }
    }

    fn run<F: Element>(&self, tensors: [(&CpuStorage, &Layout); 3]) -> Result<(CpuStorage, Shape)> {
        let [x, weights, states] = slices::<F, _>(tensors)?;
        let (out, saved) = self.forward(x, weights, states);
        if self.keep {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(F::wrap(saved));
        }
        let shape = Shape::from(out.len());
        Ok((F::storage(out), shape))
    }

    fn gradients<F: Element + candle_core::WithDType>(
        &self,
        args: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let guards = args.map(|t| (t.storage_and_layout(), t));
        let storages = guards.each_ref().map(|((storage, layout), _)| (&**storage, *layout));
        let (grad_storage, grad_layout) = grad.storage_and_layout();
        let [x, weights, states] = slices::<F, _>(cpu(storages)?)?;
        let [grad] = slices::<F, _>(cpu([(&*grad_storage, grad_layout)])?)?;

        let kept = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Backward uses up what forward kept; a second backward pass computes it again.
        let saved = match kept.and_then(F::unwrap) {
            Some(saved) => saved,
            None => self.forward(x, weights, states).1,
        };
        let state = self.dims.batch * self.dims.hidden;
        let (output, last) = grad.split_at(state * self.dims.steps);
        let (hidden, cell) = last.split_at(state);
        let incoming = OutputGradients { output, hidden, cell };
        let wants_x = args[0].track_op();
        let result = {
            let (weights, dims, order) = (self.weights(weights), &self.dims, &self.order);
            let probes = (self.probe_hidden, self.probe_cell);
            let (w, from, x) = (&weights, &incoming, wants_x);
            match self.kind {
                CellKind::Rnn(phi) => {
                    sequence::backward(&Rnn(phi), dims, order, w, saved, from, x, probes)
                }
                CellKind::Gru(reset, update) => {
                    let cell = Gru { reset, update };
                    sequence::backward(&cell, dims, order, w, saved, from, x, probes)
                }
                CellKind::Lstm => sequence::backward(&Lstm, dims, order, w, saved, from, x, probes),
            }
        };
        let tensor = |parts: Vec<Vec<F>>, like: &Tensor| -> Result<Option<Tensor>> {
            if like.track_op() {
                Ok(Some(Tensor::from_vec(parts.concat(), like.shape(), like.device())?))
            } else {
                Ok(None)
            }
        };
        Ok((
            tensor(vec![result.x], args[0])?,
            tensor(
                vec![result.weight_ih, result.weight_hh, result.bias_ih, result.bias_hh],
                args[1],
            )?,
            tensor(
                vec![result.hidden, result.cell, result.probe_hidden, result.probe_cell],
                args[2],
            )?,
        ))
    }
}

fn cpu<'a, const N: usize>(
    storages: [(&'a candle_core::Storage, &'a Layout); N],
) -> Result<[(&'a CpuStorage, &'a Layout); N]> {
    let mut out = Vec::with_capacity(N);
    for (storage, layout) in storages {
        match storage {
            candle_core::Storage::Cpu(storage) => out.push((storage, layout)),
            _ => bail!("the recurrent operation has only a CPU form"),
        }
    }
    out.try_into().map_err(|_| candle_core::Error::Msg("storages were lost".into()))
}

fn slices<'a, F: Real + 'a, const N: usize>(
    tensors: [(&'a CpuStorage, &'a Layout); N],
) -> Result<[&'a [F]; N]> {
    let mut out = [&[] as &[F]; N];
    for (out, (storage, layout)) in out.iter_mut().zip(tensors) {
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("the recurrent operation needs contiguous tensors")
        };
        *out = &F::slice(storage)?[start..end];
    }
    Ok(out)
}

impl CustomOp3 for RecurrentOp {
    fn name(&self) -> &'static str {
        match self.kind {
            CellKind::Rnn(_) => "rnn_sequence",
            CellKind::Gru(..) => "gru_sequence",
            CellKind::Lstm => "lstm_sequence",
        }
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
        let tensors = [(s1, l1), (s2, l2), (s3, l3)];
        match s1.dtype() {
            DType::F32 => self.run::<f32>(tensors),
            DType::F64 => self.run::<f64>(tensors),
            other => bail!("the recurrent operation runs on f32 and f64, not {other:?}"),
        }
    }

    fn bwd(
        &self,
        arg1: &Tensor,
        arg2: &Tensor,
        arg3: &Tensor,
        _res: &Tensor,
        grad_res: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let args = [arg1, arg2, arg3];
        match arg1.dtype() {
            DType::F32 => self.gradients::<f32>(args, grad_res),
            DType::F64 => self.gradients::<f64>(args, grad_res),
            other => bail!("the recurrent operation runs on f32 and f64, not {other:?}"),
        }
    }
}
