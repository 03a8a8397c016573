//! Records for tests.

use crate::record::*;

/// A quality trial whose numbers follow from its seed; the loss of seed 2 is not finite.
pub(crate) fn quality(series: &str, length: usize, seed: u64, test: f64) -> TrialRecord {
    let point = |step: u64| CurvePoint {
        step,
        tokens: step * 320,
        train_loss: 1.0 / (step + 1) as f64,
        validation: test + 1.0 / (step + 1) as f64,
        validation_loss: if seed == 2 { f64::NAN } else { test },
        learning_rate: 1e-3,
        gradient_norm: f64::INFINITY,
        seconds: step as f64 * 0.01,
    };
    TrialRecord {
        schema: SCHEMA,
        id: format!("{}-{length}-{seed}", series.replace([',', ' ', '='], "_")),
        kind: TrialKind::Quality,
        cell: Cell {
            experiment: "adding".into(),
            architecture: series.split(',').next().unwrap_or_default().into(),
            family: "recurrent".into(),
            series: series.into(),
            task: "adding".into(),
            length,
            seed,
            device: "cpu".into(),
            dtype: "f32".into(),
            precision: "fp32".into(),
            form: "fused".into(),
            hidden_size: 32,
            num_layers: 1,
            batch_size: 8,
            matched_by: "parameters".into(),
            axes: [("forget_bias".to_owned(), serde_json::json!(2.0))].into(),
        },
        status: Status::Finished {},
        cost: Some(ModelCost {
            parameters: 4609,
            forward_flops: 10,
            training_flops: 30,
            state_elements: 64,
        }),
        quality: Some(Quality {
            metric: "MSE".into(),
            better: Better::Lower,
            test,
            validation: test,
            test_loss: test,
            solved: test < 0.01,
            solved_at: Some(0.01),
            baselines: vec![
                BaselineValue { name: "answer 0.5".into(), value: 0.4, fitted: false },
                BaselineValue { name: "always answer 1".into(), value: 1.0 / 6.0, fitted: false },
            ],
            at_chance: test >= 1.0 / 6.0,
            steps: 20,
            steps_to_threshold: (test < 0.01).then_some(10 * (seed + 1)),
            others: vec![OtherMetric { name: "MAE".into(), value: test / 2.0 }],
        }),
        curve: [0, 10, 20].map(point).into(),
        other_lengths: vec![LengthEvaluation { length: 2 * length, value: 2.0 * test, loss: test }],
        gradient: Vec::new(),
        jacobians: Vec::new(),
        gates: Vec::new(),
        attention: Vec::new(),
        alignments: Vec::new(),
        theory: Vec::new(),
        trace: Some(Trace { every: 10, weights: vec!["0f".into(), "1e".into()], last: None }),
        throughput: Vec::new(),
        timing: Timing {
            wall_s: 3.0,
            train_s: 2.0,
            seconds_to_threshold: None,
            environment: "e0".into(),
            threads: Some(2),
        },
    }
}

/// The same trial after failing.
pub(crate) fn failed(mut record: TrialRecord) -> TrialRecord {
    record.status = Status::Failed { message: "out of memory, \"8 GB\"".into() };
    record.quality = None;
    record.cost = None;
    record.curve.clear();
    record.trace = None;
    record.other_lengths.clear();
    record
}

/// The same trial after diverging.
pub(crate) fn diverged(mut record: TrialRecord, step: u64) -> TrialRecord {
    record.status = Status::Diverged { step };
    if let Some(quality) = &mut record.quality {
        quality.test = f64::NAN;
        quality.solved = false;
        quality.at_chance = true;
        quality.steps_to_threshold = None;
    }
    record
}

/// A gradient and throughput trial.
pub(crate) fn measured(series: &str, length: usize, seed: u64, device: &str) -> TrialRecord {
    let mut record = quality(series, length, seed, 0.0);
    record.id = format!("m-{}-{device}", record.id).replace(':', "");
    record.kind = TrialKind::Throughput;
    record.cell.device = device.into();
    record.quality = None;
    record.curve.clear();
    record.trace = None;
    record.other_lengths.clear();
    record.gradient = (0..=length)
        .map(|distance| {
            let ln = -0.1 * (1 + seed) as f64 * distance as f64;
            GradientPoint {
                of: GradientOf::Hidden,
                layer: 0,
                step: 0,
                distance,
                ln_mean_norm: ln,
                mean_log_norm: (distance < length).then_some(ln),
                ln_quantiles: [ln; 3],
            }
        })
        .collect();
    let estimate = |value| Estimate { value, standard_error: 0.0 };
    let point = |distance: usize| JacobianPoint {
        distance,
        ln_largest: -0.1 * distance as f64,
        ln_largest_below: -0.1 * distance as f64,
        probability: 1.0,
        ln_largest_hidden: Some(-0.1 * distance as f64),
        ln_largest_cell: None,
        ln_smallest: Some(f64::NEG_INFINITY),
        log_det_rate: estimate(f64::NEG_INFINITY),
    };
    record.jacobians = vec![StateJacobian {
        step: 0,
        example: 0,
        probes: None,
        state_size: 3,
        steps: length,
        lyapunov: [-0.1, -0.4, f64::NEG_INFINITY].map(estimate).into(),
        points: [1, length].map(point).into(),
    }];
    record.gates = vec![GateStatistics {
        step: 0,
        layer: 0,
        direction: "forward".into(),
        gate: "update".into(),
        mean: 0.5,
        standard_deviation: 0.1,
        quantiles: [0.4, 0.5, 0.6],
        closed: Some(0.0),
        open: Some(0.0),
        saturated: None,
        memory: Some(MemoryTimes { forget: [1.8, 2.0, f64::INFINITY], decay: [1.2, 1.4, 1.6] }),
    }];
    record.attention = vec![AttentionHead {
        step: 0,
        layer: 0,
        head: 0,
        entropy: Some(1.0),
        normalised_entropy: Some(0.9),
        mean_distance: Some(2.0),
        uniform_distance: Some(3.0),
        by_distance: vec![DistanceWeight { first: 0, last: 0, weight: 0.25, path_length: Some(0) }],
        by_visible: vec![
            VisibleEntropy { first: 2, last: 3, entropy: 0.6, normalised_entropy: 0.8 },
            VisibleEntropy { first: 4, last: 7, entropy: 1.4, normalised_entropy: 0.9 },
        ],
    }];
    record.throughput = vec![Throughput {
        phase: Phase::Forward,
        median_s: 0.5 + seed as f64,
        min_s: 0.4 + seed as f64,
        quantiles_s: [0.45 + seed as f64, 0.9 + seed as f64],
        iterations: 10,
        tokens_per_s: 1e5 / (1 + seed) as f64,
        gflops_per_s: 3.0,
        peak_bytes: Some(1000 * (1 + seed)),
    }];
    record
}

/// Two series at two lengths with three seeds, one trial diverged and one failed.
pub(crate) fn sweep() -> Vec<TrialRecord> {
    let mut records = Vec::new();
    for length in [50, 200] {
        for (series, scale) in [("rnn", 1.0), ("lstm", 0.01), ("lstm, forget_bias=2", 0.02)] {
            for seed in 0..3 {
                let test = scale * 0.1 * (seed + 1) as f64 * (length as f64 / 50.0);
                records.push(quality(series, length, seed, test));
            }
        }
    }
    records[1] = diverged(records[1].clone(), 7);
    records[2] = failed(records[2].clone());
    records
}

/// An environment.
pub(crate) fn environment() -> crate::Environment {
    crate::Environment {
        schema: crate::environment::SCHEMA,
        unroll: "0.1.0".into(),
        commit: Some("0123456789abcdef".into()),
        dirty: false,
        sources: "5".into(),
        lock: "6".into(),
        rustc: "rustc 1.95.0".into(),
        target: "x86_64-linux".into(),
        target_features: "sse2".into(),
        instruction_set: "avx512".into(),
        cpu: Some("A processor".into()),
        cores: 2,
        threads: 1,
        cuda: false,
        gpus: Vec::new(),
        driver: None,
    }
}
