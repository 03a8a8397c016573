//! Reports, comparisons and exports from outside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::{Value, json};

const SMALL: &str = r#"
name = "small"
question = "Is <script>alert(1)</script> run?"
measure = ["quality", "throughput"]

[axes]
task = ["adding"]
length = [8]
arch = ["gru", "lstm"]
seed = [0, 1]

[model]
hidden_size = 8

[train]
steps = 4
eval_every = 2
batch_size = 4

[task.adding]
eval_examples = 20

[throughput]
min_seconds = 0.0
min_iterations = 2
batch_size = 2
"#;

fn unroll() -> Command {
    let mut command = Command::cargo_bin("unroll").unwrap();
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).env("NO_COLOR", "1");
    command
}

/// A finished run with a setting changed.
fn run(dir: &Path, name: &str, set: &str) -> PathBuf {
    let file = dir.join("experiment.toml");
    std::fs::write(&file, SMALL).unwrap();
    let out = dir.join(name);
    unroll().arg("run").arg(file).args(["--set", set, "--out"]).arg(&out).assert().success();
    out
}

#[test]
fn a_report_of_a_part_says_so_and_runs_no_script_of_the_experiment() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), "a", "train.steps=4");
    let trial = std::fs::read_dir(out.join("trials")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(trial).unwrap();
    unroll().arg("report").arg(&out).assert().code(7);
    for name in ["REPORT.html", "REPORT.md"] {
        let page = std::fs::read_to_string(out.join(name)).unwrap();
        assert!(page.contains("1 of 6 planned trials have no result yet"), "{name}");
        assert!(!page.contains("<script>alert"), "{name}");
    }
}

#[test]
fn two_folders_are_set_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) =
        (run(dir.path(), "a", "train.steps=4"), run(dir.path(), "b", "axes.seed=[0, 1, 2]"));
    unroll()
        .arg("compare")
        .args([&a, &b])
        .assert()
        .success()
        .stdout(predicate::str::contains("## Answer").and(predicate::str::contains("2 metrics")));
    let out = dir.path().join("compared");
    unroll().arg("compare").args([&a, &a]).arg("--out").arg(&out).assert().success();
    let page = std::fs::read_to_string(out.join("COMPARE.html")).unwrap();
    assert!(page.contains("6 of them have the same results to the last bit"));
    let json = unroll().arg("compare").args([&a, &b]).arg("--json").output().unwrap();
    let value: Value = serde_json::from_slice(&json.stdout).unwrap();
    // One more seed: what both have is the same to the bit.
    assert_eq!((&value["shared_trials"], &value["same_bits"]), (&json!(6), &json!(6)));
    assert_eq!(value["quality"][0]["runs"], json!([2, 3]));
    assert_eq!(value["quality"].as_array().unwrap().len(), 2);
    unroll().arg("compare").arg(&a).arg(dir.path()).assert().code(2);
}

#[test]
fn results_are_exported() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), "a", "train.steps=4");
    let expected = [
        ("csv", "trials.csv"),
        ("parquet", "trials.parquet"),
        ("json", "results.json"),
        ("bmf", "bencher.json"),
        ("github-benchmark", "smaller_is_better.json"),
    ];
    for (to, file) in expected {
        unroll().arg("export").arg(&out).args(["--to", to]).assert().success();
        assert!(out.join("export").join(to).join(file).is_file(), "{to}");
    }
    let runs = dir.path().join("runs");
    let mut events = unroll();
    events.arg("export").arg(&out).args(["--to", "tensorboard", "--out"]).arg(&runs);
    events.assert().success();
    assert_eq!(std::fs::read_dir(runs).unwrap().count(), 6);
    unroll().arg("export").arg(&out).args(["--to", "excel"]).assert().code(2);
    unroll().arg("export").arg(dir.path()).args(["--to", "csv"]).assert().code(2);
}

/// A server that answers as MLflow does, and keeps what it is told.
fn server(told: &Arc<Mutex<Vec<(String, Value)>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let told = Arc::clone(told);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length, mut path) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(rest) = line.strip_prefix("POST /api/2.0/mlflow/") {
                    path = rest.split(' ').next().unwrap().to_owned();
                }
                if let Some(rest) = line.strip_prefix("Content-Length: ") {
                    length = rest.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let mut told = told.lock().unwrap();
            let made = told.iter().filter(|(path, _)| path == "runs/create");
            let answer = match path.as_str() {
                "experiments/search" => json!({}),
                "experiments/create" => json!({"experiment_id": "7"}),
                "runs/search" => {
                    let run =
                        |(_, request): &(String, Value)| json!({"data": {"tags": request["tags"]}});
                    json!({"runs": made.map(run).collect::<Vec<_>>()})
                }
                "runs/create" => {
                    json!({"run": {"info": {"run_id": format!("r{}", made.count())}}})
                }
                _ => json!({}),
            };
            told.push((path, body));
            let answer = answer.to_string();
            write!(stream, "HTTP/1.0 200 OK\r\nX: y\r\n\r\n{answer}").unwrap();
        }
    });
    address
}

#[test]
fn mlflow_is_told_each_trial_once() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), "a", "train.steps=4");
    let told = Arc::default();
    let url = server(&told);
    let send = || {
        let mut command = unroll();
        command.arg("export").arg(&out).args(["--to", "mlflow", "--url", &url]);
        command.assert().success()
    };
    send().stdout(predicate::str::contains("6 runs"));
    {
        let told = told.lock().unwrap();
        let count = |path: &str| told.iter().filter(|(p, _)| p == path).count();
        assert_eq!((count("experiments/create"), count("runs/create")), (1, 6));
        assert_eq!(count("runs/update"), 6);
        let metrics: Vec<&Value> = told
            .iter()
            .filter(|(path, _)| path == "runs/log-batch")
            .flat_map(|(_, body)| body["metrics"].as_array().into_iter().flatten())
            .collect();
        let key = |key: &str| metrics.iter().filter(|m| m["key"] == key).count();
        assert_eq!(key("test/MSE"), 4);
        assert!(metrics.iter().all(|metric| metric["value"].is_number()));
    }
    send().stdout(predicate::str::contains("0 runs"));
    let mut refused = unroll();
    refused.arg("export").arg(&out).args(["--to", "mlflow", "--url", "http://127.0.0.1:9"]);
    refused.assert().code(2).stderr(predicate::str::contains("MLflow"));
}
