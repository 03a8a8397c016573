//! The training loop: learning, stopping, diverging, interrupting, continuing.

mod common;

use std::ops::ControlFlow;

use candle_core::DType;
use common::SmallTask;
use unroll_core::weights::export;
use unroll_core::{BuildContext, ModelConfig};
use unroll_gru::GruConfig;
use unroll_tasks::Split;
use unroll_train::{
    Checkpoint, CurvePoint, Ending, Error, OptimizerKind, Progress, ScheduleKind, TaskModel,
    TrainConfig, Trainer, evaluate, train,
};

fn config() -> TrainConfig {
    TrainConfig {
        steps: 30,
        eval_every: 8,
        batch_size: 16,
        eval_batch_size: 13,
        learning_rate: 1e-2,
        clip_norm: Some(1.0),
        schedule: ScheduleKind::Cosine,
        warmup_steps: 5,
        ..TrainConfig::default()
    }
}

/// A GRU of two layers with dropout between them.
fn gru(task: &SmallTask, input_size: usize, dtype: DType) -> TaskModel {
    let context = BuildContext::cpu(dtype, 5);
    let config = GruConfig {
        input_size,
        hidden_size: 12,
        num_layers: 2,
        dropout: 0.2,
        ..GruConfig::default()
    };
    TaskModel::new(task, config.build(&context).unwrap(), &context).unwrap()
}

fn go_on(_: &Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn bits(model: &TaskModel) -> Vec<u8> {
    export(model.parameters()).unwrap().to_bytes().unwrap()
}

/// The curve without clock times.
fn timeless(curve: &[CurvePoint]) -> Vec<CurvePoint> {
    curve.iter().map(|point| CurvePoint { seconds: 0.0, ..point.clone() }).collect()
}

#[test]
fn every_optimizer_lowers_the_loss() {
    for (optimizer, learning_rate, momentum) in [
        (OptimizerKind::Sgd, 0.1, 0.9),
        (OptimizerKind::RmsProp, 5e-3, 0.0),
        (OptimizerKind::Adam, 1e-2, 0.0),
        (OptimizerKind::AdamW, 1e-2, 0.0),
    ] {
        let task = SmallTask::mean();
        let model = gru(&task, 2, DType::F32);
        let config = TrainConfig { optimizer, learning_rate, momentum, steps: 150, ..config() };
        let outcome = train(&model, &task, &config, &mut go_on).unwrap();
        assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 150));
        let (first, last) = (&outcome.curve[0], outcome.curve.last().unwrap());
        assert!(
            last.validation_loss < 0.2 * first.validation_loss,
            "{optimizer:?}: {} to {}",
            first.validation_loss,
            last.validation_loss
        );
    }
}

#[test]
fn classification_at_every_step_is_learned() {
    for vocabulary in [5, 70] {
        let task = SmallTask { solved_at: Some(0.99), ..SmallTask::previous(vocabulary) };
        let model = gru(&task, if vocabulary > 64 { 24 } else { vocabulary }, DType::F32);
        let config = TrainConfig {
            learning_rate: 2e-2,
            steps: if vocabulary > 64 { 1500 } else { 400 },
            batch_size: 64,
            eval_every: 25,
            stop_at_threshold: true,
            ..config()
        };
        let outcome = train(&model, &task, &config, &mut go_on).unwrap();
        let last = outcome.curve.last().unwrap();
        if vocabulary == 5 {
            assert_eq!(outcome.ending, Ending::ReachedThreshold, "{last:?}");
            assert_eq!(outcome.threshold.unwrap().step, outcome.steps);
            assert!(last.validation >= 0.99);
        } else {
            // 12 hidden units hold little of 70 tokens; chance is 1/70.
            assert!(last.validation > 0.3, "{last:?}");
        }
    }
}

#[test]
fn the_curve_holds_what_happened() {
    let task = SmallTask::mean();
    let model = gru(&task, 2, DType::F32);
    let before = evaluate(&model, &task, Split::Validation, 40).unwrap();
    let mut losses = Vec::new();
    let mut observer = |progress: &Progress<'_>| {
        losses.push(progress.loss);
        ControlFlow::Continue(())
    };
    let outcome = train(&model, &task, &config(), &mut observer).unwrap();
    let steps: Vec<u64> = outcome.curve.iter().map(|point| point.step).collect();
    assert_eq!(steps, [0, 8, 16, 24, 30]);
    let first = &outcome.curve[0];
    assert_eq!((first.train_loss, first.gradient_norm, first.tokens), (None, None, 0));
    assert!((first.validation_loss - before.loss).abs() < 1e-6);
    for (point, losses) in outcome.curve[1..].iter().zip([&losses[..8], &losses[8..16]]) {
        let mean = losses.iter().sum::<f64>() / 8.0;
        assert!((point.train_loss.unwrap() - mean).abs() < 1e-12);
        assert!(point.gradient_norm.unwrap() > 0.0);
    }
    // Examples have 1 to 6 steps in turn.
    let tokens: usize = (0..30 * 16).map(|example| 1 + example % 6).sum();
    assert_eq!(outcome.tokens, tokens as u64);
    let schedule = config().schedule();
    assert_eq!(outcome.curve[1].learning_rate, schedule.at(7));
    let last = evaluate(&model, &task, Split::Validation, 40).unwrap();
    assert!((outcome.curve[4].validation_loss - last.loss).abs() < 1e-6);
}

#[test]
fn a_run_is_a_function_of_its_seeds() {
    let task = SmallTask::mean();
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let model = gru(&task, 2, DType::F32);
            let outcome = train(&model, &task, &config(), &mut go_on).unwrap();
            (bits(&model), timeless(&outcome.curve))
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
}

/// Cut at any point, also between evaluations, through bytes, into a freshly built model.
#[test]
fn continuing_gives_the_same_bits() {
    let task = SmallTask::mean();
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::AdamW] {
        for dtype in [DType::F32, DType::F64] {
            let config = TrainConfig { optimizer, momentum: 0.9, ..config() };
            let whole = gru(&task, 2, dtype);
            let expected = train(&whole, &task, &config, &mut go_on).unwrap();
            for cut in [0, 1, 8, 19, 29, 30] {
                let first = gru(&task, 2, dtype);
                let mut trainer = Trainer::new(&first, &task, &config).unwrap();
                let outcome = trainer.run_to(cut, &mut go_on).unwrap();
                let ending = if cut == 30 { Ending::Finished } else { Ending::Interrupted };
                assert_eq!((outcome.ending, outcome.steps), (ending, cut));
                let checkpoint = trainer.checkpoint().unwrap();
                let bytes = checkpoint.to_bytes().unwrap();
                // Going on with the first run must not reach into its checkpoint.
                trainer.run(&mut go_on).unwrap();
                assert_eq!(checkpoint.to_bytes().unwrap(), bytes);

                let second = gru(&task, 2, dtype);
                let mut trainer = Trainer::new(&second, &task, &config).unwrap();
                trainer.restore(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
                assert_eq!(trainer.step(), cut);
                let outcome = trainer.run(&mut go_on).unwrap();
                assert_eq!(timeless(&outcome.curve), timeless(&expected.curve));
                assert_eq!(outcome.tokens, expected.tokens);
                assert!(bits(&second) == bits(&whole), "cut at {cut}");
                assert!(bits(&first) == bits(&whole), "cut at {cut}, same trainer");
            }
        }
    }
}

#[test]
fn observers_can_interrupt() {
    let task = SmallTask::mean();
    let model = gru(&task, 2, DType::F32);
    let mut stop_at_11 = |progress: &Progress<'_>| {
        if progress.step == 11 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut trainer = Trainer::new(&model, &task, &config()).unwrap();
    let outcome = trainer.run(&mut stop_at_11).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Interrupted, 11));
    let outcome = trainer.run(&mut go_on).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Finished, 30));
}

/// Targets of 1e25 have squared errors beyond f32.
#[test]
fn divergence_is_an_ending() {
    let task = SmallTask { scale: 1e25, ..SmallTask::mean() };
    let model = gru(&task, 2, DType::F32);
    let start = bits(&model);
    let outcome = train(&model, &task, &config(), &mut go_on).unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Diverged { step: 0 }, 0));
    assert_eq!(outcome.curve.len(), 1);
    assert!(bits(&model) == start);
}

/// A learning rate that blows the weights up: the run ends at the first loss that is not finite.
#[test]
fn divergence_during_training_is_recorded_with_its_step() {
    let task = SmallTask::mean();
    let model = gru(&task, 2, DType::F32);
    let config = TrainConfig {
        optimizer: OptimizerKind::Sgd,
        learning_rate: 1e12,
        min_learning_rate: 0.0,
        clip_norm: None,
        schedule: ScheduleKind::Constant,
        warmup_steps: 0,
        steps: 100,
        ..config()
    };
    let mut losses = Vec::new();
    let mut observer = |progress: &Progress<'_>| {
        losses.push(progress.loss);
        ControlFlow::Continue(())
    };
    let outcome = train(&model, &task, &config, &mut observer).unwrap();
    let Ending::Diverged { step } = outcome.ending else { panic!("{:?}", outcome.ending) };
    assert_eq!(step, outcome.steps);
    assert!((1..100).contains(&step));
    assert_eq!(losses.len() as u64, step);
    assert!(losses.iter().all(|loss| loss.is_finite()));
}

#[test]
fn thresholds_are_noted_even_when_training_goes_on() {
    let task = SmallTask { solved_at: Some(1e9), ..SmallTask::mean() };
    let model = gru(&task, 2, DType::F32);
    let outcome = train(&model, &task, &config(), &mut go_on).unwrap();
    assert_eq!((outcome.ending, outcome.threshold.unwrap().step), (Ending::Finished, 0));

    let strict = TrainConfig { threshold: Some(-1.0), stop_at_threshold: true, ..config() };
    let outcome = train(&gru(&task, 2, DType::F32), &task, &strict, &mut go_on).unwrap();
    assert_eq!((outcome.ending, outcome.threshold), (Ending::Finished, None));
}

#[test]
fn foreign_and_damaged_checkpoints_are_refused() {
    let task = SmallTask::mean();
    let model = gru(&task, 2, DType::F32);
    let trainer = Trainer::new(&model, &task, &config()).unwrap();
    let checkpoint = trainer.checkpoint().unwrap();
    let bytes = checkpoint.to_bytes().unwrap();
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..20], b"", &b"not a checkpoint at all"[..]] {
        assert!(matches!(Checkpoint::from_bytes(damaged), Err(Error::Checkpoint(_))));
    }
    let weights = export(model.parameters()).unwrap().to_bytes().unwrap();
    assert!(matches!(Checkpoint::from_bytes(&weights), Err(Error::Checkpoint(_))));

    let other = TrainConfig { learning_rate: 0.5, ..config() };
    let mut trainer = Trainer::new(&model, &task, &other).unwrap();
    assert!(matches!(trainer.restore(&checkpoint), Err(Error::Checkpoint(_))));
    let longer = SmallTask { seq_len: 7, ..SmallTask::mean() };
    let mut trainer = Trainer::new(&model, &longer, &config()).unwrap();
    let error = trainer.restore(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("sequence length 6"), "{error}");
}

#[test]
fn wrong_settings_are_refused_before_training() {
    let task = SmallTask::mean();
    let model = gru(&task, 2, DType::F32);
    let config = TrainConfig { batch_size: 0, ..config() };
    let error = train(&model, &task, &config, &mut go_on).unwrap_err();
    assert_eq!(error.to_string(), "`batch_size` must be at least 1");
}
