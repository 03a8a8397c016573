use proptest::prelude::*;

use super::*;
use crate::data::file::fixtures;

/// Chapters of a text in which no two places are alike for long.
fn chapters(count: usize, characters: usize) -> Vec<String> {
    let mut rng = Stream::new(1, "text").rng();
    let letter = |below: usize| char::from(b'a' + below as u8);
    (0..count).map(|_| (0..characters).map(|_| letter(rng.below(20))).collect()).collect()
}

fn task(length: usize, eval_stride: usize) -> Text {
    let options = TextOptions { eval_stride };
    Text::new(&chapters(40, 50), Path::new("text.gz"), length, 1, options).unwrap()
}

proptest! {
    #[test]
    fn each_character_is_scored_once_with_context_of_its_split(length in 2usize..60) {
        let task = task(length, 1);
        prop_assert_eq!(
            (task.train.clone(), task.validation.clone(), task.test.clone()),
            (0..1700, 1700..1800, 1800..2000)
        );
        for part in [&task.validation, &task.test] {
            let mut scored = Vec::new();
            for window in task.windows(part) {
                prop_assert!(window.start >= part.start && window.start + length < part.end);
                let first = window.start == part.start;
                prop_assert!(first || window.scored_from >= length / 2);
                // The answer to step t is the character after it.
                scored.extend((window.scored_from..length).map(|t| window.start + t + 1));
            }
            prop_assert_eq!(scored, (part.start + 1..part.end).collect::<Vec<_>>());
        }
    }

    #[test]
    fn answers_are_the_next_characters_of_the_training_text(length in 2usize..60, step: u64) {
        let task = task(length, 1);
        let batch = task.train_batch(step, 5);
        let (Inputs::Tokens(inputs), Targets::Classes(targets)) = (&batch.inputs, &batch.targets)
            else { panic!("tokens and classes") };
        prop_assert_eq!(&batch.weights, &None);
        for (input, target) in inputs.chunks(length).zip(targets.chunks(length)) {
            prop_assert_eq!(&input[1..], &target[..length - 1]);
            let window = [input, &target[length - 1..]].concat();
            let found = task.text[task.train.clone()].windows(length + 1).any(|w| w == window);
            prop_assert!(found);
        }
    }
}

#[test]
fn chapters_are_read_in_order_verse_by_verse() {
    let read_text = |text: &str| {
        let (_folder, path) = fixtures::file(&fixtures::gzip(text));
        read(&path)
    };
    let text = "ref\ten\tes\nGen.1.1\tIn\tEN\nGen.1.2\tThe\tY\nGen.2.1\tSo\tY\n";
    assert_eq!(read_text(text).unwrap(), ["In\nThe\n", "So\n"]);
    for (text, line, message) in [
        ("ref\ten\tes\nGen.1.1\tIn\n", 2, "2 columns"),
        ("ref\ten\tes\nGenesis\tIn\tEN\n", 2, "not book, chapter and verse"),
        ("ref\tes\ten\n", 1, "header"),
    ] {
        let error = read_text(text).unwrap_err();
        assert!(matches!(error, Error::Data { line: l, .. } if l == line), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let empty = Text::new(&[], Path::new("text.gz"), 10, 1, TextOptions::default());
    assert!(matches!(empty.err(), Some(Error::Data { .. })));
}

/// Other n-grams on the same text are published with the data at 4.42, 2.75 and 2.07 for the orders 1,
/// 3 and 5; how they were smoothed is not. Witten-Bell smoothing is better from order 3 on.
#[test]
fn the_bundled_text_has_its_known_size_and_baselines() {
    let path = locate(FILE);
    let text = Text::new(&read(&path).unwrap(), &path, 128, 0, TextOptions::default()).unwrap();
    assert_eq!((text.text.len(), text.vocabulary), (3_863_309, 67));
    assert!((text.test.len() as f64 / text.text.len() as f64 - 0.1).abs() < 0.002);
    let found: Vec<(String, f64)> =
        text.baselines().into_iter().map(|b| (b.name, (b.value * 100.0).round() / 100.0)).collect();
    let expected = [
        ("6-gram (Witten-Bell)", 1.99),
        ("5-gram (Witten-Bell)", 2.01),
        ("3-gram (Witten-Bell)", 2.73),
        ("frequency of each character", 4.4),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)));
}
