//! Host batches as tensors.

use candle_core::{DType, Device, Tensor};
use unroll_core::{Lengths, ops};
use unroll_tasks::{Batch, InputKind, Inputs, ModalityInputs, Readout, TargetKind, Targets};

use crate::input_layer::InputLayer;
use crate::model::TaskShape;
use crate::{Error, Result};

/// The answers that a model should give.
#[derive(Debug, Clone)]
pub enum TensorTargets {
    /// `(N, O)` numbers in the model's type.
    Values(Tensor),
    /// `N` classes.
    Classes(Vec<u32>),
}

/// A batch on the device. `N` counts the answers whose weight is not 0: sequences for
/// [`Readout::Last`], steps for [`Readout::EveryStep`].
#[derive(Debug, Clone)]
pub struct TensorBatch {
    /// `(B, T, F)` features, or `(B, T)` tokens (u32) for an embedding; of two modalities kept apart, the first.
    pub input: Tensor,
    /// The second of two modalities kept apart.
    pub second: Option<TensorSequences>,
    /// What is read first, in tasks from one sequence to another.
    pub source: Option<TensorSource>,
    /// Real lengths of a padded batch (of `input`).
    pub lengths: Option<Lengths>,
    /// `(N,)` of u32: the answered rows of `(B * T)`; `None` when all rows are.
    pub rows: Option<Tensor>,
    /// The right answers, in order of sequences and steps.
    pub targets: TensorTargets,
    /// Weight of each answer, `N` positive numbers.
    pub weights: Vec<f64>,
    /// Steps of the batch that are not padding.
    pub tokens: u64,
}

/// Sources of a batch of pairs.
#[derive(Debug, Clone)]
pub struct TensorSource {
    /// `(B, S)` tokens (u32).
    pub tokens: Tensor,
    /// Real lengths of padded sources.
    pub lengths: Option<Lengths>,
}

/// Sequences of one modality.
#[derive(Debug, Clone)]
pub struct TensorSequences {
    /// `(B, T, F)`.
    pub input: Tensor,
    /// Real lengths of a padded batch.
    pub lengths: Option<Lengths>,
}

impl TensorSequences {
    fn new(
        modality: &ModalityInputs,
        (sequences, features): (usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let seq_len = modality.seq_len;
        let lengths = match &modality.lengths {
            Some(lengths) => Some(Lengths::new(lengths.clone(), sequences, seq_len)?),
            None => None,
        };
        let size = (sequences, seq_len, features);
        Ok(Self { input: from_f32(modality.values.clone(), size, dtype, device)?, lengths })
    }
}

/// One answer of a batch: row of `(B,)` or `(B * T)`, and weight.
pub(crate) struct Answer {
    row: usize,
    weight: f64,
}

/// The answers of a batch that count.
pub(crate) fn answers(shape: &TaskShape, batch: &Batch) -> Result<Vec<Answer>> {
    let (sequences, seq_len) = (batch.batch_size, batch.seq_len);
    let expect = |what: &str, found: usize, expected: usize| {
        if found == expected {
            return Ok(());
        }
        Err(misfit(shape, format!("{found} {what} where {expected} are expected")))
    };
    if let Some(lengths) = &batch.lengths {
        expect("lengths", lengths.len(), sequences)?;
    }
    if shape.readout == Readout::Last {
        return Ok((0..sequences).map(|row| Answer { row, weight: 1.0 }).collect());
    }
    let weight: Box<dyn Fn(usize) -> f64> = match (&batch.weights, &batch.lengths) {
        (Some(weights), _) => {
            expect("weights", weights.len(), sequences * seq_len)?;
            if let Some(bad) = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
                return Err(misfit(shape, format!("a weight is {bad}")));
            }
            Box::new(|row| f64::from(weights[row]))
        }
        (None, Some(lengths)) => {
            Box::new(move |row| if row % seq_len < lengths[row / seq_len] { 1.0 } else { 0.0 })
        }
        (None, None) => Box::new(|_| 1.0),
    };
    let rows = (0..sequences * seq_len).map(|row| Answer { row, weight: weight(row) });
    Ok(rows.filter(|answer| answer.weight != 0.0).collect())
}

fn misfit(shape: &TaskShape, message: String) -> Error {
    Error::Batch { task: shape.name.clone(), message }
}

impl TensorBatch {
    /// Moves a batch to a device.
    ///
    /// # Errors
    /// [`Error::Batch`] when its parts do not fit together or `shape`, or nothing is answered.
    pub fn new(
        batch: &Batch,
        shape: &TaskShape,
        input: InputLayer,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (sequences, seq_len) = (batch.batch_size, batch.seq_len);
        if sequences * seq_len == 0 {
            return Err(misfit(shape, format!("{sequences} sequences of {seq_len} steps")));
        }
        let answers = answers(shape, batch)?;
        if answers.is_empty() {
            return Err(misfit(shape, "no step is answered".into()));
        }
        let all_rows = match shape.readout {
            Readout::Last => sequences,
            Readout::EveryStep => sequences * seq_len,
        };
        let rows = if answers.len() == all_rows {
            None
        } else {
            let rows: Vec<u32> = answers.iter().map(|answer| answer.row as u32).collect();
            Some(Tensor::from_vec(rows, answers.len(), device)?)
        };
        let lengths = match &batch.lengths {
            Some(lengths) => Some(Lengths::new(lengths.clone(), sequences, seq_len)?),
            None => None,
        };
        let tokens = match &batch.lengths {
            Some(lengths) => lengths.iter().map(|&length| length as u64).sum(),
            None => (sequences * seq_len) as u64,
        };
        let source = source(batch, shape, device)?;
        let read = match (&source, &batch.inputs) {
            (Some(TensorSource { lengths: Some(lengths), .. }), _) => {
                lengths.as_slice().iter().map(|&length| length as u64).sum()
            }
            (Some(_), Inputs::Pairs(pairs)) => (sequences * pairs.source_len) as u64,
            _ => 0,
        };
        let (input, lengths, second) = match modalities(batch, shape, input, dtype, device)? {
            Some([first, second]) => (first.input, first.lengths, Some(second)),
            None => (input_tensor(batch, shape, input, dtype, device)?, lengths, None),
        };
        Ok(Self {
            source,
            input,
            second,
            lengths,
            rows,
            targets: targets(batch, shape, &answers, all_rows, ops::summing_type(dtype), device)?,
            weights: answers.iter().map(|answer| answer.weight).collect(),
            tokens: tokens + read,
        })
    }

    /// Number of answers (`N`).
    pub fn answers(&self) -> usize {
        self.weights.len()
    }
}

/// Checks that all tokens are of the vocabulary.
fn known(shape: &TaskShape, tokens: &[u32], vocabulary: usize) -> Result<()> {
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        Some(bad) => Err(misfit(shape, format!("token {bad} of a vocabulary of {vocabulary}"))),
        None => Ok(()),
    }
}

/// The sources of a batch of pairs.
fn source(batch: &Batch, shape: &TaskShape, device: &Device) -> Result<Option<TensorSource>> {
    let (Inputs::Pairs(pairs), InputKind::Pairs { source, .. }) = (&batch.inputs, shape.input)
    else {
        return Ok(None);
    };
    let (sequences, steps) = (batch.batch_size, pairs.source_len);
    if pairs.source.len() != sequences * steps || pairs.examples.len() != sequences {
        return Err(misfit(shape, format!("the sources are not {sequences} of {steps} steps")));
    }
    known(shape, &pairs.source, source)?;
    let lengths = match &pairs.source_lengths {
        Some(lengths) => Some(Lengths::new(lengths.clone(), sequences, steps)?),
        None => None,
    };
    let tokens = Tensor::from_slice(&pairs.source, (sequences, steps), device)?;
    Ok(Some(TensorSource { tokens, lengths }))
}

/// Checks both modalities of a batch.
fn fit_together(
    both: &[ModalityInputs; 2],
    batch: &Batch,
    shape: &TaskShape,
    features: [usize; 2],
) -> Result<()> {
    let sequences = batch.batch_size;
    for (modality, features) in both.iter().zip(features) {
        let steps = modality.seq_len;
        let lengths = modality.lengths.as_ref().map_or(sequences, Vec::len);
        if modality.values.len() != sequences * steps * features || lengths != sequences {
            let message = format!("a modality is not {sequences} sequences of {steps} steps");
            return Err(misfit(shape, message));
        }
    }
    let longer = |row: usize| both[0].length(row).max(both[1].length(row));
    let known = |row: usize| batch.lengths.as_ref().map_or(batch.seq_len, |lengths| lengths[row]);
    match (0..sequences).find(|&row| longer(row) != known(row)) {
        Some(row) => {
            Err(misfit(shape, format!("example {row} is not as long as its longer modality")))
        }
        None => Ok(()),
    }
}

/// Two modalities that stay apart.
fn modalities(
    batch: &Batch,
    shape: &TaskShape,
    layer: InputLayer,
    dtype: DType,
    device: &Device,
) -> Result<Option<[TensorSequences; 2]>> {
    let (Inputs::Modalities(both), InputLayer::Apart { features }) = (&batch.inputs, layer) else {
        return Ok(None);
    };
    fit_together(both, batch, shape, features)?;
    let [first, second] = &**both;
    let sequences = |modality: &ModalityInputs, features: usize| {
        TensorSequences::new(modality, (batch.batch_size, features), dtype, device)
    };
    Ok(Some([sequences(first, features[0])?, sequences(second, features[1])?]))
}

/// Two modalities as one sequence, side by side: step `t` has step `t` of both and two marks that say which
/// of them still goes on; zeros stand where one has ended. Padding is zero.
fn joined(
    both: &[ModalityInputs; 2],
    features: [usize; 2],
    (sequences, seq_len): (usize, usize),
) -> Vec<f32> {
    let width = joined_features(features);
    let mut values = vec![0f32; sequences * seq_len * width];
    for (which, modality) in both.iter().enumerate() {
        let own = features[which];
        let begin = if which == 0 { 0 } else { features[0] };
        for row in 0..sequences {
            for step in 0..modality.length(row) {
                let from = (row * modality.seq_len + step) * own;
                let to = (row * seq_len + step) * width;
                values[to + begin..][..own].copy_from_slice(&modality.values[from..][..own]);
                values[to + features[0] + features[1] + which] = 1.0;
            }
        }
    }
    values
}

/// Features per step of two modalities as one sequence: those of both, and two marks.
pub(crate) fn joined_features(features: [usize; 2]) -> usize {
    features[0] + features[1] + 2
}

fn input_tensor(
    batch: &Batch,
    shape: &TaskShape,
    layer: InputLayer,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let (sequences, seq_len) = (batch.batch_size, batch.seq_len);
    match (&batch.inputs, shape.input) {
        (Inputs::Values(values), InputKind::Values { features })
            if values.len() == sequences * seq_len * features =>
        {
            from_f32(values.clone(), (sequences, seq_len, features), dtype, device)
        }
        (Inputs::Tokens(tokens), InputKind::Tokens { vocabulary })
            if tokens.len() == sequences * seq_len =>
        {
            known(shape, tokens, vocabulary)?;
            if let InputLayer::Embedding { .. } = layer {
                return Ok(Tensor::from_slice(tokens, (sequences, seq_len), device)?);
            }
            let mut values = vec![0f32; tokens.len() * vocabulary];
            for (row, &token) in values.chunks_exact_mut(vocabulary).zip(tokens) {
                row[token as usize] = 1.0;
            }
            from_f32(values, (sequences, seq_len, vocabulary), dtype, device)
        }
        (Inputs::Pairs(pairs), InputKind::Pairs { target, .. })
            if pairs.target.len() == sequences * seq_len =>
        {
            known(shape, &pairs.target, target)?;
            Ok(Tensor::from_slice(&pairs.target, (sequences, seq_len), device)?)
        }
        (Inputs::Modalities(both), InputKind::Modalities { features, .. }) => {
            fit_together(both, batch, shape, features)?;
            let values = joined(both, features, (sequences, seq_len));
            from_f32(values, (sequences, seq_len, joined_features(features)), dtype, device)
        }
        (_, kind) => Err(misfit(
            shape,
            format!("the inputs are not {sequences} sequences of {seq_len} steps of {kind:?}"),
        )),
    }
}

fn targets(
    batch: &Batch,
    shape: &TaskShape,
    answers: &[Answer],
    all_rows: usize,
    dtype: DType,
    device: &Device,
) -> Result<TensorTargets> {
    match (&batch.targets, shape.target) {
        (Targets::Values(values), TargetKind::Values { outputs })
            if values.len() == all_rows * outputs =>
        {
            let chosen: Vec<f32> = answers
                .iter()
                .flat_map(|answer| &values[answer.row * outputs..(answer.row + 1) * outputs])
                .copied()
                .collect();
            Ok(TensorTargets::Values(from_f32(chosen, (answers.len(), outputs), dtype, device)?))
        }
        (Targets::Classes(classes), TargetKind::Classes { classes: count })
            if classes.len() == all_rows =>
        {
            let chosen: Vec<u32> = answers.iter().map(|answer| classes[answer.row]).collect();
            if let Some(bad) = chosen.iter().find(|&&class| class as usize >= count) {
                return Err(misfit(shape, format!("class {bad} of {count} classes")));
            }
            Ok(TensorTargets::Classes(chosen))
        }
        (_, kind) => {
            Err(misfit(shape, format!("the targets are not {all_rows} answers of {kind:?}")))
        }
    }
}

fn from_f32(
    values: Vec<f32>,
    shape: impl Into<candle_core::Shape>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), device)?.to_dtype(dtype)?)
}
