//! A text as tokens, split by position into a training and a validation part, read in windows of `context + 1` tokens.
//!
//! Tokens are bytes, or ids of a vocabulary, kept in 16 bits where they fit. Window positions of training come from a counter-based
//! generator and are pure functions of (seed, example number); those of evaluation are fixed and evenly spaced, so that every evaluation
//! of a run, and of every recipe, sees the same text.

use super::batch::BatchBytes;
use crate::error::{Error, Result};
use crate::rng::Rng;
use std::ops::Range;

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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Store {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl Store {
    fn len(&self) -> usize {
        match self {
            Store::U8(t) => t.len(),
            Store::U16(t) => t.len(),
            Store::U32(t) => t.len(),
        }
    }

    /// Position and value of the largest token.
    fn largest(&self) -> Option<(usize, u32)> {
        fn of<T: Copy + Into<u32>>(tokens: &[T]) -> Option<(usize, u32)> {
            tokens.iter().map(|&t| t.into()).enumerate().max_by_key(|&(i, t): &(usize, u32)| (t, usize::MAX - i))
        }
        match self {
            Store::U8(t) => of(t),
            Store::U16(t) => of(t),
            Store::U32(t) => of(t),
        }
    }
}

/// A text as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    store: Store,
    train_len: usize,
    vocab: usize,
}

impl Tokens {
    /// A text as bytes, with its last tenth held out.
    pub fn from_bytes(bytes: Vec<u8>) -> Tokens {
        let train_len = train_len(bytes.len());
        Tokens { store: Store::U8(bytes), train_len, vocab: BYTE_VOCAB }
    }

    /// 16-bit tokens, as in nanoGPT's files. Without a part of its own, the last tenth is held out; without a number of token values, the
    /// largest token decides it.
    pub fn from_u16(mut train: Vec<u16>, val: Option<Vec<u16>>, vocab: Option<usize>) -> Result<Tokens> {
        let first_len = train.len();
        let train_len = if val.is_some() { first_len } else { train_len(first_len) };
        train.extend(val.unwrap_or_default());
        Tokens::with_vocab(Store::U16(train), train_len, vocab)
    }

    /// Ids of a vocabulary of `vocab` values, with the last tenth held out.
    pub fn from_ids(ids: Vec<u32>, vocab: usize) -> Result<Tokens> {
        let train_len = train_len(ids.len());
        let store = match vocab.checked_sub(1).map(u16::try_from) {
            Some(Ok(largest)) if ids.iter().all(|&t| t <= u32::from(largest)) => {
                Store::U16(ids.into_iter().map(|t| t as u16).collect())
            }
            Some(Ok(_) | Err(_)) | None => Store::U32(ids),
        };
        Tokens::with_vocab(store, train_len, Some(vocab))
    }

    fn with_vocab(store: Store, train_len: usize, vocab: Option<usize>) -> Result<Tokens> {
        let largest = store.largest();
        let vocab = vocab.unwrap_or(largest.map_or(1, |(_, t)| t as usize + 1));
        match largest {
            Some((at, token)) if token as usize >= vocab => Err(Error::data(
                "tokens",
                format!("values below {vocab}, the size of the vocabulary"),
                format!("{token} at position {at}"),
            )),
            Some(_) | None => Ok(Tokens { store, train_len, vocab }),
        }
    }

    /// Number of token values.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of tokens of a part.
    pub fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train_len,
            Split::Val => self.store.len() - self.train_len,
        }
    }

    /// Appends a window of a part to a batch: its tokens but the last, and the successor of each.
    pub fn push(&self, split: Split, window: Range<usize>, out: &mut BatchBytes) {
        fn append<T: Copy + Into<u32>>(window: &[T], out: &mut BatchBytes) {
            let n = window.len() - 1;
            out.x.extend(window[..n].iter().flat_map(|&t| t.into().to_ne_bytes()));
            out.targets.extend(window[1..].iter().flat_map(|&t| t.into().to_ne_bytes()));
        }
        let start = match split {
            Split::Train => 0,
            Split::Val => self.train_len,
        };
        let window = start + window.start..start + window.end;
        match &self.store {
            Store::U8(t) => append(&t[window], out),
            Store::U16(t) => append(&t[window], out),
            Store::U32(t) => append(&t[window], out),
        }
    }

    /// The tokens of a part as bytes, piece by piece: little-endian, in the width they are kept in. For check sums.
    pub fn visit_bytes(&self, split: Split, mut visit: impl FnMut(&[u8])) {
        const PIECE: usize = 1 << 16;
        let range = match split {
            Split::Train => 0..self.train_len,
            Split::Val => self.train_len..self.store.len(),
        };
        match &self.store {
            Store::U8(t) => visit(&t[range]),
            Store::U16(t) => {
                t[range].chunks(PIECE).for_each(|c| visit(&c.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>()));
            }
            Store::U32(t) => {
                t[range].chunks(PIECE).for_each(|c| visit(&c.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>()));
            }
        }
    }

    /// Both parts hold at least one window of `context` tokens and their successors.
    pub fn check_context(&self, context: usize) -> Result<()> {
        for (part, split) in [("training", Split::Train), ("validation", Split::Val)] {
            let (found, need) = (self.len(split), context.saturating_add(1));
            if found < need {
                let what = format!("{part} part of the text");
                let found = format!("{found} (of {} in all); give a longer text or a smaller --seq-len", self.store.len());
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
        let places = self.train_len - context;
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

/// Tokens of the training part where one tenth is held out.
fn train_len(all: usize) -> usize {
    all - all / VAL_PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tenth_is_held_out() {
        let t = Tokens::from_bytes((0..=99).collect());
        assert_eq!((t.len(Split::Train), t.len(Split::Val), t.vocab()), (90, 10, 256));
        let mut out = BatchBytes::default();
        t.push(Split::Val, 0..10, &mut out);
        assert_eq!(bytemuck::cast_slice::<u8, u32>(&out.x), (90..99).collect::<Vec<u32>>());
        assert_eq!(bytemuck::cast_slice::<u8, u32>(&out.targets), (91..100).collect::<Vec<u32>>());
    }

    #[test]
    fn every_width_gives_the_same_batches() {
        let ids: Vec<u32> = (0..200).map(|i| i * 37 % 251).collect();
        let all = [
            Tokens::from_bytes(ids.iter().map(|&t| t as u8).collect()),
            Tokens::from_u16(ids.iter().map(|&t| t as u16).collect(), None, None).unwrap(),
            Tokens::from_ids(ids.clone(), 300).unwrap(),
            Tokens::from_ids(ids.clone(), 100_000).unwrap(),
            Tokens::from_u16(
                ids[..180].iter().map(|&t| t as u16).collect(),
                Some(ids[180..].iter().map(|&t| t as u16).collect()),
                None,
            )
            .unwrap(),
        ];
        let batch = |t: &Tokens| {
            let mut out = BatchBytes::default();
            t.push(Split::Train, 170..180, &mut out);
            t.push(Split::Val, 3..9, &mut out);
            (out.x, out.targets)
        };
        assert!(all.iter().all(|t| batch(t) == batch(&all[0])));
        assert_eq!(all.each_ref().map(Tokens::vocab), [256, 251, 300, 100_000, 251]);
    }

    #[test]
    fn bytes_are_those_of_the_part() {
        let bytes = |t: &Tokens, split| {
            let mut out = Vec::new();
            t.visit_bytes(split, |b| out.extend_from_slice(b));
            out
        };
        let t = Tokens::from_u16((0..70_000u32).map(|i| i as u16).collect(), None, Some(65_536)).unwrap();
        assert_eq!(bytes(&t, Split::Train), (0..63_000u16).flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        assert_eq!(bytes(&t, Split::Val).len(), 14_000);
        assert_eq!(bytes(&Tokens::from_ids(vec![1; 20], 70_000).unwrap(), Split::Val), [1, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes(&Tokens::from_bytes((0..20).collect()), Split::Val), [18, 19]);
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_named() {
        let message = Tokens::from_u16(vec![1, 9, 3], None, Some(9)).unwrap_err().to_string();
        assert_eq!(message, "tokens: expected values below 9, the size of the vocabulary, found 9 at position 1");
        assert!(Tokens::from_ids(vec![70_000], 65_537).is_err());
        assert!(Tokens::from_ids(vec![0], 0).is_err());
        assert_eq!(Tokens::from_u16(vec![], None, None).unwrap().vocab(), 1);
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
