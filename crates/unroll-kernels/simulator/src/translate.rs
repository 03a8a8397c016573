//! From a kernel in PTX to C++ that does the same, one thread at a time (see runtime.h).

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::ptx::{Module, Source, Statement, split, statements};

/// A kernel as C++, and what a launch of it has to know.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// The whole of it, to be compiled with runtime.h before it.
    pub(crate) code: String,
    /// Where parameters lie, and their sizes, in bytes.
    pub(crate) parameters: Vec<(usize, usize)>,
    /// Bytes of shared memory besides what the launch asks for.
    pub(crate) static_shared: usize,
    /// Most threads in a block, and blocks that a multiprocessor must have room for, where the kernel says so.
    pub(crate) max_threads: Option<u32>,
    pub(crate) min_blocks: Option<u32>,
    /// Whether threads meet.
    pub(crate) meets: bool,
}

/// Where a name's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A pointer of the same name in C++.
    Pointer,
    /// So far into the block's shared memory.
    Shared(usize),
}

struct Translator<'a> {
    module: &'a Module,
    places: BTreeMap<String, Place>,
    shared: usize,
    /// Ends the static shared memory; its name in PTX.
    dynamic: Option<String>,
    /// Constants, and functions, in the order in which they must stand.
    before: String,
    done: BTreeSet<String>,
    meets: bool,
}

/// Translates a kernel.
///
/// # Errors
/// What has no translation: the instruction.
pub(crate) fn kernel(module: &Module, name: &str) -> Result<Kernel, String> {
    let source = module.entry(name).ok_or_else(|| format!("there is no kernel {name}"))?;
    let mut translator = Translator {
        module,
        places: BTreeMap::new(),
        shared: 0,
        dynamic: None,
        before: String::new(),
        done: BTreeSet::new(),
        meets: false,
    };
    let (_, declared) = declarations(source.head)?;
    for word in [".reqntid", ".reqnctapercluster", ".maxclusterrank"] {
        if source.head.contains(word) {
            return Err(format!("{word} is not simulated"));
        }
    }
    let mut parameters = Vec::new();
    let (mut body, mut end) = (String::new(), 0usize);
    for parameter in &declared {
        let begin = end.next_multiple_of(parameter.align);
        end = begin + parameter.bytes;
        parameters.push((begin, parameter.bytes));
        translator.places.insert(parameter.name.clone(), Place::Pointer);
        let _ = writeln!(body, "const u8 *{} = parameters + {begin};", symbol(&parameter.name));
    }
    translator.body(source, &mut body)?;
    let numbers = |word: &str| -> Option<Vec<u32>> {
        let (_, after) = source.head.split_once(word)?;
        let line = after.split(['\n', '.']).next()?;
        line.split(',').map(|number| number.trim().parse().ok()).collect()
    };
    // Dynamic shared memory begins after all of the static one, whose size is known only now.
    let static_shared = translator.shared.next_multiple_of(16);
    let body = body.replace(DYNAMIC, &format!("{static_shared}"));
    let code = format!(
        "{}extern \"C\" void kernel(Thread &t, const u8 *parameters) {{\n{body}}}\n",
        translator.before.replace(DYNAMIC, &format!("{static_shared}"))
    );
    Ok(Kernel {
        code,
        parameters,
        static_shared,
        max_threads: numbers(".maxntid").map(|sizes| sizes.iter().product()),
        min_blocks: numbers(".minnctapersm").and_then(|counts| counts.first().copied()),
        meets: translator.meets,
    })
}

const DYNAMIC: &str = "@DYNAMIC@";

/// A declared piece of memory: `.param .align 8 .b8 name[24]`.
struct Declared {
    name: String,
    align: usize,
    bytes: usize,
    kind: String,
}

fn declared(text: &str) -> Result<Declared, String> {
    let text = text.trim();
    let (text, count) = match text.split_once('[') {
        Some((name, count)) => {
            let count = count.split(']').next().unwrap_or_default().trim();
            (name.trim(), if count.is_empty() { 0 } else { parse_usize(count)? })
        }
        None => (text, 1),
    };
    let mut words = text.split(|c: char| c.is_whitespace() || c == '.').filter(|w| !w.is_empty());
    let (mut align, mut kind, mut name) = (None, None, None);
    while let Some(word) = words.next() {
        match word {
            "param" | "local" | "shared" | "global" | "const" | "extern" | "visible" | "weak"
            | "reg" => {}
            "align" => align = Some(parse_usize(words.next().unwrap_or_default())?),
            "ptr" => {}
            _ if kind.is_none() => kind = Some(word.to_owned()),
            _ => name = Some(word.to_owned()),
        }
    }
    let (Some(kind), Some(name)) = (kind, name) else {
        return Err(format!("not a declaration: {text}"));
    };
    let size = size_of_type(&kind).ok_or_else(|| format!("a type that is not known: {text}"))?;
    Ok(Declared { name, align: align.unwrap_or(size), bytes: size * count, kind })
}

fn parse_usize(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("not a size: {text}"))
}

/// Results and parameters of a function or kernel.
fn declarations(head: &str) -> Result<(Vec<Declared>, Vec<Declared>), String> {
    let mut groups = Vec::new();
    let mut rest = head;
    while let Some((_, after)) = rest.split_once('(') {
        let (inside, after) = after.split_once(')').ok_or("a parenthesis is not closed")?;
        let all: Result<Vec<_>, _> =
            inside.split(',').filter(|one| !one.trim().is_empty()).map(declared).collect();
        groups.push(all?);
        rest = after;
    }
    let parameters = groups.pop().unwrap_or_default();
    Ok((groups.pop().unwrap_or_default(), parameters))
}

fn size_of_type(kind: &str) -> Option<usize> {
    Some(match kind {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

/// The C++ type of a PTX type.
fn cpp_type(kind: &str) -> Result<&'static str, String> {
    Ok(match kind {
        "b8" | "u8" => "u8",
        "s8" => "s8",
        "b16" | "u16" => "u16",
        "s16" => "s16",
        "b32" | "u32" => "u32",
        "s32" => "s32",
        "b64" | "u64" => "u64",
        "s64" => "s64",
        "f16" => "f16",
        "bf16" => "bf16",
        "f32" | "tf32" => "f32",
        "f64" => "f64",
        "pred" => "bool",
        other => return Err(format!("a type that is not known: {other}")),
    })
}

fn clean(name: &str) -> String {
    let name = name.trim_start_matches('%');
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn register(name: &str) -> String {
    format!("R_{}", clean(name))
}

fn symbol(name: &str) -> String {
    format!("S_{}", clean(name))
}

fn label(name: &str) -> String {
    format!("L_{}", clean(name))
}

fn is_float(kind: &str) -> bool {
    matches!(kind, "f16" | "bf16" | "f32" | "f64")
}

fn is_half(kind: &str) -> bool {
    matches!(kind, "f16" | "bf16")
}

/// A number as C++.
fn number(text: &str) -> Option<String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0f").or_else(|| digits.strip_prefix("0F")) {
        return Some(format!("bits32(0x{hex}u)"));
    }
    if let Some(hex) = digits.strip_prefix("0d").or_else(|| digits.strip_prefix("0D")) {
        return Some(format!("bits64(0x{hex}ull)"));
    }
    let plain = digits.trim_end_matches('U');
    let value = match plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => plain.parse::<u64>().ok()?,
    };
    let value = if text.starts_with('-') { value.wrapping_neg() } else { value };
    Some(format!("{value}ull"))
}

fn special(name: &str) -> Option<&'static str> {
    Some(match name {
        "%tid.x" => "t.tid.x",
        "%tid.y" => "t.tid.y",
        "%tid.z" => "t.tid.z",
        "%ntid.x" => "t.ntid.x",
        "%ntid.y" => "t.ntid.y",
        "%ntid.z" => "t.ntid.z",
        "%ctaid.x" => "t.ctaid.x",
        "%ctaid.y" => "t.ctaid.y",
        "%ctaid.z" => "t.ctaid.z",
        "%nctaid.x" => "t.nctaid.x",
        "%nctaid.y" => "t.nctaid.y",
        "%nctaid.z" => "t.nctaid.z",
        "%laneid" => "t.lane",
        "%cluster_ctarank" => "t.rank",
        "%cluster_nctarank" => "t.cluster->size",
        "WARP_SZ" => "u32(32)",
        _ => return None,
    })
}

impl Translator<'_> {
    /// The statements of a kernel or function.
    fn body(&mut self, source: Source<'_>, out: &mut String) -> Result<(), String> {
        out.push_str("u32 carry = 0;\n");
        for statement in statements(source.body)? {
            match &statement {
                Statement::Open => out.push_str("{\n"),
                Statement::Close => out.push_str("}\n"),
                Statement::Label(name) => {
                    let _ = writeln!(out, "{}:;", label(name));
                }
                Statement::Directive(text) => self.directive(text, out)?,
                Statement::Instruction { guard, opcode, operands } => {
                    let code = self
                        .instruction(opcode, operands)
                        .map_err(|error| format!("{opcode} {}: {error}", operands.join(", ")))?;
                    match guard {
                        Some(guard) => {
                            let (not, name) = match guard.strip_prefix('!') {
                                Some(name) => ("!", name),
                                None => ("", *guard),
                            };
                            let _ = writeln!(out, "if ({not}{}) {{ {code} }}", register(name));
                        }
                        None => {
                            out.push_str(&code);
                            out.push('\n');
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn directive(&mut self, text: &str, out: &mut String) -> Result<(), String> {
        if let Some(registers) = text.strip_prefix(".reg") {
            let registers = registers.trim_start().trim_start_matches('.');
            let (kind, names) =
                registers.split_once(char::is_whitespace).ok_or("registers without names")?;
            // Registers of 8 bits do not exist.
            let kind = cpp_type(kind)?;
            for name in names.split(',').map(str::trim) {
                let _ = match name.split_once('<') {
                    Some((name, count)) => {
                        let count = parse_usize(count.trim_end_matches('>'))?;
                        let names: Vec<_> =
                            (0..count).map(|i| format!("{}{i}", register(name))).collect();
                        writeln!(out, "{kind} {};", names.join(", "))
                    }
                    None => writeln!(out, "{kind} {};", register(name)),
                };
            }
        } else if text.starts_with(".param") || text.starts_with(".local") {
            let Declared { name, align, bytes, .. } = declared(text)?;
            let _ = writeln!(out, "alignas({align}) u8 {}[{bytes}];", symbol(&name));
            self.places.insert(name, Place::Pointer);
        } else if text.starts_with(".shared") {
            self.shared_variable(text)?;
        } else if !text.starts_with(".pragma") && !text.starts_with(".loc") {
            return Err(format!("a directive that is not known: {text}"));
        }
        Ok(())
    }

    fn shared_variable(&mut self, text: &str) -> Result<(), String> {
        let Declared { name, align, bytes, .. } = declared(text)?;
        if bytes == 0 {
            self.dynamic = Some(name);
            return Ok(());
        }
        let begin = self.shared.next_multiple_of(align);
        self.shared = begin + bytes;
        self.places.insert(name, Place::Shared(begin));
        Ok(())
    }

    /// The address of a name; of shared memory, how far into it.
    fn address_of(&mut self, name: &str) -> Result<String, String> {
        if !self.places.contains_key(name) && self.dynamic.as_deref() != Some(name) {
            self.outside(name)?;
        }
        if self.dynamic.as_deref() == Some(name) {
            return Ok(format!("u64({DYNAMIC})"));
        }
        Ok(match self.places.get(name) {
            Some(Place::Shared(begin)) => format!("u64({begin})"),
            Some(Place::Pointer) => format!("reinterpret_cast<u64>({})", symbol(name)),
            None => return Err(format!("a name that is not known: {name}")),
        })
    }

    /// A name from outside of the function.
    fn outside(&mut self, name: &str) -> Result<(), String> {
        let text = self
            .module
            .variable(name)
            .ok_or_else(|| format!("a name that is not known: {name}"))?;
        if text.contains(".shared") {
            return self.shared_variable(text);
        }
        // What can be written would have to be one for all kernels.
        let (declaration, values) =
            text.split_once('=').ok_or_else(|| format!("a variable without values: {name}"))?;
        let Declared { name, align, bytes, kind } = declared(declaration)?;
        let count = bytes / size_of_type(&kind).unwrap_or(1);
        let kind = cpp_type(&kind)?;
        let values = values.trim().trim_start_matches('{').trim_end_matches('}');
        let values: Vec<_> = values.split(',').map(str::trim).filter(|v| !v.is_empty()).collect();
        let values: Option<Vec<_>> = values.iter().map(|value| number(value)).collect();
        let values = values.ok_or_else(|| format!("values that are not known: {name}"))?;
        let values: Vec<_> = values.iter().map(|value| format!("as<{kind}>({value})")).collect();
        let _ = writeln!(
            self.before,
            "alignas({align}) static {kind} {}[{count}] = {{{}}};",
            symbol(&name),
            values.join(", ")
        );
        self.places.insert(name, Place::Pointer);
        Ok(())
    }

    /// An operand, as its register is, or a number.
    fn raw(&mut self, text: &str) -> Result<String, String> {
        if let Some(known) = special(text) {
            return Ok(known.into());
        }
        if let Some(number) = number(text) {
            return Ok(number);
        }
        if text.starts_with('%') || !self.is_symbol(text) {
            return Ok(register(text));
        }
        self.address_of(text)
    }

    fn is_symbol(&self, name: &str) -> bool {
        self.places.contains_key(name)
            || self.dynamic.as_deref() == Some(name)
            || self.module.variable(name).is_some()
    }

    /// An operand, read as a type.
    fn read(&mut self, text: &str, kind: &str) -> Result<String, String> {
        if kind == "pred" {
            return Ok(match text.strip_prefix('!') {
                Some(name) => format!("!{}", register(name)),
                None if number(text).is_some() => format!("({text} != 0)"),
                None => register(text),
            });
        }
        Ok(format!("as<{}>({})", cpp_type(kind)?, self.raw(text)?))
    }

    fn write(to: &str, value: &str) -> String {
        if to == "_" { String::new() } else { format!("put({}, {value});", register(to)) }
    }

    /// The address in brackets, in a space.
    fn address(&mut self, operand: &str, space: &str, bytes: usize) -> Result<String, String> {
        let inside = operand
            .strip_prefix('[')
            .and_then(|inside| inside.strip_suffix(']'))
            .ok_or_else(|| format!("not an address: {operand}"))?
            .trim();
        let (base, offset) =
            inside.split_once('+').map_or((inside, "0"), |(a, b)| (a.trim(), b.trim()));
        let offset = number(offset).ok_or_else(|| format!("not an offset: {operand}"))?;
        let base = if base.starts_with('%') || !self.is_symbol(base) {
            format!("as<u64>({})", register(base))
        } else {
            self.address_of(base)?
        };
        let sum = format!("{base} + {offset}");
        Ok(if space == "shared" { format!("shared_at(t, {sum}, {bytes})") } else { sum })
    }

    fn instruction(&mut self, opcode: &str, operands: &[&str]) -> Result<String, String> {
        let parts: Vec<&str> = opcode.split('.').collect();
        let (name, modifiers) = (parts[0], &parts[1..]);
        let kind = modifiers.last().copied().unwrap_or_default();
        let has = |word: &str| modifiers.contains(&word);
        let operand = |index: usize| {
            operands.get(index).copied().ok_or_else(|| "an operand is missing".to_owned())
        };
        match name {
            "ret" | "exit" => return Ok("return;".into()),
            "bra" => return Ok(format!("goto {};", label(operand(0)?))),
            "membar" | "fence" | "griddepcontrol" => return Ok(String::new()),
            "trap" => return Ok("fail(t, \"trap\");".into()),
            "ld" | "ldu" => return self.load(modifiers, operand(0)?, operand(1)?),
            "st" => return self.store(modifiers, operand(0)?, operand(1)?),
            "call" => return self.call(operands),
            "bar" | "barrier" => return self.barrier(modifiers, operands),
            "shfl" | "vote" | "mma" | "activemask" => self.meets = true,
            _ => {}
        }
        let saturates = has("sat") || has("xorsign");
        if saturates && !(name == "cvt" || (kind == "f32" && matches!(name, "add" | "sub" | "mul")))
        {
            return Err("has no translation".into());
        }
        // Three operands at most are read as the type.
        let mut given = |index: usize| self.read(operand(index)?, kind);
        let cpp = || cpp_type(kind);
        let value = match name {
            "mov" if operand(0)?.starts_with('{') || operand(1)?.starts_with('{') => {
                return self.move_parts(kind, operand(0)?, operand(1)?);
            }
            "mov" | "cvta" if kind == "pred" => {
                return Ok(format!("{} = {};", register(operand(0)?), given(1)?));
            }
            "mov" => given(1)?,
            "cvta" if has("shared") => {
                let function = if has("to") { "cvta_to_shared" } else { "cvta_shared" };
                format!("{function}(t, {})", given(1)?)
            }
            "cvta" => given(1)?,
            "mapa" => format!("mapa(t, {}, {})", given(1)?, self.read(operand(2)?, "u32")?),
            "add" | "addc" | "sub" | "subc" | "mad" | "madc" if has("cc") || name.len() == 4 => {
                return self.carrying(name, modifiers, operands);
            }
            "add" | "sub" | "mul" if kind.ends_with("x2") => {
                let half = cpp_type(kind.trim_end_matches("x2"))?;
                let sign = match name {
                    "add" => "+",
                    "sub" => "-",
                    _ => "*",
                };
                let (a, b) = (self.read(operand(1)?, "u32")?, self.read(operand(2)?, "u32")?);
                let one = |shift: usize| {
                    let part = |of: &str| format!("f32(as<{half}>(u16({of} >> {shift})))");
                    format!("u32(as<u16>({half}({} {sign} {}))) << {shift}", part(&a), part(&b))
                };
                format!("u32({} | {})", one(0), one(16))
            }
            "add" | "sub" | "mul" if is_float(kind) => {
                let sign = match name {
                    "add" => "+",
                    "sub" => "-",
                    _ => "*",
                };
                let (a, b) = (given(1)?, given(2)?);
                if has("rz") {
                    match name {
                        "add" => format!("add_rz({a}, {b})"),
                        _ => return Err("rounds in a way that is not known".into()),
                    }
                } else if has("rm") || has("rp") {
                    return Err("rounds in a way that is not known".into());
                } else if is_half(kind) {
                    format!("{kind}(f32({a}) {sign} f32({b}))")
                } else {
                    let sum = format!("{a} {sign} {b}");
                    if has("sat") { format!("saturate({sum})") } else { sum }
                }
            }
            "add" => format!("{}({} + {})", cpp()?, given(1)?, given(2)?),
            "sub" => format!("{}({} - {})", cpp()?, given(1)?, given(2)?),
            "mul" | "mad" if has("wide") => {
                let wide = format!("{}{}", &kind[..1], 2 * kind[1..].parse::<usize>().unwrap_or(0));
                let wide = cpp_type(&wide)?;
                let product = format!("{wide}({}) * {wide}({})", given(1)?, given(2)?);
                if name == "mad" {
                    let added = self.raw(operand(3)?)?;
                    format!("{wide}({product} + as<{wide}>({added}))")
                } else {
                    format!("{wide}({product})")
                }
            }
            "mul" if has("hi") => format!("mul_hi({}, {})", given(1)?, given(2)?),
            "mul" => format!("{}({} * {})", cpp()?, given(1)?, given(2)?),
            "mad" if is_float(kind) => {
                format!("fma_rn({}, {}, {})", given(1)?, given(2)?, given(3)?)
            }
            "mad" if has("hi") => {
                format!("{}(mul_hi({}, {}) + {})", cpp()?, given(1)?, given(2)?, given(3)?)
            }
            "mad" => format!("{}({} * {} + {})", cpp()?, given(1)?, given(2)?, given(3)?),
            "fma" if has("rn") => format!("fma_rn({}, {}, {})", given(1)?, given(2)?, given(3)?),
            "fma" if has("rm") && kind == "f32" => {
                format!("fma_rm({}, {}, {})", given(1)?, given(2)?, given(3)?)
            }
            "div" if is_float(kind) => format!("{} / {}", given(1)?, given(2)?),
            "div" => format!("divide<{}>({}, {})", cpp()?, given(1)?, given(2)?),
            "rem" => format!("remainder_of<{}>({}, {})", cpp()?, given(1)?, given(2)?),
            "neg" if is_half(kind) => format!("{kind}(-f32({}))", given(1)?),
            "neg" => format!("{}(-{})", cpp()?, given(1)?),
            "abs" if is_half(kind) => format!("{kind}(fabsf({}))", given(1)?),
            "abs" if kind == "f32" => format!("fabsf({})", given(1)?),
            "abs" if kind == "f64" => format!("fabs({})", given(1)?),
            "abs" => {
                let a = given(1)?;
                format!("{}({a} < 0 ? -{a} : {a})", cpp()?)
            }
            "sqrt" | "rcp" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
                let a = given(1)?;
                let single = if kind == "f64" { "" } else { "f" };
                let value = match name {
                    "rcp" => format!("1 / {a}"),
                    "rsqrt" => format!("1 / sqrt{single}({a})"),
                    "ex2" => format!("exp2{single}({a})"),
                    "lg2" => format!("log2{single}({a})"),
                    function => format!("{function}{single}({a})"),
                };
                if is_half(kind) { format!("{kind}({value})") } else { value }
            }
            "min" | "max" => {
                let function = if name == "min" { "minimum" } else { "maximum" };
                let (a, b) = (given(1)?, given(2)?);
                let nan = |wrapped: String| {
                    if has("NaN") {
                        let nan = format!("{}(NAN)", if is_half(kind) { kind } else { "f32" });
                        format!("is_nan({a}) || is_nan({b}) ? {nan} : {wrapped}")
                    } else {
                        wrapped
                    }
                };
                if is_half(kind) {
                    nan(format!("{kind}({function}(f32({a}), f32({b})))"))
                } else {
                    nan(format!("{function}({a}, {b})"))
                }
            }
            "and" | "or" | "xor" if kind == "pred" => {
                let sign = match name {
                    "and" => "&",
                    "or" => "|",
                    _ => "^",
                };
                format!("bool({} {sign} {})", given(1)?, given(2)?)
            }
            "not" if kind == "pred" => format!("!({})", given(1)?),
            "and" => format!("{}({} & {})", cpp()?, given(1)?, given(2)?),
            "or" => format!("{}({} | {})", cpp()?, given(1)?, given(2)?),
            "xor" => format!("{}({} ^ {})", cpp()?, given(1)?, given(2)?),
            "not" => format!("{}(~{})", cpp()?, given(1)?),
            "shl" => format!("shift_left({}, {})", given(1)?, self.read(operand(2)?, "u32")?),
            "shr" => format!("shift_right({}, {})", given(1)?, self.read(operand(2)?, "u32")?),
            "bfi" => format!(
                "bit_insert({}, {}, {}, {})",
                given(1)?,
                given(2)?,
                self.read(operand(3)?, "u32")?,
                self.read(operand(4)?, "u32")?
            ),
            "bfe" if kind.starts_with('u') => format!(
                "bit_extract({}, {}, {})",
                given(1)?,
                self.read(operand(2)?, "u32")?,
                self.read(operand(3)?, "u32")?
            ),
            "prmt" => format!("permute({}, {}, {})", given(1)?, given(2)?, given(3)?),
            "clz" => {
                let (a, bits) = (given(1)?, &kind[1..]);
                format!("u32({a} == 0 ? {bits} : __builtin_clzll({a}) - (64 - {bits}))")
            }
            "popc" => format!("u32(__builtin_popcountll({}))", given(1)?),
            "copysign" => {
                let single = if kind == "f64" { "" } else { "f" };
                format!("copysign{single}({}, {})", given(2)?, given(1)?)
            }
            "selp" => {
                let chosen = self.read(operand(3)?, "pred")?;
                let mut given = |index: usize| self.read(operand(index)?, kind);
                format!("{chosen} ? {} : {}", given(1)?, given(2)?)
            }
            "setp" | "set" => return self.compare(name, modifiers, operands),
            "cvt" => return self.convert(modifiers, operands),
            "shfl" => {
                let mode = modifiers.iter().find_map(|word| {
                    Some(match *word {
                        "bfly" => "BFLY",
                        "down" => "DOWN",
                        "up" => "UP",
                        "idx" => "IDX",
                        _ => return None,
                    })
                });
                let mode = mode.ok_or("a way to shuffle that is not known")?;
                let (to, valid) = operand(0)?.split_once('|').unwrap_or((operand(0)?, "_"));
                let mut given = |index: usize| self.read(operand(index)?, "u32");
                let call = format!(
                    "shuffle(t, {mode}, {}, {}, {}, {}, valid)",
                    given(1)?,
                    given(2)?,
                    given(3)?,
                    given(4)?
                );
                let valid = if valid == "_" {
                    String::new()
                } else {
                    format!(" {} = valid;", register(valid))
                };
                return Ok(format!("{{ bool valid; {}{valid} }}", Self::write(to, &call)));
            }
            "vote" => {
                let pred = self.read(operand(1)?, "pred")?;
                let ballot = format!("ballot(t, {pred}, {})", self.read(operand(2)?, "u32")?);
                if has("ballot") {
                    ballot
                } else if has("any") {
                    format!("bool({ballot} != 0)")
                } else {
                    return Err("a vote that is not known".into());
                }
            }
            "activemask" => "t.warp->alive".into(),
            "atom" | "red" if has("add") => {
                let space = if has("shared") { "shared" } else { "" };
                let (address, value) = match name {
                    "atom" => (operand(1)?, operand(2)?),
                    _ => (operand(0)?, operand(1)?),
                };
                let call = format!(
                    "atomic_add({}, {})",
                    self.address(address, space, size_of_type(kind).unwrap_or(8))?,
                    self.read(value, kind)?
                );
                if name == "red" {
                    return Ok(format!("{call};"));
                }
                call
            }
            "mma" if opcode == "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => {
                return self.tiles(operands);
            }
            _ => return Err("has no translation".into()),
        };
        Ok(Self::write(operand(0)?, &value))
    }
}

/// The registers in braces, or the one.
fn vector(text: &str) -> Vec<&str> {
    match text.strip_prefix('{').and_then(|inside| inside.strip_suffix('}')) {
        Some(inside) => split(inside),
        None => vec![text],
    }
}
