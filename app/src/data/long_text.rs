//! A text that is read in parts, whether it is in memory or stays in its file. A long file is looked through once, from
//! its start to its end, and read by windows from then on, so that a run over any text takes the memory of its model. A
//! short one is taken into memory, where nobody can change it under a run.
//!
//! What has to be changed before it is text (gzip, zstd, UTF-16) is read whole, and so is a folder of texts.

use super::file_tokens::{FileTokens, read_at};
use crate::encoding;
use crate::plain_file;
use crate::progress::Progress;
use anyhow::{Context, Result};
use mantissa_core::data::Largest;
use mantissa_core::data::token_layout::{Layout, TokenDtype};
use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Longest text file that is taken into memory, bytes.
const IN_MEMORY_BYTES: u64 = 1 << 26;
/// Bytes looked through in one go.
const PIECE_BYTES: usize = 1 << 20;

/// A text of UTF-8 that is asked for parts.
pub trait LongText {
    /// Its bytes.
    fn size_bytes(&self) -> usize;

    /// The last place up to `at` where a character begins or the text ends.
    fn floor(&self, at: usize) -> Result<usize>;

    /// The text between two such places.
    fn part(&self, range: Range<usize>) -> Result<Cow<'_, str>>;
}

impl LongText for str {
    fn size_bytes(&self) -> usize {
        self.len()
    }

    fn floor(&self, at: usize) -> Result<usize> {
        Ok(self.floor_char_boundary(at))
    }

    fn part(&self, range: Range<usize>) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(&self[range]))
    }
}

/// A text file, open, that was UTF-8 when it was looked through.
#[derive(Debug)]
pub struct TextFile {
    path: PathBuf,
    file: File,
    /// Bytes before the text: its mark.
    start: u64,
    size_bytes: usize,
    largest: Option<Largest>,
}

/// What a file is, as far as its way of being read goes.
#[derive(Debug)]
pub enum Opened {
    /// A long text that stays in its file.
    Long(TextFile),
    /// To be read whole.
    Whole,
    /// No text, but this.
    Other(String),
}

impl TextFile {
    /// Looks through a file, if it is a long one.
    pub fn open(path: &Path, silent: bool) -> Result<Opened> {
        TextFile::longer_than(IN_MEMORY_BYTES, PIECE_BYTES, path, silent)
    }

    fn longer_than(bytes: u64, piece_bytes: usize, path: &Path, silent: bool) -> Result<Opened> {
        let context = || format!("cannot read the data: {}", path.display());
        let (file, size) = plain_file::open(path).with_context(context)?;
        if size <= bytes {
            return Ok(Opened::Whole);
        }
        let mut piece = vec![0; piece_bytes.min(size as usize)];
        read_at(&file, 0, &mut piece).with_context(context)?;
        let mut look = match encoding::Look::at_head(&piece) {
            Ok(Some(look)) => look,
            Ok(None) => return Ok(Opened::Whole),
            Err(found) => return Ok(Opened::Other(found)),
        };
        let start = look.mark_bytes();
        let mut progress = Progress::new("looking through the text", "bytes", size, silent);
        let mut at = start;
        while at < size {
            piece.resize(piece_bytes.min((size - at) as usize), 0);
            read_at(&file, at, &mut piece).with_context(context)?;
            if let Err(found) = look.piece(&piece) {
                return Ok(Opened::Other(found));
            }
            at += piece.len() as u64;
            progress.advance(piece.len() as u64);
        }
        match look.end() {
            Ok(largest) => {
                let size_bytes = (size - start) as usize;
                Ok(Opened::Long(TextFile { path: path.to_path_buf(), file, start, size_bytes, largest }))
            }
            Err(found) => Ok(Opened::Other(found)),
        }
    }

    /// The largest byte.
    pub fn largest(&self) -> Option<Largest> {
        self.largest
    }

    /// The text as tokens: each byte is one.
    pub fn into_tokens(self) -> FileTokens {
        let len = self.size_bytes as u64;
        FileTokens::new(self.path, self.file, Layout { kind: "text file", dtype: TokenDtype::U8, offset: self.start, len })
    }

    fn bytes(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        let read = read_at(&self.file, self.start + range.start as u64, &mut bytes);
        read.with_context(|| format!("cannot read the data: {}", self.path.display()))?;
        Ok(bytes)
    }
}

impl LongText for TextFile {
    fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn floor(&self, at: usize) -> Result<usize> {
        if at >= self.size_bytes {
            return Ok(self.size_bytes);
        }
        // A character has at most four bytes; those behind its first have the bits 10 in front.
        let from = at.saturating_sub(3);
        let bytes = self.bytes(from..at + 1)?;
        Ok(bytes.iter().rposition(|b| b & 0xC0 != 0x80).map_or(at, |i| from + i))
    }

    fn part(&self, range: Range<usize>) -> Result<Cow<'_, str>> {
        let text = String::from_utf8(self.bytes(range)?);
        let changed = || format!("the text was changed while it was read: {}", self.path.display());
        Ok(Cow::Owned(text.with_context(changed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::digest;
    use crate::encoding::UTF8_MARK;
    use mantissa_core::data::{Dataset, TokenSource, Tokens};
    use std::sync::Arc;

    const TEXT: &str = "pl\u{e4}in \u{4e2d} text \u{1F600}\n";

    fn opened(bytes: &[u8], piece_bytes: usize) -> Opened {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        std::fs::write(&path, bytes).unwrap();
        TextFile::longer_than(8, piece_bytes, &path, true).unwrap()
    }

    #[track_caller]
    fn long(bytes: &[u8], piece_bytes: usize) -> TextFile {
        match opened(bytes, piece_bytes) {
            Opened::Long(file) => file,
            other @ (Opened::Whole | Opened::Other(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_gives_the_parts_tokens_and_digest_of_its_text_in_memory() {
        let text = TEXT.repeat(5);
        for piece_bytes in 4..30 {
            for mark in [&[][..], UTF8_MARK] {
                let file = long(&[mark, text.as_bytes()].concat(), piece_bytes);
                assert_eq!(file.size_bytes(), text.len());
                for at in 0..text.len() + 3 {
                    let floor = file.floor(at).unwrap();
                    assert_eq!(floor, text.floor_char_boundary(at));
                    assert_eq!(file.part(floor..text.len()).unwrap(), text[floor..]);
                }
                let largest = file.largest();
                let memory = Tokens::from_bytes(text.clone().into_bytes());
                assert_eq!(largest, memory.largest());
                let tokens = file.into_tokens();
                let mut read = vec![0; 9];
                tokens.read(11, &mut read).unwrap();
                assert!(read.iter().copied().eq(text.as_bytes()[11..20].iter().map(|&b| u32::from(b))));
                let tokens = Tokens::new(Arc::new(tokens), None, memory.vocab(), largest);
                let of = |tokens| digest::of(&Dataset::Tokens(tokens), None).unwrap();
                assert_eq!(of(tokens), of(memory));
            }
        }
    }

    #[test]
    fn what_is_no_text_is_named_as_if_it_were_in_memory() {
        let plain = "plain text ".repeat(4).into_bytes();
        for piece_bytes in [8, 16, 100] {
            let found = |bytes: &[u8]| match opened(bytes, piece_bytes) {
                Opened::Other(found) => {
                    assert_eq!(encoding::decode(bytes.to_vec()).unwrap_err(), found);
                    found
                }
                other @ (Opened::Whole | Opened::Long(_)) => panic!("{other:?}"),
            };
            assert_eq!(found(&[&plain[..], b"\xff", &plain].concat()), "an invalid byte at 44");
            assert_eq!(found(&[&plain[..], b"\xe4\xb8"].concat()), "an invalid byte at 44", "half a character at the end");
            assert_eq!(found(&[&plain[..], b"\0", &plain].concat()), "binary data (a zero byte at 44)");
            assert_eq!(found(&[b"PK\x03\x04", &plain[..], b"\xff"].concat()), "a ZIP archive, as PyTorch and .npz files are");
            assert_eq!(found(b"t\0e\0x\0t\0 \0w\0i\0t\0h\0"), "UTF-16 text (little-endian) without a mark; save it as UTF-8");
        }
        assert!(matches!(opened(b"\x1f\x8b\x08 and so on", 8), Opened::Whole));
        assert!(matches!(opened(b"\xff\xfea\0b\0c\0d\0e\0", 8), Opened::Whole));
        assert!(matches!(opened(b"short", 8), Opened::Whole));
        long(b"PK\x03\x04 is how a text may begin", 8);
    }
}
