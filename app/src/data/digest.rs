//! What distinguishes one data set from another: its size and a checksum, which a checkpoint keeps.
//!
//! The checksum covers all of a data set up to `WHOLE_BYTES`, and evenly spaced blocks of a larger one: a run over a
//! large file starts without reading it. A change between the blocks that leaves the size as it is goes unseen. Dates
//! do not count, so that a copy is the same data. Checkpoints of earlier versions hold the checksum of all; they are
//! compared with that.

use crate::digest::Digest;
use mantissa_core::Result;
use mantissa_core::data::tokens::Split;
use mantissa_core::data::{Dataset, Tokens};

/// Largest data set that is looked at whole.
const WHOLE_BYTES: u64 = 1 << 28;
/// Blocks of a larger one, of each of its parts.
const BLOCKS: u128 = 128;
/// Tokens of a block.
const BLOCK_TOKENS: usize = 1 << 15;

/// Size and checksum of a data set; `stored` is what a checkpoint says of it.
pub fn of(data: &Dataset, stored: Option<Digest>) -> Result<Digest> {
    bounded(data, stored, WHOLE_BYTES)
}

/// [`of`], where a data set of up to `whole_bytes` is looked at whole.
fn bounded(data: &Dataset, stored: Option<Digest>, whole_bytes: u64) -> Result<Digest> {
    let bytes = size_bytes(data);
    let digest = |blocks: bool| checksum(data, blocks).map(|crc32| Digest { bytes, crc32 });
    if bytes <= whole_bytes {
        return digest(false);
    }
    let found = digest(true)?;
    match stored {
        Some(stored) if stored.bytes == bytes && stored != found => {
            let whole = digest(false)?;
            Ok(if whole == stored { whole } else { found })
        }
        Some(_) | None => Ok(found),
    }
}

fn size_bytes(data: &Dataset) -> u64 {
    match data {
        Dataset::Tokens(tokens) => tokens.size_bytes(Split::Train) + tokens.size_bytes(Split::Val),
        Dataset::Images(images) => {
            let [rows, cols] = images.size();
            (images.train_len() + images.val_len()) as u64 * (rows * cols + 1) as u64
        }
    }
}

/// CRC-32 of a data set, or of blocks of its tokens.
fn checksum(data: &Dataset, blocks: bool) -> Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    match data {
        Dataset::Tokens(tokens) => {
            for split in [Split::Train, Split::Val] {
                match blocks {
                    true => visit_blocks(tokens, split, |part| crc.update(part))?,
                    false => tokens.visit_bytes(split, 0..tokens.len(split), |part| crc.update(part))?,
                }
            }
        }
        // Images are in memory, all of them.
        Dataset::Images(images) => {
            for i in 0..images.train_len() + images.val_len() {
                crc.update(images.image(i));
                crc.update(&[images.label(i)]);
            }
        }
    }
    Ok(crc.finalize())
}

/// The first block of a part, the last, and those evenly spaced between them.
fn visit_blocks(tokens: &Tokens, split: Split, mut visit: impl FnMut(&[u8])) -> Result<()> {
    let len = tokens.len(split);
    let last = len.saturating_sub(BLOCK_TOKENS);
    for block in 0..BLOCKS {
        let start = (last as u128 * block / (BLOCKS - 1)) as usize;
        tokens.visit_bytes(split, start..len.min(start + BLOCK_TOKENS), &mut visit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize, change: Option<usize>) -> Dataset {
        let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        if let Some(at) = change {
            bytes[at] ^= 1;
        }
        Dataset::Tokens(Tokens::from_bytes(bytes))
    }

    #[test]
    fn every_byte_of_a_small_text_counts() {
        let digest = of(&text(5000, None), None).unwrap();
        assert_eq!(digest, Digest::of(&(0..5000).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>()));
        for at in [0, 2500, 4999] {
            assert_ne!(of(&text(5000, Some(at)), Some(digest)).unwrap(), digest);
        }
    }

    #[test]
    fn of_a_large_text_blocks_count_unless_all_of_it_was_counted_before() {
        // Longer than all blocks together.
        let len = (BLOCKS as usize + 1) * BLOCK_TOKENS;
        let of = |data: &Dataset, stored| bounded(data, stored, 1 << 20).unwrap();
        let data = text(len, None);
        let blocks = of(&data, None);
        let whole = Digest { bytes: len as u64, crc32: checksum(&data, false).unwrap() };
        assert_ne!(blocks, whole);
        assert_eq!(of(&data, Some(whole)), whole, "as an earlier version wrote it");
        assert_eq!(of(&data, Some(Digest { crc32: 7, ..whole })), blocks, "neither");
        for at in [0, len - 1] {
            assert_ne!(of(&text(len, Some(at)), None), blocks);
        }
    }
}
