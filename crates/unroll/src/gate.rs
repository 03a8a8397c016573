//! `unroll gate`: whether the results of an experiment are what its file expects.

use serde::Serialize;
use unroll_results::TrialRecord;
use unroll_results::decay::reaches;
use unroll_results::record::{GradientOf, GradientPoint, Status, TrialKind};
use unroll_results::statistics::median;

use crate::experiment::{Expectation, Measure, OverSeeds};

/// What has become of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It holds.
    Met,
    /// It does not.
    Missed,
    /// No trial measured it.
    NoData,
    /// Bits that another kind of machine gave: nothing is said.
    OtherMachine,
}

impl Finding {
    fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NoData => "no data",
            Self::OtherMachine => "other machine",
        }
    }
}

/// An expectation with what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// What was looked at.
    pub what: String,
    /// What was expected, in words.
    pub expected: String,
    /// The values, one for each trial, in the order of the records.
    #[serde(serialize_with = "values")]
    pub measured: Vec<f64>,
    /// What has become of it.
    pub finding: Finding,
}

fn values<S: serde::Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Number(#[serde(with = "unroll_results::number")] f64);
    serializer.collect_seq(values.iter().copied().map(Number))
}

/// Holds records to expectations. `machine` is the kind of the machine ([`kind_of_machine`]).
pub fn judge(expected: &[Expectation], records: &[TrialRecord], machine: &str) -> Vec<Judged> {
    expected.iter().map(|expectation| judge_one(expectation, records, machine)).collect()
}

/// What bits depend on besides the build, as `on` names it: `avx512, AMD EPYC 9B45`.
pub fn kind_of_machine(environment: &unroll_results::Environment) -> String {
    let (instruction_set, cpu) = environment.machine();
    match cpu {
        Some(cpu) => format!("{instruction_set}, {cpu}"),
        None => instruction_set.to_owned(),
    }
}

/// Whether a cell's task, which can go on with the name of a data set, is the named one.
pub(crate) fn is_of(cell: &str, task: &str) -> bool {
    cell.strip_prefix(task).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

fn judge_one(expectation: &Expectation, records: &[TrialRecord], machine: &str) -> Judged {
    let Expectation { measure, arch, series, task, length, over, .. } = expectation;
    let wanted = |record: &&TrialRecord| {
        let cell = &record.cell;
        arch.as_ref().is_none_or(|arch| *arch == cell.architecture)
            && series.as_ref().is_none_or(|series| *series == cell.series)
            && task.as_ref().is_none_or(|task| is_of(&cell.task, task))
            && length.is_none_or(|length| length == cell.length)
    };
    let wanted: Vec<&TrialRecord> = records.iter().filter(wanted).collect();
    let kinds: Vec<TrialKind> = wanted
        .iter()
        .filter(|record| record.gradient.iter().any(is_before_training))
        .map(|record| record.kind)
        .collect();
    let measured: Vec<f64> =
        wanted.iter().filter_map(|record| value(*measure, record, &kinds)).collect();
    let judged: Vec<f64> = match (over, measure) {
        (_, Measure::Solved) if measured.is_empty() => Vec::new(),
        // A share is one already. Seeds that went wrong may have solved it or not: both ends have to do.
        (_, Measure::Solved) => {
            let share = |lost: f64| {
                let solved = measured.iter().map(|v| if v.is_nan() { lost } else { *v });
                solved.sum::<f64>() / measured.len() as f64
            };
            vec![share(0.0), share(1.0)]
        }
        (OverSeeds::Median, _) => median(&measured).into_iter().collect(),
        (OverSeeds::Every, _) => measured.clone(),
    };
    // NaN keeps no limit.
    let at_most = |value: &f64| expectation.at_most.is_none_or(|limit| *value <= limit);
    let at_least = |value: &f64| expectation.at_least.is_none_or(|limit| *value >= limit);
    let elsewhere = expectation.on.as_ref().is_some_and(|on| on != machine);
    let exactly = |value: &f64| {
        elsewhere || expectation.exactly.is_none_or(|exact| value.to_bits() == exact.to_bits())
    };
    let limited = expectation.at_most.is_some() || expectation.at_least.is_some();
    // The median of no value, or of some NaN, is none: trials that were measured are missed.
    let finding = if measured.is_empty() {
        Finding::NoData
    } else if judged.is_empty() || !judged.iter().all(|v| at_most(v) && at_least(v) && exactly(v)) {
        Finding::Missed
    } else if elsewhere && !limited {
        Finding::OtherMachine
    } else {
        Finding::Met
    };
    let mut what = measure.name().to_owned();
    for part in [series.as_ref().or(arch.as_ref()), task.as_ref()].into_iter().flatten() {
        what.push_str(&format!(", {part}"));
    }
    if let Some(length) = length {
        what.push_str(&format!(", T={length}"));
    }
    let mut limits = Vec::new();
    for (words, limit) in [
        ("at most", expectation.at_most),
        ("at least", expectation.at_least),
        ("exactly", expectation.exactly),
    ] {
        limits.extend(limit.map(|limit| format!("{words} {limit}")));
    }
    let over = match over {
        OverSeeds::Median => "median",
        OverSeeds::Every => "every seed",
    };
    let expected = format!("{over} {}", limits.join(", "));
    Judged { what, expected, measured, finding }
}

/// A record's value; `None` when it does not measure that, NaN, which keeps no limit, when the trial failed or
/// diverged: an expectation must not be met by trials that are gone. `kinds` are those that measure the
/// gradient before training.
fn value(measure: Measure, record: &TrialRecord, kinds: &[TrialKind]) -> Option<f64> {
    let measures = match measure {
        Measure::Test | Measure::Solved | Measure::StepsToThreshold => {
            record.kind == TrialKind::Quality
        }
        Measure::HalfLife | Measure::Horizon => {
            record.kind == TrialKind::Gradient || kinds.contains(&record.kind)
        }
    };
    if measures && !matches!(record.status, Status::Finished {}) {
        return Some(f64::NAN);
    }
    let quality = record.quality.as_ref();
    match measure {
        Measure::Test => quality.map(|quality| quality.test),
        Measure::Solved => quality.map(|quality| f64::from(u8::from(quality.solved))),
        Measure::StepsToThreshold => quality
            .map(|quality| quality.steps_to_threshold.map_or(f64::INFINITY, |steps| steps as f64)),
        Measure::HalfLife | Measure::Horizon => gradient_reach(measure, record),
    }
}

fn is_before_training(point: &GradientPoint) -> bool {
    point.of == GradientOf::Input && point.step == 0
}

/// Half-life or horizon of dL/dx before training: 0 of a gradient that is 0, NaN where there is a gradient of
/// which neither can be told.
fn gradient_reach(measure: Measure, record: &TrialRecord) -> Option<f64> {
    let points: Vec<GradientPoint> =
        record.gradient.iter().filter(|p| is_before_training(p)).cloned().collect();
    let reach = reaches(&points).into_iter().next()?;
    let is_lost =
        |point: &GradientPoint| point.ln_mean_norm.is_nan() || point.ln_mean_norm == f64::INFINITY;
    if points.iter().any(is_lost) {
        return Some(f64::NAN);
    }
    // All norms are 0.
    if reach.reach.is_none() {
        return Some(0.0);
    }
    let first = &points[0];
    match measure {
        Measure::HalfLife => match reach.decay {
            Some(decay) => Some(decay.half_life().unwrap_or(f64::INFINITY)),
            // A sequence of three steps or fewer has no law.
            None if points.len() <= 3 => None,
            // All that is left of it is at fewer than three distances.
            None => Some(0.0),
        },
        // Without a norm at distance 0 there is nothing of which 1 % could be left.
        _ if first.distance != 0 || first.mean_log_norm.is_none_or(|ln| !ln.is_finite()) => {
            Some(f64::NAN)
        }
        _ => Some(reach.horizon_percent.unwrap_or(f64::INFINITY)),
    }
}

/// What the gate says as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was measured, and all that could be checked here holds.
    Passed,
    /// An expectation is missed.
    Missed,
    /// Something was not measured, or nothing could be checked here.
    Inconclusive,
}

/// The outcome of expectations; `missing` says that trials of the experiment were not run.
pub fn outcome(judged: &[Judged], missing: bool) -> Outcome {
    let any = |finding| judged.iter().any(|one| one.finding == finding);
    if any(Finding::Missed) {
        Outcome::Missed
    } else if missing || any(Finding::NoData) || !any(Finding::Met) {
        Outcome::Inconclusive
    } else {
        Outcome::Passed
    }
}

/// Whether there are expectations, all of them of bits that another kind of machine gave.
pub fn is_elsewhere(judged: &[Judged]) -> bool {
    !judged.is_empty() && judged.iter().all(|one| one.finding == Finding::OtherMachine)
}

/// A table for a terminal.
pub fn terminal(judged: &[Judged]) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(["what", "expected", "measured", "finding"]);
    for one in judged {
        table.add_row([
            one.what.clone(),
            one.expected.clone(),
            shown(&one.measured),
            one.finding.name().to_owned(),
        ]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// The same for a pull request; `notes` say why it is not a pass beyond the table.
pub fn markdown(name: &str, judged: &[Judged], outcome: Outcome, notes: &[String]) -> String {
    let count = |finding| judged.iter().filter(|one| one.finding == finding).count();
    let mark = match outcome {
        Outcome::Passed => "✅",
        Outcome::Missed => "❌",
        Outcome::Inconclusive => "❔",
    };
    let mut parts =
        vec![format!("{} of {} expectations missed", count(Finding::Missed), judged.len())];
    for (finding, words) in
        [(Finding::NoData, "without data"), (Finding::OtherMachine, "of another machine")]
    {
        if count(finding) > 0 {
            parts.push(format!("{} {words}", count(finding)));
        }
    }
    let mut text = format!("### {mark} {name}: {}\n\n", parts.join(", "));
    for note in notes {
        text.push_str(&format!("{note}\n\n"));
    }
    text.push_str("| what | expected | measured | finding |\n|---|---|---|---|\n");
    for one in judged {
        text.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            one.what,
            one.expected,
            shown(&one.measured),
            one.finding.name()
        ));
    }
    text
}

/// Values in the shortest form that gives the same bits; of many only the ends.
fn shown(values: &[f64]) -> String {
    match values {
        [] => "–".to_owned(),
        values if values.len() <= 5 => {
            values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
        }
        values => {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!("{} values from {low} to {high}", values.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expectation(toml: &str) -> Expectation {
        toml::from_str(toml).unwrap()
    }

    /// Records by way of the program's own planner would need a run: these are written down.
    fn record(arch: &str, seed: u64, test: f64, steps: Option<u64>) -> TrialRecord {
        let quality = serde_json::json!({
            "metric": "MSE", "better": "lower", "test": test, "validation": test, "test_loss": test,
            "solved": steps.is_some(), "solved_at": 0.01, "baselines": [], "at_chance": false,
            "steps": 100, "steps_to_threshold": steps,
        });
        let record = serde_json::json!({
            "schema": 3, "id": format!("{arch}{seed}"), "kind": "quality",
            "cell": {
                "experiment": "e", "architecture": arch, "family": "recurrent", "series": arch,
                "task": "adding", "length": 50, "seed": seed, "device": "cpu", "dtype": "f32",
                "form": "fused", "hidden_size": 4, "num_layers": 1, "batch_size": 2,
                "matched_by": "hidden_size", "axes": {},
            },
            "status": {"state": "finished"}, "cost": null, "quality": quality, "curve": [],
            "other_lengths": [], "gradient": [], "jacobians": [], "gates": [], "attention": [], "theory": [], "trace": null,
            "throughput": [],
            "timing": {"wall_s": 0.0, "train_s": 0.0, "seconds_to_threshold": null, "environment": ""},
        });
        serde_json::from_value(record).unwrap()
    }

    fn finding(toml: &str, records: &[TrialRecord]) -> Finding {
        judge(&[expectation(toml)], records, "avx2, this one")[0].finding
    }

    #[test]
    fn limits_are_held_over_seeds() {
        let records = [
            record("lstm", 0, 0.001, Some(40)),
            record("lstm", 1, 0.03, None),
            record("lstm", 2, 0.002, Some(60)),
        ];
        assert_eq!(finding("measure = 'test'\nat_most = 0.002", &records), Finding::Met);
        assert_eq!(
            finding("measure = 'test'\nat_most = 0.002\nover = 'every'", &records),
            Finding::Missed
        );
        assert_eq!(finding("measure = 'test'\nat_most = 0.0019", &records), Finding::Missed);
        assert_eq!(finding("measure = 'solved'\nat_least = 0.6", &records), Finding::Met);
        assert_eq!(finding("measure = 'solved'\nat_least = 0.7", &records), Finding::Missed);
        assert_eq!(finding("measure = 'steps_to_threshold'\nat_most = 60", &records), Finding::Met);
        assert_eq!(
            finding("measure = 'steps_to_threshold'\nat_most = 59", &records),
            Finding::Missed
        );
        assert_eq!(
            finding("measure = 'test'\narch = 'gru'\nat_most = 9", &records),
            Finding::NoData
        );
        assert_eq!(
            finding("measure = 'test'\nlength = 51\nat_most = 9", &records),
            Finding::NoData
        );
        assert_eq!(finding("measure = 'half_life'\nat_least = 2", &records), Finding::NoData);
    }

    #[test]
    fn a_task_is_found_on_each_of_its_data_sets() {
        let mut record = record("lstm", 0, 0.001, None);
        record.cell.task = "timeseries GunPoint".into();
        let of = |task: &str| {
            finding(&format!("measure = 'test'\ntask = '{task}'\nat_most = 9"), &[record.clone()])
        };
        assert_eq!((of("timeseries"), of("time")), (Finding::Met, Finding::NoData));
    }

    #[test]
    fn trials_that_went_wrong_meet_nothing() {
        let mut record = record("lstm", 0, 0.001, Some(40));
        record.status = Status::Diverged { step: 3 };
        // A threshold that was reached before counts no more than a metric.
        for toml in [
            "measure = 'test'\nat_most = 9",
            "measure = 'solved'\nat_least = 0.1",
            "measure = 'solved'\nat_most = 0.9",
            "measure = 'steps_to_threshold'\nat_most = 100",
            "measure = 'steps_to_threshold'\nat_least = 1",
        ] {
            assert_eq!(finding(toml, &[record.clone()]), Finding::Missed, "{toml}");
        }
        record.status = Status::Failed { message: "out of memory".into() };
        record.quality = None;
        for toml in [
            "measure = 'test'\nat_most = 9",
            "measure = 'solved'\nat_least = 0.1",
            "measure = 'steps_to_threshold'\nat_most = 100",
        ] {
            assert_eq!(finding(toml, &[record.clone()]), Finding::Missed, "{toml}");
        }
    }

    #[test]
    fn bits_are_compared_on_the_same_kind_of_machine_alone() {
        let records = [record("lstm", 0, 0.1 + 0.2, Some(40))];
        let exactly = |value: &str, on: &str| {
            finding(&format!("measure = 'test'\nexactly = {value}\non = '{on}'"), &records)
        };
        assert_eq!(exactly("0.30000000000000004", "avx2, this one"), Finding::Met);
        assert_eq!(exactly("0.3", "avx2, this one"), Finding::Missed);
        assert_eq!(exactly("0.3", "avx512, another"), Finding::OtherMachine);
    }

    /// Gradients before training with these logarithms of norms by distance.
    fn with_gradient(seed: u64, norms: &[f64]) -> TrialRecord {
        let mut record = record("rnn", seed, 0.1, None);
        (record.kind, record.quality) = (TrialKind::Gradient, None);
        let point = |(distance, &ln): (usize, &f64)| GradientPoint {
            of: GradientOf::Input,
            layer: 0,
            step: 0,
            distance,
            ln_mean_norm: ln,
            mean_log_norm: ln.is_finite().then_some(ln),
            ln_quantiles: [ln; 3],
        };
        record.gradient = norms.iter().enumerate().map(point).collect();
        record
    }

    const FAR: &str = "measure = 'horizon'\nat_least = 3";
    const SLOW: &str = "measure = 'half_life'\nat_least = 0.5";

    #[test]
    fn a_gradient_of_zero_reaches_nowhere() {
        let fine = with_gradient(0, &[0.0, -0.1, -0.2, -0.3, -0.4]);
        let dead = with_gradient(1, &[f64::NEG_INFINITY; 5]);
        // What is left of it at distance 0 is gone at distance 1.
        let gone =
            with_gradient(2, &[0.0, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY]);
        for toml in [FAR, SLOW] {
            assert_eq!(finding(toml, std::slice::from_ref(&fine)), Finding::Met, "{toml}");
            assert_eq!(finding(toml, std::slice::from_ref(&dead)), Finding::Missed, "{toml}");
            assert_eq!(finding(toml, std::slice::from_ref(&gone)), Finding::Missed, "{toml}");
            // Dead seeds count.
            let seeds = [fine.clone(), dead.clone(), dead.clone()];
            assert_eq!(finding(toml, &seeds), Finding::Missed, "{toml}");
        }
        let judged = judge(&[expectation(FAR)], &[dead], "");
        assert_eq!(judged[0].measured, [0.0]);
        let without_first = with_gradient(3, &[f64::NEG_INFINITY, 0.0, 0.0, 0.0, 0.0]);
        let lost = with_gradient(4, &[f64::NAN; 5]);
        for record in [without_first, lost] {
            for toml in [FAR, "measure = 'horizon'\nat_most = 9"] {
                assert_eq!(finding(toml, std::slice::from_ref(&record)), Finding::Missed, "{toml}");
            }
        }
    }

    #[test]
    fn failed_seeds_are_not_left_out_of_the_gradient() {
        let fine = with_gradient(0, &[0.0, -0.1, -0.2, -0.3, -0.4]);
        let mut failed = with_gradient(1, &[]);
        failed.status = Status::Failed { message: "out of memory".into() };
        let mut diverged = with_gradient(2, &[0.0, -0.1, -0.2, -0.3, -0.4]);
        diverged.kind = TrialKind::Quality;
        diverged.status = Status::Diverged { step: 1 };
        for toml in [FAR, SLOW] {
            for wrong in [&failed, &diverged] {
                let seeds = [fine.clone(), wrong.clone()];
                assert_eq!(finding(toml, &seeds), Finding::Missed, "{toml}");
            }
            // Training that measures no gradient says nothing of it.
            let mut quality = record("rnn", 3, 0.1, None);
            quality.status = Status::Diverged { step: 1 };
            assert_eq!(finding(toml, &[fine.clone(), quality]), Finding::Met, "{toml}");
        }
    }

    #[test]
    fn a_gate_passes_only_when_all_was_measured_and_something_checked() {
        let judged = |findings: &[Finding]| -> Vec<Judged> {
            let one = |&finding: &Finding| Judged {
                what: "test".into(),
                expected: "median at most 1".into(),
                measured: vec![0.5],
                finding,
            };
            findings.iter().map(one).collect()
        };
        for (findings, missing, expected, mark) in [
            (&[Finding::Met][..], false, Outcome::Passed, "✅"),
            (&[Finding::Met, Finding::OtherMachine], false, Outcome::Passed, "✅"),
            (&[Finding::Met], true, Outcome::Inconclusive, "❔"),
            (&[Finding::Met, Finding::NoData], false, Outcome::Inconclusive, "❔"),
            (&[Finding::OtherMachine], false, Outcome::Inconclusive, "❔"),
            (&[Finding::NoData, Finding::Missed], true, Outcome::Missed, "❌"),
        ] {
            let judged = judged(findings);
            assert_eq!(outcome(&judged, missing), expected, "{findings:?}");
            let text = markdown("gate", &judged, expected, &["A note.".into()]);
            assert!(text.starts_with(&format!("### {mark} gate: ")), "{text}");
            assert!(text.contains("\n\nA note.\n\n|"), "{text}");
        }
    }
}
