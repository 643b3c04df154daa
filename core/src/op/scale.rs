//! Scales that lie beside quantized tensors: one for the tensor, or one for each block of [`MX_BLOCK`] elements along
//! an axis.

use crate::dtype::DType;
use crate::shape::Ty;

/// Elements that share one E8M0 scale in the OCP Microscaling formats.
pub const MX_BLOCK: usize = 32;

/// Dequantization scale of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperandScale {
    /// The stored values are the values.
    None,
    /// One f32 `scale_inv` for the tensor.
    Tensor,
    /// One E8M0 scale per 32 elements along the last stored axis.
    Block32Last,
    /// One E8M0 scale per 32 elements along the first stored axis (of the matrix).
    Block32First,
}

/// Type of the scale operand of a quantized tensor.
pub fn scale_type(scale: OperandScale, t: &Ty) -> Ty {
    match scale {
        OperandScale::None | OperandScale::Tensor => Ty::scalar(DType::F32),
        OperandScale::Block32Last => {
            let mut s = t.shape.to_vec();
            if let Some(last) = s.last_mut() {
                *last = last.div_ceil(MX_BLOCK);
            }
            Ty::new(DType::E8m0, s)
        }
        OperandScale::Block32First => {
            let mut s = t.shape.to_vec();
            if let Some(first) = s.len().checked_sub(2).map(|i| &mut s[i]) {
                *first = first.div_ceil(MX_BLOCK);
            }
            Ty::new(DType::E8m0, s)
        }
    }
}
