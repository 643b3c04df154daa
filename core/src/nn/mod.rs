//! Layers: small structs of sizes whose `forward` declares parameters in a scope of their own and records the
//! computation.
//!
//! Weights are stored as in PyTorch: `Linear.weight` [out, in], `Embedding.weight` [V, C]. Parameters are f32; what a
//! layer computes in is decided by the autocast region it is called in. `forward` never fails: a wrong shape comes out
//! of [`Graph::finish`], with the line of the call.
//!
//! ```
#![doc = include_str!("../../docs/layers.rs")]
//! ```

use crate::program::Init;
use crate::trace::{Graph, Var};

/// Standard deviation of GPT-2's weights.
pub const GPT2_STD: f32 = 0.02;

/// `x W^T + b`.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// Scope.
    pub name: &'static str,
    /// Length of the last axis of the input.
    pub in_features: usize,
    /// Length of the last axis of the output.
    pub out_features: usize,
    /// Has a bias, zero at first.
    pub bias: bool,
    /// First contents of the weight.
    pub init: Init,
}

impl Linear {
    /// A layer with bias, weights normal with GPT-2's deviation.
    pub fn new(name: &'static str, in_features: usize, out_features: usize) -> Linear {
        Linear { name, in_features, out_features, bias: true, init: Init::Normal { std: GPT2_STD } }
    }

    /// With this first weight.
    pub fn init(self, init: Init) -> Linear {
        Linear { init, ..self }
    }

    /// With or without bias.
    pub fn bias(self, bias: bool) -> Linear {
        Linear { bias, ..self }
    }

    /// PyTorch's default: uniform with bound `1 / sqrt(in)`, the bias too.
    pub fn init_uniform(self) -> Linear {
        self.init(Init::Uniform { bound: 1.0 / (self.in_features as f32).sqrt() })
    }

    /// [.., in] to [.., out], as [`Var::linear`]: in the low dtype or fp8 under autocast, else in the dtype of `x`;
    /// sums f32.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let g = x.graph();
        let _scope = g.scope(self.name);
        let weight = g.param("weight", [self.out_features, self.in_features], self.init);
        let bias_init = match self.init {
            Init::Uniform { .. } => self.init,
            Init::Fill(_) | Init::Normal { .. } => Init::Fill(0.0),
        };
        let bias = self.bias.then(|| g.param("bias", [self.out_features], bias_init));
        x.linear(weight, bias)
    }
}

/// Rows of a table by index.
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// Scope.
    pub name: &'static str,
    /// Rows.
    pub count: usize,
    /// Row length.
    pub width: usize,
}

impl Embedding {
    /// The table, f32 [count, width].
    #[track_caller]
    pub fn weight<'g>(&self, g: &'g Graph) -> Var<'g> {
        let _scope = g.scope(self.name);
        g.param("weight", [self.count, self.width], Init::Normal { std: GPT2_STD })
    }

    /// u32 [..] to f32 [.., width].
    #[track_caller]
    pub fn forward<'g>(&self, ids: Var<'g>) -> Var<'g> {
        let weight = self.weight(ids.graph());
        let _scope = ids.graph().scope(self.name);
        weight.embedding(ids)
    }
}

/// Layer norm over the last axis, weight 1 and bias 0 at first.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Scope.
    pub name: &'static str,
    /// Added to the variance.
    pub eps: f32,
    /// Has a bias.
    pub bias: bool,
}

impl LayerNorm {
    /// With PyTorch's epsilon.
    pub fn new(name: &'static str) -> LayerNorm {
        LayerNorm { name, eps: 1e-5, bias: true }
    }

    /// [.., C] to [.., C], as [`Var::layer_norm`]: f32 under autocast; sums are f32.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let g = x.graph();
        let _scope = g.scope(self.name);
        let c = x.shape().last();
        let weight = g.param("weight", [c], Init::Fill(1.0));
        let bias = self.bias.then(|| g.param("bias", [c], Init::Fill(0.0)));
        x.layer_norm(Some(weight), bias, self.eps)
    }
}

/// RMS norm over the last axis, weight 1 at first.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Scope.
    pub name: &'static str,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// [.., C] to [.., C], as [`Var::rms_norm`]: f32 under autocast; sums are f32.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let g = x.graph();
        let _scope = g.scope(self.name);
        let weight = g.param("weight", [x.shape().last()], Init::Fill(1.0));
        x.rms_norm(Some(weight), self.eps)
    }
}

/// Activation between two linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU, tanh form (GPT-2).
    #[default]
    GeluTanh,
    /// GELU, exact.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Applies it: same shape; computed in f32, stored in the dtype of `x`.
    #[track_caller]
    pub fn forward(self, x: Var<'_>) -> Var<'_> {
        match self {
            Activation::GeluTanh => x.gelu(),
            Activation::Gelu => x.gelu_exact(),
            Activation::Silu => x.silu(),
            Activation::Relu => x.relu(),
        }
    }
}

/// Linear up, activation, linear down.
#[derive(Clone, Copy, Debug)]
pub struct Mlp {
    /// Width of input and output.
    pub width: usize,
    /// Width between the layers.
    pub hidden: usize,
    /// Between the layers.
    pub activation: Activation,
    /// Layers have biases.
    pub bias: bool,
    /// First weight of the layer down.
    pub init_down: Init,
}

impl Mlp {
    /// [.., width] to [.., width], in the dtype of its linear layers.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let up = Linear::new("up", self.width, self.hidden).bias(self.bias);
        let down = Linear::new("down", self.hidden, self.width).bias(self.bias).init(self.init_down);
        down.forward(self.activation.forward(up.forward(x)))
    }
}

/// Causal self-attention with a packed projection.
#[derive(Clone, Copy, Debug)]
pub struct CausalAttention {
    /// Width of input and output.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Layers have biases.
    pub bias: bool,
    /// Dropout on the probabilities.
    pub dropout: f32,
    /// First weight of the output projection.
    pub init_proj: Init,
}

impl CausalAttention {
    /// [B, T, width] to [B, T, width], in the dtype of its linear layers; scores and softmax are f32.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let head_size = self.width / self.heads;
        let packed = (self.heads + 2 * self.kv_heads) * head_size;
        let qkv = Linear::new("qkv", self.width, packed).bias(self.bias).forward(x);
        let y = qkv.attention(self.heads, self.kv_heads, true, self.dropout);
        Linear::new("proj", self.width, self.width).bias(self.bias).init(self.init_proj).forward(y)
    }
}
