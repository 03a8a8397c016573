//! Everything that a run needs to go on, as bytes.
//!
//! One safetensors file: the weights under `model.<name>`, the optimiser's vectors under
//! `optimizer.<name>`, the learning curve as `curve` `(points, 8)` in f64, and the rest as JSON in
//! the header's metadata under `run`. A continued run gives the same bits as one that never stopped;
//! only its clock times differ.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use unroll_core::weights::{TensorFile, export, import};

use crate::train::Done;
use crate::{
    CurvePoint, Error, Optimizer, OptimizerState, Result, TrainConfig, Trainer, WeightTrace,
};

const METADATA: &str = "run";
const MODEL: &str = "model.";
const OPTIMIZER: &str = "optimizer.";
const CURVE: &str = "curve";
const CURVE_COLUMNS: usize = 8;

/// A saved [`Trainer`].
#[derive(Debug, Clone)]
pub struct Checkpoint {
    weights: TensorFile,
    optimizer: OptimizerState,
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
        for (name, tensor) in candle_core::safetensors::load_buffer(bytes, &Device::Cpu)? {
            if let Some(name) = name.strip_prefix(MODEL) {
                weights.tensors.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.tensors.insert(name.to_owned(), tensor);
            } else if name == CURVE {
                curve = curve_from_tensor(&tensor)?;
            }
        }
        Ok(Self { weights, optimizer, curve, run })
    }
}

impl Trainer<'_> {
    /// The run as it stands, with copies of the weights.
    ///
    /// # Errors
    /// When a tensor cannot be copied.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut weights = export(self.model.parameters());
        for tensor in weights.tensors.values_mut() {
            // The export shares its memory with the model, which goes on training.
            *tensor = tensor.copy()?;
        }
        Ok(Checkpoint {
            weights,
            optimizer: self.optimizer.state()?,
            curve: self.curve.clone(),
            run: Run {
                task: self.task.name().to_owned(),
                seq_len: self.task.seq_len(),
                seed: self.model.seed(),
                config: self.config.clone(),
                optimizer_steps: self.optimizer.steps(),
                done: self.done.clone(),
                trace: self.trace.clone(),
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
        import(self.model.parameters(), &checkpoint.weights)?;
        self.optimizer = optimizer;
        self.curve.clone_from(&checkpoint.curve);
        self.done = run.done.clone();
        self.trace = run.trace.clone();
        Ok(())
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
