//! Warnings of a run, as plain data. `diagnose::health` raises them.

use serde::{Deserialize, Serialize};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarningKind {
    /// Loss or gradients are not finite and the step was not skipped: weights and moments are lost.
    NonFinite,
    /// Loss or gradients are not finite; the step was skipped, though there is no loss scale to find.
    Skipped,
    /// Nothing has been finite for some steps, and there is no loss scale to blame.
    Stuck,
    /// The loss scale falls step after step and nothing becomes finite.
    ScaleSpiral,
    /// The loss scale is at its floor and steps are still skipped.
    ScaleAtFloor,
    /// Many steps are skipped though the scale moves.
    ManySkips,
    /// Every gradient is exactly zero.
    ZeroGradients,
    /// fp8 tensors whose amax is 0 step after step.
    DeadFp8,
    /// fp8 tensors of which much becomes zero.
    Fp8Underflow,
    /// fp8 tensors of which much is cut off at the largest value.
    Fp8Saturation,
    /// fp8 tensors with non-finite values.
    Fp8NonFinite,
}

/// A condition that calls for action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What is wrong.
    #[serde(rename = "ailment")]
    pub kind: WarningKind,
    /// Step at which it was confirmed.
    pub step: u64,
    /// What was seen.
    pub message: String,
    /// What helps.
    pub remedy: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}; {}", self.step, self.message, self.remedy)
    }
}
