//! A report as one HTML file: style, script and plots inside, nothing from elsewhere.

use minijinja::{AutoEscape, Environment, context};
use serde::Serialize;

use crate::document::{Block, Document, Inline, Words};
use crate::draw::{Colors, Figure, inline_svg};
use crate::plots::Plot;
use crate::rows::Rows;
use crate::{Error, Result};

/// Rows from which on a table is folded.
const LONG: usize = 40;

#[derive(Serialize)]
struct SectionView {
    id: String,
    title: String,
    blocks: Vec<BlockView>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum BlockView {
    Heading { text: String },
    Words { pieces: Vec<Piece> },
    Prose { paragraphs: Vec<String> },
    List { items: Vec<Vec<Piece>> },
    Table { caption: String, long: bool, titles: Vec<Title>, rows: Vec<Vec<String>> },
    Plot { name: String, svg: String, keys: Vec<Key>, title: String, note: String },
    Code { text: String },
}

/// A piece of a sentence and the element it stands in, if any.
#[derive(Serialize)]
struct Piece {
    element: &'static str,
    text: String,
}

#[derive(Serialize)]
struct Title {
    text: String,
    number: bool,
}

/// A legend's entry.
#[derive(Serialize)]
struct Key {
    series: usize,
    sample: String,
    name: String,
}

/// The page.
pub(crate) fn render(document: &Document, plots: &[(&str, Plot)]) -> Result<String> {
    let mut colors = Colors::default();
    let sections: Vec<SectionView> = document
        .sections
        .iter()
        .enumerate()
        .map(|(number, section)| SectionView {
            id: format!("s{number}"),
            title: section.title.clone(),
            blocks: section.blocks.iter().map(|b| block(b, plots, &mut colors)).collect(),
        })
        .collect();
    let failed = |error: minijinja::Error| Error::Template { message: error.to_string() };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_template("page", include_str!("page.html")).map_err(failed)?;
    let page = environment.get_template("page").map_err(failed)?;
    let text = page.render(context! {
        title => document.title,
        sections,
        style => include_str!("style.css"),
        colors => colors.rules(),
        script => include_str!("script.js"),
    });
    text.map_err(failed)
}

fn pieces(words: &Words) -> Vec<Piece> {
    let piece = |inline: &Inline| match inline {
        Inline::Text(text) => Piece { element: "", text: text.clone() },
        Inline::Strong(text) => Piece { element: "b", text: text.clone() },
        Inline::Code(text) => Piece { element: "code", text: text.clone() },
    };
    words.0.iter().map(piece).collect()
}

fn block(block: &Block, plots: &[(&str, Plot)], colors: &mut Colors) -> BlockView {
    match block {
        Block::Heading(text) => BlockView::Heading { text: text.clone() },
        Block::Words(words) => BlockView::Words { pieces: pieces(words) },
        Block::Prose(text) => BlockView::Prose {
            paragraphs: text.trim().split("\n\n").map(|part| part.trim().to_owned()).collect(),
        },
        Block::List(items) => BlockView::List { items: items.iter().map(pieces).collect() },
        Block::Table { caption, rows } => table(caption, rows),
        Block::Plot(name) => match plots.iter().find(|(_, plot)| plot.name == *name) {
            Some((_, plot)) => figure(name, &plot.figure, colors),
            None => BlockView::Words { pieces: Vec::new() },
        },
        Block::Code(text) => BlockView::Code { text: text.clone() },
    }
}

fn table(caption: &str, rows: &Rows) -> BlockView {
    let titles = rows.titles.iter().zip(&rows.numbers);
    BlockView::Table {
        caption: caption.to_owned(),
        long: rows.rows.len() > LONG,
        titles: titles
            .map(|(title, number)| Title { text: (*title).to_owned(), number: *number })
            .collect(),
        rows: rows.rows.clone(),
    }
}

fn figure(name: &str, figure: &Figure, colors: &mut Colors) -> BlockView {
    let key = |(series, (name, look)): (usize, &(String, crate::draw::Look))| Key {
        series,
        sample: inline_svg(&Figure::sample(look), "", true, colors),
        name: name.clone(),
    };
    let keys = figure.legend.iter().enumerate().map(key).collect();
    BlockView::Plot {
        name: name.to_owned(),
        svg: inline_svg(&figure.bare_canvas(), &figure.title, false, colors),
        keys,
        title: figure.title.clone(),
        note: figure.note.clone(),
    }
}
