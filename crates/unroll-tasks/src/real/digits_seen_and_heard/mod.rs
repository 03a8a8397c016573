//! Two modalities at once: the rows of a handwritten digit and an utterance of the same digit.
//!
//! Every image of MNIST's subset is shown with an utterance of the Free Spoken Digit Dataset. Both sets keep
//! their own splits, so that an image or utterance of one split is never met in another. In training each
//! image meets another utterance every time; in the evaluation splits the pairs stay.
//!
//! Clean, one modality leaves little to be gained by the other: noise on both leaves more. It is drawn anew in training and stays with its example in the evaluation splits.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;
use unroll_core::stream::StreamRng;

use super::images::By;
use super::{mnist, spoken_digits};
use crate::baseline::{most_frequent_class, ridge, series};
use crate::data::epochs::Epochs;
use crate::data::labelled::LabelledSequences;
use crate::data::locate;
use crate::data::split::Splits;
use crate::options::{self, TaskOptions, require_fixed_length};
use crate::synthetic::EVALUATION_SEED;
use crate::{
    Baseline, Batch, Error, InputKind, Inputs, Metric, ModalityInputs, Options, Readout, Result,
    Split, TargetKind, Targets, Task, TaskEntry, TaskRequest,
};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: NAME,
    summary: "a handwritten digit row by row and the same digit spoken, both under noise (5000 of \
              MNIST; Free Spoken Digit Dataset), or either alone",
    options: options::list::<SeenAndHeardOptions>,
    fixed_length,
    resolve: options::resolve::<SeenAndHeardOptions>,
    build,
    files: &[mnist::SET.file, spoken_digits::FILE],
};

const NAME: &str = "digits_seen_and_heard";

/// Steps of both modalities: the rows of an image, the longest utterance.
const STEPS: [usize; 2] = [mnist::SET.side, spoken_digits::LONGEST];

/// Steps of the longer.
const LENGTH: usize = if STEPS[0] > STEPS[1] { STEPS[0] } else { STEPS[1] };

/// Largest standard deviation of noise.
const MOST_NOISE: f64 = 100.0;

/// Weight of the squared coefficients in the ridge baselines.
const RIDGE_PENALTY: f64 = 1.0;

/// What a model is given of each example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Modalities {
    Both,
    Image,
    Speech,
}

/// Which utterance an image comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Pairs {
    /// One of its digit.
    SameDigit,
    /// Any: it says nothing about the image, whose digit remains the answer.
    Random,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SeenAndHeardOptions {
    modalities: Modalities,
    pairs: Pairs,
    image_noise: f64,
    speech_noise: f64,
}

impl Default for SeenAndHeardOptions {
    fn default() -> Self {
        Self {
            modalities: Modalities::Both,
            pairs: Pairs::SameDigit,
            image_noise: 0.7,
            speech_noise: 2.0,
        }
    }
}

impl TaskOptions for SeenAndHeardOptions {
    const TASK: &'static str = NAME;
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc {
            name: "modalities",
            help: "`both`, or of the same examples `image` or `speech` alone",
        },
        OptionDoc {
            name: "pairs",
            help: "`same_digit`, or `random`: any utterance, the answer is the image's digit",
        },
        OptionDoc {
            name: "image_noise",
            help: "standard deviation of Gaussian noise on pixels in 0..1",
        },
        OptionDoc {
            name: "speech_noise",
            help: "standard deviation of Gaussian noise on standardised coefficients",
        },
    ];

    fn validate(&self) -> Result<()> {
        for (option, value) in
            [("image_noise", self.image_noise), ("speech_noise", self.speech_noise)]
        {
            if !(0.0..=MOST_NOISE).contains(&value) {
                let message = format!("must lie in 0..={MOST_NOISE}, not {value}");
                return Err(Error::option(option, message));
            }
        }
        Ok(())
    }
}

/// The length names the task, whatever is given of it: single modalities stand beside both in tables.
fn fixed_length(given: &Options) -> Result<Option<usize>> {
    options::parse::<SeenAndHeardOptions>(given)?;
    Ok(Some(LENGTH))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: SeenAndHeardOptions = options::parse(request.options)?;
    require_fixed_length(request.length, LENGTH, "the longest utterance")?;
    Ok(Box::new(SeenAndHeard::new(&options, request.seed)?))
}

/// The sequences of one modality, and which of them belong to which split.
struct Source {
    sequences: LabelledSequences,
    splits: Splits,
    /// Standard deviation of the noise.
    noise: f64,
    features: usize,
}

impl Source {
    fn images(noise: f64) -> Result<Self> {
        let set = &mnist::SET;
        let sequences = set.read(&locate(set.file), By::Row)?;
        let splits = set.splits(&sequences);
        Ok(Self { sequences, splits, noise, features: set.side })
    }

    fn speech(noise: f64) -> Result<Self> {
        let series = spoken_digits::read()?;
        // Classes of the file by number are the digits themselves.
        if let Some((place, name)) =
            series.classes.iter().enumerate().find(|(place, name)| **name != place.to_string())
        {
            let message = format!("class {place} is called {name}");
            return Err(Error::data(&locate(spoken_digits::FILE), 0, message));
        }
        let splits = spoken_digits::splits(&series);
        let sequences = spoken_digits::standardised(&series, &splits.train);
        Ok(Self { sequences, splits, noise, features: series.channels })
    }

    /// The sequences with noise, each from its own generator, padded with zeros to the longest.
    fn inputs(
        &self,
        examples: &[usize],
        mut generator: impl FnMut(usize) -> StreamRng,
    ) -> ModalityInputs {
        let lengths: Vec<usize> =
            examples.iter().map(|&index| self.sequences.length(index)).collect();
        let seq_len = lengths.iter().copied().max().unwrap_or(0);
        let width = seq_len * self.features;
        let mut values = Vec::with_capacity(examples.len() * width);
        for (row, &index) in examples.iter().enumerate() {
            let clean = self.sequences.sequence(index).iter();
            if self.noise > 0.0 {
                let mut rng = generator(row);
                values.extend(clean.map(|&value| value + (self.noise * rng.normal()) as f32));
            } else {
                values.extend(clean);
            }
            values.resize((row + 1) * width, 0.0);
        }
        let differ = lengths.iter().any(|&length| length < seq_len);
        ModalityInputs { values, seq_len, lengths: differ.then_some(lengths) }
    }
}

/// Image and utterance of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    image: usize,
    utterance: usize,
}

/// Utterances to choose from: those of each digit, or all for every digit.
struct Pools {
    pools: Vec<Vec<usize>>,
}

impl Pools {
    fn new(part: &[usize], labels: &[u32], classes: usize, pairs: Pairs) -> Self {
        let of_digit = |digit: u32| part.iter().copied().filter(move |&u| labels[u] == digit);
        let pools = match pairs {
            Pairs::SameDigit => {
                (0..classes as u32).map(|digit| of_digit(digit).collect()).collect()
            }
            Pairs::Random => vec![part.to_vec()],
        };
        Self { pools }
    }

    /// Index of the pool for images of a digit.
    fn of(&self, digit: u32) -> usize {
        digit as usize % self.pools.len()
    }

    /// An utterance for an image of that digit, each as likely as the others.
    fn draw(&self, digit: u32, rng: &mut StreamRng) -> usize {
        let pool = &self.pools[self.of(digit)];
        pool[rng.below(pool.len())]
    }

    /// An utterance for each image, each pool dealt out in random order, again and again: none comes
    /// twice more than another.
    fn deal(&self, images: &[usize], labels: &[u32], stream: &Stream) -> Vec<Pair> {
        let shuffled = |(index, pool): (usize, &Vec<usize>)| {
            let mut pool = pool.clone();
            stream.at(index as u64).rng().shuffle(&mut pool);
            pool.into_iter().cycle()
        };
        let pools: Vec<Vec<usize>> = self
            .pools
            .iter()
            .enumerate()
            .map(|(index, pool)| shuffled((index, pool)).take(images.len()).collect())
            .collect();
        let mut dealt = vec![0; pools.len()];
        let deal = |&image: &usize| {
            let pool = self.of(labels[image]);
            dealt[pool] += 1;
            Pair { image, utterance: pools[pool][dealt[pool] - 1] }
        };
        images.iter().map(deal).collect()
    }
}

struct SeenAndHeard {
    modalities: Modalities,
    images: Source,
    speech: Source,
    /// Training utterances.
    pools: Pools,
    /// Pairs of the evaluation splits, in the order of [`Split`].
    evaluated: [Vec<Pair>; 3],
    /// The training images once each, for baselines.
    fitted: Vec<Pair>,
    epochs: Epochs,
    seed: u64,
    /// Measured when first asked for.
    baselines: OnceLock<Vec<Baseline>>,
}

/// A stream of the task by name.
fn stream(seed: u64, purpose: &str) -> Stream {
    Stream::new(seed, format!("task/{NAME}/{purpose}"))
}

impl SeenAndHeard {
    fn new(options: &SeenAndHeardOptions, seed: u64) -> Result<Self> {
        let images = Source::images(options.image_noise)?;
        let speech = Source::speech(options.speech_noise)?;
        let pools = |part: &[usize]| {
            let (labels, classes) = (speech.sequences.labels(), speech.sequences.classes());
            Pools::new(part, labels, classes, options.pairs)
        };
        let deal = |split: &str, images_of: &[usize], utterances: &[usize]| {
            let stream = stream(EVALUATION_SEED, &format!("pairs/{split}"));
            pools(utterances).deal(images_of, images.sequences.labels(), &stream)
        };
        let evaluated = [Split::Train, Split::Validation, Split::Test].map(|split| {
            let utterances = match split {
                Split::Train => &speech.splits.train,
                _ => speech.splits.evaluated(split),
            };
            deal(split.name(), images.splits.evaluated(split), utterances)
        });
        Ok(Self {
            modalities: options.modalities,
            pools: pools(&speech.splits.train),
            fitted: deal("baseline", &images.splits.train, &speech.splits.train),
            evaluated,
            epochs: Epochs::new(stream(seed, "train"), images.splits.train.len()),
            seed,
            images,
            speech,
            baselines: OnceLock::new(),
        })
    }

    /// What is seen and heard of examples that stand at `first` and behind it in the streams `seed` and
    /// `part`.
    fn inputs(&self, pairs: &[Pair], first: u64, seed: u64, part: &str) -> [ModalityInputs; 2] {
        let generator = |purpose: &str| {
            let stream = stream(seed, &format!("{part}/{purpose}"));
            move |row: usize| stream.at(first.wrapping_add(row as u64)).rng()
        };
        let images: Vec<usize> = pairs.iter().map(|pair| pair.image).collect();
        let utterances: Vec<usize> = pairs.iter().map(|pair| pair.utterance).collect();
        [
            self.images.inputs(&images, generator("image_noise")),
            self.speech.inputs(&utterances, generator("speech_noise")),
        ]
    }

    fn batch(&self, pairs: &[Pair], first: u64, seed: u64, part: &str) -> Batch {
        let [image, speech] = self.inputs(pairs, first, seed, part);
        let labels = self.images.sequences.labels();
        let targets = Targets::Classes(pairs.iter().map(|pair| labels[pair.image]).collect());
        let (inputs, seq_len, lengths) = match self.modalities {
            Modalities::Image => (Inputs::Values(image.values), image.seq_len, image.lengths),
            Modalities::Speech => (Inputs::Values(speech.values), speech.seq_len, speech.lengths),
            Modalities::Both => {
                let lengths: Vec<usize> =
                    (0..pairs.len()).map(|row| image.length(row).max(speech.length(row))).collect();
                let longest = lengths.iter().copied().max().unwrap_or(0);
                let differ = lengths.iter().any(|&length| length < longest);
                let both = Box::new([image, speech]);
                (Inputs::Modalities(both), longest, differ.then_some(lengths))
            }
        };
        Batch {
            batch_size: pairs.len(),
            seq_len,
            inputs,
            targets,
            weights: None,
            lengths,
            continues: false,
        }
    }

    /// Ridge regression on all pixels, on mean and deviation of each coefficient and on both, fitted on the
    /// training images under noise of their own; and the most frequent class.
    fn measure_baselines(&self) -> Vec<Baseline> {
        let labels = self.images.sequences.labels();
        let rows = |pairs: &[Pair], part: &str| -> Vec<[Vec<f32>; 3]> {
            let row = |(index, pair): (usize, &Pair)| {
                let [image, speech] = self.inputs(&[*pair], index as u64, EVALUATION_SEED, part);
                let heard = series::moments(&speech.values, self.speech.features);
                let both = [&image.values[..], &heard[..]].concat();
                [image.values, heard, both]
            };
            pairs.iter().enumerate().map(row).collect()
        };
        let (train, test) = (&self.fitted, &self.evaluated[2]);
        let (train_rows, test_rows) = (rows(train, "baseline"), rows(test, "test"));
        let names = [
            "ridge regression on all pixels",
            "ridge regression on mean and deviation of each coefficient",
            "ridge regression on both",
        ];
        let ridge = names.iter().enumerate().filter_map(|(which, name)| {
            let (train, test) = (
                examples(train, labels, &train_rows, which),
                examples(test, labels, &test_rows, which),
            );
            let classes = self.images.sequences.classes();
            let value = ridge::ridge_accuracy(&train, &test, classes, RIDGE_PENALTY)?;
            Some(Baseline { name: (*name).into(), value, fitted: true })
        });
        let splits = &self.images.splits;
        let frequent = most_frequent_class(labels, &splits.train, &splits.test);
        let mut baselines: Vec<Baseline> = ridge.chain([frequent]).collect();
        baselines.sort_by(|a, b| b.value.total_cmp(&a.value));
        baselines
    }
}

/// One kind of rows, with the digits of the images.
fn examples<'a>(
    pairs: &[Pair],
    labels: &[u32],
    rows: &'a [[Vec<f32>; 3]],
    which: usize,
) -> ridge::Examples<'a> {
    ridge::Examples {
        rows: rows.iter().map(|row| row[which].as_slice()).collect(),
        labels: pairs.iter().map(|pair| labels[pair.image]).collect(),
    }
}

impl Task for SeenAndHeard {
    fn name(&self) -> &'static str {
        NAME
    }

    fn input(&self) -> InputKind {
        let features = [self.images.features, self.speech.features];
        match self.modalities {
            Modalities::Both => InputKind::Modalities { features, steps: STEPS },
            Modalities::Image => InputKind::Values { features: features[0] },
            Modalities::Speech => InputKind::Values { features: features[1] },
        }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: self.images.sequences.classes() }
    }

    fn readout(&self) -> Readout {
        Readout::Last
    }

    fn seq_len(&self) -> usize {
        match self.modalities {
            Modalities::Both => LENGTH,
            Modalities::Image => STEPS[0],
            Modalities::Speech => STEPS[1],
        }
    }

    fn metric(&self) -> Metric {
        Metric::Accuracy
    }

    fn baselines(&self) -> Vec<Baseline> {
        self.baselines.get_or_init(|| self.measure_baselines()).clone()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let first = step.wrapping_mul(batch_size as u64);
        let drawn = stream(self.seed, "train/pairs");
        let labels = self.images.sequences.labels();
        let pair = |(row, index): (usize, usize)| {
            let image = self.images.splits.train[index];
            let mut rng = drawn.at(first.wrapping_add(row as u64)).rng();
            Pair { image, utterance: self.pools.draw(labels[image], &mut rng) }
        };
        let examples = self.epochs.batch(step, batch_size);
        let pairs: Vec<Pair> = examples.into_iter().enumerate().map(pair).collect();
        self.batch(&pairs, first, self.seed, "train")
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let (pairs, part) = match split {
            // Not the stream of the training batches.
            Split::Train => (&self.evaluated[0], "train_sample"),
            Split::Validation => (&self.evaluated[1], "validation"),
            Split::Test => (&self.evaluated[2], "test"),
        };
        let size = batch_size.max(1);
        let batch = |(index, chunk): (usize, &[Pair])| {
            self.batch(chunk, (index * size) as u64, EVALUATION_SEED, part)
        };
        pairs.chunks(size).enumerate().map(batch).collect()
    }
}

#[cfg(test)]
mod tests;
