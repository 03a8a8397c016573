//! Sequences in memory with one class each, and the task they make.

use std::sync::OnceLock;

use unroll_core::Stream;

use crate::data::epochs::Epochs;
use crate::data::split::Splits;
use crate::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Split, TargetKind, Targets, Task,
};

/// Sequences of real features with one class each.
#[derive(Debug, Clone)]
pub(crate) struct LabelledSequences {
    features: usize,
    classes: usize,
    /// All sequences one after the other, `(T, F)` row by row.
    values: Vec<f32>,
    /// Where each sequence begins in `values`, and where the last ends.
    starts: Vec<usize>,
    labels: Vec<u32>,
}

impl LabelledSequences {
    /// No sequences yet.
    pub(crate) fn new(features: usize, classes: usize) -> Self {
        Self { features, classes, values: Vec::new(), starts: vec![0], labels: Vec::new() }
    }

    /// Adds a sequence, `(T, F)` row by row.
    pub(crate) fn push(&mut self, values: impl IntoIterator<Item = f32>, label: u32) {
        self.values.extend(values);
        self.starts.push(self.values.len());
        self.labels.push(label);
    }

    /// Puts the values of every sequence in another order: value `i` becomes what `order[i]` was.
    /// All sequences have as many values as `order`.
    pub(crate) fn permute(&mut self, order: &[usize]) {
        let mut old = Vec::with_capacity(order.len());
        for sequence in self.values.chunks_exact_mut(order.len().max(1)) {
            old.clear();
            old.extend_from_slice(sequence);
            for (value, &from) in sequence.iter_mut().zip(order) {
                *value = old[from];
            }
        }
    }

    pub(crate) fn classes(&self) -> usize {
        self.classes
    }

    pub(crate) fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The values of a sequence, `(T, F)` row by row.
    pub(crate) fn sequence(&self, index: usize) -> &[f32] {
        &self.values[self.starts[index]..self.starts[index + 1]]
    }

    /// Steps of a sequence.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.sequence(index).len() / self.features
    }

    /// The sequences in that order, padded with zeros to the longest of them.
    pub(crate) fn batch(&self, examples: &[usize]) -> Batch {
        let lengths: Vec<usize> = examples.iter().map(|&index| self.length(index)).collect();
        let seq_len = lengths.iter().copied().max().unwrap_or(0);
        let mut inputs = Vec::with_capacity(examples.len() * seq_len * self.features);
        for (row, &index) in examples.iter().enumerate() {
            inputs.extend_from_slice(self.sequence(index));
            inputs.resize((row + 1) * seq_len * self.features, 0.0);
        }
        Batch {
            batch_size: examples.len(),
            seq_len,
            inputs: Inputs::Values(inputs),
            targets: Targets::Classes(examples.iter().map(|&index| self.labels[index]).collect()),
            weights: None,
            lengths: lengths.iter().any(|&length| length < seq_len).then_some(lengths),
            continues: false,
        }
    }
}

/// Measures the baselines on the test split.
pub(crate) type MeasureBaselines =
    Box<dyn Fn(&LabelledSequences, &Splits) -> Vec<Baseline> + Send + Sync>;

/// Classification of whole sequences.
pub(crate) struct LabelledTask {
    name: &'static str,
    sequences: LabelledSequences,
    splits: Splits,
    epochs: Epochs,
    measure_baselines: MeasureBaselines,
    /// Measured when first asked for: a throughput trial never does.
    baselines: OnceLock<Vec<Baseline>>,
}

impl LabelledTask {
    /// The task; `seed` orders the training examples.
    pub(crate) fn new(
        name: &'static str,
        seed: u64,
        sequences: LabelledSequences,
        splits: Splits,
        measure_baselines: MeasureBaselines,
    ) -> Self {
        let stream = Stream::new(seed, format!("task/{name}/train"));
        let epochs = Epochs::new(stream, splits.train.len());
        Self { name, sequences, splits, epochs, measure_baselines, baselines: OnceLock::new() }
    }
}

impl Task for LabelledTask {
    fn name(&self) -> &'static str {
        self.name
    }

    fn input(&self) -> InputKind {
        InputKind::Values { features: self.sequences.features }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.sequences.classes }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        let lengths = (0..self.sequences.labels.len()).map(|index| self.sequences.length(index));
        lengths.max().unwrap_or(0)
    }

    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    fn other_metrics(&self) -> Vec<Metric> {
        vec![Metric::MacroF1]
    }

    fn baselines(&self) -> Vec<Baseline> {
        let measure = || (self.measure_baselines)(&self.sequences, &self.splits);
        self.baselines.get_or_init(measure).clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let drawn = self.epochs.batch(step, batch_size);
        let examples: Vec<usize> =
            drawn.into_iter().map(|index| self.splits.train[index]).collect();
        self.sequences.batch(&examples)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let examples = self.splits.evaluated(split);
        examples.chunks(batch_size.max(1)).map(|chunk| self.sequences.batch(chunk)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_padded_to_their_longest_sequence() {
        let mut sequences = LabelledSequences::new(2, 3);
        sequences.push([1.0, 2.0], 0);
        sequences.push([3.0, 4.0, 5.0, 6.0], 2);
        let batch = sequences.batch(&[1, 0]);
        assert_eq!((batch.batch_size, batch.seq_len), (2, 2));
        assert_eq!(batch.inputs, Inputs::Values(vec![3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 0.0, 0.0]));
        assert_eq!(batch.targets, Targets::Classes(vec![2, 0]));
        assert_eq!(batch.lengths, Some(vec![2, 1]));
        let alone = sequences.batch(&[0]);
        assert_eq!((alone.seq_len, alone.lengths), (1, None));
    }
}
