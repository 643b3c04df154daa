//! `GradScaler`: loss scaling with the behaviour of `torch.amp.GradScaler`, recorded into the step.
//!
//! The scale and its trackers live on the device; a step with a non-finite gradient leaves weights, moments and step
//! counters untouched. The order of calls is checked while recording: misuse is [`Error::Misuse`], not a wrong run.
//! Deliberate differences from PyTorch: finiteness is judged before and after unscaling, any non-zero or NaN
//! `found_inf` counts, the scale has a floor (2^-14 by default, 2^-126 without one). Kernels: `cpu/unscale.rs`,
//! `cpu/loss_scale.rs`.

use super::nonfinite;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::expr::{Ex, Map};
use crate::op::update::inv_scale;
use crate::op::update::{UnscaleCheck, UpdateLossScale};
use crate::op::{Op, Real};
use crate::optim::Optim;
use crate::program::{Kind, Program, Role, ValueId};
use crate::shape::Ty;
use crate::trace::{Graph, Owed, Var};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Name of the state with the loss scale.
pub const LOSS_SCALE: &str = "loss_scale";
/// Name of the state with the number of good steps since the last change.
pub const GROWTH_TRACKER: &str = "growth_tracker";
/// Name of the state with the overflows left before the scale backs off.
pub const HYSTERESIS: &str = "loss_scale_hysteresis";

/// Where backoff ends without another floor: the smallest normal f32, whose inverse every device holds. Gradients are
/// multiplied by the inverse, so a loss scale of 0 would skip every step from then on.
pub const LEAST_SCALE: f32 = f32::MIN_POSITIVE;

/// Why instructions of loss scaling are there.
const SCALED: &str = "loss scaling: gradients stay in the range of the low dtype";
const UNSCALED: &str = "loss scaling: gradients without the loss scale, each looked at before and after";
const UPDATED: &str = "loss scaling: backoff after an overflow, growth after good steps";

/// Constructor arguments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalerConfig {
    /// First loss scale.
    pub init_scale: f64,
    /// Factor after `growth_interval` good steps, above 1.
    pub growth_factor: f64,
    /// Factor after an overflow, between 0 and 1.
    pub backoff_factor: f64,
    /// Good steps until growth; 0 never grows.
    pub growth_interval: u32,
    /// The scale never falls below this; 0 lets it fall to [`LEAST_SCALE`].
    pub min_scale: f64,
    /// Overflows in a row until the scale backs off; 1 at once.
    pub hysteresis: u32,
}

impl Default for ScalerConfig {
    fn default() -> ScalerConfig {
        ScalerConfig {
            init_scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            min_scale: 1.0 / 16384.0,
            hysteresis: 1,
        }
    }
}

impl ScalerConfig {
    /// Checks every argument. Fails at the first that is out of range, naming it as `scaler.<name>`.
    pub fn validate(&self) -> Result<()> {
        let bad = |name: &str, want: &str, got: f64| Err(Error::number(format!("scaler.{name}"), want, got));
        if !is_usable(self.init_scale as f32) {
            return bad("init_scale", "a positive finite f32 whose inverse is finite", self.init_scale);
        }
        if !(self.growth_factor > 1.0 && self.growth_factor.is_finite()) {
            return bad("growth_factor", "a finite value above 1", self.growth_factor);
        }
        if !(self.backoff_factor > 0.0 && self.backoff_factor < 1.0) {
            return bad("backoff_factor", "a value between 0 and 1", self.backoff_factor);
        }
        if !(self.min_scale >= 0.0 && self.min_scale <= self.init_scale) {
            return bad("min_scale", "a value from 0 to init_scale", self.min_scale);
        }
        if self.min_scale > 0.0 && !is_usable(self.min_scale as f32) {
            return bad("min_scale", "0, or an f32 whose inverse is finite", self.min_scale);
        }
        if self.growth_interval > i32::MAX as u32 {
            return bad("growth_interval", "at most 2147483647", f64::from(self.growth_interval));
        }
        if !(1..=1 << 20).contains(&self.hysteresis) {
            return bad("hysteresis", "1 to 1048576", f64::from(self.hysteresis));
        }
        Ok(())
    }

    fn update(&self) -> UpdateLossScale {
        UpdateLossScale {
            growth_factor: Real(self.growth_factor),
            backoff_factor: Real(self.backoff_factor),
            growth_interval: self.growth_interval,
            min_scale: Real(self.min_scale.max(f64::from(LEAST_SCALE))),
            hysteresis: self.hysteresis,
        }
    }

    /// `program` with the loss scale updated by this config. Nothing else in a Program depends on it.
    pub(crate) fn applied_to(&self, program: &Program) -> Program {
        let mut program = program.clone();
        for instr in &mut program.instrs {
            if let Op::UpdateLossScale(update) = &mut instr.op {
                *update = self.update();
            }
        }
        program
    }
}

/// Whether gradients can be multiplied by the inverse of this loss scale.
fn is_usable(scale: f32) -> bool {
    let inverse = inv_scale(scale);
    scale > 0.0 && scale.is_finite() && inverse > 0.0 && inverse.is_finite()
}

/// State dict, with the keys of PyTorch, and one more where there is hysteresis. Take it after `update`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalerState {
    /// Loss scale.
    pub scale: f32,
    /// Factor on growth.
    pub growth_factor: f64,
    /// Factor on overflow.
    pub backoff_factor: f64,
    /// Good steps until growth.
    pub growth_interval: u32,
    /// Good steps since the last change.
    #[serde(rename = "_growth_tracker")]
    pub growth_tracker: i32,
    /// Overflows left before the scale backs off. `None` where the first one does it, and in state dicts of PyTorch:
    /// all of them are left.
    #[serde(rename = "_hysteresis_tracker", default, skip_serializing_if = "Option::is_none")]
    pub hysteresis_tracker: Option<i32>,
}

impl ScalerState {
    /// Checks that training can go on from it. Fails at the first entry that is out of range, by its key.
    pub fn validate(&self) -> Result<()> {
        if !is_usable(self.scale) {
            return Err(Error::number("scale", "a positive finite loss scale whose inverse is finite", self.scale));
        }
        if self.growth_tracker < 0 {
            return Err(Error::config("_growth_tracker", "0 or more", self.growth_tracker.to_string()));
        }
        let config = ScalerConfig {
            init_scale: f64::from(self.scale),
            growth_factor: self.growth_factor,
            backoff_factor: self.backoff_factor,
            growth_interval: self.growth_interval,
            min_scale: 0.0,
            hysteresis: 1,
        };
        config.validate()
    }

    /// Whether a session in this state is where the one that saved `other` was. Older runs did not save the hysteresis.
    pub fn agrees_with(&self, other: &ScalerState) -> bool {
        *other
            == ScalerState {
                hysteresis_tracker: self.hysteresis_tracker.filter(|_| other.hysteresis_tracker.is_some()),
                ..*self
            }
    }

    /// `config` with the factors and the interval of this state.
    pub(crate) fn adopted_by(&self, config: ScalerConfig) -> ScalerConfig {
        let ScalerState { growth_factor, backoff_factor, growth_interval, .. } = *self;
        ScalerConfig { growth_factor, backoff_factor, growth_interval, ..config }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unscaled,
    Stepped,
}

/// Records loss scaling into a step. A disabled scaler records nothing and passes everything through.
#[derive(Debug)]
pub struct GradScaler<'g> {
    g: &'g Graph,
    enabled: Option<Enabled<'g>>,
    /// Optimizers seen since the last update, in order.
    seen: Vec<(String, Stage, Option<Var<'g>>)>,
}

#[derive(Clone, Copy, Debug)]
struct Enabled<'g> {
    config: ScalerConfig,
    scale: Var<'g>,
    tracker: Var<'g>,
    hysteresis: Var<'g>,
}

impl<'g> GradScaler<'g> {
    /// A scaler; `None` makes a disabled one. Fails if `config` is out of range.
    #[track_caller]
    pub fn new(g: &'g Graph, config: Option<ScalerConfig>) -> Result<GradScaler<'g>> {
        let enabled = match config {
            None => None,
            Some(config) => {
                config.validate()?;
                g.owe(Owed::ScaleUpdate);
                let state = |name: &str, dtype, fill| g.var(g.root_state(name, Ty::scalar(dtype), Role::Precision, fill));
                Some(Enabled {
                    config,
                    scale: state(LOSS_SCALE, DType::F32, config.init_scale),
                    tracker: state(GROWTH_TRACKER, DType::I32, 0.0),
                    hysteresis: state(HYSTERESIS, DType::I32, f64::from(config.hysteresis)),
                })
            }
        };
        Ok(GradScaler { g, enabled, seen: Vec::new() })
    }

    /// Whether it scales anything.
    pub fn is_enabled(&self) -> bool {
        self.enabled.is_some()
    }

    /// The loss scale on the device; `None` when disabled.
    pub fn loss_scale(&self) -> Option<Var<'g>> {
        self.enabled.map(|e| e.scale)
    }

    /// Good steps since the last change, i32 on the device; `None` when disabled.
    pub fn growth_tracker(&self) -> Option<Var<'g>> {
        self.enabled.map(|e| e.tracker)
    }

    /// `loss * loss_scale` in f32. Scale every loss of the step, every micro-step alike.
    #[track_caller]
    pub fn scale(&self, loss: Var<'g>) -> Var<'g> {
        match self.enabled {
            None => loss,
            Some(e) => {
                self.g.owe(Owed::ScaleUpdate);
                let _why = self.g.because(Some(Arc::from(SCALED)));
                loss.cast(DType::F32) * e.scale
            }
        }
    }

    /// Divides the gradients of `optim` by the loss scale and looks for non-finite ones. Call it before clipping. Fails
    /// before [`Graph::begin_update`], without gradients, and the second time in a step.
    #[track_caller]
    pub fn unscale(&mut self, optim: &mut Optim<'g>) -> Result<()> {
        self.g.check_in_update("unscale")?;
        match self.stage(optim) {
            Some(Stage::Unscaled) => {
                return Err(self.g.misuse(
                    "unscale",
                    "it was called for this optimizer since the last update",
                    "call it once a step",
                ));
            }
            Some(Stage::Stepped) => {
                return Err(self.g.misuse(
                    "unscale",
                    "the optimizer has already stepped",
                    "unscale before step, clip in between",
                ));
            }
            None => {}
        }
        let found_inf = match self.enabled {
            None => None,
            Some(e) => {
                self.g.owe(Owed::ScaleUpdate);
                let _why = self.g.because(Some(Arc::from(UNSCALED)));
                let mut inputs = vec![e.scale.id];
                inputs.extend(optim.grads()?.iter().map(|v| v.id));
                let outputs: Vec<Option<ValueId>> = std::iter::once(None)
                    .chain(inputs[1..].iter().map(|&id| matches!(self.g.kind(id), Kind::State(..)).then_some(id)))
                    .collect();
                let out = self.g.push_into(Op::UnscaleCheck(UnscaleCheck), &inputs, &outputs);
                optim.replace_grads(out[1..].to_vec());
                Some(out[0])
            }
        };
        self.seen.push((optim.name().to_string(), Stage::Unscaled, found_inf));
        Ok(())
    }

    /// Refuses clipping of gradients that still carry the loss scale.
    #[track_caller]
    pub(crate) fn check_unscaled(&self, optim: &Optim<'g>) -> Result<()> {
        self.g.check_in_update("clip")?;
        match self.stage(optim) {
            Some(Stage::Unscaled) => Ok(()),
            Some(Stage::Stepped) => {
                Err(self.g.misuse("clip", "the optimizer has already stepped", "clip between unscale and step"))
            }
            None if self.enabled.is_none() => Ok(()),
            None => Err(self.g.misuse("clip", "the gradients still carry the loss scale", "call unscale first")),
        }
    }

    /// Records the optimizer step; it is skipped on the device when a gradient is non-finite. Fails the second time in
    /// a step, and where [`GradScaler::unscale`] would.
    #[track_caller]
    pub fn step(&mut self, optim: &mut Optim<'g>) -> Result<()> {
        match self.stage(optim) {
            Some(Stage::Stepped) => {
                return Err(self.g.misuse(
                    "step",
                    "it was called for this optimizer since the last update",
                    "call update once a step",
                ));
            }
            Some(Stage::Unscaled) => {}
            None => self.unscale(optim)?,
        }
        let entry = self.seen.iter_mut().find(|(name, ..)| name == optim.name());
        let entry = entry.expect("unscale has just entered it");
        entry.1 = Stage::Stepped;
        optim.record_step(entry.2)
    }

    /// Without a loss scale: skips the step of `optim` where `loss` or the `norm` of its gradients is not finite. With
    /// one, unscaling has seen to that. `fp8`, from [`super::fp8::nonfinite`], skips it where an fp8 operand was not
    /// finite, either way. Call it between unscale and step. Fails unless `optim` is unscaled and has not stepped.
    #[track_caller]
    pub fn guard(&mut self, optim: &Optim<'g>, loss: Var<'g>, norm: Var<'g>, fp8: Option<Var<'g>>) -> Result<()> {
        let entry = self.seen.iter_mut().find(|(name, stage, _)| name == optim.name() && *stage == Stage::Unscaled);
        let Some((_, _, found_inf)) = entry else {
            return Err(self.g.misuse("guard", "the gradients are not ready to be judged", "guard between unscale and step"));
        };
        match (*found_inf, fp8) {
            (None, fp8) => *found_inf = Some(nonfinite::guard(loss, norm, fp8)),
            (Some(found), Some(fp8)) => *found_inf = Some(nonfinite::with_fp8(found, fp8)),
            (Some(_), None) => {}
        }
        Ok(())
    }

    /// `found_inf` of an optimizer whose gradients were unscaled or guarded; `None` if nothing looks at them.
    pub fn found_inf(&self, optim: &Optim<'g>) -> Option<Var<'g>> {
        self.seen.iter().find(|(name, ..)| name == optim.name()).and_then(|(_, _, found)| *found)
    }

    /// Records backoff or growth from the checks of all optimizers. Call it once, after all steps. Fails before
    /// [`Graph::begin_update`], and if no gradient was checked in this step.
    #[track_caller]
    pub fn update(&mut self) -> Result<()> {
        self.g.check_in_update("update")?;
        let seen = std::mem::take(&mut self.seen);
        let Some(e) = self.enabled else { return Ok(()) };
        let mut inputs = vec![e.scale.id, e.tracker.id, e.hysteresis.id];
        inputs.extend(seen.iter().filter_map(|(_, _, found)| found.map(|v| v.id)));
        if inputs.len() == 3 {
            return Err(self.g.misuse(
                "update",
                "no gradient was checked since the last update",
                "call step or unscale before update",
            ));
        }
        let op = e.config.update();
        self.g.settle(&Owed::ScaleUpdate);
        let _why = self.g.because(Some(Arc::from(UPDATED)));
        let outputs: Vec<Option<ValueId>> = inputs[..3].iter().map(|&id| Some(id)).collect();
        self.g.push_into(Op::UpdateLossScale(op), &inputs, &outputs);
        Ok(())
    }

    /// Records that the scale becomes `new_scale`; the growth tracker stays. Ends the step like [`GradScaler::update`].
    /// Fails if `new_scale` is not positive and finite with a finite inverse.
    #[track_caller]
    pub fn set(&mut self, new_scale: f64) -> Result<()> {
        self.seen.clear();
        let Some(e) = self.enabled else { return Ok(()) };
        ScalerConfig { init_scale: new_scale, min_scale: 0.0, ..e.config }.validate()?;
        self.g.settle(&Owed::ScaleUpdate);
        let map = Map::new(Ex::constant(new_scale as f32), &[], DType::F32)?;
        self.g.push_into(map.op(), &[], &[Some(e.scale.id)]);
        Ok(())
    }

    fn stage(&self, optim: &Optim<'g>) -> Option<Stage> {
        self.seen.iter().find(|(name, ..)| name == optim.name()).map(|(_, stage, _)| *stage)
    }
}
