//! Regular languages: a string is mapped to one class.

use unroll_core::stream::StreamRng;

use super::{Language, Output, blind};
use crate::Baseline;

/// Numbers of [`ModularArithmetic`], places of [`CycleNavigation`].
const MODULUS: usize = 5;

/// Are there as many changes from a to b as back: is the last symbol the first?
pub(crate) struct EvenPairs;

impl Language for EvenPairs {
    const NAME: &'static str = "even_pairs";
    const SUMMARY: &'static str = "even pairs: is the number of places where a string of bits changes even \
        (regular; Deletang et al. 2023)";
    const SYMBOLS: usize = 2;
    const CLASSES: usize = 2;

    fn output(_: usize) -> Output {
        Output::Class
    }

    /// Class 1 where the number is even.
    fn answer(input: &[u32]) -> Vec<u32> {
        let changes = input.windows(2).filter(|pair| pair[0] != pair[1]).count();
        vec![u32::from(changes.is_multiple_of(2))]
    }

    fn chance(_: usize) -> Option<Baseline> {
        blind("chance", 0.5)
    }
}

/// Numbers `0..5` (symbols `0..5`) with `+`, `-`, `*` (symbols 5, 6, 7) between them: the value modulo
/// 5. Products come before sums. Inputs have odd lengths: the task's length, or one less.
pub(crate) struct ModularArithmetic;

const PLUS: u32 = MODULUS as u32;
const MINUS: u32 = PLUS + 1;

impl Language for ModularArithmetic {
    const NAME: &'static str = "modular_arithmetic";
    const SUMMARY: &'static str = "modular arithmetic without brackets: the value modulo 5 of numbers with \
        +, -, * between them (regular; Deletang et al. 2023); strings have odd lengths";
    const SYMBOLS: usize = MODULUS + 3;
    const CLASSES: usize = MODULUS;

    fn output(_: usize) -> Output {
        Output::Class
    }

    fn fit(length: usize) -> usize {
        length - usize::from(length.is_multiple_of(2))
    }

    fn draw(rng: &mut StreamRng, length: usize) -> Vec<u32> {
        let symbol = |index: usize| match index % 2 {
            0 => rng.below(MODULUS) as u32,
            _ => PLUS + rng.below(3) as u32,
        };
        (0..length).map(symbol).collect()
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        let modulus = MODULUS as u32;
        let (mut sum, mut product) = (0, input.first().copied().unwrap_or(0));
        for pair in input.get(1..).unwrap_or_default().chunks_exact(2) {
            let (operator, number) = (pair[0], pair[1]);
            (sum, product) = match operator {
                PLUS => ((sum + product) % modulus, number),
                MINUS => ((sum + product) % modulus, (modulus - number) % modulus),
                _ => (sum, product * number % modulus),
            };
        }
        vec![(sum + product) % modulus]
    }

    /// The exact distribution of values: products with a 0 make 0 the most frequent.
    fn chance(length: usize) -> Option<Baseline> {
        let uniform = 1.0 / MODULUS as f64;
        // Probability of each sum and running product.
        let mut state = [[0.0; MODULUS]; MODULUS];
        state[0] = [uniform; MODULUS];
        for _ in 0..(length / 2).min(CONVERGED) {
            let mut next = [[0.0; MODULUS]; MODULUS];
            for (sum, products) in state.iter().enumerate() {
                for (product, probability) in products.iter().enumerate() {
                    for number in 0..MODULUS {
                        // A number and its negative are alike: + and - come to the same.
                        let each = probability * uniform / 3.0;
                        next[(sum + product) % MODULUS][number] += 2.0 * each;
                        next[sum][product * number % MODULUS] += each;
                    }
                }
            }
            state = next;
        }
        let mut values = [0.0; MODULUS];
        for (sum, products) in state.iter().enumerate() {
            for (product, probability) in products.iter().enumerate() {
                values[(sum + product) % MODULUS] += probability;
            }
        }
        blind("most frequent value", values.into_iter().fold(0.0, f64::max))
    }
}

/// Steps after which the distributions below change no more in double precision.
const CONVERGED: usize = 2000;

/// Steps of -1, 0, +1 (symbols 0, 1, 2) on a circle of 5 places: where does it end?
pub(crate) struct CycleNavigation;

impl Language for CycleNavigation {
    const NAME: &'static str = "cycle_navigation";
    const SUMMARY: &'static str = "cycle navigation: where steps of -1, 0, +1 on a circle of 5 places end \
        (regular; Deletang et al. 2023)";
    const SYMBOLS: usize = 3;
    const CLASSES: usize = MODULUS;

    fn output(_: usize) -> Output {
        Output::Class
    }

    fn answer(input: &[u32]) -> Vec<u32> {
        // -1 is 4 steps forward.
        let place = input.iter().fold(0, |place, step| (place + step + 4) % MODULUS as u32);
        vec![place]
    }

    /// The exact distribution of places.
    fn chance(length: usize) -> Option<Baseline> {
        let mut places = [0.0; MODULUS];
        places[0] = 1.0;
        for _ in 0..length.min(CONVERGED) {
            places = std::array::from_fn(|place| {
                let around = [place + MODULUS - 1, place, place + 1];
                around.iter().map(|from| places[from % MODULUS] / 3.0).sum()
            });
        }
        blind("most frequent place", places.into_iter().fold(0.0, f64::max))
    }
}
