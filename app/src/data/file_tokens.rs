//! Tokens that stay in their file: a batch reads its windows, so that a run over any file takes the memory of its
//! model.

use crate::plain_file;
use anyhow::{Context, Result};
use mantissa_core::data::bin::{self, HEAD_BYTES};
use mantissa_core::data::token_layout::{BadToken, Layout, TokenDtype};
use mantissa_core::data::{Largest, TokenSource};
use mantissa_core::{Error, Result as CoreResult};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Places that are looked at to judge the width of tokens, evenly spaced.
const SAMPLES: u64 = 16;
/// Bytes looked at there.
const SAMPLE_BYTES: u64 = 1 << 14;

/// A token file, open.
#[derive(Debug)]
pub struct FileTokens {
    path: PathBuf,
    file: File,
    layout: Layout,
    /// Where bytes are read to: one for every thread that reads at a time.
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl FileTokens {
    /// Opens a file and finds out how its tokens lie there: as `asked`, or as its header says, or 16 bits each. Refuses
    /// tokens of 16 bits that can only be halves of wider ones; the user's word is taken.
    pub fn open(path: &Path, asked: Option<TokenDtype>) -> Result<FileTokens> {
        let context = || format!("cannot use the token file: {}", path.display());
        let (file, size) = plain_file::open(path).with_context(context)?;
        let mut head = vec![0; size.min(HEAD_BYTES as u64) as usize];
        read_at(&file, 0, &mut head).with_context(context)?;
        let layout = bin::layout("token file", &head, size, asked).with_context(context)?;
        let tokens = FileTokens::new(path.to_path_buf(), file, layout);
        if asked.is_none() && layout.dtype == TokenDtype::U16 {
            bin::check_width("token file", &tokens.sample().with_context(context)?).with_context(context)?;
        }
        Ok(tokens)
    }

    /// The tokens of an open file that lie there so.
    pub fn new(path: PathBuf, file: File, layout: Layout) -> FileTokens {
        FileTokens { path, file, layout, buffers: Mutex::default() }
    }

    /// How the tokens lie in the file.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes from places all over the file, each in whole groups of 8.
    fn sample(&self) -> std::io::Result<Vec<u8>> {
        let bytes = self.layout.len * self.layout.dtype.size_bytes() as u64 / 8 * 8;
        let each = SAMPLE_BYTES.min(bytes);
        let mut out = vec![0; (SAMPLES * each) as usize];
        for (i, piece) in out.chunks_mut((each as usize).max(1)).enumerate() {
            let at = (bytes - each) as u128 * i as u128 / u128::from(SAMPLES - 1) / 8 * 8;
            read_at(&self.file, self.layout.offset + at as u64, piece)?;
        }
        Ok(out)
    }

    /// Hands the bytes of tokens to `look`.
    fn bytes_of<T>(&self, range: Range<usize>, look: impl FnOnce(&[u8]) -> Result<T, BadToken>) -> CoreResult<T> {
        let width = self.layout.dtype.size_bytes();
        // Bytes alone: a panic elsewhere does no harm to them.
        let buffers = || self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers().pop().unwrap_or_default();
        buffer.resize(range.len() * width, 0);
        let at = self.layout.offset + range.start as u64 * width as u64;
        read_at(&self.file, at, &mut buffer).map_err(|e| {
            let cut = e.kind() == ErrorKind::UnexpectedEof;
            let found = if cut { "its end: the file was cut while it was in use".to_string() } else { e.to_string() };
            let expected = format!("tokens {} to {}", range.start, range.end.saturating_sub(1));
            Error::data(self.path.display().to_string(), expected, found)
        })?;
        let seen = look(&buffer);
        buffers().push(buffer);
        seen.map_err(|BadToken { index, value }| {
            let expected = format!("tokens of at most 32 bits, not negative (read as {})", self.layout.dtype);
            Error::data(self.path.display().to_string(), expected, format!("{value} at position {}", range.start + index))
        })
    }
}

impl TokenSource for FileTokens {
    fn len(&self) -> usize {
        // A file that is longer than the address space is longer than any 64-bit machine has.
        usize::try_from(self.layout.len).unwrap_or(usize::MAX)
    }

    fn token_bytes(&self) -> usize {
        self.layout.dtype.size_bytes()
    }

    fn read(&self, start: usize, out: &mut [u32]) -> CoreResult<()> {
        self.bytes_of(start..start + out.len(), |bytes| self.layout.dtype.decode(bytes, out))
    }

    fn largest(&self, range: Range<usize>) -> CoreResult<Option<Largest>> {
        self.bytes_of(range.clone(), |bytes| self.layout.dtype.largest(bytes, range.start))
    }
}

/// Fills `out` from place `at` of a file.
#[cfg(unix)]
pub fn read_at(file: &File, at: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

/// Fills `out` from place `at` of a file.
#[cfg(windows)]
pub fn read_at(file: &File, mut at: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => {
                at += n as u64;
                out = &mut out[n..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
        let path = dir.join("x.bin");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn refused(path: &Path, asked: Option<TokenDtype>) -> String {
        format!("{:#}", FileTokens::open(path, asked).unwrap_err())
    }

    #[test]
    fn tokens_are_read_where_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &(0..50_000u32).flat_map(|t| (t as u16).to_le_bytes()).collect::<Vec<u8>>());
        let tokens = FileTokens::open(&path, None).unwrap();
        assert_eq!((tokens.len(), tokens.token_bytes()), (50_000, 2));
        let mut out = [0; 3];
        tokens.read(49_997, &mut out).unwrap();
        assert_eq!(out, [49_997, 49_998, 49_999]);
        assert_eq!(tokens.largest(5..9).unwrap(), Some(Largest { position: 8, token: 8 }));
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
        tokens.read(400, &mut out).unwrap();
        let message = tokens.read(499, &mut out).unwrap_err().to_string();
        assert!(message.contains("expected tokens 499 to 501") && message.contains("was cut while it was in use"), "{message}");
    }

    #[test]
    fn halves_of_wider_tokens_are_refused_unless_the_user_insists() {
        let dir = tempfile::tempdir().unwrap();
        // Behind a start that could be 16-bit tokens.
        let bytes: Vec<u8> = std::iter::repeat_n([0; 4], 10_000).chain((0..9000u32).map(u32::to_le_bytes)).flatten().collect();
        let path = file(dir.path(), &bytes);
        assert!(refused(&path, None).contains("give --token-dtype u32"), "{}", refused(&path, None));
        assert_eq!(FileTokens::open(&path, Some(TokenDtype::U16)).unwrap().len(), 38_000);
        let wide = FileTokens::open(&path, Some(TokenDtype::U32)).unwrap();
        let mut out = [0; 2];
        wide.read(18_998, &mut out).unwrap();
        assert_eq!((wide.len(), out), (19_000, [8998, 8999]));
    }

    #[test]
    fn what_is_no_token_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &[5i32, -100].map(i32::to_le_bytes).concat());
        let tokens = FileTokens::open(&path, Some(TokenDtype::I32)).unwrap();
        let message = tokens.largest(0..2).unwrap_err().to_string();
        assert!(message.contains("read as i32") && message.contains("found -100 at position 1"), "{message}");
        assert!(refused(dir.path(), None).contains("found a folder"));
        assert!(refused(&file(dir.path(), &[]), None).contains("an empty file"));
    }
}
