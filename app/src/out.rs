//! The way out. Texts for people leave this program through [`stdout`] and [`stderr`] only: names, texts and paths in
//! them come from files that anybody may have made, and a terminal obeys control characters instead of showing them.
//! Here they become text (`show::printable_text`).
//!
//! What was asked for as it is ([`contents`]: a sample, a config) stays as it is, except on a terminal. JSON has
//! escapes of its own ([`json`]).

use crate::show::printable_text;
use std::borrow::Cow;
use std::io::{self, IsTerminal, StderrLock, StdoutLock, Write};

/// Where reports and results go.
pub fn stdout() -> Printable<StdoutLock<'static>> {
    Printable::new(io::stdout().lock())
}

/// Where notes, warnings and errors go.
pub fn stderr() -> Printable<StderrLock<'static>> {
    Printable::new(io::stderr().lock())
}

/// Standard output for contents: the bytes as they are, but printable on a terminal.
pub fn contents() -> Box<dyn Write> {
    match io::stdout().is_terminal() {
        true => Box::new(stdout()),
        false => Box::new(io::stdout().lock()),
    }
}

/// A note beside a result, on stderr. Where stderr is closed nobody wants it.
pub fn note(text: &str) {
    let _ = writeln!(stderr(), "note: {text}");
}

/// JSON whose strings hold no character that a terminal obeys: the same values, in printable characters.
pub fn json(text: &str) -> Cow<'_, str> {
    // Any writer of JSON escapes those below U+0020; DEL, C1 and marks of direction may stand in a string.
    if matches!(printable_text(text), Cow::Borrowed(_)) {
        return Cow::Borrowed(text);
    }
    let mut buffer = [0; 4];
    let escaped = |c: char, buffer: &mut [u8; 4]| match printable_text(c.encode_utf8(buffer)) {
        Cow::Borrowed(same) => same.to_string(),
        Cow::Owned(_) => format!("\\u{:04x}", u32::from(c)),
    };
    Cow::Owned(text.chars().map(|c| escaped(c, &mut buffer)).collect())
}

/// A writer of UTF-8 that comes in any pieces: control characters other than line breaks and tabs leave it as text,
/// bytes that are no character as U+FFFD.
#[derive(Debug)]
pub struct Printable<W: Write> {
    inner: W,
    /// The first bytes of a character whose rest has not come yet.
    cut: Vec<u8>,
}

impl<W: Write> Printable<W> {
    /// In front of `inner`.
    pub fn new(inner: W) -> Printable<W> {
        Printable { inner, cut: Vec::new() }
    }
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.cut);
        all.extend_from_slice(bytes);
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.inner.write_all(printable_text(chunk.valid()).as_bytes())?;
            let last = chunks.peek().is_none();
            match std::str::from_utf8(chunk.invalid()) {
                Ok(_nothing) => {}
                // Valid as far as it goes: the rest may be in the next piece.
                Err(e) if last && e.error_len().is_none() => self.cut = chunk.invalid().to_vec(),
                Err(_) => self.inner.write_all("\u{FFFD}".as_bytes())?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when `bytes` are written in pieces of `piece`.
    fn written(bytes: &[u8], piece: usize) -> String {
        let mut out = Printable::new(Vec::new());
        bytes.chunks(piece).for_each(|part| out.write_all(part).unwrap());
        String::from_utf8(out.inner).unwrap()
    }

    #[test]
    fn a_terminal_is_shown_what_it_would_obey() {
        let hostile = "w\u{1b}]0;title\u{7} \u{9b}2J\r\u{e} ok\u{e9}\u{1F600}\n\tnext\n";
        let shown = "w\\u{1b}]0;title\\u{7} \\u{9b}2J\\r\\u{e} ok\u{e9}\u{1F600}\n\tnext\n";
        for piece in 1..9 {
            assert_eq!(written(hostile.as_bytes(), piece), shown, "in pieces of {piece}");
        }
    }

    #[test]
    fn bytes_that_are_no_character_are_marked_and_the_rest_stays() {
        for piece in 1..7 {
            assert_eq!(written(b"a\xffb\xe2\x82c\x9b\n", piece), "a\u{FFFD}b\u{FFFD}c\u{FFFD}\n", "in pieces of {piece}");
        }
        assert_eq!(written(b"a\xe2\x82", 1), "a", "the rest of a character is waited for");
    }

    #[test]
    fn json_keeps_its_values() {
        let text = serde_json::to_string("a\u{1b}\u{9b}\u{7f}\u{202e}\n\u{e9}").unwrap();
        let safe = json(&text);
        assert_eq!(safe, "\"a\\u001b\\u009b\\u007f\\u202e\\n\u{e9}\"");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), serde_json::from_str::<String>(&text).unwrap());
        assert!(matches!(json("{\"a\":1}"), Cow::Borrowed(_)));
    }
}
