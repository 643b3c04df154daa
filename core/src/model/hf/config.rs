//! `config.json` of a GPT-2 of `transformers`.
//!
//! It is read key by key: files of others hold ids as lists, sizes as 768.0, `null` for what was not set, and keys that
//! nobody here knows. What does not concern the arithmetic is not looked at; what does is taken as it is meant or
//! refused by its key. Dropout is of training, not of weights, and is left at 0. Source:
//! `transformers/models/gpt2/configuration_gpt2.py`, its `attribute_map` included.

use crate::error::{Error, Result};
use crate::model::gpt::GptConfig;
use crate::nn::Activation;
use crate::show::printable;
use serde::Serialize;
use serde_json::{Map, Value};

/// `model_type`.
const MODEL_TYPE: &str = "gpt2";
/// Class in `architectures`.
const ARCHITECTURE: &str = "GPT2LMHeadModel";
/// The epsilon of every layer norm.
const NORM_EPS: f64 = 1e-5;
/// Largest size of any kind.
const MAX_SIZE: usize = 1 << 24;
/// Most characters of a value that a message shows.
const SHOWN_CHARS: usize = 60;
/// A byte-order mark, which some editors put in front of UTF-8.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Names that a size goes by: the one of GPT-2, then those of other models that `transformers` takes too.
const VOCAB: [&str; 1] = ["vocab_size"];
const CONTEXT: [&str; 3] = ["n_positions", "max_position_embeddings", "n_ctx"];
const WIDTH: [&str; 2] = ["n_embd", "hidden_size"];
const LAYERS: [&str; 2] = ["n_layer", "num_hidden_layers"];
const HEADS: [&str; 2] = ["n_head", "num_attention_heads"];

/// Switches of the arithmetic, and where they must stand. `reorder_and_upcast_attn` is none of them: it multiplies
/// queries and keys in f32, as every recipe here does.
const SWITCHES: [(&str, bool); 4] = [
    ("scale_attn_weights", true),
    ("scale_attn_by_inverse_layer_idx", false),
    ("add_cross_attention", false),
    ("tie_word_embeddings", true),
];

/// Activations by the names that `transformers` has for them; the first of each is the one written.
const ACTIVATIONS: [(&str, Activation); 8] = [
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

/// What is written: all that `GPT2LMHeadModel` needs to compute the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HfConfig {
    /// Family.
    pub model_type: &'static str,
    /// Classes that load it.
    pub architectures: [&'static str; 1],
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
    /// Hidden width of the MLP.
    pub n_inner: usize,
    /// Activation of the MLP.
    pub activation_function: &'static str,
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
    /// Token that begins a text. Written although there is none: left out it would be token 50256.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text; as the one that begins it.
    pub eos_token_id: Option<u32>,
}

impl HfConfig {
    /// What `transformers` needs to load a model of ours.
    pub fn from_gpt(c: &GptConfig) -> HfConfig {
        // The shortest decimal of the f32, not its expansion.
        let dropout: f64 = c.dropout.to_string().parse().unwrap_or_else(|_| f64::from(c.dropout));
        HfConfig {
            model_type: MODEL_TYPE,
            architectures: [ARCHITECTURE],
            vocab_size: c.vocab,
            n_positions: c.context,
            n_embd: c.width,
            n_layer: c.layers,
            n_head: c.heads,
            n_inner: c.mlp_ratio * c.width,
            activation_function: activation_name(c.activation),
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: dropout,
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

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::GeluTanh => "gelu_new",
        Activation::Gelu => "gelu",
        Activation::Relu => "relu",
        Activation::Silu => "silu",
    }
}

/// The model that a `config.json` describes. Absent entries have the defaults of `GPT2Config`. An error names the key.
pub fn read(text: &[u8]) -> Result<GptConfig> {
    let value: Value = serde_json::from_slice(text.strip_prefix(BOM).unwrap_or(text))
        .map_err(|e| Error::config("config.json", "JSON", format!("text that is none: {e}")))?;
    let Value::Object(map) = value else { return Err(Error::config("config.json", "an object", shown(&value))) };
    Entries(map).gpt()
}

/// The entries of a config.
struct Entries(Map<String, Value>);

impl Entries {
    fn gpt(&self) -> Result<GptConfig> {
        self.family()?;
        for (key, must) in SWITCHES {
            self.switch(key, must)?;
        }
        // Codes of a quantized model are no values.
        if let Some(value) = self.set("quantization_config") {
            return Err(Error::config("quantization_config", "none", shown(value)));
        }
        self.norm_eps()?;
        let width = self.size(&WIDTH, 768)?;
        let inner = match self.set("n_inner") {
            Some(value) => size("n_inner", value)?,
            None => 4 * width,
        };
        if !inner.is_multiple_of(width) && !WIDTH.iter().any(|key| self.0.contains_key(*key)) {
            let expected =
                format!("the width of the model, since {width}, which is meant without it, does not divide n_inner, {inner}");
            return Err(Error::config(WIDTH[0], expected, "none"));
        }
        if !inner.is_multiple_of(width) {
            return Err(Error::config("n_inner", format!("a multiple of the width, {width}"), inner.to_string()));
        }
        let gpt = GptConfig {
            vocab: self.size(&VOCAB, 50257)?,
            context: self.size(&CONTEXT, 1024)?,
            width,
            heads: self.size(&HEADS, 12)?,
            layers: self.size(&LAYERS, 12)?,
            mlp_ratio: inner / width,
            bias: true,
            dropout: 0.0,
            activation: self.activation()?,
        };
        gpt.validate()?;
        Ok(gpt)
    }

    /// An entry that says something: `null` is as good as absent.
    fn set(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    /// Refuses other models. Those that do not say what they are must have the keys of a GPT-2, or its defaults would
    /// stand for anything.
    fn family(&self) -> Result<()> {
        match self.set("model_type") {
            Some(Value::String(name)) if name == MODEL_TYPE => Ok(()),
            Some(other) => Err(Error::config("model_type", MODEL_TYPE, shown(other))),
            None if WIDTH.iter().any(|key| self.0.contains_key(*key)) => Ok(()),
            None => Err(Error::config("model_type", MODEL_TYPE, "none, and no n_embd either")),
        }
    }

    fn switch(&self, key: &str, must: bool) -> Result<()> {
        match self.set(key) {
            None => Ok(()),
            Some(Value::Bool(found)) if *found == must => Ok(()),
            // As Python has it.
            Some(Value::Number(n)) if n.as_f64() == Some(f64::from(u8::from(must))) => Ok(()),
            Some(other) => Err(Error::config(key, must.to_string(), shown(other))),
        }
    }

    fn norm_eps(&self) -> Result<()> {
        match self.set("layer_norm_epsilon") {
            None => Ok(()),
            // As f32, in which it is used.
            Some(Value::Number(n)) if n.as_f64().is_some_and(|eps| eps as f32 == NORM_EPS as f32) => Ok(()),
            Some(other) => Err(Error::config("layer_norm_epsilon", "1e-5", shown(other))),
        }
    }

    fn activation(&self) -> Result<Activation> {
        const KEY: &str = "activation_function";
        let Some(value) = self.0.get(KEY) else { return Ok(Activation::GeluTanh) };
        match ACTIVATIONS.iter().find(|(name, _)| value.as_str() == Some(name)) {
            Some((_, activation)) => Ok(*activation),
            None => Err(Error::config(KEY, "gelu_new, gelu, relu or silu", shown(value))),
        }
    }

    /// A size under the first of its names that is there. Under several it must be the same.
    fn size(&self, keys: &[&str], default: usize) -> Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for key in keys.iter().copied() {
            let Some(value) = self.0.get(key) else { continue };
            let own = size(key, value)?;
            match found {
                None => found = Some((key, own)),
                Some((_, same)) if same == own => {}
                Some((first, other)) => return Err(Error::config(key, format!("{other}, as in {first}"), own.to_string())),
            }
        }
        Ok(found.map_or(default, |(_, n)| n))
    }
}

/// A whole number in range, also written as a float.
fn size(key: &str, value: &Value) -> Result<usize> {
    let whole = |x: &f64| x.fract() == 0.0 && (1.0..=MAX_SIZE as f64).contains(x);
    match value.as_f64().filter(whole) {
        Some(x) => Ok(x as usize),
        None => Err(Error::config(key, format!("a whole number from 1 to {MAX_SIZE}"), shown(value))),
    }
}

/// A value of a file in a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(SHOWN_CHARS).collect();
    let end = if short.len() < text.len() { ".." } else { "" };
    format!("{}{end}", printable(&short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> GptConfig {
        GptConfig { vocab: 64, context: 16, width: 32, heads: 2, layers: 2, ..GptConfig::tiny() }
    }

    /// The config of a small model with some entries replaced (or removed, for "-").
    fn with(changes: &[(&str, &str)]) -> Result<GptConfig> {
        let Value::Object(mut map) = serde_json::to_value(HfConfig::from_gpt(&small())).unwrap() else { panic!("an object") };
        for (key, value) in changes {
            map.remove(*key);
            if *value != "-" {
                map.insert(key.to_string(), serde_json::from_str(value).unwrap());
            }
        }
        read(Value::Object(map).to_string().as_bytes())
    }

    #[test]
    fn configs_go_there_and_back() {
        let gpt = GptConfig { dropout: 0.1, activation: Activation::Gelu, mlp_ratio: 3, ..small() };
        let hf = HfConfig::from_gpt(&gpt);
        assert_eq!((hf.n_inner, hf.attn_pdrop), (96, 0.1));
        let text = serde_json::to_vec(&hf).unwrap();
        assert_eq!(read(&text).unwrap(), GptConfig { dropout: 0.0, ..gpt });
        assert_eq!(read(&[BOM, &text].concat()).unwrap().mlp_ratio, 3);
        for activation in [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu] {
            let name = format!("\"{}\"", activation_name(activation));
            assert_eq!(with(&[("activation_function", &name)]).unwrap().activation, activation);
        }
    }

    #[test]
    fn what_does_not_concern_the_arithmetic_never_stops_a_load() {
        for change in [
            ("eos_token_id", "[0, 10]"),
            ("eos_token_id", "-1"),
            ("bos_token_id", "[1]"),
            ("bos_token_id", "\"<s>\""),
            ("pad_token_id", "-1"),
            ("architectures", "\"GPT2LMHeadModel\""),
            ("architectures", "{}"),
            ("resid_pdrop", "null"),
            ("attn_pdrop", "0.5"),
            ("embd_pdrop", "\"none\""),
            ("tie_word_embeddings", "null"),
            ("n_inner", "null"),
            ("reorder_and_upcast_attn", "true"),
            ("summary_type", "7"),
            ("torch_dtype", "{\"a\": [1]}"),
            ("n_embd", "32.0"),
            ("vocab_size", "6.4e1"),
            ("n_ctx", "16"),
            ("hidden_size", "32"),
            ("model_type", "-"),
            ("scale_attn_weights", "1"),
            ("layer_norm_epsilon", "0.00001"),
        ] {
            let found = with(&[change]).unwrap_or_else(|e| panic!("{change:?}: {e}"));
            assert_eq!(found, GptConfig { mlp_ratio: 4, ..small() }, "{change:?}");
        }
        assert_eq!(with(&[("n_embd", "-"), ("hidden_size", "64"), ("n_inner", "-")]).unwrap().width, 64);
        assert_eq!(read(br#"{"model_type": "gpt2"}"#).unwrap().width, 768);
        let message = with(&[("n_embd", "-"), ("n_inner", "64")]).unwrap_err().to_string();
        assert!(message.starts_with("n_embd: expected the width of the model") && message.contains("n_inner, 64"), "{message}");
    }

    #[test]
    fn what_computes_something_else_is_refused_by_its_key() {
        for (key, value, expected) in [
            ("activation_function", "\"quick_gelu\"", "gelu_new, gelu"),
            ("activation_function", "null", "gelu_new, gelu"),
            ("model_type", "\"llama\"", "gpt2"),
            ("n_inner", "33", "a multiple of the width, 32"),
            ("n_embd", "0", "1 to 16777216"),
            ("n_embd", "32.5", "a whole number"),
            ("n_embd", "1e300", "a whole number"),
            ("n_layer", "null", "a whole number"),
            ("n_head", "\"2\"", "a whole number"),
            ("vocab_size", "[64]", "a whole number"),
            ("n_positions", "-16", "a whole number"),
            ("layer_norm_epsilon", "1e-6", "1e-5"),
            ("layer_norm_epsilon", "\"1e-5\"", "1e-5"),
            ("tie_word_embeddings", "false", "true"),
            ("scale_attn_weights", "false", "true"),
            ("scale_attn_by_inverse_layer_idx", "true", "false"),
            ("add_cross_attention", "\"no\"", "false"),
            ("quantization_config", "{\"bits\": 4}", "none"),
            ("hidden_size", "48", "32, as in n_embd"),
        ] {
            let error = with(&[(key, value)]).unwrap_err().to_string();
            assert!(error.starts_with(key) && error.contains(expected), "{key} = {value}: {error}");
        }
        assert!(with(&[("n_head", "3")]).unwrap_err().to_string().contains("heads"));
        assert!(read(b"{\"kind\": \"mlp\"}").unwrap_err().to_string().starts_with("model_type"));
        assert!(read(b"[]").unwrap_err().to_string().contains("expected an object"));
        assert!(read(b"{").unwrap_err().to_string().contains("expected JSON"));
        let hostile = with(&[("model_type", "\"a\\u001b\\u009b\\u202e\"")]).unwrap_err().to_string();
        assert!(!hostile.chars().any(|c| c.is_control() || c == '\u{202e}'), "{hostile:?}");
        let long = with(&[("model_type", &format!("\"{}\"", "x".repeat(1000)))]).unwrap_err().to_string();
        assert!(long.len() < 120, "{long}");
    }
}
