//! Draws every kind of plot, and the hard cases, from made-up records:
//! `cargo run --release -p unroll-report --example gallery -- DIR`.

#[path = "../tests/records/mod.rs"]
mod records;

use std::path::PathBuf;

use unroll_results::Summary;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".into()));
    let mut cases = vec![("full", records::full())];
    cases.extend(records::edge_cases());
    for (name, records) in cases {
        let summary = Summary::from_records(&records);
        for path in unroll_report::plots::write_all(&dir.join(name), &summary)? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
