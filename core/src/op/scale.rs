//! Scales that lie beside quantized tensors: one for the tensor, or one for each block of [`MX_BLOCK`] elements along
//! an axis.

use crate::dtype::DType;
use crate::shape::Ty;

/// Elements that share one E8M0 scale in the OCP Microscaling formats.
pub const MX_BLOCK: usize = 32;

/// Along which axis of a stored matrix the elements of a block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockAxis {
    /// 1 x 32: along a stored row.
    Last,
    /// 32 x 1: down a stored column.
    SecondLast,
}

impl BlockAxis {
    /// Shape of the scales of a matrix [rows, columns]; the last block of a row or column may be short.
    pub const fn scales_shape(self, rows: usize, columns: usize) -> [usize; 2] {
        match self {
            BlockAxis::Last => [rows, columns.div_ceil(MX_BLOCK)],
            BlockAxis::SecondLast => [rows.div_ceil(MX_BLOCK), columns],
        }
    }
}

/// Dequantization scale of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperandScale {
    /// The stored values are the values.
    None,
    /// One f32 `scale_inv` for the tensor.
    Tensor,
    /// One E8M0 scale for each block of [`MX_BLOCK`] elements along an axis.
    Blocks(BlockAxis),
}

/// Type of the scale operand of a quantized tensor.
pub fn scale_type(scale: OperandScale, t: &Ty) -> Ty {
    match scale {
        OperandScale::None | OperandScale::Tensor => Ty::scalar(DType::F32),
        OperandScale::Blocks(axis) => {
            let mut shape = t.shape.to_vec();
            let at = match axis {
                BlockAxis::Last => shape.len().checked_sub(1),
                BlockAxis::SecondLast => shape.len().checked_sub(2),
            };
            if let Some(n) = at.map(|at| &mut shape[at]) {
                *n = n.div_ceil(MX_BLOCK);
            }
            Ty::new(DType::E8m0, shape)
        }
    }
}
