//! GPT-2 as Hugging Face `transformers` keeps it: the tensors of `GPT2LMHeadModel`, its [`config`], and the [`names`]
//! that tools make of its own.
//!
//! Its linear weights are `Conv1D`, [in, out]: ours transposed. The head shares `transformer.wte.weight` and is not
//! stored. Files are the business of hosts; this module only says what they hold. Source:
//! `transformers/models/gpt2/modeling_gpt2.py`.

pub mod config;
pub mod names;

use super::gpt::GptConfig;

/// Prefix of every tensor of the transformer proper; a folder saved from `GPT2Model` lacks it.
pub const PREFIX: &str = "transformer.";
/// The head, when it is stored although it is tied to the token embedding.
pub const HEAD: &str = "lm_head.weight";
/// The token embedding.
pub const EMBEDDING: &str = "transformer.wte.weight";
/// The position table, a row for each place of the context.
pub const POSITIONS: &str = "transformer.wpe.weight";
/// A tensor of a checkpoint and the parameter it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HfTensor {
    /// Name in the checkpoint, with prefix.
    pub name: String,
    /// Name of the parameter; `None` for a bias that a model without biases keeps as zeros.
    pub own: Option<String>,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// The parameter is the transpose.
    pub transposed: bool,
}

/// Every tensor of a model, in a fixed order.
pub fn tensors(config: &GptConfig) -> Vec<HfTensor> {
    let (c, hidden) = (config.width, config.mlp_ratio * config.width);
    let mut list = Vec::new();
    let mut add = |name: String, own: String, shape: Vec<usize>, transposed: bool, present: bool| {
        list.push(HfTensor { name: format!("{PREFIX}{name}"), own: present.then_some(own), shape, transposed });
    };
    add("wte.weight".into(), "gpt.wte.weight".into(), vec![config.vocab, c], false, true);
    add("wpe.weight".into(), "gpt.wpe.weight".into(), vec![config.context, c], false, true);
    for i in 0..config.layers {
        let parts: [(&str, &str, Option<[usize; 2]>); 6] = [
            ("ln_1", "ln_1", None),
            ("attn.c_attn", "attn.qkv", Some([c, 3 * c])),
            ("attn.c_proj", "attn.proj", Some([c, c])),
            ("ln_2", "ln_2", None),
            ("mlp.c_fc", "mlp.up", Some([c, hidden])),
            ("mlp.c_proj", "mlp.down", Some([hidden, c])),
        ];
        for (theirs, ours, linear) in parts {
            let (weight, bias) = linear.map_or((vec![c], c), |s| (s.to_vec(), s[1]));
            let (theirs, ours) = (format!("h.{i}.{theirs}"), format!("gpt.h{i}.{ours}"));
            add(format!("{theirs}.weight"), format!("{ours}.weight"), weight, linear.is_some(), true);
            add(format!("{theirs}.bias"), format!("{ours}.bias"), vec![bias], false, config.bias);
        }
    }
    add("ln_f.weight".into(), "gpt.ln_f.weight".into(), vec![c], false, true);
    add("ln_f.bias".into(), "gpt.ln_f.bias".into(), vec![c], false, config.bias);
    list
}

/// The transpose of a matrix [rows, cols] of 4-byte elements.
pub fn transpose(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    const TILE: usize = 32;
    const WORD: usize = 4;
    let mut out = vec![0; bytes.len()];
    for row0 in (0..rows).step_by(TILE) {
        for col0 in (0..cols).step_by(TILE) {
            for row in row0..(row0 + TILE).min(rows) {
                for col in col0..(col0 + TILE).min(cols) {
                    let (from, to) = ((row * cols + col) * WORD, (col * rows + row) * WORD);
                    out[to..to + WORD].copy_from_slice(&bytes[from..from + WORD]);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelConfig;
    use crate::optim::OptimConfig;
    use crate::optim::schedule::{Decay, Schedule};
    use crate::precision::recipe::RecipeName;
    use crate::precision::{OnNonFinite, Recipe};
    use crate::program::Kind;
    use crate::train::{TrainConfig, record};
    use std::collections::BTreeMap;

    fn small(bias: bool) -> GptConfig {
        GptConfig { vocab: 64, context: 16, width: 32, heads: 2, layers: 2, bias, ..GptConfig::tiny() }
    }

    #[test]
    fn every_parameter_has_its_tensor_and_its_shape() {
        for bias in [true, false] {
            let gpt = small(bias);
            let config = TrainConfig {
                model: ModelConfig::Gpt(gpt.clone()),
                recipe: Recipe::new(RecipeName::F32),
                optim: OptimConfig::adamw(),
                schedule: Schedule { lr: 0.1, min_lr: 0.1, warmup: 0, steps: 1, decay: Decay::Constant },
                clip: None,
                error_if_nonfinite: false,
                on_nonfinite: OnNonFinite::Skip,
                batch: 1,
                grad_accum: 1,
                seed: 1,
            };
            let program = record::train_step(&config).unwrap();
            let params: BTreeMap<String, Vec<usize>> = program
                .values_where(|v| matches!(v.kind, Kind::Param(_)))
                .map(|(_, v)| (v.name.clone(), v.ty.shape.to_vec()))
                .collect();
            let mapped: BTreeMap<String, Vec<usize>> = tensors(&gpt)
                .into_iter()
                .filter_map(|t| {
                    let shape = if t.transposed { vec![t.shape[1], t.shape[0]] } else { t.shape };
                    t.own.map(|own| (own, shape))
                })
                .collect();
            assert_eq!(mapped, params);
        }
    }

    #[test]
    fn every_tensor_has_a_name_that_is_recognised() {
        let tensors = tensors(&small(true));
        let found = names::recognise(tensors.iter().map(|t| t.name.as_str())).unwrap();
        assert!(tensors.iter().all(|t| found.tensors[&t.name] == t.name) && found.tensors.len() == tensors.len());
    }

    #[test]
    fn a_transpose_moves_every_element_and_is_undone_by_another() {
        let (rows, cols) = (37, 65);
        let x: Vec<u32> = (0..rows * cols).map(|i| i as u32).collect();
        let t = transpose(bytemuck::cast_slice(&x), rows, cols);
        let words: Vec<u32> = t.chunks_exact(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert!((0..rows).all(|r| (0..cols).all(|c| words[c * rows + r] == x[r * cols + c])));
        assert_eq!(transpose(&t, cols, rows), bytemuck::cast_slice::<u32, u8>(&x));
    }
}
