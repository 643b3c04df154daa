//! Numbers and names for people: the same in the terminal, the window and the browser.

use std::borrow::Cow;

/// `1234567` as `1,234,567`.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A number of things: `1 step`, `2,000 steps`. `thing` is one of them, and takes an s.
pub fn counted(n: usize, thing: &str) -> String {
    format!("{} {}", thousands(n), plural(n, thing))
}

/// What `n` things are called of which `thing` is one: `step` or `steps`.
pub fn plural(n: usize, thing: &str) -> String {
    format!("{thing}{}", if n == 1 { "" } else { "s" })
}

/// `0.001` as `1.00e-03`.
pub fn scientific(x: f64) -> String {
    let text = format!("{x:.2e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => match exponent.strip_prefix('-') {
            Some(e) => format!("{mantissa}e-{e:0>2}"),
            None => format!("{mantissa}e+{exponent:0>2}"),
        },
        // inf and NaN have no exponent.
        None => text,
    }
}

/// A measured number with `digits` after the point, or [`scientific`] where that would be a long row of digits.
pub fn measured(x: f32, digits: usize) -> String {
    if x.is_finite() && x.abs() >= 1e6 { scientific(f64::from(x)) } else { format!("{x:.digits$}") }
}

/// A share: `0.125` as `12.50%`.
pub fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0".into(),
        p if p < 0.01 => "<0.01%".into(),
        p => format!("{p:.2}%"),
    }
}

/// A rate with a unit prefix: `85000` as `85.0k`.
pub fn prefixed(x: f64) -> String {
    let (scale, prefix) =
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")].into_iter().find(|(s, _)| x >= *s).unwrap_or((1.0, ""));
    format!("{:.1}{prefix}", x / scale)
}

/// A number of operations or a rate of them, spaced for its unit: `1.18e11` as `118.0 G`.
pub fn spaced(x: f64) -> String {
    let text = prefixed(x);
    match text.strip_suffix(['T', 'G', 'M', 'k']) {
        Some(number) => format!("{number} {}", &text[number.len()..]),
        None => format!("{text} "),
    }
}

/// The middle of a list (of two middles the upper one); 0 for none.
pub fn median(list: &mut [f64]) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(0.0)
}

/// Bytes as MiB with one digit, or KiB when small.
pub fn mebibytes(bytes: usize) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib >= 102.4 { format!("{:.1} MiB", kib / 1024.0) } else { format!("{kib:.1} KiB") }
}

/// Seconds as `0:42` or `1:02:03`.
pub fn clock(secs: f64) -> String {
    let s = secs.round().max(0.0) as u64;
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// A loss scale: whole numbers plainly, small and very large ones in scientific notation.
pub fn loss_scale(x: f32) -> String {
    // As f64: the shortest f32 text of 2^30 would be 1073741800.
    let x = f64::from(x);
    if (1.0..1e15).contains(&x) || !x.is_finite() { format!("{x}") } else { scientific(x) }
}

/// A name that came from a file, fit for a line of a terminal: control characters (C0, DEL, C1), line breaks, tabs, and
/// characters that turn the direction of writing stand as Rust writes them, ESC as `\u{1b}`. Everything else stays.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, unprintable)
}

/// [`printable`] for texts of several lines: line feeds and tabs stay.
pub fn printable_text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| unprintable(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, escape: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&escape) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if escape(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// What a terminal obeys instead of showing: control characters, Unicode's line separators, and its marks, embeddings,
/// overrides and isolates of direction.
fn unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{61C}' | '\u{200E}' | '\u{200F}')
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_numbers_are_short_whatever_they_are() {
        let shown: Vec<_> = [0.0, 1.5, -2.00049, 999_999.5, f32::MAX, -1e9].map(|x| measured(x, 3)).into();
        assert_eq!(shown, ["0.000", "1.500", "-2.000", "999999.500", "3.40e+38", "-1.00e+09"]);
        assert_eq!([f32::NAN, f32::INFINITY].map(|x| measured(x, 3)), ["NaN", "inf"]);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left_of_a_name() {
        assert!(matches!(printable("gewicht.\u{e4}\u{4e2d}\u{1F600} `x`"), Cow::Borrowed(_)));
        assert_eq!(printable("w\u{1b}]0;X\u{7}"), "w\\u{1b}]0;X\\u{7}");
        assert_eq!(printable("a\r\nb\tc"), "a\\r\\nb\\tc");
        assert_eq!(printable("\u{9b}2J\u{7f}"), "\\u{9b}2J\\u{7f}");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}"), "a\\u{202e}b\\u{2066}c\\u{2028}");
        assert_eq!(printable_text("a\n\tb\r\u{1b}c"), "a\n\tb\\r\\u{1b}c");
        // Over all of Unicode: what comes out is its own printable form.
        let all: String = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
        let (name, text) = (printable(&all), printable_text(&all));
        assert!(!name.chars().any(unprintable) && matches!(printable(&name), Cow::Borrowed(_)));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0]), 4.0);
        assert_eq!(median(&mut []), 0.0);
    }

    #[test]
    fn numbers_read_as_in_the_house_style() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!([0, 1, 2000].map(|n| counted(n, "step")), ["0 steps", "1 step", "2,000 steps"]);
        assert_eq!(scientific(3e-4), "3.00e-04");
        assert_eq!(scientific(0.0), "0.00e+00");
        assert_eq!(scientific(f64::NAN), "NaN");
        assert_eq!((percent(0.125), percent(1e-5), percent(0.0)), ("12.50%".into(), "<0.01%".into(), "0".into()));
        assert_eq!(prefixed(85_000.0), "85.0k");
        assert_eq!(spaced(1.18e11), "118.0 G");
        assert_eq!(spaced(5.0), "5.0 ");
        assert_eq!(clock(42.2), "0:42");
        assert_eq!(clock(3723.0), "1:02:03");
        assert_eq!(loss_scale(65536.0), "65536");
        assert_eq!(loss_scale(1073741824.0), "1073741824");
        assert_eq!([1.0 / 16384.0, 1e29, f32::INFINITY].map(loss_scale), ["6.10e-05", "1.00e+29", "inf"]);

        assert_eq!(mebibytes(3 << 20), "3.0 MiB");
    }
}
