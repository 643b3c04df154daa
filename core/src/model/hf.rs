//! GPT-2 as Hugging Face `transformers` keeps it: names, layouts and `config.json` of `GPT2LMHeadModel`.
//!
//! Its linear weights are `Conv1D`, [in, out]: ours transposed. The head shares `transformer.wte.weight` and is not stored. Files are the
//! business of hosts; this module only says what they hold. Source: `transformers/models/gpt2/{modeling,configuration}_gpt2.py`.

use super::gpt::GptConfig;
use crate::error::{Error, Result};
use crate::nn::Activation;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Prefix of every tensor of the transformer proper; a folder saved from `GPT2Model` lacks it.
pub const PREFIX: &str = "transformer.";
/// The head, when it is stored although it is tied to the token embedding.
pub const HEAD: &str = "lm_head.weight";
/// The token embedding.
pub const EMBEDDING: &str = "transformer.wte.weight";
/// The position table, a row for each place of the context.
pub const POSITIONS: &str = "transformer.wpe.weight";
/// `model_type` in `config.json`.
const MODEL_TYPE: &str = "gpt2";
/// Class in `architectures`.
const ARCHITECTURE: &str = "GPT2LMHeadModel";
/// The epsilon of every layer norm.
const NORM_EPS: f64 = 1e-5;

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

/// The full name of a stored tensor; `None` for the causal masks that older checkpoints keep as buffers.
pub fn canonical(name: &str) -> Option<Cow<'_, str>> {
    if name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") {
        None
    } else if name.starts_with(PREFIX) || name == HEAD {
        Some(Cow::Borrowed(name))
    } else {
        Some(Cow::Owned(format!("{PREFIX}{name}")))
    }
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

/// `config.json`. Absent entries have the defaults of `GPT2Config`; entries that do not concern the arithmetic are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HfConfig {
    /// Family.
    pub model_type: String,
    /// Classes that load it.
    pub architectures: Option<Vec<String>>,
    /// Token values.
    pub vocab_size: usize,
    /// Longest sequence.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Heads.
    pub n_head: usize,
    /// Hidden width of the MLP; four times the width if absent.
    pub n_inner: Option<usize>,
    /// Activation of the MLP.
    pub activation_function: String,
    /// Dropout on residual branches.
    pub resid_pdrop: f64,
    /// Dropout on embeddings.
    pub embd_pdrop: f64,
    /// Dropout on attention probabilities.
    pub attn_pdrop: f64,
    /// Epsilon of layer norms.
    pub layer_norm_epsilon: f64,
    /// The head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Scores are divided by the root of the head size.
    pub scale_attn_weights: bool,
    /// Scores are divided by the number of the layer too.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Blocks attend to an encoder.
    pub add_cross_attention: bool,
    /// Token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text.
    pub eos_token_id: Option<u32>,
}

impl Default for HfConfig {
    fn default() -> HfConfig {
        HfConfig {
            model_type: MODEL_TYPE.into(),
            architectures: None,
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: NORM_EPS,
            tie_word_embeddings: true,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            bos_token_id: None,
            eos_token_id: None,
        }
    }
}

impl HfConfig {
    /// What `transformers` needs to load a model of ours.
    pub fn from_gpt(c: &GptConfig) -> HfConfig {
        // The shortest decimal of the f32, not its expansion.
        let dropout: f64 = c.dropout.to_string().parse().unwrap_or_else(|_| f64::from(c.dropout));
        HfConfig {
            architectures: Some(vec![ARCHITECTURE.into()]),
            vocab_size: c.vocab,
            n_positions: c.context,
            n_embd: c.width,
            n_layer: c.layers,
            n_head: c.heads,
            n_inner: Some(c.mlp_ratio * c.width),
            activation_function: activation_name(c.activation).into(),
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: dropout,
            ..HfConfig::default()
        }
    }

    /// The same model of ours. Whatever would compute something else is refused by name.
    pub fn to_gpt(&self) -> Result<GptConfig> {
        let need = |ok: bool, name: &str, expected: &str, got: String| {
            if ok { Ok(()) } else { Err(Error::config(name, expected, got)) }
        };
        need(self.model_type == MODEL_TYPE, "model_type", "gpt2", format!("`{}`", self.model_type))?;
        need(self.scale_attn_weights, "scale_attn_weights", "true", "false".into())?;
        need(!self.scale_attn_by_inverse_layer_idx, "scale_attn_by_inverse_layer_idx", "false", "true".into())?;
        need(!self.add_cross_attention, "add_cross_attention", "false", "true".into())?;
        need(self.tie_word_embeddings, "tie_word_embeddings", "true", "false".into())?;
        let eps = self.layer_norm_epsilon;
        need(eps as f32 == NORM_EPS as f32, "layer_norm_epsilon", "1e-5", eps.to_string())?;
        let drops = [self.resid_pdrop, self.embd_pdrop, self.attn_pdrop];
        let alike = drops.iter().all(|p| *p == drops[0]);
        need(alike, "resid_pdrop, embd_pdrop, attn_pdrop", "one probability", format!("{drops:?}"))?;
        let activation = match self.activation_function.as_str() {
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            "silu" => Activation::Silu,
            other => {
                return Err(Error::config("activation_function", "gelu_new, gelu, relu or silu", format!("`{other}`")));
            }
        };
        // Sizes first: the divisions below must not meet a zero.
        let sized = |name: &str, n: usize| need((1..=1 << 24).contains(&n), name, "1 to 16777216", n.to_string());
        sized("n_embd", self.n_embd)?;
        let inner = self.n_inner.unwrap_or(4 * self.n_embd);
        sized("n_inner", inner)?;
        need(inner.is_multiple_of(self.n_embd), "n_inner", "a multiple of n_embd", inner.to_string())?;
        let gpt = GptConfig {
            vocab: self.vocab_size,
            context: self.n_positions,
            width: self.n_embd,
            heads: self.n_head,
            layers: self.n_layer,
            mlp_ratio: inner / self.n_embd,
            bias: true,
            dropout: drops[0] as f32,
            activation,
        };
        gpt.validate()?;
        Ok(gpt)
    }

    /// The same model without dropout, as in evaluation.
    pub fn without_dropout(self) -> HfConfig {
        HfConfig { resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0, ..self }
    }
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
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
    fn configs_go_there_and_back() {
        let gpt = GptConfig { dropout: 0.1, activation: Activation::Gelu, mlp_ratio: 3, ..small(true) };
        let hf = HfConfig::from_gpt(&gpt);
        assert_eq!((hf.n_inner, hf.attn_pdrop), (Some(96), 0.1));
        assert_eq!(hf.to_gpt().unwrap(), gpt);
        assert_eq!(hf.without_dropout().to_gpt().unwrap().dropout, 0.0);
    }

    #[test]
    fn what_computes_something_else_is_refused_by_name() {
        let hf = HfConfig::from_gpt(&small(true));
        let refused = |change: fn(&mut HfConfig)| {
            let mut c = hf.clone();
            change(&mut c);
            c.to_gpt().unwrap_err().to_string()
        };
        assert!(refused(|c| c.activation_function = "quick_gelu".into()).contains("expected gelu_new, gelu"));
        assert!(refused(|c| c.model_type = "llama".into()).starts_with("model_type"));
        assert!(refused(|c| c.n_inner = Some(33)).starts_with("n_inner"));
        assert!(refused(|c| c.n_embd = 0).starts_with("n_embd"));
        assert!(refused(|c| c.layer_norm_epsilon = 1e-6).starts_with("layer_norm_epsilon"));
        assert!(refused(|c| c.tie_word_embeddings = false).starts_with("tie_word_embeddings"));
        assert!(refused(|c| c.n_head = 3).contains("heads"));
        assert!(refused(|c| c.attn_pdrop = 0.5).contains("one probability"));
    }

    #[test]
    fn names_are_completed_and_masks_left_out() {
        assert_eq!(canonical("h.0.ln_1.weight").unwrap(), "transformer.h.0.ln_1.weight");
        assert_eq!(canonical("transformer.wte.weight").unwrap(), EMBEDDING);
        assert_eq!(canonical(HEAD).unwrap(), HEAD);
        assert!(canonical("h.3.attn.bias").is_none() && canonical("transformer.h.3.attn.masked_bias").is_none());
        assert!(canonical("h.3.attn.c_attn.bias").is_some());
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
