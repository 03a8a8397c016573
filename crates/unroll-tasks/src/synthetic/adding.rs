//! The adding problem (Hochreiter & Schmidhuber 1997).

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
    name: "adding",
    summary: "adding problem: the sum of the two marked numbers among T \
              (Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016)",
    options: options::list::<AddingOptions>,
    fixed_length: super::any_length,
    resolve: options::resolve::<AddingOptions>,
    build,
    files: &[],
};

/// Mean squared error of always answering 1, the mean: the variance of the sum of two independent
/// numbers in U\[0,1\], 2/12.
const ALWAYS_ONE: f64 = 1.0 / 6.0;

/// Where the two markers stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Markers {
    /// One in the first half of the sequence, one in the second (Arjovsky et al. 2016).
    Halves,
    /// At any two distinct steps (Bai et al. 2018).
    Any,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AddingOptions {
    markers: Markers,
    solved_below: f64,
    eval_examples: usize,
}

impl Default for AddingOptions {
    fn default() -> Self {
        Self { markers: Markers::Halves, solved_below: 0.01, eval_examples: EVAL_EXAMPLES }
    }
}

impl TaskOptions for AddingOptions {
    const TASK: &'static str = "adding";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "markers",
            help: "`halves`: one marker in each half (Arjovsky et al. 2016); `any`: at any two \
                   distinct steps (Bai et al. 2018)",
        },
        OptionDoc {
            name: "solved_below",
            help: "mean squared error from which on the task counts as solved; 0.01 is a \
                   seventeenth of the baseline, an error of 0.1 on a sum of mean 1, which a model \
                   that has found only one of the two numbers (1/12 at best) cannot reach",
        },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        if !(self.solved_below > 0.0 && self.solved_below < ALWAYS_ONE) {
            return Err(Error::option(
                "solved_below",
                format!("must lie above 0 and below the baseline 1/6, not {}", self.solved_below),
            ));
        }
        super::require_eval_examples(self.eval_examples)
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: AddingOptions = options::parse(request.options)?;
    require_length(request.length, 2, "two steps are marked")?;
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Values { features: 2 },
            target: TargetKind::Values { outputs: 1 },
            readout: Readout::Last,
            seq_len: request.length,
            metric: Metric::MeanSquaredError,
            baselines: vec![Baseline {
                name: "always answer 1".into(),
                value: ALWAYS_ONE,
                fitted: false,
            }],
            solved_at: Some(options.solved_below),
        },
        generator: Adding { length: request.length, markers: options.markers },
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

struct Adding {
    length: usize,
    markers: Markers,
}

impl Adding {
    fn positions(&self, rng: &mut StreamRng) -> (usize, usize) {
        match self.markers {
            Markers::Halves => {
                let half = self.length / 2;
                (rng.below(half), half + rng.below(self.length - half))
            }
            Markers::Any => {
                let first = rng.below(self.length);
                // The second is drawn among the other steps: those from `first` on move up by one.
                let second = rng.below(self.length - 1);
                (first, second + usize::from(second >= first))
            }
        }
    }
}

impl Generator for Adding {
    /// Features of a step: the number, and 1 when it is marked, else 0.
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let mut inputs = Vec::with_capacity(batch_size * self.length * 2);
        let mut targets = Vec::with_capacity(batch_size);
        for _ in 0..batch_size {
            let start = inputs.len();
            for _ in 0..self.length {
                inputs.extend([rng.uniform() as f32, 0.0]);
            }
            let (first, second) = self.positions(rng);
            let (first, second) = (start + 2 * first, start + 2 * second);
            inputs[first + 1] = 1.0;
            inputs[second + 1] = 1.0;
            targets.push(inputs[first] + inputs[second]);
        }
        Batch {
            batch_size,
            seq_len: self.length,
            inputs: Inputs::Values(inputs),
            targets: Targets::Values(targets),
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

    fn marked(batch: &Batch) -> Vec<(Vec<usize>, f32, f32)> {
        let (Inputs::Values(inputs), Targets::Values(targets)) = (&batch.inputs, &batch.targets)
        else {
            panic!("the adding problem has real inputs and targets");
        };
        inputs
            .chunks(2 * batch.seq_len)
            .zip(targets)
            .map(|(example, &target)| {
                let steps: Vec<&[f32]> = example.chunks(2).collect();
                assert!(steps.iter().all(|s| s[1] == 0.0 || s[1] == 1.0));
                assert!(steps.iter().all(|s| (0.0..=1.0).contains(&s[0])));
                let positions =
                    (0..steps.len()).filter(|&t| steps[t][1] == 1.0).collect::<Vec<_>>();
                let sum = steps.iter().map(|s| s[0] * s[1]).sum();
                (positions, sum, target)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_target_is_the_sum_of_the_marked(length in 2usize..80, seed: u64, any: bool) {
            let markers = if any { Markers::Any } else { Markers::Halves };
            let generator = Adding { length, markers };
            let batch = generator.batch(&mut Stream::new(seed, "test").rng(), 5);
            for (positions, sum, target) in marked(&batch) {
                prop_assert_eq!(positions.len(), 2);
                prop_assert_eq!(sum, target);
                if !any {
                    prop_assert!(positions[0] < length / 2 && positions[1] >= length / 2);
                }
            }
        }
    }

    /// All pairs of distinct steps come up, equally often.
    #[test]
    fn any_two_steps_are_marked_equally_often() {
        let generator = Adding { length: 4, markers: Markers::Any };
        let batch = generator.batch(&mut Stream::new(3, "test").rng(), 600_000);
        let mut counts = std::collections::BTreeMap::new();
        for (positions, ..) in marked(&batch) {
            *counts.entry(positions).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&count| (98_800..101_200).contains(&count)), "{counts:?}");
    }
}
