//! Nearest neighbour under dynamic time warping (Sakoe & Chiba 1978).

/// Sequences of several channels, `(T, C)` row by row, with their classes.
pub(crate) struct Examples<'a> {
    pub(crate) sequences: Vec<&'a [f64]>,
    pub(crate) labels: Vec<u32>,
}

/// Fraction of `test` sequences whose nearest sequence in `train` is of their class.
pub(crate) fn nearest_neighbour_accuracy(
    train: &Examples<'_>,
    test: &Examples<'_>,
    channels: usize,
) -> f64 {
    let right = test.sequences.iter().zip(&test.labels).filter(|(sequence, label)| {
        let (mut least, mut nearest) = (f64::INFINITY, None);
        for (other, found) in train.sequences.iter().zip(&train.labels) {
            // Of equally near ones the first.
            let distance = dynamic_time_warping(sequence, other, channels, least);
            if distance < least || nearest.is_none() {
                (least, nearest) = (distance, Some(found));
            }
        }
        nearest == Some(*label)
    });
    right.count() as f64 / test.sequences.len() as f64
}

/// Least sum of squared Euclidean distances between the steps of two sequences, over all alignments
/// that keep the order. All channels are warped together; the window is not limited. Infinite as soon
/// as it cannot be below `limit`.
fn dynamic_time_warping(a: &[f64], b: &[f64], channels: usize, limit: f64) -> f64 {
    let steps_b = b.len() / channels;
    // previous[j]: the best alignment of the steps of `a` so far with the first j steps of `b`.
    let mut previous = vec![f64::INFINITY; steps_b + 1];
    previous[0] = 0.0;
    for step_a in a.chunks(channels) {
        let mut current = vec![f64::INFINITY; steps_b + 1];
        for (j, step_b) in b.chunks(channels).enumerate() {
            let squared: f64 = step_a.iter().zip(step_b).map(|(x, y)| (x - y).powi(2)).sum();
            current[j + 1] = squared + previous[j].min(previous[j + 1]).min(current[j]);
        }
        // Every alignment goes through this step, and sums never fall.
        if current.iter().all(|&sum| sum >= limit) {
            return f64::INFINITY;
        }
        previous = current;
    }
    previous[steps_b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warping_forgives_other_speeds_only() {
        let slow = [0.0, 0.0, 1.0, 1.0, 2.0];
        let fast = [0.0, 1.0, 2.0];
        let warped =
            |a: &[f64], b: &[f64], channels| dynamic_time_warping(a, b, channels, f64::INFINITY);
        assert_eq!(warped(&slow, &fast, 1), 0.0);
        assert_eq!(warped(&[0.0, 3.0], &[1.0, 3.0], 1), 1.0);
        // Two channels: steps (0, 0), (1, 1) against the single step (0, 1).
        assert_eq!(warped(&[0.0, 0.0, 1.0, 1.0], &[0.0, 1.0], 2), 2.0);
        // Given up when it is not below the limit, and only then.
        let limited = |limit| dynamic_time_warping(&[0.0, 3.0], &[1.0, 3.0], 1, limit);
        assert_eq!((limited(1.0), limited(1.5)), (f64::INFINITY, 1.0));
    }

    #[test]
    fn the_nearest_sequence_gives_the_class() {
        let train = Examples { sequences: vec![&[0.0, 0.0], &[5.0]], labels: vec![0, 1] };
        let test = Examples { sequences: vec![&[4.0], &[1.0], &[1.0]], labels: vec![1, 0, 1] };
        assert_eq!(nearest_neighbour_accuracy(&train, &test, 1), 2.0 / 3.0);
    }
}
