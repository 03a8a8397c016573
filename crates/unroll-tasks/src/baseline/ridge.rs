//! Ridge regression (Hoerl & Kennard 1970): of numbers, and onto the indicator of each class, which is a
//! linear classifier.

/// Examples of equal size with their classes.
pub(crate) struct Examples<'a> {
    pub(crate) rows: Vec<&'a [f32]>,
    pub(crate) labels: Vec<u32>,
}

/// Accuracy on `test` of ridge regression fitted on `train`, where each class has a regression of
/// its own (1 for its examples, 0 for others) and the largest answer wins. `penalty` weighs the
/// squared coefficients, not the intercept. `None` without examples.
pub(crate) fn ridge_accuracy(
    train: &Examples<'_>,
    test: &Examples<'_>,
    classes: usize,
    penalty: f64,
) -> Option<f64> {
    let mark = |example: usize, value: f64, moments: &mut [f64]| {
        moments[train.labels[example] as usize] += value;
    };
    let ridge = Ridge::fit(&train.rows, classes, penalty, mark)?;
    let right = test.rows.iter().zip(&test.labels).filter(|(row, label)| {
        let answers = ridge.answers(row);
        let best = (0..classes).max_by(|&a, &b| answers[a].total_cmp(&answers[b]));
        best == Some(**label as usize)
    });
    let right = right.count() as f64;
    (!test.rows.is_empty()).then(|| right / test.rows.len() as f64)
}

/// Linear maps from `F` features to some outputs.
pub(crate) struct Ridge {
    /// `(F + 1, outputs)` row by row, the intercepts last.
    weights: Vec<f64>,
    outputs: usize,
}

impl Ridge {
    /// Regressions of `targets`, `outputs` for each row, on the rows. `penalty` weighs the squared
    /// coefficients, not the intercepts. `None` without rows, or when there is no unique solution.
    pub(crate) fn of_values(
        rows: &[&[f32]],
        targets: &[f64],
        outputs: usize,
        penalty: f64,
    ) -> Option<Self> {
        Self::fit(rows, outputs, penalty, |example, value, moments| {
            let targets = &targets[example * outputs..(example + 1) * outputs];
            for (moment, target) in moments.iter_mut().zip(targets) {
                *moment += value * target;
            }
        })
    }

    /// The solution of the normal equations `(X^T X + penalty) W = X^T Y`; `add` adds a row of `Y`, times
    /// a value, to a row of `X^T Y`.
    fn fit(
        rows: &[&[f32]],
        outputs: usize,
        penalty: f64,
        add: impl Fn(usize, f64, &mut [f64]),
    ) -> Option<Self> {
        let features = rows.first()?.len();
        // The intercept is the coefficient of a feature that is always 1.
        let order = features + 1;
        let mut gram = vec![0.0; order * order];
        let mut moments = vec![0.0; order * outputs];
        for (example, row) in rows.iter().enumerate() {
            let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).chain([1.0]).collect();
            for (i, &value) in row.iter().enumerate() {
                // Most pixels of an image are 0.
                if value != 0.0 {
                    add(example, value, &mut moments[i * outputs..(i + 1) * outputs]);
                    for (sum, other) in gram[i * order..].iter_mut().zip(&row[..=i]) {
                        *sum += value * other;
                    }
                }
            }
        }
        for i in 0..features {
            gram[i * order + i] += penalty;
        }
        cholesky(&mut gram, order)?;
        solve(&gram, order, &mut moments, outputs);
        Some(Self { weights: moments, outputs })
    }

    /// The outputs of a row.
    pub(crate) fn answers(&self, row: &[f32]) -> Vec<f64> {
        let mut answers = self.weights[row.len() * self.outputs..].to_vec();
        for (&value, coefficients) in row.iter().zip(self.weights.chunks(self.outputs)) {
            for (answer, coefficient) in answers.iter_mut().zip(coefficients) {
                *answer += f64::from(value) * coefficient;
            }
        }
        answers
    }
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor `L`, `A = L L^T`.
/// `None` when the matrix is not positive definite.
fn cholesky(matrix: &mut [f64], order: usize) -> Option<()> {
    for i in 0..order {
        let (above, row) = matrix.split_at_mut(i * order);
        for j in 0..i {
            let other = &above[j * order..=j * order + j];
            let dot: f64 = row[..j].iter().zip(other).map(|(a, b)| a * b).sum();
            row[j] = (row[j] - dot) / other[j];
        }
        let pivot = row[i] - row[..i].iter().map(|value| value * value).sum::<f64>();
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        row[i] = pivot.sqrt();
    }
    Some(())
}

/// Solves `L L^T X = B` in place; `B` has `columns` columns, row by row.
fn solve(factor: &[f64], order: usize, right: &mut [f64], columns: usize) {
    for i in 0..order {
        substitute(right, columns, i, (0..i).map(|j| (j, factor[i * order + j])));
        divide(&mut right[i * columns..(i + 1) * columns], factor[i * order + i]);
    }
    for i in (0..order).rev() {
        substitute(right, columns, i, (i + 1..order).map(|j| (j, factor[j * order + i])));
        divide(&mut right[i * columns..(i + 1) * columns], factor[i * order + i]);
    }
}

/// Subtracts from row `target` the rows `j` times their `factor`.
fn substitute(
    rows: &mut [f64],
    columns: usize,
    target: usize,
    terms: impl Iterator<Item = (usize, f64)>,
) {
    for (j, factor) in terms {
        for column in 0..columns {
            rows[target * columns + column] -= factor * rows[j * columns + column];
        }
    }
}

fn divide(row: &mut [f64], by: f64) {
    for value in row {
        *value /= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gradient of the penalised squares vanishes at the solution, in every coefficient.
    #[test]
    fn the_normal_equations_hold() {
        let rows: Vec<Vec<f32>> = (0..7)
            .map(|i| (0..3).map(|j| ((3 * i + 5 * j * j) % 7) as f32 / 7.0).collect())
            .collect();
        let examples = Examples {
            rows: rows.iter().map(Vec::as_slice).collect(),
            labels: vec![0, 1, 0, 1, 1, 0, 1],
        };
        let penalty = 0.3;
        let targets: Vec<f64> = examples
            .labels
            .iter()
            .flat_map(|&label| [0, 1].map(|class| f64::from(u8::from(label == class))))
            .collect();
        let Ridge { weights, .. } = Ridge::of_values(&examples.rows, &targets, 2, penalty).unwrap();
        for class in 0..2 {
            let coefficient = |feature: usize| weights[feature * 2 + class];
            let mut gradient: Vec<f64> = (0..3).map(|j| penalty * coefficient(j)).collect();
            gradient.push(0.0);
            for (row, &label) in rows.iter().zip(&examples.labels) {
                let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).chain([1.0]).collect();
                let answer: f64 = row.iter().enumerate().map(|(j, x)| x * coefficient(j)).sum();
                let error = answer - f64::from(u8::from(label as usize == class));
                for (sum, x) in gradient.iter_mut().zip(&row) {
                    *sum += error * x;
                }
            }
            assert!(gradient.iter().all(|g| g.abs() < 1e-12), "{gradient:?}");
        }
    }

    #[test]
    fn a_linear_map_is_found() {
        let rows: Vec<[f32; 2]> = (0..9u8).map(|i| [f32::from(i), f32::from(i * i % 5)]).collect();
        let map = |row: &[f32; 2]| {
            let [a, b] = row.map(f64::from);
            [3.0 + 2.0 * a - b, 0.5 * b]
        };
        let targets: Vec<f64> = rows.iter().flat_map(map).collect();
        let slices: Vec<&[f32]> = rows.iter().map(<[f32; 2]>::as_slice).collect();
        let ridge = Ridge::of_values(&slices, &targets, 2, 1e-9).unwrap();
        let row = [20.0, 7.0];
        for (found, expected) in ridge.answers(&row).into_iter().zip(map(&row)) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
        assert!(Ridge::of_values(&[], &[], 2, 1.0).is_none());
    }

    #[test]
    fn separable_classes_are_separated() {
        let (low, high) = ([0.0f32, 0.1], [1.0f32, 0.9]);
        let examples =
            || Examples { rows: vec![&low, &high, &low, &high], labels: vec![0, 1, 0, 1] };
        assert_eq!(ridge_accuracy(&examples(), &examples(), 2, 1e-3), Some(1.0));
    }

    #[test]
    fn what_has_no_solution_has_no_accuracy() {
        let zero = [0.0f32];
        let examples = || Examples { rows: vec![&zero], labels: vec![0] };
        assert_eq!(ridge_accuracy(&examples(), &examples(), 1, 0.0), None);
        let none = Examples { rows: vec![], labels: vec![] };
        assert_eq!(ridge_accuracy(&none, &examples(), 1, 1.0), None);
    }
}
