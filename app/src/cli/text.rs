//! Text of reports: lines that fit [`WIDTH`] columns, and the way to stdout.

use crate::{Outcome, out, show};
use anyhow::{Context, Result};
use std::io::{ErrorKind, Write};
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Columns that every report fits.
pub const WIDTH: usize = 120;

/// Writes a report. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Result<Outcome> {
    write(out::stdout(), text)
}

/// As [`print()`], but what was asked for as it is.
pub fn print_contents(text: &str) -> Result<Outcome> {
    write(out::contents(), text)
}

fn write(mut to: impl Write, text: &str) -> Result<Outcome> {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => Ok(Outcome::Done),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Outcome::Done),
        Err(e) => Err(e).context("cannot write to stdout"),
    }
}

/// One JSON object on one line.
pub fn print_json(report: &impl serde::Serialize) -> Result<Outcome> {
    print(&format!("{}\n", out::json(&serde_json::to_string(report)?)))
}

/// Bytes with a decimal prefix, as datasheets count them: `80.0 GB`.
pub fn bytes(n: u64) -> String {
    format!("{}B", show::spaced(n as f64))
}

/// `text` in lines of at most `width` columns, broken at spaces; a word that is longer is broken anywhere.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let options = Options::new(width)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    let lines = textwrap::wrap(&words, options);
    lines.into_iter().filter(|line| !line.is_empty()).map(String::from).collect()
}

/// Appends `text` to `out`, wrapped, each line indented; a first line starts with `lead` instead.
pub fn paragraph(out: &mut String, lead: &str, indent: usize, text: &str) {
    for (i, line) in wrap(text, WIDTH - indent).into_iter().enumerate() {
        let start = if i == 0 { lead } else { "" };
        out.push_str(&format!("{start:<indent$}{line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_spaces_and_long_words_anywhere() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("  ", 4), Vec::<String>::new());
        let mut out = String::new();
        paragraph(&mut out, "  x", 4, &"word ".repeat(60));
        assert!(out.starts_with("  x word word") && out.lines().count() == 3);
        assert!(out.lines().all(|l| l.chars().count() <= WIDTH), "{out}");
        assert_eq!(bytes(80_000_000_000), "80.0 GB");
        assert_eq!(bytes(512), "512.0 B");
    }
}
