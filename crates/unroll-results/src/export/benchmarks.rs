//! Formats of services that watch benchmarks.

use serde_json::{Map, Value, json};

use crate::Summary;
use crate::record::Better;
use crate::statistics::Spread;

/// One number to watch.
struct Measure {
    /// `adding/50/gru/train_step`.
    benchmark: String,
    /// Name with unit: `seconds`, `MSE`.
    name: String,
    better: Better,
    spread: Spread,
}

fn measures(summary: &Summary) -> Vec<Measure> {
    let mut found = Vec::new();
    for group in &summary.quality {
        let Some(spread) = group.test else { continue };
        found.push(Measure {
            benchmark: format!("{}/{}/{}/quality", group.task, group.length, group.series),
            name: group.metric.clone(),
            better: group.better,
            spread,
        });
    }
    for group in &summary.throughput {
        let benchmark =
            format!("{}/{}/{}/{}", group.task, group.length, group.series, group.phase.name());
        let mut push = |name: &str, better, spread| {
            let (benchmark, name) = (benchmark.clone(), name.to_owned());
            found.push(Measure { benchmark, name, better, spread });
        };
        push("seconds", Better::Lower, group.median_s);
        push("tokens/s", Better::Higher, group.tokens_per_s);
        if let Some(spread) = Spread::of(group.peak_bytes.map(|bytes| bytes as f64)) {
            push("peak bytes", Better::Lower, spread);
        }
    }
    found
}

/// Bencher Metric Format: benchmark, measure, value with lower and upper one (smallest and largest over
/// trials). Times are Bencher's own measure `latency`, in nanoseconds.
pub fn bencher(summary: &Summary) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for measure in measures(summary) {
        let (slug, unit) = match measure.name.as_str() {
            "seconds" => ("latency".to_owned(), 1e9),
            name => (slug(name), 1.0),
        };
        let metric = json!({
            "value": unit * measure.spread.median,
            "lower_value": unit * measure.spread.min,
            "upper_value": unit * measure.spread.max,
        });
        let benchmark = all.entry(measure.benchmark).or_insert_with(|| json!({}));
        benchmark[slug] = metric;
    }
    Value::Object(all)
}

/// `tokens/s` as `tokens-s`: lower-case letters and digits with single dashes.
fn slug(name: &str) -> String {
    let dashed: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "metric".to_owned() } else { parts.join("-") }
}

/// What github-action-benchmark reads as `customSmallerIsBetter` and as `customBiggerIsBetter`.
pub fn github_benchmark(summary: &Summary) -> [Value; 2] {
    let of = |better: Better| {
        let entry = |measure: Measure| {
            let half = measure.spread.range() / 2.0;
            json!({
                "name": format!("{} ({})", measure.benchmark, measure.name),
                "unit": measure.name,
                "value": measure.spread.median,
                "range": half.to_string(),
                "extra": format!("median of {}", measure.spread.n),
            })
        };
        let wanted = measures(summary).into_iter().filter(|measure| measure.better == better);
        Value::Array(wanted.map(entry).collect())
    };
    [of(Better::Lower), of(Better::Higher)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn summary() -> Summary {
        let mut records = testing::sweep();
        records.push(testing::measured("gru", 6, 1, "cpu"));
        Summary::from_records(&records)
    }

    #[test]
    fn bencher_has_measures_with_bounds() {
        let value = bencher(&summary());
        let latency = &value["adding/6/gru/forward"]["latency"];
        assert_eq!(latency["value"], json!(1.5e9));
        assert_eq!(value["adding/6/gru/forward"]["tokens-s"]["value"], json!(5e4));
        let mse = &value["adding/50/lstm/quality"]["mse"];
        assert_eq!((&mse["value"], &mse["lower_value"]), (&json!(0.002), &json!(0.001)));
    }

    #[test]
    fn directions_are_apart() {
        let [smaller, bigger] = github_benchmark(&summary());
        let name = |value: &Value, text: &str| {
            value.as_array().unwrap().iter().any(|e| e["name"].as_str().unwrap().contains(text))
        };
        assert!(
            name(&smaller, "(seconds)") && name(&smaller, "(MSE)") && !name(&smaller, "tokens")
        );
        assert!(name(&bigger, "(tokens/s)") && !name(&bigger, "MSE"));
        for entry in smaller.as_array().unwrap() {
            assert!(entry["value"].is_number(), "{entry}");
        }
    }

    #[test]
    fn slugs_are_plain() {
        assert_eq!(slug("RMSE (kW)"), "rmse-kw");
        assert_eq!(slug("…"), "metric");
    }
}
