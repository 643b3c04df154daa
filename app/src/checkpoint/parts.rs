//! The weights of a model on disk: one safetensors file, or the several that `transformers` makes of a large model,
//! with an index beside them that says which tensor lies where.

use super::MODEL;
use crate::plain_file;
use crate::show::printable;
use crate::tensor_file::{Entry, PICKLE, TensorFile};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// List of the parts of a model that was saved in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// Largest index that is read, bytes.
const MAX_INDEX_BYTES: u64 = 1 << 26;
/// Most files of one model.
const MAX_PARTS: usize = 4096;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Weights, open for reading.
#[derive(Debug)]
pub struct Parts {
    path: PathBuf,
    files: Vec<TensorFile>,
    /// The file of each tensor.
    place: BTreeMap<String, usize>,
}

impl Parts {
    /// The weights in a folder.
    pub fn open(dir: &Path) -> Result<Parts> {
        let (whole, index) = (dir.join(MODEL), dir.join(INDEX));
        if whole.exists() {
            return Parts::one(&whole);
        }
        if !index.exists() {
            return Err(none_in(dir));
        }
        let bytes = plain_file::read(&index, MAX_INDEX_BYTES)
            .with_context(|| format!("cannot read the list of model parts: {}", index.display()))?;
        let parsed: Index =
            serde_json::from_slice(&bytes).map_err(|e| anyhow!("not an index of model parts: {e}: {}", index.display()))?;
        Parts::several(dir, &parsed).with_context(|| format!("cannot use the model parts: {}", index.display()))
    }

    /// The weights in one file.
    pub fn one(path: &Path) -> Result<Parts> {
        let file = TensorFile::open(path)?;
        let place = file.names().map(|name| (name.to_string(), 0)).collect();
        Ok(Parts { path: path.to_path_buf(), files: vec![file], place })
    }

    fn several(dir: &Path, index: &Index) -> Result<Parts> {
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        if names.is_empty() || names.len() > MAX_PARTS {
            bail!("expected 1 to {MAX_PARTS} files, found {}", names.len());
        }
        // A part lies beside its index: nothing else of this machine is opened on the word of a file.
        let plain = |name: &str| matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if let Some(name) = names.iter().find(|n| !plain(n)) {
            bail!("expected the name of a file in the same folder, found `{}`", printable(name));
        }
        let files = names.iter().map(|name| TensorFile::open(&dir.join(name))).collect::<Result<Vec<_>>>()?;
        let mut place = BTreeMap::new();
        for (tensor, name) in &index.weight_map {
            let at = names.binary_search(&name).map_err(|_| anyhow!("expected the file `{}`, found none", printable(name)))?;
            if files[at].entry(tensor).is_none() {
                bail!("expected the tensor `{}` in {}, found none", printable(tensor), printable(name));
            }
            place.insert(tensor.clone(), at);
        }
        if let Some(extra) = files.iter().flat_map(TensorFile::names).find(|name| !place.contains_key(*name)) {
            bail!("expected every tensor of the parts to be listed, found `{}`, which is not", printable(extra));
        }
        Ok(Parts { path: dir.join(INDEX), files, place })
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The files of the tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }

    /// What is known of a tensor.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.file(name)?.entry(name)
    }

    /// The first `size_bytes` bytes of the tensor `name`, which must have them.
    pub fn read_front(&self, name: &str, size_bytes: usize) -> Result<Vec<u8>> {
        let Some(file) = self.file(name) else {
            bail!("expected a tensor `{}`, found none: {}", printable(name), self.path.display());
        };
        file.read_front(name, size_bytes)
    }

    fn file(&self, name: &str) -> Option<&TensorFile> {
        self.place.get(name).map(|at| &self.files[*at])
    }
}

/// Endings of files with weights in other forms, and what is said of them.
const FOREIGN: [(&str, &str); 7] = [
    ("bin", PICKLE),
    ("pt", PICKLE),
    ("pth", PICKLE),
    ("ckpt", PICKLE),
    ("h5", "weights of TensorFlow; save the model again with save_pretrained(DIR, safe_serialization=True)"),
    ("msgpack", "weights of Flax; save the model again with save_pretrained(DIR, safe_serialization=True)"),
    ("gguf", "weights of llama.cpp; expected the safetensors files they were made from"),
];

/// What is said of a file by its ending, if it holds weights in a form that is not read.
pub fn foreign(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?;
    FOREIGN.iter().find(|(own, _)| ending.eq_ignore_ascii_case(own)).map(|(_, what)| *what)
}

/// That a folder has no weights, and what lies there instead.
fn none_in(dir: &Path) -> anyhow::Error {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let mut files: Vec<PathBuf> = entries.filter(|path| path.is_file()).collect();
    files.sort();
    let name = |path: &Path| printable(&path.file_name().unwrap_or_default().to_string_lossy()).into_owned();
    let renamed = files.iter().find(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let other = files.iter().find_map(|path| foreign(path).map(|what| (path, what)));
    match (renamed, other) {
        (Some(path), _) => anyhow!("expected {MODEL} or {INDEX}, found `{}`; rename it: {}", name(path), dir.display()),
        (None, Some((path, what))) => anyhow!("expected {MODEL}, found `{}`, {what}: {}", name(path), dir.display()),
        (None, None) => anyhow!("expected {MODEL} or {INDEX}, found neither: {}", dir.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::{Source, write_new};
    use safetensors::Dtype;

    fn file(path: &Path, name: &str, shape: [usize; 2]) {
        let values = (0..shape[0] * shape[1]).map(|i| i as f32);
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let bytes = move || Ok(bytes.clone());
        let source = Source { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) };
        write_new(path, &[source], None).expect("a temporary folder is writable");
    }

    fn index(dir: &Path, map: &[(&str, &str)]) -> Result<Parts> {
        let map: BTreeMap<_, _> = map.iter().copied().collect();
        let text = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
        std::fs::write(dir.join(INDEX), text).expect("a temporary folder is writable");
        Parts::open(dir)
    }

    #[test]
    fn parts_are_read_as_one() {
        let dir = tempfile::tempdir().unwrap();
        file(&dir.path().join("1.safetensors"), "a", [2, 1]);
        file(&dir.path().join("2.safetensors"), "wpe.weight", [4, 2]);
        let all = [("a", "1.safetensors"), ("wpe.weight", "2.safetensors")];
        let parts = index(dir.path(), &all).unwrap();
        assert_eq!(parts.names().collect::<Vec<_>>(), ["a", "wpe.weight"]);
        assert_eq!(parts.read_front("a", 8).unwrap(), [0.0f32, 1.0].map(f32::to_le_bytes).concat());
        assert_eq!(parts.read_front("wpe.weight", 12).unwrap(), [0.0f32, 1.0, 2.0].map(f32::to_le_bytes).concat());
        assert_eq!(parts.entry("wpe.weight").unwrap().shape, [4, 2]);
        assert!(parts.read_front("b", 0).is_err() && parts.entry("b").is_none());
    }

    #[test]
    fn weights_in_another_form_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let found = || Parts::open(dir.path()).unwrap_err().to_string();
        assert!(found().contains("found neither"));
        for (name, part) in [
            ("tf_model.h5", "TensorFlow"),
            ("pytorch_model.BIN", "`pytorch_model.BIN`, a pickle of PyTorch"),
            ("pytorch_model.bin", "safe_serialization=True"),
            ("model.fp16.safetensors", "found `model.fp16.safetensors`; rename it"),
        ] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
            assert!(found().contains(part), "{name}: {}", found());
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }

    #[test]
    fn an_index_that_lies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        file(&dir.path().join("1.safetensors"), "a", [2, 1]);
        let refused = |map: &[(&str, &str)]| format!("{:#}", index(dir.path(), map).unwrap_err());
        assert!(refused(&[]).contains("1 to 4096 files, found 0"));
        for outside in ["../1.safetensors", "/1.safetensors", ".", ""] {
            assert!(refused(&[("a", outside)]).contains("in the same folder"), "{outside}");
        }
        assert!(refused(&[("a", "2.safetensors")]).contains("2.safetensors"));
        assert!(refused(&[("a", "1.safetensors"), ("b", "1.safetensors")]).contains("the tensor `b`"));
        assert!(refused(&[("a", "1.safetensors"), ("\u{1b}b", "1.safetensors")]).contains("the tensor `\\u{1b}b`"));
        std::fs::write(dir.path().join(INDEX), "{\"weight_map\": 3}").unwrap();
        assert!(Parts::open(dir.path()).unwrap_err().to_string().contains("not an index"));
        assert!(refused(&[("a", "1.safetensors"), ("c", "./1.safetensors")]).contains("in the same folder"));
    }
}
