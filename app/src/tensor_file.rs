//! safetensors files one tensor at a time, so that a file larger than memory can be read and written.
//!
//! A header is checked against the length of its file before anything it claims is allocated. Files are written under a temporary name
//! beside their own, synced and renamed. Format: <https://github.com/huggingface/safetensors>.

use crate::run_folder::write_through;
use anyhow::{Context, Result, bail};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes in front of the header: its length.
const LENGTH_BYTES: u64 = 8;
/// Longest header accepted, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Headers are padded so that tensors start at a multiple of this.
const ALIGNMENT: usize = 8;

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
    /// Reads and checks the header of a file of `file_bytes` bytes; `source` is left at the first byte of the first tensor.
    pub fn read(source: &mut impl Read, file_bytes: u64) -> Result<Header> {
        if file_bytes < LENGTH_BYTES {
            bail!("not a safetensors file: expected at least {LENGTH_BYTES} bytes, found {file_bytes}");
        }
        let mut length = [0; LENGTH_BYTES as usize];
        source.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES.min(file_bytes - LENGTH_BYTES) {
            bail!(
                "not a safetensors file, or truncated: expected a header within {file_bytes} bytes, found one that claims {length}"
            );
        }
        let mut text = vec![0; length as usize];
        source.read_exact(&mut text)?;
        let parsed: Metadata = serde_json::from_slice(&text)
            .map_err(|e| anyhow::anyhow!("not a safetensors file: its header is malformed: {e}"))?;
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
        let mut map = Map::new();
        if !self.metadata.is_empty() {
            map.insert("__metadata__".into(), json!(self.metadata));
        }
        let mut start = 0;
        for e in &self.entries {
            let end = start + e.size_bytes;
            map.insert(e.name.clone(), json!({ "dtype": e.dtype, "shape": e.shape, "data_offsets": [start, end] }));
            start = end;
        }
        let mut text = serde_json::to_vec(&Value::Object(map)).context("cannot write the header")?;
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.append(&mut text);
        Ok(bytes)
    }
}

/// An open file, read from its first tensor to its last.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    header: Header,
    file: File,
}

impl TensorFile {
    /// Opens a file and checks its header.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let context = || format!("cannot read the tensors: {}", path.display());
        let mut file = File::open(path).with_context(context)?;
        let meta = file.metadata().with_context(context)?;
        if !meta.is_file() {
            bail!("cannot read the tensors: expected a file: {}", path.display());
        }
        let header = Header::read(&mut file, meta.len()).with_context(context)?;
        Ok(TensorFile { path: path.to_path_buf(), header, file })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next bytes of the tensors.
    pub fn read_next(&mut self, out: &mut [u8]) -> Result<()> {
        self.file.read_exact(out).with_context(|| format!("cannot read the tensors: {}", self.path.display()))
    }
}

/// Writes a file whose header is known beforehand; `fill` writes the bytes of all tensors in order.
pub fn write(path: &Path, header: &Header, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let front = header.to_bytes()?;
    write_through(path, |file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&front)?;
        fill(&mut out)?;
        out.flush()?;
        Ok(())
    })
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
        write(&path, &header, |out| Ok(out.write_all(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])?)).unwrap();
        let mut file = TensorFile::open(&path).unwrap();
        // An empty tensor may come before or after its neighbour.
        assert_eq!(file.header().metadata, header.metadata);
        assert!(header.entries.iter().all(|e| file.header().entries.contains(e)));
        let mut bytes = [0; 11];
        file.read_next(&mut bytes).unwrap();
        assert_eq!(bytes[10], 11);
        let all = std::fs::read(&path).unwrap();
        let library = safetensors::SafeTensors::deserialize(&all).unwrap();
        assert_eq!(library.tensor("a").unwrap().data(), [9, 10, 11]);
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
