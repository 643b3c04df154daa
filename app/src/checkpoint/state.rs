//! `state.json`: what a checkpoint knows beside tensors. Random numbers are drawn by counters, so that seeds and
//! positions are all there is to keep of them.

use crate::config::check_sizes;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow, bail};
use mantissa_core::cpu::KERNEL_SET;
use mantissa_core::diagnose::health::HealthState;
use mantissa_core::precision::ScalerState;
use mantissa_core::train::{Session, TrainConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of this layout. A reader refuses any other.
pub const VERSION: u32 = 1;

/// What a checkpoint knows beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program that wrote it.
    pub mantissa: String,
    /// Its kernels, see [`KERNEL_SET`].
    pub kernels: String,
    /// The device it ran on.
    pub device: String,
    /// Name of the recipe.
    pub recipe: String,
    /// Steps taken.
    pub step: u64,
    /// Steps skipped because something was not finite.
    pub skipped: u64,
    /// Where the data stands.
    pub data: DataState,
    /// Where random numbers stand.
    pub rng: RngState,
    /// State dict of the loss scaler, with the keys of PyTorch; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<ScalerState>,
    /// What the warnings of the run go by.
    #[serde(default)]
    pub health: HealthState,
    /// What the run trains.
    pub config: TrainConfig,
    /// Size and checksum of the other files.
    pub files: BTreeMap<String, Digest>,
}

/// Where the data stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataState {
    /// Number of the next example.
    pub position: u64,
    /// The data itself.
    pub digest: Digest,
}

/// Where random numbers stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngState {
    /// Seed of weights, batches and dropout.
    pub seed: u64,
    /// Micro-steps taken: the counter of dropout.
    pub micro_step: u64,
}

/// What a run knows that its session does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFingerprint {
    /// Name of the device.
    pub device: String,
    /// The data.
    pub data: Digest,
}

impl State {
    /// Of a session between two steps.
    pub fn new(
        session: &Session,
        health: &HealthState,
        around: &RunFingerprint,
        files: BTreeMap<String, Digest>,
    ) -> Result<State> {
        let (config, step) = (session.config(), session.steps());
        Ok(State {
            version: VERSION,
            mantissa: env!("CARGO_PKG_VERSION").into(),
            kernels: KERNEL_SET.into(),
            device: around.device.clone(),
            recipe: config.recipe.name.name().into(),
            step,
            skipped: session.skipped(),
            data: DataState { position: position(config, step), digest: around.data },
            rng: RngState { seed: config.seed, micro_step: step * config.grad_accum as u64 },
            scaler: session.scaler_state()?,
            health: health.clone(),
            config: config.clone(),
            files,
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("cannot write the state as JSON")? + "\n")
    }

    /// From JSON; what contradicts itself is refused.
    pub fn from_json(text: &[u8]) -> Result<State> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| anyhow!("not JSON: {e}"))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => bail!("version: expected {VERSION}, found {v}, written by another version of mantissa"),
            None => bail!("version: expected {VERSION}, found none"),
        }
        let state: State = serde_path_to_error::deserialize(value).map_err(|e| anyhow!("{}: {}", e.path(), e.inner()))?;
        check_sizes(&state.config)?;
        let config = &state.config;
        let agree = |name: &str, expected: u64, found: u64| {
            if expected == found { Ok(()) } else { Err(anyhow!("{name}: expected {expected}, found {found}")) }
        };
        agree("data.position", position(config, state.step), state.data.position)?;
        agree("rng.seed", config.seed, state.rng.seed)?;
        agree("rng.micro_step", state.step.saturating_mul(config.grad_accum as u64), state.rng.micro_step)?;
        if state.recipe != config.recipe.name.name() {
            bail!("recipe: expected {}, found {}", config.recipe.name, state.recipe);
        }
        if state.scaler.is_some() != config.recipe.scaler.is_some() {
            bail!("scaler: expected one exactly where the recipe has one ({}), found otherwise", state.recipe);
        }
        Ok(state)
    }

    /// What makes going on elsewhere differ from going on here, for people.
    pub fn differences(&self, around: &RunFingerprint) -> Vec<String> {
        let differ = |what: &str, then: &str, now: &str| (then != now).then(|| format!("{what} was {then}, is {now}"));
        let data = (self.data.digest.to_string(), around.data.to_string());
        [
            differ("the data", &data.0, &data.1),
            differ("the kernel set", &self.kernels, KERNEL_SET),
            differ("the device", arithmetic(&self.device), arithmetic(&around.device)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What of a device decides bits: processors compute the same with any number of threads and any vector unit.
fn arithmetic(device: &str) -> &str {
    if device.starts_with("CPU, ") { "CPU" } else { device }
}

/// Examples that `step` steps have seen.
fn position(config: &TrainConfig, step: u64) -> u64 {
    step.saturating_mul(config.batch as u64).saturating_mul(config.grad_accum as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantissa_core::model::ModelConfig;
    use mantissa_core::optim::OptimConfig;
    use mantissa_core::optim::schedule::{Decay, Schedule};
    use mantissa_core::precision::clip::Clip;
    use mantissa_core::precision::{OnNonFinite, Recipe, RecipeName};

    fn state(recipe: Recipe) -> State {
        let scaler = recipe.scaler.map(|s| ScalerState {
            scale: 0.1,
            growth_factor: s.growth_factor,
            backoff_factor: s.backoff_factor,
            growth_interval: s.growth_interval,
            growth_tracker: 3,
            hysteresis_tracker: None,
        });
        State {
            version: VERSION,
            mantissa: "0".into(),
            kernels: "k".into(),
            device: "d".into(),
            recipe: recipe.name.name().into(),
            step: 7,
            skipped: 1,
            data: DataState { position: 7 * 3 * 2, digest: Digest { bytes: 9, crc32: 5 } },
            rng: RngState { seed: 5, micro_step: 14 },
            scaler,
            health: HealthState::default(),
            config: TrainConfig {
                model: ModelConfig::preset("gpt-tiny").unwrap().0,
                recipe,
                optim: OptimConfig::adamw(),
                // Numbers whose decimal form must come back to the bit.
                schedule: Schedule { lr: 0.1 + 0.2, min_lr: 1e-7 / 3.0, warmup: 0, steps: 10, decay: Decay::Cosine },
                clip: Some(Clip::Adaptive { percentile: 33.3, window: 8, max_norm: 0.7 }),
                error_if_nonfinite: false,
                on_nonfinite: OnNonFinite::Skip,
                batch: 3,
                grad_accum: 2,
                seed: 5,
            },
            files: BTreeMap::new(),
        }
    }

    #[test]
    fn every_recipe_comes_back_to_the_bit() {
        for name in RecipeName::ALL {
            let state = state(Recipe::new(name));
            assert_eq!(State::from_json(state.to_json().unwrap().as_bytes()).unwrap(), state, "{name}");
        }
    }

    #[test]
    fn the_scaler_has_the_keys_of_pytorch() {
        let json: serde_json::Value = serde_json::from_str(&state(Recipe::new(RecipeName::F16)).to_json().unwrap()).unwrap();
        let mut keys: Vec<&String> = json["scaler"].as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["_growth_tracker", "backoff_factor", "growth_factor", "growth_interval", "scale"]);
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let good = state(Recipe::new(RecipeName::Bf16));
        let refused = |change: fn(&mut State)| {
            let mut s = good.clone();
            change(&mut s);
            State::from_json(s.to_json().unwrap().as_bytes()).unwrap_err().to_string()
        };
        assert!(refused(|s| s.step = 8).starts_with("data.position: expected 48, found 42"));
        assert!(refused(|s| s.rng.seed = 6).starts_with("rng.seed"));
        assert!(refused(|s| s.rng.micro_step = 6).starts_with("rng.micro_step"));
        assert!(refused(|s| s.recipe = "f16".into()).starts_with("recipe"));
        assert!(refused(|s| s.scaler = state(Recipe::new(RecipeName::F16)).scaler).starts_with("scaler"));
        assert!(refused(|s| s.version = 2).contains("expected 1, found 2"));
        assert!(refused(|s| s.config.batch = 0).starts_with("batch"));
        assert!(State::from_json(b"{").unwrap_err().to_string().contains("not JSON"));
        assert!(State::from_json(b"[]").unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn differences_name_data_kernels_and_device() {
        let state = state(Recipe::new(RecipeName::Bf16));
        let around = RunFingerprint { device: "e".into(), data: Digest { bytes: 10, crc32: 5 } };
        let text = state.differences(&around).join("; ");
        assert!(text.contains("the data was 9 bytes") && text.contains("the device was d, is e"), "{text}");
        let other = |device: &str| RunFingerprint { device: device.into(), data: Digest { bytes: 9, crc32: 5 } };
        let cpu = State { kernels: KERNEL_SET.into(), device: "CPU, 2 threads, AVX2".into(), ..state.clone() };
        assert!(cpu.differences(&other("CPU, 8 threads, AVX-512")).is_empty(), "the same bits for any number of threads");
        assert_eq!(cpu.differences(&other("llvmpipe")).len(), 1);
        let same = State { kernels: KERNEL_SET.into(), device: "e".into(), ..state };
        assert!(same.differences(&RunFingerprint { data: Digest { bytes: 9, crc32: 5 }, ..around }).is_empty());
    }
}
