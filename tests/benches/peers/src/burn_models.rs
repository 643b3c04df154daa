//! The presets `mlp` and `gpt-tiny` written with burn's modules: the same shapes, the same number of parameters.

use burn::module::{Module, Param};
use burn::nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig, generate_autoregressive_mask};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Embedding, EmbeddingConfig, Gelu, LayerNorm, LayerNormConfig, Linear, LinearConfig, Relu};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Distribution, Int, Tensor};
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::model::mlp::MlpConfig;

/// How attention is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// One matmul for queries, keys and values, and `burn::tensor::module::attention`.
    Function,
    /// `burn::nn::attention::MultiHeadAttention` with a causal mask.
    Module,
}

/// Linear layers with ReLU between them.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    layers: Vec<Linear>,
    relu: Relu,
}

impl Mlp {
    pub(crate) fn new(config: &MlpConfig, device: &Device) -> Mlp {
        let widths = [&[config.inputs], &config.hidden[..], &[config.classes]].concat();
        let layers = widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device)).collect();
        Mlp { layers, relu: Relu::new() }
    }

    /// Mean cross entropy of images `[B, inputs]` against classes `[B]`.
    pub(crate) fn loss(&self, x: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let last = self.layers.len() - 1;
        let mut x = x;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if i < last {
                x = self.relu.forward(x);
            }
        }
        CrossEntropyLossConfig::new().init(&x.device()).forward(x, targets)
    }
}

#[derive(Module, Debug)]
struct Block {
    ln_1: LayerNorm,
    qkv: Option<Linear>,
    proj: Option<Linear>,
    module: Option<MultiHeadAttention>,
    ln_2: LayerNorm,
    up: Linear,
    down: Linear,
    gelu: Gelu,
    heads: usize,
}

impl Block {
    fn new(config: &GptConfig, device: &Device, attention: Attention) -> Block {
        let (width, hidden) = (config.width, config.width * config.mlp_ratio);
        let function = attention == Attention::Function;
        Block {
            ln_1: LayerNormConfig::new(width).init(device),
            qkv: function.then(|| LinearConfig::new(width, 3 * width).init(device)),
            proj: function.then(|| LinearConfig::new(width, width).init(device)),
            module: (!function).then(|| MultiHeadAttentionConfig::new(width, config.heads).with_dropout(0.0).init(device)),
            ln_2: LayerNormConfig::new(width).init(device),
            up: LinearConfig::new(width, hidden).init(device),
            down: LinearConfig::new(hidden, width).init(device),
            gelu: Gelu::new_approximate(),
            heads: config.heads,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attention(self.ln_1.forward(x));
        x.clone() + self.down.forward(self.gelu.forward(self.up.forward(self.ln_2.forward(x))))
    }

    fn attention(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, c] = x.dims();
        if let Some(module) = &self.module {
            let mask = generate_autoregressive_mask(b, t, &x.device());
            return module.forward(MhaInput::self_attn(x).mask_attn(mask)).context;
        }
        let (Some(qkv), Some(proj)) = (&self.qkv, &self.proj) else { unreachable!("one of the two is there") };
        let [q, k, v]: [Tensor<4>; 3] = qkv
            .forward(x)
            .chunk(3, 2)
            .into_iter()
            .map(|part| part.reshape([b, t, self.heads, c / self.heads]).swap_dims(1, 2))
            .collect::<Vec<_>>()
            .try_into()
            .expect("three parts");
        let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
        let y = attention(q, k, v, None, None, options);
        proj.forward(y.swap_dims(1, 2).reshape([b, t, c]))
    }
}

/// GPT-2 with a tied head.
#[derive(Module, Debug)]
pub(crate) struct Gpt {
    wte: Embedding,
    wpe: Param<Tensor<2>>,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
}

impl Gpt {
    pub(crate) fn new(config: &GptConfig, device: &Device, attention: Attention) -> Gpt {
        let normal = || burn::nn::Initializer::Normal { mean: 0.0, std: 0.02 };
        let positions = Tensor::random([config.context, config.width], Distribution::Normal(0.0, 0.02), device);
        Gpt {
            wte: EmbeddingConfig::new(config.vocab, config.width).with_initializer(normal()).init(device),
            wpe: Param::from_tensor(positions),
            blocks: (0..config.layers).map(|_| Block::new(config, device, attention)).collect(),
            ln_f: LayerNormConfig::new(config.width).init(device),
        }
    }

    /// Mean cross entropy of tokens `[B, T]` against the tokens that follow, `[B * T]`.
    pub(crate) fn loss(&self, tokens: Tensor<2, Int>, targets: Tensor<1, Int>) -> Tensor<1> {
        let mut x = self.wte.forward(tokens) + self.wpe.val().unsqueeze::<3>();
        for block in &self.blocks {
            x = block.forward(x);
        }
        let [b, t, c] = x.dims();
        let x = self.ln_f.forward(x).reshape([b * t, c]);
        let logits = x.matmul(self.wte.weight.val().transpose());
        CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, targets)
    }
}
