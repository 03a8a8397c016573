//! The copy memory problem (Hochreiter & Schmidhuber 1997) in the layout of Arjovsky et al. 2016.

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::{Description, EVAL_EXAMPLES, EVAL_EXAMPLES_HELP, Generator, Synthetic};
use crate::options::{self, TaskOptions, require_length};
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Readout, Result, TargetKind, Targets, Task,
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

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CopyOptions {
    symbols: usize,
    count: usize,
    eval_examples: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { symbols: 8, count: 10, eval_examples: EVAL_EXAMPLES }
    }
}

impl TaskOptions for CopyOptions {
    const TASK: &'static str = "copy";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "symbols", help: "different symbols to remember" },
        OptionDoc {
            name: "count",
            help: "symbols in a sequence, which has T + 2 count steps; fewer are learned sooner",
        },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        if !(2..=1000).contains(&self.symbols) {
            return Err(Error::option(
                "symbols",
                format!("must lie in 2..=1000, not {}", self.symbols),
            ));
        }
        if !(1..=10_000).contains(&self.count) {
            return Err(Error::option(
                "count",
                format!("must lie in 1..=10000, not {}", self.count),
            ));
        }
        super::require_eval_examples(self.eval_examples)
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: CopyOptions = options::parse(request.options)?;
    require_length(request.length, 1, "the delay; sequences have 2 count steps more")?;
    let CopyOptions { symbols, count, .. } = options;
    let copy = Copy { delay: request.length, symbols, count };
    // Blanks are known; each symbol costs ln 8 (of 8); the mean is over all steps.
    let memoryless = count as f64 * (symbols as f64).ln() / copy.seq_len() as f64;
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Tokens { vocabulary: symbols + 2 },
            // The delimiter is never an answer.
            target: TargetKind::Classes { classes: symbols + 1 },
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
    /// Different symbols to remember: the first tokens.
    symbols: usize,
    /// Symbols in a sequence.
    count: usize,
}

impl Copy {
    fn seq_len(&self) -> usize {
        self.delay + 2 * self.count
    }

    /// Token that says nothing, and the class to answer while there is nothing to repeat.
    fn blank(&self) -> u32 {
        self.symbols as u32
    }

    /// Token after which the symbols are repeated.
    fn delimiter(&self) -> u32 {
        self.blank() + 1
    }
}

impl Generator for Copy {
    /// Input (of 10 symbols): the symbols, `T - 1` blanks, the delimiter, 10 blanks. Answer: `T + 10`
    /// blanks, then the symbols.
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let seq_len = self.seq_len();
        let mut inputs = vec![self.blank(); batch_size * seq_len];
        let mut targets = vec![self.blank(); batch_size * seq_len];
        for (input, target) in inputs.chunks_mut(seq_len).zip(targets.chunks_mut(seq_len)) {
            let answers = &mut target[seq_len - self.count..];
            for (symbol, answer) in input[..self.count].iter_mut().zip(answers) {
                *symbol = rng.below(self.symbols) as u32;
                *answer = *symbol;
            }
            input[self.count + self.delay - 1] = self.delimiter();
        }
        Batch {
            batch_size,
            seq_len,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: None,
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
        fn the_layout_is_arjovskys(
            delay in 1usize..60,
            symbols in 2usize..12,
            count in 1usize..12,
            seed: u64,
        ) {
            let copy = Copy { delay, symbols, count };
            let batch = copy.batch(&mut Stream::new(seed, "test").rng(), 3);
            let (Inputs::Tokens(inputs), Targets::Classes(targets)) =
                (&batch.inputs, &batch.targets) else { panic!("tokens and classes") };
            let (blank, delimiter, seq_len) = (symbols as u32, symbols as u32 + 1, delay + 2 * count);
            prop_assert_eq!(batch.seq_len, seq_len);
            for (x, y) in inputs.chunks(seq_len).zip(targets.chunks(seq_len)) {
                prop_assert!(x[..count].iter().all(|&token| token < blank));
                prop_assert!(x[count..count + delay - 1].iter().all(|&token| token == blank));
                prop_assert_eq!(x[count + delay - 1], delimiter);
                prop_assert!(x[count + delay..].iter().all(|&token| token == blank));
                prop_assert!(y[..delay + count].iter().all(|&class| class == blank));
                prop_assert_eq!(&y[delay + count..], &x[..count]);
            }
        }
    }

    #[test]
    fn wrong_options_are_refused_by_name() {
        for (name, value) in [("symbols", 1), ("symbols", 1001), ("count", 0), ("count", 10_001)] {
            let given = [(name.to_owned(), value.into())].into_iter().collect();
            let error = (ENTRY.resolve)(&given).unwrap_err();
            assert!(matches!(&error, Error::Option { option, .. } if option == name), "{error}");
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
