//! Weights as files hold them: a GPT under the names and layouts of Hugging Face, so that `transformers` loads it and we load what it saved;
//! an mlp under its own names.

use super::parts::Parts;
use super::tensors::{Source, swap_if_big_endian};
use anyhow::{Context, Result, bail};
use mantissa_core::DType;
use mantissa_core::float::slices;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::hf::{self, HfConfig, HfTensor};
use mantissa_core::program::memory::Purpose;
use mantissa_core::train::Session;
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Weights of a model.
pub const MODEL: &str = "model.safetensors";
/// Sizes of a model.
pub const CONFIG: &str = "config.json";
/// Largest `config.json` that is read, bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Metadata without which `transformers` refuses a file.
pub const FORMAT: (&str, &str) = ("format", "pt");

/// The tensors of the weights of `session`.
pub fn stored(session: &Session) -> Vec<HfTensor> {
    match &session.config().model {
        ModelConfig::Gpt(gpt) => hf::tensors(gpt),
        ModelConfig::Mlp(_) => {
            let entries = session.memory().layout().entries.iter().filter(|e| e.purpose == Purpose::Weights);
            let own = |name: &String, shape: Vec<usize>| HfTensor {
                name: name.clone(),
                own: Some(name.clone()),
                shape,
                transposed: false,
            };
            entries.map(|e| own(&e.name, e.ty.shape.to_vec())).collect()
        }
    }
}

/// Little-endian f32 bytes as `tensor` keeps them, from those of its parameter in memory.
pub fn to_stored(tensor: &HfTensor, own: Vec<u8>) -> Vec<u8> {
    let mut bytes = own;
    if tensor.transposed {
        bytes = hf::transpose(&bytes, tensor.shape[1], tensor.shape[0]);
    }
    swap_if_big_endian(DType::F32.size_bytes(), &mut bytes);
    bytes
}

/// The weights of `session`, read when they are written.
pub fn sources(session: &Session) -> Vec<Source<'_>> {
    let source = |tensor: HfTensor| Source {
        name: tensor.name.clone(),
        dtype: Dtype::F32,
        shape: tensor.shape.clone(),
        bytes: Box::new(move || match &tensor.own {
            Some(own) => Ok(to_stored(&tensor, session.read(own)?)),
            None => Ok(vec![0; tensor.shape.iter().product::<usize>() * DType::F32.size_bytes()]),
        }),
    };
    stored(session).into_iter().map(source).collect()
}

/// Contents of `config.json`.
pub fn config_json(model: &ModelConfig) -> Result<String> {
    let text = match model {
        ModelConfig::Gpt(gpt) => serde_json::to_string_pretty(&HfConfig::from_gpt(gpt)),
        ModelConfig::Mlp(_) => serde_json::to_string_pretty(model),
    };
    Ok(text.context("cannot write the model's config as JSON")? + "\n")
}

/// The weights of files by parameter name, in the byte order of this machine. Every tensor must be there with its shape, and nothing else but
/// buffers that hold no weights. f16 and bf16 are widened.
pub fn read_weights(file: &Parts, model: &ModelConfig, wanted: &[HfTensor]) -> Result<Vec<(String, Vec<u8>)>> {
    let path = file.path().display();
    let gpt = matches!(model, ModelConfig::Gpt(_));
    let mut names: BTreeMap<Cow<'_, str>, &str> = BTreeMap::new();
    for name in file.names() {
        let Some(full) = (if gpt { hf::canonical(name) } else { Some(Cow::Borrowed(name)) }) else { continue };
        if let Some(other) = names.insert(full, name) {
            bail!("expected each tensor once, found `{other}` and `{name}`: {path}");
        }
    }
    let mut out = Vec::with_capacity(wanted.len());
    for tensor in wanted {
        let Some(name) = names.remove(tensor.name.as_str()) else {
            bail!("expected a tensor `{}` of shape {:?}, found none: {path}", tensor.name, tensor.shape);
        };
        let stored = read_f32(file, name, &tensor.shape)?;
        match &tensor.own {
            Some(own) if tensor.transposed => {
                out.push((own.clone(), hf::transpose(&stored, tensor.shape[0], tensor.shape[1])));
            }
            Some(own) => out.push((own.clone(), stored)),
            None if stored.chunks_exact(4).all(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]) == 0.0) => {}
            None => bail!("tensor `{name}`: expected zeros, since the model has no biases, found others: {path}"),
        }
        if gpt
            && tensor.name == hf::EMBEDDING
            && let Some(head) = names.remove(hf::HEAD)
        {
            let tied = read_f32(file, head, &tensor.shape)?;
            if out.last().map(|(_, table)| table) != Some(&tied) {
                bail!("tensor `{head}`: expected the values of `{name}`, to which the head is tied, found others: {path}");
            }
        }
    }
    if let Some(extra) = names.into_values().next() {
        bail!("expected the tensors of the model only, found `{extra}` too: {path}");
    }
    Ok(out)
}

/// A tensor as f32 in the byte order of this machine.
fn read_f32(file: &Parts, name: &str, shape: &[usize]) -> Result<Vec<u8>> {
    let (found, mut bytes) = file.read(name, shape)?;
    let dtype = [DType::F32, DType::F16, DType::Bf16].into_iter().find(|d| super::tensors::file_dtype(*d) == Some(found));
    let Some(dtype) = dtype else {
        bail!("tensor `{name}`: expected f32, f16 or bf16, found {found}: {}", file.path().display());
    };
    swap_if_big_endian(dtype.size_bytes(), &mut bytes);
    if dtype == DType::F32 {
        return Ok(bytes);
    }
    let mut wide = vec![0.0f32; bytes.len() / dtype.size_bytes()];
    slices::decode(dtype, &bytes, &mut wide);
    Ok(bytemuck::cast_slice(&wide).to_vec())
}

/// The model of a folder that `transformers` saved (or a checkpoint of ours).
pub fn read_hf_config(dir: &Path) -> Result<HfConfig> {
    let path = dir.join(CONFIG);
    if !dir.is_dir() {
        bail!("model: expected a folder with {CONFIG} and {MODEL}, found none: {}", dir.display());
    }
    let text = super::read_small(&path, MAX_CONFIG_BYTES)?;
    let config = serde_json::from_slice(&text);
    config.map_err(|e| anyhow::anyhow!("not the config of a GPT-2: {e}: {}", path.display()))
}

/// Puts weights into a session. Nothing is written before all is checked.
pub fn load(session: &Session, file: &Parts) -> Result<()> {
    for (name, bytes) in read_weights(file, &session.config().model, &stored(session))? {
        session.memory().write(&name, &bytes)?;
    }
    Ok(())
}
