//! Timings: consistency of the numbers, and what must not be timed.

use std::collections::BTreeSet;

use candle_core::{DType, Tensor};
use serde_json::json;
use unroll_core::weights::export;
use unroll_core::{Architecture, BuildContext, Entry, Form};
use unroll_gru::GruConfig;
use unroll_probe::{
    Error, GradientLoss, JacobianOptions, LayerMode, LayerTiming, NoGauge, Phase, Stop, TimedModel,
    TimingOptions, bench_layer, f64_twin, gradient_decay_of_task, jacobian, jacobian_of_task,
    measure,
};
use unroll_tasks::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Split, TargetKind, Targets, Task,
};
use unroll_train::{TaskModel, TrainConfig};

static GRU: Entry<GruConfig> = Entry::new("gru", "for tests");

const FAST: TimingOptions =
    TimingOptions { warm_up_seconds: 0.0, min_seconds: 0.0, min_iterations: 3 };
const PHASES: [Phase; 4] = [Phase::Forward, Phase::Backward, Phase::TrainStep, Phase::Decode];

/// Says at each step which of 100 tokens it has just read.
struct Echo;

impl Task for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }
    fn input(&self) -> InputKind {
        InputKind::Tokens { vocabulary: 100 }
    }
    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: 100 }
    }
    fn readout(&self) -> Readout {
        Readout::EveryStep
    }
    fn seq_len(&self) -> usize {
        12
    }
    fn metric(&self) -> Metric {
        Metric::Accuracy
    }
    fn baselines(&self) -> Vec<Baseline> {
        Vec::new()
    }
    fn solved_at(&self) -> Option<f64> {
        None
    }
    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let mut rng = unroll_core::Stream::new(0, "echo").at(step).rng();
        let tokens: Vec<u32> = (0..batch_size * 12).map(|_| rng.below(100) as u32).collect();
        Batch {
            batch_size,
            seq_len: 12,
            inputs: Inputs::Tokens(tokens.clone()),
            targets: Targets::Classes(tokens),
            weights: None,
            lengths: None,
            continues: false,
        }
    }
    fn evaluation(&self, _: Split, batch_size: usize) -> Vec<Batch> {
        vec![self.train_batch(u64::MAX, batch_size)]
    }
}

fn options(bidirectional: bool) -> serde_json::Map<String, serde_json::Value> {
    let options = serde_json::json!({"hidden_size": 16, "bidirectional": bidirectional});
    options.as_object().unwrap().clone()
}

fn model(bidirectional: bool) -> TaskModel {
    let context = BuildContext::cpu(DType::F32, 2);
    TaskModel::build(&Echo, &GRU, &options(bidirectional), None, &context).unwrap()
}

#[test]
fn phases_are_timed_and_priced() {
    let model = model(false);
    let weights = export(model.parameters()).unwrap().to_bytes().unwrap();
    let train = TrainConfig { weight_decay: Some(0.1), ..TrainConfig::default() };
    let timings = measure(&model, &Echo, 4, &PHASES, &train, &FAST, &NoGauge, Stop::NEVER).unwrap();
    assert_eq!(timings.iter().map(|t| t.phase).collect::<Vec<_>>(), PHASES);
    let cost = model.cost(4, 12);
    let decode = model.body().unwrap().cost(4, 12).forward_flops;
    let flops = [cost.forward_flops, cost.backward_flops, cost.training_flops(), decode];
    for (timing, flops) in timings.iter().zip(flops) {
        assert_eq!((timing.flops, timing.timed.iterations), (flops, 3));
        let median = timing.timed.median_s;
        assert!(timing.timed.min_s > 0.0 && timing.timed.min_s <= median);
        assert!((timing.tokens_per_s * median - 48.0).abs() < 1e-9);
        assert!((timing.gflops_per_s * median * 1e9 / flops as f64 - 1.0).abs() < 1e-12);
    }
    assert!(
        export(model.parameters()).unwrap().to_bytes().unwrap() == weights,
        "weights were changed"
    );
}

#[test]
fn models_that_read_backwards_do_not_decode() {
    let timings = measure(
        &model(true),
        &Echo,
        2,
        &PHASES,
        &TrainConfig::default(),
        &FAST,
        &NoGauge,
        Stop::NEVER,
    )
    .unwrap();
    assert_eq!(timings.len(), 3);
}

fn spoil(parameters: &unroll_core::ParameterSet) {
    let first = &parameters.iter().last().unwrap().var;
    first.set(&Tensor::full(f32::NAN, first.shape(), first.device()).unwrap()).unwrap();
}

#[test]
fn wrong_results_are_not_timed() {
    let model = model(false);
    spoil(model.parameters());
    let result =
        measure(&model, &Echo, 2, &PHASES, &TrainConfig::default(), &FAST, &NoGauge, Stop::NEVER);
    assert!(matches!(result, Err(Error::Model(unroll_core::Error::NotFinite { .. }))));
    let body = GRU.build(&options(false), &BuildContext::cpu(DType::F32, 0)).unwrap();
    spoil(body.parameters());
    let result = bench_layer(
        TimedModel::sequence(body.as_ref(), (2, 3)),
        LayerMode::Infer,
        Form::Auto,
        0,
        &FAST,
        &NoGauge,
    );
    assert!(matches!(result, Err(Error::Model(unroll_core::Error::NotFinite { .. }))));
}

#[test]
fn layers_are_timed_in_both_modes() {
    let body = GRU.build(&options(false), &BuildContext::cpu(DType::F32, 0)).unwrap();
    for (mode, factor) in [(LayerMode::Infer, 1), (LayerMode::Train, 3)] {
        let timing: LayerTiming = bench_layer(
            TimedModel::sequence(body.as_ref(), (4, 10)),
            mode,
            Form::Auto,
            0,
            &FAST,
            &NoGauge,
        )
        .unwrap();
        // GRU, one input feature: 2 * 3 gates * rows * hidden * (input + hidden).
        assert_eq!(timing.flops, factor * 2 * 3 * 40 * 16 * 17);
        assert!((timing.tokens_per_s * timing.median_s - 40.0).abs() < 1e-9);
        assert_eq!(timing.iterations, 3);
        let json = serde_json::to_value(&timing).unwrap();
        let keys: BTreeSet<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = "median_s min_s iterations flops gflops_per_s tokens_per_s peak_bytes form";
        assert_eq!(keys, expected.split(' ').collect());
        assert_eq!(timing.form, "fused");
    }
}

/// FLOPs are those of both sequences, tokens those of one.
#[test]
fn models_of_two_sequences_are_timed() {
    let context = BuildContext::cpu(DType::F32, 0);
    let options = |json: serde_json::Value| json.as_object().unwrap().clone();
    let find = |all: &[&'static dyn Architecture], name: &str| {
        all.iter().copied().find(|one| one.name() == name).unwrap()
    };
    let pair = find(unroll_attention::PAIR_ARCHITECTURES, "encdec_additive")
        .build_pair(&options(json!({"input_size": 3, "hidden_size": 8})), &context)
        .unwrap();
    let fusion = find(unroll_attention::FUSION_ARCHITECTURES, "cross_attention_fusion")
        .build_fusion(
            &options(json!({"input_size": 3, "second_input_size": 2, "hidden_size": 8})),
            &context,
        )
        .unwrap();
    for (timed, cost) in [
        (TimedModel::pair(pair.as_ref(), (4, 10)), pair.cost(4, 10, 10)),
        (TimedModel::fusion(fusion.as_ref(), (4, 10)), fusion.cost(4, [10, 10])),
    ] {
        for (mode, flops) in
            [(LayerMode::Infer, cost.forward_flops), (LayerMode::Train, cost.training_flops())]
        {
            let timing = bench_layer(timed, mode, Form::Auto, 0, &FAST, &NoGauge).unwrap();
            assert_eq!(timing.flops, flops);
            assert!((timing.tokens_per_s * timing.median_s - 40.0).abs() < 1e-9);
        }
    }
}

/// The f64 copy of a whole model gives the same gradients, to f32's precision, from token inputs.
#[test]
fn task_models_are_probed_through_their_twin() {
    let model = model(false);
    let twin = f64_twin(&Echo, &GRU, &options(false), &model).unwrap();
    let batch = Echo.train_batch(3, 5);
    let loss = GradientLoss::HalfSquaredNorm;
    let single = gradient_decay_of_task(&model, &batch, loss, Form::Auto, Stop::NEVER).unwrap();
    let double = gradient_decay_of_task(&twin, &batch, loss, Form::Auto, Stop::NEVER).unwrap();
    assert_eq!(double.norms.len(), 2);
    for (a, b) in single.points().iter().zip(double.points()) {
        assert!((a.ln_mean_norm - b.ln_mean_norm).abs() < 1e-4, "{a:?} {b:?}");
    }

    let options = JacobianOptions { distances: vec![1, 12], ..JacobianOptions::default() };
    let found = jacobian_of_task(&twin, &batch, &options, Form::Auto, Stop::NEVER).unwrap();
    let features = twin.features(&twin.tensors(&batch).unwrap()).unwrap();
    let alone = jacobian(twin.body().unwrap(), &features, None, &options, Form::Auto).unwrap();
    assert_eq!(found, alone);
    assert_eq!((found.len(), found[0].points.len()), (features.dim(0).unwrap(), 2));
    let refused = jacobian_of_task(&model, &batch, &options, Form::Auto, Stop::NEVER);
    assert!(matches!(refused, Err(Error::Unsupported(_))), "{refused:?}");
}
