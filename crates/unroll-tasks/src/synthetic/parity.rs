//! Parity of a string of bits.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::{Description, EVAL_EXAMPLES, EVAL_EXAMPLES_HELP, Generator, Synthetic};
use crate::options::{self, TaskOptions, require_length};
use crate::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Result, TargetKind, Targets, Task,
    TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "parity",
    summary: "parity: is the number of ones so far odd (Deletang et al. 2023)",
    options: options::list::<ParityOptions>,
    fixed_length: super::any_length,
    resolve: options::resolve::<ParityOptions>,
    build,
    files: &[],
};

/// Where the parity is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// Of the whole string, at its last bit.
    Last,
    /// Of the bits so far, at every bit.
    Every,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ParityOptions {
    answer: Answer,
    eval_examples: usize,
}

impl Default for ParityOptions {
    fn default() -> Self {
        Self { answer: Answer::Last, eval_examples: EVAL_EXAMPLES }
    }
}

impl TaskOptions for ParityOptions {
    const TASK: &'static str = "parity";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "answer",
            help: "`last`: the parity of the whole string at its last bit; `every`: the parity so \
                   far at every bit",
        },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        super::require_eval_examples(self.eval_examples)
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: ParityOptions = options::parse(request.options)?;
    require_length(request.length, 2, "the parity of one bit is the bit")?;
    let mut baselines = vec![Baseline { name: "chance".into(), value: 0.5, fitted: false }];
    if options.answer == Answer::Every {
        // Always right at the first step, at chance at the others.
        let value = 0.5 + 0.5 / request.length as f64;
        baselines
            .insert(0, Baseline { name: "answer the current bit".into(), value, fitted: false });
    }
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Tokens { vocabulary: 2 },
            target: TargetKind::Classes { classes: 2 },
            readout: match options.answer {
                Answer::Last => Readout::Last,
                Answer::Every => Readout::EveryStep,
            },
            seq_len: request.length,
            metric: Metric::Accuracy,
            baselines,
            solved_at: Some(0.99),
        },
        generator: Parity { length: request.length, answer: options.answer },
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

struct Parity {
    length: usize,
    answer: Answer,
}

impl Generator for Parity {
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let mut inputs = Vec::with_capacity(batch_size * self.length);
        let mut targets = Vec::new();
        for _ in 0..batch_size {
            let mut parity = 0;
            for _ in 0..self.length {
                let bit = rng.below(2) as u32;
                parity ^= bit;
                inputs.push(bit);
                if self.answer == Answer::Every {
                    targets.push(parity);
                }
            }
            if self.answer == Answer::Last {
                targets.push(parity);
            }
        }
        Batch {
            batch_size,
            seq_len: self.length,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: None,
            lengths: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unroll_core::Stream;

    use super::*;

    fn example(length: usize, answer: Answer, seed: u64) -> (Vec<u32>, Vec<u32>) {
        let batch = Parity { length, answer }.batch(&mut Stream::new(seed, "test").rng(), 1);
        match (batch.inputs, batch.targets) {
            (Inputs::Tokens(inputs), Targets::Classes(targets)) => (inputs, targets),
            other => panic!("tokens and classes, not {other:?}"),
        }
    }

    proptest! {
        #[test]
        fn the_answer_is_the_number_of_ones_modulo_two(length in 2usize..100, seed: u64) {
            let (bits, every) = example(length, Answer::Every, seed);
            let (same_bits, last) = example(length, Answer::Last, seed);
            prop_assert_eq!(&bits, &same_bits);
            for t in 0..length {
                prop_assert_eq!(every[t], bits[..=t].iter().sum::<u32>() % 2);
            }
            prop_assert_eq!(last, [every[length - 1]]);
        }
    }
}
