//! States that are carried from batch to batch.

use std::ops::ControlFlow;

use candle_core::DType;
use unroll_core::weights::export;
use unroll_core::{BuildContext, ModelConfig, Stream};
use unroll_gru::GruConfig;
use unroll_tasks::{
    Baseline, Batch, InputKind, Inputs, Metric, Readout, Split, TargetKind, Targets, Task,
};
use unroll_train::{Checkpoint, TaskModel, TrainConfig, Trainer, evaluate, train};

const VOCABULARY: usize = 6;
/// Steps of a row, from an empty state to its end.
const ROW: usize = 20;
const ROWS: usize = 9;

/// What was the token before, in rows that are read window by window.
#[derive(Clone, Copy)]
struct Windows {
    length: usize,
    carries: bool,
}

impl Windows {
    fn window(self, stream: &Stream, rows: std::ops::Range<usize>, begin: usize) -> Batch {
        let length = self.length.min(ROW - begin);
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for row in rows.clone() {
            let mut rng = stream.at(row as u64).rng();
            let tokens: Vec<u32> = (0..=ROW).map(|_| rng.below(VOCABULARY) as u32).collect();
            targets.extend(&tokens[begin..begin + length]);
            inputs.extend(&tokens[begin + 1..=begin + length]);
        }
        Batch {
            batch_size: rows.len(),
            seq_len: length,
            inputs: Inputs::Tokens(inputs),
            targets: Targets::Classes(targets),
            weights: None,
            lengths: None,
            continues: begin > 0,
        }
    }
}

impl Task for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn input(&self) -> InputKind {
        InputKind::Tokens { vocabulary: VOCABULARY }
    }

    fn target(&self) -> TargetKind {
        TargetKind::Classes { classes: VOCABULARY }
    }

    fn readout(&self) -> Readout {
        Readout::EveryStep
    }

    fn seq_len(&self) -> usize {
        self.length
    }

    fn metric(&self) -> Metric {
        Metric::CrossEntropy
    }

    fn baselines(&self) -> Vec<Baseline> {
        Vec::new()
    }

    fn solved_at(&self) -> Option<f64> {
        None
    }

    fn train_batch(&self, step: u64, batch_size: usize) -> Batch {
        let windows = ROW.div_ceil(self.length);
        let (pass, window) = (step as usize / windows, step as usize % windows);
        let stream = Stream::new(1, format!("windows/train/{pass}"));
        self.window(&stream, 0..batch_size, window * self.length)
    }

    fn evaluation(&self, split: Split, batch_size: usize) -> Vec<Batch> {
        let stream = Stream::new(0, format!("windows/{}", split.name()));
        let groups = (0..ROWS).step_by(batch_size);
        let begins = |first: usize| {
            let stream = stream.clone();
            let rows = first..(first + batch_size).min(ROWS);
            let begins = (0..ROW).step_by(self.length);
            begins.map(move |begin| self.window(&stream, rows.clone(), begin))
        };
        groups.flat_map(begins).collect()
    }

    fn carries_state(&self) -> bool {
        self.carries
    }
}

fn gru(task: &Windows, bidirectional: bool) -> TaskModel {
    let context = BuildContext::cpu(DType::F64, 5);
    let config = GruConfig {
        input_size: VOCABULARY,
        hidden_size: 7,
        num_layers: 2,
        dropout: 0.2,
        bidirectional,
        ..GruConfig::default()
    };
    TaskModel::new(task, config.build(&context).unwrap(), &context).unwrap()
}

fn config() -> TrainConfig {
    TrainConfig {
        steps: 11,
        eval_every: 4,
        batch_size: 5,
        eval_batch_size: 4,
        ..TrainConfig::default()
    }
}

fn go_on(_: &unroll_train::Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Window by window is as good as all at once, however rows are cut and put into batches.
#[test]
fn windows_read_as_if_there_were_no_cuts() {
    let whole = Windows { length: ROW, carries: true };
    let model = gru(&whole, false);
    let expected = evaluate(&model, &whole, Split::Test, ROWS).unwrap().metric;
    for (length, batch_size) in [(5, 9), (7, 4), (1, 9), (19, 1)] {
        let cut = Windows { length, carries: true };
        let found = evaluate(&model, &cut, Split::Test, batch_size).unwrap().metric;
        assert!((found - expected).abs() < 1e-13, "windows of {length}: {found}, not {expected}");
        let fresh = Windows { length, carries: false };
        let fresh = evaluate(&model, &fresh, Split::Test, batch_size).unwrap().metric;
        assert!((fresh - expected).abs() > 1e-6, "an empty state at each of {length} steps");
    }
}

/// The first window of a pass starts from nothing, the next ones do not.
#[test]
fn training_carries_the_state_within_a_pass() {
    let trained = |carries: bool, steps: u64| {
        let task = Windows { length: 5, carries };
        let model = gru(&task, false);
        train(&model, &task, &TrainConfig { steps, ..config() }, &mut go_on).unwrap();
        export(model.parameters()).unwrap().to_bytes().unwrap()
    };
    assert!(trained(true, 1) == trained(false, 1), "the first window");
    assert!(trained(true, 2) != trained(false, 2), "the second window");
}

#[test]
fn checkpoints_carry_the_state() {
    let task = Windows { length: 5, carries: true };
    let whole = gru(&task, false);
    train(&whole, &task, &config(), &mut go_on).unwrap();
    let expected = export(whole.parameters()).unwrap().to_bytes().unwrap();
    for cut in 0..=11 {
        let first = gru(&task, false);
        let mut trainer = Trainer::new(&first, &task, &config()).unwrap();
        trainer.run_to(cut, &mut go_on).unwrap();
        let bytes = trainer.checkpoint().unwrap().to_bytes().unwrap();
        let second = gru(&task, false);
        let mut trainer = Trainer::new(&second, &task, &config()).unwrap();
        trainer.restore(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        trainer.run(&mut go_on).unwrap();
        assert!(
            export(second.parameters()).unwrap().to_bytes().unwrap() == expected,
            "cut at {cut}"
        );
    }
}

#[test]
fn models_that_look_ahead_carry_nothing() {
    let task = Windows { length: 5, carries: true };
    let error = train(&gru(&task, true), &task, &config(), &mut go_on).unwrap_err().to_string();
    assert!(error.contains("not bidirectional"), "{error}");
}
