//! `unroll gate`: whether the results of an experiment are what its file expects.

use serde::Serialize;
use unroll_results::TrialRecord;
use unroll_results::decay::{Reach, reaches};
use unroll_results::record::{GradientOf, Status, TrialKind};
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
fn is_of(cell: &str, task: &str) -> bool {
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
    let measured: Vec<f64> =
        records.iter().filter(wanted).filter_map(|record| value(*measure, record)).collect();
    let judged: Vec<f64> = match (over, measure) {
        // A share is one already.
        (_, Measure::Solved) => {
            let share = measured.iter().sum::<f64>() / measured.len() as f64;
            if measured.is_empty() { Vec::new() } else { vec![share] }
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

/// A record's value; `None` when it does not measure that. A trial that failed or diverged counts as the
/// worst: an expectation must not be met by trials that are gone.
fn value(measure: Measure, record: &TrialRecord) -> Option<f64> {
    let went_wrong = !matches!(record.status, Status::Finished {});
    let reach = || {
        let of_input = |reach: &Reach| reach.of == GradientOf::Input && reach.step == 0;
        reaches(&record.gradient).into_iter().find(of_input)
    };
    match measure {
        Measure::Test if went_wrong && record.kind == TrialKind::Quality => Some(f64::NAN),
        Measure::Test => record.quality.as_ref().map(|quality| quality.test),
        Measure::Solved => match &record.quality {
            Some(quality) => Some(f64::from(u8::from(quality.solved))),
            None => (record.kind == TrialKind::Quality).then_some(0.0),
        },
        Measure::StepsToThreshold => match &record.quality {
            Some(quality) => {
                Some(quality.steps_to_threshold.map_or(f64::INFINITY, |steps| steps as f64))
            }
            None => (record.kind == TrialKind::Quality).then_some(f64::INFINITY),
        },
        Measure::HalfLife => Some(reach()?.decay?.half_life().unwrap_or(f64::INFINITY)),
        Measure::Horizon => Some(reach()?.horizon_percent.unwrap_or(f64::INFINITY)),
    }
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

/// The same for a pull request.
pub fn markdown(name: &str, judged: &[Judged]) -> String {
    let missed = judged.iter().filter(|one| one.finding == Finding::Missed).count();
    let mark = if missed > 0 { "❌" } else { "✅" };
    let mut text = format!(
        "### {mark} {name}: {missed} of {} expectations missed\n\n\
         | what | expected | measured | finding |\n|---|---|---|---|\n",
        judged.len()
    );
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
        assert_eq!(finding("measure = 'test'\nat_most = 9", &[record.clone()]), Finding::Missed);
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
}
