//! A text as tokens, split by position into a training and a validation part, read in windows of `context + 1` tokens.
//!
//! Tokens are bytes, or ids of a vocabulary. Window positions of training come from a counter-based generator and are
//! pure functions of (seed, example number); those of evaluation are fixed and evenly spaced, so that every evaluation
//! of a run, and of every recipe, sees the same text.

use super::batch::BatchBytes;
use super::source::{Largest, MemoryTokens, PIECE_TOKENS, TokenSource};
use crate::error::{Error, Result};
use crate::rng::Rng;
use std::ops::Range;
use std::sync::Arc;

/// Number of distinct byte tokens.
pub const BYTE_VOCAB: usize = 256;

/// Share of a text that is held out, from its end: one part in this many.
pub const VAL_PARTS: usize = 10;

/// The two parts of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What the weights learn from.
    Train,
    /// What `val_loss` is measured on.
    Val,
}

/// A stretch of a source.
#[derive(Clone, Debug)]
struct Part {
    source: Arc<dyn TokenSource>,
    range: Range<usize>,
}

/// A text as tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    train: Part,
    val: Part,
    vocab: usize,
    largest: Option<Largest>,
}

impl Tokens {
    /// A text as bytes, with its last tenth held out.
    pub fn from_bytes(bytes: Vec<u8>) -> Tokens {
        let largest = Largest::of(&bytes, 0);
        Tokens::new(Arc::new(MemoryTokens::U8(bytes)), None, BYTE_VOCAB, largest)
    }

    /// Ids of a vocabulary of `vocab` values, with the last tenth held out. Fails if one is beyond it.
    pub fn from_ids(ids: Vec<u32>, vocab: usize) -> Result<Tokens> {
        let largest = Largest::of(&ids, 0);
        if let Some(largest) = largest {
            check(largest, vocab)?;
        }
        Ok(Tokens::new(Arc::new(MemoryTokens::from_ids(ids, vocab)), None, vocab, largest))
    }

    /// Tokens of a vocabulary of `vocab` values that lie elsewhere; without a part of its own for validation, the last
    /// tenth is held out. `largest` is the largest token of both, counted through, where it is known. Every token is
    /// checked when it is read.
    pub fn new(
        train: Arc<dyn TokenSource>,
        val: Option<Arc<dyn TokenSource>>,
        vocab: usize,
        largest: Option<Largest>,
    ) -> Tokens {
        let all = train.len();
        let whole = |source: Arc<dyn TokenSource>| Part { range: 0..source.len(), source };
        let (train, val) = match val {
            Some(val) => (whole(train), whole(val)),
            None => {
                let first = all - all / VAL_PARTS;
                (Part { source: train.clone(), range: 0..first }, Part { source: train, range: first..all })
            }
        };
        Tokens { train, val, vocab, largest }
    }

    /// Number of token values.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// The largest token there is, if that is known. Its position counts through both parts.
    pub fn largest(&self) -> Option<Largest> {
        self.largest
    }

    /// Number of tokens of a part.
    pub fn len(&self, split: Split) -> usize {
        self.part(split).range.len()
    }

    fn part(&self, split: Split) -> &Part {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }

    /// Whether a model of `vocab` token values can learn from it, as far as that is known before tokens are read: they
    /// are either of a smaller vocabulary, or none of the missing ones is used. Fails otherwise, naming the largest
    /// token.
    pub fn check_vocab(&self, vocab: usize) -> Result<()> {
        match self.largest {
            _ if self.vocab <= vocab => Ok(()),
            Some(largest) if (largest.token as usize) < vocab => Ok(()),
            Some(Largest { position, token }) => Err(Error::config(
                "--vocab",
                format!("at least {}, for token {token} at position {position} of the data", token as usize + 1),
                vocab.to_string(),
            )),
            None => Err(Error::config(
                "--vocab",
                format!("at least {}, the token values of the data", self.vocab),
                vocab.to_string(),
            )),
        }
    }

    /// Appends a window of a part to a batch: its tokens but the last, and the successor of each. Fails if they cannot
    /// be read, or if one is not below `vocab`, the token values of the model.
    pub fn push(&self, split: Split, window: Range<usize>, vocab: usize, out: &mut BatchBytes) -> Result<()> {
        let Part { source, range } = self.part(split);
        let start = range.start + window.start;
        let (n, limit) = (window.len() - 1, vocab.min(self.vocab));
        out.window.resize(n + 1, 0);
        source.read(start, &mut out.window)?;
        if let Some(largest) = Largest::of(&out.window, start) {
            check(largest, limit)?;
        }
        out.x.extend(out.window[..n].iter().flat_map(|t| t.to_ne_bytes()));
        out.targets.extend(out.window[1..].iter().flat_map(|t| t.to_ne_bytes()));
        Ok(())
    }

    /// Bytes of a part in the width in which it is kept.
    pub fn size_bytes(&self, split: Split) -> u64 {
        let Part { source, range } = self.part(split);
        source.token_bytes() as u64 * range.len() as u64
    }

    /// The tokens of a stretch of a part, piece by piece. Fails if they cannot be read.
    pub fn visit(&self, split: Split, stretch: Range<usize>, mut visit: impl FnMut(&[u32])) -> Result<()> {
        let Part { source, range } = self.part(split);
        let mut piece = Vec::new();
        for start in stretch.clone().step_by(PIECE_TOKENS) {
            piece.resize(PIECE_TOKENS.min(stretch.end - start), 0);
            source.read(range.start + start, &mut piece)?;
            visit(&piece);
        }
        Ok(())
    }

    /// A stretch of a part as bytes, piece by piece: little-endian, in the width in which they are kept. For check
    /// sums. Fails if they cannot be read.
    pub fn visit_bytes(&self, split: Split, stretch: Range<usize>, mut visit: impl FnMut(&[u8])) -> Result<()> {
        let width = self.part(split).source.token_bytes();
        let mut bytes = Vec::new();
        self.visit(split, stretch, |piece| {
            bytes.clear();
            // Tokens have at most 32 bits, whatever they are kept in.
            bytes.extend(piece.iter().flat_map(|&t| u64::from(t).to_le_bytes().into_iter().take(width)));
            visit(&bytes);
        })
    }

    /// Both parts hold at least one window of `context` tokens and their successors. Fails otherwise, naming the part
    /// and its tokens.
    pub fn check_context(&self, context: usize) -> Result<()> {
        for (part, split) in [("training", Split::Train), ("validation", Split::Val)] {
            let (found, need) = (self.len(split), context.saturating_add(1));
            if found < need {
                let what = format!("{part} part of the text");
                let all = self.len(Split::Train) + self.len(Split::Val);
                let found = format!("{found} (of {all} in all); give a longer text or a smaller --seq-len");
                return Err(Error::data(
                    what,
                    format!("at least {need} tokens, one window of {context} and its targets"),
                    found,
                ));
            }
        }
        Ok(())
    }

    /// Where the window of training example `example` starts. `rng` is the data stream of the run.
    pub fn train_window(&self, rng: &mut Rng, example: u64, context: usize) -> Range<usize> {
        let places = self.len(Split::Train) - context;
        // A draw below n takes two words.
        rng.seek(example.wrapping_mul(2));
        let start = rng.below(places as u64) as usize;
        start..start + context + 1
    }

    /// The window number `index` of `count` evenly spaced ones, in the validation part.
    pub fn val_window(&self, index: usize, count: usize, context: usize) -> Range<usize> {
        let last = self.len(Split::Val) - context - 1;
        let start = (index as u128 * last as u128 / (count.max(2) - 1) as u128) as usize;
        start..start + context + 1
    }
}

/// Refuses a token that is not below `vocab`.
fn check(largest: Largest, vocab: usize) -> Result<()> {
    let Largest { position, token } = largest;
    if (token as usize) < vocab {
        return Ok(());
    }
    Err(Error::data(
        "tokens",
        format!("values below {vocab}, the size of the vocabulary"),
        format!("{token} at position {position}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u16s(tokens: Vec<u16>) -> Arc<dyn TokenSource> {
        Arc::new(MemoryTokens::U16(tokens))
    }

    #[test]
    fn the_last_tenth_is_held_out() {
        let t = Tokens::from_bytes((0..=99).collect());
        assert_eq!((t.len(Split::Train), t.len(Split::Val), t.vocab()), (90, 10, 256));
        let mut out = BatchBytes::default();
        t.push(Split::Val, 0..10, 256, &mut out).unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, u32>(&out.x), (90..99).collect::<Vec<u32>>());
        assert_eq!(bytemuck::cast_slice::<u8, u32>(&out.targets), (91..100).collect::<Vec<u32>>());
    }

    #[test]
    fn every_width_gives_the_same_batches() {
        let ids: Vec<u32> = (0..200).map(|i| i * 37 % 251).collect();
        let narrow = |ids: &[u32]| u16s(ids.iter().map(|&t| t as u16).collect());
        let all = [
            Tokens::from_bytes(ids.iter().map(|&t| t as u8).collect()),
            Tokens::new(narrow(&ids), None, 251, None),
            Tokens::from_ids(ids.clone(), 300).unwrap(),
            Tokens::from_ids(ids.clone(), 100_000).unwrap(),
            Tokens::new(narrow(&ids[..180]), Some(narrow(&ids[180..])), 251, None),
        ];
        let batch = |t: &Tokens| {
            let mut out = BatchBytes::default();
            t.push(Split::Train, 170..180, 256, &mut out).unwrap();
            t.push(Split::Val, 3..9, 256, &mut out).unwrap();
            (out.x, out.targets)
        };
        assert!(all.iter().all(|t| batch(t) == batch(&all[0])));
        assert_eq!(all.each_ref().map(Tokens::vocab), [256, 251, 300, 100_000, 251]);
    }

    #[test]
    fn bytes_are_those_of_the_part() {
        let bytes = |t: &Tokens, split| {
            let mut out = Vec::new();
            t.visit_bytes(split, 0..t.len(split), |b| out.extend_from_slice(b)).unwrap();
            assert_eq!(out.len() as u64, t.size_bytes(split));
            out
        };
        let t = Tokens::new(u16s((0..70_000u32).map(|i| i as u16).collect()), None, 65_536, None);
        assert_eq!(bytes(&t, Split::Train), (0..63_000u16).flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        assert_eq!(bytes(&t, Split::Val).len(), 14_000);
        assert_eq!(bytes(&Tokens::from_ids(vec![1; 20], 70_000).unwrap(), Split::Val), [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes(&Tokens::from_bytes((0..20).collect()), Split::Val), [18, 19]);
        let mut some = Vec::new();
        t.visit_bytes(Split::Val, 5..7, |b| some.extend_from_slice(b)).unwrap();
        assert_eq!(some, [63_005u16.to_le_bytes(), 63_006u16.to_le_bytes()].concat());
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_named() {
        let message = Tokens::from_ids(vec![1, 9, 3], 9).unwrap_err().to_string();
        assert_eq!(message, "tokens: expected values below 9, the size of the vocabulary, found 9 at position 1");
        assert!(Tokens::from_ids(vec![70_000], 65_537).is_err());
        assert!(Tokens::from_ids(vec![0], 0).is_err());
        // Not known before they are read.
        let t = Tokens::new(u16s(vec![1, 2, 9, 3]), None, 9, None);
        let mut out = BatchBytes::default();
        t.push(Split::Train, 0..2, 9, &mut out).unwrap();
        assert!(t.push(Split::Train, 1..4, 9, &mut out).unwrap_err().to_string().contains("found 9 at position 2"));
        assert!(t.push(Split::Train, 0..2, 2, &mut out).unwrap_err().to_string().contains("found 2 at position 1"));
    }

    #[test]
    fn a_model_may_lack_tokens_that_are_not_used() {
        let t = Tokens::from_ids(vec![1, 5, 3], 257).unwrap();
        assert!(t.check_vocab(6).is_ok() && t.check_vocab(257).is_ok());
        let message = t.check_vocab(5).unwrap_err().to_string();
        assert_eq!(message, "--vocab: expected at least 6, for token 5 at position 1 of the data, got 5");
        let unknown = Tokens::new(u16s(vec![1, 5, 3]), None, 257, None);
        assert!(unknown.check_vocab(257).is_ok() && unknown.check_vocab(256).is_err());
    }

    #[test]
    fn short_texts_are_refused_by_part() {
        let t = Tokens::from_bytes(vec![0; 100]);
        assert!(t.check_context(9).is_ok());
        let message = t.check_context(10).expect_err("9 < 11").to_string();
        assert!(message.contains("validation") && message.contains("at least 11") && message.contains("found 10"), "{message}");
        assert!(t.check_context(usize::MAX).is_err());
    }

    #[test]
    fn windows_stay_inside_and_reach_both_ends() {
        let t = Tokens::from_bytes(vec![0; 200]);
        let mut rng = Rng::named(1, "data");
        let starts: Vec<usize> = (0..5000).map(|i| t.train_window(&mut rng, i, 16).start).collect();
        assert_eq!(starts.iter().min(), Some(&0));
        assert_eq!(starts.iter().max(), Some(&(180 - 17)));
        assert_eq!(t.train_window(&mut rng, 77, 16).start, starts[77], "a pure function of the example number");
        assert_eq!(t.val_window(0, 8, 16), 0..17);
        assert_eq!(t.val_window(7, 8, 16), 3..20);
        assert_eq!(t.val_window(0, 1, 16), 0..17);
    }
}
