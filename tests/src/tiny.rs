//! Small training configurations.

use mantissa_core::model::ModelConfig;
use mantissa_core::model::gpt::GptConfig;
use mantissa_core::model::mlp::MlpConfig;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::Recipe;
use mantissa_core::precision::clip::Clip;
use mantissa_core::train::TrainConfig;

/// A GPT of two blocks over bytes.
pub fn gpt(recipe: Recipe, steps: u64) -> TrainConfig {
    let model = GptConfig { context: 32, width: 64, heads: 2, layers: 2, ..GptConfig::tiny() };
    TrainConfig {
        model: ModelConfig::Gpt(model),
        recipe,
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 3e-3, min_lr: 3e-4, warmup: 5, steps, decay: Decay::Cosine },
        clip: Some(Clip::Norm(1.0)),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 8,
        grad_accum: 1,
        seed: 5,
    }
}

/// A classifier whose layers satisfy the shape rules of every fp8 recipe.
pub fn mlp(recipe: Recipe) -> TrainConfig {
    TrainConfig {
        model: ModelConfig::Mlp(MlpConfig { inputs: 32, hidden: vec![32], classes: 32 }),
        recipe,
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-2, min_lr: 1e-2, warmup: 0, steps: 100, decay: Decay::Constant },
        clip: Some(Clip::Norm(1.0)),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 32,
        grad_accum: 1,
        seed: 5,
    }
}
