//! The tensors of a session as a file, written one by one so that they never have to be in memory all at once, and the
//! checksums of files.

use crate::show::printable;
use crate::tensor_file::{self, Entry, Header};
use anyhow::{Context, Result, bail};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

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

impl Source<'_> {
    fn entry(&self) -> Entry {
        let numel: usize = self.shape.iter().product();
        let size_bytes = numel * self.dtype.bitsize() / 8;
        Entry { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone(), numel, size_bytes }
    }
}

/// Writes and syncs a new file. `note` is one entry of its metadata.
pub fn write_new(path: &Path, tensors: &[Source<'_>], note: Option<(&str, &str)>) -> Result<()> {
    let put = || -> Result<()> {
        let mut file = File::create_new(path)?;
        write(&mut file, tensors, note)?;
        Ok(file.sync_all()?)
    };
    put().with_context(|| format!("cannot write the file: {}", path.display()))
}

/// Writes an empty file. The order is that of the safetensors library, which keeps every tensor aligned: by dtype,
/// widest first, then by name.
pub fn write(file: &mut File, tensors: &[Source<'_>], note: Option<(&str, &str)>) -> Result<()> {
    let mut sources: Vec<&Source<'_>> = tensors.iter().collect();
    sources.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let entries: Vec<Entry> = sources.iter().map(|source| source.entry()).collect();
    let metadata: BTreeMap<String, String> = note.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let header = Header { entries, metadata };
    tensor_file::write(file, &header, |out| {
        for (source, entry) in sources.iter().zip(&header.entries) {
            let bytes = (source.bytes)()?;
            if bytes.len() != entry.size_bytes {
                bail!("tensor `{}`: expected {} bytes, found {}", printable(&entry.name), entry.size_bytes, bytes.len());
            }
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use safetensors::tensor::TensorView;

    fn source(name: &str, shape: &[usize], values: Vec<f32>) -> Source<'static> {
        let bytes = move || Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
        Source { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    #[test]
    fn a_file_lies_as_the_library_would_lay_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let codes = Source { name: "0".into(), dtype: Dtype::U8, shape: vec![3], bytes: Box::new(|| Ok(vec![1, 2, 3])) };
        let tensors = [codes, source("b", &[2, 1], vec![0.5, -1.0]), source("a", &[], vec![7.5])];
        write_new(&path, &tensors, Some(("format", "pt"))).unwrap();
        assert!(write_new(&path, &tensors, None).is_err(), "never over a file");
        let bytes = std::fs::read(&path).unwrap();
        let views: Vec<(String, Vec<u8>)> = tensors.iter().map(|s| (s.name.clone(), (s.bytes)().unwrap())).collect();
        let views = tensors
            .iter()
            .zip(&views)
            .map(|(s, (name, b))| (name.as_str(), TensorView::new(s.dtype, s.shape.clone(), b).unwrap()));
        let theirs = safetensors::serialize(views, Some([("format".to_string(), "pt".to_string())].into())).unwrap();
        assert_eq!(bytes, theirs);
        let digest = Digest::of_file(&path).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        digest.check(&path).unwrap();
        std::fs::write(&path, &bytes[1..]).unwrap();
        assert!(digest.check(&path).is_err());
    }

    #[test]
    fn a_source_that_fails_is_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let failing = Source { name: "n".into(), dtype: Dtype::F32, shape: vec![2], bytes: Box::new(|| bail!("no device")) };
        let error = |name: &str, source| format!("{:#}", write_new(&dir.path().join(name), &[source], None).unwrap_err());
        assert!(error("x", failing).contains("no device"));
        assert!(error("y", source("m", &[3], vec![1.0])).contains("expected 12 bytes"));
    }

    /// The system's words about a full disk stand in the message once.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_of_the_disk_is_said_once() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let error = format!("{:#}", write(&mut full, &[source("m", &[1], vec![1.0])], None).unwrap_err());
        assert_eq!(error.matches("No space left on device").count(), 1, "{error}");
    }
}
