//! A text cut into rows that are read side by side, window after window.

use std::ops::Range;

use unroll_core::stream::StreamRng;

/// Rows of equal length that together read a part once: of training, as many as a batch has sequences.
///
/// Where the part cannot be divided evenly, some rows begin one step earlier, at the last answer of the row
/// before, which does not count again.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    first: usize,
    answers: usize,
    /// Rows.
    pub(super) count: usize,
    /// Answers of each row.
    pub(super) steps: usize,
}

impl Rows {
    /// `count` rows of a part, or fewer, so that each has an answer.
    pub(super) fn new(part: &Range<usize>, count: usize) -> Self {
        // The first token of a part is no answer.
        let answers = part.len().saturating_sub(1).max(1);
        let count = count.clamp(1, answers);
        Self { first: part.start, answers, count, steps: answers.div_ceil(count) }
    }

    /// Where row `row` begins to read, and how many of its first answers the row before it has too.
    pub(super) fn start(&self, row: usize) -> (usize, usize) {
        let cut = |row: usize| (row * self.answers).div_ceil(self.count);
        let begin = cut(row + 1) - self.steps;
        (self.first + begin, cut(row) - begin)
    }
}

/// The windows of a pass through rows of `steps` answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pass {
    /// Steps of a window.
    pub(super) length: usize,
    /// Windows.
    pub(super) windows: usize,
    /// Steps that are left over: a pass begins at a step up to this one, so that no two passes cut a
    /// text alike.
    room: usize,
}

impl Pass {
    pub(super) fn new(steps: usize, length: usize) -> Self {
        let length = length.min(steps);
        // One window less than there is room for leaves all offsets of a window.
        let windows = (steps / length).saturating_sub(1).max(1);
        Self { length, windows, room: (steps - windows * length).min(length - 1) }
    }

    /// Where window `window` of a pass begins whose offset is drawn from `rng`.
    pub(super) fn begin(&self, window: usize, rng: &mut StreamRng) -> usize {
        rng.below(self.room + 1) + window * self.length
    }
}
