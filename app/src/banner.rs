//! What `train` prints once, before the first step.

use crate::config::RunConfig;
use crate::device::Peak;
use crate::show;
use anyhow::Result;
use mantissa_core::DType;
use mantissa_core::model::ModelConfig;
use mantissa_core::optim::OptimConfig;
use mantissa_core::optim::schedule::Decay;
use mantissa_core::precision::OnNonFinite;
use mantissa_core::precision::clip::Clip;
use mantissa_core::precision::fp8_layers::Fp8Layers;
use mantissa_core::precision::recipe::Recipe;
use mantissa_core::precision::settings::Override;
use mantissa_core::precision::settings::{Fp8Config, Fp8Scaling};
use mantissa_core::train::{Session, TrainConfig};
use std::path::Path;

/// Everything the banner needs beside the session.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The run.
    pub config: &'a RunConfig,
    /// Device name.
    pub device: &'a str,
    /// Why this device.
    pub device_why: &'a str,
    /// Why this recipe.
    pub recipe_why: &'a str,
    /// The data.
    pub data: &'a str,
    /// The peak that MFU is measured against.
    pub peak: &'a Peak,
    /// The run folder.
    pub folder: &'a Path,
}

/// The lines of the banner.
pub fn lines(session: &Session, facts: &Facts<'_>) -> Result<Vec<String>> {
    let Facts { config, device, device_why, recipe_why, data, peak, folder } = facts;
    let train = &config.train;
    let unit = if matches!(train.model, ModelConfig::Gpt(_)) { "tokens/step" } else { "images/step" };
    let plan = session.plan();
    // Evaluation shares weights and states and has buffers and scratch of its own.
    let [eval, eval_scratch] = session.evaluation_bytes()?;
    let scratch = session.scratch_bytes() + eval_scratch;
    let purposes = plan
        .bytes_by_purpose()
        .into_iter()
        .map(|(p, bytes)| (p.name(), bytes))
        .chain([("evaluation", eval), ("scratch", scratch)]);
    let parts: Vec<String> = purposes.map(|(name, bytes)| format!("{name} {}", show::mebibytes(bytes))).collect();
    let layers = Fp8Layers::of(session.program());
    let flops = session.program().step_cost().flops as f64;
    let row = |name: &str, text: String| format!("{name:<12} {text}");
    let mut rows = vec![
        row("mantissa", env!("CARGO_PKG_VERSION").to_string()),
        row("device", format!("{device} ({device_why})")),
        row("recipe", format!("{} ({recipe_why}): {}", train.recipe.label(), recipe(&train.recipe, &layers))),
        row("model", format!("{}: {}", config.run.model, model(&train.model))),
        row("weights", config.run.init_from.as_ref().map_or("random".to_string(), |path| format!("from {path}"))),
        row("data", data.to_string()),
        row("optimizer", optimizer(config)),
        row("non-finite", nonfinite(train)),
        row("schedule", schedule(config)),
        row("parameters", show::thousands(session.program().param_count())),
        row(unit, train.items_per_step_text()),
        row(
            "peak",
            format!(
                "{}FLOP/s ({}); a step takes {}FLOP; mfu is the share of the peak that is reached",
                show::spaced(peak.flops_per_s),
                peak.source,
                show::spaced(flops)
            ),
        ),
        row("memory", format!("{} planned: {}", show::mebibytes(plan.total_bytes() + eval + scratch), parts.join(", "))),
        row("run folder", folder.display().to_string()),
        row("seed", train.seed.to_string()),
        row("kernels", format!("{} (the same in another run: the same arithmetic)", mantissa_core::cpu::KERNEL_SET)),
    ];
    if let Some(Fp8Scaling::Delayed { warm_up: false, .. }) = train.recipe.fp8.map(|fp8| fp8.scaling) {
        rows.push(row(
            "fp8 scales",
            "1 in the first step, where small values underflow (as in Transformer Engine); --warm-up-scales starts from the amax".into(),
        ));
    }
    Ok(rows)
}

fn recipe(recipe: &Recipe, layers: &Fp8Layers) -> String {
    let mut parts = Vec::new();
    if let Some(fp8) = &recipe.fp8 {
        parts.push(fp8_part(fp8, layers));
    }
    parts.push(match recipe.low {
        Some(low) => format!("{} in {}, sums and master weights in f32", products(recipe, layers), low.name()),
        None => format!("{} in f32", if layers.inside > 0 { "everything else" } else { "everything" }),
    });
    match &recipe.scaler {
        Some(s) => {
            let growth = match s.growth_interval {
                0 => "never grows".to_string(),
                n => format!("x{} after {n} good steps", s.growth_factor),
            };
            parts.push(format!(
                "loss_scale from {}, x{} on overflow, {growth}",
                show::loss_scale(s.init_scale as f32),
                s.backoff_factor
            ));
        }
        None if recipe.low == Some(DType::F16) => parts.push("no loss scale: small gradients become 0".into()),
        None => {}
    }
    if !recipe.overrides.is_empty() {
        let each = |o: &Override| format!("{}={}", o.scope, o.dtype.name());
        parts.push(format!("overrides {}", recipe.overrides.iter().map(each).collect::<Vec<_>>().join(", ")));
    }
    parts.join("; ")
}

fn products(recipe: &Recipe, layers: &Fp8Layers) -> &'static str {
    if recipe.fp8.is_some() && layers.inside > 0 { "other matmuls" } else { "matmuls" }
}

/// What is in fp8, which the recipe only asks for: layers have sizes.
fn fp8_part(fp8: &Fp8Config, layers: &Fp8Layers) -> String {
    let left_out = layers.left_out();
    if layers.inside == 0 {
        return format!("fp8 is off, {} in it: {}", layers.count(), left_out.as_deref().unwrap_or("the model has none"));
    }
    let (forward, backward) = (fp8.format.forward().name(), fp8.format.backward().name());
    let scales = match fp8.scaling {
        Fp8Scaling::Delayed { amax_history_len, margin, .. } => {
            format!("scales from the amax of {amax_history_len} micro-steps, margin {margin}")
        }
        Fp8Scaling::Current { .. } => "scales from the present amax".to_string(),
        Fp8Scaling::Mx { .. } => "one e8m0 scale per 32 elements".to_string(),
    };
    let not = left_out.map_or_else(String::new, |names| format!(", not {names}"));
    format!("{} in {forward}, their gradients in {backward}, {scales}{not}", layers.count())
}

fn model(model: &ModelConfig) -> String {
    match model {
        ModelConfig::Gpt(c) => format!(
            "vocab {}, context {}, width {}, heads {}, layers {}, dropout {}",
            c.vocab, c.context, c.width, c.heads, c.layers, c.dropout
        ),
        ModelConfig::Mlp(c) => {
            let widths: Vec<String> = [c.inputs].iter().chain(&c.hidden).chain([&c.classes]).map(usize::to_string).collect();
            format!("{} with ReLU", widths.join("-"))
        }
    }
}

fn optimizer(config: &RunConfig) -> String {
    let rule = match config.train.optim {
        OptimConfig::AdamW { beta1, beta2, weight_decay, .. } => {
            format!("adamw, betas {beta1} {beta2}, weight decay {weight_decay}")
        }
        OptimConfig::Adam { beta1, beta2, weight_decay, .. } => {
            format!("adam, betas {beta1} {beta2}, weight decay {weight_decay}")
        }
        OptimConfig::Sgd { momentum, weight_decay, .. } => format!("sgd, momentum {momentum}, weight decay {weight_decay}"),
    };
    let clip = match config.train.clip {
        None => "no clipping".to_string(),
        Some(Clip::Norm(n)) => format!("gradient norm clipped at {n}"),
        Some(Clip::Value(v)) => format!("gradient elements clipped at {v}"),
        Some(Clip::Adaptive { percentile, window, max_norm }) => {
            format!("gradient norm clipped at percentile {percentile} of {window} steps, first at {max_norm}")
        }
    };
    format!("{rule}; {clip}")
}

fn nonfinite(train: &TrainConfig) -> String {
    let policy = match train.on_nonfinite {
        OnNonFinite::Skip => "steps are skipped",
        OnNonFinite::Stop => "the run stops, saved, the step skipped",
        OnNonFinite::Ignore => "steps are applied",
    };
    let scaler = if train.recipe.scaler.is_some() { "; the loss scaler skips while a lower scale may help" } else { "" };
    format!("{} ({policy}{scaler})", train.on_nonfinite.name())
}

fn schedule(config: &RunConfig) -> String {
    let s = &config.train.schedule;
    let (lr, min_lr) = (show::scientific(s.lr), show::scientific(s.min_lr));
    let shape = match s.decay {
        Decay::Cosine => format!("cosine, lr {lr} down to {min_lr}"),
        Decay::Constant => format!("constant, lr {lr}"),
    };
    let short = if s.warmup > s.steps { ", longer than the run: lr is never reached" } else { "" };
    format!("{}, {shape}, warm-up {}{short}", show::counted(s.steps as usize, "step"), s.warmup)
}
