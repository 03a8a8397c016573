//! What is said of experiment files before anything runs.

use super::*;

/// Runs a wrong file: exit code 2, the message on standard error, and nothing written.
fn refused(text: &str, expected: &[&str]) {
    let folder = Folder::new();
    let mut assert = folder.run(text).code(2);
    for part in expected {
        // Long lines are wrapped on output.
        let part: String = part.split_whitespace().collect();
        assert = assert.stderr(predicate::function(move |stderr: &str| {
            let plain: String =
                stderr.chars().filter(|c| !c.is_whitespace() && *c != '│').collect();
            plain.contains(&part)
        }));
    }
    assert!(!folder.out().exists(), "something was written for:\n{text}");
}

#[test]
fn wrong_experiment_files_are_refused_with_place_and_advice() {
    refused("name = = 1", &["experiment.toml:1:8", "not valid TOML"]);
    refused(
        &SMALL.replace("steps = 4", "stepz = 4"),
        &["experiment.toml:17:1", "train.stepz", "did you mean `steps`?"],
    );
    refused(
        &SMALL.replace("steps = 4", "steps = \"four\""),
        &["experiment.toml:17:9", "train.steps"],
    );
    refused(
        &SMALL.replace(r#""gru""#, r#""gruu""#),
        &["no architecture called `gruu`", "did you mean `gru`?"],
    );
    refused(
        &SMALL.replace(r#""adding", "japanese"#, r#""addding", "japanese"#),
        &["no task called `addding`", "did you mean `adding`?"],
    );
    refused(&SMALL.replace("length = [8]", "length = [0]"), &["length 0", "at least one step"]);
    refused(&SMALL.replace("hidden_size = 8", "hidden_size = 0"), &["hidden_size", "at least 1"]);
    refused(
        &SMALL.replace("hidden_size = 8", "hiden_size = 8"),
        &["hiden_size", "did you mean `hidden_size`?"],
    );
    refused(&SMALL.replace("seed = [0, 1]", "seed = []"), &["the sweep is empty", "`seed`"]);
    refused(&SMALL.replace("hidden_size = 8", "hidden_size = 9"), &["num_heads"]);
    refused(
        &SMALL.replace("[train]", "[init]\nweigth = \"xavier\"\n[train]"),
        &["init.weigth", "did you mean `weight`?"],
    );
    refused(
        &SMALL.replace("[train]", "[arch.gru]\nforget_bias = 1.0\n[train]"),
        &["no option `forget_bias`", "update_gate"],
    );
    refused(
        &SMALL.replace("seed = [0, 1]", "seed = [0]\n\"train.learning_rat\" = [0.1]"),
        &["learning_rat", "did you mean `learning_rate`?"],
    );
    refused(&SMALL.replace("eval_every = 2", "learning_rate = -1.0"), &["train.learning_rate"]);
    refused(&SMALL.replace("seed = [0, 1]", "device = [\"gpu\"]"), &["no device `gpu`", "cpu"]);
    refused(&SMALL.replace("name = \"small\"", "name = \"../x\""), &["names a folder"]);
    refused(&SMALL.replace("eval_examples", "evl_examples"), &["did you mean `eval_examples`?"]);
    let with = |text: &str| format!("{SMALL}\n{text}\n");
    refused(
        &with("[[exclude]]\narhc = \"gru\""),
        &["`arhc` is not swept here", "did you mean `arch`?"],
    );
    for (text, expected) in [
        ("[[exclude]]\narch = \"transfomer\"", "did you mean `transformer`?"),
        ("[[exclude]]\ntask = [\"adding\", \"ading\"]", "no task called `ading`"),
        ("[[exclude]]\nmeasure = \"qualty\"", "did you mean `quality`?"),
        ("[[exclude]]\nlength = \"8\"", "takes whole numbers"),
        ("[[exclude]]\narch = []", "finds no cell"),
        ("[exclude]\narch = \"gru\"", "[[exclude]]"),
        ("[[override]]\nwhen = { arch = \"grv\" }\nset = {}", "did you mean `gru`?"),
        ("[[override]]\narch = \"gru\"", "when = { arch = \"lstm\" }"),
        ("[[override]]\nwhen = { arch = \"gru\" }", "set = { \"train.learning_rate\" = 0.001 }"),
        (
            "[[override]]\nwhen = {}\nset = { \"arch.gru.rest\" = \"after\" }",
            "did you mean `reset`?",
        ),
        ("[[override]]\nwhen = {}\nset = { \"axes.seed\" = [7] }", "of the whole sweep"),
    ] {
        refused(&with(text), &["experiment.toml:3", expected]);
    }
    for (axis, expected) in [
        ("\"arch.lstn.bias\" = [true]", "did you mean `lstm`?"),
        ("\"arch.lstm.bais\" = [true]", "did you mean `bias`?"),
        ("\"task.adding.evl_examples\" = [9]", "did you mean `eval_examples`?"),
    ] {
        let text = SMALL.replace("seed = [0, 1]", &format!("seed = [0, 1]\n{axis}"));
        refused(&text, &["experiment.toml:11:", expected]);
    }
    refused(
        &with("[[exclude]]\nmeasure = [\"quality\", \"gradient\", \"throughput\"]"),
        &["all of it"],
    );
    refused(
        &SMALL.replace("[train]", "[gradient.jacobian]\nprobes = 0\n[train]"),
        &["`probes` must be at least 1"],
    );
}

#[test]
fn a_plan_says_what_is_otherwise_than_asked() {
    let folder = Folder::new();
    let matched = format!("{SMALL}\n[match]\nby = \"parameters\"\nreference = \"gru\"\n");
    let plan = |text: &str| {
        let mut command = unroll();
        command.arg("plan").arg(folder.file(text)).arg("--out").arg(folder.out());
        command
    };
    let notes = predicate::str::contains(
        "note: japanese_vowels has one length alone: it runs at 29 steps, not at 8.",
    )
    .and(predicate::str::contains("note: transformer is not of gru's size: "));
    plan(&matched).assert().success().stderr(notes);
    let json = plan(&matched).arg("--json").output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["notes"].as_array().map(Vec::len), Some(2), "{json}");

    let one = SMALL
        .replace(r#"["adding", "japanese_vowels"]"#, r#"["adding"]"#)
        .replace(r#"["gru", "transformer"]"#, r#"["gru"]"#)
        .replace("seed = [0, 1]", "seed = [0]")
        .replace(r#"["quality", "gradient", "throughput"]"#, r#"["quality"]"#);
    let assert = plan(&one).assert().success().stderr("");
    assert.stdout(predicate::str::contains("1 trial: 1 missing"));
}

/// What names something that exists and finds nothing is said with its place, before anything is trained.
#[test]
fn what_finds_nothing_is_said_before_training() {
    let folder = Folder::new();
    let notes = |text: &str| -> Vec<String> {
        let file = folder.file(&format!("{SMALL}\n{text}\n"));
        let output = unroll().arg("plan").arg(file).arg("--json").assert().success();
        let json: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        let notes = json["notes"].as_array().unwrap().iter();
        let notes = notes.map(|note| note.as_str().unwrap().to_owned());
        notes.filter(|note| note.contains("experiment.toml:")).collect()
    };
    for (text, expected) in [
        ("[[exclude]]\narch = \"lstm\"", "no cell has arch = \"lstm\""),
        (
            "[[exclude]]\narch = \"gru\"\nlength = [8, 999]",
            "no cell has length = 999 (swept: 8): this [[exclude]] does not",
        ),
        ("[[exclude]]\nseed = 7", "leaves nothing out"),
        (
            "[[override]]\nwhen = { arch = \"rnn\" }\nset = { \"train.steps\" = 3 }",
            "changes nothing",
        ),
        ("[[override]]\nwhen = {}\nset = { \"arch.lstm.bias\" = false }", "`lstm` is not swept"),
        (
            "[[expect]]\nmeasure = \"solved\"\narch = \"rnn\"\nat_least = 1",
            "no trial is of architecture `rnn`",
        ),
        ("[[expect]]\nmeasure = \"test\"\nlength = 9\nat_most = 1", "no trial is of length `9`"),
        ("[[expect]]\nmeasure = \"test\"\nseries = \"gru, x=1\"\nat_most = 1", "gru, transformer"),
    ] {
        let notes = notes(text);
        assert_eq!(notes.len(), 1, "{text}: {notes:?}");
        assert!(notes[0].contains(expected), "{notes:?}");
    }
    for fine in [
        "[[exclude]]\narch = \"gru\"\n[[exclude]]\narch = \"gru\"\nseed = 0",
        "[[exclude]]\narch = \"gru\"\nseed = 1",
        "[[override]]\nwhen = { seed = 1 }\nset = { \"train.steps\" = 3 }",
        "[[expect]]\nmeasure = \"half_life\"\narch = \"gru\"\nat_least = 0",
        "[[expect]]\nmeasure = \"solved\"\ntask = \"japanese_vowels\"\nlength = 29\nat_least = 0",
    ] {
        assert_eq!(notes(fine), Vec::<String>::new(), "{fine}");
    }
    let file = folder.file(&format!(
        "{}\n[[expect]]\nmeasure = \"half_life\"\nat_least = 0\n",
        SMALL.replace(r#"["quality", "gradient", "throughput"]"#, r#"["quality"]"#)
    ));
    let text = predicate::str::contains("will have no data: `half_life` comes from trials of");
    unroll().arg("plan").arg(&file).assert().success().stderr(text);
}

/// Architectures of far different sizes are no fair comparison: the setting that helps is named.
#[test]
fn unequal_sizes_are_said_where_nothing_matches_them() {
    let folder = Folder::new();
    let plan = |text: &str| unroll().arg("plan").arg(folder.file(text)).assert().success();
    let words = predicate::str::contains("sizes are as given and not alike");
    plan(SMALL).stderr(words.clone().and(predicate::str::contains("by = \"parameters\"")));
    plan(&format!("{SMALL}\n[match]\nby = \"hidden_size\"\n")).stderr(words.clone().not());
    plan(&format!("{SMALL}\n[match]\nby = \"parameters\"\nreference = \"gru\"\n"))
        .stderr(words.not());
}

/// Hidden sizes follow a reference as far as it takes.
#[test]
fn a_large_reference_is_matched() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["gru", "transformer"]"#, r#"["rnn", "lstm"]"#)
        .replace("hidden_size = 8", "hidden_size = 3000")
        .replace("num_heads = 2\n", "")
        .replace("[train]", "[match]\nby = \"parameters\"\nreference = \"lstm\"\n[train]");
    let output = unroll().arg("plan").arg(folder.file(&text)).arg("--json").assert().success();
    let json: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let sizes = json["trials"].as_array().unwrap().iter().filter(|t| t["spec"]["arch"] == "rnn");
    let sizes: Vec<u64> =
        sizes.map(|t| t["spec"]["options"]["hidden_size"].as_u64().unwrap()).collect();
    assert!(!sizes.is_empty() && sizes.iter().all(|&size| size > 5900), "{sizes:?}");
    let notes = json["notes"].to_string();
    assert!(!notes.contains("is not of lstm's size"), "{notes}");
}

/// What this machine would refuse when it runs is told when it is planned.
#[test]
fn a_plan_names_trials_that_the_machine_is_too_small_for() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["gru", "transformer"]"#, r#"["gru"]"#)
        .replace("hidden_size = 8", "hidden_size = 1000000");
    let output = unroll().arg("plan").arg(folder.file(&text)).assert().success();
    let output = output.get_output();
    let (table, notes) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(table.contains("too large"), "{table}");
    assert!(notes.contains("has too little memory for 10 of 10 trials"), "{notes}");
}

/// The list of right names is in the message or in the help, not in both.
#[test]
fn names_are_listed_once() {
    for (right, wrong) in [
        ("eval_examples = 20", "evl_examples = 20"),
        ("[train]\nsteps", "[train]\nstepz"),
        ("[throughput]", "[arch.gru]\nrest = \"before\"\n\n[throughput]"),
    ] {
        let folder = Folder::new();
        let assert = folder.run(&SMALL.replace(right, wrong)).code(2);
        let text = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        for name in ["eval_examples", "weight_decay", "bidirectional"] {
            // `eval_examples` is the nearest name too.
            let most = if name == "eval_examples" { 2 } else { 1 };
            assert!(text.matches(name).count() <= most, "{text}");
        }
        assert!(text.contains("did you mean"), "{text}");
    }
    refused(&SMALL.replace("length = [8]", "length = 8"), &["expected a list"]);
}

#[test]
fn excluded_cells_are_not_run() {
    let folder = Folder::new();
    let planned = |text: &str| {
        let output = unroll().arg("plan").arg(folder.file(text)).assert().success();
        String::from_utf8(output.get_output().stdout.clone()).unwrap()
    };
    let all = planned(SMALL);
    let fewer = planned(&format!("{SMALL}\n[[exclude]]\narch = [\"gru\", \"lstm\"]\nseed = 1\n"));
    let lines = |text: &str, arch: &str, seed: &str| {
        // id, what, series, task, length, seed, ...
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let rows = text.lines().map(words).filter(|words| words.len() > 5);
        rows.filter(|words| words[2] == arch && words[5] == seed).count()
    };
    assert!(lines(&all, "gru", "1") > 0, "{all}");
    assert_eq!(lines(&fewer, "gru", "1"), 0, "{fewer}");
    assert_eq!(lines(&fewer, "gru", "0"), lines(&all, "gru", "0"));
    assert_eq!(lines(&fewer, "transformer", "1"), lines(&all, "transformer", "1"));
}

#[test]
fn wrong_settings_on_the_command_line_are_refused() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    for (set, expected) in [
        ("train.stepz=3", "did you mean `steps`?"),
        ("train.steps", "key=value"),
        ("axes.arch=[]", "empty"),
        ("train.steps=-3", "train.steps"),
    ] {
        unroll()
            .arg("run")
            .arg(&file)
            .args(["--set", set, "--out"])
            .arg(folder.out())
            .assert()
            .code(2)
            .stderr(predicate::str::contains(expected));
        assert!(!folder.out().exists(), "{set}");
    }
    for device in ["gpu", "cuda:x"] {
        let run = unroll().arg("run").arg(&file).args(["--device", device]).assert();
        run.code(2).stderr(predicate::str::contains(device));
    }
    // Built without CUDA, the program says how to get it.
    if cfg!(not(feature = "cuda")) {
        for device in ["cuda", "cuda:1"] {
            let run = unroll().arg("run").arg(&file).args(["--device", device]).assert();
            run.code(2).stderr(predicate::str::contains("scripts/build_cuda.sh"));
        }
    } else if !Path::new("/proc/driver/nvidia").exists() {
        // Built with it, the program says why there is no device, and nothing else.
        let run = unroll().arg("run").arg(&file).args(["--device", "cuda"]).assert();
        let text = predicate::str::contains("no NVIDIA driver");
        run.code(2).stderr(text.and(predicate::str::contains("candle_core").not()));
    }
    unroll().args(["run", "does-not-exist.toml"]).assert().code(2);
}

#[test]
fn an_unwritable_output_folder_is_an_error() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    // A file where the folder should be: no one can write below it, not even root.
    let blocked = folder.0.path().join("blocked");
    std::fs::write(&blocked, "").unwrap();
    unroll()
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(blocked.join("out"))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("blocked"));
}

#[test]
fn a_missing_data_file_is_named() {
    let folder = Folder::new();
    let file = folder.file(SMALL);
    unroll()
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(folder.out())
        .env("UNROLL_DATA", folder.0.path())
        .assert()
        .code(2)
        .stderr(
            predicate::str::contains("japanese_vowels")
                .and(predicate::str::contains("UNROLL_DATA")),
        );
    assert!(!folder.out().exists());
}

/// A file of one's own is looked for in several places: all are named, and the setting that names the file.
#[test]
fn a_missing_or_wrong_file_of_ones_own_is_shown_where_it_is_named() {
    let folder = Folder::new();
    let text = SMALL
        .replace(r#"["adding", "japanese_vowels"]"#, r#"["timeseries"]"#)
        .replace("[task.adding]\neval_examples = 20", "[task.timeseries]\ntrain = \"nofile.ts\"");
    let plan = |text: &str, set: &[&str]| {
        let file = folder.file(text);
        let mut command = unroll();
        command
            .current_dir(folder.0.path())
            .env_remove("UNROLL_DATA")
            .arg("plan")
            .arg(file)
            .args(set);
        let output = command.assert().code(2);
        let lines = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        lines.chars().filter(|c| !c.is_whitespace() && *c != '│').collect::<String>()
    };
    let here = folder.0.path().join("nofile.ts").display().to_string();
    let beside = folder.0.path().join("data/nofile.ts").display().to_string();
    let shown = plan(&text, &[]);
    assert!(shown.contains("experiment.toml:22:9:`task.timeseries.train`iswrong"), "{shown}");
    assert!(shown.contains(&here) && shown.contains(&beside), "{shown}");
    let set = ["--set", "task.timeseries.train=nofile.ts"];
    let shown = plan(&text.replace("nofile.ts", "other.ts"), &set);
    assert!(shown.contains("--set:1:23:`task.timeseries.train`iswrong"), "{shown}");
    std::fs::write(folder.0.path().join("nofile.ts"), "").unwrap();
    let shown = plan(&text, &[]);
    assert!(
        shown.contains("experiment.toml:22:9:") && shown.contains("therearenocases"),
        "{shown}"
    );
    assert!(!shown.contains("line0"), "{shown}");
    std::fs::write(folder.0.path().join("nofile.ts"), "@nonsense\n").unwrap();
    let shown = plan(&text, &[]);
    assert!(
        shown.contains("experiment.toml:22:9:") && shown.contains("nofile.ts,line1:"),
        "{shown}"
    );
}
