//! Language models that write: the law of the cache, what is drawn, and `unroll sample`.

mod common;

use assert_cmd::Command;
use candle_core::DType;
use predicates::prelude::*;
use serde_json::{Value, json};
use unroll_core::{BuildContext, Mode, Stream};
use unroll_tasks::{Batch, Inputs, Split, Targets, Task, TaskRequest, find};
use unroll_train::{Sampling, TaskModel, sample};

fn text() -> Box<dyn Task> {
    let options = json!({"eval_stride": 1000}).as_object().cloned().unwrap();
    let request = TaskRequest { length: 16, seed: 1, options: &options };
    (find("text").unwrap().build)(&request).unwrap()
}

/// Logits after the last of `tokens`, read at once.
fn read_again(model: &TaskModel, tokens: &[u32]) -> Vec<f64> {
    let batch = Batch {
        batch_size: 1,
        seq_len: tokens.len(),
        inputs: Inputs::Tokens(tokens.to_vec()),
        targets: Targets::Classes(vec![0; tokens.len()]),
        weights: None,
        lengths: None,
        continues: false,
    };
    let answers = model.forward(&model.tensors(&batch).unwrap(), Mode::Eval).unwrap();
    answers.to_dtype(DType::F64).unwrap().to_vec2().unwrap().pop().unwrap()
}

fn likeliest(logits: &[f64]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// What is written from a cache is what reading all of it again says, for every causal architecture.
#[test]
fn writing_from_a_cache_is_reading_everything_again() {
    let task = text();
    let prompt = task.writing().unwrap().encode("Now it ").unwrap();
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, context: 64 };
    let mut tried = 0;
    for architecture in unroll::registry::architectures() {
        let context = BuildContext::cpu(DType::F64, 3);
        let options = json!({"hidden_size": 8}).as_object().cloned().unwrap();
        let model =
            TaskModel::build(task.as_ref(), architecture, &options, None, &context).unwrap();
        let stream = Stream::new(0, "sample");
        let mut told = Vec::new();
        let written = sample(&model, &prompt, 12, sampling, &stream, &mut |token| told.push(token));
        if !model.body().unwrap().is_causal() {
            assert!(written.is_err(), "{}", architecture.name());
            continue;
        }
        let written = written.unwrap();
        assert_eq!(written, told, "{}", architecture.name());
        let mut tokens = prompt.clone();
        for token in written {
            assert_eq!(token, likeliest(&read_again(&model, &tokens)), "{}", architecture.name());
            tokens.push(token);
        }
        tried += 1;
    }
    assert!(tried > 10, "{tried} architectures");
}

/// A full cache is begun anew with its last half; a state of fixed size goes on for ever.
#[test]
fn only_states_that_grow_have_a_context() {
    let task = text();
    let prompt = task.writing().unwrap().encode("And").unwrap();
    let write = |name: &str, context: usize| {
        let options = json!({"hidden_size": 8}).as_object().cloned().unwrap();
        let at = BuildContext::cpu(DType::F64, 3);
        let architecture = unroll::registry::find(name).unwrap();
        let model = TaskModel::build(task.as_ref(), architecture, &options, None, &at).unwrap();
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, context };
        let written =
            sample(&model, &prompt, 20, sampling, &Stream::new(0, "s"), &mut |_| ()).unwrap();
        (model, [&prompt[..], &written].concat())
    };
    assert_eq!(write("gru", 4).1, write("gru", 64).1);
    let (model, tokens) = write("transformer", 6);
    // 3 tokens are read; each token is a step more; with 6 seen, the last 3 are read anew.
    let mut begin = 0;
    for end in prompt.len()..tokens.len() {
        if end - begin > 6 {
            begin = end - 3;
        }
        assert_eq!(tokens[end], likeliest(&read_again(&model, &tokens[begin..end])), "{end}");
    }
}

/// Tokens come as often as the model says, and none outside the nucleus.
#[test]
fn draws_follow_the_probabilities() {
    let task = text();
    let context = BuildContext::cpu(DType::F64, 3);
    let options = json!({"hidden_size": 8}).as_object().cloned().unwrap();
    let gru = unroll::registry::find("gru").unwrap();
    let model = TaskModel::build(task.as_ref(), gru, &options, None, &context).unwrap();
    let prompt = task.writing().unwrap().encode("x").unwrap();
    let logits = read_again(&model, &prompt);
    for (temperature, top_p) in [(1.0, 1.0), (0.3, 0.9), (2.0, 0.5)] {
        let sampling = Sampling { temperature, top_p, context: 64 };
        let draws = 4000;
        let mut counts = vec![0u32; logits.len()];
        for number in 0..draws {
            let stream = Stream::new(7, format!("draws/{number}"));
            let drawn = sample(&model, &prompt, 1, sampling, &stream, &mut |_| ()).unwrap();
            counts[drawn[0] as usize] += 1;
        }
        let weights: Vec<f64> = logits.iter().map(|logit| (logit / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
        let mut sum = 0.0;
        let kept = 1 + order
            .iter()
            .position(|&token| {
                sum += weights[token] / total;
                sum >= top_p - 1e-12
            })
            .unwrap();
        let (inside, outside) = order.split_at(kept);
        assert!(outside.iter().all(|&token| counts[token] == 0), "top_p {top_p}");
        let mass: f64 = inside.iter().map(|&token| weights[token]).sum();
        // Pearson's chi-squared, whose mean is the degrees of freedom and variance twice as many.
        let statistic: f64 = inside
            .iter()
            .map(|&token| {
                let expected = draws as f64 * weights[token] / mass;
                (f64::from(counts[token]) - expected).powi(2) / expected
            })
            .sum();
        let freedom = (kept - 1) as f64;
        let bound = freedom + 5.0 * (2.0 * freedom).sqrt();
        assert!(statistic < bound, "{statistic} for {freedom} degrees of freedom");
    }
}

#[test]
fn wrong_settings_and_prompts_are_errors() {
    let task = text();
    let context = BuildContext::cpu(DType::F32, 3);
    let options = json!({"hidden_size": 8}).as_object().cloned().unwrap();
    let gru = unroll::registry::find("gru").unwrap();
    let model = TaskModel::build(task.as_ref(), gru, &options, None, &context).unwrap();
    let good = Sampling { temperature: 1.0, top_p: 1.0, context: 8 };
    let stream = Stream::new(0, "s");
    let refused = |sampling, prompt: &[u32], what: &str| {
        let error = sample(&model, prompt, 3, sampling, &stream, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(Sampling { temperature: -1.0, ..good }, &[1], "temperature");
    refused(Sampling { temperature: f64::NAN, ..good }, &[1], "temperature");
    refused(Sampling { top_p: 0.0, ..good }, &[1], "top_p");
    refused(Sampling { top_p: 1.5, ..good }, &[1], "top_p");
    refused(Sampling { context: 1, ..good }, &[1], "context");
    refused(good, &[], "at least one token");
    refused(good, &[1000], "token 1000");
    let options = serde_json::Map::new();
    let request = TaskRequest { length: 8, seed: 1, options: &options };
    let adding = (find("adding").unwrap().build)(&request).unwrap();
    let model = TaskModel::build(adding.as_ref(), gru, &options, None, &context).unwrap();
    let error = sample(&model, &[1], 3, good, &stream, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("does not write"), "{error}");
    assert!(adding.evaluation(Split::Test, 5)[0].batch_size > 0);
}

const EXPERIMENT: &str = r#"
name = "writers"
question = "Can it write?"
keep_weights = true

[axes]
task = ["text"]
length = [32]
arch = ["gru", "transformer"]
"task.text.tokens" = ["characters", "byte_pairs"]

[task.text]
vocabulary_size = 120
eval_stride = 500

[model]
hidden_size = 8
num_heads = 2

[train]
steps = 3
eval_every = 3
batch_size = 4
"#;

fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.env("NO_COLOR", "1");
    command
}

#[test]
fn a_run_that_keeps_its_weights_can_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("writers.toml");
    std::fs::write(&file, EXPERIMENT).unwrap();
    let run = |out: &str, sets: &[&str]| {
        let mut command = unroll();
        command
            .arg("run")
            .arg(&file)
            .arg("--out")
            .arg(folder.path().join(out))
            .args(["--threads", "1"]);
        sets.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        command.assert().success();
    };
    run("kept", &[]);
    let kept = folder.path().join("kept");
    let weights: Vec<_> = std::fs::read_dir(kept.join("weights")).unwrap().collect();
    assert_eq!(weights.len(), 4);
    unroll().arg("verify").arg(&kept).assert().success();

    let write = |more: &[&str]| {
        let mut command = unroll();
        command.arg("sample").arg(&kept).args(["--prompt", "In the ", "--length", "40", "--json"]);
        let found = command.args(more).assert().success().get_output().stdout.clone();
        serde_json::from_slice::<Value>(&found).unwrap()
    };
    let first = write(&["--seed", "1", "--count", "2"]);
    assert_eq!(first, write(&["--seed", "1", "--count", "2", "--threads", "1"]));
    assert_ne!(first["texts"][0], first["texts"][1]);
    assert_ne!(first["texts"][0], write(&["--seed", "2"])["texts"][0]);
    // Each trial can be asked for, byte pairs too, beyond the length that it was trained at.
    for entry in weights {
        let path = entry.unwrap().path();
        let id = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut command = unroll();
        command.args([
            "sample",
            kept.to_str().unwrap(),
            &id[..12],
            "--prompt",
            "In the ",
            "--length",
            "80",
        ]);
        let shown = command.assert().success().get_output().stdout.clone();
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.starts_with("In the ") && shown.chars().count() >= 7 + 80, "{shown:?}");
    }
    let refused = |more: &[&str], code: i32, what: &str| {
        let mut command = unroll();
        command.arg("sample").arg(&kept).args(more);
        // Nothing is shown before it is refused.
        command.assert().code(code).stdout("").stderr(predicate::str::contains(what.to_owned()));
    };
    refused(&["--prompt", "日"], 2, "does not occur");
    refused(&["--prompt", ""], 2, "at least one token");
    refused(&["--temperature=-1"], 2, "temperature");
    refused(&["zzz"], 2, "no trial");

    // Weights that are not the record's are found.
    let path = std::fs::read_dir(kept.join("weights")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let problem = predicate::str::contains("not the weights of the trial's record");
    unroll().arg("verify").arg(&kept).assert().code(1).stdout(problem);

    run("dropped", &["keep_weights=false"]);
    assert!(!folder.path().join("dropped/weights").exists());
    let mut command = unroll();
    command.arg("sample").arg(folder.path().join("dropped"));
    command.assert().code(2).stderr(predicate::str::contains("--keep-weights"));
}

/// Merging brings the weights along.
#[test]
fn shards_keep_their_weights_when_merged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("writers.toml");
    std::fs::write(&file, EXPERIMENT).unwrap();
    let path = |name: &str| folder.path().join(name);
    for (shard, out) in [("1/2", "a"), ("2/2", "b")] {
        let mut command = unroll();
        command.arg("run").arg(&file).args(["--shard", shard, "--out"]).arg(path(out));
        command.assert().success();
    }
    unroll()
        .arg("merge")
        .args([path("a"), path("b")])
        .arg("--out")
        .arg(path("whole"))
        .assert()
        .success();
    assert_eq!(std::fs::read_dir(path("whole/weights")).unwrap().count(), 4);
    unroll().arg("verify").arg(path("whole")).assert().success();
}

#[test]
fn only_states_of_fixed_size_are_carried() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("writers.toml");
    std::fs::write(&file, EXPERIMENT.replace("eval_stride = 500", "state = \"carried\"")).unwrap();
    let plan = |sets: &[&str]| {
        let mut command = unroll();
        command.arg("plan").arg(&file);
        sets.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        command.assert()
    };
    plan(&[]).code(2).stderr(predicate::str::contains("`transformer` has a state that grows"));
    plan(&["axes.arch=[\"gru\", \"lstm\"]"]).success();
    let backward = ["axes.arch=[\"gru\"]", "model.bidirectional=true"];
    plan(&backward).code(2).stderr(predicate::str::contains("`gru` sees the steps ahead"));
}
