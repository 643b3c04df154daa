//! Weights as files hold them: a GPT under the names and layouts of Hugging Face, so that `transformers` loads it and
//! we load what it saved; an mlp under its own names.
//!
//! They are found first ([`Weights::find`]), from headers alone: names, shapes, dtypes. Then they are read one by one,
//! so that no model is in memory twice.

use super::MODEL;
use super::parts::Parts;
use super::tensors::Source;
use crate::plain_file;
use crate::show::printable;
use crate::tensor_file::{Floats, swap_if_big_endian};
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::DType;
use mantissa_core::float::slices;
use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::model::hf::config::{self, HfConfig};
use mantissa_core::model::hf::names;
use mantissa_core::model::hf::{self, HfTensor};
use mantissa_core::program::memory::Purpose;
use mantissa_core::train::Session;
use safetensors::Dtype;
use std::path::Path;

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

/// The model of a folder that `transformers` saved (or of a checkpoint of a GPT).
pub fn read_hf_config(dir: &Path) -> Result<GptConfig> {
    let path = dir.join(CONFIG);
    if !dir.is_dir() {
        bail!("model: expected a folder with {CONFIG} and {MODEL}, found none: {}", dir.display());
    }
    let text = plain_file::read(&path, MAX_CONFIG_BYTES);
    let text = text.with_context(|| format!("cannot read the config of the model: {}", path.display()))?;
    config::read(&text).with_context(|| format!("cannot use the model: {}", path.display()))
}

/// What is done with a position table that has more rows than the model has places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// It is another model.
    Exact,
    /// A shorter context takes the first rows.
    Crop,
}

/// The weights of a model in files.
#[derive(Debug)]
pub struct Weights<'a> {
    parts: &'a Parts,
    found: Vec<Found>,
    /// The stored head, which must have the values of the embedding.
    head: Option<Found>,
    /// Things to say to people: what was left out or converted.
    pub notes: Vec<String>,
}

/// A tensor of a model and where its values are.
#[derive(Clone, Debug)]
struct Found {
    tensor: HfTensor,
    /// Name in the files.
    name: String,
    values: Floats,
}

impl Found {
    fn numel(&self) -> usize {
        self.tensor.shape.iter().product()
    }
}

impl<'a> Weights<'a> {
    /// Finds the tensors `wanted` by `model`. Each must be there once, with its shape and a float type, and nothing
    /// else but buffers that hold no weights.
    pub fn find(parts: &'a Parts, model: &ModelConfig, wanted: Vec<HfTensor>, positions: Positions) -> Result<Weights<'a>> {
        let path = parts.path().display();
        let names = match model {
            ModelConfig::Gpt(_) => names::recognise(parts.names()).map_err(|e| anyhow!("{e}: {path}"))?,
            ModelConfig::Mlp(_) => names::Names {
                tensors: parts.names().map(|name| (name.to_string(), name)).collect(),
                ..names::Names::default()
            },
        };
        let (mut left, mut found, mut head) = (names.tensors, Vec::with_capacity(wanted.len()), None);
        for tensor in wanted {
            let Some(name) = left.remove(&tensor.name) else {
                bail!("expected a tensor `{}` of shape {:?}, found none: {path}", tensor.name, tensor.shape);
            };
            if tensor.name == hf::EMBEDDING
                && let Some(name) = names.head
            {
                head = Some(matched(parts, name, tensor.clone(), positions)?);
            }
            found.push(matched(parts, name, tensor, positions)?);
        }
        if let Some(extra) = left.into_values().next() {
            bail!("expected the tensors of the model only, found `{}` too: {path}", printable(extra));
        }
        let mut notes = Vec::new();
        if let Some(first) = names.buffers.first() {
            let (n, first) = (names.buffers.len(), printable(first));
            notes.push(format!("left out tensors without weights: {n}, such as `{first}`"));
        }
        for (dtype, what) in [
            (Floats::F64, "rounded from f64 to f32"),
            (Floats::Codes(DType::E4m3), "in e4m3 are taken as they are, without a scale"),
            (Floats::Codes(DType::E5m2), "in e5m2 are taken as they are, without a scale"),
        ] {
            let n = found.iter().filter(|f| f.values == dtype).count();
            if n > 0 {
                notes.push(format!("tensors {what}: {n} of {}", found.len()));
            }
        }
        Ok(Weights { parts, found, head, notes })
    }

    /// Refuses values that would be lost: biases of a model without biases, a head of its own, f64 beyond f32. Reads no
    /// other tensors.
    pub fn check(&self) -> Result<()> {
        let path = self.parts.path().display();
        for f in &self.found {
            let name = printable(&f.name);
            if f.tensor.own.is_none() && f32s(&self.read(f)?).any(|v| v != 0.0) {
                bail!("tensor `{name}`: expected zeros, since the model has no biases, found others: {path}");
            }
            if f.values == Floats::F64 {
                // Reading rounds and refuses; what it gives is read again when it is due.
                self.read(f)?;
            }
        }
        let embedding = self.found.iter().find(|f| f.tensor.name == hf::EMBEDDING);
        if let (Some(head), Some(table)) = (&self.head, embedding)
            && self.read(head)? != self.read(table)?
        {
            let (head, table) = (printable(&head.name), printable(&table.name));
            bail!("tensor `{head}`: expected the values of `{table}`, to which the head is tied, found others: {path}");
        }
        Ok(())
    }

    /// The value of the parameter `own`: f32 in the byte order of this machine.
    pub fn value(&self, own: &str) -> Result<Vec<u8>> {
        let Some(f) = self.found.iter().find(|f| f.tensor.own.as_deref() == Some(own)) else {
            bail!("expected a weight `{own}`, found none: {}", self.parts.path().display());
        };
        let bytes = self.read(f)?;
        Ok(if f.tensor.transposed { hf::transpose(&bytes, f.tensor.shape[0], f.tensor.shape[1]) } else { bytes })
    }

    /// Puts the weights into a session that has these parameters, one by one. After an error, of the disk, some are
    /// there and some not.
    fn put(&self, session: &Session) -> Result<()> {
        for own in self.found.iter().filter_map(|f| f.tensor.own.as_deref()) {
            session.memory().write(own, &self.value(own)?)?;
        }
        Ok(())
    }

    /// A tensor, or as many of its first rows as are wanted, as f32 in the byte order of this machine.
    fn read(&self, f: &Found) -> Result<Vec<u8>> {
        let size = f.values.size_bytes();
        let mut bytes = self.parts.read_front(&f.name, f.numel() * size)?;
        let wide: Vec<f32> = match f.values {
            Floats::F64 => {
                let narrow = |b: &[u8]| {
                    let x = f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                    if x.is_finite() && !(x as f32).is_finite() {
                        let (name, path) = (printable(&f.name), self.parts.path().display());
                        bail!("tensor `{name}`: expected values that f32 can hold, found {x:e}: {path}");
                    }
                    Ok(x as f32)
                };
                bytes.chunks_exact(size).map(narrow).collect::<Result<_>>()?
            }
            Floats::Codes(dtype) => {
                swap_if_big_endian(size, &mut bytes);
                if dtype == DType::F32 {
                    return Ok(bytes);
                }
                let mut wide = vec![0.0; f.numel()];
                slices::decode(dtype, &bytes, &mut wide);
                wide
            }
        };
        Ok(bytemuck::cast_slice(&wide).to_vec())
    }
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Checks the stored tensor `name` against what is wanted.
fn matched(parts: &Parts, name: &str, tensor: HfTensor, positions: Positions) -> Result<Found> {
    let path = parts.path().display();
    let (shown, wanted) = (printable(name), tensor.shape.as_slice());
    let Some(entry) = parts.entry(name) else { bail!("expected a tensor `{shown}` of shape {wanted:?}, found none: {path}") };
    let shape = entry.shape.as_slice();
    let crops = positions == Positions::Crop && tensor.name == hf::POSITIONS;
    let cropped = crops && matches!((shape, wanted), ([rows, a], [fewer, b]) if a == b && fewer < rows);
    if shape != wanted && !cropped {
        let turned = tensor.transposed && shape.iter().eq(wanted.iter().rev());
        let hint = if turned { ", as torch.nn.Linear has it; GPT-2 of transformers keeps [in, out]" } else { "" };
        bail!("tensor `{shown}`: expected shape {wanted:?}, found {shape:?}{hint}: {path}");
    }
    match Floats::of(entry.dtype) {
        // A scale is no weight.
        None | Some(Floats::Codes(DType::E8m0)) => {
            bail!("tensor `{shown}`: expected f32, f16, bf16, f64, e4m3 or e5m2, found {}: {path}", entry.dtype)
        }
        Some(values) => Ok(Found { name: name.to_string(), tensor, values }),
    }
}

/// Puts weights into a session; what there is to say about them. Nothing is written before all is checked.
pub fn load(session: &Session, parts: &Parts, positions: Positions) -> Result<Vec<String>> {
    let weights = Weights::find(parts, &session.config().model, stored(session), positions)?;
    weights.check()?;
    weights.put(session)?;
    Ok(weights.notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensors::write_new;
    use mantissa_core::float;

    fn small() -> GptConfig {
        GptConfig { vocab: 5, context: 4, width: 2, heads: 1, layers: 1, ..GptConfig::tiny() }
    }

    /// A file of a small model: tensor `i` holds `i, i + 1/2, i, ..`, in type `dtype`, changed by `edit`.
    fn file(dtype: Dtype, edit: impl Fn(&HfTensor, &mut String, &mut Vec<f64>)) -> (tempfile::TempDir, Parts) {
        let dir = tempfile::tempdir().unwrap();
        let source = |(i, tensor): (usize, HfTensor)| {
            let mut values: Vec<f64> = (0..tensor.shape.iter().product()).map(|k| i as f64 + 0.5 * (k % 2) as f64).collect();
            let mut name = tensor.name.clone();
            edit(&tensor, &mut name, &mut values);
            let one = move |x: &f64| match Floats::of(dtype).unwrap() {
                Floats::F64 => x.to_le_bytes().to_vec(),
                Floats::Codes(format) => {
                    let code = float::encode(format, format.overflow(), *x as f32);
                    code.to_le_bytes()[..format.size_bytes()].to_vec()
                }
            };
            let bytes: Vec<u8> = values.iter().flat_map(one).collect();
            Source { name, dtype, shape: tensor.shape, bytes: Box::new(move || Ok(bytes.clone())) }
        };
        let sources: Vec<Source<'_>> = hf::tensors(&small()).into_iter().enumerate().map(source).collect();
        let path = dir.path().join(MODEL);
        write_new(&path, &sources, None).unwrap();
        let parts = Parts::one(&path).unwrap();
        (dir, parts)
    }

    fn find<'a>(parts: &'a Parts, gpt: &GptConfig) -> Result<Weights<'a>> {
        Weights::find(parts, &ModelConfig::Gpt(gpt.clone()), hf::tensors(gpt), Positions::Crop)
    }

    fn refused(parts: &Parts, gpt: &GptConfig) -> String {
        format!("{:#}", find(parts, gpt).and_then(|w| w.check()).unwrap_err())
    }

    #[test]
    fn every_float_type_gives_the_values_it_holds() {
        let (_dir, plain) = file(Dtype::F32, |_, _, _| {});
        let weights = find(&plain, &small()).unwrap();
        weights.check().unwrap();
        assert!(weights.notes.is_empty());
        let up = weights.value("gpt.h0.mlp.up.weight").unwrap();
        assert_eq!(f32s(&up).take(3).collect::<Vec<_>>(), [10.0, 10.0, 10.5], "transposed");
        for (dtype, note) in [
            (Dtype::F64, "rounded from f64 to f32: 16 of 16"),
            (Dtype::F16, ""),
            (Dtype::BF16, ""),
            (Dtype::F8_E4M3, "in e4m3 are taken as they are, without a scale: 16 of 16"),
            (Dtype::F8_E5M2, "e5m2"),
        ] {
            // Few bits: whole numbers up to 4 are in every type.
            let few = |_: &HfTensor, _: &mut String, v: &mut Vec<f64>| v.iter_mut().for_each(|x| *x = (*x as u32 % 5).into());
            let ((_a, wide), (_b, narrow)) = (file(Dtype::F32, few), file(dtype, few));
            let (wide, narrow) = (find(&wide, &small()).unwrap(), find(&narrow, &small()).unwrap());
            narrow.check().unwrap();
            for own in ["gpt.wte.weight", "gpt.h0.attn.qkv.weight", "gpt.ln_f.bias"] {
                assert_eq!(narrow.value(own).unwrap(), wide.value(own).unwrap(), "{dtype} {own}");
            }
            assert!(narrow.notes.concat().contains(note), "{dtype}: {:?}", narrow.notes);
        }
    }

    #[test]
    fn f64_is_rounded_once_and_never_to_infinity() {
        // A tie of f32 that the last bit breaks.
        let x = 1.0 + 2f64.powi(-24) + 2f64.powi(-50);
        let put = |value: f64| {
            file(Dtype::F64, move |t, _, v| {
                if t.name.ends_with("ln_f.bias") {
                    v[1] = value;
                }
            })
        };
        let (_dir, parts) = put(x);
        let bias = find(&parts, &small()).unwrap().value("gpt.ln_f.bias").unwrap();
        assert_eq!(f32s(&bias).nth(1), Some(1.0 + f32::EPSILON));
        let (_dir, parts) = put(-1e300);
        assert!(refused(&parts, &small()).contains("`transformer.ln_f.bias`: expected values that f32 can hold, found -1e300"));
    }

    #[test]
    fn a_head_alone_is_the_embedding() {
        let (_dir, parts) = file(Dtype::F32, |t, name, _| {
            if t.name == hf::EMBEDDING {
                *name = "lm_head.weight".into();
            }
        });
        let alone = find(&parts, &small()).unwrap();
        alone.check().unwrap();
        assert_eq!(f32s(&alone.value("gpt.wte.weight").unwrap()).nth(1), Some(0.5));
        assert!(refused(&parts, &GptConfig { vocab: 6, ..small() }).contains("`lm_head.weight`: expected shape [6, 2]"));
    }

    #[test]
    fn fewer_places_take_the_first_rows_and_other_sizes_are_refused() {
        let (_dir, parts) = file(Dtype::F32, |_, _, _| {});
        let short = GptConfig { context: 3, ..small() };
        let weights = find(&parts, &short).unwrap();
        assert_eq!(f32s(&weights.value("gpt.wpe.weight").unwrap()).count(), 6);
        let exact = Weights::find(&parts, &ModelConfig::Gpt(short.clone()), hf::tensors(&short), Positions::Exact);
        assert!(format!("{:#}", exact.unwrap_err()).contains("expected shape [3, 2], found [4, 2]"));
        assert!(refused(&parts, &GptConfig { bias: false, ..small() }).contains("expected zeros"));
        assert!(refused(&parts, &GptConfig { layers: 2, ..small() }).contains("`transformer.h.1.ln_1.weight`"));
    }
}
