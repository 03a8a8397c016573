//! Every plot and text from realistic and from hard records.

mod records;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use unroll_report::{Comparison, Report, ReportContext, TrialLine, plots, terminal};
use unroll_results::record::TrialKind;
use unroll_results::side_by_side::SideBySide;
use unroll_results::{Summary, TrialRecord};

fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(dir).unwrap().map(entry).collect()
}

fn context() -> ReportContext {
    ReportContext {
        experiment: "long-lags".into(),
        question: "Which architecture keeps a number over a long lag?\n".into(),
        analysis: "A series counts as solving a length when all seeds do.".into(),
        commands: vec!["unroll run experiments/long-lags.toml".into()],
        environment: vec!["unroll 0.1.0".into(), "cpu: 2 threads, AVX-512".into()],
        manifest: "5f0c".into(),
        trials: [0, 1]
            .map(|seed| TrialLine {
                id: format!("0123456789abcdef-{seed}"),
                kind: "quality".into(),
                series: "lstm".into(),
                task: "adding".into(),
                length: 50,
                seed,
            })
            .into(),
        missing: 1,
        skipped: vec!["3 cells skipped: no data".into()],
    }
}

/// A small sweep: two series, two lengths, three seeds, gradients and times.
fn small() -> Vec<TrialRecord> {
    let mut found = Vec::new();
    for length in [50, 100] {
        for series in ["rnn", "lstm"] {
            found.extend([0, 1, 2].map(|seed| records::adding(series, length, seed)));
        }
    }
    records::diverge(&mut found[1], 40);
    records::fail(&mut found[8]);
    found.push(records::gradient("lstm", 100, 0));
    found.push(records::throughput("lstm", 128, 0));
    found
}

#[test]
fn every_kind_of_plot_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let summary = Summary::from_records(&records::full());
    let paths = plots::write_all(dir.path(), &summary).unwrap();
    let mut names: Vec<&str> =
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    names.sort_unstable();
    let expected = [
        "alignment-parity-40-lstm",
        "curves-adding",
        "gradient-adding-200",
        "heat-adding",
        "lengths-parity-40",
        "metric-adding",
        "metric-parity",
        "pareto-adding",
        "profile",
        "ranks",
        "throughput-adding",
    ];
    let files: Vec<String> = expected
        .iter()
        .flat_map(|name| ["png", "svg"].map(|end| format!("{name}.{end}")))
        .collect();
    assert_eq!(names, files);
    for (name, bytes) in bytes(dir.path()) {
        let starts = if name.ends_with("png") { &b"\x89PNG\r\n"[..] } else { b"<svg " };
        assert!(bytes.starts_with(starts), "{name}");
    }
}

#[test]
fn hard_records_make_plots_and_texts_without_panic() {
    for (name, records) in records::edge_cases() {
        let dir = tempfile::tempdir().unwrap();
        let summary = Summary::from_records(&records);
        let paths = plots::write_all(dir.path(), &summary).unwrap();
        assert_eq!(paths.len(), 2 * plots::list(&summary).len(), "{name}");
        let nothing = ["empty", "all-failed"].contains(&name);
        assert_eq!(paths.is_empty(), nothing, "{name}");
        for (file, bytes) in bytes(dir.path()).into_iter().filter(|(file, _)| file.ends_with("svg"))
        {
            let text = String::from_utf8(bytes).unwrap();
            for bad in ["NaN", "inf", "-2147483648", "2147483647"] {
                assert!(!text.contains(bad), "{name}/{file} has {bad}");
            }
        }
        let report = Report::new(&context(), &summary);
        assert!(report.markdown().contains("## Setting"), "{name}");
        let page = report.html().unwrap();
        assert!(page.contains("</html>") && page.contains(">Answer</h2>"), "{name}");
        for bad in ["=\"NaN", "\"-inf", "M-9223372036854775808"] {
            assert!(!page.contains(bad), "{name} has {bad}");
        }
        let tables = terminal::summary_table(&summary)
            + &terminal::gradient_table(&summary)
            + &terminal::throughput_table(&summary);
        assert!(tables.lines().all(|line| line.chars().count() <= 100), "{name}\n{tables}");
    }
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for dir in &dirs {
        let summary = Summary::from_records(&small());
        Report::new(&context(), &summary).write(dir.path()).unwrap();
    }
    for folder in ["plots", "."] {
        let files = |dir: &tempfile::TempDir| {
            let mut names: Vec<_> = fs::read_dir(dir.path().join(folder))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file())
                .collect();
            names.sort();
            names.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
        };
        let [first, second] = dirs.each_ref().map(files);
        assert!(first.len() >= 2 && first == second, "{folder}");
    }
}

#[test]
fn every_plot_of_a_report_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let summary = Summary::from_records(&small());
    let [path, _] = Report::new(&context(), &summary).write(dir.path()).unwrap();
    let report = fs::read_to_string(path).unwrap();
    let links: Vec<&str> =
        report.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert_eq!(links.len(), plots::list(&summary).len());
    for link in links {
        assert!(dir.path().join(link).is_file(), "{link}");
    }
}

#[test]
fn terminal_tables() {
    let summary = Summary::from_records(&small());
    insta::assert_snapshot!("terminal_quality", terminal::summary_table(&summary));
    let several = Summary::from_records(&records::full());
    insta::assert_snapshot!("terminal_quality_of_tasks", terminal::summary_table(&several));
    insta::assert_snapshot!("terminal_gradients", terminal::gradient_table(&summary));
    insta::assert_snapshot!("terminal_throughput", terminal::throughput_table(&summary));
}

#[test]
fn markdown_report() {
    let summary = Summary::from_records(&small());
    insta::assert_snapshot!("markdown_report", Report::new(&context(), &summary).markdown());
}

#[test]
fn the_setting_tells_kinds_and_series_apart() {
    let mut all = records::full();
    for record in &mut all {
        if record.kind == TrialKind::Gradient {
            (record.cell.dtype, record.cell.batch_size) = ("f64".into(), 8);
        }
        let transformer = record.cell.architecture == "transformer";
        if transformer {
            record.cell.form = "reference".into();
        }
        if let Some(cost) = &mut record.cost {
            cost.parameters = if transformer { 3841 } else { 4641 };
        }
    }
    let text = Report::new(&context(), &Summary::from_records(&all)).markdown();
    for line in [
        "- Architectures matched by: parameters (not nearly: transformer has 3841, 17 % fewer than the \
         4641 of ",
        "- Batch size: quality 32; gradient 8; throughput 32\n",
        "- Number type: quality f32; gradient f64; throughput f32\n",
        "- Form: fused: rnn, gru, lstm, mha; reference: transformer\n",
    ] {
        assert!(text.contains(line), "{line}: {}", text.split("## Which").next().unwrap());
    }

    // Nothing was to be equal: what is not is said if it is much.
    for record in &mut all {
        record.cell.matched_by = "hidden_size".into();
    }
    let text = |records: &[_]| Report::new(&context(), &Summary::from_records(records)).markdown();
    let line = text(&all);
    assert!(line.contains("- Architectures matched by: hidden_size\n"), "{line}");
    for record in all.iter_mut().filter(|record| record.cell.architecture == "transformer") {
        record.cost.as_mut().unwrap().parameters = 27_846;
    }
    let line = text(&all);
    let words = "hidden_size (parameters differ: transformer has 27846, 6.0 times the 4641 of ";
    assert!(line.contains(words), "{line}");
}

/// Text that would be HTML, a link, an attribute, a script or a table's end.
const HOSTILE: &str = "x<img src=x onerror=alert(1)>\"' |](javascript:y) </script><!-- `";

#[test]
fn text_of_an_experiment_is_text() {
    let mut records = small();
    for record in &mut records {
        record.cell.series = format!("{} {HOSTILE}", record.cell.series);
        record.cell.task = HOSTILE.into();
        if let Some(quality) = &mut record.quality {
            quality.metric = HOSTILE.into();
            quality.baselines[0].name = HOSTILE.into();
        }
    }
    let summary = Summary::from_records(&records);
    let text = HOSTILE.to_owned();
    let context = ReportContext {
        experiment: text.clone(),
        // Markdown: a link in it is the author's own.
        question: text.replace("](", "] ("),
        analysis: text.replace("](", "] ("),
        commands: vec![text.clone()],
        environment: vec![text],
        ..context()
    };
    let report = Report::new(&context, &summary);
    let page = report.html().unwrap();
    assert!(page.contains("x&lt;img src=x"));
    assert!(!page.contains("<img") && !page.contains("<!-- "), "an element was let through");
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(!page.contains("onerror=alert(1)>"));
    let markdown = report.markdown();
    let code = markdown.split("```").nth(1).unwrap_or_default();
    assert!(code.contains("<img"), "code stands as it is");
    let rest: String = markdown.split("```").step_by(2).collect();
    assert!(!rest.contains("<img") && !rest.contains("<script"));
    assert!(!rest.contains("|](javascript"), "a name is no link");
}

#[test]
fn a_page_needs_nothing_from_elsewhere() {
    let summary = Summary::from_records(&records::full());
    let page = Report::new(&context(), &summary).html().unwrap();
    for reference in ["src=", "<link", "@import", "url(", "http:", "https:"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn both_files_say_the_same() {
    let summary = Summary::from_records(&records::full());
    let report = Report::new(&context(), &summary);
    let (page, markdown) = (report.html().unwrap(), report.markdown());
    let titles: Vec<&str> = markdown.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(titles.len() > 6, "{titles:?}");
    for title in titles {
        assert!(page.contains(&format!(">{title}</h2>")), "{title}");
    }
    assert_eq!(page.matches("<figure").count(), markdown.matches("![").count());
    let rows = markdown.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---")).count();
    assert_eq!(page.matches("<tr>").count(), rows);
}

#[test]
fn few_seeds_have_no_intervals_and_five_have() {
    let of = |seeds: u64| {
        let records: Vec<TrialRecord> = ["rnn", "lstm"]
            .iter()
            .flat_map(|series| (0..seeds).map(|seed| records::adding(series, 100, seed)))
            .collect();
        let summary = Summary::from_records(&records);
        let report = Report::new(&context(), &summary).markdown();
        let start = report.find("## Which").unwrap();
        report[start..start + report[start..].find("## Task").unwrap()].to_owned()
    };
    assert!(of(5).contains(" [1.00..1.00]"), "{}", of(5));
    assert!(!of(4).contains(".."), "{}", of(4));
    assert!(
        of(2).contains(
            "2 seeds cannot single one out of 2 series, whatever they show: 4 can at the least."
        ) && of(2).contains("more seeds would (now 2)"),
        "{}",
        of(2)
    );
}

/// Rows of the Markdown table whose first cell is a series.
fn rows_of<'a>(report: &'a str, series: &str) -> Vec<Vec<&'a str>> {
    let start = format!("| {series} |");
    let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
    report.lines().filter(|line| line.starts_with(&start)).map(cells).collect()
}

#[test]
fn rounding_is_flat_and_has_no_law() {
    let summary = Summary::from_records(&records::ends());
    let report = Report::new(&context(), &summary).markdown();
    let rows = rows_of(&report, "rnn, init=orthogonal");
    let row = rows.iter().find(|row| row.len() == 14).unwrap();
    assert_eq!(row[5..8], ["flat", "> 59", "> 59"], "{row:?}");
    assert_eq!(row[9..], ["–", "–", "–", "–", "1..59"], "{row:?}");
    // Two seeds: horizon, reach and exponent with their ranges.
    let rows = rows_of(&report, "rnn, bidirectional=true");
    let row = rows.iter().find(|row| row.len() == 14).unwrap();
    assert_eq!(row[6], "7.87 [7.81..7.94]");
    assert_eq!(row[11].split_once(' ').map(|(_, range)| range.starts_with('[')), Some(true));
}

#[test]
fn what_f64_has_lost_is_not_said_to_be_zero() {
    let of = |records: &[TrialRecord]| {
        let summary = Summary::from_records(records);
        Report::new(&context(), &summary).html().unwrap()
    };
    let lost = of(&records::ends());
    assert!(lost.contains("as far as one backward pass in float64"));
    assert!(!lost.contains("norm is exactly 0"));
    let mut window = vec![records::gradient("lstm", 60, 0)];
    for point in window[0].gradient.iter_mut().filter(|point| point.distance > 20) {
        (point.ln_mean_norm, point.mean_log_norm) = (f64::NEG_INFINITY, None);
    }
    let window = of(&window);
    assert!(window.contains("norm is exactly 0") && !window.contains("one backward pass"));
}

#[test]
fn horizons_beyond_what_was_measured_are_one() {
    let summary = Summary::from_records(&records::horizons());
    let report = Report::new(&context(), &summary);
    let (markdown, page) = (report.markdown(), report.html().unwrap());
    assert!(markdown.contains("Horizons beyond 29 steps"), "{markdown}");
    let horizon = |series: &str| {
        let rows = rows_of(&markdown, series);
        rows.iter().find(|row| row.len() == 5 && row[1] == "5").unwrap()[2].to_owned()
    };
    assert_eq!(horizon("transformer"), "> 29");
    assert!(horizon("gru").ends_with("..> 29]"), "{}", horizon("gru"));
    assert!(page.contains("largest distance measured, 29"));
    assert!(page.contains("horizon before training (steps) beyond 2.9e1"));
}

#[test]
fn titles_of_axes_fit_beside_few_rows() {
    let dir = tempfile::tempdir().unwrap();
    plots::write_all(dir.path(), &Summary::from_records(&records::horizons())).unwrap();
    let svg = fs::read_to_string(dir.path().join("horizon-adding.svg")).unwrap();
    let title = svg.split("<text ").skip(1).find(|text| text.contains("longest length solved"));
    let title = title.unwrap();
    let number = |name: &str| -> f64 {
        let from = title.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
        title[from..].split('"').next().unwrap().parse().unwrap()
    };
    assert!(number(" y") - number("textLength") / 2.0 >= 0.0, "{title}");
}

#[test]
fn one_series_is_named_once() {
    let summary = Summary::from_records(&[records::gradient("lstm", 60, 0)]);
    let report = Report::new(&context(), &summary).markdown();
    let start = report.find("99 % of the input's gradient").unwrap();
    let sentence = report[start..].lines().next().unwrap();
    assert_eq!(sentence.matches("lstm").count(), 1, "{sentence}");
    assert!(!sentence.contains("farthest"), "{sentence}");
}

#[test]
fn huge_and_tiny_values_make_a_page() {
    let mut found = Vec::new();
    for (series, value) in [("rnn", f64::MAX), ("lstm", 5e-324), ("gru", -f64::MAX)] {
        for seed in 0..5 {
            let mut record = records::adding(series, 100, seed);
            if let Some(quality) = &mut record.quality {
                quality.test = value;
            }
            found.push(record);
        }
    }
    let summary = Summary::from_records(&found);
    let page = Report::new(&context(), &summary).html().unwrap();
    assert!(page.contains("</html>"));
}

#[test]
fn two_thousand_trials_are_quick_and_small() {
    let mut found = Vec::new();
    for series in 0..20 {
        for length in [50, 100, 200, 400, 800] {
            for seed in 0..20 {
                let mut record = records::adding(records::ARCHITECTURES[series % 5], length, seed);
                record.cell.series = format!("{}, variant={series}", record.cell.architecture);
                record.id = format!("{series}-{length}-{seed}");
                found.push(record);
            }
        }
    }
    assert_eq!(found.len(), 2000);
    let begin = std::time::Instant::now();
    let summary = Summary::from_records(&found);
    let page = Report::new(&context(), &summary).html().unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    println!("{} bytes in {seconds:.2} s", page.len());
    assert!(page.len() < 5_000_000, "{}", page.len());
    assert!(seconds < 10.0, "{seconds}");
}

/// A quality record with this test metric.
fn scored(series: &str, seed: u64, test: f64) -> TrialRecord {
    let mut record = records::adding(series, 50, seed);
    if let Some(quality) = &mut record.quality {
        (quality.test, quality.solved, quality.solved_at) = (test, false, None);
        quality.at_chance = test >= quality.baselines[0].value;
    }
    record
}

#[test]
fn what_is_no_better_than_chance_is_not_recommended() {
    // The baseline is 1/6. One run of three is below it, the mean is not.
    let mut records: Vec<TrialRecord> = Vec::new();
    for (seed, test) in [0.15, 0.18, 0.19].into_iter().enumerate() {
        records.push(scored("rnn", seed as u64, test));
        records.push(scored("lstm", seed as u64, 0.3 + test));
    }
    records::diverge(&mut records[3], 40);
    let text = Report::new(&context(), &Summary::from_records(&records)).markdown();
    let text = &text[text.find("### adding").unwrap()..text.find("## Task").unwrap()];
    assert!(text.contains("Nothing to recommend. Ahead is **rnn**"), "{text}");
    assert!(
        text.contains("as a whole no better than the baseline “always answer 1” (0.167)"),
        "{text}"
    );
    // Noise is not compared, and no seeds are asked for; the table has what diverged.
    assert!(!text.contains("separate") && !text.contains("more seed"), "{text}");
    assert!(text.contains("1 diverged |"), "{text}");
    // No criterion, nothing solved.
    assert!(text.contains("| – | – |") && !text.contains("0/3"), "{text}");
}

#[test]
fn a_fitted_baseline_above_all_series_is_named() {
    let mut records: Vec<TrialRecord> = Vec::new();
    for seed in 0..3 {
        records.push(scored("rnn", seed, 0.1 + 0.001 * seed as f64));
        records.push(scored("lstm", seed, 0.05));
    }
    let with_ridge = |records: &mut [TrialRecord], value: f64| {
        for record in records {
            let baselines = &mut record.quality.as_mut().unwrap().baselines;
            baselines.truncate(1);
            baselines.push(unroll_results::record::BaselineValue {
                name: "ridge regression".into(),
                value,
                fitted: true,
            });
        }
    };
    let markdown = |records: &[TrialRecord]| {
        Report::new(&context(), &Summary::from_records(records)).markdown()
    };
    with_ridge(&mut records, 0.04);
    let text = markdown(&records);
    assert!(
        text.contains("Ridge regression reaches 0.0400, which no series does here on the whole."),
        "{text}"
    );
    assert!(
        text.contains("Fitted to the training data, at length 50: ridge regression (0.0400)."),
        "{text}"
    );
    assert!(text.contains("3 of 3 better than the best trivial baseline"), "{text}");
    with_ridge(&mut records, 0.06);
    assert!(!markdown(&records).contains("Ridge regression reaches"));
}

/// A report of series with these test metrics, of which those up to 0.01 are solved.
fn of_values(series: &[(&str, &[f64])]) -> String {
    Report::new(&context(), &Summary::from_records(&with_values(series))).markdown()
}

fn with_values(series: &[(&str, &[f64])]) -> Vec<TrialRecord> {
    let mut found = Vec::new();
    for (name, values) in series {
        for (seed, &value) in (0..).zip(*values) {
            let mut record = scored(name, seed, value);
            if let Some(quality) = &mut record.quality {
                (quality.solved, quality.solved_at) = (value <= 0.01, Some(0.01));
                quality.steps_to_threshold = None;
            }
            found.push(record);
        }
    }
    found
}

#[test]
fn one_worse_series_is_ruled_out_and_none_is_recommended() {
    let one_missed = [0.005, 0.005, 0.005, 0.005, 0.005, 0.1];
    let text = of_values(&[("rnn", &[0.17; 6]), ("gru", &[0.005; 6]), ("lstm", &one_missed)]);
    for part in [
        "The evidence rules out **rnn**, and does not single one out of **gru** and **lstm**. Ahead is **gru**: \
         MSE 0.00500",
        "What to take is then a practical choice by cost, no finding: **gru**, which is ahead",
        "On adding at length 50, **gru** is ahead: ",
        "- **rnn** is worse: as a whole no better than the best trivial baseline, probability",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Use **"), "{text}");
    let text = of_values(&[("rnn", &[0.17; 6]), ("gru", &[0.005; 6]), ("lstm", &[0.1; 6])]);
    assert!(text.contains("Use **gru**: ") && text.contains("**gru** does best: "), "{text}");
    assert!(!text.contains("practical choice by cost, no finding: "), "{text}");
    // Level is not ahead.
    let text = of_values(&[("rnn", &[0.17; 6]), ("gru", &[0.005; 6]), ("lstm", &[0.004; 6])]);
    assert!(text.contains("of **gru** and **lstm**. First is **"), "{text}");
    assert!(text.contains(", level with others, is first: MSE"), "{text}");
}

#[test]
fn the_answer_counts_where_one_is_singled_out() {
    let mut records = Vec::new();
    for (length, lstm) in [(50, 0.1), (100, 0.005), (200, 0.2)] {
        let gru = if length == 200 { 0.2 } else { 0.005 };
        let of_length =
            with_values(&[("rnn", &[0.2; 6]), ("gru", &[gru; 6]), ("lstm", &[lstm; 6])]);
        records.extend(of_length.into_iter().map(|mut record| {
            record.cell.length = length;
            record.id = format!("{}-{length}", record.id);
            record
        }));
    }
    let text = Report::new(&context(), &Summary::from_records(&records)).markdown();
    for part in [
        "Over the 2 of 3 combinations of task and length in which something was learned, **gru** has the \
         best average rank (1.25 of 3 series) and is unbeaten in 2 of them; its interquartile mean skill over \
         all 3 is ",
        "The evidence singles one series out at 1 of 2 tasks and lengths; at 1 it rules some out and leaves \
         more than one. Of 4 comparisons with the best series there, 3 are decided",
        "interquartile means and leave out the 1 in which no series is better",
        "| gru | 1.25 | 2/2 |",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_run_that_stopped_by_validation_and_missed_on_the_test_is_named() {
    let mut records = with_values(&[("gru", &[0.005, 0.0118]), ("lstm", &[0.005, 0.005])]);
    let quality = records[1].quality.as_mut().unwrap();
    (quality.steps, quality.steps_to_threshold, quality.validation) = (300, Some(300), 0.00977);
    let summary = Summary::from_records(&records);
    let text = Report::new(&context(), &summary).markdown();
    for part in [
        "count as solved: gru at length 50, seed 1. They might",
        "; all that sets them apart is one run that stopped when validation reached the threshold and missed it \
         on the test.",
        "| 1/2, 1 missed on test |",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("more seed"), "{text}");
    assert!(terminal::summary_table(&summary).contains("Missed on test: stopped"));
    records[1].quality.as_mut().unwrap().steps = 1000;
    let text = Report::new(&context(), &Summary::from_records(&records)).markdown();
    assert!(!text.contains("issed on test") && text.contains("more seeds would (now 2)"), "{text}");
}

#[test]
fn speeds_and_fronts_say_what_they_are_of() {
    let mut records = with_values(&[("gru", &[0.005; 3]), ("lstm", &[0.1; 3])]);
    let markdown = |records: &[TrialRecord]| {
        Report::new(&context(), &Summary::from_records(records)).markdown()
    };
    let text = markdown(&records);
    assert!(text.contains("| run tokens/s | peak |") && !text.contains("step tokens/s"), "{text}");
    for series in ["gru", "lstm"] {
        records.push(records::throughput(series, 50, 0));
    }
    let text = markdown(&records);
    assert!(
        text.contains("| step tokens/s | peak |") && text.contains("| run tokens/s |\n"),
        "{text}"
    );
    assert!(
        text.contains(
            "Front of all criteria: metric (up to solved), longest length solved, step tokens/s and \
             parameters."
        ),
        "{text}"
    );
    let page = Report::new(&context(), &Summary::from_records(&records)).html().unwrap();
    assert!(page.contains("two criteria alone"));
}

#[test]
fn profiles_step_where_runs_are() {
    let mut records = Vec::new();
    for length in [50, 100] {
        // Skills of 0.37 and 0.731 on the way from 1/6 to 0.
        for (series, skill) in [("gru", 0.37), ("lstm", 0.731)] {
            for mut record in with_values(&[(series, &[(1.0 - skill) / 6.0; 2])]) {
                record.cell.length = length;
                record.id = format!("{}-{length}", record.id);
                records.push(record);
            }
        }
    }
    let summary = Summary::from_records(&records);
    let overall = unroll_results::Decisions::of(&summary).overall.unwrap();
    for (series, skill) in overall.series.iter().zip([0.37, 0.731]) {
        let falls: Vec<f64> =
            series.profile.windows(2).filter(|w| w[1].1 < w[0].1).map(|w| w[1].0).collect();
        assert_eq!(falls.len(), 1, "{series:?}");
        assert!((falls[0] - skill).abs() < 1e-12, "{series:?}");
    }
}

#[test]
fn a_comparison_names_no_best_where_nothing_was_learned() {
    let markdown = |a: &[TrialRecord], b: &[TrialRecord]| {
        let found = SideBySide::of(a, b);
        Comparison::new(["a", "b"], [&context(), &context()], &found).markdown()
    };
    // The baseline is 1/6. Single runs are below it, no series is as a whole.
    let noise = |first: &str, second: &str| {
        with_values(&[(first, &[0.16, 0.17, 0.18, 0.18, 0.18]), (second, &[0.19; 5])])
    };
    let text = markdown(&noise("gru", "lstm"), &noise("lstm", "gru"));
    assert!(text.contains("Nothing was learned in either, at any task and length."), "{text}");
    assert!(!text.contains("is ahead"), "{text}");
    let learned = with_values(&[("gru", &[0.005; 5]), ("lstm", &[0.1; 5])]);
    let text = markdown(&noise("gru", "lstm"), &learned);
    assert!(
        text.contains("On adding at length 50, nothing was learned in A; **gru** is ahead in B."),
        "{text}"
    );
    let open = with_values(&[("gru", &[0.1; 5]), ("lstm", &[0.1, 0.1, 0.1, 0.1, 0.09])]);
    let text = markdown(&learned, &open);
    assert!(
        text.contains(
            "**gru** is ahead in A and **lstm** in B; the evidence singles out the one in A alone."
        ),
        "{text}"
    );
    let text = markdown(&learned, &learned);
    assert!(text.contains("The series ahead is the same in both at every task"), "{text}");
}
