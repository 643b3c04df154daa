//! What happens when the loss or the gradients of a step are not finite.
//!
//! A loss scaler looks at every gradient while it unscales them. Recipes without one have the norm of the gradients, which is recorded in every
//! step and is finite exactly if all of them are; so the check of `guard` is one elementwise instruction over two scalars, and the skip costs
//! nothing. `skip` and `stop` record the same Program: whether a run ends is for its host to decide, which reads `found_inf` after the step.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::op::expr::Ex;
use crate::op::map::UnaryFn;
use crate::trace::Var;
use serde::{Deserialize, Serialize};

/// Policy for a step whose loss or gradients are not finite. A loss scaler skips such a step under each of them: that is how it finds its scale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNonFinite {
    /// Weights, moments and step counter stay as they are, on the device; the run goes on.
    #[default]
    Skip,
    /// As [`OnNonFinite::Skip`], and the run ends there, unless a lower loss scale may mend it.
    Stop,
    /// The update is applied, as PyTorch does without a scaler: the weights become NaN.
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
        OnNonFinite::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| {
            let names = OnNonFinite::ALL.map(OnNonFinite::name).join(", ");
            Error::config("on_nonfinite", format!("one of {names}"), format!("`{s}`"))
        })
    }
}

/// Records `found_inf` for gradients without a loss scale, f32[]: 1 if `loss` or the `norm` of the gradients is not finite, else 0.
#[track_caller]
pub(crate) fn guard<'g>(loss: Var<'g>, norm: Var<'g>) -> Var<'g> {
    let finite = |n| Ex::input(n).unary(UnaryFn::IsFinite);
    norm.g.map(Ex::constant(1.0) - finite(0) * finite(1), &[loss, norm], DType::F32)
}
