//! Size and checksum: what distinguishes one file, or one data set, from another.

use crate::plain_file;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

/// Bytes read at once for a checksum.
const CHUNK_BYTES: usize = 1 << 18;

/// Size and CRC-32 of a file or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Bytes.
    pub bytes: u64,
    /// CRC-32 (IEEE).
    pub crc32: u32,
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes with checksum {:08x}", self.bytes, self.crc32)
    }
}

impl Digest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes) }
    }

    /// Of a file.
    pub fn of_file(path: &Path) -> Result<Digest> {
        let context = || format!("cannot read the file: {}", path.display());
        let (mut file, _) = plain_file::open(path).with_context(context)?;
        let (mut crc, mut bytes, mut chunk) = (crc32fast::Hasher::new(), 0, vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk).with_context(context)? {
                0 => return Ok(Digest { bytes, crc32: crc.finalize() }),
                n => {
                    crc.update(&chunk[..n]);
                    bytes += n as u64;
                }
            }
        }
    }

    /// Refuses a file that is not the one described; the size is compared before anything is read.
    pub fn check(&self, path: &Path) -> Result<()> {
        let size = std::fs::metadata(path).with_context(|| format!("cannot read the file: {}", path.display()))?.len();
        if size != self.bytes {
            bail!("expected {} bytes, found {size}: {}", self.bytes, path.display());
        }
        let found = Digest::of_file(path)?;
        if found != *self {
            bail!("expected {self}, found {found}: {}", path.display());
        }
        Ok(())
    }
}
