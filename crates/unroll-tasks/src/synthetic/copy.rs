//! The copy memory problem (Hochreiter & Schmidhuber 1997) in the layout of Arjovsky et al. 2016.

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
    name: "copy",
    summary: "copy memory: repeat 10 symbols after a delay of T steps; sequences have T + 20 steps \
              (Arjovsky et al. 2016)",
    options: options::list::<CopyOptions>,
    fixed_length: super::any_length,
    resolve: options::resolve::<CopyOptions>,
    build,
    files: &[],
};

/// Different symbols to remember: tokens `0..8`.
const SYMBOLS: usize = 8;
/// Symbols in a sequence.
const COUNT: usize = 10;
/// Token that says nothing, and the class to answer while there is nothing to repeat.
const BLANK: u32 = 8;
/// Token after which the symbols are repeated.
const DELIMITER: u32 = 9;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CopyOptions {
    eval_examples: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { eval_examples: EVAL_EXAMPLES }
    }
}

impl TaskOptions for CopyOptions {
    const TASK: &'static str = "copy";
    const OPTIONS: &'static [OptionDoc] =
        &[OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP }];

    fn validate(&self) -> Result<()> {
        super::require_eval_examples(self.eval_examples)
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: CopyOptions = options::parse(request.options)?;
    require_length(request.length, 1, "the delay; sequences have 20 steps more")?;
    let copy = Copy { delay: request.length };
    // Blanks are known; each of the 10 symbols costs ln 8; the mean is over all steps.
    let memoryless = COUNT as f64 * (SYMBOLS as f64).ln() / copy.seq_len() as f64;
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Tokens { vocabulary: SYMBOLS + 2 },
            // The delimiter is never an answer.
            target: TargetKind::Classes { classes: SYMBOLS + 1 },
            readout: Readout::EveryStep,
            seq_len: copy.seq_len(),
            metric: Metric::CrossEntropy,
            baselines: vec![Baseline {
                name: "no memory: guess each symbol".into(),
                value: memoryless,
                fitted: false,
            }],
            solved_at: Some(memoryless / 10.0),
        },
        generator: copy,
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

struct Copy {
    /// Steps (`T`) from the last symbol to the delimiter, the delimiter included.
    delay: usize,
}

impl Copy {
    fn seq_len(&self) -> usize {
        self.delay + 2 * COUNT
    }
}

impl Generator for Copy {
    /// Input: 10 symbols, `T - 1` blanks, the delimiter, 10 blanks. Answer: `T + 10` blanks, then
    /// the 10 symbols.
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let seq_len = self.seq_len();
        let mut inputs = vec![BLANK; batch_size * seq_len];
        let mut targets = vec![BLANK; batch_size * seq_len];
        for (input, target) in inputs.chunks_mut(seq_len).zip(targets.chunks_mut(seq_len)) {
            let answers = &mut target[seq_len - COUNT..];
            for (symbol, answer) in input[..COUNT].iter_mut().zip(answers) {
                *symbol = rng.below(SYMBOLS) as u32;
                *answer = *symbol;
            }
            input[COUNT + self.delay - 1] = DELIMITER;
        }
        Batch {
            batch_size,
            seq_len,
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

    proptest! {
        #[test]
        fn the_layout_is_arjovskys(delay in 1usize..60, seed: u64) {
            let batch = Copy { delay }.batch(&mut Stream::new(seed, "test").rng(), 3);
            let (Inputs::Tokens(inputs), Targets::Classes(targets)) =
                (&batch.inputs, &batch.targets) else { panic!("tokens and classes") };
            prop_assert_eq!(batch.seq_len, delay + 20);
            for (x, y) in inputs.chunks(delay + 20).zip(targets.chunks(delay + 20)) {
                prop_assert!(x[..10].iter().all(|&token| token < 8));
                prop_assert!(x[10..10 + delay - 1].iter().all(|&token| token == BLANK));
                prop_assert_eq!(x[10 + delay - 1], DELIMITER);
                prop_assert_eq!(&x[10 + delay..], &[BLANK; 10]);
                prop_assert!(y[..delay + 10].iter().all(|&class| class == BLANK));
                prop_assert_eq!(&y[delay + 10..], &x[..10]);
            }
        }
    }

    /// REFERENCE values of 10 ln 8 / (T + 20).
    #[test]
    fn the_memoryless_baseline_has_its_known_values() {
        for (length, expected) in [(100, 0.17329), (200, 0.09452), (500, 0.03999), (1000, 0.020387)]
        {
            let task =
                build(&TaskRequest { length, seed: 0, options: &serde_json::Map::new() }).unwrap();
            let value = task.baselines()[0].value;
            assert!((value - expected).abs() < 1e-5, "T={length}: {value}");
        }
    }
}
