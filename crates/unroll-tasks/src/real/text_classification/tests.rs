use std::fs;

use tempfile::TempDir;

use super::*;

const HEADER: &str = "Category\tText\nd\tstring\nclass\t\n";

/// 20 stories of each of two topics to learn from, and three to be asked for.
fn toy() -> (String, String) {
    let story = |n: usize| {
        let (class, word) = if n.is_multiple_of(2) { ("grain", "wheat") } else { ("acq", "Buys") };
        format!("{class}\tthe {word} report {word}, no. {n}\n")
    };
    let train = format!("{HEADER}{}", (0..40).map(story).collect::<String>());
    let test = format!(
        "{HEADER}acq\tBUYS the rest!\ngrain\tmore wheat\nacq\ta wheat company buys a buys\n"
    );
    (train, test)
}

fn files(train: &str, test: &str) -> Result<Files> {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    Files::read(&path("train.tab", train), &path("test.tab", test))
}

fn task(length: usize, options: &TextClassificationOptions) -> TextClassification {
    let (train, test) = toy();
    TextClassification::new(&files(&train, &test).unwrap(), length, 1, options)
}

#[test]
fn words_are_lower_case_runs_of_letters_and_digits() {
    let found: Vec<String> = words("U.S. Dlrs-4.5 mln; ÉTÉ ").collect();
    assert_eq!(found, ["u", "s", "dlrs", "4", "5", "mln", "été"]);
}

#[test]
fn the_vocabulary_is_that_of_the_training_split() {
    let options = TextClassificationOptions { min_count: 5, max_words: 100 };
    let task = task(100, &options);
    // buys, no, report, the, wheat: the numbers of the stories occur once; `more` is in the test alone.
    assert_eq!(task.vocabulary, 6);
    let batch = task.evaluation(Split::Test, 3).remove(0);
    let Inputs::Tokens(tokens) = &batch.inputs else { panic!("tokens") };
    // By frequency, then by name: 36 each of buys (2 in each of 18), no, report, the, wheat.
    let stories: Vec<&[u32]> = tokens.chunks(6).collect();
    assert_eq!(stories[0], [1, 4, 0, 0, 0, 0], "buys the rest, and padding");
    assert_eq!(stories[1], [0, 5, 0, 0, 0, 0], "more wheat");
    assert_eq!(stories[2], [0, 5, 0, 1, 0, 1], "a wheat company buys a buys");
    assert_eq!(batch.lengths, Some(vec![3, 2, 6]));
    assert_eq!(batch.targets, Targets::Classes(vec![0, 1, 0]));
}

#[test]
fn few_words_are_the_most_frequent() {
    let options = TextClassificationOptions { min_count: 1, max_words: 2 };
    assert_eq!(task(100, &options).vocabulary, 3);
}

#[test]
fn stories_are_cut_and_have_their_real_lengths() {
    let task = task(3, &TextClassificationOptions::default());
    assert_eq!(task.seq_len(), 3);
    let batch = task.evaluation(Split::Test, 3).remove(0);
    assert_eq!((batch.seq_len, batch.lengths), (3, Some(vec![3, 2, 3])));
    let batch = task.train_batch(0, 4);
    assert_eq!((batch.seq_len, batch.lengths), (3, None));
}

#[test]
fn validation_is_cut_from_training_class_by_class() {
    let task = task(10, &TextClassificationOptions::default());
    assert_eq!(task.splits.validation.len(), 4);
    assert_eq!(task.splits.train.len(), 36);
    let of = |class| task.splits.validation.iter().filter(|&&i| task.labels[i] == class).count();
    assert_eq!((of(0), of(1)), (2, 2));
    assert!(task.splits.validation.iter().all(|index| *index < 40));
    assert_eq!(task.splits.test, [40, 41, 42]);
}

/// The third story has `wheat` once and `buys` twice.
#[test]
fn naive_bayes_reads_whole_stories() {
    let task = task(1, &TextClassificationOptions::default());
    let baselines = task.baselines();
    assert_eq!((baselines[0].value, baselines[0].fitted), (1.0, true));
    assert_eq!((baselines[1].name.as_str(), baselines[1].fitted), ("most frequent class", false));
}

#[test]
fn files_that_do_not_fit_are_errors_with_their_line() {
    let (train, test) = toy();
    for (train, test, file, line, message) in [
        (train.clone(), test.replace("grain\t", "trade\t"), "test.tab", 5, "class `trade` is not"),
        (train.clone(), format!("{test}acq\t?!\n"), "test.tab", 7, "no words"),
        (
            train.replace("the wheat report wheat, no. 0", "..."),
            test.clone(),
            "train.tab",
            4,
            "no words",
        ),
        (format!("{HEADER}acq\tone\ngrain\ttwo\n"), test.clone(), "train.tab", 0, "too few"),
        (train.clone(), test.replace("grain\t", ""), "test.tab", 5, "1 columns"),
    ] {
        match files(&train, &test).err() {
            Some(Error::Data { path, line: found, message: text }) => {
                assert!(path.ends_with(file) && text.contains(message), "{path:?}: {text}");
                assert_eq!(found, line, "{text}");
            }
            other => panic!("{message}: {other:?}"),
        }
    }
}

/// Stories, classes and baselines of the real files, where they are. scikit-learn's `MultinomialNB` on
/// counts of all words of the official training stories is right for 2,088 of 2,189 test stories (0.954);
/// Cardoso-Cachopo (2007) publishes 0.9607 on stemmed words, and 0.4947 for the most frequent class.
#[test]
fn reuters_has_its_published_baselines() {
    let Ok(paths) = REUTERS_R8.require() else {
        eprintln!("skipped: `unroll data fetch reuters_r8` brings the stories");
        return;
    };
    let files = Files::read(&paths[0], &paths[1]).unwrap();
    assert_eq!((files.training, files.stories.len(), files.classes), (5485, 7674, 8));
    let mut task = TextClassification::new(
        &files,
        100,
        1,
        &TextClassificationOptions { min_count: 1, max_words: 1_000_000 },
    );
    let most_frequent = task.baselines().pop().unwrap();
    assert_eq!((most_frequent.value * 1e4).round(), 4947.0);
    // As published: all official training stories, all of their words.
    let everything = Files { training: files.training, ..files };
    let all: Vec<usize> = (0..everything.training).collect();
    let vocabulary = Vocabulary::new(
        everything.stories[..everything.training].iter(),
        &TextClassificationOptions { min_count: 1, max_words: 1_000_000 },
    );
    task.stories = everything
        .stories
        .iter()
        .map(|story| story.iter().map(|word| vocabulary.number(word)).collect())
        .collect();
    task.vocabulary = vocabulary.size();
    task.splits.train = all;
    assert_eq!(task.naive_bayes(), 2088.0 / 2189.0);
}
