//! Selective copying (Gu & Dao 2023, section 4.1.1).

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::{Description, EVAL_EXAMPLES, EVAL_EXAMPLES_HELP, Generator, Synthetic};
use crate::options::{self, MAX_COUNT, MAX_LENGTH, TaskOptions, require_count, require_length};
use crate::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Result, TargetKind, Targets, Task,
    TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "selective_copy",
    summary: "selective copying: find the symbols among blanks, then give them in order \
              (Gu & Dao 2023)",
    options: options::list::<SelectiveCopyOptions>,
    fixed_length: super::any_length,
    resolve: options::resolve::<SelectiveCopyOptions>,
    build,
    files: &[],
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SelectiveCopyOptions {
    symbols: usize,
    count: usize,
    eval_examples: usize,
}

impl Default for SelectiveCopyOptions {
    /// The paper's 16 symbols in a sequence, of a vocabulary of 16 with blank and marker.
    fn default() -> Self {
        Self { symbols: 14, count: 16, eval_examples: EVAL_EXAMPLES }
    }
}

impl TaskOptions for SelectiveCopyOptions {
    const TASK: &'static str = "selective_copy";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "symbols",
            help: "different symbols; the vocabulary has two tokens more, blank and marker",
        },
        OptionDoc {
            name: "count",
            help: "symbols in a sequence: they stand among its first `length - count` steps and \
                   are answered in its last `count` steps",
        },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        require_count("symbols", self.symbols, 2, MAX_COUNT)?;
        require_count("count", self.count, 1, MAX_LENGTH / 2)?;
        super::require_eval_examples(self.eval_examples)
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: SelectiveCopyOptions = options::parse(request.options)?;
    let count = options.count;
    let why = format!("{count} symbols (`count`) to read and {count} to answer");
    require_length(request.length, 2 * count, &why)?;
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Tokens { vocabulary: options.symbols + 2 },
            target: TargetKind::Classes { classes: options.symbols },
            readout: Readout::EveryStep,
            seq_len: request.length,
            metric: Metric::Accuracy,
            baselines: vec![Baseline {
                name: "guess a symbol".into(),
                value: 1.0 / options.symbols as f64,
                fitted: false,
            }],
            solved_at: Some(0.99),
        },
        generator: SelectiveCopy { length: request.length, symbols: options.symbols, count },
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

/// Tokens: symbols `0..symbols`, then the blank, then the marker that asks for an answer.
struct SelectiveCopy {
    length: usize,
    symbols: usize,
    count: usize,
}

impl Generator for SelectiveCopy {
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let context = self.length - self.count;
        let (blank, marker) = (self.symbols as u32, self.symbols as u32 + 1);
        let mut inputs = vec![blank; batch_size * self.length];
        let mut targets = vec![0; batch_size * self.length];
        let mut weights = vec![0.0; batch_size * self.length];
        for ((input, target), weight) in inputs
            .chunks_mut(self.length)
            .zip(targets.chunks_mut(self.length))
            .zip(weights.chunks_mut(self.length))
        {
            let mut positions = rng.distinct(self.count, context);
            positions.sort_unstable();
            for (&position, answer) in positions.iter().zip(&mut target[context..]) {
                *answer = rng.below(self.symbols) as u32;
                input[position] = *answer;
            }
            input[context..].fill(marker);
            weight[context..].fill(1.0);
        }
        Batch {
            batch_size,
            seq_len: self.length,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: Some(weights),
            lengths: None,
            continues: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unroll_core::Stream;

    use super::*;

    proptest! {
        #[test]
        fn the_answers_are_the_symbols_in_order(
            count in 1usize..8, extra in 0usize..40, symbols in 2usize..20, seed: u64,
        ) {
            let length = 2 * count + extra;
            let generator = SelectiveCopy { length, symbols, count };
            let batch = generator.batch(&mut Stream::new(seed, "test").rng(), 3);
            let (Inputs::Tokens(inputs), Targets::Classes(targets), Some(weights)) =
                (&batch.inputs, &batch.targets, &batch.weights) else { panic!("tokens, classes") };
            for row in 0..3 {
                let range = row * length..(row + 1) * length;
                let (x, y, w) =
                    (&inputs[range.clone()], &targets[range.clone()], &weights[range]);
                let (context, question) = x.split_at(length - count);
                let read: Vec<u32> =
                    context.iter().copied().filter(|&token| token < symbols as u32).collect();
                prop_assert_eq!(&read, &y[length - count..]);
                prop_assert!(context.iter().all(|&token| token <= symbols as u32));
                prop_assert!(question.iter().all(|&token| token == symbols as u32 + 1));
                for (t, &weight) in w.iter().enumerate() {
                    prop_assert_eq!(weight, if t < length - count { 0.0 } else { 1.0 });
                }
            }
        }
    }
}
