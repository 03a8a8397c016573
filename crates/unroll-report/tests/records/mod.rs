//! Made-up trial records that look like real ones, for tests and the gallery.

#![allow(dead_code, reason = "each user needs a part")]

use unroll_results::record::*;

/// Uniform in 0..1 from three numbers: the same everywhere.
fn uniform(a: u64, b: u64, c: u64) -> f64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.rotate_left(21) ^ c.rotate_left(42);
    for _ in 0..3 {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
    }
    (z >> 11) as f64 / (1u64 << 53) as f64
}

pub(crate) const ARCHITECTURES: [&str; 5] = ["rnn", "gru", "lstm", "mha", "transformer"];

/// A finished trial without results.
pub(crate) fn blank(
    kind: TrialKind,
    series: &str,
    task: &str,
    length: usize,
    seed: u64,
) -> TrialRecord {
    let architecture = series.split(',').next().unwrap_or_default();
    TrialRecord {
        schema: SCHEMA,
        id: format!("{}-{series}-{task}-{length}-{seed}", kind.name())
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
        kind,
        cell: Cell {
            experiment: "long-lags".into(),
            architecture: architecture.into(),
            family: "recurrent".into(),
            series: series.into(),
            task: task.into(),
            length,
            seed,
            device: "cpu".into(),
            dtype: "f32".into(),
            precision: "fp32".into(),
            form: "fused".into(),
            hidden_size: if architecture == "rnn" { 67 } else { 36 },
            num_layers: 1,
            batch_size: 32,
            matched_by: "parameters".into(),
            axes: Default::default(),
        },
        status: Status::Finished {},
        cost: Some(ModelCost {
            parameters: 4600 + 37 * architecture.len() as u64,
            forward_flops: 9000 * length as u64,
            training_flops: 27_000 * length as u64,
            state_elements: 64,
        }),
        quality: None,
        curve: Vec::new(),
        other_lengths: Vec::new(),
        gradient: Vec::new(),
        jacobians: Vec::new(),
        gates: Vec::new(),
        attention: Vec::new(),
        alignments: Vec::new(),
        theory: Vec::new(),
        trace: None,
        throughput: Vec::new(),
        timing: Timing {
            wall_s: 12.0,
            train_s: 10.0,
            seconds_to_threshold: None,
            environment: String::new(),
            threads: None,
        },
    }
}

fn strength(series: &str) -> u64 {
    let place = ARCHITECTURES.iter().position(|name| series.starts_with(name));
    place.unwrap_or(2) as u64
}

/// The adding problem (MSE): the vanilla network stays at chance, the others learn.
pub(crate) fn adding(series: &str, length: usize, seed: u64) -> TrialRecord {
    let mut record = blank(TrialKind::Quality, series, "adding", length, seed);
    let k = strength(series);
    let baseline = 1.0 / 6.0;
    let noise = |step: u64| uniform(k + 10, seed * 7 + length as u64, step) - 0.5;
    let onset =
        150.0 * (length as f64 / 50.0).sqrt() * (4.0 - k as f64 * 0.6) * (1.0 + 0.6 * noise(1));
    let value = |step: u64| {
        let step = step as f64;
        if k == 0 {
            return baseline * (1.02 + 0.03 * noise(step as u64));
        }
        let learned = baseline / (1.0 + (step / onset).powi(5));
        learned * (1.0 + 0.5 * noise(step as u64)) + 2e-4
    };
    record.curve = (0..=40)
        .map(|i| {
            let step = 50 * i;
            CurvePoint {
                step,
                tokens: step * 32 * length as u64,
                train_loss: value(step),
                validation: value(step),
                validation_loss: value(step),
                learning_rate: 1e-3,
                gradient_norm: 0.4,
                seconds: 0.01 * step as f64,
            }
        })
        .collect();
    let last = value(2000);
    let solved = last < 0.01;
    record.quality = Some(Quality {
        metric: "MSE".into(),
        better: Better::Lower,
        test: last,
        validation: last,
        test_loss: last,
        solved,
        solved_at: Some(0.01),
        baselines: vec![BaselineValue {
            name: "always answer 1".into(),
            value: baseline,
            fitted: false,
        }],
        at_chance: last >= 0.99 * baseline,
        steps: 2000,
        steps_to_threshold: solved.then_some((2.0 * onset) as u64),
        others: Vec::new(),
    });
    record
}

/// Parity (accuracy), trained at length 40 and evaluated beyond.
pub(crate) fn parity(series: &str, seed: u64) -> TrialRecord {
    let mut record = blank(TrialKind::Quality, series, "parity", 40, seed);
    let k = strength(series);
    let good = k == 0 || k == 2;
    let noise = |x: u64| uniform(k, seed, x) - 0.5;
    let at = |length: usize| {
        let top = if good { 1.0 } else { 0.62 };
        let shrink = (-(length as f64 - 40.0) / if good { 3000.0 } else { 60.0 }).exp();
        (0.5 + (top - 0.5) * shrink + 0.02 * noise(length as u64)).clamp(0.0, 1.0)
    };
    record.quality = Some(Quality {
        metric: "accuracy".into(),
        better: Better::Higher,
        test: at(40),
        validation: at(40),
        test_loss: 0.1,
        solved: good,
        solved_at: Some(0.95),
        baselines: vec![BaselineValue {
            name: "more frequent class".into(),
            value: 0.5,
            fitted: false,
        }],
        at_chance: at(40) < 0.51,
        steps: 1000,
        steps_to_threshold: good.then_some(400 + (100.0 * noise(3)) as u64),
        others: vec![OtherMetric { name: "macro F1".into(), value: at(40) - 0.01 }],
    });
    if k == 2 {
        let symbols = |text: &str| text.chars().map(String::from).collect::<Vec<String>>();
        let (source, mut answer) = (symbols("phone"), symbols("FON"));
        answer.push(String::new());
        let weight = |row: usize, column: usize| {
            let near = -(2.0 * row as f64 - column as f64).powi(2);
            near.exp() / (0..5).map(|c| (-(2.0 * row as f64 - c as f64).powi(2)).exp()).sum::<f64>()
        };
        let weights = (0..4).map(|row| (0..5).map(|column| weight(row, column)).collect());
        record.alignments = vec![Alignment { source, answer, weights: weights.collect() }];
    }
    record.other_lengths = [60, 100, 200, 500]
        .map(|length| LengthEvaluation { length, value: at(length), loss: 1.0 - at(length) })
        .into();
    record
}

/// Gradient norms at initialisation and after training.
pub(crate) fn gradient(series: &str, length: usize, seed: u64) -> TrialRecord {
    let mut record = blank(TrialKind::Gradient, series, "adding", length, seed);
    let k = strength(series);
    let rates = [-0.62, -0.24, -0.30, 0.0, 0.0];
    let parts = [GradientOf::Hidden, GradientOf::Cell, GradientOf::Input];
    for of in parts {
        let recurrent = k < 3;
        let has = match of {
            GradientOf::Hidden => recurrent,
            GradientOf::Cell => k == 2,
            GradientOf::Input => true,
        };
        for step in [0, 2000].into_iter().filter(|_| has) {
            for distance in 0..length {
                let d = distance as f64;
                let speed = if step == 0 { 1.0 } else { 0.12 };
                let rate = rates[k as usize] * speed * (1.0 + 0.2 * (uniform(k, seed, step) - 0.5));
                let wave = 0.3 * (d * 0.21 + seed as f64).sin();
                let ln = if recurrent {
                    rate * d + wave - 1.0
                } else {
                    -(length as f64).ln() - 0.2 * k as f64 + wave
                };
                // What f32 does: below its smallest number there is only 0.
                let lost = ln < f64::from(f32::from_bits(1)).ln();
                let ln = if lost { f64::NEG_INFINITY } else { ln };
                record.gradient.push(GradientPoint {
                    of,
                    layer: 0,
                    step,
                    distance,
                    ln_mean_norm: ln,
                    mean_log_norm: (!lost).then_some(ln),
                    ln_quantiles: [ln - 0.7, ln, ln + 0.7],
                });
            }
        }
    }
    record
}

/// A quality trial of a model whose input gradient falls by a rate before training, and which solves
/// lengths up to one.
pub(crate) fn measured(
    series: &str,
    length: usize,
    seed: u64,
    rate: f64,
    solves: usize,
) -> TrialRecord {
    let mut record = adding(series, length, seed);
    if let Some(quality) = &mut record.quality {
        quality.solved = length <= solves;
    }
    let rate = rate * (1.0 + 0.3 * (uniform(3, seed, 5) - 0.5));
    record.gradient = (0..length).map(|distance| input_point(distance, rate)).collect();
    record
}

fn input_point(distance: usize, rate: f64) -> GradientPoint {
    let ln = rate * distance as f64;
    GradientPoint {
        of: GradientOf::Input,
        layer: 0,
        step: 0,
        distance,
        ln_mean_norm: ln,
        mean_log_norm: Some(ln),
        ln_quantiles: [ln; 3],
    }
}

/// Models of which some reach as far as was measured, at few lengths.
pub(crate) fn horizons() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for (series, rate, solves) in [
        ("rnn", -0.6, 0),
        ("gru", -0.17, 10),
        ("lstm", -0.14, 30),
        ("mha", -0.01, 30),
        ("transformer", 0.0, 10),
    ] {
        for length in [10, 30] {
            records.extend((0..5).map(|seed| measured(series, length, seed, rate, solves)));
        }
    }
    records
}

/// A bidirectional recurrence, whose gradient f64 loses at 1e-308, and one that is 1 but for rounding.
pub(crate) fn ends() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for seed in [0, 1] {
        let mut both_ways = gradient("rnn, bidirectional=true", 60, seed);
        both_ways.gradient =
            (0..1500).map(|d| input_point(d, -0.58 - 0.01 * seed as f64)).collect();
        for point in &mut both_ways.gradient {
            if point.ln_mean_norm < f64::MIN_POSITIVE.ln() {
                point.ln_mean_norm = f64::NEG_INFINITY;
                point.mean_log_norm = None;
                point.ln_quantiles = [f64::NEG_INFINITY; 3];
            }
        }
        both_ways.theory = [0.45f64, 0.5, 0.6]
            .map(|rate| Theory {
                of: GradientOf::Input,
                ln_rate: rate.ln(),
                formula: format!("{rate}^k"),
                kind: TheoryKind::GateAtBias,
            })
            .into();
        let mut orthogonal = gradient("rnn, init=orthogonal", 60, seed);
        orthogonal.gradient =
            (0..60).map(|d| input_point(d, 1e-17 * (1.0 + seed as f64))).collect();
        records.extend([both_ways, orthogonal]);
    }
    records.iter_mut().for_each(|record| record.cell.dtype = "f64".into());
    records
}

/// Times of all phases.
pub(crate) fn throughput(series: &str, length: usize, seed: u64) -> TrialRecord {
    let mut record = blank(TrialKind::Throughput, series, "adding", length, seed);
    let k = strength(series);
    let quadratic = if k >= 3 { 1.0 + length as f64 / 400.0 } else { 1.0 };
    let phases = [
        (Phase::Forward, 1.0),
        (Phase::Backward, 2.1),
        (Phase::TrainStep, 3.4),
        (Phase::Decode, 9.0),
    ];
    for (phase, cost) in phases {
        let noise = 1.0 + 0.15 * (uniform(k, seed, length as u64) - 0.5);
        let tokens = 32.0 * length as f64;
        let seconds = tokens * cost * quadratic * noise * (1.0 + 0.5 * k as f64) / 2.0e6 + 2e-4;
        record.throughput.push(Throughput {
            phase,
            median_s: seconds,
            min_s: 0.95 * seconds,
            quantiles_s: [0.97 * seconds, 1.2 * seconds],
            iterations: 50,
            tokens_per_s: tokens / seconds,
            gflops_per_s: 20.0 / cost,
            peak_bytes: Some((tokens * 400.0 * cost * quadratic) as u64 + 10_000),
        });
    }
    record
}

/// Everything at once: five architectures, four lengths, three seeds; one trial diverged, one failed.
pub(crate) fn full() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for length in [50, 100, 200, 400] {
        for series in ARCHITECTURES {
            for seed in 0..3 {
                records.push(adding(series, length, seed));
            }
        }
    }
    let last = records.len();
    diverge(&mut records[last - 15], 130);
    diverge(&mut records[last - 14], 170);
    fail(&mut records[last - 1]);
    for series in ARCHITECTURES {
        for seed in 0..3 {
            records.push(parity(series, seed));
            records.push(gradient(series, 200, seed));
            for length in [32, 64, 128, 256, 512, 1024, 2048] {
                records.push(throughput(series, length, seed));
            }
        }
    }
    records
}

/// Makes a trial one that diverged.
pub(crate) fn diverge(record: &mut TrialRecord, step: u64) {
    record.status = Status::Diverged { step };
    record.curve.retain(|point| point.step <= step);
    if let Some(point) = record.curve.last_mut() {
        point.validation = f64::NAN;
    }
    if let Some(quality) = &mut record.quality {
        quality.test = f64::NAN;
        quality.solved = false;
        quality.steps_to_threshold = None;
    }
}

/// Makes a trial one that failed.
pub(crate) fn fail(record: &mut TrialRecord) {
    record.status =
        Status::Failed { message: "out of memory: 12.5 GB asked for | 8 GB free".into() };
    record.quality = None;
    record.curve.clear();
    record.gradient.clear();
    record.throughput.clear();
    record.other_lengths.clear();
}

/// Records that are hard to draw, by name.
pub(crate) fn edge_cases() -> Vec<(&'static str, Vec<TrialRecord>)> {
    let mut cases = vec![("empty", Vec::new())];

    cases.push(("one-seed", ARCHITECTURES.map(|series| adding(series, 100, 0)).into()));
    let several = [50, 100, 200].map(|length| adding("gru", length, 0));
    cases.push(("one-seed-lengths", several.into()));

    let mut all_diverged = Vec::from([0, 1, 2].map(|seed| adding("rnn", 100, seed)));
    all_diverged.iter_mut().for_each(|record| diverge(record, 0));
    cases.push(("all-diverged", all_diverged));

    let mut all_failed = Vec::from([0, 1].map(|seed| adding("rnn", 100, seed)));
    all_failed.iter_mut().for_each(fail);
    cases.push(("all-failed", all_failed));

    let mut zeros = Vec::from([0, 1].map(|seed| gradient("rnn", 60, seed)));
    for point in zeros.iter_mut().flat_map(|record| &mut record.gradient) {
        (point.ln_mean_norm, point.mean_log_norm) = (f64::NEG_INFINITY, None);
    }
    cases.push(("zero-gradients", zeros));

    cases.push(("horizons", horizons()));
    cases.push(("ends", ends()));

    let mut deep = Vec::from([0, 1].map(|seed| gradient("lstm", 300, seed)));
    for point in deep.iter_mut().flat_map(|record| &mut record.gradient) {
        point.mean_log_norm = Some(-5.0 * point.distance as f64);
    }
    deep.iter_mut().for_each(|record| record.cell.dtype = "f64".into());
    cases.push(("below-f64", deep));

    let mut equal = Vec::new();
    for (series, seed) in [("gru", 0), ("gru", 1), ("lstm", 0), ("lstm", 1)] {
        for length in [50, 100] {
            let mut record = adding(series, length, seed);
            record.curve.iter_mut().for_each(|point| point.validation = 0.25);
            if let Some(quality) = &mut record.quality {
                quality.test = 0.25;
                quality.baselines.clear();
                quality.solved_at = None;
            }
            equal.push(record);
        }
    }
    cases.push(("equal-values", equal));

    let names = [
        "lstm",
        "lstm, forget_bias=1",
        "lstm, forget_bias=2",
        "lstm, forget_bias=5",
        "hyena",
        "a series with a very long name indeed, option_one=something, option_two=other",
    ];
    let mut variants = Vec::new();
    for series in names {
        for length in [64, 128, 1024] {
            variants.extend([0, 1, 2].map(|seed| {
                let mut record = adding(series, length, seed);
                if let Some(quality) = &mut record.quality {
                    let shift = (variants.len() % 7) as f64;
                    quality.test = 0.2 + 0.01 * shift;
                    // A baseline that depends on the length.
                    quality.baselines[0].value = 0.17 + length as f64 * 5e-5;
                }
                record
            }));
        }
    }
    cases.push(("variants-one-length", {
        variants.iter().filter(|record| record.cell.length == 64).cloned().collect()
    }));
    cases.push(("variants", variants));

    let mut devices = Vec::new();
    for device in ["cpu", "cuda:0"] {
        for length in [128, 256] {
            let mut record = throughput("gru", length, 0);
            record.cell.device = device.into();
            record.id.push_str(&device.replace(':', ""));
            devices.push(record);
        }
    }
    cases.push(("devices", devices));

    let mut odd = throughput("gru", 128, 0);
    odd.throughput[0].tokens_per_s = f64::INFINITY;
    odd.throughput[1].peak_bytes = None;
    odd.throughput[2].tokens_per_s = 0.0;
    cases.push(("odd-times", vec![odd]));
    cases
}
