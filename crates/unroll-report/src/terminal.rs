//! Tables for a terminal, at most 100 columns wide where no name is broken for it.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use unroll_results::Summary;

use crate::rows::{self, Rows};

/// Columns of a terminal that everything is to fit in.
const WIDTH: u16 = 100;
/// Between columns.
const GAP: u16 = 2;

/// The metric after training, one table for each task, one row for each series and length:
/// parameters, median over seeds with smallest and largest, best trivial baseline, how many seeds
/// solved the task, median steps to the stopping threshold, speed of training by the clock. Empty when no trial
/// measured quality.
pub fn summary_table(summary: &Summary) -> String {
    let heading = |task: &str| match rows::metric(summary, task) {
        metric if metric.is_empty() => task.to_owned(),
        metric => format!("{task}: {metric}"),
    };
    let mut tables = by_task(summary, heading, |summary, task| {
        let mut rows = rows::quality(summary, task);
        for title in rows.titles.iter_mut().filter(|title| **title == "run tokens/s") {
            // Room for what became of the trials.
            *title = "run tok/s";
        }
        rows
    });
    if summary.quality.iter().any(|group| !group.missed_on_test.is_empty()) {
        tables.push_str("Missed on test: stopped when validation reached the threshold; the test metric did not.\n");
    }
    tables
}

/// Gradient decay of the input, one table for each task, one row for each series, length and moment of
/// training: half-life of the exponential law, horizon, reach, and the law that fits better. Empty
/// when no trial measured gradients.
pub fn gradient_table(summary: &Summary) -> String {
    by_task(summary, |task| format!("{task}: gradient decay"), medians)
}

/// Without the ranges over seeds, for which a terminal has no room: the report has them.
fn medians(summary: &Summary, task: &str) -> Rows {
    let mut rows = rows::decay(summary, task);
    for (column, title) in rows.titles.iter().enumerate() {
        if ["1 % at", "99 % within"].contains(title) {
            for row in &mut rows.rows {
                if let Some((median, _)) = row[column].split_once(" [") {
                    row[column] = median.to_owned();
                }
            }
        }
    }
    rows
}

/// Times and memory, one table for each task, one row for each series, phase and length. Empty when
/// no trial measured them.
pub fn throughput_table(summary: &Summary) -> String {
    by_task(summary, |task| format!("{task}: speed and memory"), rows::throughput)
}

fn by_task(
    summary: &Summary,
    heading: impl Fn(&str) -> String,
    rows: impl Fn(&Summary, &str) -> Rows,
) -> String {
    let tables = summary.tasks.iter().filter_map(|task| {
        let rows = rows(summary, task);
        (!rows.is_empty()).then(|| format!("{}\n{}", heading(task), render(&rows)))
    });
    tables.collect::<Vec<_>>().join("\n")
}

fn render(rows: &Rows) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .force_no_tty()
        .set_header(&rows.titles);
    for row in &rows.rows {
        table.add_row(row);
    }
    let last = rows.numbers.len().saturating_sub(1);
    for (index, number) in rows.numbers.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            let gap = if index == last { 0 } else { GAP };
            column.set_padding((0, gap));
            // Numbers that are broken cannot be read; texts can be, between words.
            column.set_constraint(if *number || rows.titles[index].ends_with("[min..max]") {
                ColumnConstraint::ContentWidth
            } else {
                let word = longest_word(rows, index).saturating_add(gap);
                ColumnConstraint::LowerBoundary(Width::Fixed(word))
            });
            if *number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// Characters of the longest word in a column, its title included.
fn longest_word(rows: &Rows, column: usize) -> u16 {
    let cells = rows.rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
    let words = cells.chain([rows.titles[column]]).flat_map(str::split_whitespace);
    words
        .map(|word| word.chars().count())
        .max()
        .map_or(0, |most| most.try_into().unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_broken_between_words_alone() {
        let mut rows =
            Rows::new(&[("series", false), ("what became of it", false), ("count", true)]);
        let name = "encdec_luong_concat_with_a_name_of_its_own, learning_rate_schedule=cosine";
        rows.rows.push(vec![name.into(), "word ".repeat(30), "123456789".repeat(4)]);
        let text = render(&rows);
        for word in name.split(' ') {
            assert!(text.contains(word), "{text}");
        }
    }
}
