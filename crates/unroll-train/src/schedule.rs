//! Learning rates over the run.

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Stays.
    #[default]
    Constant,
    /// Falls along half a cosine to the floor, which it would reach at the step after the last
    /// (Loshchilov & Hutter 2017, one cycle).
    Cosine,
}

/// A learning rate for each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// After the warm-up.
    pub kind: ScheduleKind,
    /// The highest learning rate.
    pub peak: f64,
    /// The lowest one of [`ScheduleKind::Cosine`].
    pub floor: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

impl Schedule {
    /// Learning rate of step `step` (from 0). The warm-up rises by equal amounts from
    /// `peak / (warmup_steps + 1)`; step `warmup_steps` has the peak.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Cosine => {
                let length = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
                let height = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.floor + height * (self.peak - self.floor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule =
        Schedule { kind: ScheduleKind::Cosine, peak: 1.0, floor: 0.2, warmup_steps: 3, steps: 11 };

    #[test]
    fn warm_up_rises_evenly_to_the_peak() {
        assert_eq!([0, 1, 2, 3].map(|step| COSINE.at(step)), [0.25, 0.5, 0.75, 1.0]);
    }

    #[test]
    fn cosine_passes_its_middle_and_ends_at_the_floor() {
        assert!((COSINE.at(7) - 0.6).abs() < 1e-15);
        assert!((COSINE.at(11) - 0.2).abs() < 1e-15);
        assert_eq!(COSINE.at(11), COSINE.at(1000));
        assert!((3..11).all(|step| COSINE.at(step) > COSINE.at(step + 1)));
    }

    #[test]
    fn constant_stays() {
        let constant = Schedule { kind: ScheduleKind::Constant, warmup_steps: 0, ..COSINE };
        assert!((0..20).all(|step| constant.at(step) == 1.0));
    }
}
