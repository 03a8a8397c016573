//! Instructions that take more than a line: memory, barriers, calls, comparisons, conversions, carries.

use std::fmt::Write;

use super::{
    Place, Translator, clean, cpp_type, declarations, is_float, is_half, register, size_of_type,
    symbol, vector,
};
use crate::ptx::split;

impl Translator<'_> {
    pub(super) fn tiles(&mut self, operands: &[&str]) -> Result<String, String> {
        let [d, a, b, c] = operands else { return Err("four operands are needed".into()) };
        let mut list = |text: &str, count: usize| -> Result<Vec<String>, String> {
            let parts = vector(text);
            if parts.len() != count {
                return Err(format!("{count} registers are needed"));
            }
            parts.iter().map(|part| self.read(part, "f32")).collect()
        };
        let (a, b, c) = (list(a, 4)?.join(", "), list(b, 2)?.join(", "), list(c, 4)?.join(", "));
        let mut code = format!(
            "{{ f32 d[4]; const f32 a[4] = {{{a}}}, b[2] = {{{b}}}, c[4] = {{{c}}}; \
             mma_16x8x8_tf32(t, d, a, b, c); "
        );
        for (index, to) in vector(d).into_iter().enumerate() {
            code.push_str(&Self::write(to, &format!("d[{index}]")));
        }
        code.push('}');
        Ok(code)
    }

    pub(super) fn move_parts(
        &mut self,
        kind: &str,
        to: &str,
        from: &str,
    ) -> Result<String, String> {
        let bits = 8 * size_of_type(kind).ok_or("a type that is not known")?;
        if to.starts_with('{') {
            let parts = vector(to);
            let each = bits / parts.len();
            let from = self.read(from, kind)?;
            let mut code = format!("{{ const u64 all = {from};");
            for (index, part) in parts.into_iter().enumerate() {
                code.push_str(&Self::write(part, &format!("u{each}(all >> {})", index * each)));
            }
            return Ok(code + "}");
        }
        let parts = vector(from);
        let each = bits / parts.len();
        let mut all = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let part = self.read(part, &format!("u{each}"))?;
            all.push(format!("u64({part}) << {}", index * each));
        }
        Ok(Self::write(to, &format!("{}({})", cpp_type(kind)?, all.join(" | "))))
    }

    pub(super) fn load(
        &mut self,
        modifiers: &[&str],
        to: &str,
        from: &str,
    ) -> Result<String, String> {
        let kind = modifiers.last().copied().unwrap_or_default();
        let space = ["param", "global", "shared", "local", "const"];
        let space = space.into_iter().find(|space| modifiers.contains(space)).unwrap_or_default();
        let size = size_of_type(kind).ok_or("a type that is not known")?;
        let parts = vector(to);
        let all = size * parts.len();
        let address = self.address(from, space, all)?;
        let mut code = String::new();
        // Others may have to write first.
        if ["acquire", "volatile", "relaxed"].iter().any(|word| modifiers.contains(word)) {
            self.meets = true;
            code.push_str("spin(t); ");
        }
        let _ = write!(code, "{{ const u64 at = aligned(t, {address}, {all});");
        for (index, part) in parts.into_iter().enumerate() {
            let value = format!("load<{}>(at + {})", cpp_type(kind)?, index * size);
            code.push_str(&Self::write(part, &value));
        }
        Ok(code + "}")
    }

    pub(super) fn store(
        &mut self,
        modifiers: &[&str],
        to: &str,
        from: &str,
    ) -> Result<String, String> {
        let kind = modifiers.last().copied().unwrap_or_default();
        let space = ["param", "global", "shared", "local"];
        let space = space.into_iter().find(|space| modifiers.contains(space)).unwrap_or_default();
        let size = size_of_type(kind).ok_or("a type that is not known")?;
        let parts = vector(from);
        let all = size * parts.len();
        let address = self.address(to, space, all)?;
        let mut code = format!("{{ const u64 at = aligned(t, {address}, {all});");
        for (index, part) in parts.into_iter().enumerate() {
            let _ = write!(code, "store(at + {}, {});", index * size, self.read(part, kind)?);
        }
        Ok(code + "}")
    }

    pub(super) fn barrier(
        &mut self,
        modifiers: &[&str],
        operands: &[&str],
    ) -> Result<String, String> {
        self.meets = true;
        let is = |word: &str| modifiers.contains(&word);
        if is("cluster") {
            return Ok(if is("arrive") { "cluster_arrive(t);" } else { "cluster_wait(t);" }.into());
        }
        let mut all = Vec::new();
        for operand in operands {
            all.push(self.read(operand, "u32")?);
        }
        match (is("warp"), is("sync")) {
            (true, true) => Ok(format!("warp_sync(t, {});", all.join(", "))),
            (false, true) => Ok(format!("bar_sync(t, {});", all.join(", "))),
            _ => Err("a barrier that is not known".into()),
        }
    }

    pub(super) fn call(&mut self, operands: &[&str]) -> Result<String, String> {
        let list = |text: &str| -> Vec<String> {
            split(text.trim_matches(['(', ')'])).into_iter().map(str::to_owned).collect()
        };
        let (results, name, arguments) = match operands {
            [results, name, arguments] => (list(results), *name, list(arguments)),
            [name, arguments] if arguments.starts_with('(') => (Vec::new(), *name, list(arguments)),
            [name] => (Vec::new(), *name, Vec::new()),
            _ => return Err("a call that is not known".into()),
        };
        let given: Vec<_> = results.iter().chain(&arguments).map(|name| symbol(name)).collect();
        if name == "__assertfail" {
            let message = given.first().ok_or("an assertion without a message")?;
            return Ok(format!("assert_fail(t, {message});"));
        }
        self.function(name)?;
        let given: Vec<_> = std::iter::once("t".to_owned()).chain(given).collect();
        Ok(format!("F_{}({});", clean(name), given.join(", ")))
    }

    pub(super) fn function(&mut self, name: &str) -> Result<(), String> {
        if !self.done.insert(name.to_owned()) {
            return Ok(());
        }
        let source = self
            .module
            .function(name)
            .ok_or_else(|| format!("a function that is not known: {name}"))?;
        let (results, parameters) = declarations(source.head)?;
        let mut given = vec!["Thread &t".to_owned()];
        for declared in results.iter().chain(&parameters) {
            given.push(format!("u8 *{}", symbol(&declared.name)));
            self.places.insert(declared.name.clone(), Place::Pointer);
        }
        let mut body = String::new();
        self.body(source, &mut body)?;
        let name = clean(name);
        let _ = writeln!(self.before, "static void F_{name}({}) {{\n{body}}}", given.join(", "));
        Ok(())
    }

    pub(super) fn compare(
        &mut self,
        name: &str,
        modifiers: &[&str],
        operands: &[&str],
    ) -> Result<String, String> {
        let modifiers: Vec<_> = modifiers.iter().copied().filter(|word| *word != "ftz").collect();
        let [to, a, b, more @ ..] = operands else { return Err("operands are missing".into()) };
        let kind = modifiers.last().copied().unwrap_or_default();
        let how = modifiers.first().copied().unwrap_or_default();
        let unsigned = matches!(how, "lo" | "ls" | "hi" | "hs");
        let kind = if unsigned && kind.starts_with('b') {
            format!("u{}", &kind[1..])
        } else {
            kind.into()
        };
        let (a, b) = (self.read(a, &kind)?, self.read(b, &kind)?);
        let (a, b) =
            if is_half(&kind) { (format!("f32({a})"), format!("f32({b})")) } else { (a, b) };
        let nan = format!("(is_nan({a}) || is_nan({b}))");
        let value = match how {
            "eq" => format!("{a} == {b}"),
            "ne" if is_float(&kind) => format!("!{nan} && {a} != {b}"),
            "ne" => format!("{a} != {b}"),
            "lt" | "lo" => format!("{a} < {b}"),
            "le" | "ls" => format!("{a} <= {b}"),
            "gt" | "hi" => format!("{a} > {b}"),
            "ge" | "hs" => format!("{a} >= {b}"),
            "equ" => format!("{nan} || {a} == {b}"),
            "neu" => format!("{nan} || {a} != {b}"),
            "ltu" => format!("{nan} || {a} < {b}"),
            "leu" => format!("{nan} || {a} <= {b}"),
            "gtu" => format!("{nan} || {a} > {b}"),
            "geu" => format!("{nan} || {a} >= {b}"),
            "num" => format!("!{nan}"),
            "nan" => nan,
            _ => return Err("a comparison that is not known".into()),
        };
        if name == "set" {
            let to_kind = modifiers[modifiers.len() - 2];
            let one = match to_kind {
                "f16" | "bf16" | "f32" => {
                    format!("{}({} ? 1.0f : 0.0f)", cpp_type(to_kind)?, format_args!("({value})"))
                }
                _ => format!("u32(({value}) ? -1 : 0)"),
            };
            return Ok(Self::write(to, &one));
        }
        let join = |value: String, c: &str, this: &mut Self| -> Result<String, String> {
            let sign = modifiers.iter().find_map(|word| match *word {
                "and" => Some("&"),
                "or" => Some("|"),
                "xor" => Some("^"),
                _ => None,
            });
            let sign = sign.ok_or("a way to combine that is not known")?;
            Ok(format!("bool(({value}) {sign} {})", this.read(c, "pred")?))
        };
        let combined = |value: String, this: &mut Self| match more.first() {
            Some(c) => join(value, c, this),
            None => Ok(value),
        };
        let (first, second) = to.split_once('|').unwrap_or((to, "_"));
        let mut code = String::new();
        let both = [(first, format!("({value})")), (second, format!("!({value})"))];
        for (to, value) in both.into_iter().filter(|(to, _)| *to != "_") {
            let value = combined(value, self)?;
            let _ = write!(code, "const bool to_{} = {value};", clean(to));
        }
        for to in [first, second].into_iter().filter(|to| *to != "_") {
            let _ = write!(code, "{} = to_{};", register(to), clean(to));
        }
        Ok(format!("{{ {code} }}"))
    }

    pub(super) fn convert(
        &mut self,
        modifiers: &[&str],
        operands: &[&str],
    ) -> Result<String, String> {
        let [to, from] = operands else { return Err("two operands are needed".into()) };
        let [.., to_kind, from_kind] = modifiers else { return Err("types are missing".into()) };
        let has = |word: &str| modifiers.contains(&word);
        if ["rz", "rm", "rp", "relu", "satfinite"].into_iter().any(has) {
            return Err("rounds in a way that is not known".into());
        }
        let a = self.read(from, from_kind)?;
        let cpp = cpp_type(to_kind)?;
        let single = if *from_kind == "f64" { "" } else { "f" };
        let whole = |a: &str| -> Option<String> {
            Some(match () {
                () if has("rni") => format!("rint{single}({a})"),
                () if has("rzi") => format!("trunc{single}({a})"),
                () if has("rmi") => format!("floor{single}({a})"),
                () if has("rpi") => format!("ceil{single}({a})"),
                () => return None,
            })
        };
        let value = match (is_float(from_kind), is_float(to_kind)) {
            _ if *to_kind == "tf32" && has("rna") => format!("rna_tf32({a})"),
            _ if *to_kind == "tf32" => return Err("rounds in a way that is not known".into()),
            (true, true) => {
                let widened = if is_half(from_kind) { format!("f32({a})") } else { a };
                let widened = whole(&widened).unwrap_or(widened);
                let narrowed = if is_half(to_kind) {
                    format!("f32({widened})")
                } else {
                    format!("{cpp}({widened})")
                };
                let value = if has("sat") { format!("saturate({narrowed})") } else { narrowed };
                if is_half(to_kind) { format!("{cpp}({value})") } else { value }
            }
            (true, false) => {
                let widened = if is_half(from_kind) { format!("f32({a})") } else { a };
                let whole = whole(&widened).ok_or("rounds in a way that is not known")?;
                format!("to_integer<{cpp}>({whole})")
            }
            (false, true) if is_half(to_kind) => format!("{cpp}(f32({a}))"),
            (false, true) => format!("{cpp}({a})"),
            (false, false) if has("sat") => return Err("saturates, which is not known".into()),
            // What is signed keeps its sign on the way to what is wider.
            (false, false) => format!("{cpp}({a})"),
        };
        // A result narrower than its register fills it, with its sign if it has one.
        Ok(Self::write(to, &value))
    }

    /// 32-bit numbers with a carry from one instruction to the next.
    pub(super) fn carrying(
        &mut self,
        name: &str,
        modifiers: &[&str],
        operands: &[&str],
    ) -> Result<String, String> {
        if !matches!(modifiers.last(), Some(&("u32" | "s32"))) {
            return Err("carries in numbers that are not 32 bits wide".into());
        }
        let (takes, gives) = (name.ends_with('c'), modifiers.contains(&"cc"));
        let mut all = Vec::new();
        for operand in &operands[1..] {
            all.push(format!("u64({})", self.read(operand, "u32")?));
        }
        let carry = if takes { "u64(carry)" } else { "u64(0)" };
        let sum = match (name.trim_end_matches('c'), all.as_slice()) {
            ("add", [a, b]) => format!("{a} + {b} + {carry}"),
            ("sub", [a, b]) => format!("{a} - {b} - {carry}"),
            ("mad", [a, b, c]) => {
                let part = if modifiers.contains(&"hi") { "32" } else { "0" };
                format!("u64(u32({a} * {b} >> {part})) + {c} + {carry}")
            }
            _ => return Err("a carry that is not known".into()),
        };
        let keep = if gives { "carry = all >> 32 & 1;" } else { "" };
        Ok(format!("{{ const u64 all = {sum}; {} {keep} }}", Self::write(operands[0], "u32(all)")))
    }
}
