//! `Reduce`: sum, mean, maximum or sum of squares over axes. f32 accumulation, one rounding on store. CPU kernel:
//! `cpu/reduce.rs`.

use super::{CastClass, arity, expect, expect_float, expect_round};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{Shape, Ty};

/// How values combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// Sum.
    Sum,
    /// Sum divided by the number of elements.
    Mean,
    /// Largest; NaN if any is NaN.
    Max,
    /// Sum of squares.
    SumSq,
}

/// Attributes of `Reduce`. Input `x`; output `y` without the reduced axes (length 1 where `keep`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reduce {
    /// How values combine.
    pub kind: ReduceKind,
    /// Axes to reduce, ascending.
    pub axes: Vec<usize>,
    /// Keep reduced axes with length 1.
    pub keep: bool,
    /// Storage dtype of the output.
    pub out: DType,
    /// The result takes the values of this narrower dtype though `out` is f32: what storing it so and widening it would
    /// give.
    pub round: Option<DType>,
}

impl Reduce {
    /// Sums accumulate and store f32 under autocast; means and maxima keep their dtype.
    pub(super) fn class(&self) -> CastClass {
        match self.kind {
            ReduceKind::Sum | ReduceKind::SumSq => CastClass::F32,
            ReduceKind::Mean | ReduceKind::Max => CastClass::Keep,
        }
    }

    pub(super) fn infer(&self, inputs: &[Ty]) -> Result<Vec<Ty>> {
        arity("reduce", inputs, 1)?;
        let x = &inputs[0];
        expect_float("reduce", x)?;
        expect_round("reduce", self.round, self.out)?;
        let sorted = self.axes.windows(2).all(|w| w[0] < w[1]) && self.axes.last().is_none_or(|&a| a < x.shape.len());
        expect(sorted, "reduce", format!("ascending axes of {x}"), &format!("{:?}", self.axes))?;
        let shape: Vec<usize> = (0..x.shape.len())
            .filter(|i| self.keep || !self.axes.contains(i))
            .map(|i| if self.axes.contains(&i) { 1 } else { x.shape[i] })
            .collect();
        Ok(vec![Ty { dtype: self.out, shape: Shape::from(shape) }])
    }
}
