//! What would make a step fit: changed configs, each recorded and planned again, so that every number is that of a real
//! plan.

use super::device::{Device, Rate};
use crate::error::Result;
use crate::model::ModelConfig;
use crate::precision::recipe::{Recipe, RecipeName};
use crate::precision::settings::OverrideDtype;
use crate::train::TrainConfig;
use serde::Serialize;

/// Contexts shorter than this are not proposed.
const SHORTEST_CONTEXT: usize = 128;

/// A changed config and its plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// What was changed, for people.
    pub change: String,
    /// Flags that make the change.
    pub flags: String,
    /// Planned bytes.
    pub needed_bytes: u64,
    /// Whether they fit.
    pub fits: bool,
    /// Modelled milliseconds of a step.
    pub step_ms: f64,
    /// Modelled tokens or images per second.
    pub items_per_s: f64,
}

/// What the plan of a config comes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) needed_bytes: u64,
    pub(super) fits: bool,
    pub(super) step_ms: f64,
}

/// Plans a changed config. A function, so that this file need not know how a step is planned.
pub(super) type Planner<'a> = &'a dyn Fn(&TrainConfig) -> Result<Estimate>;

/// Single changes first; if none of them fits, all of them together.
///
/// # Errors
/// When a changed config cannot be planned.
pub(super) fn fixes(config: &TrainConfig, device: &Device, planner: Planner<'_>) -> Result<Vec<Variant>> {
    let mut list = Vec::new();
    list.extend(smaller_batch(config, planner)?);
    let narrower: Vec<TrainConfig> =
        narrower(&config.recipe, device).into_iter().map(|recipe| TrainConfig { recipe, ..config.clone() }).collect();
    for changed in &narrower {
        list.push(variant(config, changed, planner)?);
    }
    list.extend(shorter_context(config, planner)?);
    if list.iter().any(|v| v.fits) {
        return Ok(list);
    }
    // Everything at once: the narrowest recipe, one sequence at a time, then shorter and shorter contexts.
    let mut all = narrower.into_iter().last().unwrap_or_else(|| config.clone());
    all.grad_accum = config.grad_accum * config.batch;
    all.batch = 1;
    let together = variant(config, &all, planner)?;
    let fits = together.fits;
    list.push(together);
    if !fits && let Some(shorter) = shorter_context(&all, planner)?.filter(|v| v.fits) {
        let flags = format!("{} {}", list[list.len() - 1].flags, shorter.flags);
        let change = format!("{}, {}", list[list.len() - 1].change, shorter.change);
        list.push(Variant { change, flags, ..shorter });
    }
    Ok(list)
}

/// Half the batch and twice the micro-steps, until it fits or one is left.
fn smaller_batch(config: &TrainConfig, planner: Planner<'_>) -> Result<Option<Variant>> {
    let mut last = None;
    let mut changed = config.clone();
    while changed.batch > 1 {
        // The largest divisor up to half, so that the items of a step stay the same.
        let halved = (1..=changed.batch / 2).rev().find(|b| changed.batch.is_multiple_of(*b)).unwrap_or(1);
        changed.grad_accum *= changed.batch / halved;
        changed.batch = halved;
        let v = variant(config, &changed, planner)?;
        let fits = v.fits;
        last = Some(v);
        if fits {
            break;
        }
    }
    Ok(last)
}

/// Narrower recipes that the GPU multiplies natively, widest first.
fn narrower(recipe: &Recipe, device: &Device) -> Vec<Recipe> {
    let native = |rate: Rate| device.peak(rate).is_some();
    let names: &[RecipeName] = match recipe.name {
        RecipeName::F32 | RecipeName::Tf32 if native(Rate::Mxfp8) => &[RecipeName::Bf16, RecipeName::Mxfp8],
        RecipeName::F32 | RecipeName::Tf32 if native(Rate::Fp8) => &[RecipeName::Bf16, RecipeName::Fp8Delayed],
        RecipeName::F32 | RecipeName::Tf32 if native(Rate::Bf16) => &[RecipeName::Bf16],
        RecipeName::F32 | RecipeName::Tf32 => &[RecipeName::F16],
        RecipeName::Bf16 | RecipeName::F16 if native(Rate::Mxfp8) => &[RecipeName::Fp8Delayed, RecipeName::Mxfp8],
        RecipeName::Bf16 | RecipeName::F16 if native(Rate::Fp8) => &[RecipeName::Fp8Delayed],
        RecipeName::Bf16 | RecipeName::F16 | RecipeName::Fp8Delayed | RecipeName::Fp8Current | RecipeName::Mxfp8 => &[],
    };
    let keep = |name: &RecipeName| {
        let mut changed = Recipe::new(*name);
        changed.overrides = recipe.overrides.clone();
        if changed.fp8.is_none() {
            changed.overrides.retain(|o| o.dtype != OverrideDtype::Fp8);
        }
        changed
    };
    names.iter().map(keep).collect()
}

/// Half the context until it fits.
fn shorter_context(config: &TrainConfig, planner: Planner<'_>) -> Result<Option<Variant>> {
    let mut last = None;
    let mut changed = config.clone();
    loop {
        let ModelConfig::Gpt(gpt) = &mut changed.model else { return Ok(None) };
        if gpt.context / 2 < SHORTEST_CONTEXT {
            return Ok(last);
        }
        gpt.context /= 2;
        let v = variant(config, &changed, planner)?;
        let fits = v.fits;
        last = Some(v);
        if fits {
            return Ok(last);
        }
    }
}

fn variant(from: &TrainConfig, to: &TrainConfig, planner: Planner<'_>) -> Result<Variant> {
    let Estimate { needed_bytes, fits, step_ms } = planner(to)?;
    let (mut change, mut flags) = (Vec::new(), Vec::new());
    if from.recipe.name != to.recipe.name {
        change.push(format!("recipe {}", to.recipe.name));
        flags.push(format!("--recipe {}", to.recipe.name));
    }
    if from.batch != to.batch {
        change.push(format!("batch {} x {} micro-steps", to.batch, to.grad_accum));
        flags.push(format!("--batch-size {} --grad-accum {}", to.batch, to.grad_accum));
    }
    if let (ModelConfig::Gpt(a), ModelConfig::Gpt(b)) = (&from.model, &to.model)
        && a.context != b.context
    {
        change.push(format!("context {}", b.context));
        flags.push(format!("--seq-len {}", b.context));
    }
    Ok(Variant {
        change: change.join(", "),
        flags: flags.join(" "),
        needed_bytes,
        fits,
        step_ms,
        items_per_s: to.items_per_step() as f64 / (step_ms * 1e-3),
    })
}
