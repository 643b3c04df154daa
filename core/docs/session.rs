//! A small GPT in fp8: five steps on one batch of bytes, and what each step reports.

use mantissa_core::cpu::CpuBackend;
use mantissa_core::data::Batch;
use mantissa_core::model::{ModelConfig, gpt::GptConfig};
use mantissa_core::optim::{OptimConfig, schedule::Decay, schedule::Schedule};
use mantissa_core::precision::{OnNonFinite, Recipe, RecipeName};
use mantissa_core::telemetry::StepReport;
use mantissa_core::train::Session;
use mantissa_core::{Result, bytemuck, train::TrainConfig};
use std::sync::Arc;

pub(crate) fn five_steps() -> Result<Vec<StepReport>> {
    let config = TrainConfig {
        model: ModelConfig::Gpt(GptConfig { layers: 1, context: 16, ..GptConfig::tiny() }),
        recipe: Recipe::new(RecipeName::Fp8Current),
        optim: OptimConfig::adamw(),
        schedule: Schedule { lr: 1e-2, min_lr: 1e-3, warmup: 0, steps: 5, decay: Decay::Cosine },
        clip: None,
        error_if_nonfinite: false,
        on_nonfinite: OnNonFinite::Skip,
        batch: 2,
        grad_accum: 1,
        seed: 1,
    };
    let mut session = Session::new(Arc::new(CpuBackend::new()), config)?;
    // Tokens u32 [2, 16], and for each of them the one that follows.
    let text: Vec<u32> = b"to be or not to be, that is the q".iter().map(|&byte| u32::from(byte)).collect();
    let batch = Batch { x: bytemuck::cast_slice(&text[..32]), targets: bytemuck::cast_slice(&text[1..]) };
    (0..5).map(|_| session.step(batch)).collect()
}
