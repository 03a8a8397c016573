//! A report as Markdown, with links to its plots.

use std::fmt::Write;

use crate::document::{Block, Document, Inline, Words};
use crate::plots::Plot;
use crate::rows::Rows;

/// The report's text.
pub(crate) fn render(document: &Document, plots: &[(&str, Plot)]) -> String {
    let mut text = format!("# {}\n", line(&document.title));
    for section in &document.sections {
        let _ = write!(text, "\n## {}\n", line(&section.title));
        for block in &section.blocks {
            match block {
                Block::Heading(title) => {
                    let _ = write!(text, "\n### {}\n", line(title));
                }
                Block::Words(words) => {
                    let _ = write!(text, "\n{}\n", inline(words));
                }
                // Markdown of the experiment's author; its HTML is shown and not run.
                Block::Prose(prose) => {
                    let _ = write!(text, "\n{}\n", html_as_text(prose.trim()));
                }
                Block::List(items) => {
                    text.push('\n');
                    for item in items {
                        let _ = writeln!(text, "- {}", inline(item));
                    }
                }
                Block::Table { rows, .. } => table(&mut text, rows),
                Block::Plot(name) => {
                    let title = plots.iter().find(|(_, plot)| plot.name == *name);
                    let title = title.map_or("", |(_, plot)| plot.figure.title.as_str());
                    let _ = write!(text, "\n![{}](plots/{name}.svg)\n", line(title));
                }
                Block::Code(code) => {
                    let _ = write!(text, "\n```sh\n{}\n```\n", code.replace("```", "` ` `"));
                }
            }
        }
    }
    text
}

fn inline(words: &Words) -> String {
    let piece = |inline: &Inline| match inline {
        Inline::Text(text) => line(text),
        Inline::Strong(name) => format!("**{}**", line(name)),
        Inline::Code(code) => format!("`{}`", code.replace('`', "'")),
    };
    // Spaces at the ends of pieces are the sentence's own.
    words.0.iter().map(piece).collect()
}

/// A text that stays on its line and is no HTML and no link.
fn line(text: &str) -> String {
    html_as_text(text).replace(['\n', '\r', '\t'], " ").replace("](", "] (")
}

/// A `<` that could begin an element or a comment as `&lt;`; one before a number stays.
fn html_as_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let begins = rest.peek().is_none_or(|next| next.is_alphabetic() || "/!?".contains(*next));
        if c == '<' && begins { safe.push_str("&lt;") } else { safe.push(c) }
    }
    safe
}

fn table(text: &mut String, rows: &Rows) {
    let _ = write!(text, "\n| {} |\n|", rows.titles.join(" | "));
    for number in &rows.numbers {
        text.push_str(if *number { "---:|" } else { "---|" });
    }
    text.push('\n');
    for row in &rows.rows {
        let cells: Vec<String> = row.iter().map(|text| cell(text)).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

/// A text that cannot end its cell.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}
