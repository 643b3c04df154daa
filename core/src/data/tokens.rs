//! A text as byte tokens, split by position into a training and a validation part, read in windows of `context + 1` tokens.
//!
//! Window positions of training come from a counter-based generator and are pure functions of (seed, example number); those of evaluation
//! are fixed and evenly spaced, so that every evaluation of a run, and of every recipe, sees the same text.

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

/// A text as tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    bytes: Vec<u8>,
    train_len: usize,
}

impl Tokens {
    /// A text with its last tenth held out.
    pub fn from_bytes(bytes: Vec<u8>) -> Tokens {
        let train_len = bytes.len() - bytes.len() / VAL_PARTS;
        Tokens { bytes, train_len }
    }

    /// Tokens of a part.
    pub fn split(&self, split: Split) -> &[u8] {
        match split {
            Split::Train => &self.bytes[..self.train_len],
            Split::Val => &self.bytes[self.train_len..],
        }
    }

    /// Both parts hold at least one window of `context` tokens and their successors.
    pub fn check_context(&self, context: usize) -> Result<()> {
        for (part, split) in [("training", Split::Train), ("validation", Split::Val)] {
            let (found, need) = (self.split(split).len(), context.saturating_add(1));
            if found < need {
                let what = format!("{part} part of the text");
                let found = format!("{found} (of {} in all); give a longer text or a smaller --seq-len", self.bytes.len());
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
        let last = self.split(Split::Val).len() - context - 1;
        let start = (index as u128 * last as u128 / (count.max(2) - 1) as u128) as usize;
        start..start + context + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_tenth_is_held_out() {
        let t = Tokens::from_bytes((0..=99).collect());
        assert_eq!(t.split(Split::Train).len(), 90);
        assert_eq!(t.split(Split::Val), &(90..=99).collect::<Vec<u8>>()[..]);
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
