//! Small runs for the tests of this folder.

use crate::cpu::CpuBackend;
use crate::model::ModelConfig;
use crate::model::gpt::GptConfig;
use crate::optim::OptimConfig;
use crate::optim::schedule::{Decay, Schedule};
use crate::precision::clip::Clip;
use crate::precision::recipe::RecipeName;
use crate::precision::{OnNonFinite, Recipe};
use crate::telemetry::StepReport;
use crate::train::{Session, TrainConfig};
use std::sync::Arc;

/// A GPT of two small blocks.
pub(crate) fn tiny(name: RecipeName) -> TrainConfig {
    TrainConfig {
        model: ModelConfig::Gpt(GptConfig {
            vocab: 64,
            context: 16,
            width: 32,
            heads: 2,
            layers: 2,
            mlp_ratio: 2,
            ..GptConfig::tiny()
        }),
        recipe: Recipe::new(name),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 1e-3, warmup: 0, steps: 100, decay: Decay::Constant },
        clip: Some(Clip::Norm(1.0)),
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 2,
        grad_accum: 1,
        seed: 3,
    }
}

/// A session over this config, to be observed.
pub(crate) fn session(config: TrainConfig) -> Session {
    Session::observable(Arc::new(CpuBackend::new()), config).unwrap()
}

/// Tokens and their successors for all micro-steps of one step.
pub(crate) fn tokens(config: &TrainConfig) -> (Vec<u32>, Vec<u32>) {
    let n = config.items_per_step() as u32;
    let token = |i: u32| (i * i + 3 * i) % 64;
    ((0..n).map(token).collect(), (1..=n).map(token).collect())
}

/// The report of a good step.
pub(crate) fn report(step: u64) -> StepReport {
    StepReport {
        step,
        loss: 2.0,
        lr: 1e-3,
        grad_norm: 1.0,
        loss_scale: None,
        found_inf: false,
        skipped: false,
        skipped_total: 0,
        growth_tracker: None,
        fp8: None,
    }
}
