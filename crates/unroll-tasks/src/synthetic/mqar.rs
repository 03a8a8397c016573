//! Multi-query associative recall (Arora et al. 2024, "Zoology").

use serde::{Deserialize, Serialize};
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::{Description, EVAL_EXAMPLES, EVAL_EXAMPLES_HELP, Generator, Synthetic};
use crate::options::{self, MAX_COUNT, MAX_LENGTH, TaskOptions, require_count, require_length};
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, Readout, Result, TargetKind, Targets, Task,
    TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "mqar",
    summary: "multi-query associative recall: key-value pairs, then each key again, whose value is \
              asked for (Arora et al. 2024)",
    options: options::list::<MqarOptions>,
    fixed_length: super::any_length,
    resolve: options::resolve::<MqarOptions>,
    build,
    files: &[],
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MqarOptions {
    vocabulary: usize,
    pairs: usize,
    power: f64,
    random_filler: bool,
    eval_examples: usize,
}

impl Default for MqarOptions {
    fn default() -> Self {
        Self {
            vocabulary: 8192,
            pairs: 0,
            power: 0.01,
            random_filler: true,
            eval_examples: EVAL_EXAMPLES,
        }
    }
}

impl TaskOptions for MqarOptions {
    const TASK: &'static str = "mqar";
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "vocabulary",
            help: "tokens: keys are drawn from the lower half (without 0), values from the upper",
        },
        OptionDoc {
            name: "pairs",
            help: "key-value pairs, each asked for once; 0 takes the number of Arora et al. 2024 \
                   for the length: 4 at 64 steps, 8 at 128, 16 at 256, 64 at 512, else \
                   a sixteenth of the length, at least 1",
        },
        OptionDoc {
            name: "power",
            help: "exponent a of the power law `gap^(a - 1)` of the steps between the pairs and a \
                   query; 1 is uniform, towards 0 queries come early",
        },
        OptionDoc {
            name: "random_filler",
            help: "steps that are neither pair nor query hold random tokens; `false`: token 0",
        },
        OptionDoc { name: "eval_examples", help: EVAL_EXAMPLES_HELP },
    ];

    fn validate(&self) -> Result<()> {
        require_count("vocabulary", self.vocabulary, 4, MAX_COUNT)?;
        require_count("pairs", self.pairs, 0, MAX_LENGTH / 4)?;
        if !(self.power > 0.0 && self.power <= 1.0) {
            return Err(Error::option(
                "power",
                format!("must lie above 0 and at most at 1, not {}", self.power),
            ));
        }
        super::require_eval_examples(self.eval_examples)
    }
}

/// Pairs at a length when the option leaves them open.
fn default_pairs(length: usize) -> usize {
    match length {
        512 => 64,
        _ => (length / 16).max(1),
    }
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: MqarOptions = options::parse(request.options)?;
    let (length, vocabulary) = (request.length, options.vocabulary);
    let pairs = if options.pairs == 0 { default_pairs(length) } else { options.pairs };
    let why = format!("{pairs} pairs take two steps each, and their queries two more");
    require_length(length, 4 * pairs, &why)?;
    if pairs > vocabulary / 2 - 1 {
        return Err(Error::option(
            "vocabulary",
            format!("{pairs} different keys need at least {}, not {vocabulary}", 2 * pairs + 2),
        ));
    }
    Ok(Box::new(Synthetic {
        description: Description {
            name: ENTRY.name,
            input: InputKind::Tokens { vocabulary },
            target: TargetKind::Classes { classes: vocabulary },
            readout: Readout::EveryStep,
            seq_len: length,
            metric: Metric::Accuracy,
            baselines: vec![
                Baseline {
                    name: "guess one of the shown values".into(),
                    value: 1.0 / pairs as f64,
                    fitted: false,
                },
                Baseline {
                    name: "guess any token".into(),
                    value: 1.0 / vocabulary as f64,
                    fitted: false,
                },
            ],
            solved_at: Some(0.99),
        },
        generator: Mqar {
            length,
            vocabulary,
            pairs,
            gap_weights: gap_weights(options.power, (length - 2 * pairs) / 2),
            random_filler: options.random_filler,
        },
        seed: request.seed,
        eval_examples: options.eval_examples,
    }))
}

/// Weights of the places for a query, nearest first: `n^(power - 1)`.
fn gap_weights(power: f64, places: usize) -> Vec<f64> {
    (1..=places).map(|n| (n as f64).powf(power - 1.0)).collect()
}

/// A sequence: `pairs` keys and values in turn, then the queries, which are the keys again at
/// every other step that the power law picks. The answer to a query is due at the query itself.
struct Mqar {
    length: usize,
    vocabulary: usize,
    pairs: usize,
    /// One for each place that a query may take, two steps apart.
    gap_weights: Vec<f64>,
    random_filler: bool,
}

impl Mqar {
    /// Places of the queries in `0..gap_weights.len()`, drawn one after the other without
    /// replacement, each in proportion to its weight among those left.
    ///
    /// Exponential variables with the weights as rates, in ascending order, come in just this
    /// sequence (Efraimidis & Spirakis 2006).
    fn places(&self, rng: &mut StreamRng) -> Vec<usize> {
        let mut arrivals: Vec<(f64, usize)> = self
            .gap_weights
            .iter()
            .enumerate()
            // 1 - u lies in (0, 1], where the logarithm is finite.
            .map(|(place, weight)| (-(1.0 - rng.uniform()).ln() / weight, place))
            .collect();
        arrivals.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        arrivals.into_iter().take(self.pairs).map(|(_, place)| place).collect()
    }
}

impl Generator for Mqar {
    fn batch(&self, rng: &mut StreamRng, batch_size: usize) -> Batch {
        let first_value = self.vocabulary / 2;
        let context = 2 * self.pairs;
        let mut inputs = vec![0; batch_size * self.length];
        let mut targets = vec![0; batch_size * self.length];
        let mut weights = vec![0.0; batch_size * self.length];
        for ((input, target), weight) in inputs
            .chunks_mut(self.length)
            .zip(targets.chunks_mut(self.length))
            .zip(weights.chunks_mut(self.length))
        {
            if self.random_filler {
                input[context..].fill_with(|| rng.below(self.vocabulary) as u32);
            }
            // Token 0 is no key: it is the filler.
            let keys = rng.distinct(self.pairs, first_value - 1);
            let values = rng.distinct(self.pairs, self.vocabulary - first_value);
            let places = self.places(rng);
            for (pair, ((key, value), place)) in
                keys.into_iter().zip(values).zip(places).enumerate()
            {
                let (key, value) = ((1 + key) as u32, (first_value + value) as u32);
                input[2 * pair] = key;
                input[2 * pair + 1] = value;
                let query = context + 2 * place;
                input[query] = key;
                target[query] = value;
                weight[query] = 1.0;
            }
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
    use std::collections::HashMap;

    use proptest::prelude::*;
    use unroll_core::Stream;

    use super::*;

    fn generator(length: usize, pairs: usize, vocabulary: usize, random_filler: bool) -> Mqar {
        let gap_weights = gap_weights(0.01, (length - 2 * pairs) / 2);
        Mqar { length, vocabulary, pairs, gap_weights, random_filler }
    }

    proptest! {
        #[test]
        fn each_key_is_asked_for_once_and_answered_by_its_value(
            pairs in 1usize..12, extra in 0usize..50, spare in 0usize..40, filler: bool, seed: u64,
        ) {
            let (length, vocabulary) = (4 * pairs + extra, 2 * pairs + 2 + spare);
            let generator = generator(length, pairs, vocabulary, filler);
            let batch = generator.batch(&mut Stream::new(seed, "test").rng(), 3);
            let (Inputs::Tokens(inputs), Targets::Classes(targets), Some(weights)) =
                (&batch.inputs, &batch.targets, &batch.weights) else { panic!("tokens, classes") };
            for row in 0..3 {
                let range = row * length..(row + 1) * length;
                let (x, y, w) =
                    (&inputs[range.clone()], &targets[range.clone()], &weights[range]);
                prop_assert!(x.iter().chain(y).all(|&token| (token as usize) < vocabulary));
                let mut shown: HashMap<u32, u32> =
                    x[..2 * pairs].chunks(2).map(|pair| (pair[0], pair[1])).collect();
                prop_assert_eq!(shown.len(), pairs, "keys are distinct");
                for (&key, &value) in &shown {
                    prop_assert!(key >= 1 && (key as usize) < vocabulary / 2);
                    prop_assert!(value as usize >= vocabulary / 2);
                }
                for t in (0..length).filter(|&t| w[t] != 0.0) {
                    prop_assert!(t >= 2 * pairs && t % 2 == 0);
                    prop_assert_eq!(shown.remove(&x[t]), Some(y[t]), "asked for at {}", t);
                }
                prop_assert!(shown.is_empty(), "never asked for: {:?}", shown);
                if !filler {
                    prop_assert!((2 * pairs..length).all(|t| w[t] == 1.0 || x[t] == 0));
                }
            }
        }
    }

    /// With one query, the places follow the weights exactly.
    #[test]
    fn a_single_query_follows_the_power_law() {
        let generator = generator(10, 1, 16, true);
        let total: f64 = generator.gap_weights.iter().sum();
        let mut rng = Stream::new(1, "test").rng();
        let mut counts = vec![0u32; generator.gap_weights.len()];
        for _ in 0..40_000 {
            counts[generator.places(&mut rng)[0]] += 1;
        }
        for (&count, weight) in counts.iter().zip(&generator.gap_weights) {
            let (found, expected) = (f64::from(count) / 40_000.0, weight / total);
            assert!((found - expected).abs() < 0.01, "{found} for {expected}");
        }
    }

    #[test]
    fn pairs_follow_the_paper() {
        let pairs = [64, 128, 256, 512, 1024, 10].map(default_pairs);
        assert_eq!(pairs, [4, 8, 16, 64, 64, 1]);
    }
}
