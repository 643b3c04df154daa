//! Moving elements without arithmetic: reshape, permute, concat, slice. CPU kernels: `cpu/permute.rs`, `cpu/concat.rs`.

use super::{arity, expect};
use crate::error::{Error, Result};
use crate::shape::{Shape, Ty};

pub(super) fn reshape(shape: &Shape, inputs: &[Ty]) -> Result<Vec<Ty>> {
    arity("reshape", inputs, 1)?;
    let numel = shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis));
    let fits = numel == Some(inputs[0].shape.numel());
    expect(fits, "reshape", format!("as many elements as {shape} has"), &inputs[0])?;
    Ok(vec![Ty { dtype: inputs[0].dtype, shape: shape.clone() }])
}

pub(super) fn permute(axes: &[usize], inputs: &[Ty]) -> Result<Vec<Ty>> {
    arity("permute", inputs, 1)?;
    let x = &inputs[0];
    let mut seen = axes.to_vec();
    seen.sort_unstable();
    let ok = seen.iter().copied().eq(0..x.shape.len());
    expect(ok, "permute", format!("a permutation of the {} axes of {x}", x.shape.len()), &format!("{axes:?}"))?;
    Ok(vec![Ty::new(x.dtype, axes.iter().map(|&a| x.shape[a]).collect::<Vec<_>>())])
}

pub(super) fn concat(axis: usize, inputs: &[Ty]) -> Result<Vec<Ty>> {
    let first = inputs.first().ok_or_else(|| Error::operand("concat", "at least one input", "none"))?;
    expect(axis < first.shape.len(), "concat", format!("an axis below {}", first.shape.len()), &axis)?;
    let mut total = 0;
    for t in inputs {
        let mut other = t.shape.to_vec();
        expect(other.len() == first.shape.len(), "concat", format!("inputs like {first}"), t)?;
        total += other[axis];
        other[axis] = first.shape[axis];
        let fits = t.dtype == first.dtype && *other == *first.shape;
        expect(fits, "concat", format!("inputs like {first} but for axis {axis}"), t)?;
    }
    let mut shape = first.shape.to_vec();
    shape[axis] = total;
    Ok(vec![Ty::new(first.dtype, shape)])
}

/// Attributes of `Slice`: `x[.., start..end, ..]` on one axis. Backward: input `dy`, output [.., full, ..] with zeros
/// outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// First index taken.
    pub start: usize,
    /// One past the last index taken.
    pub end: usize,
    /// Length of the axis in the input.
    pub full: usize,
}

impl Slice {
    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("slice", inputs, 1)?;
        let x = &inputs[0];
        let ok = self.axis < x.shape.len() && self.start < self.end && self.end <= self.full && x.shape[self.axis] == self.full;
        expect(ok, "slice", format!("{}..{} inside axis {} of {x}", self.start, self.end, self.axis), &self.full)?;
        let mut shape = x.shape.to_vec();
        shape[self.axis] = self.end - self.start;
        Ok(vec![Ty::new(x.dtype, shape)])
    }

    pub(super) fn infer_backward(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("slice_backward", inputs, 1)?;
        let dy = &inputs[0];
        let inside = self.start < self.end && self.end <= self.full;
        let ok = inside && self.axis < dy.shape.len() && dy.shape[self.axis] == self.end - self.start;
        let expected = format!("the length of {}..{} inside {} on axis {}", self.start, self.end, self.full, self.axis);
        expect(ok, "slice_backward", expected, dy)?;
        let mut shape = dy.shape.to_vec();
        shape[self.axis] = self.full;
        Ok(vec![Ty::new(dy.dtype, shape)])
    }
}
