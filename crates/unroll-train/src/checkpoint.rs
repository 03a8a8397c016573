//! Everything that a run needs to go on, as bytes.
//!
//! One safetensors file: the weights under `model.<name>`, the optimiser's vectors under
//! `optimizer.<name>`, a state that is carried from batch to batch under `state.<number>`, the learning
//! curve as `curve` `(points, 8)` in f64, and the rest as JSON in the header's metadata under `run`. A continued run gives the same bits as one that never stopped;
//! only its clock times differ.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::weights::{TensorFile, check_finite, export, import};
use unroll_core::{State, StateTensor};

use crate::train::Done;
use crate::{
    CurvePoint, Error, Optimizer, OptimizerState, Result, TrainConfig, Trainer, WeightTrace,
};

const METADATA: &str = "run";
const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const STATE: &str = "state.";
const CURVE: &str = "curve";
const CURVE_COLUMNS: usize = 8;

/// A saved [`Trainer`].
#[derive(Debug, Clone)]
pub struct Checkpoint {
    weights: TensorFile,
    optimizer: OptimizerState,
    /// Tensors of the carried state, by their numbers.
    state: BTreeMap<usize, Tensor>,
    curve: Vec<CurvePoint>,
    run: Run,
}

/// The part that is no tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Run {
    task: String,
    seq_len: usize,
    seed: u64,
    config: TrainConfig,
    optimizer_steps: u64,
    done: Done,
    trace: WeightTrace,
    /// Steps that the carried state has seen, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    carried_steps: Option<usize>,
}

impl Checkpoint {
    /// Training steps done.
    pub fn step(&self) -> u64 {
        self.run.done.step
    }

    /// The checkpoint as the bytes of a safetensors file. The same checkpoint always gives the same
    /// bytes.
    ///
    /// # Errors
    /// When a tensor cannot be read from its device.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut file = TensorFile::default();
        for (prefix, tensors) in
            [(MODEL, &self.weights.tensors), (OPTIMIZER, &self.optimizer.tensors)]
        {
            for (name, tensor) in tensors {
                file.tensors.insert(format!("{prefix}{name}"), tensor.clone());
            }
        }
        for (number, tensor) in &self.state {
            file.tensors.insert(format!("{STATE}{number}"), tensor.clone());
        }
        file.tensors.insert(CURVE.into(), curve_to_tensor(&self.curve)?);
        let run = serde_json::to_string(&self.run)
            .map_err(|error| Error::Checkpoint(format!("cannot be written: {error}")))?;
        file.metadata = HashMap::from([(METADATA.to_owned(), run)]);
        Ok(file.to_bytes()?)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when the bytes are damaged or something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged =
            |error: &dyn std::fmt::Display| Error::Checkpoint(format!("damaged: {error}"));
        let (_, header) =
            safetensors::SafeTensors::read_metadata(bytes).map_err(|error| damaged(&error))?;
        // Once more as a whole: this checks that the data are as long as the header says.
        safetensors::SafeTensors::deserialize(bytes).map_err(|error| damaged(&error))?;
        let run = header.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
        let run = run.ok_or_else(|| Error::Checkpoint("this is no checkpoint".into()))?;
        let run: Run = serde_json::from_str(run).map_err(|error| damaged(&error))?;
        let mut optimizer = OptimizerState { steps: run.optimizer_steps, ..Default::default() };
        let (mut weights, mut curve) = (TensorFile::default(), Vec::new());
        let mut state = BTreeMap::new();
        for (name, tensor) in candle_core::safetensors::load_buffer(bytes, &Device::Cpu)? {
            if let Some(name) = name.strip_prefix(MODEL) {
                weights.tensors.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.tensors.insert(name.to_owned(), tensor);
            } else if let Some(number) = name.strip_prefix(STATE) {
                let number: usize = number.parse().map_err(|error| damaged(&error))?;
                state.insert(number, tensor);
            } else if name == CURVE {
                curve = curve_from_tensor(&tensor)?;
            }
        }
        Ok(Self { weights, optimizer, state, curve, run })
    }
}

impl Trainer<'_> {
    /// The run as it stands, with copies of the weights.
    ///
    /// # Errors
    /// When a tensor cannot be copied.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let weights = export(self.model.parameters())?;
        let carried = self.carried.iter().flat_map(State::tensors).enumerate();
        let carried = carried.map(|(number, one)| Ok((number, one.tensor.copy()?)));
        Ok(Checkpoint {
            weights,
            optimizer: self.optimizer.state()?,
            state: carried.collect::<Result<_>>()?,
            curve: self.curve.clone(),
            run: Run {
                task: self.task.name().to_owned(),
                seq_len: self.task.seq_len(),
                seed: self.model.seed(),
                config: self.config.clone(),
                optimizer_steps: self.optimizer.steps(),
                done: self.done.clone(),
                trace: self.trace.clone(),
                carried_steps: self.carried.as_ref().map(State::steps),
            },
        })
    }

    /// Goes back, or on, to a checkpoint: sets weights, optimiser and progress.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it belongs to another task, length, seed or other settings;
    /// [`Error::Model`] when it belongs to another model.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let run = &checkpoint.run;
        let refuse = |what: &str, saved: &dyn std::fmt::Debug, own: &dyn std::fmt::Debug| {
            Err(Error::Checkpoint(format!("made with {what} {saved:?}, this run has {own:?}")))
        };
        if run.task != self.task.name() {
            return refuse("task", &run.task, &self.task.name());
        }
        if run.seq_len != self.task.seq_len() {
            return refuse("sequence length", &run.seq_len, &self.task.seq_len());
        }
        if run.seed != self.model.seed() {
            return refuse("seed", &run.seed, &self.model.seed());
        }
        if run.config != self.config {
            return refuse("settings", &run.config, &self.config);
        }
        // Into a fresh optimiser first, and weights only all together: nothing is changed when the
        // model does not fit.
        let mut optimizer = Optimizer::new(&self.config, self.model.parameters())?;
        optimizer.restore(&checkpoint.optimizer)?;
        let carried = self.carried_state(checkpoint)?;
        import(self.model.parameters(), &checkpoint.weights)?;
        self.optimizer = optimizer;
        self.carried = carried;
        self.curve.clone_from(&checkpoint.curve);
        self.done = run.done.clone();
        self.trace = run.trace.clone();
        Ok(())
    }

    /// The state that a checkpoint carries, checked against the model's.
    fn carried_state(&self, checkpoint: &Checkpoint) -> Result<Option<State>> {
        let Some(steps) = checkpoint.run.carried_steps else { return Ok(None) };
        let empty = self.model.body()?.zero_state(self.config.batch_size)?;
        let of = |(number, one): (usize, &StateTensor)| {
            let name = format!("{STATE}{number}");
            let saved = checkpoint.state.get(&number);
            let saved = saved.ok_or_else(|| Error::Checkpoint(format!("there is no {name}")))?;
            if saved.dims() != one.tensor.dims() {
                let (found, expected) = (saved.dims(), one.tensor.dims());
                let message = format!("{name} has the shape {found:?}, not {expected:?}");
                return Err(Error::Checkpoint(message));
            }
            check_finite(&name, saved)?;
            let tensor = saved.to_dtype(self.model.dtype())?.to_device(self.model.device())?;
            Ok(StateTensor { tensor, ..one.clone() })
        };
        let tensors = empty.tensors().iter().enumerate().map(of).collect::<Result<_>>()?;
        Ok(Some(State::new(tensors, steps)))
    }
}

fn curve_to_tensor(curve: &[CurvePoint]) -> Result<Tensor> {
    let values: Vec<f64> = curve
        .iter()
        .flat_map(|point| {
            [
                point.step as f64,
                point.tokens as f64,
                point.train_loss.unwrap_or(f64::NAN),
                point.validation,
                point.validation_loss,
                point.learning_rate,
                point.gradient_norm.unwrap_or(f64::NAN),
                point.seconds,
            ]
        })
        .collect();
    Ok(Tensor::from_vec(values, (curve.len(), CURVE_COLUMNS), &Device::Cpu)?)
}

fn curve_from_tensor(tensor: &Tensor) -> Result<Vec<CurvePoint>> {
    let rows: Vec<Vec<f64>> = tensor.to_dtype(DType::F64)?.to_vec2()?;
    // Only steps with a finite loss and norm enter a mean: NaN stands for `None` alone.
    let mean = |value: f64| (!value.is_nan()).then_some(value);
    rows.into_iter()
        .map(|row| match row.as_slice() {
            &[step, tokens, train_loss, validation, validation_loss, rate, norm, seconds] => {
                Ok(CurvePoint {
                    step: step as u64,
                    tokens: tokens as u64,
                    train_loss: mean(train_loss),
                    validation,
                    validation_loss,
                    learning_rate: rate,
                    gradient_norm: mean(norm),
                    seconds,
                })
            }
            _ => Err(Error::Checkpoint(format!("a curve point has {} numbers", row.len()))),
        })
        .collect()
}
