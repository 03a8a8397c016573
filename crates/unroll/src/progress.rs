//! What the user sees while trials run: two live lines on a terminal, plain lines elsewhere.

mod estimate;

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use unroll_results::TrialRecord;
use unroll_results::record::Status;

use crate::experiment::Trial;
use estimate::Estimate;

/// Receives what happens to trials, from any thread.
pub trait Progress: Sync {
    /// A trial begins, or goes on after `step` training steps.
    fn started(&self, trial: &Trial, step: u64);

    /// A running trial has done `done` of `total` units (training steps, phases).
    fn advanced(&self, trial: &Trial, done: u64, total: u64, note: &str);

    /// A trial has ended and is on disk.
    fn finished(&self, trial: &Trial, record: &TrialRecord);

    /// Something that the user should know.
    fn note(&self, text: &str);
}

/// Says nothing: `--json`, tests.
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: &Trial, _: u64) {}

    fn advanced(&self, _: &Trial, _: u64, _: u64, _: &str) {}

    fn finished(&self, _: &Trial, _: &TrialRecord) {}

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

/// The name of a trial in progress lines.
pub fn describe(trial: &Trial) -> String {
    let cell = &trial.cell;
    format!(
        "{} {} {} T={} seed {}",
        trial.spec.kind.name(),
        cell.series,
        cell.task,
        cell.length,
        cell.seed
    )
}

/// Progress for people: on a terminal one line for the sweep and one for the trial that runs;
/// elsewhere one plain line per finished trial.
pub struct Display {
    bars: Option<(MultiProgress, ProgressBar)>,
    state: Mutex<State>,
    total: usize,
}

struct State {
    begin: Instant,
    done: usize,
    failed: usize,
    estimate: Estimate,
    running: HashMap<String, ProgressBar>,
}

impl Display {
    /// A display for the trials that are left; `done` of the sweep were there before.
    pub fn new<'a>(left: impl Iterator<Item = &'a Trial>, done: usize) -> Self {
        let left: Vec<&Trial> = left.collect();
        let total = left.len() + done;
        let bars = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let sweep = all.add(ProgressBar::new(total as u64));
            let style = "{bar:28.cyan/blue} {pos}/{len} trials  {msg}";
            sweep.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            sweep.set_position(done as u64);
            sweep.enable_steady_tick(Duration::from_millis(250));
            (all, sweep)
        });
        let state = State {
            begin: Instant::now(),
            done,
            failed: 0,
            estimate: Estimate::new(left.into_iter()),
            running: HashMap::new(),
        };
        Self { bars, state: Mutex::new(state), total }
    }

    /// Takes the live lines away.
    pub fn close(&self) {
        if let Some((all, sweep)) = &self.bars {
            sweep.finish_and_clear();
            all.clear().ok();
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remaining(&self) -> String {
        match self.estimate.seconds_left(self.begin.elapsed().as_secs_f64()) {
            Some(seconds) if seconds > 0.0 => format!("about {} left", duration(seconds)),
            _ => String::new(),
        }
    }
}

/// Seconds as people say them: `8 s`, `3 min`, `2.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{s:.2} s"),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// How a trial ended, in a few words.
pub fn outcome(record: &TrialRecord) -> String {
    match (&record.status, &record.quality) {
        (Status::Failed { message }, _) => format!("FAILED: {message}"),
        (Status::Diverged { step }, _) => format!("diverged at step {step}"),
        (_, Some(quality)) => {
            let verdict = match (quality.solved, quality.at_chance) {
                (true, _) => ", solved",
                (_, true) => ", at chance",
                _ => "",
            };
            format!("{} {:.4}{verdict}", quality.metric, quality.test)
        }
        _ => "done".into(),
    }
}

impl Progress for Display {
    fn started(&self, trial: &Trial, step: u64) {
        let steps = trial.spec.train.as_ref().map_or(1, |train| train.steps).max(1);
        {
            let mut state = self.state();
            let now = state.begin.elapsed().as_secs_f64();
            state.estimate.started(&trial.id, step as f64 / steps as f64, now);
        }
        if let Some((all, _)) = &self.bars {
            let bar = all.add(ProgressBar::new(1));
            let style = "{bar:28.green/blue} {prefix}  {msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_prefix(describe(trial));
            self.state().running.insert(trial.id.clone(), bar);
        }
    }

    fn advanced(&self, trial: &Trial, done: u64, total: u64, note: &str) {
        let mut state = self.state();
        state.estimate.advanced(&trial.id, done as f64 / total.max(1) as f64);
        if let Some(bar) = state.running.get(&trial.id) {
            bar.set_length(total.max(1));
            bar.set_position(done);
            bar.set_message(note.to_owned());
        }
    }

    fn finished(&self, trial: &Trial, record: &TrialRecord) {
        let mut state = self.state();
        state.done += 1;
        let failed = matches!(record.status, Status::Failed { .. });
        state.failed += usize::from(failed);
        let now = state.begin.elapsed().as_secs_f64();
        state.estimate.finished(&trial.id, failed, now);
        let remaining = state.remaining();
        if let Some(bar) = state.running.remove(&trial.id) {
            bar.finish_and_clear();
        }
        let failed = match state.failed {
            0 => String::new(),
            count => format!("{count} failed  "),
        };
        let took = duration(record.timing.wall_s);
        match &self.bars {
            Some((_, sweep)) => {
                if matches!(record.status, Status::Failed { .. }) {
                    sweep.println(format!("{}: {}", describe(trial), outcome(record)));
                }
                sweep.set_position(state.done as u64);
                sweep.set_message(format!("{failed}{remaining}"));
            }
            None => {
                let width = self.total.to_string().len();
                let line = format!(
                    "[{:>width$}/{}] {}: {} ({took}){}{remaining}\n",
                    state.done,
                    self.total,
                    describe(trial),
                    outcome(record),
                    if remaining.is_empty() { "" } else { "  " },
                );
                // A closed pipe is no reason to stop measuring.
                std::io::stderr().write_all(line.as_bytes()).ok();
            }
        }
    }
    fn note(&self, text: &str) {
        let line = format!("{text}\n");
        match &self.bars {
            Some((_, sweep)) => sweep.println(text),
            None => {
                std::io::stderr().write_all(line.as_bytes()).ok();
            }
        }
    }
}
