//! fp8 quantization and its scales. CPU kernels: `cpu/quantize.rs`, `cpu/quantize_mx.rs`, `cpu/fp8_scale.rs`.
//!
//! `Quantize`: `q = saturating RNE(x * scale)`, `scale_inv = 1 / scale` stored beside `q`. Inputs `x`, then for delayed
//! scaling `scale` f32 `[n]`, then, where `record`, `history` f32 [len, n] (delayed only) and `stats` f32 [n, STATS].
//! Outputs `q`, `scale_inv` f32[], then the recorded states in the same order, updated at column/row `slot`.
//! `QuantizeMx`: inputs `x`, (`stats`); outputs codes, E8M0 scales, (`stats`). `UpdateFp8Scales`: inputs and outputs
//! `history`, `scale`, `nonfinite` u32 `[n]`.

use super::scale::{BlockAxis, OperandScale, scale_type};
use super::{Real, arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;
use serde::{Deserialize, Serialize};

/// Columns of a statistics row: amax, scale used, share of all values that became zero though they were not, share
/// saturated, non-finite count.
pub const STATS: usize = 5;

/// The column with the number of elements that were not finite before the tensor was quantized.
pub const NONFINITE_COLUMN: usize = 4;

/// Where the scale of `Quantize` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scaling {
    /// From the `scale` state, which `UpdateFp8Scales` derives from past amaxes.
    Delayed {
        /// While the tensor's history is all zero, use the scale of the present amax instead of the initial 1.0.
        warm_up: bool,
    },
    /// From this tensor's own amax.
    Current {
        /// Lower bound of the amax.
        amax_epsilon: Real,
        /// Round the scale down to a power of two.
        power_of_two: bool,
    },
}

/// Attributes of `Quantize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quantize {
    /// `E4m3` or `E5m2`.
    pub dtype: DType,
    /// Where the scale comes from.
    pub scaling: Scaling,
    /// Number of this tensor among the fp8 tensors of its direction.
    pub slot: usize,
    /// Write amax history and statistics (training) or only read the scale (evaluation).
    pub record: bool,
}

impl Quantize {
    /// Number of state operands that are both read and written.
    fn states(&self) -> usize {
        match (self.record, self.scaling) {
            (false, _) => 0,
            (true, Scaling::Delayed { .. }) => 2,
            (true, Scaling::Current { .. }) => 1,
        }
    }

    /// Inputs before the states.
    pub fn plain_inputs(&self) -> usize {
        match self.scaling {
            Scaling::Delayed { .. } => 2,
            Scaling::Current { .. } => 1,
        }
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        let plain = self.plain_inputs();
        arity("quantize", inputs, plain + self.states())?;
        expect_float("quantize", &inputs[0])?;
        expect(self.dtype.is_fp8(), "quantize", "e4m3 or e5m2", &self.dtype)?;
        if plain == 2 {
            let ok = inputs[1].dtype == DType::F32 && inputs[1].shape.len() == 1 && self.slot < inputs[1].shape[0];
            expect(ok, "quantize", format!("scales f32 [n] with n > {}", self.slot), &inputs[1])?;
        }
        let mut out = vec![Ty { dtype: self.dtype, shape: inputs[0].shape.clone() }, Ty::scalar(DType::F32)];
        out.extend_from_slice(&inputs[plain..]);
        check_stats("quantize", self.record.then(|| inputs.last()).flatten(), self.slot)?;
        Ok(out)
    }
}

fn check_stats(op: &'static str, stats: Option<&Ty>, slot: usize) -> Result<()> {
    match stats {
        None => Ok(()),
        Some(t) => {
            let ok = t.dtype == DType::F32 && t.shape.len() == 2 && slot < t.shape[0] && t.shape[1] == STATS;
            expect(ok, op, format!("statistics f32 [n, {STATS}] with n > {slot}"), t)
        }
    }
}

/// How the E8M0 scale follows from a block's amax.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MxRule {
    /// Round `amax / max` up: nothing saturates (Transformer Engine). The default.
    Ceil,
    /// `floor(log2 amax) - emax` (OCP v1.0): block maxima up to 512/448 over may saturate.
    Floor,
}

/// Attributes of `QuantizeMx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeMx {
    /// Element format, `E4m3` or `E5m2`.
    pub dtype: DType,
    /// The axis along which elements share a scale.
    pub blocks: BlockAxis,
    /// Scale rule.
    pub rule: MxRule,
    /// Row of the statistics state.
    pub slot: usize,
    /// Write statistics.
    pub record: bool,
}

impl QuantizeMx {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("quantize_mx", inputs, 1 + usize::from(self.record))?;
        let x = &inputs[0];
        expect_float("quantize_mx", x)?;
        expect(self.dtype.is_fp8(), "quantize_mx", "e4m3 or e5m2", &self.dtype)?;
        expect(x.shape.len() == 2, "quantize_mx", "a matrix", x)?;
        let mut out = vec![Ty { dtype: self.dtype, shape: x.shape.clone() }, scale_type(OperandScale::Blocks(self.blocks), x)];
        out.extend_from_slice(&inputs[1..]);
        check_stats("quantize_mx", inputs.get(1), self.slot)?;
        Ok(out)
    }
}

/// Which past amax decides the scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AmaxAlgo {
    /// The largest of the history. The default.
    Max,
    /// The last one.
    MostRecent,
}

/// What a non-finite amax does to the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFiniteAmax {
    /// It is counted, never recorded: the tensor's history is not rolled, its staging row is cleared, its scale stays.
    /// Non-finite values that a history already holds (from a checkpoint) are left out of the window. The default.
    Ignore,
    /// It enters the history, which freezes the scale until it has left (Transformer Engine).
    Record,
}

/// Attributes of `UpdateFp8Scales`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpdateFp8Scales {
    /// Format of each tensor, in slot order.
    pub formats: Vec<DType>,
    /// The scale is divided by `2^margin`.
    pub margin: i32,
    /// Which past amax decides.
    pub algo: AmaxAlgo,
    /// What a non-finite amax does.
    pub nonfinite: NonFiniteAmax,
}

impl UpdateFp8Scales {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("update_fp8_scales", inputs, 3)?;
        let n = self.formats.len();
        let history = &inputs[0];
        let ok = history.dtype == DType::F32 && history.shape.len() == 2 && history.shape[0] >= 1 && history.shape[1] == n;
        expect(ok, "update_fp8_scales", format!("history f32 [len, {n}]"), history)?;
        expect(inputs[1] == Ty::new(DType::F32, [n]), "update_fp8_scales", format!("scale f32[{n}]"), &inputs[1])?;
        expect(inputs[2] == Ty::new(DType::U32, [n]), "update_fp8_scales", format!("counter u32[{n}]"), &inputs[2])?;
        Ok(inputs.to_vec())
    }
}
