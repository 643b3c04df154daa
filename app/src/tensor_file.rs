//! safetensors files a piece at a time, so that a file larger than memory can be read and written.
//!
//! A header is checked against the length of its file before anything it claims is allocated. The library's own reader
//! and writer want a file whole in memory, or say an error of the disk twice; its types and its check of headers are
//! used. Format: <https://github.com/huggingface/safetensors>.

use crate::plain_file;
use crate::show::printable;
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::DType;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes in front of the header: its length.
const LENGTH_BYTES: u64 = 8;
/// Longest header accepted, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Headers are padded so that tensors start at a multiple of this.
const ALIGNMENT: usize = 8;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// First bytes of files that are often taken for safetensors: what they are, and what to do.
const OTHERS: [(&[u8], &str); 5] = [
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"version ", "a pointer of Git LFS in the place of the file; fetch it with `git lfs pull`"),
    (b"GGUF", "a GGUF file; expected the safetensors files it was made from"),
    (b"\x89HDF", "an HDF5 file; save the model again with save_pretrained(DIR, safe_serialization=True)"),
];
/// What is said of files of `torch.save`.
pub const PICKLE: &str = "a pickle of PyTorch, which may run code and is not read; save the model again with \
    save_pretrained(DIR, safe_serialization=True)";

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Axis lengths.
    pub shape: Vec<usize>,
    /// Number of elements.
    pub numel: usize,
    /// Bytes in the file.
    pub size_bytes: usize,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub entries: Vec<Entry>,
    /// Free text of the file.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads and checks the header of a file of `file_bytes` bytes; `source` is left at the first byte of the first
    /// tensor.
    pub fn read(source: &mut impl Read, file_bytes: u64) -> Result<Header> {
        if file_bytes < LENGTH_BYTES {
            bail!("not a safetensors file: expected at least {LENGTH_BYTES} bytes, found {file_bytes}");
        }
        let mut start = [0; LENGTH_BYTES as usize];
        source.read_exact(&mut start)?;
        // Only asked of a file that cannot be read otherwise: a length may spell anything.
        let other = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, what)| *what);
        let length = u64::from_le_bytes(start);
        if length > MAX_HEADER_BYTES.min(file_bytes - LENGTH_BYTES) {
            match other {
                Some(what) => bail!("not a safetensors file, but {what}"),
                None => bail!(
                    "not a safetensors file, or truncated: expected a header within {file_bytes} bytes, found one that claims {length}"
                ),
            }
        }
        let mut text = vec![0; length as usize];
        source.read_exact(&mut text)?;
        let parsed: Metadata = serde_json::from_slice(&text).map_err(|e| match other {
            Some(what) => anyhow!("not a safetensors file, but {what}"),
            None => anyhow!("not a safetensors file: its header is malformed: {e}"),
        })?;
        let (claimed, found) = (parsed.data_len() as u64, file_bytes - LENGTH_BYTES - length);
        if claimed != found {
            let which = if claimed > found { "truncated" } else { "too long" };
            bail!("expected {claimed} bytes of tensors, as the header says, found {found} ({which})");
        }
        let entries = parsed.offset_keys().into_iter().filter_map(|name| {
            let info = parsed.info(&name)?;
            // The library has checked that this product and these offsets are within range.
            let (numel, (start, end)) = (info.shape.iter().product(), info.data_offsets);
            Some(Entry { name, dtype: info.dtype, shape: info.shape.clone(), numel, size_bytes: end - start })
        });
        let metadata = parsed.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Header { entries: entries.collect(), metadata })
    }

    /// Bytes of all tensors: the last so many of the file.
    pub fn data_bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size_bytes as u64).sum()
    }

    /// The bytes in front of the tensors.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self).context("cannot write the header")?;
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut text);
        Ok(bytes)
    }
}

/// As the library writes it: the text of the file, then the tensors in the order of their bytes.
impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Place<'a> {
            dtype: Dtype,
            shape: &'a [usize],
            data_offsets: [usize; 2],
        }
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry("__metadata__", &self.metadata)?;
        }
        let mut start = 0;
        for e in &self.entries {
            let end = start + e.size_bytes;
            map.serialize_entry(&e.name, &Place { dtype: e.dtype, shape: &e.shape, data_offsets: [start, end] })?;
            start = end;
        }
        map.end()
    }
}

/// An open file whose header has been read and checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where the bytes of each entry of the header begin in the file.
    starts: Vec<u64>,
    /// Place in the header of each name.
    index: BTreeMap<String, usize>,
}

impl TensorFile {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let context = || format!("cannot read the tensors: {}", path.display());
        let (mut file, size) = plain_file::open(path).with_context(context)?;
        let header = Header::read(&mut file, size).with_context(context)?;
        let mut at = size - header.data_bytes();
        let mut starts = Vec::with_capacity(header.entries.len());
        for entry in &header.entries {
            starts.push(at);
            at += entry.size_bytes as u64;
        }
        let index = header.entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect();
        Ok(TensorFile { path: path.to_path_buf(), file, header, starts, index })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// What the header says of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|i| &self.header.entries[*i])
    }

    /// Fills `out` with the bytes of entry `index` of the header from byte `from` of the tensor. They must lie within
    /// the tensor.
    pub fn read_at(&self, index: usize, from: usize, out: &mut [u8]) -> Result<()> {
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(self.starts[index] + from as u64)).and_then(|_| file.read_exact(out));
        let name = printable(&self.header.entries[index].name);
        read.with_context(|| format!("cannot read the tensor `{name}`: {}", self.path.display()))
    }

    /// The first `size_bytes` bytes of the tensor `name`, which must have them.
    pub fn read_front(&self, name: &str, size_bytes: usize) -> Result<Vec<u8>> {
        let Some(&index) = self.index.get(name) else {
            bail!("expected a tensor `{}`, found none: {}", printable(name), self.path.display());
        };
        let mut bytes = vec![0; size_bytes];
        self.read_at(index, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The tensor `name`, which must have this shape, as little-endian bytes of its own dtype.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        let entry = self.expect(name, shape)?;
        Ok((entry.dtype, self.read_front(name, entry.size_bytes)?))
    }

    /// [`TensorFile::read`] of a tensor that must have this dtype, in the byte order of this machine.
    pub fn read_exact(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<Vec<u8>> {
        self.expect_exact(name, dtype, shape)?;
        let (_, mut bytes) = self.read(name, shape)?;
        swap_if_big_endian(dtype.size_bytes(), &mut bytes);
        Ok(bytes)
    }

    /// Refuses a tensor that is not there or has another shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let path = self.path.display();
        let Some(entry) = self.entry(name) else {
            bail!("expected a tensor `{}` of shape {shape:?}, found none: {path}", printable(name));
        };
        if entry.shape != shape {
            bail!("tensor `{}`: expected shape {shape:?}, found {:?}: {path}", printable(name), entry.shape);
        }
        Ok(entry)
    }

    /// Refuses what [`TensorFile::read_exact`] would refuse, from the header alone.
    pub fn expect_exact(&self, name: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        let found = self.expect(name, shape)?.dtype;
        if file_dtype(dtype) != found {
            bail!("tensor `{}`: expected {dtype}, found {found}: {}", printable(name), self.path.display());
        }
        Ok(())
    }
}

/// Writes tensors into an empty file; `fill` writes the bytes of all of them in order.
pub fn write(file: &mut File, header: &Header, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let mut out = BufWriter::with_capacity(WRITE_BYTES, file);
    out.write_all(&header.to_bytes()?)?;
    fill(&mut out)?;
    // Not left to the drop, which would lose the error.
    out.flush()?;
    Ok(())
}

/// The dtype that safetensors has for values of `dtype`. Values of tf32 lie in files as f32, as they do in memory.
pub fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 | DType::Tf32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::E4m3 => Dtype::F8_E4M3,
        DType::E5m2 => Dtype::F8_E5M2,
        DType::E8m0 => Dtype::F8_E8M0,
        DType::U32 => Dtype::U32,
        DType::I32 => Dtype::I32,
    }
}

/// How the values of a tensor lie in a file, of the types that floats have there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floats {
    /// As codes of a format of ours.
    Codes(DType),
    /// As f64.
    F64,
}

impl Floats {
    /// Of a tensor of type `dtype`; `None` for integers and for types narrower than a byte.
    pub fn of(dtype: Dtype) -> Option<Floats> {
        const FORMATS: [DType; 6] = [DType::F32, DType::F16, DType::Bf16, DType::E4m3, DType::E5m2, DType::E8m0];
        let codes = FORMATS.into_iter().find(|format| file_dtype(*format) == dtype).map(Floats::Codes);
        codes.or((dtype == Dtype::F64).then_some(Floats::F64))
    }

    /// Bytes of a value.
    pub fn size_bytes(self) -> usize {
        match self {
            Floats::Codes(dtype) => dtype.size_bytes(),
            Floats::F64 => size_of::<f64>(),
        }
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

    fn entry(name: &str, dtype: Dtype, shape: &[usize], size_bytes: usize) -> Entry {
        Entry { name: name.into(), dtype, shape: shape.to_vec(), numel: shape.iter().product(), size_bytes }
    }

    #[test]
    fn a_written_file_reads_back_here_and_in_the_library() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let entries =
            vec![entry("z", Dtype::F32, &[2], 8), entry("a", Dtype::U8, &[3, 1], 3), entry("empty", Dtype::F16, &[0], 0)];
        let header = Header { entries, metadata: BTreeMap::from([("format".into(), "pt".into())]) };
        let all = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        write(&mut File::create_new(&path).unwrap(), &header, |out| Ok(out.write_all(&all)?)).unwrap();
        let file = TensorFile::open(&path).unwrap();
        // An empty tensor may come before or after its neighbour.
        assert_eq!(file.header().metadata, header.metadata);
        assert!(header.entries.iter().all(|e| file.header().entries.contains(e)));
        let at = |name: &str| file.header().entries.iter().position(|e| e.name == name).unwrap();
        let mut bytes = [0; 2];
        file.read_at(at("z"), 3, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 5]);
        file.read_at(at("a"), 1, &mut bytes).unwrap();
        assert_eq!(bytes, [10, 11]);
        let all = std::fs::read(&path).unwrap();
        let library = safetensors::SafeTensors::deserialize(&all).unwrap();
        assert_eq!(library.tensor("a").unwrap().data(), [9, 10, 11]);
    }

    #[test]
    fn what_was_written_is_read_and_anything_else_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let header = Header {
            entries: vec![entry("b", Dtype::F32, &[2, 3], 24), entry("a\u{1b}", Dtype::F8_E4M3, &[2], 2)],
            metadata: BTreeMap::new(),
        };
        let values: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let fill = |out: &mut dyn Write| Ok(out.write_all(&[&values[..], &[7, 8]].concat())?);
        write(&mut File::create_new(&path).unwrap(), &header, fill).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["a\u{1b}", "b"]);
        let b = file.read_exact("b", DType::F32, &[2, 3]).unwrap();
        assert_eq!(b, (0..6).flat_map(|i| (i as f32).to_ne_bytes()).collect::<Vec<u8>>());
        assert_eq!(file.read_exact("a\u{1b}", DType::E4m3, &[2]).unwrap(), [7, 8]);
        let refused = |name: &str, dtype, shape: &[usize]| file.read_exact(name, dtype, shape).unwrap_err().to_string();
        assert!(refused("b", DType::U32, &[2, 3]).contains("expected u32, found F32"));
        assert!(refused("b", DType::F32, &[6]).contains("expected shape [6], found [2, 3]"));
        assert!(refused("c", DType::F32, &[6]).contains("`c`"));
        // A name never reaches a terminal as it is.
        assert!(refused("a\u{1b}", DType::F32, &[2]).contains("`a\\u{1b}`: expected f32, found F8_E4M3"));
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        let error = |bytes: &[u8]| {
            let all = [bytes, &[0; 64]].concat();
            Header::read(&mut &all[..], all.len() as u64).unwrap_err().to_string()
        };
        assert!(error(b"PK\x03\x04\0\0\0\0").contains("safe_serialization=True"));
        assert!(error(b"\x80\x02}q\0X\x0a\0").contains("a pickle of PyTorch"));
        assert!(error(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        assert!(error(b"GGUF\x03\0\0\0").contains("GGUF"));
        // A header of 640 bytes begins as a pickle does.
        let text = format!("{:<640}", r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        let all = [&640u64.to_le_bytes(), text.as_bytes(), &[0; 4]].concat();
        assert!(all.starts_with(b"\x80\x02") && Header::read(&mut &all[..], all.len() as u64).is_ok());
    }

    #[test]
    fn a_cut_or_changed_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let entries = vec![entry("b", Dtype::F32, &[2, 3], 24), entry("a", Dtype::F32, &[], 4)];
        let header = Header { entries, metadata: BTreeMap::from([("format".into(), "pt".into())]) };
        write(&mut File::create_new(&path).unwrap(), &header, |out| Ok(out.write_all(&[1; 28])?)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            format!("{:#}", TensorFile::open(&path).unwrap_err())
        };
        for cut in 0..whole.len() {
            let error = with(&whole[..cut]);
            assert!(error.contains("not a safetensors file") || error.contains("truncated"), "{cut} bytes: {error}");
        }
        for (old, new) in [("[2,3]", "[3,3]"), ("[2,3]", "[9,9]"), ("[0,24]", "[0,99]"), ("\"F32\"", "\"F64\"")] {
            let text = String::from_utf8_lossy(&whole[8..whole.len() - 28]).replacen(old, new, 1);
            assert!(!with(&[&whole[..8], text.as_bytes(), &whole[whole.len() - 28..]].concat()).is_empty());
        }
    }

    #[test]
    fn lying_headers_are_refused_before_they_cost_memory() {
        let error = |bytes: &[u8]| Header::read(&mut &bytes[..], bytes.len() as u64).unwrap_err().to_string();
        let file = |text: &str, data: usize| [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &vec![0; data]].concat();
        assert!(error(b"abc").contains("at least 8 bytes, found 3"));
        assert!(error(&u64::MAX.to_le_bytes()).contains("claims 18446744073709551615"));
        assert!(error(&file("{", 0)).contains("malformed"));
        let claim = r#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#;
        assert!(
            error(&file(claim, 8)).contains("expected 4398046511104 bytes of tensors, as the header says, found 8 (truncated)")
        );
        let wrong = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
        assert!(error(&file(wrong, 4)).contains("malformed"));
        let right = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        assert!(error(&file(right, 5)).contains("too long"));
        assert!(Header::read(&mut &file(right, 4)[..], file(right, 4).len() as u64).is_ok());
    }
}
