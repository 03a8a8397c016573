//! Named trainable parameters.

use candle_core::{DType, Device, Shape, Tensor, Var};

use crate::architecture::BuildContext;
use crate::{Error, Result, memory};

/// What a parameter is for: decides how it is initialised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Role {
    /// `(G*H, I)` weight from the input into the gates of a recurrent layer.
    InputWeight {
        /// Gates `G`.
        gates: usize,
    },
    /// `(G*H, H)` weight from the previous hidden state.
    RecurrentWeight {
        /// Gates `G`.
        gates: usize,
    },
    /// `(G*H,)` bias beside the input weight; the gate that remembers, if any, is initialised apart.
    InputBias {
        /// Gates `G`.
        gates: usize,
        /// The remembering gate, if the cell has one.
        memory: Option<MemoryGate>,
    },
    /// `(G*H,)` bias beside the recurrent weight.
    RecurrentBias {
        /// Gates `G`.
        gates: usize,
        /// The remembering gate, if the cell has one.
        memory: Option<MemoryGate>,
    },
    /// `(out, in)` weight of a linear map.
    Weight,
    /// `(blocks*out, in)`: several square maps stacked, initialised Xavier-uniform as a whole by
    /// default (the packed projection of PyTorch's `MultiheadAttention`).
    PackedWeight {
        /// Maps stacked.
        blocks: usize,
    },
    /// Bias of a linear map with `fan_in` inputs.
    Bias {
        /// Inputs of the map.
        fan_in: usize,
    },
    /// Multiplies a normalised value; starts at 1.
    Scale,
    /// Starts at 0 (shift of a normalisation, biases that PyTorch starts at 0).
    Zero,
    /// Learned position or token vectors, normal with this standard deviation.
    Embedding {
        /// Standard deviation.
        std: f64,
    },
}

/// Which gate of a recurrent cell keeps the old state, and which one lets the new in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryGate {
    /// Index of the gate that keeps the old state when it is open.
    pub gate: usize,
    /// -1 when the gate keeps the old state when *closed* (GRU of Chung 2014), else 1.
    pub sign: f64,
    /// Index of the input gate, which chrono initialisation closes in turn (LSTM).
    pub input_gate: Option<usize>,
    /// Bias that the architecture itself asks for, over the initialiser's.
    pub bias: Option<f64>,
}

/// One named parameter.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// PyTorch's `state_dict` name.
    pub name: String,
    /// The trainable tensor.
    pub var: Var,
    /// What it is for.
    pub role: Role,
}

/// The parameters of a model in a fixed order.
#[derive(Debug, Clone)]
pub struct ParameterSet {
    parameters: Vec<Parameter>,
    dtype: DType,
    device: Device,
}

impl ParameterSet {
    /// No parameters yet.
    pub fn new(dtype: DType, device: &Device) -> Self {
        Self { parameters: Vec::new(), dtype, device: device.clone() }
    }

    /// Adds a parameter, drawn by the context's initialiser from the stream named like it, so that
    /// no other parameter changes its values; or the one of that name that the context
    /// [shares](BuildContext::frozen).
    ///
    /// # Errors
    /// [`Error::Memory`] where the machine has not enough; when what is shared has another shape or is not there.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        shape: impl Into<Shape>,
        role: Role,
        context: &BuildContext,
    ) -> Result<Tensor> {
        let (name, shape) = (name.into(), shape.into());
        if let Some(shared) = &context.shared {
            let var = shared.get(&name)?.clone();
            if var.dtype() != self.dtype {
                return Err(Error::Type {
                    what: name,
                    found: var.dtype(),
                    expected: format!("{}, as the context says", self.dtype.as_str()),
                });
            }
            if var.shape() != &shape {
                return Err(Error::shape(&name, var.dims(), format!("{:?}", shape.dims())));
            }
            let tensor = var.as_detached_tensor();
            self.parameters.push(Parameter { name, var, role });
            return Ok(tensor);
        }
        context.init.validate()?;
        if !self.dtype.is_float() {
            return Err(Error::Type {
                what: name,
                found: self.dtype,
                expected: "a floating-point type".into(),
            });
        }
        // Values are drawn in f64 on the CPU. There, unless the model is on a GPU, is what was added before, and for a
        // moment the parameter twice.
        let element = self.dtype.size_in_bytes();
        let on_cpu = self.device.is_cpu();
        let drawn = (8 + if on_cpu { 2 * element } else { element }) as u128;
        let mut needed = memory::product(shape.dims()).saturating_mul(drawn);
        if on_cpu {
            needed = needed.saturating_add(memory::product(&[self.elements(), element]));
        }
        memory::require(format!("a model with the parameter `{name}` {:?}", shape.dims()), needed)?;
        let stream = context.stream.child(&name);
        let values = context.init.values(&shape, role, &stream)?;
        let values = values.to_dtype(self.dtype)?.to_device(&self.device)?;
        let var = Var::from_tensor(&values)?;
        let tensor = var.as_tensor().clone();
        self.parameters.push(Parameter { name, var, role });
        Ok(tensor)
    }

    /// Takes over all parameters of another set, with `prefix` before their names.
    pub fn extend(&mut self, prefix: &str, other: &Self) {
        for parameter in &other.parameters {
            self.parameters.push(Parameter {
                name: format!("{prefix}{}", parameter.name),
                ..parameter.clone()
            });
        }
    }

    /// The parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter()
    }

    /// The variables in order, for an optimiser: they share their values with the model.
    pub fn vars(&self) -> Vec<Var> {
        self.iter().map(|p| p.var.clone()).collect()
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.parameters.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// Number of elements of all tensors.
    pub fn elements(&self) -> usize {
        self.iter().map(|p| p.var.elem_count()).sum()
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        Ok(self.var(name)?.as_tensor())
    }

    pub(crate) fn var(&self, name: &str) -> Result<&Var> {
        self.iter().find(|p| p.name == name).map(|p| &p.var).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            place: "the model",
            available: self.iter().map(|p| p.name.clone()).collect(),
        })
    }

    /// Type of all parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Device of all parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_beyond_the_memory_are_refused_before_they_are_drawn() {
        let context = BuildContext::cpu(DType::F32, 0);
        let mut set = ParameterSet::new(DType::F32, &Device::Cpu);
        for rows in [1 << 24, usize::MAX] {
            let added = set.add("w", (rows, 1 << 24), Role::Weight, &context);
            assert!(matches!(added, Err(Error::Memory { .. })), "{added:?}");
        }
        set.add("w", (2, 3), Role::Weight, &context).unwrap();
        assert_eq!(set.elements(), 6);
    }
}
