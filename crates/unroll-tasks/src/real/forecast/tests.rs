use std::fmt::Write;
use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{Inputs, Targets, find};

/// A file in a folder, and options that name it.
fn file(text: &str, more: &Value) -> (TempDir, Options) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.csv");
    fs::write(&path, text).unwrap();
    let mut options = more.as_object().cloned().unwrap();
    options.insert("file".into(), json!(path));
    (folder, options)
}

fn of(options: &Options, length: usize) -> Result<Forecast> {
    let options: ForecastOptions = options::parse(options)?;
    let (frame, _) = Frame::load(&options)?;
    Forecast::new(&frame, length, 3, options)
}

fn task(text: &str, more: &Value, length: usize) -> Result<Forecast> {
    let (_folder, options) = file(text, more);
    of(&options, length)
}

/// Lines of several series by turns, each `1000 * series + step`, so that inputs and targets tell where they
/// are from; the names of the series come in an order of their own.
fn counting(lengths: &[usize]) -> String {
    let mut text = String::from("of,day,y\n");
    for step in 0..lengths.iter().copied().max().unwrap_or(0) {
        for (series, _) in lengths.iter().enumerate().filter(|(_, length)| step < **length) {
            let (name, day) = (["m", "a", "z"][series], 5 * step + series);
            writeln!(text, "{name},{day},{}", 1000 * series + step).unwrap();
        }
    }
    text
}

fn numbers(batch: &Batch) -> (&[f32], &[f32]) {
    match (&batch.inputs, &batch.targets) {
        (Inputs::Values(inputs), Targets::Values(targets)) => (inputs, targets),
        _ => panic!("numbers expected"),
    }
}

/// Windows with their answers, in the target's own unit, of a task that reads its target alone.
fn read(task: &Forecast, batches: &[Batch]) -> Vec<(Vec<usize>, usize)> {
    let Scale { mean, std, .. } = task.targets[0].scale;
    let own = |scaled: f32| (f64::from(scaled) * std + mean).round() as usize;
    let rows = batches.iter().flat_map(|batch| {
        let (inputs, targets) = numbers(batch);
        let windows = inputs.chunks(task.windows.length);
        windows.zip(targets).map(|(w, &t)| (w.iter().map(|&v| own(v)).collect(), own(t)))
    });
    rows.collect()
}

proptest! {
    #[test]
    fn windows_stay_in_their_series_and_their_part(
        lengths in prop::collection::vec(20usize..120, 1..4),
        length in 1usize..9, horizon in 1usize..6, look_back: bool,
        (validation, test) in (0.1..0.4f64, 0.1..0.4f64),
    ) {
        let options = json!({
            "time": "day", "group": "of", "horizon": horizon, "look_back": look_back,
            "validation": validation, "test": test,
        });
        let Ok(task) = task(&counting(&lengths), &options, length) else {
            // Parts too short for a window.
            let steps = *lengths.iter().max().unwrap() as f64;
            let shortest = if look_back { 1.0 } else { steps * validation.min(test).min(1.0 - validation - test) };
            prop_assert!(shortest < (length + horizon) as f64 + 1.0, "{} {}", shortest, length + horizon);
            return Ok(());
        };
        let cuts = |series: usize| {
            let steps = lengths[series] as f64;
            [((1.0 - validation - test) * steps + 1e-6) as usize, ((1.0 - test) * steps + 1e-6) as usize]
        };
        let mut seen: [Vec<usize>; 3] = Default::default();
        let splits = [Split::Train, Split::Validation, Split::Test];
        let trained = read(&task, &(0..30).map(|s| task.train_batch(s, 7)).collect::<Vec<_>>());
        for (part, split) in splits.into_iter().enumerate() {
            let mut rows = read(&task, &task.evaluation(split, 7));
            if part == 0 {
                rows.extend(trained.clone());
            }
            for (window, target) in rows {
                let (series, step) = (target / 1000, target % 1000);
                let end = target + 1 - horizon;
                prop_assert_eq!(&window, &(end - length..end).collect::<Vec<_>>());
                prop_assert!(window.iter().all(|value| value / 1000 == series), "{:?}", window);
                let [first, second] = cuts(series);
                let within = [0..first, first..second, second..lengths[series]][part].clone();
                prop_assert!(within.contains(&step), "{} in {:?}", step, within);
                if !look_back {
                    prop_assert!(within.contains(&(window[0] % 1000)), "{:?} in {:?}", window, within);
                }
                seen[part].push(target);
            }
        }
        // Everything that has a window is forecast, once.
        for (part, seen) in seen.iter().enumerate().skip(1) {
            let all = (0..lengths.len()).flat_map(|series| {
                let [first, second] = cuts(series);
                let within = [first..second, second..lengths[series]][part - 1].clone();
                let begin = if look_back { 0 } else { within.start };
                let steps = within.start.max(begin + length + horizon - 1)..within.end;
                steps.map(move |step| 1000 * series + step)
            });
            prop_assert_eq!(seen, &all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_value_of_a_later_part_tells_in_training(jump in -1e6..1e6f64, gap: bool) {
        let text = |later: &dyn Fn(usize) -> String| {
            let mut text = String::from("a,b\n");
            for step in 0..100 {
                let b = if step < 70 { format!("{}", step * step % 11) } else { later(step) };
                writeln!(text, "{},{b}", step % 7).unwrap();
            }
            text
        };
        let options = json!({ "target": ["a", "b"] });
        let one = task(&text(&|step| format!("{}", step % 5)), &options, 4).unwrap();
        let missing = |step: usize| gap && step % 3 == 1;
        let other = |step: usize| if missing(step) { "?".into() } else { format!("{jump}") };
        let other = task(&text(&other), &options, 4).unwrap();
        prop_assert_eq!(one.windows.features, other.windows.features);
        prop_assert_eq!(one.train_batch(0, 66), other.train_batch(0, 66));
        for (one, other) in one.targets.iter().zip(&other.targets) {
            prop_assert_eq!(&one.scale, &other.scale);
        }
    }
}

/// The bundled loads, which another task reads in its own way.
#[test]
fn the_same_file_is_the_same_task_as_electricity() {
    let entry = find("electricity").unwrap();
    let given = json!({ "horizon": 30, "calendar": false });
    let options = given.as_object().cloned().unwrap();
    let theirs = (entry.build)(&TaskRequest { length: 40, seed: 3, options: &options }).unwrap();
    let ours = json!({
        "time": "ts", "horizon": 30, "season": 24, "look_back": true, "eval_stride": 5, "unit": "kWh",
    });
    let ours = of(ours.as_object().unwrap(), 40).unwrap();
    for split in [Split::Validation, Split::Test] {
        assert_eq!(ours.evaluation(split, 64), theirs.evaluation(split, 64));
    }
    assert_eq!(ours.metric(), theirs.metric());
    assert_eq!(ours.other_metrics(), theirs.other_metrics());
    let theirs = theirs.baselines();
    for (name, theirs_is) in
        [("persistence", "persistence"), ("seasonal, 24 steps", "seasonal, 24 h")]
    {
        let expected = theirs.iter().find(|b| b.name == theirs_is).unwrap().value;
        assert_eq!(baseline(&ours, name), expected);
    }
    // What the last week says of the load, without a network.
    let ridge = baseline(&ours, "ridge regression on the window");
    assert!(ridge < theirs[0].value, "{ridge} {theirs:?}");
}

/// The bundled dust, with its missing measurements.
#[test]
fn missing_values_are_those_of_pm25() {
    let entry = find("pm25").unwrap();
    let given = json!({ "horizon": 6, "eval_stride": 7 });
    let options = given.as_object().cloned().unwrap();
    let theirs = (entry.build)(&TaskRequest { length: 12, seed: 3, options: &options }).unwrap();
    let ours = json!({
        "file": "beijing_pm25_hourly.csv.gz", "target": "pm2.5", "inputs": "pm2.5", "horizon": 6,
        "look_back": true, "season": 24, "eval_stride": 7,
    });
    let ours = of(ours.as_object().unwrap(), 12).unwrap();
    let InputKind::Values { features } = theirs.input() else { panic!("numbers expected") };
    let batches = |task: &dyn Task| task.evaluation(Split::Test, 50);
    for (ours, theirs) in batches(&ours).iter().zip(&batches(theirs.as_ref())) {
        let ((inputs, targets), (wider, expected)) = (numbers(ours), numbers(theirs));
        assert_eq!(targets, expected);
        let dust: Vec<f32> = wider.chunks(features).flat_map(|step| [step[0], step[1]]).collect();
        assert_eq!(inputs, dust);
    }
    for name in ["persistence", "training mean"] {
        let expected = theirs.baselines().into_iter().find(|b| b.name == name).unwrap().value;
        assert_eq!(baseline(&ours, name), expected);
    }
    // All columns of numbers but the wind's direction: twelve, and a mark for the dust.
    let (frame, _) = Frame::load(&ours.options).unwrap();
    let all = ForecastOptions { inputs: Vec::new(), ..ours.options };
    let all = Forecast::new(&frame, 12, 3, all).unwrap();
    assert_eq!(all.input(), InputKind::Values { features: 13 });
}

fn baseline(task: &Forecast, name: &str) -> f64 {
    let baselines = task.baselines();
    baselines.iter().find(|b| b.name == name).unwrap_or_else(|| panic!("{baselines:?}")).value
}

#[test]
fn values_are_filled_within_a_series_and_marked_where_training_has_gaps() {
    let mut text = String::from("s,a,b,c\n");
    for series in ["p", "q"] {
        for step in 0..20 {
            let a = if step % 5 == 0 { String::new() } else { format!("{}", step % 3) };
            // Missing in the test part alone.
            let b = if step == 18 { "NaN".into() } else { format!("{}", step % 4) };
            writeln!(text, "{series},{a},{b},{}", step % 2).unwrap();
        }
    }
    let options = json!({ "group": "s", "target": "c", "look_back": true });
    let task = task(&text, &options, 1).unwrap();
    assert_eq!(task.windows.features, 4, "a, whether it was missing, b, c");
    let step = |step: usize| task.windows.at(step..step + 1).to_vec();
    for begin in [0, 20] {
        let first = step(begin);
        assert_eq!(first[..2], [0.0, 1.0], "the mean, not the series before");
        assert_eq!(
            step(begin + 5),
            [step(begin + 4)[0], 1.0, step(begin + 5)[2], step(begin + 5)[3]]
        );
        assert_eq!(step(begin + 4)[1], 0.0);
        assert_eq!(step(begin + 18)[2], step(begin + 17)[2]);
    }
    // A target that is missing is never asked for: the steps 5, 10 and 15 of each series.
    let options = json!({ "group": "s", "target": "a", "look_back": true });
    let task = self::task(&text, &options, 1).unwrap();
    let steps = |steps: &[usize]| steps.iter().map(|step| step % 20).collect::<Vec<_>>();
    assert_eq!(steps(&task.validation), [14, 14]);
    assert_eq!(steps(&task.test), [16, 17, 18, 19, 16, 17, 18, 19]);
}

/// The target is the step: a lag errs by itself.
#[test]
fn baselines_are_what_their_names_say() {
    let text = counting(&[200, 200]);
    for (horizon, persistence, seasonal) in [(1, 1.0, 12.0), (13, 13.0, 24.0)] {
        for metric in ["rmse", "mae"] {
            let options = json!({
                "group": "of", "season": 12, "horizon": horizon, "metric": metric, "inputs": "y",
            });
            let task = task(&text, &options, 5).unwrap();
            assert!((baseline(&task, "persistence") - persistence).abs() < 1e-9);
            assert!((baseline(&task, "seasonal, 12 steps") - seasonal).abs() < 1e-9);
            // A step ahead is a linear map of what was.
            let ridge = baseline(&task, "ridge regression on the window");
            assert!(ridge < 0.5 * persistence, "{ridge}");
            assert!(task.baselines().iter().all(|b| b.fitted == b.name.contains("ridge")));
        }
    }
    let options = json!({ "group": "of", "season": 12, "metric": "mase" });
    let task = task(&text, &options, 5).unwrap();
    assert!((baseline(&task, "seasonal, 12 steps") - 1.0).abs() < 1e-9);
    assert_eq!(task.metric().name(), "MASE");
    // A season that goes back beyond the series is no baseline.
    let options = json!({ "target": "y", "season": 90, "horizon": 5, "test": 0.3 });
    let task = self::task(&counting(&[100]), &options, 5).map(|t| t.baselines().len());
    assert!(matches!(task, Err(Error::Option { option, .. }) if option == "season"));
    let options =
        json!({ "target": "y", "season": 59, "horizon": 60, "test": 0.3, "look_back": true });
    let names = |task: Forecast| task.baselines().into_iter().map(|b| b.name).collect::<Vec<_>>();
    let names = names(self::task(&counting(&[150]), &options, 5).unwrap());
    assert!(!names.iter().any(|name| name.contains("seasonal")), "{names:?}");
}

#[test]
fn several_targets_count_alike_and_are_reported_in_their_own_units() {
    let mut text = String::from("small,large\n");
    for step in 0..100 {
        writeln!(text, "{},{}", step % 7, 1000 * (step * step % 13)).unwrap();
    }
    let options = json!({ "target": ["large", "small"], "unit": ["m", "s"] });
    let task = task(&text, &options, 4).unwrap();
    assert_eq!(task.target(), TargetKind::Values { outputs: 2 });
    let names: Vec<String> =
        [task.metric()].iter().chain(&task.other_metrics()).map(Metric::name).collect();
    let (rmse, mae) = ("RMSE (standard deviations)", "MAE (standard deviations)");
    assert_eq!(names, [rmse, mae, "RMSE of large (m)", "RMSE of small (s)"]);
    let one = |target| {
        let options = json!({ "target": target });
        let task = self::task(&text, &options, 4).unwrap();
        baseline(&task, "persistence") / task.targets[0].scale.std
    };
    let (large, small) = (one("large"), one("small"));
    let both = ((large * large + small * small) / 2.0).sqrt();
    assert!((baseline(&task, "persistence") - both).abs() < 1e-9);
    let (inputs, targets) = (task.train_batch(0, 1), task.train_batch(0, 1).targets);
    let Targets::Values(targets) = targets else { panic!("numbers expected") };
    assert_eq!((numbers(&inputs).0.len(), targets.len()), (8, 2));
}

#[test]
fn a_trial_is_that_of_its_file() {
    let text = counting(&[60]);
    let (folder, mut options) =
        file(&text, &json!({ "group": "of", "time": "day", "target": "y" }));
    let resolved = resolve(&options).unwrap();
    assert_eq!((&resolved["target"], &resolved["inputs"]), (&json!(["y"]), &json!(["y"])));
    assert_eq!(resolve(&resolved).unwrap(), resolved);
    assert!(of(&resolved, 3).is_ok());
    options.insert("target".into(), json!(["y"]));
    assert_eq!(resolve(&options).unwrap(), resolved);
    fs::write(folder.path().join("own.csv"), text.replace(",59\n", ",9\n")).unwrap();
    for error in [resolve(&resolved).err(), of(&resolved, 3).err()] {
        assert!(
            matches!(&error, Some(Error::Option { option, .. }) if option == "data_hash"),
            "{error:?}"
        );
    }
    let again = resolve(&options).unwrap();
    assert_ne!(again["data_hash"], resolved["data_hash"]);
    // Not that of the contents that were read before.
    assert_eq!(of(&again, 3).unwrap().targets[0].values[59], 9.0);
}

#[test]
fn wrong_cells_are_errors_with_line_and_column() {
    let days = |lines: &str| format!("t,g,x,y\n{lines}");
    for (text, options, line, column, message) in [
        (
            days("1,a,1,2\n2,a,one,3\n"),
            json!({}),
            3,
            3,
            "`one` is not a finite number, where other",
        ),
        (days("1,a,1,2\n2,a,2,3,\n"), json!({}), 3, 0, "5 columns, where the header has 4"),
        (days("1,a,1,2\n2,a,inf,3\n"), json!({ "inputs": "x" }), 3, 3, "`inf` is not a finite"),
        (days("1,a,1,2\n\n2,a,2,x\n"), json!({ "inputs": "x" }), 4, 4, "`NA` or `?`"),
        (
            days("1,a,1,2\n1,a,2,3\n"),
            json!({ "time": "t" }),
            3,
            1,
            "does not come after `1` of line 2",
        ),
        (
            days("2,a,1,2\n1,b,2,3\n1,a,2,3\n"),
            json!({ "time": "t", "group": "g" }),
            4,
            1,
            "`2` of line 2",
        ),
        (
            days("2024-03-01,a,1,2\n3/2/2024,a,2,3\n"),
            json!({ "time": "t" }),
            3,
            1,
            "`2024-03-01 05:30`",
        ),
        (days("1,a,1,2\nx,a,2,3\n"), json!({ "time": "t" }), 3, 1, "a number, as the first"),
        (days("1,,1,2\n"), json!({ "group": "g" }), 2, 2, "is missing: each line belongs"),
        (days("1,a,1,2\n2,a,,3\n"), json!({ "missing": "refuse" }), 3, 3, "expects a number"),
        ("a;y\n1;2\n".into(), json!({}), 1, 0, "separated by `,`, not by ';'"),
        ("1,2\n3,4\n".into(), json!({}), 1, 0, "header line with the names"),
        ("a,b,a\n1,2,3\n".into(), json!({}), 1, 3, "column 1 has the same name"),
        ("a,y\n".into(), json!({}), 0, 0, "a line for each step"),
        ("".into(), json!({}), 0, 0, "is empty"),
        (
            "y\n1\n1\n1\n1\n1\n1\n1\n1\n1\n1\n".into(),
            json!({ "test": 0.4, "validation": 0.3 }),
            0,
            0,
            "never changes",
        ),
        (
            "y\n1e300\n-1e300\n1\n1\n1\n1\n1\n1\n1\n1\n".into(),
            json!({ "test": 0.4, "validation": 0.3 }),
            0,
            0,
            "too large to square",
        ),
        (
            "y\n1\n2\n1\n1\n1\n1\n1\n1\n1e300\n1\n".into(),
            json!({ "test": 0.4, "validation": 0.3 }),
            10,
            1,
            "too large beside",
        ),
        (
            "x,y\n,2\n,3\n,4\n1,1\n1,1\n1,1\n1,1\n1,1\n".into(),
            json!({ "test": 0.3, "validation": 0.3, "inputs": ["x"] }),
            0,
            0,
            "no value in the training part",
        ),
        ("y\n1\n2\n3\n".into(), json!({}), 0, 0, "3 steps are too few: the validation part"),
        (
            "y\n1\n2\n3\n4\n?\n?\n?\n?\n5\n6\n".into(),
            json!({ "test": 0.4, "validation": 0.3 }),
            0,
            0,
            "the validation split has no step",
        ),
    ] {
        match task(&text, &options, 1).err() {
            Some(Error::Cell { path, line: l, column: c, message: m, .. }) => {
                assert!(path.ends_with("own.csv"));
                assert_eq!((l, c), (line, column), "{m}");
                assert!(m.contains(message), "{m}");
            }
            Some(Error::Data { path, line: l, message: m }) => {
                assert!(path.ends_with("own.csv"));
                assert_eq!((l, 0), (line, column), "{m}");
                assert!(m.contains(message), "{m}");
            }
            other => panic!("{message}: {other:?}"),
        }
    }
    let error = task(&days("1,a,1,2\n2,a,one,3\n"), &json!({}), 1).err().unwrap().to_string();
    assert!(error.contains("line 3, column 3 (`x`): `one`"), "{error}");
}

#[test]
fn wrong_options_are_errors_that_say_what_would_be_right() {
    let text = counting(&[100, 50]);
    for (options, length, option, message) in [
        (json!({ "target": "x" }), 2, "target", "no column `x`"),
        (json!({ "target": "x" }), 2, "target", "there are: `of`, `day`, `y`"),
        (json!({ "target": [] }), 2, "target", "at least one"),
        (json!({ "target": 3 }), 2, "target", "a text, or a list of texts"),
        (json!({ "target": ["y", "y"] }), 2, "target", "`y` twice"),
        (json!({ "inputs": ["y", "z"] }), 2, "inputs", "no column `z`"),
        (json!({ "time": "when" }), 2, "time", "no column `when`"),
        (json!({ "group": "" }), 2, "group", "no column ``"),
        (json!({ "time": "day", "inputs": ["day"] }), 2, "inputs", "no number to use"),
        (json!({ "group": "y" }), 2, "target", "no number to use"),
        (json!({ "horizon": 0 }), 2, "horizon", "must lie in"),
        (json!({ "season": 0 }), 2, "season", "must lie in"),
        (
            json!({ "season": 105, "horizon": 3, "eval_stride": 11 }),
            2,
            "season",
            "less than the 105 steps",
        ),
        (json!({ "season": 12, "eval_stride": 3 }), 2, "eval_stride", "the 12 steps of the season"),
        (json!({ "validation": 0.0 }), 2, "validation", "between 0 and 1"),
        (json!({ "test": 1.0 }), 2, "test", "between 0 and 1"),
        (json!({ "test": 0.6, "validation": 0.4 }), 2, "validation", "nothing to learn"),
        (json!({ "missing": "mean" }), 2, "missing", "unknown variant"),
        (json!({ "metric": "mape" }), 2, "metric", "unknown variant"),
        (
            json!({ "unit": "m", "target": ["y", "day"] }),
            2,
            "unit",
            "one unit for each target: 1 for 2",
        ),
        (json!({ "metric": "mase", "target": ["y", "day"] }), 2, "metric", "of one target"),
        (
            json!({}),
            0,
            "length",
            "must lie in 1..=14 (steps to look back within the 15 of the validation",
        ),
        (json!({}), 15, "length", "unless `look_back = true`"),
        (json!({ "look_back": true }), 105, "length", "must lie in 1..=104"),
        (json!({ "file": " " }), 2, "file", "must be the path"),
    ] {
        let (_folder, mut given) = file(&text, &json!({}));
        given.extend(options.as_object().cloned().unwrap());
        match of(&given, length).err() {
            Some(Error::Option { option: o, message: m }) => {
                assert_eq!(o, option, "{m}");
                assert!(m.contains(message), "{m}");
            }
            other => panic!("{message}: {other:?}"),
        }
    }
    let mut text = String::from("y\n");
    (0..40).for_each(|step| writeln!(text, "{}", step % 4).unwrap());
    let error = task(&text, &json!({ "metric": "mase", "season": 4 }), 2).err();
    assert!(matches!(error, Some(Error::Option { option, .. }) if option == "metric"));
    let others = task(&text, &json!({ "season": 4 }), 2).unwrap().other_metrics();
    assert_eq!(others.iter().map(Metric::name).collect::<Vec<_>>(), ["MAE"]);
    let missing = of(json!({ "file": "nowhere.csv" }).as_object().unwrap(), 2).err();
    assert!(matches!(missing, Some(Error::MissingData { .. })));
}
