//! TF32: an f32 rounded to 10 mantissa bits, what a tensor core reads of an f32 operand. The code is the upper 19 bits.
//!
//! A compute dtype: memory holds the f32. Rounding is to nearest even (the conversion of cuBLAS and CUTLASS is to
//! nearest, ties away; the hardware alone truncates). NaN: quiet, sign and upper payload bits kept. Free of branches: a
//! loop over these functions becomes vector code.

use super::minifloat::{F32_INF, F32_MAGNITUDE, Layout};
use crate::dtype::{DType, Overflow};

const LAYOUT: Layout = Layout::of(DType::Tf32);

/// Code of `x`, rounded to nearest even.
#[inline(always)]
pub fn encode(overflow: Overflow, x: f32) -> u32 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode(overflow, a))
}

/// Code of `x`, rounded up in magnitude if `random` says so; see [`super::encode_stochastic`].
#[inline(always)]
pub fn encode_stochastic(overflow: Overflow, x: f32, random: u32) -> u32 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode_stochastic(overflow, a, random))
}

/// Value of a code; exact.
#[inline(always)]
pub fn decode(code: u32) -> f32 {
    f32::from_bits(code << 13)
}

/// `x` rounded to the grid of the format, overflowing to infinity.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    decode(encode(DType::Tf32.overflow(), x))
}

#[inline(always)]
fn signed(x: f32, a: u32, finite: u32) -> u32 {
    let code = if a > F32_INF { LAYOUT.nan_with_payload(a) } else { finite };
    code | LAYOUT.sign(x.to_bits())
}
