//! The records of an event file: a length (u64), its masked CRC-32C, the data, its masked CRC-32C, all little-endian. A
//! reader gives a file up at the first record that is damaged; [`mend`] leaves that one out, so that it costs itself
//! only.
//!
//! Source: tensorflow `core/lib/io/record_writer.h`.

use crate::files::keep_aside;
use crate::files::write_through;
use anyhow::Result;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Added to a rotated CRC, so that the CRC of data that holds CRCs is no special value.
const CRC_MASK: u32 = 0xA282_EAD8;
/// Bytes in front of the data.
const HEAD_BYTES: u64 = 12;
/// Bytes behind it.
const TAIL_BYTES: u64 = 4;
/// Longest record looked for in a damaged file, bytes of data: those written here have some kilobytes.
const MAX_DATA_BYTES: u64 = 1 << 24;

/// Data with its length and check sums.
pub(super) fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + (HEAD_BYTES + TAIL_BYTES) as usize);
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&masked_crc(data).to_le_bytes());
    out
}

pub(super) fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(CRC_MASK)
}

/// Takes what is no record out of a file, unless nothing comes after it: such a tail is what a crash leaves, and stops
/// no reader. Returns the number of places mended and where the file as it was is kept; `None` for a file that needs no
/// mending.
pub(super) fn mend(path: &Path) -> Result<Option<(usize, PathBuf)>> {
    let kept = records(File::open(path)?)?;
    let starts_late = kept.first().is_some_and(|r| r.start > 0);
    let places = kept.len().saturating_sub(1) + usize::from(starts_late);
    if places == 0 {
        return Ok(None);
    }
    let mut kept_aside = None;
    write_through(path, |out| {
        let mut file = File::open(path)?;
        for range in &kept {
            file.seek(SeekFrom::Start(range.start))?;
            std::io::copy(&mut (&file).take(range.end - range.start), out)?;
        }
        // TensorBoard reads every file of the folder with the usual word in its name: the copy must not have it.
        let name = path.file_name().unwrap_or_default().to_string_lossy().replace("tfevents", "tf-events");
        kept_aside = Some(keep_aside(path, &name)?);
        Ok(())
    })?;
    Ok(kept_aside.map(|aside| (places, aside)))
}

/// Where whole records lie, those that follow each other as one range.
fn records(file: File) -> std::io::Result<Vec<Range<u64>>> {
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut kept, mut at): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
    while at + HEAD_BYTES + TAIL_BYTES <= size {
        let end = record_at(&mut reader, size - at)?.map(|bytes| at + bytes);
        match (end, kept.last_mut()) {
            (Some(end), Some(last)) if last.end == at => last.end = end,
            (Some(end), Some(_) | None) => kept.push(at..end),
            (None, _) => {}
        }
        // Behind damage a record may begin anywhere.
        let next = end.unwrap_or(at + 1);
        reader.seek_relative((next - at) as i64)?;
        at = next;
    }
    Ok(kept)
}

/// Size of the record that begins where the reader is, if one does within the next `left` bytes. The reader stays
/// there.
fn record_at(reader: &mut BufReader<File>, left: u64) -> std::io::Result<Option<u64>> {
    let mut head = [0; HEAD_BYTES as usize];
    reader.read_exact(&mut head)?;
    let (length, crc) = head.split_at(8);
    let claimed = u64::from_le_bytes(length.try_into().unwrap_or_default());
    let fits = claimed <= MAX_DATA_BYTES && HEAD_BYTES + claimed + TAIL_BYTES <= left;
    if !fits || masked_crc(length).to_le_bytes() != crc {
        reader.seek_relative(-(HEAD_BYTES as i64))?;
        return Ok(None);
    }
    let mut data = vec![0; (claimed + TAIL_BYTES) as usize];
    reader.read_exact(&mut data)?;
    reader.seek_relative(-((HEAD_BYTES + claimed + TAIL_BYTES) as i64))?;
    let (data, crc) = data.split_at(claimed as usize);
    Ok((masked_crc(data).to_le_bytes() == crc).then_some(HEAD_BYTES + claimed + TAIL_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_sums_are_those_of_the_format() {
        // CRC-32C of 32 zero bytes, RFC 3720 B.4.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
        // First 12 bytes of every file of 24-byte first events, as TensorFlow writes it.
        assert_eq!(masked_crc(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_damaged_record_costs_that_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.out.tfevents.0000000001.mantissa.0");
        let all: Vec<Vec<u8>> = (0..5u8).map(|i| record(&vec![i; 20 + usize::from(i)])).collect();
        // A bit of the length, of its sum, of the data and of its sum; a byte lost, a byte too many.
        let damage: [fn(&mut Vec<u8>); 6] = [
            |r| r[0] ^= 4,
            |r| r[9] ^= 1,
            |r| r[15] ^= 1,
            |r| *r.last_mut().unwrap() ^= 1,
            |r| r.truncate(r.len() - 1),
            |r| r.push(7),
        ];
        for (n, damage) in damage.iter().enumerate() {
            let mut bad = all.clone();
            damage(&mut bad[2]);
            std::fs::write(&path, bad.concat()).unwrap();
            let (places, aside) = mend(&path).unwrap().unwrap();
            // With a byte too many behind it the record itself is whole.
            let left: Vec<u8> =
                all.iter().enumerate().filter(|(i, _)| *i != 2 || n == 5).flat_map(|(_, r)| r.clone()).collect();
            assert_eq!((std::fs::read(&path).unwrap(), places), (left, 1), "damage {n}");
            assert_eq!(std::fs::read(&aside).unwrap(), bad.concat());
            assert!(!aside.to_string_lossy().contains("tfevents"));
        }
        // Whole, torn in the last record, or empty: left as it is.
        let whole = all.concat();
        for good in [&whole[..], &whole[..whole.len() - 3], &[]] {
            std::fs::write(&path, good).unwrap();
            assert_eq!(mend(&path).unwrap(), None);
            assert_eq!(std::fs::read(&path).unwrap(), good);
        }
    }
}
