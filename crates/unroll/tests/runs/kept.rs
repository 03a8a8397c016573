//! What is kept: identities, records, folders of other versions; and whether it is what it was.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use predicates::prelude::*;
use serde_json::{Value, json};
use unroll_core::weights::TensorFile;
use unroll_results::{Environment, Manifest, files, layout, sealed, store};

use crate::support::*;

#[test]
fn ids_of_trials_stay_what_they_are() {
    let folder = Folder::new();
    let text = SWEEP.replace(r#"["adding"]"#, r#"["adding", "japanese_vowels"]"#);
    let file = folder.file(&text);
    let output = unroll().arg("plan").arg(file).arg("--json").output().unwrap();
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<String> = plan["trials"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trial| {
            let spec = &trial["spec"];
            format!(
                "{} {} {} {} {}",
                trial["id"].as_str().unwrap(),
                spec["kind"].as_str().unwrap(),
                spec["arch"].as_str().unwrap(),
                spec["task"].as_str().unwrap(),
                spec["seed"]
            )
        })
        .collect();
    // A change here means that finished trials of users run again: raise ALGORITHM if results change,
    // and give new settings a default that is left out of the meaning if they do not.
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn replaying_finds_the_step_where_results_part() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let replay = |id: &str| unroll().arg("replay").arg(&out).arg(id).assert();
    unroll()
        .arg("replay")
        .arg(&out)
        .args(["--threads", "1"])
        .assert()
        .success()
        .stdout(predicate::str::contains("12 the same to the bit"));

    let id = change(&out, 0, |record| {
        let trace = record.trace.as_mut().unwrap();
        assert_eq!(trace.every, 2);
        trace.weights[7..].fill("0000000000000000".into());
        record.curve[2].validation += 1e-12;
    });
    replay(&id[..8])
        .code(5)
        .stdout(
            predicate::str::contains("training step 16").and(predicate::str::contains("14 steps")),
        )
        .stdout(predicate::str::contains("curve.2.validation"));

    // A record of another machine need not be the same, but must be close.
    let mut there = Environment::read(&out, &records(&out)[0].timing.environment).unwrap();
    there.cpu = Some("another processor".into());
    let there = there.write(&out).unwrap();
    let id = change(&out, 0, |record| record.timing.environment.clone_from(&there));
    replay(&id).success().stdout(
        predicate::str::contains("another processor").and(predicate::str::contains("tolerance")),
    );
    let id = change(&out, 0, |record| record.curve[0].validation *= 1.1);
    replay(&id).code(5).stdout(predicate::str::contains("beyond the tolerance"));

    replay("zzz").code(2).stderr(predicate::str::contains("zzz"));
}

#[test]
fn damaged_records_are_set_aside_and_run_again() {
    let folder = Folder::new();
    folder.run(SWEEP, "whole", &[]).success();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let ids: Vec<String> = records(&out).into_iter().map(|record| record.id).collect();
    let path = |index: usize| store::path(&out, &ids[index]).unwrap();
    let whole = std::fs::read(path(0)).unwrap();
    std::fs::write(path(0), &whole[..whole.len() / 3]).unwrap();
    let mut flipped = std::fs::read(path(5)).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    std::fs::write(path(5), flipped).unwrap();
    std::fs::write(path(7), "").unwrap();

    unroll().arg("verify").arg(&out).assert().code(1).stdout(
        predicate::str::contains(&ids[0])
            .and(predicate::str::contains(&ids[5]))
            .and(predicate::str::contains(&ids[7])),
    );
    unroll().arg("report").arg(&out).assert().code(2).stderr(predicate::str::contains("damaged"));
    folder
        .run(SWEEP, "out", &[])
        .success()
        .stderr(predicate::str::contains("the trial runs again").count(3));
    same_tables(&folder.path("whole"), &out);
    assert_eq!(files::stems(&out.join(layout::DAMAGED), "json").unwrap().len(), 3);
    unroll().arg("verify").arg(&out).assert().success();
}

#[test]
fn a_damaged_manifest_is_made_again() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let path = out.join(layout::MANIFEST);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("300", "301", 1)).unwrap();
    for command in ["status", "verify"] {
        unroll()
            .arg(command)
            .arg(&out)
            .assert()
            .code(1)
            .stderr(predicate::str::contains("checksum"));
    }
    folder.run(SWEEP, "out", &[]).success().stdout(predicate::str::contains("12 from before"));
    unroll().arg("verify").arg(&out).assert().success();
}

#[test]
fn a_folder_of_a_newer_version_is_left_alone() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let newer = |path: &Path, bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).unwrap();
        let mut content = value["content"].clone();
        content["schema"] = json!(99);
        sealed::to_bytes(path, &content).unwrap()
    };
    let record = store::path(&out, &records(&out)[4].id).unwrap();
    for path in [record, out.join(layout::MANIFEST)] {
        let before = std::fs::read(&path).unwrap();
        let changed = newer(&path, &before);
        std::fs::write(&path, &changed).unwrap();
        let message = predicate::str::contains("newer version").and(predicate::str::contains("99"));
        folder.run(SWEEP, "out", &[]).code(6).stderr(message);
        assert_eq!(std::fs::read(&path).unwrap(), changed, "nothing is overwritten");
        std::fs::write(&path, before).unwrap();
    }
    folder.run(SWEEP, "out", &[]).success();
}

#[test]
fn a_changed_experiment_keeps_what_means_the_same() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let first = Manifest::read(&out).unwrap();
    let more = SWEEP.replace("seed = [0, 1]", "seed = [0, 1, 2]");
    folder
        .run(&more, "out", &[])
        .success()
        .stdout(predicate::str::contains("18 of 18 trials, 12 from before"))
        .stderr(predicate::str::contains("has changed"));
    let kept = files::stems(&out.join(layout::MANIFESTS), "json").unwrap();
    assert_eq!(kept, [first.id]);
    folder.run(&more, "fresh", &[]).success();
    same_tables(&folder.path("fresh"), &out);
    // A question is no meaning: nothing runs again.
    let asked = more.replace("Does it survive?", "Does it really?");
    folder.run(&asked, "out", &[]).success().stdout(predicate::str::contains("18 from before"));
}

#[test]
fn results_of_another_build_are_kept_with_a_warning() {
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success().stderr(predicate::str::contains("build").not());
    let out = folder.path("out");
    let mut other = Environment::read(&out, &records(&out)[0].timing.environment).unwrap();
    other.sources = "another".into();
    let other = other.write(&out).unwrap();
    change(&out, 0, |record| record.timing.environment.clone_from(&other));
    folder
        .run(SWEEP, "out", &[])
        .success()
        .stdout(predicate::str::contains("12 from before"))
        .stderr(
            predicate::str::contains("1 trials of this folder")
                .and(predicate::str::contains("replay")),
        );
}

#[test]
fn a_second_finisher_with_other_bits_is_reported() {
    // What a process finds that was thought dead and finishes late.
    let folder = Folder::new();
    folder.run(SWEEP, "out", &[]).success();
    let out = folder.path("out");
    let mut late = records(&out).remove(0);
    late.curve[1].train_loss *= 1.0 + 1e-9;
    assert!(matches!(store::keep(&out, &late).unwrap(), store::Kept::Conflict(_)));
    unroll()
        .arg("verify")
        .arg(&out)
        .assert()
        .code(1)
        .stdout(predicate::str::contains("gave other bits"));
}

/// Weights that a run keeps say what they are: nothing of it has to be typed again.
#[test]
fn kept_weights_can_be_evaluated_as_they_are() {
    let folder = Folder::new();
    let text = SWEEP
        .replace("[\"quality\", \"gradient\"]", "[\"quality\"]")
        .replace(r#"["gru", "rnn", "transformer"]"#, r#"["gru"]"#)
        .replace("seed = [0, 1]", "seed = [0]")
        .replace("steps = 300", "steps = 3");
    let kept = |out: &str| {
        folder.run(&text, out, &["--keep-weights"]).success();
        let weights = std::fs::read_dir(folder.path(out).join(layout::WEIGHTS)).unwrap();
        let paths: Vec<_> = weights.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(paths.len(), 1);
        paths[0].clone()
    };
    let weights = kept("out");
    assert_eq!(std::fs::read(&weights).unwrap(), std::fs::read(kept("again")).unwrap());
    unroll().arg("verify").arg(folder.path("out")).assert().success();

    let file = TensorFile::read(&weights).unwrap();
    assert_eq!(file.metadata["arch"], "gru");
    assert_eq!(file.metadata["task"], "adding");
    assert_eq!(file.metadata["trial"], weights.file_stem().unwrap().to_str().unwrap());
    let x = Tensor::ones((2, 5, 2), DType::F32, &Device::Cpu).unwrap();
    let input = TensorFile { tensors: [("x".to_owned(), x)].into(), ..TensorFile::default() };
    input.write(&folder.path("x.safetensors")).unwrap();
    let eval = |extra: &[&str]| {
        let mut command = unroll();
        command.arg("eval").arg("--weights").arg(&weights);
        command.arg("--input").arg(folder.path("x.safetensors"));
        command.arg("--output").arg(folder.path("y.safetensors")).args(extra);
        command.assert()
    };
    eval(&[]).success();
    let output = TensorFile::read(&folder.path("y.safetensors")).unwrap();
    assert_eq!(output.get("output").unwrap().dims(), [2, 5, 4]);
    // What is given goes first; what does not fit is an error, in words of the command.
    eval(&["--prefix", ""]).code(2).stderr(predicate::str::contains("--prefix body."));
    eval(&["--prefix", "head."]).code(2);
    eval(&["--prefix", "boddy."]).code(2).stderr(predicate::str::contains("body.weight_ih_l0"));
    eval(&["--config", "{\"hidden_size\": 5}"]).code(2);
    eval(&["--arch", "lstm", "--config", "{\"hidden_size\": 4}"]).code(2);
}
