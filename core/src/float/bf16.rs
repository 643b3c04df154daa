//! bfloat16: the upper half of a binary32.
//!
//! Encoding NaN: quiet, sign and upper payload bits kept. Decoding is a shift and nothing else, so a signaling NaN
//! stays signaling (PyTorch does the same, `half` quiets it). Free of branches: a loop over these functions becomes
//! vector code.

use super::minifloat::{F32_INF, F32_MAGNITUDE, Layout};
use crate::dtype::{DType, Overflow};

const LAYOUT: Layout = Layout::of(DType::Bf16);

/// Code of `x`, rounded to nearest even.
#[inline(always)]
pub fn encode(overflow: Overflow, x: f32) -> u16 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode(overflow, a))
}

/// Code of `x`, rounded up in magnitude if `random` says so; see [`super::encode_stochastic`].
#[inline(always)]
pub fn encode_stochastic(overflow: Overflow, x: f32, random: u32) -> u16 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode_stochastic(overflow, a, random))
}

/// Value of a code; exact.
#[inline(always)]
pub fn decode(code: u16) -> f32 {
    f32::from_bits(u32::from(code) << 16)
}

/// `x` rounded to the grid of the format, overflowing to infinity.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    decode(encode(DType::Bf16.overflow(), x))
}

#[inline(always)]
fn signed(x: f32, a: u32, finite: u32) -> u16 {
    let code = if a > F32_INF { LAYOUT.nan_with_payload(a) } else { finite };
    (code | LAYOUT.sign(x.to_bits())) as u16
}
