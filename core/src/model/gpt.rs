//! GPT-2: learned positions, pre-norm blocks, tied output head. Source: Radford et al. 2019; nanoGPT.

use crate::error::{Error, Result};
use crate::nn::{Activation, CausalAttention, Embedding, LayerNorm, Mlp};
use crate::optim::residual_init;
use crate::trace::Var;
use serde::{Deserialize, Serialize};

/// Sizes of a GPT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GptConfig {
    /// Token values.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Hidden width of the MLP over `width`.
    pub mlp_ratio: usize,
    /// Linear layers and norms have biases.
    pub bias: bool,
    /// Dropout on embeddings, attention and residual branches.
    pub dropout: f32,
    /// Between the two layers of the MLP.
    #[serde(default)]
    pub activation: Activation,
}

impl GptConfig {
    /// 0.8 M parameters over bytes.
    pub fn tiny() -> GptConfig {
        GptConfig {
            vocab: 256,
            context: 128,
            width: 128,
            heads: 4,
            layers: 4,
            mlp_ratio: 4,
            bias: true,
            dropout: 0.0,
            activation: Activation::GeluTanh,
        }
    }

    /// 14 M parameters.
    pub fn mini() -> GptConfig {
        GptConfig { vocab: 8192, context: 256, width: 384, heads: 6, layers: 6, ..GptConfig::tiny() }
    }

    /// The smallest GPT-2 (50257 tokens padded to a multiple of 128).
    pub fn gpt2_124m() -> GptConfig {
        GptConfig { vocab: 50304, context: 1024, width: 768, heads: 12, layers: 12, ..GptConfig::tiny() }
    }

    /// Checks the sizes. Fails at the first that is out of range, naming it as `model.<name>`.
    pub fn validate(&self) -> Result<()> {
        for (name, n) in [
            ("vocab", self.vocab),
            ("context", self.context),
            ("width", self.width),
            ("heads", self.heads),
            ("layers", self.layers),
            ("mlp_ratio", self.mlp_ratio),
        ] {
            if n == 0 || n > 1 << 24 {
                return Err(Error::config(format!("model.{name}"), "1 to 16777216", n.to_string()));
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(Error::config("model.heads", format!("a divisor of width {}", self.width), self.heads.to_string()));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::number("model.dropout", "a probability in [0, 1)", self.dropout));
        }
        Ok(())
    }

    /// Records logits [B, T, V] for tokens u32 [B, T].
    pub fn forward<'g>(&self, tokens: Var<'g>) -> Var<'g> {
        let g = tokens.graph();
        let _root = g.scope("gpt");
        let t = tokens.shape().last();
        let wte = Embedding { name: "wte", count: self.vocab, width: self.width };
        let wpe = Embedding { name: "wpe", count: self.context, width: self.width };
        let table = wte.weight(g);
        let mut x = (wte.forward(tokens) + wpe.weight(g).slice(0, 0, t)).dropout(self.dropout);
        for i in 0..self.layers {
            let _block = g.scope(&format!("h{i}"));
            x = x + self.attention(LayerNorm { bias: self.bias, ..LayerNorm::new("ln_1") }.forward(x));
            x = x + self.mlp(LayerNorm { bias: self.bias, ..LayerNorm::new("ln_2") }.forward(x));
        }
        let x = LayerNorm { bias: self.bias, ..LayerNorm::new("ln_f") }.forward(x);
        // The head shares its weight with the token embedding. It stays out of fp8: its errors reach the loss
        // unaveraged.
        let _head = g.scope("head");
        g.without_fp8(|| x.linear(table, None))
    }

    fn attention<'g>(&self, x: Var<'g>) -> Var<'g> {
        let _scope = x.graph().scope("attn");
        let attention = CausalAttention {
            width: self.width,
            heads: self.heads,
            kv_heads: self.heads,
            bias: self.bias,
            dropout: self.dropout,
            init_proj: residual_init(crate::nn::GPT2_STD, 2 * self.layers),
        };
        attention.forward(x).dropout(self.dropout)
    }

    fn mlp<'g>(&self, x: Var<'g>) -> Var<'g> {
        let _scope = x.graph().scope("mlp");
        let mlp = Mlp {
            width: self.width,
            hidden: self.mlp_ratio * self.width,
            activation: self.activation,
            bias: self.bias,
            init_down: residual_init(crate::nn::GPT2_STD, 2 * self.layers),
        };
        mlp.forward(x).dropout(self.dropout)
    }
}
