//! Everything that decides the numbers of a run.

use crate::data::BatchPlan;
use crate::error::{Error, Result, number};
use crate::model::ModelConfig;
use crate::optim::OptimConfig;
use crate::optim::schedule::Schedule;
use crate::precision::clip::Clip;
use crate::precision::{OnNonFinite, Recipe};
use crate::show::thousands;
use crate::telemetry::StepReport;
use serde::{Deserialize, Serialize};

/// A validated description of a run. The same config, data and backend give the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Model and sizes.
    pub model: ModelConfig,
    /// Precision.
    pub recipe: Recipe,
    /// Optimizer.
    pub optim: OptimConfig,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Gradient clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<Clip>,
    /// Stop with an error when the gradient norm is not finite, as `clip_grad_norm_(error_if_nonfinite=True)`.
    #[serde(default)]
    pub error_if_nonfinite: bool,
    /// What happens to a step whose loss or gradients are not finite.
    #[serde(default)]
    pub on_nonfinite: OnNonFinite,
    /// Sequences or images of a micro-step.
    pub batch: usize,
    /// Micro-steps of a step.
    pub grad_accum: usize,
    /// Seed of weights, batches and dropout.
    pub seed: u64,
}

impl TrainConfig {
    /// Checks every part. Fails at the first setting that is out of range, naming it by its path.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.recipe.validate()?;
        self.optim.validate()?;
        if let Some(clip) = &self.clip {
            clip.validate()?;
        }
        let range = |name: &str, n: usize, max: usize| {
            if (1..=max).contains(&n) { Ok(()) } else { Err(Error::config(name, format!("1 to {max}"), n.to_string())) }
        };
        range("batch", self.batch, 1 << 20)?;
        range("grad_accum", self.grad_accum, 1 << 16)?;
        let s = &self.schedule;
        if !(s.lr >= 0.0 && (s.lr as f32).is_finite()) {
            return Err(Error::number("schedule.lr", "a value of at least 0 that is finite as f32", s.lr));
        }
        if !(s.min_lr >= 0.0 && s.min_lr <= s.lr) {
            return Err(Error::number("schedule.min_lr", format!("0 to lr ({})", number(s.lr)), s.min_lr));
        }
        Ok(())
    }

    /// Whether the run is to end after the step of `report`: the policy is [`OnNonFinite::Stop`], and something was not
    /// finite that no lower loss scale can mend; or the norm of the gradients was not finite and `error_if_nonfinite`
    /// is set.
    pub fn ends_at(&self, report: &StepReport) -> bool {
        let searching = match (self.recipe.scaler, report.loss_scale) {
            (Some(scaler), Some(scale)) => report.loss.is_finite() && f64::from(scale) > scaler.min_scale,
            (None, _) | (_, None) => false,
        };
        let stops = self.on_nonfinite == OnNonFinite::Stop && report.found_inf && !searching;
        stops || (self.error_if_nonfinite && !report.grad_norm.is_finite())
    }

    /// Whether the report of a step may keep the next one from being taken, so that a host must wait for it.
    pub fn may_end_early(&self) -> bool {
        self.error_if_nonfinite || self.on_nonfinite == OnNonFinite::Stop
    }

    /// Which examples its steps see.
    pub fn batch_plan(&self) -> BatchPlan {
        BatchPlan { seed: self.seed, batch: self.batch, grad_accum: self.grad_accum, examples: self.model.examples() }
    }

    /// Tokens or images of a step.
    pub fn items_per_step(&self) -> usize {
        self.model.items_per_batch(self.batch) * self.grad_accum
    }

    /// The examples of a step with their factors: `16 x 128 x 1 = 2,048`.
    pub fn items_per_step_text(&self) -> String {
        let factors = match self.model.items_per_batch(1) {
            1 => format!("{} x {}", self.batch, self.grad_accum),
            n => format!("{} x {n} x {}", self.batch, self.grad_accum),
        };
        format!("{factors} = {}", thousands(self.items_per_step()))
    }
}
