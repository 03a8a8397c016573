//! Small grey images, read pixel by pixel or row by row (Le et al. 2015).

use std::path::Path;

use serde::{Deserialize, Serialize};
use unroll_core::Stream;

use crate::baseline::{most_frequent_class, ridge};
use crate::data::file::for_each_line;
use crate::data::labelled::{LabelledSequences, LabelledTask};
use crate::data::locate;
use crate::data::split::{Splits, stratified};
use crate::options::require_fixed_length;
use crate::synthetic::EVALUATION_SEED;
use crate::{Baseline, Error, Result, Task, TaskRequest};

/// Help of the options that both image tasks have.
pub(crate) const BY_HELP: &str =
    "`pixel`: one pixel per step, row after row; `row`: one row of pixels per step";
pub(crate) const PERMUTED_HELP: &str =
    "`true`: the pixels of all images come in one fixed random order (Le et al. 2015)";

/// Classes: the digits.
const CLASSES: usize = 10;

/// Shares of the validation and test split within each class; the rest is for training.
const SHARES: [f64; 2] = [0.2, 0.2];

/// Fewest images of a class for all three splits to have one.
const FEWEST: usize = 5;

/// Weight of the squared coefficients in the ridge baseline, for pixels in \[0, 1\].
const RIDGE_PENALTY: f64 = 1.0;

/// What is one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// A pixel.
    Pixel,
    /// A row of pixels.
    Row,
}

/// A set of square images of digits, one per line: pixels row by row, then the class.
pub(crate) struct ImageSet {
    /// Registry name of the task.
    pub(crate) name: &'static str,
    /// Name of the gzip CSV file.
    pub(crate) file: &'static str,
    /// Pixels along an edge.
    pub(crate) side: usize,
    /// Value of a white pixel; black is 0.
    pub(crate) white: u16,
}

impl ImageSet {
    /// Steps of an image.
    pub(crate) fn length(&self, by: By) -> usize {
        match by {
            By::Pixel => self.side * self.side,
            By::Row => self.side,
        }
    }

    /// The classification task.
    pub(crate) fn build(
        &self,
        request: &TaskRequest<'_>,
        by: By,
        permuted: bool,
    ) -> Result<Box<dyn Task>> {
        let side = self.side;
        let why = match by {
            By::Pixel => format!("the pixels of an image of {side} x {side}"),
            By::Row => format!("the rows of an image of {side} x {side}"),
        };
        require_fixed_length(request.length, self.length(by), &why)?;
        let mut sequences = self.read(&locate(self.file), by)?;
        let splits = self.splits(&sequences);
        if permuted {
            let mut order: Vec<usize> = (0..side * side).collect();
            self.stream("permutation").rng().shuffle(&mut order);
            sequences.permute(&order);
        }
        let baselines = Box::new(baselines);
        Ok(Box::new(LabelledTask::new(self.name, request.seed, sequences, splits, baselines)))
    }

    /// Reads the file; pixels are scaled to \[0, 1\].
    pub(super) fn read(&self, path: &Path, by: By) -> Result<LabelledSequences> {
        let pixels = self.side * self.side;
        let features = pixels / self.length(by);
        let mut sequences = LabelledSequences::new(features, CLASSES);
        let mut image = Vec::with_capacity(pixels);
        for_each_line(path, |_, line| {
            let columns = line.split(',').count();
            if columns != pixels + 1 {
                return Err(format!("{columns} columns, expected {pixels} pixels and the class"));
            }
            image.clear();
            let mut label = 0;
            for (column, text) in line.split(',').enumerate() {
                if column < pixels {
                    let value = integer(text, self.white)?;
                    image.push(f32::from(value) / f32::from(self.white));
                } else {
                    label = integer(text, CLASSES as u16 - 1)?;
                }
            }
            sequences.push(image.iter().copied(), u32::from(label));
            Ok(())
        })?;
        for class in 0..CLASSES as u32 {
            let found = sequences.labels().iter().filter(|&&label| label == class).count();
            if found < FEWEST {
                return Err(Error::data(
                    path,
                    0,
                    format!("{found} images of class {class}; the splits need at least {FEWEST}"),
                ));
            }
        }
        Ok(sequences)
    }

    pub(super) fn splits(&self, sequences: &LabelledSequences) -> Splits {
        let stream = self.stream("split");
        let ([validation, test], train) = stratified(sequences.labels(), SHARES, &stream);
        Splits::new(train, validation, test, &stream)
    }

    /// A stream that is the same for every seed.
    fn stream(&self, purpose: &str) -> Stream {
        Stream::new(EVALUATION_SEED, format!("task/{}/{purpose}", self.name))
    }
}

/// An integer in `0..=largest`.
fn integer(text: &str, largest: u16) -> Result<u16, String> {
    match text.trim().parse::<u16>() {
        Ok(value) if value <= largest => Ok(value),
        _ => Err(format!("`{text}` is not an integer in 0..={largest}")),
    }
}

/// Ridge regression on all pixels, fitted on the training split, and the most frequent class. Both
/// see the image at once: neither the order of the pixels nor the kind of step matters to them.
pub(super) fn baselines(sequences: &LabelledSequences, splits: &Splits) -> Vec<Baseline> {
    let examples = |part: &[usize]| ridge::Examples {
        rows: part.iter().map(|&index| sequences.sequence(index)).collect(),
        labels: part.iter().map(|&index| sequences.labels()[index]).collect(),
    };
    let (train, test) = (examples(&splits.train), examples(&splits.test));
    let ridge = ridge::ridge_accuracy(&train, &test, sequences.classes(), RIDGE_PENALTY);
    ridge
        .map(|value| Baseline {
            name: "ridge regression on all pixels".into(),
            value,
            fitted: true,
        })
        .into_iter()
        .chain([most_frequent_class(sequences.labels(), &splits.train, &splits.test)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::file::fixtures;

    const TOY: ImageSet = ImageSet { name: "toy", file: "toy.csv.gz", side: 2, white: 16 };

    fn read(text: &str) -> Result<LabelledSequences> {
        let (_folder, path) = fixtures::file(&fixtures::gzip(text));
        TOY.read(&path, By::Row)
    }

    fn valid() -> String {
        (0..50).map(|index| format!("0,{},8,16,{}\n", index % 17, index % 10)).collect()
    }

    #[test]
    fn pixels_are_scaled_and_the_class_is_last() {
        let sequences = read(&valid()).unwrap();
        assert_eq!(sequences.sequence(3), [0.0, 3.0 / 16.0, 0.5, 1.0]);
        assert_eq!((sequences.length(3), sequences.labels()[3]), (2, 3));
    }

    #[test]
    fn wrong_lines_are_errors_with_their_number() {
        for (line, message) in [
            ("0,1,2,3", "4 columns, expected 4 pixels and the class"),
            ("0,1,2,3,4,5", "6 columns"),
            ("0,1,NaN,3,4", "`NaN` is not an integer in 0..=16"),
            ("0,1,17,3,4", "`17` is not an integer in 0..=16"),
            ("0,1,-1,3,4", "`-1` is not"),
            ("0,1,2,3,10", "`10` is not an integer in 0..=9"),
        ] {
            let error = read(&format!("{}{line}\n", valid())).unwrap_err();
            assert!(matches!(error, Error::Data { line: 51, .. }), "{error}");
            assert!(error.to_string().contains(message), "{error}");
        }
        let error = read("0,1,2,3,4\n").unwrap_err();
        assert!(error.to_string().contains("0 images of class 0"), "{error}");
    }

    /// The file has one class after the other; the splits must not.
    #[test]
    fn splits_are_stratified_disjoint_and_mixed() {
        let text: String = (0..500).map(|index| format!("0,1,2,3,{}\n", index / 50)).collect();
        let sequences = read(&text).unwrap();
        let splits = TOY.splits(&sequences);
        let parts = [splits.train, splits.validation, splits.test];
        for (part, each) in parts.iter().zip([30, 10, 10]) {
            for class in 0..10 {
                let count = part.iter().filter(|&&index| index / 50 == class).count();
                assert_eq!(count, each);
            }
            let changes = part.windows(2).filter(|pair| pair[0] / 50 != pair[1] / 50).count();
            assert!(changes > part.len() / 2, "{changes} changes of class");
        }
        let mut all = parts.concat();
        all.sort_unstable();
        assert_eq!(all, (0..500).collect::<Vec<_>>());
    }

    /// The data folder's README has 0.947, on one split; a split of this size scatters by 0.01, so
    /// the figure is compared with the mean over many.
    #[test]
    fn ridge_on_the_digits_has_its_known_accuracy() {
        let set = ImageSet { name: "digits", file: "digits_8x8.csv.gz", side: 8, white: 16 };
        let sequences = set.read(&locate(set.file), By::Pixel).unwrap();
        let accuracies: Vec<f64> = (0..20)
            .map(|seed| {
                let stream = Stream::new(seed, "test");
                let ([test], train) = stratified(sequences.labels(), [0.2], &stream);
                baselines(&sequences, &Splits::new(train, Vec::new(), test, &stream))[0].value
            })
            .collect();
        let mean = accuracies.iter().sum::<f64>() / 20.0;
        assert!((mean - 0.947).abs() < 0.01, "{mean} of {accuracies:?}");
    }
}
