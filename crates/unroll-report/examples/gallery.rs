//! Makes reports with every kind of plot, and of the hard cases, from made-up records:
//! `cargo run --release -p unroll-report --example gallery -- DIR`.

#[path = "../tests/records/mod.rs"]
mod records;

use std::path::PathBuf;

use unroll_report::{Report, ReportContext};
use unroll_results::Summary;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".into()));
    let mut cases = vec![("full", records::full())];
    cases.extend(records::edge_cases());
    for (name, records) in cases {
        let summary = Summary::from_records(&records);
        let context = ReportContext { experiment: name.into(), ..ReportContext::default() };
        let folder = dir.join(name);
        std::fs::create_dir_all(&folder)?;
        for path in Report::new(&context, &summary).write(&folder)? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
