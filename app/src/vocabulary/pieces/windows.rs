//! The tokens of a long text, encoded window by window: the same as those of the whole, in bounded memory.
//!
//! A normalizer or a pre-tokenizer may act on the start of a text (put a space in front), so that windows may not
//! simply be joined. Each window therefore begins inside the one before it, and the overlap is encoded a third time, by
//! itself. Where a run of tokens of the overlap is also the end of the tokens so far and the start of the next
//! window's, the joint is in the middle of that run. Why it is right there: what is put in front of a text, and where a
//! text ends, changes tokens near the ends only; both neighbours of the joint agree that no token crosses it and on the
//! tokens beside it. For byte pairs that is a proof: a pair is merged across the joint only if both sides offer it, and
//! what each side offers follows from its own token beside the joint. A word of other models is cut alike once the cuts
//! around it agree. Without such a run (one word longer than the overlap) the overlap grows, in the end to all of the
//! text.

use crate::data::long_text::LongText;
use anyhow::Result;

/// Bytes of a window. Encoding takes some hundred times the memory of its text.
pub(super) const WINDOW_BYTES: usize = 1 << 20;
/// Bytes of an overlap, at first.
pub(super) const OVERLAP_BYTES: usize = 1 << 13;
/// How the overlap grows where it gave no joint.
const OVERLAP_GROWTH: usize = 8;
/// Tokens on either side of a joint on which both neighbours agree.
const AGREEMENT: usize = 16;

/// Sizes of windows, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    pub window: usize,
    pub overlap: usize,
}

/// The tokens of `text`; `encode` gives those of a part. `each` receives the bytes done after every window.
pub(super) fn encode(
    text: &(impl LongText + ?Sized),
    sizes: Windows,
    encode: impl Fn(&str) -> Result<Vec<u32>>,
    mut each: impl FnMut(usize),
) -> Result<Vec<u32>> {
    let mut end = text.floor(sizes.window)?;
    let mut tokens = encode(&text.part(0..end)?)?;
    while end < text.size_bytes() {
        each(end);
        let next_end = text.floor(end + sizes.window.max(sizes.overlap))?;
        let mut overlap = sizes.overlap;
        loop {
            let start = text.floor(end.saturating_sub(overlap))?;
            if start == 0 {
                tokens = encode(&text.part(0..next_end)?)?;
                break;
            }
            let shared = encode(&text.part(start..end)?)?;
            let next = encode(&text.part(start..next_end)?)?;
            if let Some((kept, from)) = joint(&tokens, &shared, &next) {
                tokens.truncate(kept);
                tokens.extend_from_slice(&next[from..]);
                break;
            }
            overlap = overlap.saturating_mul(OVERLAP_GROWTH);
        }
        end = next_end;
    }
    each(end);
    Ok(tokens)
}

/// How many tokens of `before` are kept and from which of `after` on they go on, if `shared`, the tokens of the stretch
/// that both hold, says so.
fn joint(before: &[u32], shared: &[u32], after: &[u32]) -> Option<(usize, usize)> {
    let agree_end = before.iter().rev().zip(shared.iter().rev()).take_while(|(a, b)| a == b).count();
    let agree_start = after.iter().zip(shared).take_while(|(a, b)| a == b).count();
    // Tokens of the overlap on which both agree.
    let (first, last) = (shared.len() - agree_end, agree_start);
    let at = first + last.checked_sub(first)? / 2;
    let enough = at >= first + AGREEMENT && at + AGREEMENT <= last;
    enough.then(|| (before.len() - (shared.len() - at), at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_needs_a_run_on_which_both_agree() {
        let shared: Vec<u32> = (0..100).collect();
        let before: Vec<u32> = (1000..1010).chain(3..100).collect();
        let after: Vec<u32> = (0..95).chain(2000..2010).collect();
        assert_eq!(joint(&before, &shared, &after), Some((10 + 46, 49)));
        assert_eq!(joint(&before, &shared, &shared[..30]), None, "a run of 27");
        assert_eq!(joint(&before[..90], &shared, &after), None, "other ends");
        assert_eq!(joint(&[], &[], &[]), None);
    }

    #[test]
    fn every_window_is_told() {
        let text = "word ".repeat(300);
        let mut seen = Vec::new();
        let bytes = |t: &str| Ok(t.bytes().map(u32::from).collect());
        let tokens = encode(text.as_str(), Windows { window: 500, overlap: 100 }, bytes, |done| seen.push(done)).unwrap();
        assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(seen, [500, 1000, 1500]);
    }
}
