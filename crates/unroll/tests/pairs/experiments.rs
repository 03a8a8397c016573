//! Experiments from outside.

fn experiment(measure: &str, tasks: &str, architectures: &str) -> String {
    format!(
        r#"
name = "pairs"
question = "Does it run?"
measure = {measure}

[axes]
task = {tasks}
length = [8]
arch = {architectures}
seed = [0]

[task.g2p]
eval_examples = 12
beam = 2

[task.translation]
eval_examples = 8
vocabulary = 50

[model]
hidden_size = 8
base = "lstm"

[train]
batch_size = 4
steps = 3
eval_every = 3
"#
    )
}

fn program(folder: &std::path::Path, text: &str) -> assert_cmd::Command {
    let file = folder.join("pairs.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("unroll").unwrap();
    command.arg("run").arg(file).arg("--out").arg(folder.join("out"));
    command
}

#[test]
fn experiments_give_metrics_and_pictures_of_what_was_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let text = experiment(
        r#"["quality"]"#,
        r#"["g2p", "translation"]"#,
        r#"["encdec", "encdec_additive", "encdec_transformer"]"#,
    );
    program(folder.path(), &text).assert().success();
    let out = folder.path().join("out");
    let metrics = std::fs::read_to_string(out.join("tables/metrics.csv")).unwrap();
    let count = |name: &str| metrics.lines().filter(|line| line.contains(name)).count();
    assert_eq!((count(",WER,"), count(",chrF,")), (3, 3), "{metrics}");
    assert!(count("BLEU, source of") >= 3, "{metrics}");
    let plots: Vec<String> = std::fs::read_dir(out.join("plots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("alignment-") && name.ends_with("png"))
        .collect();
    // None without attention.
    assert_eq!(plots.len(), 4, "{plots:?}");
    let report = std::fs::read_to_string(out.join("REPORT.md")).unwrap();
    assert!(report.contains("Other metrics") && report.contains("WER"));
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (measure, tasks, architectures, word) in [
        (r#"["quality"]"#, r#"["g2p"]"#, r#"["gru"]"#, "encdec_additive"),
        (r#"["quality"]"#, r#"["adding"]"#, r#"["encdec"]"#, "one sequence"),
        (r#"["gradient"]"#, r#"["g2p"]"#, r#"["encdec"]"#, "measure = "),
    ] {
        let output = program(folder.path(), &experiment(measure, tasks, architectures))
            .assert()
            .code(2)
            .get_output()
            .stderr
            .clone();
        // The message may be broken into lines anywhere.
        let text: String = String::from_utf8(output).unwrap().replace(['│', '\n'], " ");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(word), "{text}");
        assert!(!folder.path().join("out").exists());
    }
}
