//! Settings and reports that nobody measured: for the tests of the store and of the panels, and for their benchmarks.

use mantissa_core::model::ModelConfig;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::{Decay, Schedule};
use mantissa_core::precision::recipe::RecipeName;
use mantissa_core::precision::{OnNonFinite, Recipe};
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::TrainConfig;

/// The settings of a run of `steps` steps of a preset.
pub(crate) fn config(preset: &str, recipe: RecipeName, steps: u64) -> TrainConfig {
    let (model, batch) = ModelConfig::preset(preset).expect("a preset");
    TrainConfig {
        model,
        recipe: Recipe::new(recipe),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-3, min_lr: 0.0, warmup: 0, steps, decay: Decay::Constant },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::default(),
        batch,
        grad_accum: 1,
        seed: 1,
    }
}

/// The report of a step that was taken; `skipped_total` steps before it were not.
pub(crate) fn report(step: u64, loss: f32, loss_scale: Option<f32>, skipped_total: u64) -> StepReport {
    StepReport {
        step,
        loss,
        lr: 1e-3,
        grad_norm: 1.0,
        loss_scale,
        found_inf: false,
        skipped: false,
        skipped_total,
        growth_tracker: loss_scale.map(|_| 1),
        fp8: None,
    }
}
