//! Weights on disk: a safetensors file with one f32 tensor per parameter, under Mantissa's own names (`gpt.h0.attn.qkv.weight`), and the
//! number of the step in its metadata. Enough to sample, not to resume.

use crate::run_folder::write_whole;
use anyhow::{Context, Result, bail};
use mantissa_core::backend::wait;
use mantissa_core::program::memory::{Entry, Purpose};
use mantissa_core::train::Session;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::Path;

/// Metadata entry with the step after which the weights were saved.
const STEP: &str = "step";

fn params(session: &Session) -> impl Iterator<Item = &Entry> {
    session.memory().layout().entries.iter().filter(|e| e.purpose == Purpose::Weights)
}

/// Saves the weights of a session.
pub fn save(session: &Session, path: &Path) -> Result<()> {
    let mut tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::new();
    for entry in params(session) {
        let mut bytes = wait(session.memory().read(&entry.name)?)?;
        swap_if_big_endian(&mut bytes);
        tensors.push((&entry.name, entry.ty.shape.to_vec(), bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (*name, view)).context("cannot lay out the weights")
    });
    let views: Vec<(&str, TensorView<'_>)> = views.collect::<Result<_>>()?;
    // One entry only: the order of several would not be fixed.
    let metadata = HashMap::from([(STEP.to_string(), session.steps().to_string())]);
    write_whole(path, &safetensors::serialize(views, Some(metadata)).context("cannot lay out the weights")?)
}

/// Loads weights into a session. Every parameter must be there with its shape, and nothing else. Nothing is written before all is checked.
pub fn load(session: &Session, path: &Path) -> Result<()> {
    let file = || format!("cannot use the weights: {}", path.display());
    let bytes = std::fs::read(path).with_context(file)?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|e| anyhow::anyhow!("not a whole safetensors file ({} bytes): {e}", bytes.len()))
        .with_context(file)?;
    let mut found: Vec<(&Entry, TensorView<'_>)> = Vec::new();
    for entry in params(session) {
        let name = &entry.name;
        let Ok(tensor) = tensors.tensor(name) else {
            return Err(anyhow::anyhow!("expected a tensor `{name}` of {}, found none", entry.ty)).with_context(file);
        };
        if tensor.dtype() != Dtype::F32 || tensor.shape() != &entry.ty.shape[..] {
            let found = format!("{:?}{:?}", tensor.dtype(), tensor.shape());
            return Err(anyhow::anyhow!("tensor `{name}`: expected {}, found {found}", entry.ty)).with_context(file);
        }
        found.push((entry, tensor));
    }
    if let Some(extra) = tensors.names().into_iter().filter(|n| !found.iter().any(|(e, _)| e.name == **n)).min() {
        return Err(anyhow::anyhow!("expected the model's parameters only, found `{extra}` too")).with_context(file);
    }
    for (entry, tensor) in found {
        let mut bytes = tensor.data().to_vec();
        swap_if_big_endian(&mut bytes);
        session.memory().write(&entry.name, &bytes)?;
    }
    Ok(())
}

/// safetensors is little-endian.
fn swap_if_big_endian(bytes: &mut [u8]) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(4).for_each(<[u8]>::reverse);
    }
}

/// Reads a config that belongs to weights.
pub fn config_of(run: &Path) -> Result<crate::config::RunConfig> {
    let path = run.join(crate::run_folder::CONFIG);
    if !run.is_dir() {
        bail!("--run: expected the folder of a run, found none: {}", run.display());
    }
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("cannot read the config of the run: {}", path.display()))?;
    crate::config::RunConfig::from_toml(&text).with_context(|| format!("cannot use the config of the run: {}", path.display()))
}
