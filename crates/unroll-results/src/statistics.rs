//! Statistics of small samples.
//!
//! Definitions: a quantile is Hyndman & Fan's type 7 (linear between order statistics, as NumPy and
//! R by default); the median is the 0.5 quantile; the interquartile mean is the mean of what is left
//! when a quarter of the values, rounded down, is cut from either end (Agarwal et al. 2021, arXiv
//! 2108.13264, as in their library rliable and in `scipy.stats.trim_mean`).
//!
//! [`improvement`] compares two samples, [`best`] several with the best of them, [`ranks`] many series over many
//! tasks.

pub mod best;
pub mod improvement;
pub mod ranks;

use statrs::distribution::{ContinuousCDF, StudentsT};

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// Type 7 quantile of values in ascending order.
fn quantile_of_sorted(values: &[f64], probability: f64) -> f64 {
    let position = probability * (values.len() - 1) as f64;
    let low = position.floor() as usize;
    let high = position.ceil() as usize;
    if values[low] == values[high] {
        return values[low];
    }
    values[low] + (position - low as f64) * (values[high] - values[low])
}

/// Type 7 quantile, `0 <= probability <= 1`; `None` of nothing, of NaN and outside that range.
pub fn quantile(values: &[f64], probability: f64) -> Option<f64> {
    let usable = !values.is_empty() && !values.iter().any(|value| value.is_nan());
    (usable && (0.0..=1.0).contains(&probability))
        .then(|| quantile_of_sorted(&sorted(values), probability))
}

/// Median: the middle value, or the mean of the two middle values.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Mean of the middle half: a quarter of the values, rounded down, is cut from either end. Up to three
/// values it is their mean. `None` of nothing and of NaN.
pub fn interquartile_mean(values: &[f64]) -> Option<f64> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let cut = values.len() / 4;
    mean(sorted(values).get(cut..values.len() - cut)?)
}

/// What a sample looks like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Values.
    pub n: usize,
    /// Smallest.
    pub min: f64,
    /// 0.25 quantile.
    pub lower_quartile: f64,
    /// Median.
    pub median: f64,
    /// 0.75 quantile.
    pub upper_quartile: f64,
    /// Largest.
    pub max: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Interquartile mean.
    pub interquartile_mean: f64,
}

impl Spread {
    /// Of the finite values; `None` when there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        let ordered = sorted(&values);
        Some(Self {
            n: values.len(),
            min: *ordered.first()?,
            lower_quartile: quantile_of_sorted(&ordered, 0.25),
            median: quantile_of_sorted(&ordered, 0.5),
            upper_quartile: quantile_of_sorted(&ordered, 0.75),
            max: *ordered.last()?,
            mean: mean(&ordered)?,
            interquartile_mean: interquartile_mean(&ordered)?,
        })
    }

    /// Largest minus smallest.
    pub fn range(&self) -> f64 {
        self.max - self.min
    }
}

/// p of the one-sided sign test: the probability that `n` fair coins show at least `above` heads.
pub fn sign_p(above: usize, n: usize) -> f64 {
    // From the largest count downwards: ways / 2^n.
    let mut term = 0.5f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for below in 0..=n.saturating_sub(above) {
        sum += term;
        term *= (n - below) as f64 / (below + 1) as f64;
    }
    if above > n { 0.0 } else { sum.min(1.0) }
}

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Mean and its 95 % confidence interval by Student's t, for values that are about normal (fitted
/// rates over seeds are); `None` with fewer than two values or one that is not finite.
pub fn mean_interval(values: &[f64]) -> Option<(f64, Interval)> {
    if values.len() < 2 || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let n = values.len() as f64;
    let center = mean(values)?;
    let variance = values.iter().map(|value| (value - center).powi(2)).sum::<f64>() / (n - 1.0);
    let quantile = StudentsT::new(0.0, 1.0, n - 1.0).ok()?.inverse_cdf(0.975);
    let half = quantile * (variance / n).sqrt();
    Some((center, Interval { low: center - half, high: center + half }))
}

/// Ranks from 1, equal values sharing their mean rank.
fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut begin = 0;
    while begin < order.len() {
        let value = values[order[begin]];
        let equal = order[begin..].iter().take_while(|&&index| values[index] == value).count();
        // Ranks begin + 1 to begin + equal.
        let shared = begin as f64 + (equal as f64 + 1.0) / 2.0;
        for &index in &order[begin..begin + equal] {
            ranks[index] = shared;
        }
        begin += equal;
    }
    ranks
}

/// Spearman's rank correlation of pairs, ties with mean ranks; infinities have ranks like any
/// value. `None` for NaN, fewer than three pairs, or when one side is constant.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 || pairs.iter().any(|(a, b)| a.is_nan() || b.is_nan()) {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (midranks(&a), midranks(&b));
    let center = (pairs.len() as f64 + 1.0) / 2.0;
    let (mut aa, mut ab, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        let (a, b) = (a - center, b - center);
        (aa, ab, bb) = (aa + a * a, ab + a * b, bb + b * b);
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// 95 % percentile interval of [`rank_correlation`] under resampling of whole `groups` with
/// replacement: the seeds of one model are no independent evidence. Resamples without a correlation (one
/// group drawn throughout) are left out; `None` with fewer than three groups. The same `seed` gives
/// the same interval.
pub fn rank_correlation_interval(
    groups: &[Vec<(f64, f64)>],
    resamples: usize,
    seed: u64,
) -> Option<Interval> {
    if groups.len() < 3 {
        return None;
    }
    let mut random = SplitMix64(seed);
    let mut found = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        let drawn = (0..groups.len()).flat_map(|_| groups[random.below(groups.len())].clone());
        found.extend(rank_correlation(&drawn.collect::<Vec<_>>()));
    }
    Some(Interval { low: quantile(&found, 0.025)?, high: quantile(&found, 0.975)? })
}

/// SplitMix64 (Steele, Lea & Flood 2014): small, and the same on every machine.
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The generator with this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `bound` (bias below `bound / 2^64`).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// Percentile interval of `statistic` under the stratified bootstrap (Agarwal et al. 2021): each
/// stratum (the seeds of one task, say) is resampled with replacement within itself, the resamples
/// are pooled, and the interval holds the middle `confidence` of the statistic's values over
/// `resamples` rounds.
///
/// The same `seed` gives the same interval. `None` without values, when a statistic is `None` or
/// NaN, when `resamples` is 0, or unless `0 < confidence < 1`. With few seeds the interval is too narrow: three values
/// have only ten different resamples.
pub fn stratified_bootstrap(
    strata: &[&[f64]],
    statistic: impl Fn(&[f64]) -> Option<f64>,
    confidence: f64,
    resamples: usize,
    seed: u64,
) -> Option<Interval> {
    if resamples == 0 || !(confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let mut random = SplitMix64(seed);
    let mut pooled = Vec::with_capacity(strata.iter().map(|stratum| stratum.len()).sum());
    let mut statistics = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        pooled.clear();
        for stratum in strata {
            pooled.extend((0..stratum.len()).map(|_| stratum[random.below(stratum.len())]));
        }
        statistics.push(statistic(&pooled)?);
    }
    let tail = (1.0 - confidence) / 2.0;
    Some(Interval { low: quantile(&statistics, tail)?, high: quantile(&statistics, 1.0 - tail)? })
}

/// A straight line through points by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LineFit {
    /// Change of y per unit of x.
    pub slope: f64,
    /// y at x = 0.
    pub intercept: f64,
    /// Fraction of y's variance that the line explains; 1 when y is constant.
    pub r_squared: f64,
    /// Points.
    pub n: usize,
}

impl LineFit {
    /// Through `points` of (x, y); `None` with fewer than two different x.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let n = points.len() as f64;
        let mean_x = points.iter().map(|point| point.0).sum::<f64>() / n;
        let mean_y = points.iter().map(|point| point.1).sum::<f64>() / n;
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in points {
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            xy += dx * dy;
            yy += dy * dy;
        }
        if !(xx > 0.0 && xy.is_finite() && yy.is_finite()) {
            return None;
        }
        let slope = xy / xx;
        let r_squared = if yy > 0.0 { (xy / xx.sqrt() / yy.sqrt()).powi(2).min(1.0) } else { 1.0 };
        Some(Self { slope, intercept: mean_y - slope * mean_x, r_squared, n: points.len() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_sign_test_counts_coins() {
        // 7 of 64 ways have 5 or more heads of 6.
        assert!((sign_p(5, 6) - 7.0 / 64.0).abs() < 1e-15);
        assert_eq!(
            (sign_p(6, 6), sign_p(0, 6), sign_p(0, 0), sign_p(1, 0)),
            (1.0 / 64.0, 1.0, 1.0, 0.0)
        );
    }

    #[test]
    fn quantiles_are_type_7() {
        // numpy.quantile([1, 2, 4, 8], [0, 0.1, 0.25, 0.5, 0.9, 1])
        let values = [8.0, 1.0, 4.0, 2.0];
        let expected = [1.0, 1.3, 1.75, 3.0, 6.8, 8.0];
        for (probability, expected) in [0.0, 0.1, 0.25, 0.5, 0.9, 1.0].into_iter().zip(expected) {
            assert!((quantile(&values, probability).unwrap() - expected).abs() < 1e-12);
        }
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
        assert_eq!(quantile(&[1.0], 1.5), None);
        assert_eq!(median(&[f64::INFINITY, f64::INFINITY]), Some(f64::INFINITY));
    }

    #[test]
    fn interquartile_mean_cuts_a_quarter_from_each_end() {
        assert_eq!(interquartile_mean(&[100.0, 2.0, 4.0, -50.0]), Some(3.0));
        // scipy.stats.trim_mean([0, 1, 5], 0.25), and of five values
        assert_eq!(interquartile_mean(&[0.0, 1.0, 5.0]), Some(2.0));
        assert_eq!(interquartile_mean(&[9.0, 0.0, 1.0, 5.0, 3.0]), Some(3.0));
        assert_eq!(interquartile_mean(&[3.0]), Some(3.0));
        assert_eq!(interquartile_mean(&[]), None);
    }

    #[test]
    fn spread_leaves_non_finite_values_out() {
        let spread = Spread::of([2.0, f64::NAN, 1.0, f64::INFINITY]).unwrap();
        assert_eq!((spread.n, spread.min, spread.median, spread.max), (2, 1.0, 1.5, 2.0));
        assert_eq!(spread.range(), 1.0);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn splitmix64_matches_its_reference() {
        // First outputs of the public-domain C code (Vigna) for seed 1234567.
        let mut random = SplitMix64(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next(), random.next()], expected);
    }

    #[test]
    fn bootstrap_is_repeatable_and_stratified() {
        let (low, high) = ([0.0, 0.0, 0.0], [10.0, 10.0, 10.0]);
        // No spread within the strata: no spread of the pooled mean.
        let interval = stratified_bootstrap(&[&low, &high], mean, 0.95, 200, 1).unwrap();
        assert_eq!(interval, Interval { low: 5.0, high: 5.0 });

        let values: Vec<f64> = (0..40).map(f64::from).collect();
        let first = stratified_bootstrap(&[&values], mean, 0.95, 2000, 7).unwrap();
        assert_eq!(Some(first), stratified_bootstrap(&[&values], mean, 0.95, 2000, 7));
        assert_ne!(Some(first), stratified_bootstrap(&[&values], mean, 0.95, 2000, 8));
        // Standard error of the mean: sqrt((40^2 - 1) / 12 / 40) = 1.825; times 1.96 each way.
        assert!((first.low - (19.5 - 3.58)).abs() < 0.35, "{first:?}");
        assert!((first.high - (19.5 + 3.58)).abs() < 0.35, "{first:?}");
        assert_eq!(stratified_bootstrap(&[], mean, 0.95, 10, 0), None);
        assert_eq!(stratified_bootstrap(&[&values], mean, 1.0, 10, 0), None);
        assert_eq!(stratified_bootstrap(&[&values], mean, 0.9, 0, 0), None);
    }

    #[test]
    fn t_intervals_are_those_of_scipy() {
        // scipy.stats.t.interval(0.95, 4, loc=3, scale=scipy.stats.sem([1, 2, 3, 4, 5]))
        let (mean, interval) = mean_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(mean, 3.0);
        assert!((interval.low - 1.036_756_838_522_439).abs() < 1e-9, "{interval:?}");
        assert!((interval.high - 4.963_243_161_477_561).abs() < 1e-9);
        assert_eq!(mean_interval(&[1.0]), None);
        assert_eq!(mean_interval(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn rank_correlations_are_those_of_scipy() {
        // scipy.stats.spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]).statistic
        let pairs = [(1.0, 5.0), (2.0, 6.0), (3.0, 7.0), (4.0, 8.0), (5.0, 7.0)];
        assert!((rank_correlation(&pairs).unwrap() - 0.820_782_681_668_123_3).abs() < 1e-12);
        assert_eq!(rank_correlation(&pairs.map(|(a, b)| (a, -a + 0.0 * b))), Some(-1.0));
        // An infinite horizon is the longest, and a model that learned nothing the last.
        let pairs = [(f64::INFINITY, 400.0), (3.0, 0.0), (70.0, 100.0)];
        assert_eq!(rank_correlation(&pairs), Some(1.0));
        assert_eq!(rank_correlation(&[(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]), None);
        assert_eq!(rank_correlation(&pairs[..2]), None);
    }

    #[test]
    fn rank_correlation_intervals_resample_groups() {
        let group = |at: f64| vec![(at, at), (at + 0.1, at + 0.1)];
        let groups: Vec<_> = (0..8).map(|i| group(f64::from(i))).collect();
        let interval = rank_correlation_interval(&groups, 500, 1).unwrap();
        assert!(interval.low > 0.99 && interval.high <= 1.0, "{interval:?}");
        assert_eq!(Some(interval), rank_correlation_interval(&groups, 500, 1));
        let mut noisy = groups.clone();
        noisy[7] = vec![(7.0, -9.0), (7.1, -9.0)];
        let wider = rank_correlation_interval(&noisy, 500, 1).unwrap();
        assert!(wider.low < 0.5 && wider.high > 0.9, "{wider:?}");
        assert_eq!(rank_correlation_interval(&groups[..2], 500, 1), None);
    }

    #[test]
    fn lines_are_found() {
        let points: Vec<_> = (0..5).map(|x| (f64::from(x), 3.0 - 0.5 * f64::from(x))).collect();
        let fit = LineFit::of(&points).unwrap();
        assert!((fit.slope + 0.5).abs() < 1e-15 && (fit.intercept - 3.0).abs() < 1e-15);
        assert!((fit.r_squared - 1.0).abs() < 1e-15);
        // scipy.stats.linregress([0, 1, 2], [0, 1, 0]): slope 0, r^2 0.
        let fit = LineFit::of(&[(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)]).unwrap();
        assert_eq!((fit.slope, fit.r_squared), (0.0, 0.0));
        assert_eq!(LineFit::of(&[(0.0, 2.0), (1.0, 2.0)]).unwrap().r_squared, 1.0);
        assert_eq!(LineFit::of(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(LineFit::of(&[(1.0, 2.0)]), None);
        assert_eq!(LineFit::of(&[]), None);
        assert_eq!(LineFit::of(&[(1.0, 2.0), (2.0, f64::NAN)]), None);
    }

    proptest! {
        #[test]
        fn order_statistics_are_ordered(values in prop::collection::vec(-1e9f64..1e9, 1..30)) {
            let spread = Spread::of(values.iter().copied()).unwrap();
            prop_assert!(spread.min <= spread.lower_quartile);
            prop_assert!(spread.lower_quartile <= spread.median);
            prop_assert!(spread.median <= spread.upper_quartile);
            prop_assert!(spread.upper_quartile <= spread.max);
            let slack = 1e-9 * (1.0 + spread.max.abs().max(spread.min.abs()));
            prop_assert!(spread.min - slack <= spread.interquartile_mean);
            prop_assert!(spread.interquartile_mean <= spread.max + slack);
        }

        #[test]
        fn quantiles_do_not_depend_on_order(
            mut values in prop::collection::vec(-1e3f64..1e3, 1..20), probability in 0.0f64..=1.0,
        ) {
            let before = quantile(&values, probability);
            values.reverse();
            prop_assert_eq!(before, quantile(&values, probability));
        }
    }
}
