//! Broken lines: plotters has none.

use super::canvas::Point;

/// The drawn pieces of a line: lengths of `pattern` drawn and left out in turn, around corners.
pub(super) fn split(points: &[Point], pattern: &[f64]) -> Vec<Vec<Point>> {
    if points.len() < 2 {
        return Vec::new();
    }
    if pattern.is_empty() || pattern.iter().any(|&length| length.is_nan() || length <= 0.0) {
        return vec![points.to_vec()];
    }
    let mut pieces = Vec::new();
    let mut piece = vec![points[0]];
    let mut index = 0;
    let mut left = pattern[0];
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let share = done / length;
            let at = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
            if index % 2 == 0 {
                piece.push(at);
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece = vec![at];
            }
            index += 1;
            left = pattern[index % pattern.len()];
        }
        left -= length - done;
        if index % 2 == 0 {
            piece.push(to);
        }
    }
    if piece.len() > 1 {
        pieces.push(piece);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_is_cut_where_the_pattern_says() {
        let pieces = split(&[(0.0, 0.0), (10.0, 0.0)], &[3.0, 2.0]);
        assert_eq!(pieces, [[(0.0, 0.0), (3.0, 0.0)], [(5.0, 0.0), (8.0, 0.0)]]);
    }

    #[test]
    fn dashes_go_around_corners() {
        let pieces = split(&[(0.0, 0.0), (2.0, 0.0), (2.0, 10.0)], &[3.0, 4.0]);
        assert_eq!(pieces[0], [(0.0, 0.0), (2.0, 0.0), (2.0, 1.0)]);
        assert_eq!(pieces[1], [(2.0, 5.0), (2.0, 8.0)]);
        assert_eq!(pieces.len(), 2);
    }

    #[test]
    fn no_pattern_is_a_solid_line() {
        let points = [(0.0, 0.0), (1.0, 1.0)];
        assert_eq!(split(&points, &[]), [points]);
        assert_eq!(split(&points, &[0.0, 1.0]), [points]);
        assert!(split(&points[..1], &[1.0, 1.0]).is_empty());
    }
}
