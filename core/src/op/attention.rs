//! `Attention`: softmax(q k^T * scale) v per head, never materialising the scores. CPU kernel: `cpu/attention.rs`.
//!
//! Input `qkv` [B, T, (H + 2 KV) HS] packed: query heads, then key heads, then value heads; query head `h` reads
//! key/value head `h / (H / KV)`. With dropout, input 1 is the random state u32`[2]`. Outputs `y` [B, T, H HS] and
//! `stats` f32 [B, H, T, 2]: the largest score of a query and the inverse of the sum of exponentials over it. Backward:
//! inputs `qkv, y, stats, dy` (, random state), output `dqkv`. Source: FlashAttention-2.

use super::{Real, arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

/// Dropout on the attention probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionDropout {
    /// Probability of dropping.
    pub p: Real,
    /// Place in the model, for the random words.
    pub stream: u32,
}

/// Attributes of `Attention`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Position i sees positions 0..=i only.
    pub causal: bool,
    /// Factor on the scores, usually `1 / sqrt(HS)`.
    pub scale: Real,
    /// Dropout on the probabilities.
    pub dropout: Option<AttentionDropout>,
}

impl Attention {
    /// Head size for a packed projection of this width.
    pub fn head_size(&self, width: usize) -> usize {
        width / (self.heads + 2 * self.kv_heads)
    }

    fn check(&self, name: &'static str, qkv: &Ty) -> Result<[usize; 3]> {
        expect_float(name, qkv)?;
        expect(qkv.shape.len() == 3, name, "qkv of shape [B, T, (H + 2 KV) HS]", qkv)?;
        let groups = self.heads + 2 * self.kv_heads;
        let heads_ok = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        expect(heads_ok, name, "kv_heads that divides heads", &format!("{} and {}", self.kv_heads, self.heads))?;
        expect(
            qkv.shape[2].is_multiple_of(groups),
            name,
            format!(
                "a width divisible by {groups}, its {} query, {} key and {} value heads",
                self.heads, self.kv_heads, self.kv_heads
            ),
            qkv,
        )?;
        Ok([qkv.shape[0], qkv.shape[1], qkv.shape[2] / groups])
    }

    fn rng(&self, name: &'static str, inputs: &[Ty], at: usize) -> Result<()> {
        arity(name, inputs, at + usize::from(self.dropout.is_some()))?;
        if self.dropout.is_some() {
            expect(inputs[at] == Ty::new(DType::U32, [2]), name, "random state u32[2]", &inputs[at])?;
        }
        Ok(())
    }

    fn stats(&self, b: usize, t: usize) -> Ty {
        Ty::new(DType::F32, [b, self.heads, t, 2])
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        self.rng("attention", inputs, 1)?;
        let [b, t, hs] = self.check("attention", &inputs[0])?;
        Ok(vec![Ty::new(inputs[0].dtype, [b, t, self.heads * hs]), self.stats(b, t)])
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        let name = "attention_backward";
        self.rng(name, inputs, 4)?;
        let [b, t, hs] = self.check(name, &inputs[0])?;
        let y = [b, t, self.heads * hs];
        expect(*inputs[1].shape == y, name, format!("y of shape {y:?}"), &inputs[1])?;
        expect(inputs[2] == self.stats(b, t), name, "stats f32 [B, H, T, 2]", &inputs[2])?;
        expect(*inputs[3].shape == y, name, format!("dy of shape {y:?}"), &inputs[3])?;
        Ok(vec![inputs[0].clone()])
    }

    /// Score/value matmuls: `2 * 2 * T * T * HS` a head, half of it where causal.
    pub(super) fn flops(&self, inputs: &[Ty]) -> u64 {
        let s = &inputs[0].shape;
        let full = 4 * s[0] * self.heads * s[1] * s[1] * self.head_size(s[2]);
        if self.causal { full as u64 / 2 } else { full as u64 }
    }

    /// Five matmuls instead of two.
    pub(super) fn flops_backward(&self, inputs: &[Ty]) -> u64 {
        self.flops(inputs) * 5 / 2
    }
}
