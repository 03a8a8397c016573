//! `unroll bench counts`: instructions instead of seconds. They do not depend on what else the machine
//! does, so that a hosted runner can fail a build by them.
//!
//! A case runs under Valgrind's cachegrind with one thread, fixed seeds and the portable kernels, which
//! take the same way on every machine of the kind; once with 4 iterations and once with 24. A twentieth of
//! the difference is an iteration, without starting up, and with what happens now and then (a page for the
//! allocator, a hash table that grows) at its share.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cases::Case;
use super::programs::{self, ProgramError};

/// Version of the report's layout.
pub const SCHEMA: u32 = 1;

/// Iterations of the two runs.
const ITERATIONS: [u64; 2] = [4, 24];

/// The instructions of all cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// How much more than the limit is allowed (0.02: 2 %).
    pub tolerance: f64,
    /// By case, in order.
    pub cases: Vec<Count>,
}

/// The instructions of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// [`Case::id`].
    pub id: String,
    /// Instructions per iteration.
    pub instructions: u64,
    /// The limit, if the file has one.
    pub limit: Option<u64>,
    /// Whether it is kept.
    pub kept: bool,
}

impl Report {
    /// Whether all limits are kept.
    pub fn kept(&self) -> bool {
        self.cases.iter().all(|count| count.kept)
    }

    /// The cases without a limit: nothing is held to anything there.
    pub fn without_limit(&self) -> usize {
        self.cases.iter().filter(|count| count.limit.is_none()).count()
    }

    /// A comment for a pull request.
    pub fn markdown(&self) -> String {
        let over = self.cases.iter().filter(|count| !count.kept).count();
        let mark = match (over, self.without_limit()) {
            (0, 0) => "✅",
            (0, _) => "❔",
            _ => "❌",
        };
        let mut text = format!(
            "### {mark} Instructions: {over} of {} cases over the limit, {} without one\n\n\
             | case | instructions | limit | change |\n|---|---:|---:|---:|\n",
            self.cases.len(),
            self.without_limit()
        );
        for count in &self.cases {
            let Count { id, instructions, kept, .. } = count;
            let (limit, change) = match count.limit {
                Some(limit) => (
                    limit.to_string(),
                    format!("{:+.2} %", 100.0 * (*instructions as f64 / limit as f64 - 1.0)),
                ),
                None => ("–".to_owned(), "–".to_owned()),
            };
            let change = if *kept { change } else { format!("**{change}**") };
            text.push_str(&format!("| `{id}` | {instructions} | {limit} | {change} |\n"));
        }
        text
    }

    /// A table for a terminal.
    pub fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "case",
            "instructions",
            "limit",
            "change",
            "",
        ]);
        for count in &self.cases {
            let change = count.limit.map(|limit| {
                format!("{:+.2} %", 100.0 * (count.instructions as f64 / limit as f64 - 1.0))
            });
            table.add_row([
                count.id.clone(),
                count.instructions.to_string(),
                count.limit.map_or_else(|| "–".to_owned(), |limit| limit.to_string()),
                change.unwrap_or_else(|| "–".to_owned()),
                match (count.kept, count.limit) {
                    (false, _) => "over the limit",
                    (true, None) => "no limit",
                    (true, Some(_)) => "",
                }
                .to_owned(),
            ]);
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n") + "\n"
    }
}

/// Counts the cases of a program.
///
/// # Errors
/// When Valgrind or the program cannot be run.
pub fn count(
    program: &Path,
    cases: &[Case],
    tolerance: f64,
    mut progress: impl FnMut(usize),
) -> Result<Report, ProgramError> {
    let mut counts = Vec::with_capacity(cases.len());
    for (done, case) in cases.iter().enumerate() {
        let [few, many] = ITERATIONS.map(|iterations| instructions(program, case, iterations));
        let instructions = many?.saturating_sub(few?) / (ITERATIONS[1] - ITERATIONS[0]);
        if instructions == 0 {
            return Err(ProgramError::Answer {
                command: format!(
                    "{} bench layer {}",
                    program.display(),
                    case.arguments().join(" ")
                ),
                what: "no instructions for an iteration: it does not run the case".to_owned(),
            });
        }
        let limit = case.instructions;
        let most = limit.map(|limit| limit as f64 * (1.0 + tolerance));
        counts.push(Count {
            id: case.id(),
            instructions,
            limit,
            kept: most.is_none_or(|most| instructions as f64 <= most),
        });
        progress(done + 1);
    }
    Ok(Report { schema: SCHEMA, tolerance, cases: counts })
}

fn instructions(program: &Path, case: &Case, iterations: u64) -> Result<u64, ProgramError> {
    let mut command = Command::new("valgrind");
    command
        .args([
            "--tool=cachegrind",
            "--cache-sim=no",
            "--cachegrind-out-file=/dev/null",
            "--error-exitcode=0",
        ])
        .arg(program)
        .args(["bench", "layer", "--json", "--threads", "1", "--iterations"])
        .arg(iterations.to_string())
        .args(case.arguments())
        .env("UNROLL_ISA", "portable")
        .env("CANDLE_NUM_THREADS", "1")
        .env("RAYON_NUM_THREADS", "1");
    let (answer, log) = programs::finished(&mut command)?;
    let is_answer = serde_json::from_str::<serde_json::Value>(&answer)
        .is_ok_and(|answer| answer["min_s"].is_number());
    if !is_answer {
        return Err(ProgramError::Answer {
            command: programs::line(&command),
            what: format!("not the JSON of `bench layer`: {}", answer.trim()),
        });
    }
    let count = log.lines().find_map(|line| {
        let digits = line.split_once("I")?.1.split_once("refs:")?.1;
        digits.trim().replace(',', "").parse().ok()
    });
    count.ok_or_else(|| ProgramError::Answer {
        command: programs::line(&command),
        what: format!("no count of instructions: {}", log.trim()),
    })
}
