//! Tasks whose examples are drawn from random streams.

pub(crate) mod adding;
pub(crate) mod copy;
pub(crate) mod formal;
pub(crate) mod mqar;
pub(crate) mod parity;
pub(crate) mod selective_copy;

use unroll_core::Stream;
use unroll_core::stream::StreamRng;

use crate::options::{MAX_COUNT, require_count};
use crate::{
    Baseline, Batch, InputKind, Metric, Options, Readout, Result, Split, TargetKind, Task,
};

/// Test examples of a synthetic task unless the option says otherwise; validation has half as many.
pub(crate) const EVAL_EXAMPLES: usize = 2000;

/// Help of the option that sets the size of the evaluation splits.
pub(crate) const EVAL_EXAMPLES_HELP: &str =
    "sequences in the test split; the validation split has half as many";

/// Seed of everything that must be the same for every seed of an experiment: evaluation splits of
/// synthetic tasks, splits and permutations of data sets.
pub(crate) const EVALUATION_SEED: u64 = 0;

/// Draws examples of a synthetic task at one length.
///
/// Examples are drawn one after the other: a batch of `a` examples followed by one of `b` holds the
/// same examples as a batch of `a + b`.
pub(crate) trait Generator: Send + Sync {
    /// A batch with the next `batch_size` examples.
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch;

    /// A batch to train on, where that is another than one to evaluate on.
    fn train_batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        self.batch(rng, batch_size)
    }
}

/// What a task tells about itself.
pub(crate) struct Description {
    pub(crate) name: &'static str,
    pub(crate) input: InputKind,
    pub(crate) target: TargetKind,
    pub(crate) readout: Readout,
    pub(crate) seq_len: usize,
    pub(crate) metric: Metric,
    pub(crate) baselines: Vec<Baseline>,
    pub(crate) solved_at: Option<f64>,
}

/// A generator with its streams: training batch `s` comes from the stream `task/<name>/train` of
/// the run's seed at step `s`; the evaluation splits come from streams of [`EVALUATION_SEED`].
pub(crate) struct Synthetic<G> {
    pub(crate) description: Description,
    pub(crate) generator: G,
    pub(crate) seed: u64,
    pub(crate) eval_examples: usize,
}

impl<G: Generator> Task for Synthetic<G> {
    fn name(&self) -> &'static str {
        self.description.name
    }

    fn input(&self) -> InputKind {
        self.description.input
    }

    fn target(&self) -> TargetKind {
        self.description.target
    }

    fn readout(&self) -> Readout {
        self.description.readout
    }

    fn seq_len(&self) -> usize {
        self.description.seq_len
    }

    fn metric(&self) -> Metric {
        self.description.metric.clone()
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.description.baselines.clone()
    }

    fn solved_at(&self) -> Option<f64> {
        self.description.solved_at
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let stream = Stream::new(self.seed, format!("task/{}/train", self.name())).at(step);
        self.generator.train_batch(&mut stream.rng(), batch_size)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let (mut rng, examples) = self.evaluation_stream(split);
        let batch_size = batch_size.max(1);
        (0..examples)
            .step_by(batch_size)
            .map(|done| self.generator.batch(&mut rng, batch_size.min(examples - done)))
            .collect()
    }

    fn first_of(&self, split: Split, count: usize) -> Option<Batch> {
        let (mut rng, examples) = self.evaluation_stream(split);
        let count = count.min(examples);
        (count > 0).then(|| self.generator.batch(&mut rng, count))
    }
}

impl<G: Generator> Synthetic<G> {
    /// Random numbers and number of examples of an evaluation split.
    fn evaluation_stream(&self, split: Split) -> (StreamRng, usize) {
        let validation = (self.eval_examples / 2).max(1);
        let (purpose, examples) = match split {
            // The training data never ends: a sample of it is fresh examples.
            Split::Train => ("train_sample", validation),
            Split::Validation => ("validation", validation),
            Split::Test => ("test", self.eval_examples),
        };
        let stream = Stream::new(EVALUATION_SEED, format!("task/{}/{purpose}", self.name()));
        (stream.rng(), examples)
    }
}

/// Synthetic tasks have any length: [`TaskEntry::fixed_length`](crate::TaskEntry::fixed_length).
pub(crate) fn any_length(_: &Options) -> Result<Option<usize>> {
    Ok(None)
}

/// Checks the option `eval_examples`.
pub(crate) fn require_eval_examples(value: usize) -> Result<()> {
    require_count("eval_examples", value, 1, MAX_COUNT)
}
