//! What kernels ask of the operands of a matmul.

use mantissa_core::DType;
use mantissa_core::op::matmul::MatMul;
use mantissa_core::op::scale::{BlockAxis, OperandScale, scale_type};
use mantissa_core::shape::Ty;

/// Bytes of the vectors that kernels load.
pub(super) const VECTOR: usize = 16;

/// Scales of one of `batch` matrices of operand `i`, if it has them by blocks.
pub(super) fn scale_stride(m: &MatMul, i: usize, t: &Ty, batch: usize) -> usize {
    match m.scales[i] {
        OperandScale::None | OperandScale::Tensor => 0,
        OperandScale::Blocks(_) => scale_type(m.scales[i], t).shape.numel() / batch.max(1),
    }
}

/// Whether the kernel rounds elements of this operand to tf32.
pub(super) fn tf32(m: &MatMul, t: &Ty) -> u32 {
    u32::from(m.compute == DType::Tf32 && t.dtype == DType::F32)
}

/// Elements of a packed word.
pub(super) fn per_word(dtype: DType) -> usize {
    size_of::<u32>() / dtype.size_bytes()
}

/// Every row of the stored matrices starts at a vector.
pub(super) fn whole_vectors(t: &Ty) -> bool {
    (t.shape.last() * t.dtype.size_bytes()).is_multiple_of(VECTOR)
}

/// Every row of the stored matrices is whole vec4s.
pub(super) fn whole_vec4s(t: &Ty) -> u32 {
    u32::from(t.shape.last().is_multiple_of(4))
}

/// Number of an operand's scale in the kernels.
pub(super) fn scale_code(s: OperandScale) -> u32 {
    match s {
        OperandScale::None => 0,
        OperandScale::Tensor => 1,
        OperandScale::Blocks(BlockAxis::Last) => 2,
        OperandScale::Blocks(BlockAxis::SecondLast) => 3,
    }
}
