//! Gradient clipping: by global norm, by value, or by a percentile of recent norms. Recorded between `unscale` and
//! `step`.
//!
//! The factor `min(1, max_norm / (norm + 1e-6))` is applied by the optimizer as it reads the gradients, in f32: the
//! same bits as a pass of its own. Finite gradients whose norm exceeds f32 are clipped as any others; the norm that is
//! reported and remembered is then the largest f32. With an infinite gradient and no loss scaler the update would be
//! NaN or 0; `TrainConfig::error_if_nonfinite` stops there. Kernels: `cpu/grad_norm.rs`, `cpu/clip.rs`. Source:
//! `torch.nn.utils.clip_grad_norm_`.

use super::scaler::GradScaler;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::update::{ClipCoef, ClipValue, GradNorm, NormType};
use crate::op::{Op, Real};
use crate::optim::Optim;
use crate::program::{Kind, Role, ValueId};
use crate::shape::Ty;
use crate::trace::Var;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Clip {
    /// Global norm at most this.
    Norm(f32),
    /// Every element within `[-v, v]`.
    Value(f32),
    /// Global norm at most a percentile of the norms of recent steps.
    Adaptive {
        /// 0 to 100.
        percentile: f32,
        /// Steps remembered.
        window: usize,
        /// Limit until the window is full.
        max_norm: f32,
    },
}

impl Clip {
    /// Checks the limits. PyTorch takes a negative limit and flips signs; here it is refused. Fails at the first that
    /// is not positive and finite, naming it.
    pub fn validate(&self) -> Result<()> {
        let limit = |name: &str, v: f32| {
            if v > 0.0 && v.is_finite() { Ok(()) } else { Err(Error::number(name, "a positive finite limit", v)) }
        };
        match *self {
            Clip::Norm(v) => limit("clip.norm", v),
            Clip::Value(v) => limit("clip.value", v),
            Clip::Adaptive { percentile, window, max_norm } => {
                if !(0.0..=100.0).contains(&percentile) {
                    return Err(Error::number("clip.adaptive.percentile", "0 to 100", percentile));
                }
                if !(1..=65_536).contains(&window) {
                    return Err(Error::config("clip.adaptive.window", "1 to 65536", window.to_string()));
                }
                limit("clip.adaptive.max_norm", max_norm)
            }
        }
    }
}

/// Records the norm of the gradients of `optim`, f32[]: after unscale, before clipping. Finite if all of them are.
/// Fails if the gradients are not there, or still carry the loss scale.
#[track_caller]
pub fn grad_norm<'g>(scaler: &GradScaler<'g>, optim: &Optim<'g>, norm: NormType) -> Result<Var<'g>> {
    Ok(near_and_far(scaler, optim, norm)?[0])
}

/// The norm as f32 holds it, and times 2^-64.
#[track_caller]
fn near_and_far<'g>(scaler: &GradScaler<'g>, optim: &Optim<'g>, norm: NormType) -> Result<[Var<'g>; 2]> {
    scaler.check_unscaled(optim)?;
    let ids: Vec<ValueId> = optim.grads()?.iter().map(|v| v.id).collect();
    let _why =
        optim.graph().because(Some(Arc::from("norm of all gradients: for clipping, finite checks and reports, summed in f32")));
    let out = optim.graph().push(Op::GradNorm(GradNorm { norm }), &ids);
    Ok([out[0], out[1]])
}

/// Records clipping and returns the norm before it. Fails if a limit is out of range, the gradients still carry the
/// loss scale, or a factor was recorded for this step.
#[track_caller]
pub fn clip_grads<'g>(scaler: &GradScaler<'g>, optim: &mut Optim<'g>, clip: Clip) -> Result<Var<'g>> {
    clip.validate()?;
    if optim.is_clipped() {
        return Err(optim.graph().misuse(
            "clip",
            "a clipping factor is recorded for this step",
            "clip by a norm once a step, last",
        ));
    }
    let [norm, far] = near_and_far(scaler, optim, NormType::L2)?;
    let g = optim.graph();
    let _why = g.because(Some(Arc::from("gradient clipping: in f32, after the loss scale is gone")));
    match clip {
        Clip::Norm(max_norm) => {
            let op = ClipCoef { max_norm: Real(f64::from(max_norm)), percentile: None };
            let coef = g.push(Op::ClipCoef(op), &[norm.id, far.id])[0];
            optim.set_clip_coef(coef);
        }
        Clip::Adaptive { percentile, window, max_norm } => {
            let name = |what: &str| format!("{}.{what}", optim.name());
            let ring = g.root_state(&name("norms"), Ty::new(DType::F32, [window]), Role::Precision, 0.0);
            let count = g.root_state(&name("norm_count"), Ty::scalar(DType::U32), Role::Precision, 0.0);
            let op = ClipCoef { max_norm: Real(f64::from(max_norm)), percentile: Some(Real(f64::from(percentile))) };
            let out = g.push_into(Op::ClipCoef(op), &[norm.id, far.id, ring, count], &[None, Some(ring), Some(count)]);
            optim.set_clip_coef(out[0]);
        }
        Clip::Value(limit) => {
            let ids: Vec<ValueId> = optim.grads()?.iter().map(|v| v.id).collect();
            let outputs: Vec<Option<ValueId>> =
                ids.iter().map(|&id| matches!(g.kind(id), Kind::State(..)).then_some(id)).collect();
            let clipped = g.push_into(Op::ClipValue(ClipValue { limit: Real(f64::from(limit)) }), &ids, &outputs);
            optim.replace_grads(clipped);
        }
    }
    Ok(norm)
}
