use proptest::prelude::*;
use unroll_core::Stream;

use super::*;

/// By hand; the arithmetic and the stacks are the examples of the authors' own code.
#[test]
fn small_strings_have_known_answers() {
    let word = |answer: fn(&[u32]) -> Vec<u32>, input: &str| -> String {
        let symbol = |c: char| "01234+-*".find(c).map(|index| index as u32);
        let input: Vec<u32> = input.chars().filter_map(symbol).collect();
        answer(&input).iter().map(u32::to_string).collect()
    };
    for (answer, input, expected) in [
        (EvenPairs::answer as fn(&[u32]) -> Vec<u32>, "00101", "0"),
        (EvenPairs::answer, "0110", "1"),
        (EvenPairs::answer, "1", "1"),
        (ModularArithmetic::answer, "1 + 2 * 3", "2"),
        (ModularArithmetic::answer, "1 - 1 - 1", "4"),
        (ModularArithmetic::answer, "0 * 1 + 4 * 3 - 2", "0"),
        (ModularArithmetic::answer, "1 - 2 * 3", "0"),
        (ModularArithmetic::answer, "3", "3"),
        (CycleNavigation::answer, "0", "4"),
        (CycleNavigation::answer, "22212", "4"),
        (CycleNavigation::answer, "222222", "1"),
        (ReverseString::answer, "0010", "0100"),
        (DuplicateString::answer, "011", "011011"),
        (OddsFirst::answer, "00110101", "01000111"),
        (OddsFirst::answer, "110", "101"),
        (BucketSort::answer, "421302214", "011222344"),
        // 0 1 1 0, push 1, pop, pop; then three pops of three; then a pop too many.
        (StackManipulation::answer, "0110422", "1102"),
        (StackManipulation::answer, "110222", "2"),
        (StackManipulation::answer, "122234", "102"),
    ] {
        // In the stack's strings `4` is push 1, `3` push 0 and `2` pop, as they are numbered.
        assert_eq!(word(answer, input), expected, "{input}");
    }
}

fn batch<L: Language>(length: usize, lengths: Lengths, seed: u64) -> Batch {
    let strings = Strings::<L> { length: L::fit(length), lengths, language: PhantomData };
    strings.train_batch(&mut Stream::new(seed, "test").rng(), 40)
}

/// Inputs, asked answers and padding of every row are where they should be.
fn check<L: Language>(length: usize, lengths: Lengths, seed: u64) {
    let batch = batch::<L>(length, lengths, seed);
    let (Inputs::Tokens(inputs), Targets::Classes(targets)) = (&batch.inputs, &batch.targets)
    else {
        panic!("tokens and classes")
    };
    let mut seen = Vec::new();
    for row in 0..batch.batch_size {
        let steps = batch.lengths.as_ref().map_or(batch.seq_len, |lengths| lengths[row]);
        let symbols = &inputs[row * batch.seq_len..][..steps];
        let input: Vec<u32> =
            symbols.iter().copied().take_while(|&s| (s as usize) < L::SYMBOLS).collect();
        let expected = L::answer(&input);
        assert!(expected.iter().all(|&class| (class as usize) < L::CLASSES));
        assert_eq!(L::fit(input.len()), input.len());
        match L::output(input.len()) {
            Output::Class => {
                assert_eq!(input.len(), steps);
                assert_eq!([targets[row]], expected[..]);
            }
            Output::String(longest) => {
                assert_eq!(input.len() + longest, steps);
                let row = row * batch.seq_len..(row + 1) * batch.seq_len;
                let weights = &batch.weights.as_ref().unwrap()[row.clone()];
                let asked: Vec<usize> =
                    (0..batch.seq_len).filter(|&step| weights[step] == 1.0).collect();
                let from = input.len();
                assert_eq!(asked, (from..from + expected.len()).collect::<Vec<_>>());
                let answers: Vec<u32> =
                    asked.iter().map(|&step| targets[row.start + step]).collect();
                assert_eq!(answers, expected);
            }
        }
        seen.push(input.len());
    }
    assert!(seen.iter().all(|&found| (1..=L::fit(length)).contains(&found)));
    if lengths == Lengths::Fixed {
        assert!(seen.iter().all(|&found| found == L::fit(length)));
    } else if length >= 20 {
        seen.sort_unstable();
        assert!(seen[0] < length / 2 && seen[39] > length / 2, "{seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn batches_ask_for_what_the_language_says(length in 2usize..60, seed: u64, fixed: bool) {
        let lengths = if fixed { Lengths::Fixed } else { Lengths::Uniform };
        check::<EvenPairs>(length, lengths, seed);
        check::<ModularArithmetic>(length, lengths, seed);
        check::<CycleNavigation>(length, lengths, seed);
        check::<StackManipulation>(length, lengths, seed);
        check::<ReverseString>(length, lengths, seed);
        check::<DuplicateString>(length, lengths, seed);
        check::<OddsFirst>(length, lengths, seed);
        check::<BucketSort>(length, lengths, seed);
    }
}

/// Over all strings of a length, each as likely as the other.
fn frequencies<L: Language>(strings: impl Iterator<Item = Vec<u32>>) -> f64 {
    let mut counts = vec![0u32; L::CLASSES];
    strings.for_each(|input| counts[L::answer(&input)[0] as usize] += 1);
    f64::from(*counts.iter().max().unwrap()) / f64::from(counts.iter().sum::<u32>())
}

#[test]
fn chance_is_exact() {
    let number = |index: usize, base: usize, length: usize| -> Vec<u32> {
        (0..length).map(|at| (index / base.pow(at as u32) % base) as u32).collect()
    };
    let close = |found: Option<Baseline>, expected: f64| {
        let found = found.unwrap().value;
        assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    };
    close(EvenPairs::chance(6), frequencies::<EvenPairs>((0..64).map(|i| number(i, 2, 6))));
    let walks = (0..3usize.pow(7)).map(|i| number(i, 3, 7));
    close(CycleNavigation::chance(7), frequencies::<CycleNavigation>(walks));
    // Numbers and operators by turns: 5 * 3 * 5 * 3 * 5 strings.
    let sums = (0..1125).map(|i| {
        let numbers = number(i / 9, 5, 3);
        let operators = number(i % 9, 3, 2);
        vec![numbers[0], 5 + operators[0], numbers[1], 5 + operators[1], numbers[2]]
    });
    close(ModularArithmetic::chance(5), frequencies::<ModularArithmetic>(sums));
    // Sorted strings: the most frequent symbol of each place.
    let mut counts = [[0u32; 5]; 4];
    for index in 0..625 {
        for (place, symbol) in BucketSort::answer(&number(index, 5, 4)).into_iter().enumerate() {
            counts[place][symbol as usize] += 1;
        }
    }
    let best: u32 = counts.iter().map(|place| place.iter().max().unwrap()).sum();
    close(BucketSort::chance(4), f64::from(best) / 2500.0);
    // A string of 500 is no problem.
    let long = BucketSort::chance(500).unwrap().value;
    assert!((0.9..1.0).contains(&long), "{long}");
}
