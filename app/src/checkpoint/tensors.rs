//! safetensors files, read and written tensor by tensor, so that a file never has to be in memory whole.
//!
//! A header is believed only as far as the file goes: see [`Header`].

use crate::tensor_file::{Entry, Header};
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::DType;
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensorError};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

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
        let mut file = File::open(path).with_context(context)?;
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

/// A tensor to be written: its bytes (little-endian) are asked for when it is its turn.
pub struct Source<'a> {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Gives the bytes.
    pub bytes: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

struct Lazy<'a> {
    source: &'a Source<'a>,
    failure: &'a RefCell<Option<anyhow::Error>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.source.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.source.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let bytes = (self.source.bytes)().and_then(|b| match b.len() == self.data_len() {
            true => Ok(b),
            false => Err(anyhow!("tensor `{}`: expected {} bytes, found {}", self.source.name, self.data_len(), b.len())),
        });
        // The crate asks for bytes, not for a result: what is written after a failure is thrown away with the file.
        Cow::Owned(bytes.unwrap_or_else(|e| {
            self.failure.borrow_mut().get_or_insert(e);
            Vec::new()
        }))
    }
    fn data_len(&self) -> usize {
        self.source.shape.iter().product::<usize>() * self.source.dtype.bitsize() / 8
    }
}

/// Writes and syncs a file. `note` is one entry of its metadata; of several the order would not be fixed.
pub fn write(path: &Path, tensors: &[Source<'_>], note: Option<(&str, &str)>) -> Result<()> {
    let context = || format!("cannot write the file: {}", path.display());
    let failure = RefCell::new(None);
    let views = tensors.iter().map(|source| (source.name.as_str(), Lazy { source, failure: &failure }));
    let note = note.map(|(key, value)| HashMap::from([(key.to_string(), value.to_string())]));
    let done = safetensors::serialize_to_file(views, note, path);
    if let Some(error) = failure.into_inner() {
        return Err(error).with_context(context);
    }
    let once = |e| {
        let SafeTensorError::IoError(cause) = e else { return anyhow::Error::from(e) };
        // Its own words would be followed by the same words of its cause.
        cause.into()
    };
    done.map_err(once).with_context(context)?;
    OpenOptions::new().write(true).open(path).and_then(|f| f.sync_all()).with_context(context)
}

/// A safetensors file whose header has been read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: RefCell<File>,
    /// Each tensor with the place of its bytes in the file.
    tensors: BTreeMap<String, (u64, Entry)>,
}

impl TensorFile {
    /// Reads the header.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let context = || format!("cannot read the tensors: {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let size = file.metadata().with_context(context)?.len();
        let header = Header::read(&mut file, size).with_context(context)?;
        let mut at = size - header.data_bytes();
        let mut tensors = BTreeMap::new();
        for entry in header.entries {
            let start = at;
            at += entry.size_bytes as u64;
            tensors.insert(entry.name.clone(), (start, entry));
        }
        Ok(TensorFile { path: path.to_path_buf(), file: RefCell::new(file), tensors })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|(_, entry)| entry.shape.as_slice())
    }

    /// The tensor `name`, which must have this shape, as little-endian bytes of its own dtype.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        let Some((start, entry)) = self.tensors.get(name) else {
            bail!("expected a tensor `{name}` of shape {shape:?}, found none: {}", self.path.display());
        };
        if entry.shape != shape {
            bail!("tensor `{name}`: expected shape {shape:?}, found {:?}: {}", entry.shape, self.path.display());
        }
        let mut bytes = vec![0; entry.size_bytes];
        let mut file = self.file.borrow_mut();
        let read = file.seek(SeekFrom::Start(*start)).and_then(|_| file.read_exact(&mut bytes));
        read.with_context(|| format!("cannot read the tensor `{name}`: {}", self.path.display()))?;
        Ok((entry.dtype, bytes))
    }

    /// [`TensorFile::read`] of a tensor that must have this dtype, in the byte order of this machine.
    pub fn read_exact(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<Vec<u8>> {
        let (found, mut bytes) = self.read(name, shape)?;
        if file_dtype(dtype) != Some(found) {
            bail!("tensor `{name}`: expected {dtype}, found {found}: {}", self.path.display());
        }
        swap_if_big_endian(dtype.size_bytes(), &mut bytes);
        Ok(bytes)
    }
}

/// The name that safetensors has for a dtype of persistent values.
pub fn file_dtype(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::Bf16 => Some(Dtype::BF16),
        DType::U32 => Some(Dtype::U32),
        DType::I32 => Some(Dtype::I32),
        DType::Tf32 | DType::E4m3 | DType::E5m2 | DType::E8m0 => None,
    }
}

/// Between the byte order of this machine and the little-endian one of files.
pub fn swap_if_big_endian(size_bytes: usize, bytes: &mut [u8]) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(size_bytes).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, shape: &[usize], values: Vec<f32>) -> Source<'static> {
        let bytes = move || Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        Source { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let tensors = [source("b", &[2, 3], (0..6).map(|i| i as f32).collect()), source("a", &[], vec![7.5])];
        write(&path, &tensors, Some(("format", "pt"))).unwrap();
        (dir, path)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_dir, path) = written();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        let b = file.read_exact("b", DType::F32, &[2, 3]).unwrap();
        assert_eq!(b, (0..6).flat_map(|i| (i as f32).to_ne_bytes()).collect::<Vec<u8>>());
        assert!(file.read_exact("b", DType::U32, &[2, 3]).unwrap_err().to_string().contains("expected u32, found F32"));
        assert!(file.read_exact("b", DType::F32, &[6]).unwrap_err().to_string().contains("expected shape [6], found [2, 3]"));
        assert!(file.read_exact("c", DType::F32, &[6]).unwrap_err().to_string().contains("`c`"));
        let digest = Digest::of_file(&path).unwrap();
        assert_eq!(digest, Digest::of(&std::fs::read(&path).unwrap()));
        digest.check(&path).unwrap();
    }

    #[test]
    fn a_file_is_believed_only_as_far_as_it_goes() {
        let (_dir, path) = written();
        let whole = std::fs::read(&path).unwrap();
        let digest = Digest::of(&whole);
        let with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            assert!(digest.check(&path).is_err());
            format!("{:#}", TensorFile::open(&path).unwrap_err())
        };
        for cut in 0..whole.len() {
            let error = with(&whole[..cut]);
            assert!(error.contains("not a safetensors file") || error.contains("truncated"), "{cut} bytes: {error}");
        }
        assert!(with(&[&u64::MAX.to_le_bytes()[..], &whole[8..]].concat()).contains("claims 18446744073709551615"));
        assert!(with(&[&whole[..], &[0]].concat()).contains("found 29 (too long)"));
        for (old, new) in [("[2,3]", "[3,3]"), ("[2,3]", "[9,9]"), ("[0,24]", "[0,99]"), ("F32", "F64"), ("\"b\"", "\"a\"")] {
            let text = String::from_utf8_lossy(&whole[8..whole.len() - 28]).replacen(old, new, 1);
            let lie = [&whole[..8], text.as_bytes(), &whole[whole.len() - 28..]].concat();
            if lie != whole {
                with(&lie);
            }
        }
    }

    #[test]
    fn a_source_that_fails_is_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let failing = Source { name: "n".into(), dtype: Dtype::F32, shape: vec![2], bytes: Box::new(|| bail!("no device")) };
        assert!(format!("{:#}", write(&path, &[failing], None).unwrap_err()).contains("no device"));
        assert!(
            format!("{:#}", write(&path, &[source("m", &[3], vec![1.0])], None).unwrap_err()).contains("expected 12 bytes")
        );
    }
}
