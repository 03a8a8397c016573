//! Every plot and text from realistic and from hard records.

mod records;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use unroll_report::{ReportContext, markdown, plots, terminal};
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
        "curves-adding",
        "gradient-adding-200",
        "lengths-parity-40",
        "metric-adding",
        "metric-parity",
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
        let report = markdown::render(&context(), &summary);
        assert!(report.contains("## Setting"), "{name}");
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
        plots::write_all(dir.path(), &summary).unwrap();
        markdown::write(dir.path(), &context(), &summary).unwrap();
    }
    let [first, second] = dirs.each_ref().map(|dir| bytes(dir.path()));
    assert!(first.len() > 6);
    assert!(first == second);
}

#[test]
fn every_plot_of_a_report_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let summary = Summary::from_records(&small());
    plots::write_all(&dir.path().join("plots"), &summary).unwrap();
    let path = markdown::write(dir.path(), &context(), &summary).unwrap();
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
    insta::assert_snapshot!("markdown_report", markdown::render(&context(), &summary));
}
