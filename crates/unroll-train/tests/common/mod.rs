//! Small tasks with known answers.

use unroll_core::Stream;
use unroll_tasks::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Split, TargetKind, Targets, Task,
};

/// What the small task asks for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ask {
    /// The mean of the first feature, after the last step.
    Mean,
    /// The token of the step before, at every step but the first, among this many tokens.
    Previous { vocabulary: usize },
}

#[derive(Clone)]
pub(crate) struct SmallTask {
    pub(crate) ask: Ask,
    pub(crate) seq_len: usize,
    pub(crate) padded: bool,
    pub(crate) metric: Metric,
    pub(crate) solved_at: Option<f64>,
    /// Factor on the targets.
    pub(crate) scale: f32,
}

impl SmallTask {
    pub(crate) fn mean() -> Self {
        Self {
            ask: Ask::Mean,
            seq_len: 6,
            padded: true,
            metric: Metric::MeanSquaredError,
            solved_at: None,
            scale: 1.0,
        }
    }

    pub(crate) fn previous(vocabulary: usize) -> Self {
        let metric = Metric::Accuracy;
        Self { ask: Ask::Previous { vocabulary }, padded: false, metric, ..Self::mean() }
    }

    fn batch(&self, stream: &Stream, examples: std::ops::Range<usize>) -> Batch {
        let batch_size = examples.len();
        let lengths: Vec<usize> = examples
            .clone()
            .map(|e| if self.padded { 1 + e % self.seq_len } else { self.seq_len })
            .collect();
        let mut rngs: Vec<_> = examples.map(|e| stream.at(e as u64).rng()).collect();
        let (inputs, targets, weights) = match self.ask {
            Ask::Mean => {
                let mut inputs = Vec::new();
                let mut targets = Vec::new();
                for (rng, &length) in rngs.iter_mut().zip(&lengths) {
                    let numbers: Vec<f32> = (0..length).map(|_| rng.normal() as f32).collect();
                    targets.push(self.scale * numbers.iter().sum::<f32>() / length as f32);
                    for t in 0..self.seq_len {
                        inputs.extend([numbers.get(t).copied().unwrap_or(0.0), 1.0]);
                    }
                }
                (Inputs::Values(inputs), Targets::Values(targets), None)
            }
            Ask::Previous { vocabulary } => {
                let mut tokens = Vec::new();
                let mut targets = Vec::new();
                let mut weights = Vec::new();
                for rng in &mut rngs {
                    let drawn: Vec<u32> =
                        (0..self.seq_len).map(|_| rng.below(vocabulary) as u32).collect();
                    targets.push(0);
                    targets.extend(&drawn[..self.seq_len - 1]);
                    weights.push(0.0);
                    weights.extend(vec![1.0; self.seq_len - 1]);
                    tokens.extend(drawn);
                }
                (Inputs::Tokens(tokens), Targets::Classes(targets), Some(weights))
            }
        };
        Batch {
            batch_size,
            seq_len: self.seq_len,
            inputs,
            targets,
            weights,
            lengths: self.padded.then_some(lengths),
            continues: false,
        }
    }
}

pub(crate) const EVALUATION_EXAMPLES: usize = 40;

impl Task for SmallTask {
    fn name(&self) -> &'static str {
        "small"
    }

    fn input(&self) -> InputKind {
        match self.ask {
            Ask::Mean => InputKind::Values { features: 2 },
            Ask::Previous { vocabulary } => InputKind::Tokens { vocabulary },
        }
    }

    fn target(&self) -> TargetKind {
        match self.ask {
            Ask::Mean => TargetKind::Values { outputs: 1 },
            Ask::Previous { vocabulary } => TargetKind::Classes { classes: vocabulary },
        }
    }

    fn readout(&self) -> Readout {
        match self.ask {
            Ask::Mean => Readout::Last,
            Ask::Previous { .. } => Readout::EveryStep,
        }
    }

    fn seq_len(&self) -> usize {
        self.seq_len
    }

    fn metric(&self) -> Metric {
        self.metric.clone()
    }

    fn baselines(&self) -> Vec<Baseline> {
        Vec::new()
    }

    fn solved_at(&self) -> Option<f64> {
        self.solved_at
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let first = step as usize * batch_size;
        self.batch(&Stream::new(1, "small/train"), first..first + batch_size)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let stream = Stream::new(0, format!("small/{}", split.name()));
        (0..EVALUATION_EXAMPLES)
            .step_by(batch_size)
            .map(|e| self.batch(&stream, e..(e + batch_size).min(EVALUATION_EXAMPLES)))
            .collect()
    }
}
