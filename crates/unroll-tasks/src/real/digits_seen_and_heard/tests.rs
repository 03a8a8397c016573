//! Tests of the pairs, the noise and the single modalities.

use std::collections::BTreeMap;

use super::*;

fn task(change: impl Fn(&mut SeenAndHeardOptions), seed: u64) -> SeenAndHeard {
    let mut options = SeenAndHeardOptions::default();
    change(&mut options);
    SeenAndHeard::new(&options, seed).unwrap()
}

fn clean(options: &mut SeenAndHeardOptions) {
    (options.image_noise, options.speech_noise) = (0.0, 0.0);
}

fn both(batch: &Batch) -> &[ModalityInputs; 2] {
    match &batch.inputs {
        Inputs::Modalities(both) => both,
        _ => panic!("two modalities expected"),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Digits of the utterances of a clean batch, found by their values.
fn heard(task: &SeenAndHeard, batch: &Batch) -> Vec<u32> {
    let speech = &task.speech.sequences;
    let known: BTreeMap<Vec<u32>, u32> = (0..speech.labels().len())
        .map(|index| (bits(speech.sequence(index)), speech.labels()[index]))
        .collect();
    let modality = &both(batch)[1];
    let width = modality.seq_len * 13;
    (0..batch.batch_size)
        .map(|row| known[&bits(&modality.values[row * width..][..modality.length(row) * 13])])
        .collect()
}

fn digits(batch: &Batch) -> &[u32] {
    match &batch.targets {
        Targets::Classes(classes) => classes,
        Targets::Values(_) => panic!("classes expected"),
    }
}

#[test]
fn pairs_are_of_the_same_digit_or_know_nothing_of_each_other() {
    let (same, random) = (
        task(clean, 3),
        task(
            |options| {
                clean(options);
                options.pairs = Pairs::Random;
            },
            3,
        ),
    );
    for split in [Split::Train, Split::Validation, Split::Test] {
        for batch in same.evaluation(split, 300) {
            assert_eq!(heard(&same, &batch), digits(&batch));
        }
    }
    let batch = same.train_batch(5, 500);
    assert_eq!(heard(&same, &batch), digits(&batch));
    let evaluated = random.evaluation(Split::Test, 1000);
    for batch in [&random.train_batch(5, 1000), &evaluated[0]] {
        let equal = heard(&random, batch);
        let equal = equal.iter().zip(digits(batch)).filter(|(a, b)| a == b).count();
        // 100 expected; five standard deviations of a binomial.
        assert!(equal.abs_diff(100) < 48, "{equal}");
    }
    // The images do not know how they are paired.
    for step in [0, 9] {
        assert_eq!(both(&same.train_batch(step, 64))[0], both(&random.train_batch(step, 64))[0]);
    }
}

#[test]
fn each_split_has_its_own_images_and_utterances() {
    let task = task(clean, 0);
    let of = |split: usize, which: fn(&Pair) -> usize| -> Vec<usize> {
        let mut all: Vec<usize> = task.evaluated[split].iter().map(which).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let utterances =
        [&task.speech.splits.train, &task.speech.splits.validation, &task.speech.splits.test];
    let images =
        [&task.images.splits.train, &task.images.splits.validation, &task.images.splits.test];
    for (split, (images, utterances)) in images.into_iter().zip(utterances).enumerate() {
        assert!(of(split, |pair| pair.image).iter().all(|image| images.contains(image)));
        let heard = of(split, |pair| pair.utterance);
        assert!(heard.iter().all(|utterance| utterances.contains(utterance)));
        // All of the held-out utterances are heard, none of them more than twice.
        if split > 0 {
            assert_eq!((heard.len(), task.evaluated[split].len()), (600, 1000));
            let most = heard.iter().map(|&one| {
                task.evaluated[split].iter().filter(|pair| pair.utterance == one).count()
            });
            assert_eq!(most.max(), Some(2));
        }
    }
    let drawn = task.pools.pools.concat();
    assert!(drawn.iter().all(|utterance| utterances[0].contains(utterance)));
    assert_eq!(drawn.len(), 1800);
}

/// An epoch has each image once; the next one pairs it with another utterance and other noise.
#[test]
fn pairs_and_noise_are_drawn_anew_each_epoch() {
    let clean = task(clean, 1);
    let epoch = |task: &SeenAndHeard, step: u64| -> BTreeMap<Vec<u32>, Vec<u32>> {
        let batch = task.train_batch(step, 3000);
        let [image, speech] = both(&batch);
        let width = speech.seq_len * 13;
        (0..3000)
            .map(|row| {
                let heard = &speech.values[row * width..][..speech.length(row) * 13];
                (bits(&image.values[row * 784..][..784]), bits(heard))
            })
            .collect()
    };
    let (first, second) = (epoch(&clean, 0), epoch(&clean, 1));
    assert!(first.keys().eq(second.keys()), "the same images");
    let again = first.iter().filter(|(image, heard)| second[*image] == **heard).count();
    // One in 180 by chance.
    assert!(again < 60, "{again} of {} pairs again", first.len());
    let noisy = task(|_| {}, 1);
    let (first, second) = (epoch(&noisy, 0), epoch(&noisy, 1));
    assert!(first.keys().all(|image| !second.contains_key(image)));
}

#[test]
fn noise_has_its_size_and_leaves_padding_alone() {
    let (clean, noisy) = (task(clean, 2), task(|_| {}, 2));
    let pairs = [clean.train_batch(3, 200), noisy.train_batch(3, 200)];
    let [without, with] = pairs.each_ref().map(both);
    for (which, (size, features)) in [(0.7, 28), (2.0, 13)].into_iter().enumerate() {
        let (without, with) = (&without[which], &with[which]);
        assert_eq!((&without.lengths, without.seq_len), (&with.lengths, with.seq_len));
        let mut differences = Vec::new();
        for (place, (a, b)) in without.values.iter().zip(&with.values).enumerate() {
            let (row, step) = (place / (features * with.seq_len), place / features % with.seq_len);
            if step < with.length(row) {
                differences.push(f64::from(b - a));
            } else {
                assert_eq!((*a, *b), (0.0, 0.0));
            }
        }
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let deviation =
            (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 0.02 * size && (deviation / size - 1.0).abs() < 0.02);
    }
}

/// A single modality is the same examples under the same noise.
#[test]
fn single_modalities_are_those_of_both() {
    let whole = task(|_| {}, 4);
    for (which, modalities) in [Modalities::Image, Modalities::Speech].into_iter().enumerate() {
        let single = task(|options| options.modalities = modalities, 4);
        let check = |single: &Batch, whole: &Batch| {
            assert_eq!(single.targets, whole.targets);
            let expected = &both(whole)[which];
            assert_eq!(single.inputs, Inputs::Values(expected.values.clone()));
            assert_eq!(single.lengths, expected.lengths);
            assert_eq!(single.seq_len, expected.seq_len);
        };
        check(&single.train_batch(7, 64), &whole.train_batch(7, 64));
        for split in [Split::Train, Split::Validation, Split::Test] {
            let (single, whole) = (single.evaluation(split, 77), whole.evaluation(split, 77));
            single.iter().zip(&whole).for_each(|(single, whole)| check(single, whole));
        }
    }
}
