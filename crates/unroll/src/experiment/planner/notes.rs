//! What a plan does otherwise than its file reads, and how well its architectures are matched.

use std::collections::{BTreeMap, BTreeSet};

use super::{Assignment, NAMED_AXES};
use crate::experiment::MatchBy;
use crate::experiment::plan::Trial;

/// A difference to the reference beyond this share is said: comparisons then favour the larger one.
const FAR: f64 = 0.05;
/// Where sizes are not matched, the largest may have so many times the parameters of the smallest: sizes as they
/// come are not asked to be equal.
const ALIKE: f64 = 4.0 / 3.0;

/// Remarks gathered over all cells, each said once.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By task: its only length, and those that were asked for.
    lengths: BTreeMap<String, (usize, BTreeSet<u64>)>,
    /// By architecture: the match that is farthest off.
    matches: BTreeMap<String, Match>,
    /// By task, length and values of shared axes, where nothing is matched: parameters by architecture.
    sizes: BTreeMap<(String, usize, String), BTreeMap<String, u64>>,
}

#[derive(Debug)]
struct Match {
    task: String,
    by: MatchBy,
    has: u64,
    reference: String,
    wanted: u64,
}

impl Match {
    /// How far off, as a share of what was wanted; negative when smaller.
    fn deviation(&self) -> f64 {
        (self.has as f64 - self.wanted as f64) / self.wanted.max(1) as f64
    }
}

impl Notes {
    /// A task of one length only was asked for this one.
    pub(super) fn length(&mut self, task: &str, only: usize, given: u64) {
        let (_, asked) = self.lengths.entry(task.to_owned()).or_insert((only, BTreeSet::new()));
        asked.insert(given);
    }

    /// What an architecture has of what is held equal, beside what the reference has.
    pub(super) fn matched(
        &mut self,
        arch: &str,
        task: &str,
        by: MatchBy,
        has: u64,
        (reference, wanted): (&str, u64),
    ) {
        let new = Match { task: task.to_owned(), by, has, reference: reference.to_owned(), wanted };
        let known = self.matches.get(arch);
        if known.is_none_or(|known| known.deviation().abs() < new.deviation().abs()) {
            self.matches.insert(arch.to_owned(), new);
        }
    }

    /// Parameters of an architecture in cells where nothing is matched; of several series the smallest.
    pub(super) fn size(
        &mut self,
        arch: &str,
        (task, length): (&str, usize),
        axes: &str,
        parameters: u64,
    ) {
        let key = (task.to_owned(), length, axes.to_owned());
        let known = self.sizes.entry(key).or_default().entry(arch.to_owned()).or_insert(parameters);
        *known = parameters.min(*known);
    }

    /// The cells whose architectures differ most in size, if it is by much.
    fn unequal(&self) -> Option<String> {
        let extremes = self.sizes.iter().filter_map(|((task, ..), sizes)| {
            let least = sizes.iter().min_by_key(|(_, count)| **count)?;
            let most = sizes.iter().max_by_key(|(_, count)| **count)?;
            Some((*most.1 as f64 / (*least.1).max(1) as f64, task, least, most))
        });
        let (times, task, (small, fewest), (large, most)) =
            extremes.max_by(|a, b| a.0.total_cmp(&b.0))?;
        (times > ALIKE).then(|| {
            format!(
                "sizes are as given and not alike: on {task}, {large} has {most} parameters, {times:.1} times \
                 the {fewest} of {small}. `[match]` with `by = \"parameters\"` and `reference = \"{small}\"` \
                 makes hidden sizes follow"
            )
        })
    }

    /// One sentence for each task whose length is replaced and each architecture that is matched badly.
    pub(super) fn sentences(&self) -> Vec<String> {
        let replaced = self.lengths.iter().filter_map(|(task, (only, asked))| {
            let others: Vec<String> = asked
                .iter()
                .filter(|&&length| length != *only as u64)
                .map(ToString::to_string)
                .collect();
            (!others.is_empty()).then(|| {
                let others = others.join(", ");
                format!("{task} has one length alone: it runs at {only} steps, not at {others}")
            })
        });
        let matched = self.matches.iter().filter(|(_, one)| one.deviation().abs() > FAR);
        let matched = matched.map(|(arch, one)| {
            let (has, wanted, reference, task) = (one.has, one.wanted, &one.reference, &one.task);
            format!(
                "{arch} is not of {reference}'s size: {has} {} instead of {wanted} ({:+.0} %) on \
                 {task}. No hidden size that it can have comes nearer",
                one.by.name(),
                one.deviation() * 100.0
            )
        });
        replaced.chain(matched).chain(self.unequal()).collect()
    }
}

/// What this machine has no memory for, in a sentence.
pub(super) fn too_large(trials: &[Trial]) -> Option<String> {
    let refused = trials.iter().filter_map(|trial| Some((trial, trial.too_large.as_ref()?)));
    let (count, (first, why)) = (refused.clone().count(), refused.clone().next()?);
    let (total, first) = (trials.len(), crate::progress::describe(first));
    Some(format!(
        "this machine has too little memory for {count} of {total} trials, which will fail, such as {first}: {why}"
    ))
}

/// What the cells of all architectures have of the axes: options of one alone are left out.
pub(super) fn shared_axes(assignment: &Assignment) -> String {
    let of_all = |axis: &str| !NAMED_AXES.contains(&axis) && !axis.starts_with("arch.");
    let shared = assignment.iter().filter(|(axis, _)| of_all(axis));
    shared.map(|(axis, value)| format!("{axis}={value} ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_said() {
        let mut notes = Notes::default();
        for length in [50, 64, 100] {
            notes.length("digits", 64, length);
        }
        notes.length("japanese_vowels", 29, 29);
        notes.matched("gru", "adding", MatchBy::Parameters, 1040, ("lstm", 1000));
        notes.matched("transformer", "adding", MatchBy::Parameters, 4400, ("lstm", 4641));
        notes.matched("transformer", "copy", MatchBy::Parameters, 3841, ("lstm", 4641));
        notes.matched("transformer", "parity", MatchBy::Parameters, 4641, ("lstm", 4641));
        assert_eq!(
            notes.sentences(),
            [
                "digits has one length alone: it runs at 64 steps, not at 50, 100",
                "transformer is not of lstm's size: 3841 parameters instead of 4641 (-17 %) on copy. \
                 No hidden size that it can have comes nearer",
            ]
        );
    }

    #[test]
    fn sizes_that_nothing_makes_alike_are_said() {
        let mut notes = Notes::default();
        notes.size("gru", ("adding", 20), "", 1120);
        notes.size("lstm", ("adding", 20), "", 1490);
        // Other cells are other comparisons.
        notes.size("lstm", ("adding", 20), "model.hidden_size=64 ", 9000);
        notes.size("gru", ("parity", 20), "", 4000);
        assert_eq!(notes.sentences(), Vec::<String>::new());
        notes.size("linear_transformer", ("adding", 20), "", 6710);
        let [sentence] = &notes.sentences()[..] else { panic!("{:?}", notes.sentences()) };
        assert!(
            sentence.contains("linear_transformer has 6710 parameters, 6.0 times"),
            "{sentence}"
        );
        assert!(sentence.contains("`reference = \"gru\"`"), "{sentence}");
    }
}
