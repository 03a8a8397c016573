//! `unroll bench ab`: two programs timed against each other in interleaved fresh processes.
//! [`unroll_results::ab`] has the statistics.

use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use unroll_results::ab::Verdict;
use unroll_results::ab::{self, Block, Criteria, Evidence};

use super::cases::Case;
use super::programs::{self, Program, ProgramError};
use super::scratch::TemporaryFolder;
use crate::exit;

/// Version of the report's layout.
pub const SCHEMA: u32 = 1;

/// Which number of a process counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    /// The fastest iteration: what other programs do can only make it slower.
    Fastest,
    /// The median iteration.
    Median,
}

impl Summary {
    fn key(self) -> &'static str {
        match self {
            Self::Fastest => "min_s",
            Self::Median => "median_s",
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effort {
    /// Blocks of six processes for each case and round.
    pub blocks: usize,
    /// Rounds at most: cases that are still inconclusive get another one.
    pub rounds: usize,
    /// Seconds that each process measures.
    pub seconds: f64,
    /// Threads of each process.
    pub threads: usize,
    /// Which number of a process counts.
    pub summary: Summary,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was there before.
    pub base: Program,
    /// What is compared with it.
    pub candidate: Program,
    /// What counts.
    pub criteria: Criteria,
    /// How much was measured.
    pub effort: Effort,
    /// The worst of the cases' verdicts: slower, inconclusive, then same or faster.
    pub verdict: Verdict,
    /// By case, in order.
    pub cases: Vec<CaseReport>,
    /// Cases that the base does not know: there is nothing to compare them with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<NewCase>,
}

/// A case that the candidate runs and the base refuses, such as one of a new architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCase {
    /// [`Case::id`].
    pub id: String,
    /// What the base says.
    pub reason: String,
}

/// The outcome of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseReport {
    /// [`Case::id`].
    pub id: String,
    /// What is said of it.
    pub verdict: Verdict,
    /// All rounds before the confirmation.
    pub first: Evidence,
    /// As many fresh blocks again, of cases that seemed to differ.
    pub confirmation: Option<Evidence>,
    /// Geometric mean of the base's times before the confirmation, seconds.
    pub base_s: f64,
    /// The same of the candidate.
    pub candidate_s: f64,
    /// All times, those of the confirmation last.
    pub times: Vec<Block>,
}

/// Is told how far a comparison is: round, case, and blocks done of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Compares two programs on some cases.
///
/// # Errors
/// When a program cannot be run, or gives no time.
pub fn compare(
    base: &Program,
    candidate: &Program,
    cases: &[Case],
    criteria: Criteria,
    effort: Effort,
    progress: Progress<'_>,
) -> Result<Report, ProgramError> {
    let dir = TemporaryFolder::new("unroll-ab");
    let copies = ["a", "b", "c"].map(|name| dir.path().join(name));
    let contestants = Contestants {
        base: base.copied_to(&copies[0])?,
        control: base.copied_to(&copies[1])?,
        candidate: candidate.copied_to(&copies[2])?,
        effort,
    };
    let (known, new) = contestants.known(cases)?;
    let cases: Vec<&Case> = known;
    let every: Vec<Wanted<'_>> = cases.iter().copied().map(|case| (case, effort.blocks)).collect();
    let mut first_times = contestants.round("first round", &every, progress)?;
    let mut first = sound(ab::evidence(&first_times, &criteria))?;
    // Looking more than once makes a false alarm of these rounds likelier. It still has to be raised
    // again by the confirmation, which nobody looks at twice.
    for _ in 1..effort.rounds {
        let open: Vec<usize> = (0..cases.len())
            .filter(|&index| ab::verdict(&first[index], &criteria) == Verdict::Inconclusive)
            .collect();
        if open.is_empty() {
            break;
        }
        let wanted: Vec<Wanted<'_>> = open.iter().map(|&index| every[index]).collect();
        let more = contestants.round("more blocks", &wanted, progress)?;
        for (&index, more) in open.iter().zip(more) {
            first_times[index].extend(more);
        }
        first = sound(ab::evidence(&first_times, &criteria))?;
    }
    let verdicts: Vec<Verdict> = first.iter().map(|e| ab::verdict(e, &criteria)).collect();
    // A difference is believed only when fresh measurements show it again.
    let seeming: Vec<usize> = (0..cases.len()).filter(|&i| verdicts[i].is_a_difference()).collect();
    let again: Vec<Wanted<'_>> =
        seeming.iter().map(|&index| (cases[index], first_times[index].len())).collect();
    let second_times = contestants.round("confirmation", &again, progress)?;
    let second = sound(ab::evidence(&second_times, &criteria))?;
    let mut reports = Vec::with_capacity(cases.len());
    for (index, case) in cases.iter().enumerate() {
        let place = seeming.iter().position(|&seeming| seeming == index);
        let mut times = first_times[index].clone();
        let mut verdict = verdicts[index];
        let confirmation = place.map(|place| second[place]);
        if let (Some(place), Some(evidence)) = (place, &confirmation) {
            times.extend(&second_times[place]);
            verdict = ab::confirmed(verdict, ab::verdict(evidence, &criteria));
        }
        let typical = |pick: fn(&Block) -> [f64; 2]| {
            let logarithms: Vec<f64> =
                first_times[index].iter().flat_map(pick).map(f64::ln).collect();
            (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp()
        };
        reports.push(CaseReport {
            id: case.id(),
            verdict,
            first: first[index],
            confirmation,
            base_s: typical(|block| block.base),
            candidate_s: typical(|block| block.candidate),
            times,
        });
    }
    let has = |verdict| reports.iter().any(|report| report.verdict == verdict);
    let worst = [Verdict::Slower, Verdict::Inconclusive, Verdict::Same];
    let worst = worst.into_iter().find(|&verdict| has(verdict));
    // Where every case is new nothing was compared.
    let nothing = if reports.is_empty() { Verdict::Inconclusive } else { Verdict::Faster };
    Ok(Report {
        schema: SCHEMA,
        base: base.clone(),
        candidate: candidate.clone(),
        criteria,
        effort,
        verdict: worst.unwrap_or(nothing),
        cases: reports,
        new,
    })
}

/// Every process gave a time above 0, and there are three blocks or more: there is evidence.
fn sound(evidence: Vec<Option<Evidence>>) -> Result<Vec<Evidence>, ProgramError> {
    let nothing = || ProgramError::Answer {
        command: "bench layer".to_owned(),
        what: "too few times, or times of 0".to_owned(),
    };
    evidence.into_iter().map(|evidence| evidence.ok_or_else(nothing)).collect()
}

/// A case and its number of blocks.
type Wanted<'a> = (&'a Case, usize);

struct Contestants {
    base: Program,
    control: Program,
    candidate: Program,
    effort: Effort,
}

impl Contestants {
    /// Parts the cases that the base knows from those that it refuses as a wrong command. Anything else that
    /// goes wrong is an error, and so is a case that the candidate does not run.
    fn known<'a>(&self, cases: &'a [Case]) -> Result<(Vec<&'a Case>, Vec<NewCase>), ProgramError> {
        let usage = Some(i32::from(exit::USAGE));
        let (mut known, mut new) = (Vec::new(), Vec::new());
        for case in cases {
            match self.time(&self.base, case) {
                Ok(_) => known.push(case),
                Err(ProgramError::Failed { code, message, .. }) if code == usage => {
                    self.time(&self.candidate, case)?;
                    // Behind the status is what the base wrote.
                    let words = message.split_once('\n').map_or("", |(_, words)| words);
                    let reason = words.split_whitespace().collect::<Vec<_>>().join(" ");
                    new.push(NewCase { id: case.id(), reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((known, new))
    }

    /// Times every case; block by block over all cases, so that a disturbance of seconds does not hit
    /// one case alone.
    fn round(
        &self,
        name: &str,
        wanted: &[Wanted<'_>],
        progress: Progress<'_>,
    ) -> Result<Vec<Vec<Block>>, ProgramError> {
        let mut times: Vec<Vec<Block>> = vec![Vec::new(); wanted.len()];
        let total = wanted.iter().map(|&(_, blocks)| blocks).sum();
        let most = wanted.iter().map(|&(_, blocks)| blocks).max().unwrap_or(0);
        let mut done = 0;
        for number in 0..most {
            for (&(case, blocks), times) in wanted.iter().zip(&mut times) {
                if number < blocks {
                    times.push(self.block(case)?);
                    done += 1;
                    progress(name, done, total);
                }
            }
        }
        Ok(times)
    }

    fn block(&self, case: &Case) -> Result<Block, ProgramError> {
        let base = self.time(&self.base, case)?;
        let control = self.time(&self.control, case)?;
        let candidate = self.time(&self.candidate, case)?;
        let candidate = [candidate, self.time(&self.candidate, case)?];
        let control = [control, self.time(&self.control, case)?];
        let base = [base, self.time(&self.base, case)?];
        Ok(Block { base, control, candidate })
    }

    /// One fresh process.
    fn time(&self, program: &Program, case: &Case) -> Result<f64, ProgramError> {
        let mut command = Command::new(&program.path);
        command.args(["bench", "layer", "--json", "--min-seconds"]);
        command.arg(self.effort.seconds.to_string());
        command.arg("--threads").arg(self.effort.threads.to_string());
        command.args(case.arguments());
        let text = programs::run(&mut command)?;
        let key = self.effort.summary.key();
        let seconds = serde_json::from_str::<Value>(&text).ok().and_then(|v| v[key].as_f64());
        seconds.filter(|&seconds| seconds > 0.0).ok_or_else(|| ProgramError::Answer {
            command: programs::line(&command),
            what: format!("no `{key}` above 0: {}", text.trim()),
        })
    }
}
