//! Parity of a string of bits.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::formal::{LENGTHS_HELP, Lengths};
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
    lengths: Lengths,
    eval_examples: usize,
}

impl Default for ParityOptions {
    fn default() -> Self {
        Self { answer: Answer::Last, lengths: Lengths::Fixed, eval_examples: EVAL_EXAMPLES }
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
        OptionDoc { name: "lengths", help: LENGTHS_HELP },
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
        generator: Parity {
            length: request.length,
            answer: options.answer,
            lengths: options.lengths,
        },
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

struct Parity {
    length: usize,
    answer: Answer,
    lengths: Lengths,
}

impl Parity {
    fn of_lengths(&self, rng: &mut StreamRng, batch_size: usize, lengths: Lengths) -> Batch {
        let strings: Vec<Vec<u32>> = (0..batch_size)
            .map(|_| {
                let length = match lengths {
                    Lengths::Fixed => self.length,
                    Lengths::Uniform => 1 + rng.below(self.length),
                };
                (0..length).map(|_| rng.below(2) as u32).collect()
            })
            .collect();
        let lengths: Vec<usize> = strings.iter().map(Vec::len).collect();
        let seq_len = lengths.iter().copied().max().unwrap_or(0);
        let mut inputs = vec![0; batch_size * seq_len];
        let mut targets = Vec::new();
        for (string, row) in strings.iter().zip(inputs.chunks_mut(seq_len.max(1))) {
            row[..string.len()].copy_from_slice(string);
            let parities = row.iter().scan(0, |parity, bit| {
                *parity ^= bit;
                Some(*parity)
            });
            match self.answer {
                Answer::Every => targets.extend(parities),
                // The bits of the padding are 0: they change no parity.
                Answer::Last => targets.extend(parities.last()),
            }
        }
        Batch {
            batch_size,
            seq_len,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: None,
            lengths: lengths.iter().any(|&length| length < seq_len).then_some(lengths),
            continues: false,
        }
    }
}

impl Generator for Parity {
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        self.of_lengths(rng, batch_size, Lengths::Fixed)
    }

    fn train_batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        self.of_lengths(rng, batch_size, self.lengths)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unroll_core::Stream;

    use super::*;

    fn example(length: usize, answer: Answer, seed: u64) -> (Vec<u32>, Vec<u32>) {
        let parity = Parity { length, answer, lengths: Lengths::Fixed };
        let batch = parity.batch(&mut Stream::new(seed, "test").rng(), 1);
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
    #[test]
    fn strings_of_many_lengths_keep_their_own_parity() {
        let parity = Parity { length: 30, answer: Answer::Last, lengths: Lengths::Uniform };
        let batch = parity.train_batch(&mut Stream::new(1, "test").rng(), 50);
        let (Inputs::Tokens(inputs), Targets::Classes(targets)) = (&batch.inputs, &batch.targets)
        else {
            panic!("tokens and classes")
        };
        let lengths = batch.lengths.unwrap();
        assert!(lengths.iter().any(|&l| l < 10) && lengths.iter().any(|&l| l > 20));
        for (row, &length) in lengths.iter().enumerate() {
            let bits = &inputs[row * batch.seq_len..][..length];
            assert_eq!(targets[row], bits.iter().sum::<u32>() % 2);
        }
    }
}
