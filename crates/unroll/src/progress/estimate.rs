//! How long the rest of a sweep takes, from what this process has done of it so far.

use std::collections::HashMap;

use unroll_results::record::TrialKind;

use crate::experiment::Trial;

/// Trials whose planned cost and seconds go together: planned costs count operations, and what one takes
/// differs from measurement to measurement and from architecture to architecture.
type Group = (TrialKind, String);

/// Seconds spent on an amount of planned cost.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    seconds: f64,
    work: f64,
}

impl Spent {
    fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.work += other.work;
    }

    fn rate(self) -> Option<f64> {
        (self.work > 0.0).then(|| self.seconds / self.work)
    }
}

/// A trial that runs: what share of it was done when it was taken up, what share is done, and when it was taken
/// up.
#[derive(Debug, Clone, Copy)]
struct Running {
    from: f64,
    done: f64,
    since: f64,
}

/// The estimate. Times are seconds since the process began to work.
#[derive(Debug, Default)]
pub(super) struct Estimate {
    left: HashMap<String, (Group, f64)>,
    running: HashMap<String, Running>,
    spent: HashMap<Group, Spent>,
}

impl Estimate {
    /// Of the trials that are left.
    pub(super) fn new<'a>(left: impl Iterator<Item = &'a Trial>) -> Self {
        let one = |trial: &Trial| {
            (trial.id.clone(), ((trial.spec.kind, trial.spec.arch.clone()), trial.weight))
        };
        Self { left: left.map(one).collect(), ..Self::default() }
    }

    /// A trial is taken up, a share of it done before.
    pub(super) fn started(&mut self, id: &str, share: f64, now: f64) {
        self.running.insert(id.to_owned(), Running { from: share, done: share, since: now });
    }

    pub(super) fn advanced(&mut self, id: &str, share: f64) {
        if let Some(running) = self.running.get_mut(id) {
            running.done = share;
        }
    }

    /// A trial has ended. One that failed says nothing of the others; nor does one that another process ran.
    pub(super) fn finished(&mut self, id: &str, failed: bool, now: f64) {
        let Some((group, weight)) = self.left.remove(id) else { return };
        let Some(running) = self.running.remove(id).filter(|_| !failed) else { return };
        let work = weight * (1.0 - running.from);
        self.spent.entry(group).or_default().add(Spent { seconds: now - running.since, work });
    }

    /// Seconds until all is done; `None` while nothing is known.
    pub(super) fn seconds_left(&self, now: f64) -> Option<f64> {
        let mut groups = self.spent.clone();
        for (id, running) in &self.running {
            if let Some((group, weight)) = self.left.get(id).filter(|_| running.done > running.from)
            {
                let work = weight * (running.done - running.from);
                let spent = Spent { seconds: now - running.since, work };
                groups.entry(group.clone()).or_default().add(spent);
            }
        }
        let (mut kinds, mut all) = (HashMap::<TrialKind, Spent>::new(), Spent::default());
        for ((kind, _), spent) in &groups {
            kinds.entry(*kind).or_default().add(*spent);
            all.add(*spent);
        }
        let rate = |group: &Group| {
            let own = groups.get(group).and_then(|spent| spent.rate());
            own.or_else(|| kinds.get(&group.0).and_then(|spent| spent.rate())).or(all.rate())
        };
        let mut seconds = 0.0;
        for (id, (group, weight)) in &self.left {
            let done = self.running.get(id).map_or(0.0, |running| running.done);
            seconds += weight * (1.0 - done) * rate(group)?;
        }
        // Trials at the same time share the clock.
        let together = (all.seconds / now.max(f64::MIN_POSITIVE)).max(1.0);
        Some(seconds / together)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(trials: &[(&str, TrialKind, &str, f64)]) -> Estimate {
        let one = |&(id, kind, arch, weight): &(&str, TrialKind, &str, f64)| {
            (id.to_owned(), ((kind, arch.to_owned()), weight))
        };
        Estimate { left: trials.iter().map(one).collect(), ..Estimate::default() }
    }

    const TRAINED: TrialKind = TrialKind::Quality;

    #[test]
    fn what_was_done_before_is_not_taken_for_work_of_this_run() {
        let mut estimate = of(&[("a", TRAINED, "gru", 10.0), ("b", TRAINED, "gru", 10.0)]);
        assert_eq!(estimate.seconds_left(0.0), None);
        // Nine tenths were there; the rest takes ten seconds.
        estimate.started("a", 0.9, 0.0);
        estimate.finished("a", false, 10.0);
        let left = estimate.seconds_left(10.0).unwrap();
        assert!((left - 100.0).abs() < 1e-9, "{left}");
        // A running trial counts for what it has done.
        estimate.started("b", 0.0, 10.0);
        estimate.advanced("b", 0.5);
        let left = estimate.seconds_left(60.0).unwrap();
        assert!((left - 50.0).abs() < 1e-9, "{left}");
        estimate.finished("b", false, 110.0);
        assert_eq!(estimate.seconds_left(110.0), Some(0.0));
    }

    #[test]
    fn architectures_and_measurements_have_their_own_pace() {
        let mut estimate = of(&[
            ("a", TRAINED, "gru", 1.0),
            ("b", TRAINED, "gru", 3.0),
            ("c", TRAINED, "transformer", 1.0),
            ("d", TRAINED, "transformer", 2.0),
            ("e", TrialKind::Throughput, "gru", 4.0),
        ]);
        estimate.started("a", 0.0, 0.0);
        estimate.finished("a", false, 1.0);
        estimate.started("c", 0.0, 1.0);
        estimate.finished("c", false, 10.0);
        // gru: 3 at 1 s; transformer: 2 at 9 s; throughput, of which nothing is known: 4 at 5 s.
        assert_eq!(estimate.seconds_left(10.0), Some(3.0 + 18.0 + 20.0));
    }

    #[test]
    fn others_work_and_failures_set_no_pace_and_jobs_share_the_clock() {
        let mut estimate = of(&[
            ("a", TRAINED, "gru", 1.0),
            ("b", TRAINED, "gru", 1.0),
            ("c", TRAINED, "gru", 1.0),
            ("d", TRAINED, "gru", 1.0),
        ]);
        estimate.finished("a", false, 0.5);
        estimate.started("b", 0.0, 0.0);
        estimate.finished("b", true, 0.5);
        assert_eq!(estimate.seconds_left(1.0), None);
        let mut estimate = of(&[
            ("a", TRAINED, "gru", 1.0),
            ("b", TRAINED, "gru", 1.0),
            ("c", TRAINED, "gru", 1.0),
            ("d", TRAINED, "gru", 1.0),
        ]);
        for id in ["a", "b"] {
            estimate.started(id, 0.0, 0.0);
            estimate.finished(id, false, 10.0);
        }
        assert_eq!(estimate.seconds_left(10.0), Some(10.0));
    }
}
