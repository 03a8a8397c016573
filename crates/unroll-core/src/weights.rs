//! Weights and tensors in safetensors files, under PyTorch's `state_dict` names.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::{Error, ParameterSet, Result};

/// Tensors of a file by name, with its text metadata.
#[derive(Debug, Clone, Default)]
pub struct TensorFile {
    /// The tensors, on the CPU, in the file's types.
    pub tensors: BTreeMap<String, Tensor>,
    /// The header's metadata.
    pub metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// When it cannot be read or is damaged (truncated, a header that does not fit, ...).
    pub fn read(path: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads the bytes of a safetensors file; `path` is named in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let damaged = |source| Error::Safetensors { path: path.to_owned(), source };
        let (_, header) = safetensors::SafeTensors::read_metadata(bytes).map_err(damaged)?;
        // Parsed once more as a whole: this checks that the data are as long as the header says.
        safetensors::SafeTensors::deserialize(bytes).map_err(damaged)?;
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        Ok(Self {
            tensors: tensors.into_iter().collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }

    /// The file's bytes: tensors in order of their names.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let metadata = (!self.metadata.is_empty()).then(|| self.metadata.clone());
        let tensors = self
            .tensors
            .iter()
            .map(|(name, tensor)| {
                Ok((name.as_str(), tensor.to_device(&Device::Cpu)?.contiguous()?))
            })
            .collect::<Result<Vec<_>>>()?;
        safetensors::serialize(tensors, metadata)
            .map_err(|source| Error::Safetensors { path: "(in memory)".into(), source })
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// When there is none; the message lists what there is.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            available: self.tensors.keys().cloned().collect(),
        })
    }
}

/// The parameters as a file's tensors.
pub fn export(parameters: &ParameterSet) -> TensorFile {
    TensorFile {
        tensors: parameters.iter().map(|p| (p.name.clone(), p.var.as_tensor().detach())).collect(),
        metadata: HashMap::new(),
    }
}

/// Sets every parameter from the tensor of the same name; other tensors are left alone.
///
/// # Errors
/// When one is missing, has another shape, or holds NaN or infinity. Nothing is set then.
pub fn import(parameters: &ParameterSet, file: &TensorFile) -> Result<()> {
    let mut values = Vec::with_capacity(parameters.len());
    for parameter in parameters.iter() {
        let tensor = file.get(&parameter.name)?;
        if tensor.dims() != parameter.var.dims() {
            return Err(Error::shape(
                &parameter.name,
                tensor.dims(),
                format!("{:?}", parameter.var.dims()),
            ));
        }
        check_finite(&parameter.name, tensor)?;
        values.push(tensor.to_dtype(parameters.dtype())?.to_device(parameters.device())?);
    }
    for (parameter, value) in parameters.iter().zip(&values) {
        parameter.var.set(value)?;
    }
    Ok(())
}

/// Refuses NaN and infinity.
pub fn check_finite(name: &str, tensor: &Tensor) -> Result<()> {
    let values: Vec<f64> = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    let bad = |v: &f64| !v.is_finite();
    match values.iter().position(bad) {
        None => Ok(()),
        Some(first) => Err(Error::NotFinite {
            name: name.to_owned(),
            count: values.iter().filter(|v| bad(v)).count(),
            first,
        }),
    }
}
