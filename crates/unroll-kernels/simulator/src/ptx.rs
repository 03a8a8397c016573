//! What is in a module of PTX: kernels, functions and constants, each as its text.

use std::collections::HashMap;
use std::ops::Range;

/// A module.
#[derive(Debug)]
pub(crate) struct Module {
    version: (u32, u32),
    text: String,
    entries: HashMap<String, Function>,
    functions: HashMap<String, Function>,
    /// Declarations outside of functions: `.global .align 1 .b8 name[3] = {1, 2, 3}`, by name.
    variables: HashMap<String, Range<usize>>,
}

/// A kernel or a function.
#[derive(Debug, Clone)]
struct Function {
    head: Range<usize>,
    body: Range<usize>,
}

/// A kernel or a function, as text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// From `.entry` or `.func` to the brace: results, name, parameters, directives.
    pub(crate) head: &'a str,
    /// Between the braces.
    pub(crate) body: &'a str,
}

impl Module {
    /// Takes a module apart.
    ///
    /// # Errors
    /// What is not PTX.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = without_comments(text);
        let bytes = text.as_bytes();
        let mut module = Self {
            version: version(&text).ok_or("PTX without a version")?,
            text: String::new(),
            entries: HashMap::new(),
            functions: HashMap::new(),
            variables: HashMap::new(),
        };
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at].is_ascii_whitespace() || bytes[at] == b';' {
                at += 1;
                continue;
            }
            let rest = &text[at..];
            if [".version", ".target", ".address_size"].iter().any(|word| rest.starts_with(word)) {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            let Some(stop) = rest.find(['{', ';']) else {
                return Err(format!("not PTX: {}", rest.chars().take(60).collect::<String>()));
            };
            let head = at..at + stop;
            let words = &text[head.clone()];
            let is_function = words.contains(".entry") || words.contains(".func");
            if bytes[head.end] == b'{' && is_function {
                let end = closing(bytes, head.end)?;
                let name = name_of(words)?;
                let function = Function { head, body: at + stop + 1..end };
                let of = if words.contains(".entry") {
                    &mut module.entries
                } else {
                    &mut module.functions
                };
                of.insert(name, function);
                at = end + 1;
            } else {
                // A declaration ends with a semicolon, after its values.
                let end = rest.find(';').map_or(text.len(), |end| at + end);
                if !is_function {
                    let declared = text[at..end].split('=').next().unwrap_or_default();
                    let name = declared.split('[').next().unwrap_or_default();
                    let name = name.split_whitespace().last().unwrap_or_default();
                    module.variables.insert(name.to_owned(), at..end);
                }
                at = end + 1;
            }
        }
        module.text = text;
        Ok(module)
    }

    /// Of PTX.
    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }

    fn source(&self, function: &Function) -> Source<'_> {
        Source { head: &self.text[function.head.clone()], body: &self.text[function.body.clone()] }
    }

    /// A kernel.
    pub(crate) fn entry(&self, name: &str) -> Option<Source<'_>> {
        self.entries.get(name).map(|function| self.source(function))
    }

    /// A function that kernels call.
    pub(crate) fn function(&self, name: &str) -> Option<Source<'_>> {
        self.functions.get(name).map(|function| self.source(function))
    }

    /// A declaration outside of functions.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|range| &self.text[range.clone()])
    }

    /// Names of all kernels.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (_, after) = text.split_once(".version")?;
    let (major, minor) = after.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Where the brace that opens at `open` closes.
fn closing(bytes: &[u8], open: usize) -> Result<usize, String> {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Ok(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    Err("a brace is not closed".into())
}

/// The name after `.entry`, or after `.func` and its results.
fn name_of(head: &str) -> Result<String, String> {
    let after = match (head.split_once(".entry"), head.split_once(".func")) {
        (Some((_, after)), _) => after,
        (None, Some((_, after))) => match after.trim_start().strip_prefix('(') {
            Some(results) => results.split_once(')').map_or("", |(_, after)| after),
            None => after,
        },
        (None, None) => "",
    };
    let name: String = after.trim_start().chars().take_while(|&c| is_name(c)).collect();
    if name.is_empty() { Err(format!("a function without a name: {head}")) } else { Ok(name) }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

/// A part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Statement<'a> {
    /// A scope begins.
    Open,
    /// A scope ends.
    Close,
    /// A place to go to.
    Label(&'a str),
    /// A declaration: `.reg .b32 %r<4>`.
    Directive(&'a str),
    /// An instruction, with the predicate that it hangs on.
    Instruction { guard: Option<&'a str>, opcode: &'a str, operands: Vec<&'a str> },
}

/// Cuts a body into its statements.
///
/// # Errors
/// What is not one.
pub(crate) fn statements(body: &str) -> Result<Vec<Statement<'_>>, String> {
    let mut all = Vec::new();
    let mut rest = body.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '{' | '}' => {
                all.push(if first == '{' { Statement::Open } else { Statement::Close });
                rest = &rest[1..];
            }
            ';' => rest = &rest[1..],
            _ => {
                let end = rest.find(';').ok_or_else(|| format!("no end: {rest}"))?;
                let label = rest.find(':').filter(|&colon| {
                    colon < end && rest[..colon].chars().all(is_name) && !rest[..colon].is_empty()
                });
                if let Some(colon) = label {
                    all.push(Statement::Label(&rest[..colon]));
                    rest = &rest[colon + 1..];
                } else {
                    all.push(statement(rest[..end].trim())?);
                    rest = &rest[end + 1..];
                }
            }
        }
        rest = rest.trim_start();
    }
    Ok(all)
}

fn statement(text: &str) -> Result<Statement<'_>, String> {
    if text.starts_with('.') {
        return Ok(Statement::Directive(text));
    }
    let (guard, text) = match text.strip_prefix('@') {
        Some(guarded) => {
            let (guard, rest) =
                guarded.split_once(char::is_whitespace).ok_or_else(|| format!("@ {text}"))?;
            (Some(guard), rest.trim_start())
        }
        None => (None, text),
    };
    let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Ok(Statement::Instruction { guard, opcode, operands: split(operands) })
}

/// Splits at the commas outside of brackets.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    let last = text[begin..].trim();
    if !last.is_empty() || !parts.is_empty() {
        parts.push(last);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_taken_apart() {
        let module = Module::parse(
            ".version 9.0\n.target sm_90\n.address_size 64\n\
             .extern .func __assertfail\n(\n.param .b64 a\n)\n;\n\
             .global .align 1 .b8 text[2] = {104, 0};\n\
             .extern .shared .align 16 .b8 dynamic[];\n\
             .func (.param .b64 result) half(.param .b64 from)\n{ ret; }\n\
             .visible .entry first( // a comment {\n.param .u64 p\n)\n.maxntid 128, 1, 1\n{\n{ ret; }\n}\n\
             .visible .entry second()\n{\nret;\n}\n",
        )
        .unwrap();
        assert_eq!(module.entries(), ["first", "second"]);
        assert_eq!(module.entry("first").unwrap().body.trim(), "{ ret; }");
        assert!(module.entry("first").unwrap().head.contains(".maxntid 128"));
        assert!(module.function("half").is_some() && module.function("__assertfail").is_none());
        assert_eq!(module.variable("text"), Some(".global .align 1 .b8 text[2] = {104, 0}"));
        assert!(module.variable("dynamic").is_some());
        assert_eq!(module.version(), (9, 0));
        assert!(Module::parse("hello").is_err() && Module::parse(".version 9.0\nhello").is_err());
    }

    #[test]
    fn bodies_are_cut_into_statements() {
        let found = statements(
            ".reg .pred %p<2>;\n$L__1:\n{.reg.b16 h;\n mov.b16 h,0X1FU;\n}\n@!%p1 bra $L__1;\n\
             ld.v2.f32 {%f1, %f2}, [%rd1+-8];",
        )
        .unwrap();
        let instruction =
            |guard, opcode, operands| Statement::Instruction { guard, opcode, operands };
        assert_eq!(
            found,
            [
                Statement::Directive(".reg .pred %p<2>"),
                Statement::Label("$L__1"),
                Statement::Open,
                Statement::Directive(".reg.b16 h"),
                instruction(None, "mov.b16", vec!["h", "0X1FU"]),
                Statement::Close,
                instruction(Some("!%p1"), "bra", vec!["$L__1"]),
                instruction(None, "ld.v2.f32", vec!["{%f1, %f2}", "[%rd1+-8]"]),
            ]
        );
        assert!(statements("mov.u32 %r1, 2").is_err());
    }
}
