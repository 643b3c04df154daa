//! The weights of a model on disk: one safetensors file, or the several that `transformers` makes of a large model, with an index beside them
//! that says which tensor lies where.

use super::model::MODEL;
use super::read_small;
use super::tensors::TensorFile;
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::model::hf;
use safetensors::Dtype;
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
    crops: bool,
}

impl Parts {
    /// The weights in a folder.
    pub fn open(dir: &Path) -> Result<Parts> {
        let index = dir.join(INDEX);
        if dir.join(MODEL).exists() || !index.exists() {
            return Parts::one(&dir.join(MODEL));
        }
        let bytes = read_small(&index, MAX_INDEX_BYTES)?;
        let parsed: Index =
            serde_json::from_slice(&bytes).map_err(|e| anyhow!("not an index of model parts: {e}: {}", index.display()))?;
        Parts::several(dir, &parsed).with_context(|| format!("cannot use the model parts: {}", index.display()))
    }

    /// The weights in one file.
    pub fn one(path: &Path) -> Result<Parts> {
        let file = TensorFile::open(path)?;
        let place = file.names().map(|name| (name.to_string(), 0)).collect();
        Ok(Parts { path: path.to_path_buf(), files: vec![file], place, crops: false })
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
            bail!("expected the name of a file in the same folder, found `{name}`");
        }
        let files = names.iter().map(|name| TensorFile::open(&dir.join(name))).collect::<Result<Vec<_>>>()?;
        let mut place = BTreeMap::new();
        for (tensor, name) in &index.weight_map {
            let at = names.binary_search(&name).map_err(|_| anyhow!("expected the file `{name}`, found none"))?;
            if files[at].shape(tensor).is_none() {
                bail!("expected the tensor `{tensor}` in {name}, found none");
            }
            place.insert(tensor.clone(), at);
        }
        if let Some(extra) = files.iter().flat_map(TensorFile::names).find(|name| !place.contains_key(*name)) {
            bail!("expected every tensor of the parts to be listed, found `{extra}`, which is not");
        }
        Ok(Parts { path: dir.join(INDEX), files, place, crops: false })
    }

    /// Gives a model with a shorter context the first rows of the position table.
    pub fn cropping_positions(self) -> Parts {
        Parts { crops: true, ..self }
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The tensor `name`, which must have this shape, as little-endian bytes of its own dtype.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<(Dtype, Vec<u8>)> {
        let Some(file) = self.place.get(name).map(|at| &self.files[*at]) else {
            bail!("expected a tensor `{name}` of shape {shape:?}, found none: {}", self.path.display());
        };
        if self.crops
            && hf::canonical(name).as_deref() == Some(hf::POSITIONS)
            && let (Some(&[rows, width]), &[wanted, same]) = (file.shape(name), shape)
            && width == same
            && wanted < rows
        {
            let (dtype, mut bytes) = file.read(name, &[rows, width])?;
            bytes.truncate(bytes.len() / rows * wanted);
            return Ok((dtype, bytes));
        }
        file.read(name, shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::{Source, write};

    fn file(path: &Path, name: &str, shape: [usize; 2]) {
        let values = (0..shape[0] * shape[1]).map(|i| i as f32);
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let bytes = move || Ok(bytes.clone());
        let source = Source { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec(), bytes: Box::new(bytes) };
        write(path, &[source], None).expect("a temporary folder is writable");
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
        assert_eq!(parts.read("a", &[2, 1]).unwrap().1, [0.0f32, 1.0].map(f32::to_le_bytes).concat());
        assert!(parts.read("wpe.weight", &[3, 2]).is_err());
        let cropped = parts.cropping_positions().read("wpe.weight", &[1, 2]).unwrap().1;
        assert_eq!(cropped, [0.0f32, 1.0].map(f32::to_le_bytes).concat());
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
        std::fs::write(dir.path().join(INDEX), "{\"weight_map\": 3}").unwrap();
        assert!(Parts::open(dir.path()).unwrap_err().to_string().contains("not an index"));
        assert!(refused(&[("a", "1.safetensors"), ("c", "./1.safetensors")]).contains("in the same folder"));
    }
}
