//! Loops that are written out: kernels keep sums and operands in variables of their own, since an array that is indexed
//! at run time is no register.
//!
//! `//% for r in 0..8` to `//% end` stands for its lines once for each value, and may hold others. In them `$r` is the
//! value, `$(4*r+c)` a sum of products of values and numbers, `$.r` the component with that number (`.x` to `.w`).

use std::ops::Range;

/// Values of the loops around a line, the innermost last.
type Values = Vec<(String, u32)>;

/// `text` with every loop written out.
pub(crate) fn expand(text: &str) -> Result<String, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::with_capacity(text.len());
    let rest = block(&lines, &mut Values::new(), &mut out)?;
    if rest < lines.len() {
        return Err(format!("line {}: `//% end` without `//% for`", rest + 1));
    }
    Ok(out)
}

/// Writes the lines up to the end of a block, and says where that is.
fn block(lines: &[&str], values: &mut Values, out: &mut String) -> Result<usize, String> {
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let directive = line.trim().strip_prefix("//%").map_or("", str::trim);
        if directive == "end" {
            break;
        }
        if let Some(head) = directive.strip_prefix("for ") {
            let (name, range) = header(head)?;
            let body = &lines[at + 1..];
            let mut length = 0;
            for value in range {
                values.push((name.into(), value));
                length = block(body, values, out)?;
                values.pop();
            }
            if length >= body.len() {
                return Err(format!("`//% {directive}` without `//% end`"));
            }
            at += length + 2;
            continue;
        }
        filled(line, values, out)?;
        out.push('\n');
        at += 1;
    }
    Ok(at)
}

/// `r in 0..8`
fn header(head: &str) -> Result<(&str, Range<u32>), String> {
    let bad = || format!("`//% for {head}`: expected `NAME in 0..8`, a name of small letters and at least one value");
    let (name, range) = head.split_once(" in ").ok_or_else(bad)?;
    let (start, end) = range.split_once("..").ok_or_else(bad)?;
    let number = |s: &str| s.trim().parse::<u32>().map_err(|_| bad());
    let (name, range) = (name.trim(), number(start)?..number(end)?);
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase()) && !range.is_empty();
    if fits { Ok((name, range)) } else { Err(bad()) }
}

/// Writes a line with its values; outside loops as it is.
fn filled(line: &str, values: &Values, out: &mut String) -> Result<(), String> {
    if values.is_empty() {
        out.push_str(line);
        return Ok(());
    }
    let mut parts = line.split('$');
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let bad = || format!("`{}`: expected `$name`, `$(4*name+1)` or `$.name` of a loop around it", line.trim());
        let (place, rest) = match part.strip_prefix('(') {
            Some(inner) => {
                let (sum, rest) = inner.split_once(')').ok_or_else(bad)?;
                (sum_of(sum, values).ok_or_else(bad)?.to_string(), rest)
            }
            None => {
                let name = part.strip_prefix('.').unwrap_or(part);
                let length = name.bytes().take_while(u8::is_ascii_lowercase).count();
                let value = factor(&name[..length], values).ok_or_else(bad)?;
                let place = match part.starts_with('.') {
                    true => format!(".{}", ["x", "y", "z", "w"].get(value as usize).ok_or_else(bad)?),
                    false => value.to_string(),
                };
                (place, &name[length..])
            }
        };
        out.push_str(&place);
        out.push_str(rest);
    }
    Ok(())
}

fn sum_of(sum: &str, values: &Values) -> Option<u32> {
    sum.split('+').map(|product| product.split('*').map(|f| factor(f.trim(), values)).product::<Option<u32>>()).sum()
}

fn factor(text: &str, values: &Values) -> Option<u32> {
    text.parse().ok().or_else(|| values.iter().rev().find(|(name, _)| name == text).map(|(_, value)| *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_are_written_out() {
        let text =
            "a\n  //% for r in 0..2\nlet y$r_$(2*r+1) = x$.r;\n//% for q in 1..3\nuse($(r*10+q)u);\n//% end\n//% end\nb\n";
        let expect = "a\nlet y0_1 = x.x;\nuse(1u);\nuse(2u);\nlet y1_3 = x.y;\nuse(11u);\nuse(12u);\nb\n";
        assert_eq!(expand(text).unwrap(), expect);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, said) in [
            ("//% end\n", "without `//% for`"),
            ("//% for r in 0..2\nx\n", "without `//% end`"),
            ("//% for R in 0..2\nx\n//% end\n", "small letters"),
            ("//% for r in 2..2\nx\n//% end\n", "at least one value"),
            ("//% for r 0..2\nx\n//% end\n", "NAME in 0..8"),
            ("//% for r in 0..2\ny$q\n//% end\n", "y$q"),
            ("//% for r in 0..2\ny$(r+\n//% end\n", "y$(r+"),
            ("//% for r in 4..5\ny$.r\n//% end\n", "y$.r"),
        ] {
            let problem = expand(text).unwrap_err();
            assert!(problem.contains(said), "{text:?}: {problem}");
        }
    }
}
