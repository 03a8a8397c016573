//! Optimisers with PyTorch's formulas and defaults.
//!
//! On the CPU a step is one pass over each parameter that reads value, gradient and state and writes
//! value and state: no temporaries. On other devices, and for other types than f32 and f64, it is
//! plain tensor operations. Weights in 16 bits are rounded from f32 masters, to which the steps are
//! added: a step is often smaller than the distance of two 16-bit numbers (Micikevicius et al. 2018).

mod adam;
mod real;
mod rmsprop;
mod sgd;

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Tensor, bail};
use serde::{Deserialize, Serialize};
use unroll_core::parameters::Parameter;
use unroll_core::{Error as ModelError, ParameterSet};

use crate::clip::Bounds;
use crate::{Result, TrainConfig};

use adam::Adam;
pub(crate) use real::Real;
use rmsprop::RmsProp;
use sgd::Sgd;

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with PyTorch's momentum: `v = m v + g`, `p -= lr v`.
    Sgd,
    /// Steps divided by the root of the running mean square (Tieleman & Hinton 2012).
    RmsProp,
    /// Kingma & Ba (2015); weight decay is added to the gradient.
    #[default]
    Adam,
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    AdamW,
}

impl OptimizerKind {
    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::RmsProp => "rmsprop",
            Self::Adam => "adam",
            Self::AdamW => "adamw",
        }
    }
}

/// What differs from step to step.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// Counted from 1.
    number: u64,
    learning_rate: f64,
    bounds: Bounds,
}

impl Step {
    /// The gradient after clipping.
    fn clipped(&self, gradient: &Tensor) -> candle_core::Result<Tensor> {
        let Bounds { factor, bound } = self.bounds;
        let gradient =
            if factor == 1.0 { gradient.clone() } else { gradient.affine(factor, 0.0)? };
        if bound.is_finite() { gradient.clamp(-bound, bound) } else { Ok(gradient) }
    }

    /// [`clipped`](Self::clipped) for single entries.
    fn clip<R: Real>(&self) -> impl Fn(R) -> R + Copy + use<R> {
        let (factor, bound) = (R::from_f64(self.bounds.factor), R::from_f64(self.bounds.bound));
        move |gradient| (gradient * factor).bounded(bound)
    }
}

/// The formula of an optimiser, in both forms. `state` holds one vector per name in `slots`, 0 at
/// the start.
trait Rule {
    /// PyTorch's names of the state vectors.
    fn slots(&self) -> &'static [&'static str];

    /// Updates a parameter in place.
    fn update_slice<R: Real>(
        &self,
        step: &Step,
        values: &mut [R],
        gradients: &[R],
        state: &mut [Vec<R>],
    );

    /// The updated parameter.
    fn update_tensor(
        &self,
        step: &Step,
        value: &Tensor,
        gradient: &Tensor,
        state: &mut [Tensor],
    ) -> candle_core::Result<Tensor>;
}

#[derive(Debug, Clone, Copy)]
enum AnyRule {
    Sgd(Sgd),
    RmsProp(RmsProp),
    Adam(Adam),
}

impl Rule for AnyRule {
    fn slots(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd(rule) => rule.slots(),
            Self::RmsProp(rule) => rule.slots(),
            Self::Adam(rule) => rule.slots(),
        }
    }

    fn update_slice<R: Real>(
        &self,
        step: &Step,
        values: &mut [R],
        gradients: &[R],
        state: &mut [Vec<R>],
    ) {
        match self {
            Self::Sgd(rule) => rule.update_slice(step, values, gradients, state),
            Self::RmsProp(rule) => rule.update_slice(step, values, gradients, state),
            Self::Adam(rule) => rule.update_slice(step, values, gradients, state),
        }
    }

    fn update_tensor(
        &self,
        step: &Step,
        value: &Tensor,
        gradient: &Tensor,
        state: &mut [Tensor],
    ) -> candle_core::Result<Tensor> {
        match self {
            Self::Sgd(rule) => rule.update_tensor(step, value, gradient, state),
            Self::RmsProp(rule) => rule.update_tensor(step, value, gradient, state),
            Self::Adam(rule) => rule.update_tensor(step, value, gradient, state),
        }
    }
}

/// State of one parameter.
#[derive(Debug, Clone)]
enum Slots {
    F32(Vec<Vec<f32>>),
    F64(Vec<Vec<f64>>),
    Tensors(Vec<Tensor>),
    /// The weights before rounding, and the state in their type.
    Rounded(Tensor, Vec<Tensor>),
}

/// Name of the weights before rounding, beside the names of the state vectors.
const MASTER: &str = "master";

impl Slots {
    fn zeros(count: usize, value: &Tensor) -> candle_core::Result<Self> {
        let elements = value.elem_count();
        let in_place = unroll_core::fused::supports(value.device(), value.dtype());
        let wide = unroll_core::ops::summing_type(value.dtype());
        if wide != value.dtype() {
            let master = value.detach().to_dtype(wide)?;
            let state = (0..count).map(|_| master.zeros_like()).collect::<Result<_, _>>()?;
            return Ok(Self::Rounded(master, state));
        }
        Ok(match value.dtype() {
            DType::F32 if in_place => Self::F32(vec![vec![0.0; elements]; count]),
            DType::F64 if in_place => Self::F64(vec![vec![0.0; elements]; count]),
            _ => Self::Tensors((0..count).map(|_| value.zeros_like()).collect::<Result<_, _>>()?),
        })
    }

    fn export(&self, slot: usize, value: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::F32(slots) => Tensor::from_slice(&slots[slot], value.shape(), &Device::Cpu),
            Self::F64(slots) => Tensor::from_slice(&slots[slot], value.shape(), &Device::Cpu),
            Self::Tensors(slots) | Self::Rounded(_, slots) => slots[slot].copy(),
        }
    }

    fn import(&mut self, slot: usize, tensor: &Tensor) -> candle_core::Result<()> {
        match self {
            Self::F32(slots) => slots[slot] = tensor.flatten_all()?.to_vec1()?,
            Self::F64(slots) => slots[slot] = tensor.flatten_all()?.to_vec1()?,
            Self::Tensors(slots) | Self::Rounded(_, slots) => {
                slots[slot] = tensor.to_device(slots[slot].device())?;
            }
        }
        Ok(())
    }
}

/// One pass over a parameter on the CPU.
struct Pass<'a> {
    rule: AnyRule,
    step: Step,
    state: RefCell<&'a mut Slots>,
}

impl InplaceOp2 for Pass<'_> {
    fn name(&self) -> &'static str {
        "optimizer step"
    }

    fn cpu_fwd(
        &self,
        values: &mut CpuStorage,
        values_layout: &Layout,
        gradients: &CpuStorage,
        gradients_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (Some((v0, v1)), Some((g0, g1))) =
            (values_layout.contiguous_offsets(), gradients_layout.contiguous_offsets())
        else {
            bail!("optimizer step: parameter or gradient is not contiguous")
        };
        match (values, gradients, &mut **self.state.borrow_mut()) {
            (CpuStorage::F32(values), CpuStorage::F32(gradients), Slots::F32(state)) => {
                let (values, gradients) = (&mut values[v0..v1], &gradients[g0..g1]);
                self.rule.update_slice(&self.step, values, gradients, state);
            }
            (CpuStorage::F64(values), CpuStorage::F64(gradients), Slots::F64(state)) => {
                let (values, gradients) = (&mut values[v0..v1], &gradients[g0..g1]);
                self.rule.update_slice(&self.step, values, gradients, state);
            }
            _ => bail!("optimizer step: parameter, gradient and state differ in type"),
        }
        Ok(())
    }
}

/// State of an [`Optimizer`], for checkpoints.
#[derive(Debug, Clone, Default)]
pub struct OptimizerState {
    /// Steps taken.
    pub steps: u64,
    /// State vectors in the parameters' shapes under `<parameter>.<PyTorch's name>`, for example
    /// `head.weight.exp_avg`.
    pub tensors: BTreeMap<String, Tensor>,
}

/// An optimiser with its state for a set of parameters.
#[derive(Debug)]
pub struct Optimizer {
    rule: AnyRule,
    parameters: ParameterSet,
    state: Vec<Slots>,
    steps: u64,
}

impl Optimizer {
    /// The optimiser that `config` describes, before its first step.
    ///
    /// # Errors
    /// When a state vector cannot be allocated on the parameters' device.
    pub fn new(config: &TrainConfig, parameters: &ParameterSet) -> Result<Self> {
        let weight_decay = config.weight_decay();
        let adam = |decoupled| Adam {
            betas: config.betas,
            epsilon: config.epsilon,
            weight_decay,
            decoupled,
        };
        let rule = match config.optimizer {
            OptimizerKind::Sgd => AnyRule::Sgd(Sgd {
                momentum: config.momentum,
                nesterov: config.nesterov,
                weight_decay,
            }),
            OptimizerKind::RmsProp => AnyRule::RmsProp(RmsProp {
                alpha: config.alpha,
                epsilon: config.epsilon,
                momentum: config.momentum,
                weight_decay,
            }),
            OptimizerKind::Adam => AnyRule::Adam(adam(false)),
            OptimizerKind::AdamW => AnyRule::Adam(adam(true)),
        };
        let state = parameters
            .iter()
            .map(|parameter| Slots::zeros(rule.slots().len(), parameter.var.as_tensor()))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { rule, parameters: parameters.clone(), state, steps: 0 })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step along the gradients within `bounds`. Parameters without gradient stay as they are.
    pub fn step(
        &mut self,
        gradients: &GradStore,
        learning_rate: f64,
        bounds: Bounds,
    ) -> Result<()> {
        self.steps += 1;
        let step = Step { number: self.steps, learning_rate, bounds };
        for (parameter, state) in self.parameters.iter().zip(&mut self.state) {
            let value = parameter.var.as_tensor();
            let Some(gradient) = gradients.get(value) else { continue };
            match state {
                Slots::Tensors(state) => {
                    let (value, gradient) = (value.detach(), step.clipped(gradient)?);
                    let updated = self.rule.update_tensor(&step, &value, &gradient, state)?;
                    parameter.var.set(&updated)?;
                }
                Slots::Rounded(master, state) => {
                    let gradient = step.clipped(&gradient.to_dtype(master.dtype())?)?;
                    *master = self.rule.update_tensor(&step, master, &gradient, state)?;
                    parameter.var.set(&master.to_dtype(value.dtype())?)?;
                }
                Slots::F32(_) | Slots::F64(_) => {
                    let pass = Pass { rule: self.rule, step, state: RefCell::new(state) };
                    value.inplace_op2(&gradient.contiguous()?, &pass)?;
                }
            }
        }
        Ok(())
    }

    /// The state as it is now.
    pub fn state(&self) -> Result<OptimizerState> {
        let mut tensors = BTreeMap::new();
        for (parameter, state) in self.parameters.iter().zip(&self.state) {
            for (slot, name) in self.rule.slots().iter().enumerate() {
                let tensor = state.export(slot, parameter.var.as_tensor())?;
                tensors.insert(format!("{}.{name}", parameter.name), tensor);
            }
            if let Slots::Rounded(master, _) = state {
                tensors.insert(format!("{}.{MASTER}", parameter.name), master.copy()?);
            }
        }
        Ok(OptimizerState { steps: self.steps, tensors })
    }

    /// Takes over a state that [`state`](Self::state) gave.
    ///
    /// # Errors
    /// When a vector is missing or has another shape or type. Nothing is changed then.
    pub fn restore(&mut self, saved: &OptimizerState) -> Result<()> {
        let mut state = self.state.clone();
        for (parameter, slots) in self.parameters.iter().zip(&mut state) {
            for (slot, name) in self.rule.slots().iter().enumerate() {
                slots.import(slot, find(saved, parameter, name)?)?;
            }
            if let Slots::Rounded(master, _) = slots {
                *master = find(saved, parameter, MASTER)?.to_device(master.device())?;
            }
        }
        (self.state, self.steps) = (state, saved.steps);
        Ok(())
    }
}

fn find<'a>(saved: &'a OptimizerState, parameter: &Parameter, slot: &str) -> Result<&'a Tensor> {
    let name = format!("{}.{slot}", parameter.name);
    let Some(tensor) = saved.tensors.get(&name) else {
        let available = saved.tensors.keys().cloned().collect();
        let place = "the optimiser's state";
        return Err(ModelError::MissingTensor { name, place, available }.into());
    };
    let dtype = unroll_core::ops::summing_type(parameter.var.dtype());
    if tensor.dims() != parameter.var.dims() || tensor.dtype() != dtype {
        let expected = format!("{:?} of {dtype:?}", parameter.var.dims());
        return Err(ModelError::shape(name, tensor.dims(), expected).into());
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests;
