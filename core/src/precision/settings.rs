//! The settings of precision as plain data: what a region computes in, how fp8 is scaled, what an override asks for.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::near;
use crate::op::quantize::{AmaxAlgo, MxRule, NonFiniteAmax};
use serde::{Deserialize, Serialize};

/// What autocast does between two points of the model code.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Dtype of the `Low` class; `None` turns autocast off.
    pub low: Option<DType>,
    /// Linear layers compute in fp8.
    pub fp8: Option<Fp8Config>,
}

impl Region {
    /// No autocast.
    pub fn off() -> Region {
        Region { low: None, fp8: None }
    }

    /// Autocast to `low`.
    pub fn low(low: DType) -> Region {
        Region { low: Some(low), fp8: None }
    }
}

/// Formats of forward and backward fp8 tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fp8Format {
    /// e4m3 forward, e5m2 for gradients.
    Hybrid,
    /// e4m3 everywhere.
    E4m3,
}

impl Fp8Format {
    /// Format of activations and weights.
    pub const fn forward(self) -> DType {
        DType::E4m3
    }

    /// Format of output gradients.
    pub const fn backward(self) -> DType {
        match self {
            Fp8Format::Hybrid => DType::E5m2,
            Fp8Format::E4m3 => DType::E4m3,
        }
    }
}

/// Where fp8 scales come from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "scaling", deny_unknown_fields)]
pub enum Fp8Scaling {
    /// Histories of past amaxes.
    Delayed {
        /// Micro-steps remembered: histories roll once in each, as in Transformer Engine.
        amax_history_len: usize,
        /// Which of them decides.
        amax_algo: AmaxAlgo,
        /// Headroom in powers of two.
        margin: i32,
        /// What a non-finite amax does.
        nonfinite_amax: NonFiniteAmax,
        /// Start from the present amax instead of scale 1.
        warm_up: bool,
    },
    /// The present amax.
    Current {
        /// Lower bound of the amax.
        amax_epsilon: f32,
        /// Scales rounded down to powers of two.
        power_of_two: bool,
    },
    /// One E8M0 scale per 32 elements.
    Mx {
        /// Rounding of the scale.
        scale_rule: MxRule,
    },
}

impl Fp8Scaling {
    /// Name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Fp8Scaling::Delayed { .. } => "delayed scaling",
            Fp8Scaling::Current { .. } => "current scaling",
            Fp8Scaling::Mx { .. } => "mx blocks",
        }
    }
}

/// fp8 part of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fp8Config {
    /// Element formats.
    pub format: Fp8Format,
    /// Where scales come from.
    #[serde(flatten)]
    pub scaling: Fp8Scaling,
}

/// What an override asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverrideDtype {
    /// No low dtype: operands of matmuls are widened to f32.
    F32,
    /// Matmuls in tf32.
    Tf32,
    /// bf16 autocast, no fp8.
    Bf16,
    /// f16 autocast, no fp8.
    F16,
    /// Linear layers in the recipe's fp8, also where the model leaves it out.
    Fp8,
}

impl OverrideDtype {
    /// All of them.
    pub const ALL: [OverrideDtype; 5] =
        [OverrideDtype::F32, OverrideDtype::Tf32, OverrideDtype::Bf16, OverrideDtype::F16, OverrideDtype::Fp8];

    /// The token a user types.
    pub const fn name(self) -> &'static str {
        match self {
            OverrideDtype::F32 => "f32",
            OverrideDtype::Tf32 => "tf32",
            OverrideDtype::Bf16 => "bf16",
            OverrideDtype::F16 => "f16",
            OverrideDtype::Fp8 => "fp8",
        }
    }

    /// The low dtype of the region; `None` for fp8, which keeps the recipe's.
    pub(super) const fn low(self) -> Option<DType> {
        match self {
            OverrideDtype::F32 => Some(DType::F32),
            OverrideDtype::Tf32 => Some(DType::Tf32),
            OverrideDtype::Bf16 => Some(DType::Bf16),
            OverrideDtype::F16 => Some(DType::F16),
            OverrideDtype::Fp8 => None,
        }
    }
}

impl std::str::FromStr for OverrideDtype {
    type Err = Error;
    fn from_str(s: &str) -> Result<OverrideDtype> {
        let known = OverrideDtype::ALL.map(OverrideDtype::name);
        OverrideDtype::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| near::unknown("override dtype", &known, s))
    }
}

/// The precision of the scopes that match a pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Glob over scope names, such as `gpt.h*.mlp.*`.
    pub scope: String,
    /// What the scopes compute in.
    pub dtype: OverrideDtype,
}
