//! Where tokens lie: in memory, or wherever a host keeps them. A batch reads a window at a time, so that a text need
//! not be in memory.

use crate::error::{Error, Result};
use std::fmt::Debug;
use std::ops::Range;

/// Tokens of a piece that a pass over all of them reads at once.
pub const PIECE_TOKENS: usize = 1 << 16;

/// A text as numbered tokens. Reading the same place gives the same tokens for as long as the source lives, or an
/// error.
pub trait TokenSource: Debug + Send + Sync {
    /// Number of tokens.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a token where it is kept: the width in which check sums see it.
    fn token_bytes(&self) -> usize;

    /// Fills `out` with the tokens from `start` on; `start + out.len()` is at most [`TokenSource::len`]. Fails if they
    /// cannot be read, or if one of them is no number of 32 bits.
    fn read(&self, start: usize, out: &mut [u32]) -> Result<()>;

    /// Position and value of the largest token of `range`, the first of several; `None` for an empty range. Fails as
    /// [`TokenSource::read`] does.
    fn largest(&self, range: Range<usize>) -> Result<Option<Largest>> {
        let mut found: Option<Largest> = None;
        let mut piece = Vec::new();
        for start in range.clone().step_by(PIECE_TOKENS) {
            piece.resize(PIECE_TOKENS.min(range.end - start), 0);
            self.read(start, &mut piece)?;
            found = Largest::higher(found, Largest::of(&piece, start));
        }
        Ok(found)
    }
}

/// The largest token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Largest {
    /// Where it first stands.
    pub position: usize,
    /// Its value.
    pub token: u32,
}

impl Largest {
    /// Of tokens that begin at position `start`.
    pub fn of<T: Copy + Ord + Into<u32>>(tokens: &[T], start: usize) -> Option<Largest> {
        let largest = *tokens.iter().max()?;
        let at = tokens.iter().position(|&t| t == largest)?;
        Some(Largest { position: start + at, token: largest.into() })
    }

    /// The higher one; of equal ones `first`.
    pub fn higher(first: Option<Largest>, second: Option<Largest>) -> Option<Largest> {
        match (first, second) {
            (Some(a), Some(b)) if b.token > a.token => Some(b),
            (Some(a), _) => Some(a),
            (None, b) => b,
        }
    }
}

/// Tokens in memory, in the narrowest width that holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryTokens {
    /// Bytes.
    U8(Vec<u8>),
    /// Values below 65,536.
    U16(Vec<u16>),
    /// Any.
    U32(Vec<u32>),
}

impl MemoryTokens {
    /// Ids of a vocabulary of `vocab` values, in 16 bits where all of those fit.
    pub fn from_ids(ids: Vec<u32>, vocab: usize) -> MemoryTokens {
        match vocab.checked_sub(1).map(u16::try_from) {
            Some(Ok(largest)) if ids.iter().all(|&t| t <= u32::from(largest)) => {
                MemoryTokens::U16(ids.into_iter().map(|t| t as u16).collect())
            }
            Some(Ok(_) | Err(_)) | None => MemoryTokens::U32(ids),
        }
    }
}

impl TokenSource for MemoryTokens {
    fn len(&self) -> usize {
        match self {
            MemoryTokens::U8(t) => t.len(),
            MemoryTokens::U16(t) => t.len(),
            MemoryTokens::U32(t) => t.len(),
        }
    }

    fn token_bytes(&self) -> usize {
        match self {
            MemoryTokens::U8(_) => 1,
            MemoryTokens::U16(_) => 2,
            MemoryTokens::U32(_) => 4,
        }
    }

    fn read(&self, start: usize, out: &mut [u32]) -> Result<()> {
        fn copy<T: Copy + Into<u32>>(tokens: &[T], start: usize, out: &mut [u32]) -> Result<()> {
            let window = start.checked_add(out.len()).and_then(|end| tokens.get(start..end));
            let window = window.ok_or_else(|| {
                Error::data("tokens", format!("a window of {} tokens", tokens.len()), format!("{start} + {}", out.len()))
            })?;
            out.iter_mut().zip(window).for_each(|(o, &t)| *o = t.into());
            Ok(())
        }
        match self {
            MemoryTokens::U8(t) => copy(t, start, out),
            MemoryTokens::U16(t) => copy(t, start, out),
            MemoryTokens::U32(t) => copy(t, start, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_token_is_the_first_of_its_value() {
        let tokens = MemoryTokens::from_ids((0..PIECE_TOKENS as u32 * 2 + 5).map(|i| i % 1000).collect(), 1000);
        let largest = |range| tokens.largest(range).unwrap();
        assert_eq!(largest(0..tokens.len()), Some(Largest { position: 999, token: 999 }));
        assert_eq!(largest(5..9), Some(Largest { position: 8, token: 8 }));
        assert_eq!(largest(3..3), None);
    }

    #[test]
    fn windows_outside_are_errors() {
        let tokens = MemoryTokens::U8(vec![1, 2, 3]);
        let mut out = [0; 2];
        tokens.read(1, &mut out).unwrap();
        assert_eq!(out, [2, 3]);
        assert!(tokens.read(2, &mut out).is_err() && tokens.read(usize::MAX, &mut out).is_err());
    }
}
