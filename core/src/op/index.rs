//! Elements of the last axis by index. CPU kernel: `cpu/gather.rs`.
//!
//! `Gather`: inputs `x` [R.., C], `ids` u32 [R.., K]; output [R.., K]. Backward: inputs `ids, dy`; output [R.., C].
//! `TopK`: input `x` [R.., C]; outputs values [R.., K] and u32 indices [R.., K], largest first.

use super::{arity, expect, expect_float};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::Ty;

pub(super) fn gather(inputs: &[Ty]) -> Result<Vec<Ty>> {
    arity("gather", inputs, 2)?;
    let (x, ids) = (&inputs[0], &inputs[1]);
    expect_float("gather", x)?;
    let lead = |t: &Ty| t.shape.split_last().map(|(_, r)| r.to_vec());
    let fits = ids.dtype == DType::U32 && lead(ids).is_some() && lead(ids) == lead(x);
    expect(fits, "gather", format!("u32 indices with the leading axes of {x}"), ids)?;
    Ok(vec![Ty { dtype: x.dtype, shape: ids.shape.clone() }])
}

/// Attributes of `GatherBackward`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GatherBackward {
    /// Length of the last axis of the gathered tensor.
    pub last: usize,
}

impl GatherBackward {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("gather_backward", inputs, 2)?;
        let (ids, dy) = (&inputs[0], &inputs[1]);
        let fits = ids.dtype == DType::U32 && ids.shape == dy.shape && !dy.shape.is_empty();
        expect(fits, "gather_backward", format!("u32 indices like dy, {dy}"), ids)?;
        let mut shape = dy.shape.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.last;
        }
        Ok(vec![Ty::new(dy.dtype, shape)])
    }
}

pub(super) fn top_k(k: usize, inputs: &[Ty]) -> Result<Vec<Ty>> {
    arity("top_k", inputs, 1)?;
    let x = &inputs[0];
    expect_float("top_k", x)?;
    expect(!x.shape.is_empty() && k >= 1 && k <= x.shape.last(), "top_k", format!("k between 1 and the last axis of {x}"), &k)?;
    let mut shape = x.shape.to_vec();
    if let Some(last) = shape.last_mut() {
        *last = k;
    }
    Ok(vec![Ty::new(x.dtype, shape.clone()), Ty::new(DType::U32, shape)])
}
