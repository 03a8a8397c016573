//! Weights and tensors in safetensors files, under PyTorch's `state_dict` names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::parameters::Parameter;
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

    /// Writes a safetensors file. What stands at `path` is replaced once all bytes are written.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = self.to_bytes()?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|source| {
            std::fs::remove_file(&beside).ok();
            Error::Io { path: path.to_owned(), source }
        })
    }

    /// The tensors whose names begin with `prefix`, without it: one layer's weights out of a whole model's,
    /// as in `file.under("rnn.")`.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Self {
        let cut = |(name, tensor): (&String, &Tensor)| {
            Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()))
        };
        Self {
            tensors: self.tensors.iter().filter_map(cut).collect(),
            metadata: self.metadata.clone(),
        }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// When there is none; the message lists what there is.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            place: "the file",
            available: self.tensors.keys().cloned().collect(),
        })
    }
}

/// The parameters' values as a file's tensors. They are copies: training on changes none of them.
///
/// # Errors
/// When there is no memory for them.
pub fn export(parameters: &ParameterSet) -> Result<TensorFile> {
    let copy = |p: &Parameter| Ok((p.name.clone(), p.var.as_detached_tensor().copy()?));
    Ok(TensorFile {
        tensors: parameters.iter().map(copy).collect::<Result<_>>()?,
        metadata: HashMap::new(),
    })
}

/// Sets every parameter from the tensor of the same name, as PyTorch's `load_state_dict` does: there must be
/// one for each, and no others. Values are converted to the model's type and device.
///
/// # Errors
/// When a tensor is missing, is none of the model's, has another shape, holds integers, NaN or infinity.
/// Nothing is set then.
pub fn import(parameters: &ParameterSet, file: &TensorFile) -> Result<()> {
    import_beside(parameters, file, |_| false)
}

/// [`import`] from a file that holds more than weights: tensors of which `other` says so by their name are
/// left alone.
///
/// # Errors
/// As [`import`].
pub fn import_beside(
    parameters: &ParameterSet,
    file: &TensorFile,
    other: impl Fn(&str) -> bool,
) -> Result<()> {
    let mut values = Vec::with_capacity(parameters.len());
    for parameter in parameters.iter() {
        let tensor =
            file.get(&parameter.name).map_err(|error| match common_prefix(parameters, file) {
                Some(prefix) => Error::Prefixed { name: parameter.name.clone(), prefix },
                None => error,
            })?;
        if tensor.dims() != parameter.var.dims() {
            return Err(Error::shape(
                &parameter.name,
                tensor.dims(),
                format!("{:?}", parameter.var.dims()),
            ));
        }
        if !tensor.dtype().is_float() {
            return Err(Error::Type {
                what: parameter.name.clone(),
                found: tensor.dtype(),
                expected: "a floating-point type".into(),
            });
        }
        check_finite(&parameter.name, tensor)?;
        let value = tensor.to_dtype(parameters.dtype())?;
        // What was finite may be too large for the model's type.
        check_finite(&parameter.name, &value)?;
        values.push(value.to_device(parameters.device())?);
    }
    let known: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let rest = file.tensors.keys().filter(|name| !known.contains(name.as_str()) && !other(name));
    let names: Vec<String> = rest.cloned().collect();
    if !names.is_empty() {
        let known = parameters.iter().map(|p| p.name.clone()).collect();
        return Err(Error::UnexpectedTensors { names, known });
    }
    for (parameter, value) in parameters.iter().zip(&values) {
        // A copy: `set` refuses a tensor that shares the variable's storage, and some would be set by then.
        parameter.var.set(&value.copy()?.detach())?;
    }
    Ok(())
}

/// What the file has before the name of every parameter, if it has them all so.
fn common_prefix(parameters: &ParameterSet, file: &TensorFile) -> Option<String> {
    let first = &parameters.iter().next()?.name;
    let prefixes = file.tensors.keys().filter_map(|name| name.strip_suffix(first.as_str()));
    let fits = |prefix: &&str| {
        let mut names = parameters.iter().map(|p| format!("{prefix}{}", p.name));
        prefix.ends_with('.')
            && !prefix.ends_with("grad.")
            && names.all(|name| file.tensors.contains_key(&name))
    };
    prefixes.filter(fits).min_by_key(|prefix| prefix.len()).map(str::to_owned)
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
