//! BLEU (Papineni et al. 2002) and chrF (Popović 2015) over a corpus, with sacreBLEU's defaults (Post
//! 2018): 13a tokens, exponential smoothing; character n-grams up to 6 without spaces, beta 2. One
//! reference for each sentence.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::OnceLock;

use regex::Regex;

/// Longest n-gram of BLEU.
const BLEU_ORDER: usize = 4;
/// Longest character n-gram of chrF.
const CHRF_ORDER: usize = 6;

/// Sums of BLEU and chrF over sentences.
pub const SUMS: usize = 2 + 2 * BLEU_ORDER + 3 * CHRF_ORDER;

/// What a sentence adds: tokens of hypothesis and reference; for each order of n-grams the right ones and
/// all of the hypothesis; for each order of character n-grams those of the hypothesis (none where the
/// reference has none of the order), of the reference and the right ones.
pub fn count(hypothesis: &str, reference: &str) -> [f64; SUMS] {
    let mut sums = [0.0; SUMS];
    let (found, right) = (tokens_13a(hypothesis), tokens_13a(reference));
    (sums[0], sums[1]) = (found.len() as f64, right.len() as f64);
    for order in 1..=BLEU_ORDER {
        let (of_found, _, both) = overlap(&found, &right, order);
        sums[2 * order] = both as f64;
        sums[2 * order + 1] = of_found as f64;
    }
    let characters =
        |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<Vec<char>>();
    let (found, right) = (characters(hypothesis), characters(reference));
    for order in 1..=CHRF_ORDER {
        let (of_found, of_right, both) = overlap(&found, &right, order);
        let place = 2 + 2 * BLEU_ORDER + 3 * (order - 1);
        // As sacreBLEU: a reference that is too short for this order says nothing of it.
        sums[place] = if of_right > 0 { of_found as f64 } else { 0.0 };
        sums[place + 1] = of_right as f64;
        sums[place + 2] = both as f64;
    }
    sums
}

/// N-grams of the hypothesis, of the reference, and those in both, each counted as often as in the one
/// that has it less often.
fn overlap<T: Hash + Eq>(found: &[T], right: &[T], order: usize) -> (usize, usize, usize) {
    let mut left: HashMap<&[T], usize> = HashMap::new();
    for ngram in right.windows(order) {
        *left.entry(ngram).or_default() += 1;
    }
    let mut both = 0;
    for ngram in found.windows(order) {
        if let Some(count) = left.get_mut(ngram).filter(|count| **count > 0) {
            *count -= 1;
            both += 1;
        }
    }
    let grams = |length: usize| (length + 1).saturating_sub(order);
    (grams(found.len()), grams(right.len()), both)
}

/// BLEU of the sums, 0 to 100.
pub fn bleu(sums: &[f64]) -> f64 {
    let (found, right) = (sums[0], sums[1]);
    let mut smoothing = 1.0;
    let mut ln_precisions = 0.0;
    for order in 1..=BLEU_ORDER {
        let (both, all) = (sums[2 * order], sums[2 * order + 1]);
        if all == 0.0 {
            return 0.0;
        }
        // sacreBLEU's "exp": an order without a right n-gram counts half as much as the one before it
        // that had none, beginning with half an n-gram.
        let precision = if both == 0.0 {
            smoothing *= 2.0;
            1.0 / (smoothing * all)
        } else {
            both / all
        };
        ln_precisions += precision.ln();
    }
    // Nothing right at all.
    if sums[2] == 0.0 {
        return 0.0;
    }
    let brevity = if found < right { (1.0 - right / found).exp() } else { 1.0 };
    100.0 * brevity * (ln_precisions / BLEU_ORDER as f64).exp()
}

/// chrF2 of the sums, 0 to 100.
pub fn chrf(sums: &[f64]) -> f64 {
    const BETA_SQUARED: f64 = 4.0;
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for order in sums[2 + 2 * BLEU_ORDER..SUMS].chunks_exact(3) {
        let [found, right, both] = [order[0], order[1], order[2]];
        if found > 0.0 && right > 0.0 {
            precision += both / found;
            recall += both / right;
            orders += 1.0;
        }
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

/// Tokens of the `mteval-v13a` script, as sacreBLEU makes them.
pub fn tokens_13a(text: &str) -> Vec<String> {
    static RULES: OnceLock<Vec<(Regex, &str)>> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let rules = [
            (r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", " $1 "),
            (r"([^0-9])([\.,])", "$1 $2 "),
            (r"([\.,])([^0-9])", " $1 $2"),
            (r"([0-9])(-)", "$1 $2 "),
        ];
        let compiled = |(rule, with)| Regex::new(rule).ok().map(|rule| (rule, with));
        rules.into_iter().filter_map(compiled).collect()
    });
    let text = text.trim_end().replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">");
    let mut text = format!(" {text} ");
    for (rule, with) in rules {
        text = rule.replace_all(&text, *with).into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}
