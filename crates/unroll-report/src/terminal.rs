//! Tables for a terminal, at most 100 columns wide.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use unroll_results::Summary;

use crate::rows::{self, Rows};

/// Columns of a terminal that everything must fit in.
const WIDTH: u16 = 100;
/// `diverged` with the gap beside it.
const LONGEST_WORD: u16 = 10;

/// The metric after training, one table for each task, one row for each series and length:
/// parameters, median over seeds with smallest and largest, best trivial baseline, how many seeds
/// solved the task, median steps to the stopping threshold, training speed. Empty when no trial
/// measured quality.
pub fn summary_table(summary: &Summary) -> String {
    let heading = |task: &str| match rows::metric(summary, task) {
        metric if metric.is_empty() => task.to_owned(),
        metric => format!("{task}: {metric}"),
    };
    by_task(summary, heading, rows::quality)
}

/// Gradient decay of the input, one table for each task, one row for each series, length and moment of
/// training: half-life of the exponential law, horizon, reach, and the law that fits better. Empty
/// when no trial measured gradients.
pub fn gradient_table(summary: &Summary) -> String {
    by_task(summary, |task| format!("{task}: gradient decay"), rows::decay)
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
            column.set_padding((0, if index == last { 0 } else { 2 }));
            // Numbers that are broken cannot be read; words can be.
            if *number || rows.titles[index].ends_with("[min..max]") {
                column.set_constraint(ColumnConstraint::ContentWidth);
            } else if rows.titles[index] == "solved" {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(LONGEST_WORD)));
            }
            if *number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}
