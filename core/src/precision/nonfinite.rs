//! What happens when the loss or the gradients of a step are not finite.
//!
//! A loss scaler looks at every gradient while it unscales them. Recipes without one have the norm of the gradients,
//! which is recorded in every step and is finite exactly if all of them are; so the check of `guard` is one elementwise
//! instruction over a few scalars, and the skip costs nothing. A cast to fp8 saturates, so an infinite operand leaves
//! finite gradients: quantizations count what was not finite, and the count is one of these scalars, with a loss scaler
//! as without. `ignore` looks at none of them, and the saturated values count. `skip` and `stop` record the same
//! Program: whether a run ends is for its host to decide, which reads `found_inf` after the step.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::near;
use crate::op::expr::Ex;
use crate::op::map::{BinaryFn, UnaryFn};
use crate::trace::Var;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Policy for a step whose loss or gradients are not finite. A loss scaler skips such a step under each of them: that
/// is how it finds its scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// Weights, moments and step counter stay as they are, on the device; the run goes on.
    #[default]
    Skip,
    /// As [`OnNonFinite::Skip`], and the run ends there, unless a lower loss scale may mend it.
    Stop,
    /// The update is applied, as PyTorch does without a scaler: the weights become NaN. Infinite fp8 operands count as
    /// the largest value of their format, as in Transformer Engine.
    Ignore,
}

impl OnNonFinite {
    /// Every policy.
    pub const ALL: [OnNonFinite; 3] = [OnNonFinite::Skip, OnNonFinite::Stop, OnNonFinite::Ignore];

    /// The token a user types.
    pub const fn name(self) -> &'static str {
        match self {
            OnNonFinite::Skip => "skip",
            OnNonFinite::Stop => "stop",
            OnNonFinite::Ignore => "ignore",
        }
    }

    /// Whether a step is skipped where no loss scaler looks after it.
    pub const fn guards(self) -> bool {
        match self {
            OnNonFinite::Skip | OnNonFinite::Stop => true,
            OnNonFinite::Ignore => false,
        }
    }
}

impl std::str::FromStr for OnNonFinite {
    type Err = Error;
    fn from_str(s: &str) -> Result<OnNonFinite> {
        let known = OnNonFinite::ALL.map(OnNonFinite::name);
        OnNonFinite::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| near::unknown("on_nonfinite", &known, s))
    }
}

/// Records `found_inf` for gradients without a loss scale, f32[]: 1 if `loss` or the `norm` of the gradients is not
/// finite, or the count `fp8` of non-finite operands is not 0; else 0.
#[track_caller]
pub(crate) fn guard<'g>(loss: Var<'g>, norm: Var<'g>, fp8: Option<Var<'g>>) -> Var<'g> {
    let _why = norm.g.because(Some(Arc::from("finite check: a step that is not finite is skipped")));
    let finite = |n| Ex::input(n).unary(UnaryFn::IsFinite);
    let both = finite(0) * finite(1);
    match fp8 {
        None => norm.g.map(Ex::constant(1.0) - both, &[loss, norm], DType::F32),
        Some(count) => {
            let none = Ex::input(2).binary(BinaryFn::Eq, Ex::constant(0.0));
            norm.g.map(Ex::constant(1.0) - both * none, &[loss, norm, count], DType::F32)
        }
    }
}

/// Records `found_inf` as a loss scaler found it, f32[], also set where the count `fp8` of non-finite operands is not
/// 0.
#[track_caller]
pub(crate) fn with_fp8<'g>(found_inf: Var<'g>, fp8: Var<'g>) -> Var<'g> {
    let g = fp8.g;
    let _why = g.because(Some(Arc::from("finite check: a non-finite fp8 operand is an overflow")));
    let some = Ex::constant(0.0).binary(BinaryFn::Lt, Ex::input(1));
    g.map(Ex::input(0).binary(BinaryFn::Max, some), &[found_inf, fp8], DType::F32)
}
