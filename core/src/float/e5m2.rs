//! OCP E5M2: the upper half of a binary16, with its infinities; largest value 57344.
//!
//! Encoding NaN: 0x7E with the sign kept, whatever the payload. Decoding NaN: the canonical f32 NaN of the same sign.
//! Under `Ieee` a number of 61440 (the tie included) and more becomes infinity; under `Saturate` it and infinity become
//! 57344. Free of branches: a loop over these functions becomes vector code.

use super::minifloat::{F32_INF, F32_MAGNITUDE, F32_NAN, Layout};
use crate::dtype::{DType, Overflow};

const LAYOUT: Layout = Layout::of(DType::E5m2);

/// Code of `x`, rounded to nearest even.
#[inline(always)]
pub fn encode(overflow: Overflow, x: f32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode(overflow, a))
}

/// Code of `x`, rounded up in magnitude if `random` says so; see [`super::encode_stochastic`].
#[inline(always)]
pub fn encode_stochastic(overflow: Overflow, x: f32, random: u32) -> u8 {
    let a = x.to_bits() & F32_MAGNITUDE;
    signed(x, a, LAYOUT.encode_stochastic(overflow, a, random))
}

/// Value of a code; exact.
#[inline(always)]
pub fn decode(code: u8) -> f32 {
    let magnitude = LAYOUT.magnitude(u32::from(code));
    let sign = (u32::from(code) ^ magnitude) << 24;
    let bits = if magnitude > LAYOUT.over_code() { F32_NAN } else { LAYOUT.decode_ieee(magnitude) };
    f32::from_bits(bits | sign)
}

/// `x` rounded to the grid of the format, saturating.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    decode(encode(DType::E5m2.overflow(), x))
}

#[inline(always)]
fn signed(x: f32, a: u32, finite: u32) -> u8 {
    let code = if a > F32_INF { LAYOUT.nan_with_payload(F32_NAN) } else { finite };
    (code | LAYOUT.sign(x.to_bits())) as u8
}
