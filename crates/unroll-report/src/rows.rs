//! The rows of the summary tables, for terminal and Markdown alike.

use unroll_results::Summary;
use unroll_results::decay::Decay;
use unroll_results::record::GradientOf;
use unroll_results::statistics::{Interval, Spread};
use unroll_results::summary::{
    Agreement, GradientGroup, OverSeeds, QualityGroup, Verdict, median_horizon,
};

/// A table of texts; every row has as many cells as there are titles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Title of each column.
    pub(crate) titles: Vec<&'static str>,
    /// Columns of numbers are set to the right.
    pub(crate) numbers: Vec<bool>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Rows {
    pub(crate) fn new(columns: &[(&'static str, bool)]) -> Self {
        let (titles, numbers) = columns.iter().copied().unzip();
        Self { titles, numbers, rows: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// A task's metric after training.
pub(crate) fn quality(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("params", true),
        ("median [min..max]", false),
        ("baseline", true),
        ("solved", false),
        ("steps", true),
        ("run tokens/s", true),
    ]);
    for group in summary.quality.iter().filter(|group| group.task == task) {
        let speed = group.tokens_per_s.map(|spread| spread.median);
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.parameters.map_or_else(dash, |count| prefixed(count as f64)),
            group.test.map_or_else(dash, |spread| range(&spread)),
            group.best_baseline.as_ref().map_or_else(dash, |baseline| significant(baseline.value)),
            outcome(group),
            group.steps_to_threshold.map_or_else(dash, |steps| prefixed(steps.round())),
            speed.map_or_else(dash, prefixed),
        ]);
    }
    rows
}

/// The metric of a task: `MSE, lower is better, solved at 0.01`; empty when no trial has one.
pub(crate) fn metric(summary: &Summary, task: &str) -> String {
    let described = |group: &&QualityGroup| group.task == task && !group.metric.is_empty();
    let Some(group) = summary.quality.iter().find(described) else { return String::new() };
    let mut text = format!("{}, {} is better", group.metric, group.better.name());
    if let Some(value) = group.solved_at {
        text.push_str(&format!(", solved at {value}"));
    }
    text
}

/// `3/3`, with what else has to be said.
fn outcome(group: &QualityGroup) -> String {
    // Without a criterion nothing can be solved.
    let solved = match group.solved_at {
        Some(_) => format!("{}/{}", group.solved, group.n),
        None => dash(),
    };
    let mut parts = vec![solved];
    if !group.missed_on_test.is_empty() {
        parts.push(format!("{} missed on test", group.missed_on_test.len()));
    }
    if group.verdict() == Verdict::AtChance {
        parts.push("at chance".into());
    } else if group.at_chance > 0 {
        parts.push(format!("{} at chance", group.at_chance));
    }
    if group.diverged > 0 {
        parts.push(format!("{} diverged", group.diverged));
    }
    if group.failed > 0 {
        parts.push(format!("{} failed", group.failed));
    }
    parts.join(", ")
}

/// A task's metric at other lengths.
pub(crate) fn lengths(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("trained at", true),
        ("length", true),
        ("median [min..max]", false),
    ]);
    for group in summary.lengths.iter().filter(|group| group.task == task) {
        rows.rows.push(vec![
            group.series.clone(),
            group.trained_length.to_string(),
            group.length.to_string(),
            group.spread.map_or_else(dash, |spread| range(&spread)),
        ]);
    }
    rows
}

/// A task's further metrics.
pub(crate) fn metrics(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("metric", false),
        ("median [min..max]", false),
    ]);
    for group in summary.metrics.iter().filter(|group| group.task == task) {
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.metric.clone(),
            group.spread.map_or_else(dash, |spread| range(&spread)),
        ]);
    }
    rows
}

/// A task's fitted gradient decay.
pub(crate) fn gradients(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("of", false),
        ("layer", true),
        ("at", false),
        ("half-life [95 %]", true),
        ("1 % at", true),
        ("1.2e-7 at", true),
        ("99 % within", true),
        ("law", false),
        ("exp. r²", true),
        ("exponent [95 %]", true),
        ("power r²", true),
        ("fitted", true),
    ]);
    for group in summary.gradients.iter().filter(|group| group.task == task) {
        let seeds = &group.over_seeds;
        let beyond = group.band.last().map_or(0, |band| band.distance);
        let reach = seeds.reach.iter().flatten().map(|&distance| distance as f64);
        let mut row = vec![
            group.series.clone(),
            group.length.to_string(),
            group.of.name().to_owned(),
            group.layer.to_string(),
            group.moment.short_name(),
            half_life(group),
            horizon(seeds, &seeds.horizon_percent, beyond),
            horizon(seeds, &seeds.horizon_epsilon, beyond),
            Spread::of(reach).map_or_else(dash, |spread| range(&spread)),
        ];
        let fitted = |decay: &Decay| format!("{}..{}", decay.from, decay.to);
        match group.decay.as_ref().map(|decay| (decay, decay.better_law())) {
            Some((decay, Some(law))) => row.extend([
                match (seeds.evidence, seeds.law()) {
                    (None, _) => law.name().to_owned(),
                    (Some(_), Some(law)) => law.name().to_owned(),
                    (Some(_), None) => "open".to_owned(),
                },
                format!("{:.3}", decay.exponential.r_squared),
                exponent(decay, seeds.exponent),
                format!("{:.3}", decay.power.r_squared),
                fitted(decay),
            ]),
            // Flat: a law of rounding errors is none.
            Some((decay, None)) => row.extend([dash(), dash(), dash(), dash(), fitted(decay)]),
            None => row.extend(std::iter::repeat_with(dash).take(5)),
        }
        rows.rows.push(row);
    }
    rows
}

fn horizon(seeds: &OverSeeds, found: &[Option<f64>], measured: usize) -> String {
    // Norms that are 0 from the start fall nowhere, least of all beyond what was measured.
    if seeds.reach.iter().all(Option::is_none) {
        return dash();
    }
    horizon_range(found, measured)
}

/// The median over seeds with the smallest and largest, `12.3 [11.0..14.1]`; a seed for which it is beyond
/// what was measured is larger than all others: `> 511`, `41.2 [38.0..> 511]`.
fn horizon_range(found: &[Option<f64>], measured: usize) -> String {
    let end = |value: f64| {
        if value.is_finite() { significant(value) } else { format!("> {measured}") }
    };
    let values = || found.iter().map(|value| value.unwrap_or(f64::INFINITY));
    let middle = end(median_horizon(found).unwrap_or(f64::INFINITY));
    let (low, high) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if found.len() < 2 || low.is_infinite() {
        return middle;
    }
    format!("{middle} [{}..{}]", end(low), end(high))
}

/// `-1.02 [-1.10..-0.94]`.
fn exponent(decay: &Decay, interval: Option<Interval>) -> String {
    let mean = format!("{:.2}", decay.power.slope);
    match interval {
        Some(Interval { low, high }) => format!("{mean} [{low:.2}..{high:.2}]"),
        None => mean,
    }
}

/// `12.3 [11.0..14.1]`; `> 511` when longer than what was measured; `grows`, or `flat` when the change is
/// within rounding or the seeds do not tell growth from not changing.
fn half_life(group: &GradientGroup) -> String {
    let Some(decay) = &group.decay else { return dash() };
    let Some(mean) = decay.half_life() else {
        let surely = !decay.is_flat() && group.over_seeds.rate.is_none_or(|rate| rate.low > 0.0);
        return if surely { "grows" } else { "flat" }.to_owned();
    };
    let measured = group.band.last().map_or(0, |band| band.distance);
    if mean > measured as f64 {
        return format!("> {measured}");
    }
    let end = |value: f64| {
        if value.is_finite() { significant(value) } else { "∞".to_owned() }
    };
    match group.over_seeds.half_life() {
        Some(interval) => {
            format!("{} [{}..{}]", significant(mean), end(interval.low), end(interval.high))
        }
        None => significant(mean),
    }
}

/// A task's gradient decay in short: of the input, which all architectures share, where it was
/// measured.
pub(crate) fn decay(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("at", false),
        ("half-life [95 %]", true),
        ("1 % at", true),
        ("99 % within", true),
        ("law", false),
    ]);
    let full = gradients(summary, task);
    let place = |title: &str| full.titles.iter().position(|other| *other == title);
    let (of, layer) = (place("of"), place("layer"));
    let shared = |row: &&Vec<String>| of.is_none_or(|of| row[of] == GradientOf::Input.name());
    let any = full.rows.iter().any(|row| shared(&row));
    for row in full.rows.iter().filter(|row| !any || shared(row)) {
        let mut short: Vec<String> = rows
            .titles
            .iter()
            .map(|title| place(title).map_or_else(dash, |p| row[p].clone()))
            .collect();
        if let (false, Some(of), Some(layer)) = (any, of, layer) {
            short[0] = format!("{}, {} {}", short[0], row[of], row[layer]);
        }
        rows.rows.push(short);
    }
    rows
}

/// A task's Lyapunov exponents and Jacobians.
pub(crate) fn dynamics(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("at", false),
        ("state", true),
        ("largest exponent [min..max]", true),
        ("median exponent", true),
        ("lost", true),
        ("ln |det| per step", true),
        ("largest singular value", true),
        ("at distance", true),
        ("method", false),
    ]);
    for group in summary.dynamics.iter().filter(|group| group.task == task) {
        // The middle of a few probes is not the middle of the spectrum.
        let middle = if group.probes.is_none() {
            group.exponents.get(group.state_size.div_ceil(2).saturating_sub(1))
        } else {
            None
        };
        let last = group.points.last();
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.moment.short_name(),
            group.state_size.to_string(),
            group.exponents.first().map_or_else(dash, range),
            middle.map_or_else(dash, |spread| significant(spread.median)),
            if group.probes.is_none() { group.lost.to_string() } else { dash() },
            group.log_det_rate.map_or_else(dash, |spread| significant(spread.median)),
            last.and_then(|point| point.largest).map_or_else(dash, |l| power_of_ten(l.median)),
            last.map_or_else(dash, |point| point.distance.to_string()),
            group.probes.map_or_else(|| "exact".to_owned(), |count| format!("{count} probes")),
        ]);
    }
    rows
}

/// A task's gates.
pub(crate) fn gates(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("at", false),
        ("layer", false),
        ("gate", false),
        ("mean [min..max]", false),
        ("closed", true),
        ("open", true),
        ("saturated", true),
        ("forget time [10 %..90 % of units]", true),
    ]);
    let percent =
        |share: Option<f64>| share.map_or_else(dash, |share| format!("{:.0} %", 100.0 * share));
    for group in summary.gates.iter().filter(|group| group.task == task) {
        let layer = match group.direction.as_str() {
            "forward" => group.layer.to_string(),
            direction => format!("{}, {direction}", group.layer),
        };
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.moment.short_name(),
            layer,
            group.gate.clone(),
            group.mean.as_ref().map_or_else(dash, range),
            percent(group.closed),
            percent(group.open),
            percent(group.saturated),
            group.forget_time.map_or_else(dash, |[low, middle, high]| {
                format!("{} [{}..{}]", significant(middle), significant(low), significant(high))
            }),
        ]);
    }
    rows
}

/// A task's attention layers.
pub(crate) fn attention(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("at", false),
        ("layer", true),
        ("heads", true),
        ("entropy of uniform [min..max]", false),
        ("attended distance [min..max]", false),
        ("if uniform", true),
    ]);
    for group in summary.attention.iter().filter(|group| group.task == task) {
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.moment.short_name(),
            group.layer.to_string(),
            group.heads.to_string(),
            group.normalised_entropy.as_ref().map_or_else(dash, range),
            group.mean_distance.as_ref().map_or_else(dash, range),
            group.uniform_distance.map_or_else(dash, significant),
        ]);
    }
    rows
}

/// A number given by its natural logarithm, whatever its size: `3.1e-2000`.
pub(crate) fn power_of_ten(ln: f64) -> String {
    let decimal = ln * std::f64::consts::LOG10_E;
    let exponent = decimal.floor();
    let mantissa = format!("{:.1}", 10f64.powf(decimal - exponent));
    // 9.96 is 10.0 as rounded.
    match mantissa.as_str() {
        "10.0" => format!("1.0e{}", exponent + 1.0),
        _ => format!("{mantissa}e{exponent}"),
    }
}

/// Horizons before training beside what was learned, by series.
pub(crate) fn horizons(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("seeds", true),
        ("horizon before training [min..max]", true),
        ("99 % within [min..max]", true),
        ("longest length solved [min..max]", true),
    ]);
    let Some(group) = summary.horizons.iter().find(|group| group.task == task) else { return rows };
    for series in &summary.series {
        let of_series = || group.points.iter().filter(|point| point.series == series.name);
        let horizons: Vec<Option<f64>> =
            of_series().map(|p| Some(p.horizon).filter(|h| h.is_finite())).collect();
        let reaches = of_series().map(|point| point.reach as f64);
        let solved: Vec<f64> = of_series().map(|point| point.longest_solved as f64).collect();
        let Some(solved) = Spread::of(solved) else { continue };
        rows.rows.push(vec![
            series.name.clone(),
            horizons.len().to_string(),
            horizon_range(&horizons, group.measured_to),
            Spread::of(reaches).map_or_else(dash, |spread| range(&spread)),
            range(&solved),
        ]);
    }
    rows
}

/// `0.85 (95 % interval 0.61 to 0.95)`.
pub(crate) fn agreement(agreement: &Agreement) -> Option<String> {
    let mut text = format!("{:.2}", agreement.correlation?);
    if let Some(Interval { low, high }) = agreement.interval {
        text.push_str(&format!(" (95 % interval {low:.2} to {high:.2})"));
    }
    Some(text)
}

/// A task's times and memory.
pub(crate) fn throughput(summary: &Summary, task: &str) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("length", true),
        ("phase", false),
        ("batch", true),
        ("time [min..max]", false),
        ("tokens/s", true),
        ("GFLOP/s", true),
        ("peak", true),
    ]);
    for group in summary.throughput.iter().filter(|group| group.task == task) {
        rows.rows.push(vec![
            group.series.clone(),
            group.length.to_string(),
            group.phase.name().to_owned(),
            group.batch_size.to_string(),
            times(&group.median_s),
            prefixed(group.tokens_per_s.median),
            group.gflops_per_s.map_or_else(dash, |spread| significant(spread.median)),
            group.peak_bytes.map_or_else(dash, bytes),
        ]);
    }
    rows
}

pub(crate) fn dash() -> String {
    "–".to_owned()
}

/// `0.00123 [0.0011..0.0015]`; the range is left out when there is a single value.
pub(crate) fn range(spread: &Spread) -> String {
    let median = significant(spread.median);
    if spread.n == 1 {
        return median;
    }
    format!("{median} [{}..{}]", significant(spread.min), significant(spread.max))
}

/// Three significant digits: `0.167`, `12.3`, `1.23e-5`.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    // As rounded, so that 9.999 is 10.0 and not 10.00.
    let scientific = format!("{value:.2e}");
    let exponent: i32 =
        scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    match exponent {
        -3..=2 => format!("{value:.*}", (2 - exponent) as usize),
        3..=5 => format!("{value:.0}"),
        _ => scientific,
    }
}

/// Three significant digits with a prefix: `4.61k`, `1.20M`.
pub(crate) fn prefixed(value: f64) -> String {
    let (number, prefix) = with_prefix(value);
    number + prefix
}

/// `1.65 MB`.
pub(crate) fn bytes(count: u64) -> String {
    let (number, prefix) = with_prefix(count as f64);
    format!("{number} {prefix}B")
}

fn with_prefix(value: f64) -> (String, &'static str) {
    if value.abs() < 1000.0 && value.fract() == 0.0 {
        return (value.to_string(), "");
    }
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // 999 950 is 1.00M and not 1000k.
    let fitting = prefixes.into_iter().find(|(unit, _)| value.abs() >= 0.9995 * unit);
    fitting.map_or_else(
        || (significant(value), ""),
        |(unit, prefix)| (significant(value / unit), prefix),
    )
}

/// `1.23 ms [1.1 ms..1.5 ms]`; the range is left out when there is a single value.
fn times(spread: &Spread) -> String {
    let median = seconds(spread.median);
    if spread.n == 1 {
        return median;
    }
    format!("{median} [{}..{}]", seconds(spread.min), seconds(spread.max))
}

/// A time: `1.23 ms`.
fn seconds(value: f64) -> String {
    let units = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")];
    for (unit, name) in units {
        if value >= 0.9995 * unit {
            return format!("{} {name}", significant(value / unit));
        }
    }
    format!("{} ns", significant(value / 1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let cases = [
            (0.0, "0"),
            (1.0 / 6.0, "0.167"),
            (12.345, "12.3"),
            (9.999, "10.0"),
            (0.001_234, "0.00123"),
            (0.000_123_4, "1.23e-4"),
            (0.000_012_34, "1.23e-5"),
            (123_456.0, "123456"),
            (-2.5, "-2.50"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        let cases = [(36.0, "36"), (4609.0, "4.61k"), (999_950.0, "1.00M"), (2.5e9, "2.50G")];
        for (value, text) in cases {
            assert_eq!(prefixed(value), text);
        }
        assert_eq!(power_of_ten(-3000.0 * std::f64::consts::LN_10 + 1.0), "2.7e-3000");
        assert_eq!(power_of_ten(9.98f64.ln()), "1.0e1");
        assert_eq!(bytes(1_650_000), "1.65 MB");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(seconds(0.0123), "12.3 ms");
        assert_eq!(seconds(4.2e-8), "42.0 ns");
    }
}
