//! Softmax, log-softmax and mean cross-entropy over the last axis. CPU kernels: `cpu/softmax.rs`, `cpu/xent.rs`.
//!
//! `Softmax`: input `x`, output `y`. Backward: inputs `y, dy`, output `dx` (dtype `out`). `CrossEntropy`: inputs
//! `logits` [N, V], `targets` u32 `[N]`; outputs `loss` f32[], `stats` f32 `[N, 2]` (of each row the largest logit and
//! the inverse of the sum of exponentials over it), `count` f32[] (rows not ignored). Backward: inputs
//! `logits, targets, stats, count, dloss`; output `dlogits` (dtype of the logits). `u32::MAX - 99` (-100 as i32) is
//! ignored.

use super::{Real, arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

/// The target that takes no part in the loss: -100, as in PyTorch.
pub const IGNORE_INDEX: u32 = -100i32 as u32;

/// Attributes of `Softmax`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Softmax {
    /// The logarithm of the softmax.
    pub log: bool,
    /// Storage dtype of the output.
    pub out: DType,
}

impl Softmax {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("softmax", inputs, 1)?;
        expect_float("softmax", &inputs[0])?;
        expect(!inputs[0].shape.is_empty(), "softmax", "at least one axis", &inputs[0])?;
        Ok(vec![Ty { dtype: self.out, shape: inputs[0].shape.clone() }])
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("softmax_backward", inputs, 2)?;
        expect(inputs[0].shape == inputs[1].shape, "softmax_backward", format!("dy like y, {}", inputs[0]), &inputs[1])?;
        Ok(vec![Ty { dtype: self.out, shape: inputs[0].shape.clone() }])
    }
}

/// Attributes of `CrossEntropy`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CrossEntropy {
    /// Share of the target spread evenly over all classes.
    pub label_smoothing: Real,
}

impl CrossEntropy {
    fn check(name: &'static str, inputs: &[Ty]) -> Result<usize> {
        let (logits, targets) = (&inputs[0], &inputs[1]);
        expect_float(name, logits)?;
        expect(logits.shape.len() == 2, name, "logits of shape [N, V]", logits)?;
        let n = logits.shape[0];
        expect(*targets == Ty::new(DType::U32, [n]), name, format!("targets u32[{n}]"), targets)?;
        Ok(n)
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("cross_entropy", inputs, 2)?;
        let n = CrossEntropy::check("cross_entropy", inputs)?;
        Ok(vec![Ty::scalar(DType::F32), Ty::new(DType::F32, [n, 2]), Ty::scalar(DType::F32)])
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        let name = "cross_entropy_backward";
        arity(name, inputs, 5)?;
        let n = CrossEntropy::check(name, inputs)?;
        expect(inputs[2] == Ty::new(DType::F32, [n, 2]), name, "stats f32 [N, 2]", &inputs[2])?;
        for s in &inputs[3..] {
            expect(*s == Ty::scalar(DType::F32), name, "f32 scalars count and dloss", s)?;
        }
        Ok(vec![inputs[0].clone()])
    }
}
