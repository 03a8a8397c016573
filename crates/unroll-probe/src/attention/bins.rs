//! Bins for numbers of steps: fine where they are few, of constant relative width where they are many.

/// Numbers below this have bins of their own.
const EXACT: usize = 64;

/// Bins between a power of two and the next, from [`EXACT`] on.
const PER_OCTAVE: usize = 16;

/// The bin of a number; bins are counted from 0 without gaps.
pub(super) fn bin(number: usize) -> usize {
    if number < EXACT {
        return number;
    }
    let octave = number.ilog2() as usize;
    let width = (1 << octave) / PER_OCTAVE;
    let before = (octave - EXACT.ilog2() as usize) * PER_OCTAVE;
    EXACT + before + (number - (1 << octave)) / width
}

/// The smallest and the largest number of a bin.
pub(super) fn bounds(bin: usize) -> (usize, usize) {
    if bin < EXACT {
        return (bin, bin);
    }
    let (octave, place) = ((bin - EXACT) / PER_OCTAVE, (bin - EXACT) % PER_OCTAVE);
    let start = EXACT << octave;
    let width = start / PER_OCTAVE;
    (start + place * width, start + (place + 1) * width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_bin() {
        let (mut next, mut last) = (0, None);
        for number in 0..100_000 {
            let index = bin(number);
            let (low, high) = bounds(index);
            assert!((low..=high).contains(&number), "{number} in {index}: {low}..={high}");
            if last != Some(index) {
                assert_eq!((index, low), (next, number), "no gap");
                next += 1;
                last = Some(index);
            }
            assert!(high - low < 1 + number / 16, "{number}: too wide");
        }
        assert_eq!(bin(2047) + 1, 144);
    }
}
