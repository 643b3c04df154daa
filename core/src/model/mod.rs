//! Models and their presets.

pub mod gpt;
pub mod hf;
pub mod mlp;

use crate::data::Examples;
use crate::dtype::DType;
use crate::error::Result;
use crate::near;
use crate::program::Rate;
use crate::shape::Ty;
use crate::trace::{Graph, Var};
use gpt::GptConfig;
use mlp::MlpConfig;
use serde::{Deserialize, Serialize};

/// A model with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum ModelConfig {
    /// Decoder-only transformer over tokens.
    Gpt(GptConfig),
    /// Fully connected classifier.
    Mlp(MlpConfig),
}

/// Names of the presets.
pub const PRESETS: [&str; 4] = ["gpt-tiny", "gpt-mini", "gpt2-124m", "mlp"];

/// What a model computes on one batch.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'g> {
    /// Unnormalised scores, [B, T, V] or [B, classes].
    pub logits: Var<'g>,
    /// Mean cross-entropy, f32.
    pub loss: Var<'g>,
}

impl ModelConfig {
    /// The preset `name` and its usual batch size. Fails for another name, with the names that are closest.
    pub fn preset(name: &str) -> Result<(ModelConfig, usize)> {
        match name {
            "gpt-tiny" => Ok((ModelConfig::Gpt(GptConfig::tiny()), 16)),
            "gpt-mini" => Ok((ModelConfig::Gpt(GptConfig::mini()), 4)),
            "gpt2-124m" => Ok((ModelConfig::Gpt(GptConfig::gpt2_124m()), 4)),
            "mlp" => Ok((ModelConfig::Mlp(MlpConfig::mnist()), 256)),
            _unknown => Err(near::unknown("model", &PRESETS, name)),
        }
    }

    /// Checks the sizes. Fails at the first that is out of range, naming it as `model.<name>`.
    pub fn validate(&self) -> Result<()> {
        match self {
            ModelConfig::Gpt(c) => c.validate(),
            ModelConfig::Mlp(c) => c.validate(),
        }
    }

    /// The examples it takes.
    pub fn examples(&self) -> Examples {
        match self {
            ModelConfig::Gpt(c) => Examples::Tokens { context: c.context, vocab: c.vocab },
            ModelConfig::Mlp(c) => Examples::Images { pixels: c.inputs, classes: c.classes },
        }
    }

    /// Types of the two inputs of one micro-step: what the model sees, and the targets.
    pub fn input_types(&self, batch: usize) -> [Ty; 2] {
        match self {
            ModelConfig::Gpt(c) => [Ty::new(DType::U32, [batch, c.context]), Ty::new(DType::U32, [batch, c.context])],
            ModelConfig::Mlp(c) => [Ty::new(DType::F32, [batch, c.inputs]), Ty::new(DType::U32, [batch])],
        }
    }

    /// Records the forward pass on a batch of `batch`, with inputs named `x` and `targets`.
    pub fn forward<'g>(&self, g: &'g Graph, batch: usize) -> Forward<'g> {
        self.forward_on(g, self.input_types(batch))
    }

    /// [`ModelConfig::forward`] on inputs of the given types, such as sequences shorter than the context.
    #[track_caller]
    pub fn forward_on<'g>(&self, g: &'g Graph, [x, targets]: [Ty; 2]) -> Forward<'g> {
        let x = g.input("x", x, Rate::MicroStep);
        let targets = g.input("targets", targets, Rate::MicroStep);
        let logits = self.logits(x);
        Forward { logits, loss: logits.cross_entropy(targets, 0.0) }
    }

    /// Records the scores for `x`.
    pub fn logits<'g>(&self, x: Var<'g>) -> Var<'g> {
        match self {
            ModelConfig::Gpt(c) => c.forward(x),
            ModelConfig::Mlp(c) => c.forward(x),
        }
    }

    /// Targets of one micro-step: tokens or images, the unit of throughput.
    pub fn items_per_batch(&self, batch: usize) -> usize {
        match self {
            ModelConfig::Gpt(c) => batch * c.context,
            ModelConfig::Mlp(_) => batch,
        }
    }
}
