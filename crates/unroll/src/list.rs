//! `unroll list`: what there is to sweep.

use serde_json::{Map, Value, json};
use unroll_core::Architecture;
use unroll_core::architecture::OptionDoc;

use crate::experiment::plan::nearest;
use crate::experiment::settings::{SECTIONS, Section, Setting};
use crate::registry;

/// What names all keys of an experiment file.
const SETTINGS: &str = "settings";

/// Architectures and tasks in one text, or one of them with its options.
///
/// # Errors
/// What names there are, when there is none called `name`.
pub fn text(name: Option<&str>) -> Result<String, String> {
    let Some(name) = name else {
        let tasks = unroll_tasks::registry();
        let names = registry::all_names().into_iter().chain(tasks.iter().map(|task| task.name));
        let width = width(names);
        let mut out = String::from("Architectures\n");
        for architecture in registry::all() {
            let (name, summary) = (architecture.name(), architecture.summary());
            out.push_str(&format!("  {name:<width$} {summary}\n"));
        }
        out.push_str("\nTasks\n");
        for task in tasks {
            out.push_str(&format!("  {:<width$} {}\n", task.name, task.summary));
        }
        out.push_str(
            "\n`unroll list NAME` shows the options of one, `unroll list settings` all keys of an experiment file, \
             `unroll list train` those of one table.\n",
        );
        return Ok(out);
    };
    let mut out = String::new();
    let mut found = false;
    for section in sections(name) {
        found = true;
        out.push_str(&section_text(section));
    }
    if let Some(architecture) = registry::find(name) {
        found = true;
        out.push_str(&heading(name, architecture.summary()));
        out.push_str(&options(&architecture.options()));
        out.push_str(&costs(architecture));
    }
    if let Some(task) = unroll_tasks::find(name) {
        found = true;
        out.push_str(&heading(name, task.summary));
        out.push_str(&options(&(task.options)()));
    }
    if found { Ok(out) } else { Err(unknown(name)) }
}

/// Columns that the longest of some names takes.
fn width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(str::len).max().unwrap_or(0).max(20)
}

/// A summary may begin with the name.
fn heading(name: &str, summary: &str) -> String {
    let named = summary.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', ' ']));
    let before = if named { String::new() } else { format!("{name}: ") };
    format!("{before}{summary}\n\nOptions\n")
}

/// The same as JSON.
///
/// # Errors
/// As [`text`].
pub fn json(name: Option<&str>) -> Result<Value, String> {
    let wanted = |other: &str| name.is_none_or(|name| name == other);
    let architectures: Vec<Value> = registry::all()
        .filter(|architecture| wanted(architecture.name()))
        .map(|architecture| {
            json!({
                "name": architecture.name(),
                "summary": architecture.summary(),
                "options": options_json(&architecture.options()),
            })
        })
        .collect();
    let tasks: Vec<Value> = unroll_tasks::registry()
        .iter()
        .filter(|task| wanted(task.name))
        .map(|task| {
            json!({
                "name": task.name,
                "summary": task.summary,
                "options": options_json(&(task.options)()),
            })
        })
        .collect();
    let found: Vec<Value> = name.into_iter().flat_map(sections).map(section_json).collect();
    if !found.is_empty() {
        return Ok(json!({ "settings": found }));
    }
    match name {
        Some(name) if architectures.is_empty() && tasks.is_empty() => Err(unknown(name)),
        _ => Ok(json!({"architectures": architectures, "tasks": tasks})),
    }
}

/// The tables of an experiment file that a name means: all, or one.
fn sections(name: &str) -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().filter(move |section| name == SETTINGS || name == section.name)
}

/// What stands in a column of defaults.
fn default_of(section: &Section, setting: &Setting) -> String {
    section.default_of(setting.key).map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn section_text(section: &Section) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["key", "type", "default", "what"]);
    for setting in section.settings {
        let (kind, default) = (setting.kind.replace('`', ""), default_of(section, setting));
        table.add_row([setting.key, &kind, &default, setting.help]);
    }
    let mut out = format!("{}: {}\n{table}\n", section.heading, section.help);
    for line in section.example.lines() {
        out.push_str(&format!("    {line}\n"));
    }
    out.push('\n');
    out
}

fn section_json(section: &Section) -> Value {
    let settings: Vec<Value> = section
        .settings
        .iter()
        .map(|setting| {
            json!({
                "key": setting.key,
                "type": setting.kind,
                "default": section.default_of(setting.key),
                "help": setting.help,
            })
        })
        .collect();
    json!({
        "name": section.name,
        "heading": section.heading,
        "help": section.help,
        "example": section.example,
        "settings": settings,
    })
}

fn unknown(name: &str) -> String {
    let sections = SECTIONS.iter().map(|section| section.name).filter(|name| !name.is_empty());
    let tasks = unroll_tasks::registry().iter().map(|task| task.name);
    let names = registry::all_names().into_iter().chain(tasks).chain([SETTINGS]).chain(sections);
    let names: Vec<&str> = names.collect();
    format!(
        "there is no architecture, task or table of settings called `{name}`: {}",
        nearest(name, &names)
    )
}

fn options(options: &[(OptionDoc, Value)]) -> String {
    let width = width(options.iter().map(|(doc, _)| doc.name));
    options
        .iter()
        .map(|(doc, default)| match default {
            Value::Null => format!("  {:<width$} {}\n", doc.name, doc.help),
            default => format!("  {:<width$} {} [{default}]\n", doc.name, doc.help),
        })
        .collect()
}

fn options_json(options: &[(OptionDoc, Value)]) -> Vec<Value> {
    options
        .iter()
        .map(|(doc, default)| json!({"name": doc.name, "help": doc.help, "default": default}))
        .collect()
}

/// What a layer with the default options costs for one sequence, at three lengths.
fn costs(architecture: &dyn Architecture) -> String {
    let mut given = Map::new();
    if let Some((_, size)) =
        architecture.options().iter().find(|(doc, _)| doc.name == "hidden_size")
    {
        given.insert("input_size".into(), size.clone());
    }
    let mut out =
        String::from("\nCosts with these defaults, input size as hidden size, one sequence\n");
    out.push_str("  length  parameters  forward FLOPs  state elements\n");
    for seq_len in [16, 128, 1024] {
        if let Ok(cost) = architecture.cost(&given, 1, seq_len) {
            out.push_str(&format!(
                "  {seq_len:>6}  {:>10}  {:>13}  {:>14}\n",
                cost.parameters, cost.forward_flops, cost.state_elements
            ));
        }
    }
    out
}
