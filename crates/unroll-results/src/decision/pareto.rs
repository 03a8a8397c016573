//! The Pareto front: what no other series beats in everything.

use super::{Candidate, Objective};

/// Notes for each candidate which one dominates it, and returns the objectives that all of them have a
/// value for and that differ between any two.
pub(super) fn mark(candidates: &mut [Candidate]) -> Vec<Objective> {
    let usable = |objective: &Objective| {
        let values: Option<Vec<f64>> = candidates.iter().map(|c| objective.of(c)).collect();
        values.is_some_and(|values| values.iter().any(|value| *value != values[0]))
    };
    let objectives: Vec<Objective> = Objective::ALL.into_iter().filter(usable).collect();
    let rows: Vec<Vec<f64>> = candidates
        .iter()
        .map(|c| objectives.iter().map(|o| o.of(c).unwrap_or(f64::NEG_INFINITY)).collect())
        .collect();
    for place in 0..candidates.len() {
        let dominator = (0..candidates.len()).find(|other| dominates(&rows[*other], &rows[place]));
        candidates[place].dominated_by = dominator.map(|other| candidates[other].series.clone());
    }
    objectives
}

/// Whether `a` is nowhere worse than `b` and somewhere better.
fn dominates(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| a >= b) && a.iter().zip(b).any(|(a, b)| a > b)
}

#[cfg(test)]
mod tests {
    use super::dominates;

    #[test]
    fn equals_do_not_dominate_each_other() {
        assert!(dominates(&[1.0, 2.0], &[1.0, 1.0]));
        assert!(!dominates(&[1.0, 1.0], &[1.0, 1.0]));
        assert!(!dominates(&[2.0, 0.0], &[1.0, 1.0]));
    }
}
