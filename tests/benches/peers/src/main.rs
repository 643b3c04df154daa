//! Mantissa beside burn (https://burn.dev) on the same machine, the same adapter, in one run: matmuls, and training
//! steps of the presets `mlp` and `gpt-tiny` in f32. Prints Markdown.
//!
//! `cargo run --release`, or with names of cases. Every case runs in a process of its own whose caches are empty, those
//! of the driver and of burn's tuner too, so that first steps are those of a cold start. There both are opened and take
//! their first step one after the other; then they take turns. Burn is as its users have it: default features, fusion
//! and autotune on.

mod burn_models;
mod contender;
mod ours;
mod theirs;

use anyhow::{Context, Result, bail};
use burn_models::Attention;
use mantissa_core::model::ModelConfig;
use std::env;
use std::process::Command;

/// With burn, `gpt-tiny` has its attention as a function, `gpt-tiny-module` as a module.
const CASES: [&str; 6] = ["gemm-256", "gemm-512", "gemm-1024", "mlp", "gpt-tiny", "gpt-tiny-module"];
/// Set for the process of one case.
const CASE: &str = "MANTISSA_PEERS_CASE";

/// Largest difference between two results of the same matrices, whose elements are about 1.
const TOLERANCE: f32 = 1e-3;

fn main() -> Result<()> {
    if let Ok(case) = env::var(CASE) {
        return run(&case);
    }
    let asked: Vec<String> = env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|a| !CASES.contains(&a.as_str())) {
        bail!("expected any of {}, got `{unknown}`", CASES.join(", "));
    }
    for case in CASES.iter().filter(|c| asked.is_empty() || asked.iter().any(|a| a == *c)) {
        let caches = tempfile::tempdir().context("a folder for empty caches")?;
        let mut child = Command::new(env::current_exe()?);
        child.env(CASE, case).current_dir(caches.path());
        for variable in ["HOME", "XDG_CACHE_HOME", "MESA_SHADER_CACHE_DIR"] {
            child.env(variable, caches.path());
        }
        let status = child.status()?;
        if !status.success() {
            bail!("{case}: {status}");
        }
    }
    Ok(())
}

/// Runs one case in this process.
fn run(case: &str) -> Result<()> {
    match case.strip_prefix("gemm-").map(str::parse) {
        Some(side) => products(case, side?),
        None => steps(case),
    }
}

fn products(case: &str, side: usize) -> Result<()> {
    let [a, b] = ours::operands(side);
    let mut contenders = [
        ours::product(ours::Device::Wgpu, side, &a, &b)?,
        theirs::product("burn wgpu", theirs::wgpu(), side, &a, &b)?,
        ours::product(ours::Device::Cpu, side, &a, &b)?,
        theirs::product("burn flex", theirs::flex(), side, &a, &b)?,
    ];
    contender::check_agreement(&contenders, TOLERANCE)?;
    let flops = 2.0 * (side as f64).powi(3) * contender::PRODUCTS as f64;
    contender::take_turns(&mut contenders, case, |ms| format!("{:.1} GFLOP/s", flops / ms * 1e-6))
}

fn steps(case: &str) -> Result<()> {
    let (preset, attention) = match case.strip_suffix("-module") {
        Some(preset) => (preset, Attention::Module),
        None => (case, Attention::Function),
    };
    let (model, batch) = ModelConfig::preset(preset)?;
    let data = ours::data(&model, batch);
    let mut contenders = [
        ours::training(ours::Device::Wgpu, &model, batch, &data)?,
        theirs::training("burn wgpu", theirs::wgpu(), &model, batch, &data, attention)?,
        ours::training(ours::Device::Cpu, &model, batch, &data)?,
        theirs::training("burn flex", theirs::flex(), &model, batch, &data, attention)?,
    ];
    contenders.iter().for_each(|c| c.tell("loss of the first step"));
    let items = model.items_per_batch(batch) as f64;
    contender::take_turns(&mut contenders, case, |ms| format!("{:.0} items/s", items / ms * 1e3))?;
    contenders.iter().for_each(|c| c.tell("loss of the last step"));
    Ok(())
}
