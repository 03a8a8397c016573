//! Fashion-MNIST (Xiao et al. 2017), 28 x 28, row by row or pixel by pixel.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use unroll_core::Stream;
use unroll_core::architecture::OptionDoc;

use super::images::{self, BY_HELP, By};
use crate::data::labelled::{LabelledSequences, LabelledTask};
use crate::data::sets::FASHION_MNIST;
use crate::data::split::{Splits, stratified};
use crate::options::{self, TaskOptions, require_count, require_fixed_length};
use crate::synthetic::EVALUATION_SEED;
use crate::{Error, Options, Result, Task, TaskEntry, TaskRequest};

pub(crate) const ENTRY: TaskEntry = TaskEntry {
    name: "fashion_mnist",
    summary: "clothes of 10 kinds in images of 28 x 28 pixels, read row by row or pixel by pixel (Xiao et \
              al. 2017); needs `unroll data fetch fashion_mnist`",
    options: options::list::<FashionOptions>,
    fixed_length,
    resolve: options::resolve::<FashionOptions>,
    build,
    files: &[
        "fetched/fashion_mnist/train-images-idx3-ubyte.gz",
        "fetched/fashion_mnist/train-labels-idx1-ubyte.gz",
        "fetched/fashion_mnist/t10k-images-idx3-ubyte.gz",
        "fetched/fashion_mnist/t10k-labels-idx1-ubyte.gz",
    ],
};

/// Pixels along an edge.
const SIDE: usize = 28;

const CLASSES: usize = 10;

/// Official training images.
const TRAINING: usize = 60_000;

/// First bytes of an IDX file: unsigned bytes, three dimensions or one.
const IMAGES: u32 = 0x0000_0803;
const LABELS: u32 = 0x0000_0801;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FashionOptions {
    by: By,
    examples: usize,
}

impl Default for FashionOptions {
    fn default() -> Self {
        Self { by: By::Row, examples: 12_000 }
    }
}

impl TaskOptions for FashionOptions {
    const TASK: &'static str = ENTRY.name;
    const OPTIONS: &'static [OptionDoc] = &[
        OptionDoc { name: "by", help: BY_HELP },
        OptionDoc {
            name: "examples",
            help: "how many of the 60,000 official training images are used, as many of each class; a \
                   sixth of them is the validation split",
        },
    ];

    fn validate(&self) -> Result<()> {
        require_count("examples", self.examples, 6 * CLASSES, TRAINING)
    }
}

fn length(by: By) -> usize {
    match by {
        By::Row => SIDE,
        By::Pixel => SIDE * SIDE,
    }
}

fn fixed_length(given: &Options) -> Result<Option<usize>> {
    let options: FashionOptions = options::parse(given)?;
    Ok(Some(length(options.by)))
}

fn build(request: &TaskRequest<'_>) -> Result<Box<dyn Task>> {
    let options: FashionOptions = options::parse(request.options)?;
    require_fixed_length(request.length, length(options.by), "steps of an image of 28 x 28")?;
    let paths = FASHION_MNIST.require()?;
    let train = Images::read(&paths[0], &paths[1])?;
    let test = Images::read(&paths[2], &paths[3])?;
    let (sequences, splits) = cut(&train, &test, &options);
    let baselines = Box::new(images::baselines);
    Ok(Box::new(LabelledTask::new(ENTRY.name, request.seed, sequences, splits, baselines)))
}

/// The chosen training images, then all test images; pixels are scaled to \[0, 1\].
fn cut(train: &Images, test: &Images, options: &FashionOptions) -> (LabelledSequences, Splits) {
    let stream = Stream::new(EVALUATION_SEED, "task/fashion_mnist/split");
    let labels: Vec<u32> = train.labels.iter().map(|&label| u32::from(label)).collect();
    let sixth = options.examples as f64 / (6 * TRAINING) as f64;
    let ([validation, learned], _) = stratified(&labels, [sixth, 5.0 * sixth], &stream);
    let mut sequences = LabelledSequences::new(SIDE * SIDE / length(options.by), CLASSES);
    let chosen = learned.iter().chain(&validation).map(|&index| (train, index));
    for (images, index) in chosen.chain((0..test.labels.len()).map(|index| (test, index))) {
        let pixels = &images.pixels[index * SIDE * SIDE..(index + 1) * SIDE * SIDE];
        let scaled = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0);
        sequences.push(scaled, u32::from(images.labels[index]));
    }
    let (first, second) = (learned.len(), learned.len() + validation.len());
    let all = sequences.labels().len();
    let splits = Splits::new(
        (0..first).collect(),
        (first..second).collect(),
        (second..all).collect(),
        &stream,
    );
    (sequences, splits)
}

/// Images with their classes.
struct Images {
    /// One image after the other, row by row.
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Images {
    fn read(images: &Path, labels: &Path) -> Result<Self> {
        let (shape, pixels) = idx(images, IMAGES, 3)?;
        let wrong = |path, message| Err(Error::data(path, 0, message));
        if shape[1..] != [SIDE, SIDE] {
            return wrong(images, format!("images of {} x {}, not 28 x 28", shape[1], shape[2]));
        }
        let (_, classes) = idx(labels, LABELS, 1)?;
        if classes.len() != shape[0] {
            return wrong(labels, format!("{} labels of {} images", classes.len(), shape[0]));
        }
        if classes.is_empty() {
            return wrong(labels, "there are no images".into());
        }
        match classes.iter().position(|&class| usize::from(class) >= CLASSES) {
            Some(place) => {
                wrong(labels, format!("label {} of image {place} is not below 10", classes[place]))
            }
            None => Ok(Self { pixels, labels: classes }),
        }
    }
}

/// Shape and content of a gzip IDX file (LeCun et al. 1998): `magic`, as many sizes as there are
/// dimensions, all big-endian, then bytes.
fn idx(path: &Path, magic: u32, dimensions: usize) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = File::open(path).map_err(|source| Error::missing(path, source))?;
    let mut bytes = Vec::new();
    let wrong = |message: String| Error::data(path, 0, message);
    MultiGzDecoder::new(BufReader::new(file))
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut words =
        bytes.chunks_exact(4).map(|word| word.iter().fold(0, |n, &b| n << 8 | u32::from(b)));
    if words.next() != Some(magic) {
        return Err(wrong(format!("is no IDX file of {dimensions} dimensions of bytes")));
    }
    let shape: Vec<usize> = words.take(dimensions).map(|size| size as usize).collect();
    let expected = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let start = 4 * (1 + dimensions);
    if shape.len() < dimensions || expected != Some(bytes.len().saturating_sub(start)) {
        return Err(wrong(format!("{} bytes do not fit its sizes {shape:?}", bytes.len())));
    }
    bytes.drain(..start);
    Ok((shape, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::Split;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// `count` images, image `n` all of grey `n`, of class `n` modulo 10.
    fn toy(count: u8) -> (Vec<u8>, Vec<u8>) {
        let head = |magic: u32, sizes: &[u32]| -> Vec<u8> {
            [magic].iter().chain(sizes).flat_map(|word| word.to_be_bytes()).collect()
        };
        let mut images = head(IMAGES, &[u32::from(count), 28, 28]);
        images.extend((0..count).flat_map(|n| [n; SIDE * SIDE]));
        let mut labels = head(LABELS, &[u32::from(count)]);
        labels.extend((0..count).map(|n| n % 10));
        (images, labels)
    }

    fn read(images: &[u8], labels: &[u8]) -> Result<Images> {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        Images::read(&put("images.gz", images), &put("labels.gz", labels))
    }

    #[test]
    fn images_and_labels_belong_together() {
        let (images, labels) = toy(120);
        let read = read(&gzip(&images), &gzip(&labels)).unwrap();
        let options = FashionOptions { by: By::Row, examples: TRAINING };
        let (sequences, splits) = cut(&read, &read, &options);
        assert_eq!(
            (splits.train.len(), splits.validation.len(), splits.test.len()),
            (100, 20, 120)
        );
        for &index in splits.train.iter().chain(&splits.validation).chain(&splits.test) {
            let grey = (sequences.sequence(index)[100] * 255.0).round() as u32;
            assert_eq!(sequences.labels()[index], grey % 10);
        }
        assert_eq!((sequences.length(0), splits.evaluated(Split::Test)[7] - 120), (28, 7));
        let grey = sequences.sequence(splits.test[51])[0];
        assert_eq!(grey, 51.0 / 255.0);
    }

    #[test]
    fn files_that_do_not_fit_are_errors_that_name_the_file() {
        let (images, labels) = toy(20);
        let changed = |bytes: &[u8], at: usize, to: u8| {
            let mut bytes = bytes.to_vec();
            bytes[at] = to;
            gzip(&bytes)
        };
        for (pictures, classes, file, message) in [
            (gzip(&labels), gzip(&labels), "images.gz", "no IDX file of 3 dimensions"),
            (gzip(&images[..500]), gzip(&labels), "images.gz", "500 bytes do not fit"),
            (gzip(&images[..9]), gzip(&labels), "images.gz", "9 bytes do not fit"),
            (changed(&images, 11, 56), gzip(&labels), "images.gz", "do not fit its sizes"),
            (gzip(&images), gzip(&toy(19).1), "labels.gz", "19 labels of 20 images"),
            (gzip(&images), changed(&labels, 8 + 3, 10), "labels.gz", "label 10 of image 3"),
            (gzip(&toy(0).0), gzip(&toy(0).1), "labels.gz", "no images"),
            (images.clone(), gzip(&labels), "images.gz", "cannot be read"),
            (gzip(&images)[..40].to_vec(), gzip(&labels), "images.gz", "cannot be read"),
        ] {
            match read(&pictures, &classes).err() {
                Some(Error::Data { path, line: 0, message: text }) => {
                    assert!(path.ends_with(file) && text.contains(message), "{path:?}: {text}");
                }
                other => panic!("{message}: {other:?}"),
            }
        }
    }

    proptest! {
        /// Any damage: images with a class each, or an error.
        #[test]
        fn damaged_files_are_read_or_refused(
            edits in prop::collection::vec((0usize..40, any::<u8>()), 0..4), end in 0usize..9000,
        ) {
            let (mut images, labels) = toy(10);
            for (at, to) in edits {
                images[at] = to;
            }
            images.truncate(end);
            if let Ok(found) = read(&gzip(&images), &gzip(&labels)) {
                prop_assert_eq!(found.pixels.len(), found.labels.len() * SIDE * SIDE);
            }
        }
    }
}
