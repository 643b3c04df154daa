//! What happens after the backward pass: unscale, norm, clip, optimizer, loss scale, telemetry. All state stays on the
//! device.
//!
//! CPU kernels: `cpu/{unscale,grad_norm,clip,optimizer,loss_scale}.rs`. Sources: PyTorch `GradScaler`,
//! `clip_grad_norm_`, `AdamW`.

use super::{Op, Real, arity, expect};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;
use serde::{Deserialize, Serialize};
use std::ops::Range;

fn scalar_f32(op: &'static str, what: &str, t: &Ty) -> Result<()> {
    expect(*t == Ty::scalar(DType::F32), op, format!("{what} f32[]"), t)
}

/// A clip factor: two numbers that are multiplied in one after the other.
fn coef() -> Ty {
    Ty::new(DType::F32, [2])
}

fn all_f32(op: &'static str, list: &[Ty]) -> Result<()> {
    list.iter().try_for_each(|t| expect(t.dtype == DType::F32, op, "f32 tensors", t))
}

/// Gradients times `1 / loss_scale`, in place. `found_inf` is 1 if any was non-finite before or after the product.
/// Inputs `loss_scale` f32[], gradients f32; outputs `found_inf` f32[], the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnscaleCheck;

impl UnscaleCheck {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        expect(inputs.len() >= 2, "unscale_check", "a loss scale and at least one gradient", &inputs.len())?;
        scalar_f32("unscale_check", "loss_scale", &inputs[0])?;
        all_f32("unscale_check", &inputs[1..])?;
        Ok(inputs.to_vec())
    }
}

/// Which norm of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormType {
    /// Root of the sum of squares.
    L2,
    /// Sum of magnitudes.
    L1,
    /// Largest magnitude.
    Inf,
}

/// Global norm of a list of gradients. Inputs gradients f32; outputs the norm f32[], which is the largest f32 where the
/// norm of finite gradients exceeds it, and `far` f32[], the norm times 2^-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GradNorm {
    /// Which norm.
    pub norm: NormType,
}

impl GradNorm {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        expect(!inputs.is_empty(), "grad_norm", "at least one gradient", &"none")?;
        all_f32("grad_norm", inputs)?;
        Ok(vec![Ty::scalar(DType::F32); 2])
    }
}

/// `min(1, max_norm / (norm + 1e-6))`. Inputs `norm` and `far` of [`GradNorm`], then for the adaptive limit `ring` f32
/// `[window]` and `count` u32[] with past finite norms; outputs the factor as two that are multiplied one after the
/// other, f32 `[2]`, then the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClipCoef {
    /// The limit; for the adaptive limit, the limit while the ring fills.
    pub max_norm: Real,
    /// Adaptive limit: this percentile (0 to 100) of the norms in the ring.
    pub percentile: Option<Real>,
}

impl ClipCoef {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("clip_coef", inputs, if self.percentile.is_some() { 4 } else { 2 })?;
        inputs[..2].iter().try_for_each(|t| scalar_f32("clip_coef", "norm", t))?;
        if self.percentile.is_some() {
            let ring_ok = inputs[2].dtype == DType::F32 && inputs[2].shape.len() == 1 && inputs[2].shape[0] > 0;
            expect(ring_ok, "clip_coef", "ring f32 [window]", &inputs[2])?;
            expect(inputs[3] == Ty::scalar(DType::U32), "clip_coef", "count u32[]", &inputs[3])?;
        }
        Ok([&[coef()][..], &inputs[2..]].concat())
    }
}

/// Gradients clamped to `[-limit, limit]`, in place; NaN stays NaN. Inputs and outputs the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClipValue {
    /// Largest magnitude left.
    pub limit: Real,
}

impl ClipValue {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        all_f32("clip_value", inputs)?;
        Ok(inputs.to_vec())
    }
}

/// Backoff on overflow, growth after `growth_interval` good steps. Inputs `loss_scale` f32[], `growth_tracker` i32[],
/// `hysteresis` i32[], then one `found_inf` f32[] per optimizer; outputs the three states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpdateLossScale {
    /// Factor after `growth_interval` good steps.
    pub growth_factor: Real,
    /// Factor after an overflow.
    pub backoff_factor: Real,
    /// Good steps until growth; 0 never grows.
    pub growth_interval: u32,
    /// The scale never falls below this.
    pub min_scale: Real,
    /// Overflows in a row that are forgiven before the scale backs off; 1 backs off at once.
    pub hysteresis: u32,
}

impl UpdateLossScale {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        expect(inputs.len() >= 4, "update_loss_scale", "three states and at least one found_inf", &inputs.len())?;
        scalar_f32("update_loss_scale", "loss_scale", &inputs[0])?;
        for t in &inputs[1..3] {
            expect(*t == Ty::scalar(DType::I32), "update_loss_scale", "counters i32[]", t)?;
        }
        inputs[3..].iter().try_for_each(|t| scalar_f32("update_loss_scale", "found_inf", t))?;
        Ok(inputs[..3].to_vec())
    }
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Adam; `decoupled` makes it AdamW (decay applied to the weight, not the gradient).
    Adam {
        /// Decay of the first moment.
        beta1: Real,
        /// Decay of the second moment.
        beta2: Real,
        /// Added to the root of the second moment. As f32 it must be above 0, see
        /// [`crate::optim::OptimConfig::validate`].
        eps: Real,
        /// AdamW.
        decoupled: bool,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// Decay of the velocity; 0 keeps none.
        momentum: Real,
        /// Share of the gradient left out of the velocity.
        dampening: Real,
        /// Look ahead along the velocity.
        nesterov: bool,
    },
}

impl Rule {
    /// Moment tensors kept for each parameter.
    pub fn moments(&self) -> usize {
        match self {
            Rule::Adam { .. } => 2,
            Rule::Sgd { momentum, .. } => usize::from(momentum.0 != 0.0),
        }
    }
}

/// One step over a list of n parameters; nothing is touched when `found_inf` is not 0. Inputs `lr` f32[], `step` u32[]
/// (steps taken), (`found_inf` f32[]), (`clip_coef` f32 `[2]`), parameters f32, gradients f32, moments f32 (all first
/// moments, then all second); outputs `step`, the parameters, the moments.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Optimizer {
    /// The update rule.
    pub rule: Rule,
    /// Weight decay of each parameter.
    pub weight_decay: Vec<Real>,
    /// Has a `found_inf` input.
    pub found_inf: bool,
    /// Has a `clip_coef` input, whose two factors are multiplied into every gradient.
    pub clip_coef: bool,
}

impl Optimizer {
    /// The instruction.
    pub fn op(self) -> Op {
        Op::Optimizer(self)
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.weight_decay.len()
    }

    /// No parameters.
    pub fn is_empty(&self) -> bool {
        self.weight_decay.is_empty()
    }

    /// Inputs before the parameter list.
    pub fn scalars(&self) -> usize {
        2 + usize::from(self.found_inf) + usize::from(self.clip_coef)
    }

    pub(super) fn packs(&self, n_inputs: usize) -> Vec<Range<usize>> {
        (self.scalars()..n_inputs).step_by(self.len().max(1)).map(|i| i..i + self.len()).collect()
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        let (n, s) = (self.len(), self.scalars());
        expect(n > 0, "optimizer", "at least one parameter", &"none")?;
        arity("optimizer", inputs, s + n * (2 + self.rule.moments()))?;
        scalar_f32("optimizer", "lr", &inputs[0])?;
        expect(inputs[1] == Ty::scalar(DType::U32), "optimizer", "step u32[]", &inputs[1])?;
        if self.found_inf {
            scalar_f32("optimizer", "found_inf", &inputs[2])?;
        }
        if self.clip_coef {
            expect(inputs[s - 1] == coef(), "optimizer", "clip_coef f32[2]", &inputs[s - 1])?;
        }
        all_f32("optimizer", &inputs[s..])?;
        for (i, t) in inputs[s..].iter().enumerate() {
            let param = &inputs[s + i % n];
            expect(t.shape == param.shape, "optimizer", format!("a tensor like its parameter {param}"), t)?;
        }
        let mut out = vec![inputs[1].clone()];
        out.extend_from_slice(&inputs[s..s + n]);
        out.extend_from_slice(&inputs[s + 2 * n..]);
        Ok(out)
    }

    pub(super) fn flops(&self, inputs: &[Ty]) -> u64 {
        let n: usize = inputs[self.scalars()..self.scalars() + self.len()].iter().map(|t| t.shape.numel()).sum();
        match self.rule {
            Rule::Adam { .. } => 18 * n as u64,
            Rule::Sgd { .. } => 6 * n as u64,
        }
    }
}

/// How a recorded scalar combines with what the slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordMode {
    /// The slot takes the value.
    Set,
    /// The value is added: sums over micro-steps.
    Add,
}

/// Inputs a scalar f32[] and `telemetry` f32 `[n]`; output `telemetry` with `slot` changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Position in the telemetry buffer.
    pub slot: usize,
    /// How the value combines.
    pub mode: RecordMode,
}

impl Record {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("record", inputs, 2)?;
        scalar_f32("record", "a scalar", &inputs[0])?;
        let ok = inputs[1].dtype == DType::F32 && inputs[1].shape.len() == 1 && self.slot < inputs[1].shape[0];
        expect(ok, "record", format!("telemetry f32 [n] with n > {}", self.slot), &inputs[1])?;
        Ok(vec![inputs[1].clone()])
    }
}

/// `1 / scale` in one correctly rounded f32 division. The same bits as PyTorch's `f32(1 / f64(scale))`: a quotient of
/// two 24-bit numbers is never so close to a rounding boundary of f32 that a first rounding to 53 bits could cross it.
/// (A power of two is exact on any hardware; WGSL division otherwise needs a correction step to be correctly rounded.)
pub fn inv_scale(scale: f32) -> f32 {
    1.0 / scale
}
