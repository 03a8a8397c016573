//! Choosing by measurement.

/// How often a way is timed; the least counts.
pub(crate) const TIMES: usize = 3;

/// What differences of f32 and TF32 stay below, relative to the largest number.
pub(crate) const TOLERANCE: f32 = 5e-3;

/// The largest difference relative to the largest number, where it is more than `tolerance`.
pub(crate) fn difference(expected: &[f32], found: &[f32], tolerance: f32) -> Option<f32> {
    let largest = expected.iter().fold(1e-6f32, |most, value| most.max(value.abs()));
    let off = expected.iter().zip(found).map(|(a, b)| (a - b).abs() / largest);
    // A number that is none must not be lost among the others.
    let off = off.fold(0f32, |most, off| if off > most || off.is_nan() { off } else { most });
    (off.is_nan() || off > tolerance).then_some(off)
}
