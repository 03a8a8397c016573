//! Initialisers.

use candle_core::{DType, Device, Shape, Tensor};
use serde::{Deserialize, Serialize};

use crate::parameters::{MemoryGate, Role};
use crate::stream::StreamRng;
use crate::{Error, Result, Stream};

/// How weight matrices start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightInit {
    /// PyTorch's: `U(-1/sqrt(H), 1/sqrt(H))` in recurrent layers, `U(-1/sqrt(fan_in), ...)` in linear
    /// maps, Xavier in the packed projection of multi-head attention.
    #[default]
    Pytorch,
    /// `U(-a, a)`, `a = sqrt(6 / (fan_in + fan_out))`, gate by gate (Glorot & Bengio 2010).
    Xavier,
    /// Recurrent weights orthogonal, gate by gate (Saxe 2014); others Xavier.
    Orthogonal,
    /// Recurrent weights the identity, gate by gate (IRNN, Le 2015); others PyTorch's.
    Identity,
}

/// How biases start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasInit {
    /// PyTorch's.
    #[default]
    Pytorch,
    /// All 0.
    Zero,
    /// The remembering gate at `forget_bias`, all others 0 (Gers 2000, Jozefowicz 2015).
    Forget,
    /// The remembering gate at `ln(U[1, t_max - 1])`, an LSTM's input gate at the negative of it
    /// (Tallec & Ollivier 2018); all others 0.
    Chrono,
}

/// How a model's parameters start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Init {
    /// Weight matrices.
    pub weight: WeightInit,
    /// Biases of recurrent layers.
    pub bias: BiasInit,
    /// Factor on recurrent weights under `orthogonal` and `identity`: their singular values.
    pub gain: f64,
    /// Total bias of the remembering gate under `bias = "forget"`.
    pub forget_bias: f64,
    /// Longest time scale under `bias = "chrono"`, in steps.
    pub t_max: f64,
}

impl Default for Init {
    fn default() -> Self {
        Self {
            weight: WeightInit::default(),
            bias: BiasInit::default(),
            gain: 1.0,
            forget_bias: 1.0,
            t_max: 100.0,
        }
    }
}

impl Init {
    /// Checks the numbers.
    ///
    /// # Errors
    /// When a factor is not finite or `t_max` is below 3.
    pub fn validate(&self) -> Result<()> {
        for (name, value) in [("gain", self.gain), ("forget_bias", self.forget_bias)] {
            if !value.is_finite() {
                return Err(Error::option(name, format!("{value} is not a finite number")));
            }
        }
        if self.bias == BiasInit::Chrono && !(self.t_max >= 3.0 && self.t_max.is_finite()) {
            return Err(Error::option(
                "t_max",
                format!("chrono initialisation needs t_max >= 3 steps, not {}", self.t_max),
            ));
        }
        Ok(())
    }

    /// Values of a parameter in f64 on the CPU.
    pub(crate) fn values(&self, shape: &Shape, role: Role, stream: &Stream) -> Result<Tensor> {
        let mut rng = stream.rng();
        let count = shape.elem_count();
        let dims = shape.dims();
        let mut uniform = |bound: f64| -> Vec<f64> {
            (0..count).map(|_| rng.uniform_in(-bound, bound)).collect()
        };
        let columns = dims.last().copied().unwrap_or(1);
        let rows = count / columns.max(1);
        let values = match role {
            Role::InputWeight { gates } | Role::RecurrentWeight { gates } => {
                let hidden = rows / gates;
                let recurrent = matches!(role, Role::RecurrentWeight { .. });
                match self.weight {
                    WeightInit::Orthogonal if recurrent => (0..gates)
                        .flat_map(|_| orthogonal(hidden, columns, self.gain, &mut rng))
                        .collect(),
                    WeightInit::Identity if recurrent => identity(rows, columns, self.gain),
                    WeightInit::Xavier | WeightInit::Orthogonal => {
                        uniform((6.0 / (hidden + columns) as f64).sqrt())
                    }
                    WeightInit::Pytorch | WeightInit::Identity => {
                        uniform(1.0 / (hidden as f64).sqrt())
                    }
                }
            }
            Role::InputBias { gates, memory } => {
                let bound = 1.0 / ((count / gates) as f64).sqrt();
                self.recurrent_bias(
                    count,
                    gates,
                    memory,
                    uniform(bound),
                    &mut stream.child("memory").rng(),
                )
            }
            Role::RecurrentBias { gates, memory } => {
                let hidden = count / gates;
                let mut values = match self.bias {
                    BiasInit::Pytorch => uniform(1.0 / (hidden as f64).sqrt()),
                    _ => vec![0.0; count],
                };
                // The two biases add up; the remembering gate's total lies in the input bias.
                if let Some(MemoryGate { gate, bias: Some(_), .. }) = memory {
                    values[gate * hidden..(gate + 1) * hidden].fill(0.0);
                }
                values
            }
            Role::Weight => match self.weight {
                WeightInit::Xavier | WeightInit::Orthogonal => {
                    uniform((6.0 / (rows + columns) as f64).sqrt())
                }
                WeightInit::Pytorch | WeightInit::Identity => {
                    uniform(1.0 / (columns as f64).sqrt())
                }
            },
            Role::PackedWeight { blocks } => match self.weight {
                WeightInit::Pytorch | WeightInit::Identity => {
                    uniform((6.0 / (rows + columns) as f64).sqrt())
                }
                WeightInit::Xavier | WeightInit::Orthogonal => {
                    uniform((6.0 / (rows / blocks + columns) as f64).sqrt())
                }
            },
            Role::Bias { fan_in } => match self.bias {
                BiasInit::Zero => vec![0.0; count],
                _ => uniform(1.0 / (fan_in as f64).sqrt()),
            },
            Role::Scale => vec![1.0; count],
            Role::Zero => vec![0.0; count],
            Role::Embedding { std } => (0..count).map(|_| rng.normal() * std).collect(),
        };
        Ok(Tensor::from_vec(values, shape.clone(), &Device::Cpu)?.to_dtype(DType::F64)?)
    }

    fn recurrent_bias(
        &self,
        count: usize,
        gates: usize,
        memory: Option<MemoryGate>,
        pytorch: Vec<f64>,
        rng: &mut StreamRng,
    ) -> Vec<f64> {
        let hidden = count / gates;
        let mut values = match self.bias {
            BiasInit::Pytorch => pytorch,
            _ => vec![0.0; count],
        };
        let Some(memory) = memory else { return values };
        let unit_biases: Option<Vec<f64>> = match (memory.bias, self.bias) {
            (Some(bias), _) => Some(vec![bias; hidden]),
            (None, BiasInit::Forget) => Some(vec![self.forget_bias; hidden]),
            (None, BiasInit::Chrono) => {
                Some((0..hidden).map(|_| rng.uniform_in(1.0, self.t_max - 1.0).ln()).collect())
            }
            (None, BiasInit::Pytorch | BiasInit::Zero) => None,
        };
        if let Some(biases) = unit_biases {
            for (unit, bias) in biases.into_iter().enumerate() {
                values[memory.gate * hidden + unit] = memory.sign * bias;
                if let (Some(input_gate), BiasInit::Chrono, None) =
                    (memory.input_gate, self.bias, memory.bias)
                {
                    values[input_gate * hidden + unit] = -bias;
                }
            }
        }
        values
    }
}

/// Rows times columns, `gain` on the diagonal of each square block of `columns` rows.
fn identity(rows: usize, columns: usize, gain: f64) -> Vec<f64> {
    let mut values = vec![0.0; rows * columns];
    for row in 0..rows {
        values[row * columns + row % columns] = gain;
    }
    values
}

/// A matrix with orthonormal rows or columns, whichever are fewer, times `gain`; distributed
/// uniformly (Haar), by modified Gram-Schmidt, run twice, on normal vectors.
fn orthogonal(rows: usize, columns: usize, gain: f64, rng: &mut StreamRng) -> Vec<f64> {
    let (vectors, length) = (rows.min(columns), rows.max(columns));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(vectors);
    for _ in 0..vectors {
        let mut vector: Vec<f64> = (0..length).map(|_| rng.normal()).collect();
        for _ in 0..2 {
            for done in &basis {
                let dot: f64 = vector.iter().zip(done).map(|(a, b)| a * b).sum();
                for (value, other) in vector.iter_mut().zip(done) {
                    *value -= dot * other;
                }
            }
        }
        let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|v| *v /= norm);
        basis.push(vector);
    }
    let mut values = vec![0.0; rows * columns];
    for (index, vector) in basis.iter().enumerate() {
        for (position, value) in vector.iter().enumerate() {
            let (row, column) = if rows <= columns { (index, position) } else { (position, index) };
            values[row * columns + column] = gain * value;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(init: Init, shape: (usize, usize), role: Role) -> Vec<Vec<f64>> {
        let stream = Stream::new(3, "init");
        init.values(&shape.into(), role, &stream).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn orthogonal_is_orthogonal_gate_by_gate() {
        let init = Init { weight: WeightInit::Orthogonal, gain: 0.9, ..Init::default() };
        let w = rows(init, (3 * 17, 17), Role::RecurrentWeight { gates: 3 });
        for gate in w.chunks(17) {
            for (i, a) in gate.iter().enumerate() {
                for (j, b) in gate.iter().enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                    let expected = if i == j { 0.81 } else { 0.0 };
                    assert!((dot - expected).abs() < 1e-14);
                }
            }
        }
    }

    #[test]
    fn identity_repeats_per_gate() {
        let init = Init { weight: WeightInit::Identity, ..Init::default() };
        let w = rows(init, (6, 3), Role::RecurrentWeight { gates: 2 });
        assert_eq!(w[4], [0.0, 1.0, 0.0]);
    }

    #[test]
    fn chrono_opens_forget_and_closes_input() {
        let memory = MemoryGate { gate: 1, sign: 1.0, input_gate: Some(0), bias: None };
        let init = Init { bias: BiasInit::Chrono, t_max: 50.0, ..Init::default() };
        let role = Role::InputBias { gates: 4, memory: Some(memory) };
        let b: Vec<f64> =
            init.values(&(4 * 8).into(), role, &Stream::new(0, "b")).unwrap().to_vec1().unwrap();
        for unit in 0..8 {
            assert!((0.0..49f64.ln()).contains(&b[8 + unit]));
            assert_eq!(b[unit], -b[8 + unit]);
            assert_eq!((b[16 + unit], b[24 + unit]), (0.0, 0.0));
        }
    }

    #[test]
    fn own_forget_bias_is_the_total_of_both_biases() {
        let memory = MemoryGate { gate: 1, sign: 1.0, input_gate: Some(0), bias: Some(2.0) };
        let init = Init::default();
        let total: Vec<f64> = [
            Role::InputBias { gates: 4, memory: Some(memory) },
            Role::RecurrentBias { gates: 4, memory: Some(memory) },
        ]
        .into_iter()
        .map(|role| init.values(&32.into(), role, &Stream::new(0, "b")).unwrap())
        .reduce(|a, b| (a + b).unwrap())
        .unwrap()
        .to_vec1()
        .unwrap();
        assert!(total[8..16].iter().all(|&b| b == 2.0));
        assert!(total[0..8].iter().all(|&b| b != 0.0));
    }
}
