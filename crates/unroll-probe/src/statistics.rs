//! Summaries of samples.

/// Arithmetic mean; NaN of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The values in ascending order, NaN last.
pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Quantile of sorted values by linear interpolation (type 7 of Hyndman & Fan 1996, numpy's
/// default); NaN of nothing.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let position = q * last as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    between(sorted[low], sorted[high], position - low as f64)
}

/// The same quantiles of values in any order, which are put into another; `qs` ascend. Linear in the number
/// of values, where sorting millions of gates would take most of the time.
pub(crate) fn select_quantiles<const N: usize>(values: &mut [f64], qs: [f64; N]) -> [f64; N] {
    let Some(last) = values.len().checked_sub(1) else { return [f64::NAN; N] };
    // Everything before `start` is no larger than what follows.
    let mut start = 0;
    qs.map(|q| {
        let position = q * last as f64;
        let (low, rest) = (position.floor() as usize, position.fract());
        let unordered = &mut values[start..];
        let (_, &mut at, above) =
            unordered.select_nth_unstable_by(low.saturating_sub(start), f64::total_cmp);
        start = start.max(low);
        match above.iter().copied().min_by(f64::total_cmp) {
            Some(next) if rest > 0.0 => between(at, next, rest),
            _ => at,
        }
    })
}

/// What lies a fraction `rest` of the way from `low` to `high`.
fn between(low: f64, high: f64, rest: f64) -> f64 {
    // Not interpolated: between infinities that would give NaN. Anything between minus infinity and a
    // number is minus infinity.
    if rest == 0.0 || low == high || low == f64::NEG_INFINITY {
        return low;
    }
    low * (1.0 - rest) + high * rest
}

/// A sum that carries the rounding errors of its additions along (Neumaier 1974): millions of terms add up
/// as precisely as two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    /// Adds one term.
    pub(crate) fn add(&mut self, term: f64) {
        let total = self.total + term;
        self.lost += if self.total.abs() >= term.abs() {
            (self.total - total) + term
        } else {
            (term - total) + self.total
        };
        self.total = total;
    }

    /// The sum.
    pub(crate) fn value(self) -> f64 {
        // Infinite terms lose "infinity minus infinity".
        if self.total.is_finite() { self.total + self.lost } else { self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let values = sorted(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 2.5);
        assert!((quantile(&values, 0.9) - 3.7).abs() < 1e-15);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.1), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!(mean(&values), 2.5);
    }

    #[test]
    fn selected_quantiles_are_those_of_sorted_values() {
        let infinite = [f64::INFINITY, 1.0, f64::INFINITY, f64::NEG_INFINITY, 0.0];
        let many: Vec<f64> = (0..101).map(|i| f64::from(i * 37 % 101)).collect();
        for values in [&[4.0, 1.0, 3.0, 2.0][..], &[7.0], &infinite, &many, &many[..100]] {
            let ordered = sorted(values);
            let qs = [0.0, 0.1, 0.11, 0.25, 0.5, 0.5, 0.77, 0.9, 1.0];
            let found = select_quantiles(&mut values.to_vec(), qs);
            assert_eq!(found, qs.map(|q| quantile(&ordered, q)), "{values:?}");
        }
        assert!(select_quantiles(&mut [], [0.5])[0].is_nan());
    }

    #[test]
    fn sums_lose_nothing() {
        let mut sum = Sum::default();
        sum.add(1e16);
        (0..10_000).for_each(|_| sum.add(0.1));
        sum.add(-1e16);
        assert!((sum.value() - 1000.0).abs() < 1e-9);
        sum.add(f64::INFINITY);
        assert_eq!(sum.value(), f64::INFINITY);
        assert_eq!(Sum::default().value(), 0.0);
    }
}
